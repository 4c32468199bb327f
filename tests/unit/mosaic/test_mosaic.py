from __future__ import annotations

import json
import warnings

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from multivi_nf.commands.mosaic import command
from multivi_nf.errors import InputError
from multivi_nf.mosaic.build import MosaicRules, build_mosaic
from multivi_nf.mosaic.features import cells_needed, check_shared, reference_features
from multivi_nf.mosaic.parts import Part
from multivi_nf.testing.parts import ENSG, PEAKS, build, part, sample


@pytest.fixture
def three(tmp_path):
    """Paired sample (cells 0-29 RNA, 10-39 ATAC), an RNA-only and a protein+RNA sample."""
    cells = [f"c{i}" for i in range(40)]
    files, dense = {}, {}
    for key, arguments in {
        ("p", "rna"): ("p", "rna", cells[:30], ENSG[:50]),
        ("p", "atac"): ("p", "atac", cells[10:], PEAKS),
        ("r", "rna"): ("r", "rna", cells[:25], ENSG[20:70][::-1]),
        ("q", "rna"): ("q", "rna", cells[:15], ENSG[10:60]),
        ("q", "protein"): ("q", "protein", cells[:20], ["CD3", "CD4", ENSG[30], "IgG1"]),
    }.items():
        isotype = [False, False, False, True] if key[1] == "protein" else None
        files[key], dense[key] = part(tmp_path, *arguments, isotype=isotype)
    samples = [
        sample("p", ["rna", "atac"], "b1", condition="ctl"),
        sample("r", ["rna"], "b1", condition="stim"),
        sample("q", ["rna", "protein"], condition=""),
    ]
    return tmp_path, files, dense, samples


def test_every_count_is_where_it_belongs(three):
    folder, files, dense, samples = three
    mosaic, record = build(folder, list(files.values()), samples, min_cells_fraction=0)
    assert list(mosaic.mod) == ["rna", "atac", "protein"]
    genes = [g for g in ENSG[:50] if g in ENSG[20:60]]
    rna = mosaic.mod["rna"]
    assert rna.var_names.tolist() == genes
    expected = pd.concat([dense[s, "rna"][genes] for s in ("p", "r", "q")])
    assert rna.obs_names.tolist() == expected.index.tolist()
    np.testing.assert_array_equal(rna.X.toarray(), expected)
    atac = mosaic.mod["atac"]
    np.testing.assert_array_equal(atac.layers["counts"].toarray(), dense["p", "atac"][atac.var_names])
    np.testing.assert_array_equal(atac.X.toarray(), dense["p", "atac"][atac.var_names] > 0)
    assert atac.X.dtype == np.int8
    protein = mosaic.mod["protein"]
    assert protein.var_names.tolist() == ["CD3", "CD4", ENSG[30]]  # a namesake of a gene stays; the control does not
    np.testing.assert_array_equal(protein.X.toarray(), dense["q", "protein"][protein.var_names])
    for data in mosaic.mod.values():
        assert data.X.has_canonical_format
        assert isinstance(data.X, sparse.csr_matrix)
    assert record["features"]["rna"] | {"cells": 70, "kept": len(genes)} == record["features"]["rna"]
    assert json.loads(mosaic.uns["multivi_nf"]) == record
    assert record["counting_strategy"] == "fragment"


def test_absent_cells_are_absent_and_obs_says_so(three):
    folder, files, _dense, samples = three
    mosaic, _record = build(folder, list(files.values()), samples)
    obs = mosaic.obs
    for modality in ("rna", "atac", "protein"):
        np.testing.assert_array_equal(obs[f"has_{modality}"], obs.index.isin(mosaic.mod[modality].obs_names))
    assert obs.loc["p:c0", "modality"] == "rna"
    assert obs.loc["p:c15", "modality"] == "rna+atac"
    assert obs.loc["p:c35", "modality"] == "atac"
    assert obs.loc["q:c3", "modality"] == "rna+protein"
    assert obs.loc["q:c18", "modality"] == "protein"
    assert obs["sample"].cat.categories.tolist() == ["p", "r", "q"]
    assert obs["batch"].cat.categories.tolist() == ["b1", "q"]
    assert obs.loc["r:c1", "condition"] == "stim"
    assert obs.loc["q:c1", "condition"] is np.nan or pd.isna(obs.loc["q:c1", "condition"])
    assert np.isnan(obs.loc["p:c0", "atac_n_counts"])
    assert len(obs) == 40 + 25 + 20


