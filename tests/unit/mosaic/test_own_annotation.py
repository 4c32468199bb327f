"""What cells bring along: batches, samples and donors named by a column, types, barcodes that meet, panels by batch."""

from __future__ import annotations

import warnings

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from multivi_nf.data.source import source_of
from multivi_nf.errors import InputError
from multivi_nf.inputs.samplesheet import Sample
from multivi_nf.mosaic.read import read_mosaic
from multivi_nf.testing.parts import ENSG, PEAKS, build, part, sample

CELLS = [f"{'ACGT'[i % 4] * 5}{'ACGT'[i // 4 % 4] * 5}{'ACGT'[i // 16 % 4] * 5}-1" for i in range(40)]
HALVES = ["x"] * 20 + ["y"] * 20


def named(row: Sample, **naming: str) -> Sample:
    return Sample(row.sample, row.batch, row.files, row.metadata, naming)


def joint(tmp_path, obs, naming, modalities=("rna",), **metadata):
    row = named(sample("atlas", modalities, **metadata), **naming)
    files = [part(tmp_path, "atlas", "rna", CELLS, ENSG, obs=obs)[0]]
    return build(tmp_path, files, [row])


def test_a_batch_column(tmp_path):
    mosaic, _ = joint(tmp_path, {"batch_given": HALVES}, {"batch_column": "batch"})
    assert mosaic.obs["batch"].tolist() == HALVES
    assert set(mosaic.obs["sample"]) == {"atlas"}
    assert mosaic.obs_names[0] == f"atlas:{CELLS[0]}"


def test_a_sample_column_gives_samples_batches_and_names(tmp_path):
    mosaic, _ = joint(tmp_path, {"library": HALVES}, {"sample_column": "library"})
    assert mosaic.obs["sample"].tolist() == HALVES
    assert mosaic.obs["batch"].tolist() == HALVES
    assert mosaic.obs_names.tolist() == [f"{s}:{c}" for s, c in zip(HALVES, CELLS)]


def test_sample_and_batch_columns(tmp_path):
    kit = ["v2", "v3"] * 20
    mosaic, _ = joint(tmp_path, {"lib": HALVES, "kit": kit}, {"sample_column": "lib", "batch_column": "kit"})
    assert mosaic.obs["sample"].tolist() == HALVES
    assert mosaic.obs["batch"].tolist() == kit


def test_cells_without_a_batch_keep_the_rows_and_are_told(tmp_path):
    mosaic, record = joint(tmp_path, {"kit": ["v2"] * 30 + [None] * 10}, {"batch_column": "kit"})
    assert mosaic.obs["batch"].tolist() == ["v2"] * 30 + ["atlas"] * 10
    assert any("10 of 40 cells have no value in 'kit'" in note for note in record["notes"])


def test_a_column_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="batch_column names 'kti', which its cells have not"):
        joint(tmp_path, {"kit": HALVES}, {"batch_column": "kti"})


def test_two_rows_of_one_sample(tmp_path):
    rows = [named(sample(name, ["rna"]), sample_column="lib") for name in ("a", "b")]
    files = [part(tmp_path, name, "rna", CELLS, ENSG, obs={"lib": ["s"] * 40})[0] for name in ("a", "b")]
    with pytest.raises(InputError, match="sample 's' is in the rows 'a', 'b', with 40 barcodes in common"):
        build(tmp_path, files, rows)


@pytest.mark.parametrize(("donor", "want"), [("who", HALVES), ("D1", ["D1"] * 40)])
def test_a_donor_is_a_column_or_a_name(tmp_path, donor, want):
    mosaic, _ = joint(tmp_path, {"who": HALVES}, {}, donor=donor)
    assert mosaic.obs["donor"].tolist() == want


TYPES = {
    "int": (np.arange(40) % 3, "i"),
    "bool": (np.arange(40) % 2 == 0, "b"),
    "float": (np.linspace(0, 1, 40), "f"),
    "whole floats": (np.arange(40.0), "f"),
    "Int64": (pd.array([None, *range(39)], dtype="Int64"), "Int64"),
    "boolean": (pd.array([None, *([True, False] * 19), True], dtype="boolean"), "boolean"),
    "ordered": (pd.Categorical(HALVES, ["y", "x"], ordered=True), "ordered"),
    "text": (pd.Categorical(["2024-01-02"] * 40), "text"),
}


