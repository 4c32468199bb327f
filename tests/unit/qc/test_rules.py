from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from multivi_nf.counts.mitochondria import MITO_IDS
from multivi_nf.counts.read import read_counts
from multivi_nf.errors import InputError
from multivi_nf.inputs.barcodes import BarcodeMap
from multivi_nf.io.tables import write_table
from multivi_nf.qc.atac import AtacRules, qc_atac
from multivi_nf.qc.checked import write_checked
from multivi_nf.qc.protein import qc_protein
from multivi_nf.qc.rna import RnaRules, qc_rna
from multivi_nf.qc.rules import at_least, judge, within_mads


def rna(n=60, genes=50, seed=0, mito=2):
    matrix = np.random.default_rng(seed).poisson(3, (n, genes))
    symbols = [f"MT-{i}" if i < mito else f"G{i}" for i in range(genes)]
    data = ad.AnnData(sparse.csr_matrix(matrix.astype(np.int32)))
    data.var["symbol"] = symbols
    data.obs_names = [f"c{i}" for i in range(n)]
    return data


@given(st.lists(st.integers(0, 1000), min_size=20, max_size=60), st.floats(0.5, 8))
def test_mad_rule_is_its_definition(values, mads):
    values = np.array(values)
    rule = within_mads("r", "q", values, mads, log=True)
    scaled = np.log1p(values)
    deviation = np.median(np.abs(scaled - np.median(scaled)))
    if deviation == 0:
        assert not rule.fails.any()
        assert "MAD is 0" in rule.note
        return
    away = np.abs(scaled - np.median(scaled))
    clear = np.abs(away - mads * deviation) > 1e-6  # on the bound itself rounding decides
    np.testing.assert_array_equal(rule.fails[clear], (away > mads * deviation)[clear])


def test_a_mad_of_zero_removes_nobody():
    # nuclei: no mitochondrial read in most, a few in some
    values = np.zeros(100)
    values[:10] = 1.0
    rule = within_mads("rna_mito_mad", "rna_pct_mito", values, 5)
    assert not rule.fails.any()
    assert rule.threshold is None


def test_few_cells_and_missing_values_switch_the_rule_off():
    assert "fewer than" in within_mads("r", "q", np.arange(5.0), 5).note
    assert within_mads("r", "q", np.full(50, np.nan), 5).note == "off: not available"
    assert within_mads("r", "q", np.arange(50.0), 0).note == "off"


def test_a_tight_distribution_of_harmless_values_removes_nobody():
    values = np.random.default_rng(0).normal(0.5, 0.05, 200)
    values[0] = 1.5
    assert within_mads("r", "q", values, 5, lower=False).fails[0]
    assert not within_mads("r", "q", values, 5, lower=False, at_least_upper=5).fails.any()


def test_each_cell_is_removed_once_by_the_first_rule_it_fails():
    rules = [at_least("a", "x", np.array([0, 1, 2, 3]), 2), at_least("b", "y", np.array([0, 9, 0, 9]), 1)]
    verdict = judge(rules, "s", "rna")
    assert verdict.removed_by.tolist() == ["a", "a", "b", ""]
    assert [(row.removed, row.failing) for row in verdict.rules] == [(2, 2), (1, 2)]
    assert verdict.rules[0].median == 1.5


def test_over_half_is_a_warning_and_all_an_error_with_rule_and_median():
    verdict = judge([at_least("rna_min_genes", "rna_n_genes", np.array([1, 2, 3, 50]), 10)], "s", "rna")
    assert "rna_min_genes" in verdict.warnings[0]
    assert "3 of 4" in verdict.warnings[0]
    with pytest.raises(InputError) as error:
        judge([at_least("rna_min_genes", "rna_n_genes", np.array([96, 95, 97]), 200)], "snare", "rna")
    for word in ("snare", "rna_min_genes", "200", "median of rna_n_genes is 96", "--rna_min_genes"):
        assert word in str(error.value)