def test_the_same_bytes_in_any_order_of_files(three):
    folder, files, _dense, samples = three
    inputs = list(files.values())
    build_mosaic(inputs, samples, folder / "one.h5mu")
    build_mosaic(inputs[::-1], samples, folder / "two.h5mu")
    assert (folder / "one.h5mu").read_bytes() == (folder / "two.h5mu").read_bytes()


def test_other_readers_open_it(three):
    folder, files, dense, samples = three
    build_mosaic(list(files.values()), samples, folder / "m.h5mu", MosaicRules(min_cells_fraction=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = mudata.read_h5mu(folder / "m.h5mu")
        atac = mudata.read(f"{folder}/m.h5mu/mod/atac")
    assert plain.n_obs == 85
    np.testing.assert_array_equal(
        plain.mod["rna"].obs_names, [*dense["p", "rna"].index, *dense["r", "rna"].index, *dense["q", "rna"].index]
    )
    assert plain.mod["protein"].uns["panel"].loc["q"].all()
    assert not plain.mod["protein"].uns["panel"].loc["b1"].any()
    assert atac.shape == (30, 40)


def test_cells_that_a_modality_fails_go_and_those_it_does_not_hold_stay(tmp_path):
    cells = [f"c{i}" for i in range(40)]
    # RNA holds c0-c29 and fails the last five; ATAC holds c10-c39 and fails c10-c12
    rna, _ = part(tmp_path, "p", "rna", cells[:25], ENSG[:50], failed=cells[25:30])
    atac, _ = part(tmp_path, "p", "atac", cells[13:], PEAKS, failed=cells[10:13])
    alone, _ = part(tmp_path, "r", "rna", cells[:25], ENSG[:50], failed=cells[25:30])
    files, samples = [rna, atac, alone], [sample("p", ["rna", "atac"]), sample("r", ["rna"])]
    dropped, record = build(tmp_path, files, samples)
    row, other = record["samples"]
    # 10 + 10 cells are held by one side only, 3 + 5 fail in the other
    assert (row["partial"], row["partial_failed"], row["partial_not_held"], row["partial_dropped"]) == (28, 8, 20, 8)
    assert row["cells"] == {"atac": 10, "rna": 10, "rna+atac": 12}
    assert other["cells"] == {"rna": 25} and other["partial"] == 0
    gone = {f"p:c{i}" for i in (10, 11, 12, 25, 26, 27, 28, 29)}
    assert not gone & set(dropped.obs_names) and dropped.n_obs == 32 + 25
    kept, record = build(tmp_path, files, samples, partial_cells="keep")
    assert record["samples"][0]["partial_dropped"] == 0 and record["samples"][0]["partial_failed"] == 8
    assert gone <= set(kept.obs_names) and kept.n_obs == 40 + 25


def test_failed_barcodes_meet_under_another_spelling(tmp_path):
    rng = np.random.default_rng(0)
    barcodes = ["".join(rng.choice(list("ACGT"), 16)) for _ in range(40)]
    rna, _ = part(
        tmp_path, "p", "rna", [f"{b}-1" for b in barcodes[:30]], ENSG[:50], failed=[f"{b}-1" for b in barcodes[30:]]
    )
    atac, _ = part(tmp_path, "p", "atac", barcodes[5:], PEAKS, failed=barcodes[:5])
    found, record = build(tmp_path, [rna, atac], [sample("p", ["rna", "atac"])])
    assert record["samples"][0]["cells"] == {"rna+atac": 25} and record["samples"][0]["partial_dropped"] == 15
    assert found.n_obs == 25


def test_doublets_go_only_when_asked(tmp_path):
    cells = [f"c{i}" for i in range(20)]
    rna, _ = part(tmp_path, "a", "rna", cells, ENSG, obs={"rna_doublet": [True] + [False] * 19})
    atac, _ = part(tmp_path, "a", "atac", cells, PEAKS, obs={"atac_doublet": [False, True] + [False] * 18})
    samples = [sample("a", ["rna", "atac"])]
    kept, _ = build(tmp_path, [rna, atac], samples)
    assert kept.n_obs == 20
    assert kept.obs["rna_doublet"].tolist() == [True] + [False] * 19
    removed, record = build(tmp_path, [rna, atac], samples, remove_doublets=True)
    assert removed.obs_names.tolist() == [f"a:c{i}" for i in range(2, 20)]
    assert record["samples"][0]["doublets_removed"] == 2


def test_filters_look_only_at_cells_that_have_the_modality(tmp_path):
    # a quarter of the cells has ATAC: 1 % of them, not of all
    rna, _ = part(tmp_path, "a", "rna", [f"c{i}" for i in range(3000)], ENSG[:5])
    cells = [f"c{i}" for i in range(1500)]
    path, dense = part(tmp_path, "b", "atac", cells, PEAKS[:3])
    data = ad.read_h5ad(path)
    x = np.zeros((1500, 3), dtype=np.int32)
    x[:14, 0], x[:15, 1], x[:16, 2] = 1, 1, 1
    data.X = sparse.csr_matrix(x)
    data.write_h5ad(path)
    mosaic, record = build(tmp_path, [rna, path], [sample("a", ["rna"]), sample("b", ["atac"])])
    assert mosaic.mod["atac"].var_names.tolist() == PEAKS[1:3]
    assert record["features"]["atac"]["cells_needed"] == 15
    assert record["features"]["atac"]["cells_without_counts"] == 1484
    assert mosaic.mod["atac"].n_obs == 1500  # no count left, but measured


@pytest.mark.parametrize(
    ("n", "fraction", "expected"),
    [(100, 0.01, 10), (5000, 0.01, 50), (5001, 0.01, 51), (9, 0.01, 1), (9, 0.5, 5), (10, 0, 10)],
)
def test_cells_needed(n, fraction, expected):
    assert cells_needed(n, fraction) == expected


def test_fewer_than_ten_cells_of_a_modality(tmp_path):
    rna, _ = part(tmp_path, "a", "rna", [f"c{i}" for i in range(30)], ENSG)
    atac, dense = part(tmp_path, "a", "atac", [f"c{i}" for i in range(6)], PEAKS)
    mosaic, record = build(tmp_path, [rna, atac], [sample("a", ["rna", "atac"])])
    assert mosaic.mod["atac"].var_names.tolist() == dense.columns[dense.to_numpy().any(0)].tolist()
    assert any("atac has 6 cells only" in note for note in record["notes"])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(0, 29), min_size=12, max_size=30, unique=True), min_size=1, max_size=4))