@pytest.mark.parametrize("name", TYPES)
def test_types_travel_to_the_end(tmp_path, name):
    values, kind = TYPES[name]
    mosaic, _ = joint(tmp_path, {"v": values}, {})
    mosaic.write_h5mu(tmp_path / "again.h5mu")
    for read in (mosaic.obs["v"], read_mosaic(tmp_path / "again.h5mu").obs["v"]):
        if kind == "ordered":
            assert read.cat.ordered
            assert read.cat.categories.tolist() == ["y", "x"]
        elif kind != "text":
            assert kind in (read.dtype.kind, str(read.dtype))
        assert read.isna().tolist() == pd.isna(values).tolist()
        assert [str(v) for v in read.dropna()] == [str(v) for v in pd.Series(values).dropna()]


def test_types_with_cells_of_another_sample(tmp_path):
    obs = {"leiden": np.arange(40) % 3, "treated": np.arange(40) % 2 == 0}
    files = [part(tmp_path, "a", "rna", CELLS, ENSG, obs=obs)[0], part(tmp_path, "b", "rna", CELLS, ENSG)[0]]
    mosaic, _ = build(tmp_path, files, [sample("a", ["rna"]), sample("b", ["rna"])])
    assert str(mosaic.obs["leiden"].dtype) == "Int64"
    assert str(mosaic.obs["treated"].dtype) == "boolean"
    assert mosaic.obs["leiden"].isna().sum() == 40


def test_the_sheets_column_and_the_cells_own(tmp_path):
    mosaic, record = joint(tmp_path, {"condition": HALVES}, {}, condition="ctl")
    assert set(mosaic.obs["condition"]) == {"ctl"}
    assert mosaic.obs["condition_given"].tolist() == HALVES
    assert any("condition_given" in note for note in record["notes"])


@pytest.mark.parametrize("other", [[c[:-2] for c in CELLS], [f"s_{c}" for c in CELLS], [f"{c}-0" for c in CELLS]])
def test_barcodes_of_two_modalities_meet(tmp_path, other):
    files = [part(tmp_path, "a", "rna", CELLS, ENSG)[0], part(tmp_path, "a", "protein", other, ["CD3", "CD4"])[0]]
    mosaic, record = build(tmp_path, files, [sample("a", ["rna", "protein"])])
    assert mosaic.obs["modality"].tolist() == ["rna+protein"] * 40
    assert any("40 protein barcodes meet" in note for note in record["notes"])


def test_other_wells_stay_apart(tmp_path):
    other = [c.replace("-1", "-2") for c in CELLS]
    files = [part(tmp_path, "a", "rna", CELLS, ENSG)[0], part(tmp_path, "a", "protein", other, ["CD3", "CD4"])[0]]
    mosaic, _ = build(tmp_path, files, [sample("a", ["rna", "protein"])])
    assert mosaic.n_obs == 80


def test_two_disjoint_halves(tmp_path):
    files = [
        part(tmp_path, "a", "rna", CELLS, ENSG)[0],
        part(tmp_path, "a", "atac", CELLS[:20], PEAKS)[0],
        part(tmp_path, "a", "protein", CELLS[20:], ["CD3", "CD4"])[0],
    ]
    mosaic, _ = build(tmp_path, files, [sample("a", ["rna", "atac", "protein"])], partial_cells="keep")
    assert mosaic.obs["modality"].value_counts().to_dict() == {"rna+atac": 20, "rna+protein": 20}


def test_proteins_under_two_spellings_are_one(tmp_path):
    one, x = part(tmp_path, "a", "protein", CELLS, ["CD3", "CD4", "CD19"], mean=5)
    two, y = part(tmp_path, "b", "protein", CELLS, ["CD4_TotalSeqB", "CD3_TotalSeqB", "CD56"], mean=5)
    mosaic, record = build(tmp_path, [one, two], [sample("a", ["protein"]), sample("b", ["protein"])])
    protein = mosaic.mod["protein"]
    assert protein.var_names.tolist() == ["CD3", "CD4", "CD19", "CD56"]
    np.testing.assert_array_equal(protein.X.toarray()[:40, 0], x["CD3"])
    np.testing.assert_array_equal(protein.X.toarray()[40:, 0], y["CD3_TotalSeqB"])
    assert protein.uns["panel"].loc["b"].tolist() == [True, True, False, True]  # CD19 stays, outside b's panel
    assert any("CD3 = CD3_TotalSeqB" in note for note in record["notes"])