def test_rna_values_by_hand():
    data = rna()
    x = data.X.toarray()
    checked = qc_rna(data, "s", RnaRules(mad=0, min_counts=140))
    kept = x.sum(1) >= 140
    assert checked.cells.n_obs == kept.sum()
    assert checked.cells.obs_names.tolist() == [f"c{i}" for i in np.flatnonzero(kept)]
    np.testing.assert_array_equal(checked.table["rna_n_counts"], x.sum(1))
    np.testing.assert_array_equal(checked.table["rna_n_genes"], (x > 0).sum(1))
    np.testing.assert_allclose(checked.table["rna_pct_mito"], 100 * x[:, :2].sum(1) / x.sum(1))
    assert (checked.table["removed_by"] == np.where(kept, "", "rna_min_counts")).all()
    assert checked.cells.uns["failed"].tolist() == checked.table.index[~kept].tolist() and (~kept).any()
    assert sum(row.removed for row in checked.summary.rules) == (~kept).sum()
    assert checked.cells.X.dtype == np.int32


def test_dying_cells_go_by_their_mitochondria():
    data = rna(n=200)
    x = data.X.toarray()
    x[:5, :2] *= 30
    data.X = sparse.csr_matrix(x)
    checked = qc_rna(data, "s")
    assert set(checked.table["removed_by"][:5]) <= {"rna_mito_mad", "rna_counts_mad"}
    assert (checked.table["removed_by"][5:] == "").mean() > 0.97


def test_mitochondrial_ids_are_those_of_the_symbols(shared_data):
    data = read_counts(shared_data("pbmc1k_citeseq_10x") / "filtered_feature_bc_matrix.h5", "rna")
    by_symbol = data.var_names[data.var["symbol"].str.startswith("MT-")]
    assert set(by_symbol) == {name for name in MITO_IDS if name.startswith("ENSG")}


def test_max_mito_without_mitochondrial_genes_is_an_error():
    with pytest.raises(InputError, match="no gene is known as mitochondrial"):
        qc_rna(rna(mito=0), "s", RnaRules(max_mito=10))
    assert np.isnan(qc_rna(rna(mito=0), "s").table["rna_pct_mito"]).all()


def protein(n=60, seed=0):
    matrix = np.random.default_rng(seed).poisson(20, (n, 5))
    data = ad.AnnData(sparse.csr_matrix(matrix.astype(np.int32)))
    data.var_names = ["CD3", "CD4", "CD8", "CD19", "IgG1"]
    data.var["symbol"], data.var["isotype"] = data.var_names, [False] * 4 + [True]
    data.obs_names = [f"c{i}" for i in range(n)]
    return data


def test_protein_empty_cells_aggregates_and_controls():
    data = protein()
    x = data.X.toarray()
    x[0, :4] = 0
    x[1, :4] *= 50
    x[2, 4] = 5000
    data.X = sparse.csr_matrix(x)
    checked = qc_protein(data, "s")
    assert checked.table["removed_by"][:3].tolist() == ["protein_empty", "protein_counts_mad", "protein_isotype_mad"]
    assert (checked.table["removed_by"][3:] == "").all()
    np.testing.assert_array_equal(checked.table["protein_n_counts"], x[:, :4].sum(1))
    assert "IgG1" in " ".join(checked.summary.notes)
    data.var["isotype"] = True
    with pytest.raises(InputError, match="isotype controls"):
        qc_protein(data, "s")


@pytest.fixture
def counted(tmp_path):
    """Counts and QC folder as count-peaks and qc-fragments leave them, 40 cells."""
    rng = np.random.default_rng(0)
    data = ad.AnnData(sparse.csr_matrix(rng.poisson(1, (40, 30)).astype(np.int32)))
    data.obs_names = [f"A{i:03d}-1" for i in range(40)]
    data.var_names = [f"chr1:{i * 100}-{i * 100 + 50}" for i in range(30)]
    data.obs["atac_n_fragments"] = np.arange(40) * 100
    data.obs["atac_frip"] = np.linspace(0, 1, 40)
    data.uns["counting_strategy"] = "fragment"

    def folder(method="list", tsse=True):
        table = pd.DataFrame(
            {
                "n_fragments": np.arange(42) * 100,
                "tsse": np.linspace(0, 20, 42) if tsse else np.nan,
                "n_overlap_loci": rng.poisson(3, 42),
                "blacklist_fraction": np.nan,
            },
            index=pd.Index([f"A{i:03d}-1" for i in range(42)][::-1][::-1], name="barcode"),
        )
        table = table.iloc[::-1]  # the order of the file is not that of the matrix
        write_table(table, tmp_path / "fragments.tsv.gz", index=True, gaps="NA")
        (tmp_path / "fragments.json").write_text(json.dumps({"call": {"method": method}}))
        return tmp_path

    return data, folder