def test_genes_are_the_intersection_in_the_first_samples_order(tmp_path_factory, sets):
    folder = tmp_path_factory.mktemp("m")
    cells = [f"c{i}" for i in range(12)]
    samples = [sample(f"s{i}", ["rna"]) for i in range(len(sets))]
    made = [part(folder, f"s{i}", "rna", cells, [ENSG[g] for g in genes], mean=5) for i, genes in enumerate(sets)]
    shared = [g for g in sets[0] if all(g in other for other in sets)]
    paths = [path for path, _ in made]
    if not shared:
        with pytest.raises(InputError, match="share 0 genes"):
            build(folder, paths, samples, min_shared_genes=0)
        return
    mosaic, _ = build(folder, paths, samples, min_shared_genes=0, min_cells_fraction=0)
    dense = pd.concat([frame for _, frame in made])[[ENSG[g] for g in shared]]
    kept = (dense > 0).sum() >= 10
    assert mosaic.mod["rna"].var_names.tolist() == dense.columns[kept].tolist()
    np.testing.assert_array_equal(mosaic.mod["rna"].X.toarray(), dense.loc[:, kept])


def test_symbols_meet_ids(tmp_path):
    cells = [f"c{i}" for i in range(20)]
    symbols = [f"GENE{i}" for i in range(20)]
    one, dense_one = part(tmp_path, "a", "rna", cells, ENSG[:20], symbols=[*symbols[:19], symbols[0]], mean=5)
    two, dense_two = part(tmp_path, "b", "rna", cells, symbols, mean=5)
    mosaic, record = build(tmp_path, [one, two], [sample("a", ["rna"]), sample("b", ["rna"])])
    rna = mosaic.mod["rna"]
    assert record["features"]["rna"]["by"] == "symbol"
    assert rna.var_names.tolist() == ENSG[:19]  # the id where any sample has one
    assert rna.var["symbol"].tolist() == symbols[:19]
    both = rna.X.toarray()
    np.testing.assert_array_equal(both[:20, 0], dense_one.iloc[:, 0] + dense_one.iloc[:, 19])  # two ids, one symbol
    np.testing.assert_array_equal(both[20:, 0], dense_two["GENE0"])