def test_the_panel_of_each_batch_of_one_file(tmp_path):
    path, _ = part(tmp_path, "a", "protein", CELLS, ["CD3", "CD4"], mean=5, obs={"kit": HALVES})
    data = ad.read_h5ad(path)
    dense = data.X.toarray()
    dense[20:, 1] = 0
    data.X = sparse.csr_matrix(dense)
    data.write_h5ad(path)
    mosaic, _ = build(tmp_path, [path], [named(sample("a", ["protein"]), batch_column="kit")])
    panel = mosaic.mod["protein"].uns["panel"]
    assert panel.loc["x"].tolist() == [True, True]
    assert panel.loc["y"].tolist() == [True, False]


HUMAN = {"ENSG00000141510": "TP53", "ENSG00000010610": "CD4", "ENSG00000156738": "MS4A1", "ENSG00000105369": "CD79A"}


def test_ids_in_one_sample_and_symbols_in_the_other(tmp_path):
    one, x = part(tmp_path, "a", "rna", CELLS, list(HUMAN), mean=5)
    two, y = part(tmp_path, "b", "rna", CELLS, list(HUMAN.values())[::-1], mean=5)
    mosaic, _ = build(tmp_path, [one, two], [sample("a", ["rna"]), sample("b", ["rna"])])
    rna = mosaic.mod["rna"]
    assert rna.var_names.tolist() == list(HUMAN)
    np.testing.assert_array_equal(rna.X.toarray()[:40], x)
    np.testing.assert_array_equal(rna.X.toarray()[40:], y[list(HUMAN.values())])


def test_ids_meet_symbols_through_a_third_sample(tmp_path):
    genes = [f"ENSMUSG{n:011d}" for n in range(12)]
    names = [f"Gene{n}" for n in range(12)]
    parts = [
        part(tmp_path, "a", "rna", CELLS, genes, mean=5),
        part(tmp_path, "b", "rna", CELLS, names, mean=5),
        part(tmp_path, "c", "rna", CELLS, genes, symbols=names, mean=5),
    ]
    mosaic, _ = build(tmp_path, [path for path, _ in parts], [sample(n, ["rna"]) for n in "abc"])
    assert mosaic.mod["rna"].n_vars == 12
    np.testing.assert_array_equal(mosaic.mod["rna"].X.toarray(), np.vstack([dense for _, dense in parts]))


def test_losses_are_told(tmp_path):
    files = [
        part(tmp_path, "a", "rna", CELLS, ENSG)[0],
        part(tmp_path, "b", "rna", CELLS, [*ENSG[:30], *(f"ENSG9{n:010d}" for n in range(20))])[0],
    ]
    _, record = build(tmp_path, files, [sample("a", ["rna"]), sample("b", ["rna"])], min_cells_fraction=0.7)
    losses = record["features"]["rna"]["losses"]
    assert (losses["given"], losses["shared"]) == (50, 30)
    [warning] = record["warnings"]
    assert warning.startswith("50 genes in the smallest sample → 30 shared by all samples → ")
    assert "--min_cells_fraction 0.7" in warning


def test_a_loss_by_the_filter_alone_is_told(tmp_path):
    path, dense = part(tmp_path, "a", "atac", CELLS, PEAKS, mean=0.3)
    _, record = build(tmp_path, [path], [sample("a", ["atac"])], min_cells_fraction=0.3)
    kept = int(((dense > 0).sum() >= 12).sum())
    seen = int(((dense > 0).sum() > 0).sum())
    assert kept < 0.75 * seen
    [warning] = record["warnings"]
    assert warning.startswith(f"40 peaks in the smallest sample → {kept} detected in enough cells (of {seen} with")


def test_small_losses_are_not(tmp_path):
    path, _ = part(tmp_path, "a", "rna", CELLS, ENSG[:50], mean=5)
    assert build(tmp_path, [path], [sample("a", ["rna"])])[1]["warnings"] == []


# --- an h5mu of someone else ---