def test_listed_cells_have_no_floor_and_called_ones_do(counted):
    data, folder = counted
    assert qc_atac(data, "s", fragments_qc=folder()).cells.n_obs == 40
    called = qc_atac(data, "s", fragments_qc=folder("order of magnitude"))
    tsse = np.linspace(0, 20, 42)[:40]
    np.testing.assert_allclose(called.table["atac_tsse"], tsse, rtol=1e-5)
    assert called.cells.n_obs == ((np.arange(40) >= 10) & (tsse >= 4)).sum()
    assert called.summary.parameters["cells_called"] is True
    without = qc_atac(data, "s", fragments_qc=folder("order of magnitude", tsse=False))
    assert without.cells.n_obs == 30


def test_asked_for_but_unknown_is_an_error(counted):
    data, folder = counted
    with pytest.raises(InputError, match="--tss or --gtf"):
        qc_atac(data, "s", rules=AtacRules(min_tsse=4), fragments_qc=folder(tsse=False))
    with pytest.raises(InputError, match="--blacklist"):
        qc_atac(data, "s", rules=AtacRules(max_blacklist=0.05), fragments_qc=folder())
    plain = ad.AnnData(data.X, obs=pd.DataFrame(index=data.obs_names), var=data.var)
    notes = qc_atac(plain, "s", AtacRules(min_tsse=4)).summary.notes
    assert any("atac_min_tsse is not available" in note for note in notes)


def test_atac_rules_and_amulet(counted):
    data, folder = counted
    checked = qc_atac(data, "s", rules=AtacRules(min_frip=0.5, min_fragments=1500), fragments_qc=folder())
    expected = (np.linspace(0, 1, 40) >= 0.5) & (np.arange(40) >= 15)
    assert checked.cells.n_obs == expected.sum()
    chance = checked.cells.obs["atac_amulet_p"]
    assert ((chance > 0) & (chance <= 1)).all()
    assert checked.summary.counting_strategy == "fragment"


def test_barcodes_are_those_of_the_rna_afterwards(counted):
    data, _folder = counted
    mapping = BarcodeMap({f"A{i:03d}": f"R{i:03d}" for i in range(39)})
    checked = qc_atac(data, "s", barcode_map=mapping)
    assert checked.cells.obs_names.tolist() == [f"R{i:03d}-1" for i in range(39)] + ["A039-1"]
    assert any("1 of 40 ATAC barcodes are not in the barcode map" in note for note in checked.summary.notes)


def test_a_foreign_quality_folder_is_refused(counted):
    data, folder = counted
    data.obs_names = [f"X{i}" for i in range(40)]
    with pytest.raises(InputError, match="40 of 40 counted barcodes"):
        qc_atac(data, "s", fragments_qc=folder())


def test_reserved_annotation_is_not_carried_and_files_are_the_same_twice(tmp_path):
    data = rna(n=120)
    data.obs["cell_type"], data.obs["modality"], data.obs["rna_x"] = "B", "paired", 1
    for name in ("one", "two"):
        write_checked(qc_rna(data, "s"), tmp_path / f"{name}.h5ad", tmp_path / name)
    for left, right in (
        ("one.h5ad", "two.h5ad"),
        ("one/rna.json", "two/rna.json"),
        ("one/rna.tsv.gz", "two/rna.tsv.gz"),
    ):
        assert (tmp_path / left).read_bytes() == (tmp_path / right).read_bytes()
    cells = ad.read_h5ad(tmp_path / "one.h5ad")
    assert "cell_type" in cells.obs
    assert cells.obs["modality_given"].unique().tolist() == ["paired"]
    assert "modality" not in cells.obs
    assert "rna_x" not in cells.obs
    facts = json.loads(cells.uns["multivi_nf"])
    assert (facts["sample"], facts["modality"]) == ("s", "rna")
    table = pd.read_csv(tmp_path / "one" / "rna.tsv.gz", sep="\t")
    assert table.columns[0] == "barcode"
    assert table.columns[-1] == "removed_by"
    assert len(table) == 120