def test_mouse_with_human_is_named():
    with pytest.raises(InputError) as error:
        check_shared(["h", "m"], [ENSG, [f"ENSMUSG{n:011d}" for n in range(90)]], [100, 90], 0, "id", 0.5)
    for word in ("share 0 genes", "h: human", "m: mouse", ENSG[0], "ENSMUSG00000000000"):
        assert word in str(error.value)
    with pytest.raises(InputError, match="45%.* --min_shared_genes is 0.5"):
        check_shared(["a", "b"], [ENSG, ENSG[:20]], [100, 20], 9, "id", 0.5)
    check_shared(["a", "b"], [ENSG, ENSG[:20]], [100, 20], 10, "id", 0.5)


def test_peaks_must_agree_but_may_be_in_another_order(tmp_path):
    cells = [f"c{i}" for i in range(30)]
    one, dense_one = part(tmp_path, "a", "atac", cells, PEAKS)
    two, dense_two = part(tmp_path, "b", "atac", cells, PEAKS[::-1], strategy="insertion")
    three, _ = part(tmp_path, "c", "atac", cells, [*PEAKS[:-1], "chr2:1-500"])
    samples = [sample(s, ["atac"]) for s in "abc"]
    mosaic, record = build(tmp_path, [one, two], samples[:2], min_cells_fraction=0)
    expected = pd.concat([dense_one, dense_two[PEAKS]])[mosaic.mod["atac"].var_names]
    np.testing.assert_array_equal(mosaic.mod["atac"].layers["counts"].toarray(), expected)
    assert any("counted differently" in note for note in record["notes"])
    with pytest.raises(InputError) as error:
        build(tmp_path, [one, three], [samples[0], samples[2]])
    for word in ("'a'", "'c'", "39 are equal", "column fragments"):
        assert word in str(error.value)


def test_panels_are_united_and_known_per_batch(tmp_path):
    cells = [f"c{i}" for i in range(30)]
    one, dense_one = part(tmp_path, "a", "protein", cells, ["CD3", "CD4"], mean=9)
    two, dense_two = part(tmp_path, "b", "protein", cells, ["CD8", "CD3"], mean=9)
    samples = [sample("a", ["protein"]), sample("b", ["protein"])]
    mosaic, _ = build(tmp_path, [one, two], samples)
    protein = mosaic.mod["protein"]
    assert protein.var_names.tolist() == ["CD3", "CD4", "CD8"]
    expected = pd.DataFrame([[True, True, False], [True, False, True]], index=["a", "b"], columns=["CD3", "CD4", "CD8"])
    assert (protein.uns["panel"] == expected).all().all()
    np.testing.assert_array_equal(protein[:30, "CD4"].X.toarray().ravel(), dense_one["CD4"])
    assert protein[30:, "CD4"].X.nnz == 0
    with pytest.raises(InputError, match="of batch 'x' differ in proteins, e.g. 'CD4'"):
        build(tmp_path, [one, two], [sample("a", ["protein"], "x"), sample("b", ["protein"], "x")])