def foreign(tmp_path, protein, batch, names=("CD3", "CD4", "CD19")):
    cells = [f"c{i}" for i in range(len(protein))]
    rna = ad.AnnData(sparse.csr_matrix(np.random.default_rng(0).poisson(2, (len(cells), 9)).astype(np.float32)))
    adt = ad.AnnData(sparse.csr_matrix(np.asarray(protein, dtype=np.float32)))
    for data in (rna, adt):
        data.obs_names = cells
    rna.var_names, adt.var_names = [f"g{i}" for i in range(9)], list(names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = mudata.MuData({"rna": rna, "protein": adt})
        made.obs["batch"] = batch
        made.write(tmp_path / "m.h5mu")
    return tmp_path / "m.h5mu", made


def proteins(seed=0):
    return np.random.default_rng(seed).poisson(5, (40, 3)) + 1


def test_a_protein_without_counts_in_a_batch_was_not_in_its_panel(tmp_path):
    dense = proteins()
    dense[20:, 2] = 0
    path, made = foreign(tmp_path, dense, HALVES)
    with pytest.warns(UserWarning, match="not in its panel"):
        panel = read_mosaic(path).mod["protein"].uns["panel"]
    assert panel.loc["x"].tolist() == [True] * 3
    assert panel.loc["y"].tolist() == [True, True, False]
    assert source_of(made).panel.loc["y"].tolist() == [True, True, False]
    assert source_of(path).panel.loc["y"].tolist() == [True, True, False]


def test_a_rare_protein_in_few_cells_stays_measured(tmp_path):
    dense = proteins()
    dense[35:, 2] = 0
    path, made = foreign(tmp_path, dense, ["x"] * 35 + ["y"] * 5)
    assert read_mosaic(path).mod["protein"].uns["panel"].to_numpy().all()
    assert source_of(made).panel is None


def test_a_batch_without_any_protein_count_was_not_stained(tmp_path):
    dense = proteins()
    dense[20:] = 0
    path, _ = foreign(tmp_path, dense, HALVES)
    with pytest.warns(UserWarning, match="not stained"):
        mosaic = read_mosaic(path)
    assert mosaic.mod["protein"].n_obs == 20
    assert mosaic.obs["has_protein"].tolist() == [True] * 20 + [False] * 20
    assert mosaic.obs["modality"].tolist() == ["rna+protein"] * 20 + ["rna"] * 20


@pytest.mark.parametrize("control", ["IgG1", "Mouse-IgG2a isotype", "HTO-1", "unmapped"])
def test_controls_and_tags_leave_the_model(tmp_path, control):
    path, _ = foreign(tmp_path, proteins(), HALVES, ("CD3", control, "anti-mouse IgM"))
    with pytest.warns(UserWarning, match="left out of the model"):
        assert read_mosaic(path).mod["protein"].var_names.tolist() == ["CD3", "anti-mouse IgM"]


def test_cells_without_a_batch_are_named(tmp_path):
    path, _ = foreign(tmp_path, proteins(), ["x"] * 30 + [None] * 10)
    with pytest.warns(UserWarning, match="10 cells have no batch"):
        assert read_mosaic(path).obs["batch"].value_counts().to_dict() == {"x": 30, "unknown": 10}


def test_columns_of_the_modalities_travel_and_clashes_get_a_suffix(tmp_path):
    _, made = foreign(tmp_path, proteins(), HALVES)
    made.mod["rna"].obs["leiden"] = np.arange(40) % 4
    made.obs["cluster"] = HALVES
    made.write(tmp_path / "m.h5mu")
    with pytest.warns(UserWarning, match="cluster_given"):
        obs = read_mosaic(tmp_path / "m.h5mu").obs
    assert obs["leiden"].tolist() == (np.arange(40) % 4).tolist()
    assert obs["cluster_given"].tolist() == HALVES


@pytest.mark.parametrize("words", [("True", "False"), ("TRUE", "FALSE"), (1, 0), (True, False)])
def test_a_panel_in_words(words):
    from multivi_nf.data.source import panel_table

    class Proteins:
        var = pd.DataFrame(index=["CD3", "CD4"])

    table = pd.DataFrame({"CD4": [words[0], words[1]], "CD3": [words[0]] * 2}, index=["x", "y"])
    panel = panel_table(table, {"protein": Proteins})
    assert panel["CD4"].tolist() == [True, False]
    assert panel["CD3"].tolist() == [True, True]
    with pytest.raises(InputError, match="'perhaps', which is neither true nor false"):
        panel_table(table.replace({words[1]: "perhaps"}).astype(object), {"protein": Proteins})