def test_a_rare_protein_is_judged_by_the_cells_stained_for_it(tmp_path):
    cells = [f"c{i}" for i in range(1000)]
    one, _ = part(tmp_path, "a", "protein", cells, ["CD3"], mean=9)
    two, _ = part(tmp_path, "b", "protein", cells[:40], ["CD3", "CD8"], mean=0.6)
    mosaic, _ = build(
        tmp_path, [one, two], [sample("a", ["protein"]), sample("b", ["protein"])], min_cells_fraction=0.1
    )
    assert mosaic.mod["protein"].var_names.tolist() == ["CD3", "CD8"]  # in 10 of 40, not of 1,040


def test_variable_genes_are_scanpys_of_each_sample_by_median_rank(tmp_path):
    made = [
        part(tmp_path, name, "rna", [f"c{i}" for i in range(120)], ENSG, mean=np.linspace(1, 9, 100)) for name in "ab"
    ]
    samples = [sample("a", ["rna"]), sample("b", ["rna"])]
    mosaic, record = build(tmp_path, [path for path, _ in made], samples, n_top_genes=20)
    ranks = []
    for _, dense in made:
        one = ad.AnnData(dense.astype(np.float32))
        sc.experimental.pp.highly_variable_genes(one, flavor="pearson_residuals", n_top_genes=20)
        ranks.append(one.var["highly_variable_rank"])
    ranks = pd.concat(ranks, axis=1)
    table = pd.DataFrame({"rank": ranks.median(axis=1), "lacks": -ranks.notna().sum(axis=1)}).sort_values(
        ["rank", "lacks"]
    )
    found = mosaic.mod["rna"].var
    assert len(found) == 100, "the decoder models all genes"
    # genes that tie in both columns are ordered by their variance here, and by nothing there
    ours = table[table.index.isin(found.index[found["seen_by_encoder"]])]
    np.testing.assert_array_equal(ours, table.iloc[:20])
    assert record["features"]["rna"]["unseen_by_encoder"] == 80


def test_annotation_of_inputs_and_metadata(tmp_path):
    cells = [f"c{i}" for i in range(20)]
    labels = {"cell_type": ["B"] * 10 + ["T"] * 10, "age": np.arange(20.0), "condition": "from_h5ad"}
    rna, _ = part(
        tmp_path, "a", "rna", cells[:15], ENSG, obs={k: v[:15] if len(v) == 20 else v for k, v in labels.items()}
    )
    atac, _ = part(tmp_path, "a", "atac", cells, PEAKS, obs=labels | {"cell_type": ["B"] * 9 + ["T"] * 11})
    mosaic, record = build(tmp_path, [rna, atac], [sample("a", ["rna", "atac"], condition="from_sheet")])
    assert mosaic.obs.loc["a:c9", "cell_type"] == "B"  # rna says so first
    assert mosaic.obs.loc["a:c17", "cell_type"] == "T"  # only atac knows
    assert mosaic.obs["age"].tolist() == list(np.arange(20.0))
    assert set(mosaic.obs["condition"]) == {"from_sheet"}
    assert any("'cell_type' differs between the modalities of 1 cells" in note for note in record["notes"])
    assert any("'condition' of the samplesheet is used" in note for note in record["notes"])


def test_what_does_not_fit_is_refused(three):
    folder, files, _dense, samples = three
    inputs = list(files.values())
    cases = [
        (inputs[1:], samples, "'p' has rna in the samplesheet, but no file"),
        ([*inputs, inputs[0]], samples, "both hold rna of 'p'"),
        (inputs, samples[:2], "'q' is not in the samplesheet"),
        ([folder / "gone.h5ad"], samples, "does not exist"),
    ]
    (folder / "other.h5ad").write_bytes(b"nothing")
    cases.append(([folder / "other.h5ad"], samples, "is not an HDF5 file"))
    for given_inputs, sheet, word in cases:
        with pytest.raises(InputError, match=word):
            build_mosaic(given_inputs, sheet, folder / "x.h5mu")
        assert not (folder / "x.h5mu").exists()
    with pytest.raises(InputError, match="no rna feature of .* is detected in"):
        build_mosaic(inputs, samples, folder / "x.h5mu", MosaicRules(min_cells_fraction=1))
    assert [p.name for p in folder.iterdir() if "h5mu" in p.name] == []


def test_disjoint_halves_stay_and_a_sample_that_fails_altogether_is_refused(tmp_path):
    rna, _ = part(tmp_path, "a", "rna", [f"c{i}" for i in range(20)], ENSG)
    atac, _ = part(tmp_path, "a", "atac", [f"d{i}" for i in range(20)], PEAKS)
    found, record = build(tmp_path, [rna, atac], [sample("a", ["rna", "atac"])])
    assert found.n_obs == 40 and record["samples"][0]["partial_not_held"] == 40
    rna, _ = part(tmp_path, "a", "rna", [f"c{i}" for i in range(20)], ENSG, failed=[f"d{i}" for i in range(20)])
    atac, _ = part(tmp_path, "a", "atac", [f"d{i}" for i in range(20)], PEAKS, failed=[f"c{i}" for i in range(20)])
    with pytest.raises(InputError, match="no cell is left of 40 \\(40 fail QC in some of rna, atac"):
        build(tmp_path, [rna, atac], [sample("a", ["rna", "atac"])])


def test_reference_features_in_the_models_order(tmp_path):
    cells = [f"c{i}" for i in range(20)]
    rna, dense = part(tmp_path, "a", "rna", cells, ENSG[:30], mean=5)
    protein, proteins = part(tmp_path, "a", "protein", cells, ["CD8", "CD9"], mean=5)
    model = tmp_path / "model"
    model.mkdir()
    wanted = [ENSG[25], ENSG[3], ENSG[60], ENSG[7]]
    rows = [("rna", g, g) for g in wanted] + [("protein", p, p) for p in ("CD3", "CD8")]
    pd.DataFrame(rows, columns=["modality", "feature", "symbol"]).to_csv(model / "features.tsv", sep="\t", index=False)
    mosaic, record = build(tmp_path, [rna, protein], [sample("a", ["rna", "protein"])], reference=model)
    x = mosaic.mod["rna"].X.toarray()
    assert mosaic.mod["rna"].var_names.tolist() == wanted
    np.testing.assert_array_equal(x[:, [0, 1, 3]], dense[[wanted[0], wanted[1], wanted[3]]])
    assert x[:, 2].sum() == 0
    assert any("1 of the model's 4 rna features are missing, filled with 0" in note for note in record["notes"])
    assert mosaic.mod["protein"].uns["panel"].loc["a"].to_dict() == {"CD3": False, "CD8": True}
    with pytest.raises(InputError, match="3 of the model's 4 rna features"):
        build(tmp_path, [rna, protein], [sample("a", ["rna", "protein"])], reference=model, min_shared_genes=0.9)
    atac = Part(
        tmp_path, "a", "atac", pd.DataFrame(index=cells), pd.DataFrame(index=PEAKS[:5]), "None", np.ones(20, bool)
    )
    with pytest.raises(InputError, match="counted on the model's peaks"):
        reference_features([atac], "atac", pd.DataFrame({"feature": PEAKS, "symbol": PEAKS}), 0.5)


def test_command(three):
    folder, files, _dense, samples = three
    (folder / "samples.json").write_text(json.dumps({"samples": [s.to_json() for s in samples], "contrasts": None}))
    inputs = [str(p) for p in files.values()]
    options = ["--samples", str(folder / "samples.json"), "--inputs", *inputs, "--output", str(folder / "m.h5mu")]
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 0, result.output
    build_mosaic(list(files.values()), samples, folder / "n.h5mu")
    assert (folder / "m.h5mu").read_bytes() == (folder / "n.h5mu").read_bytes()
