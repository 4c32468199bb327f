from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from multivi_nf.errors import InputError
from multivi_nf.export.marker_sets import name_clusters, read_marker_sets, told_unknown
from multivi_nf.export.markers import COLUMNS, Moments, against_rest, markers
from multivi_nf.export.modalities import fill_modalities
from multivi_nf.export.normalise import log_normalised


def test_welch_as_scipy_has_it():
    rng = np.random.default_rng(0)
    values = rng.poisson(1.0, (40, 5)).astype(float)
    groups = np.repeat([0, 1, 2, -1], 10)
    moments = Moments.empty(3, 5)
    for part in (slice(0, 13), slice(13, 40)):
        moments.add(sparse.csr_matrix(values[part]), groups[part])
    table = against_rest(moments, 1)
    oracle = stats.ttest_ind(values[10:20], values[np.r_[0:10, 20:30]], equal_var=False)
    np.testing.assert_allclose(table["t"], oracle.statistic, rtol=1e-9)
    np.testing.assert_allclose(table["p"], oracle.pvalue, rtol=1e-9)
    interval = oracle.confidence_interval(0.95)
    np.testing.assert_allclose(table["effect_lower"], interval.low, rtol=1e-9)
    np.testing.assert_allclose(table["effect_upper"], interval.high, rtol=1e-9)
    np.testing.assert_allclose(table["fraction_expressing"], (values[10:20] > 0).mean(0))


def store(mosaic, path):
    """Imputed values: 100 x (gene number + 1) in cluster 0, 0 elsewhere, of the first 30 genes in other order."""
    genes = mosaic["rna"].var_names[:30][::-1]
    values = np.where((mosaic.obs["cluster"] == "0").to_numpy()[:, None], np.arange(30, 0, -1) * 100.0, 0.0)
    obs = pd.DataFrame({"measured": mosaic.obs["has_rna"].to_numpy()}, index=mosaic.obs_names)
    ad.AnnData(values.astype(np.float32), obs=obs, var=pd.DataFrame(index=genes)).write_zarr(path)
    return path


def test_planted_markers_come_first(embedded, tmp_path):
    fill_modalities(embedded)
    table = markers(embedded, "rna", store(embedded, tmp_path / "rna.zarr"), top=8)
    assert list(table) == list(COLUMNS) and (table["effect"] > 0).all()
    for k in range(3):
        top = table[table["cluster"] == str(k)].head(5)
        assert set(top["feature"]) == {f"ENSG{g:03d}" for g in range(5 * k, 5 * k + 5)}
        assert top["rank"].tolist() == [1, 2, 3, 4, 5] and (top["fdr"] < 1e-6).all()
    row = table.iloc[0]
    values = log_normalised(embedded["rna"].X, "rna").toarray()[:, embedded["rna"].var_names == row["feature"]].ravel()
    own = (embedded["rna"].obs["cluster"] == "0").to_numpy()
    assert row["effect"] == pytest.approx((values[own].mean() - values[~own].mean()) / np.log(2), rel=1e-5)
    assert row["cells"] == own.sum() and row["cells_rest"] == (~own).sum()
    number = int(row["feature"][4:])
    assert row["imputed_effect"] == pytest.approx(np.log2(1 + 100 * (number + 1)), rel=1e-5)
    unmeasured = ~embedded.obs["has_rna"].to_numpy(bool)
    assert row["cells_imputed"] == (unmeasured & (embedded.obs["cluster"] == "0")).sum()
    assert markers(embedded, "rna")["imputed_effect"].isna().all()


def test_no_markers_in_shuffled_clusters(embedded):
    fill_modalities(embedded)
    rng = np.random.default_rng(1)
    embedded.obs["cluster"] = pd.Categorical(rng.permutation(embedded.obs["cluster"].astype(str)))
    assert (markers(embedded, "rna")["fdr"] > 0.01).all()


SETS = (
    "type\tgene\tsign\nB\tG0\t+\nB\tENSG001\t+\nB\tg2\t+\nB\tG6\t-\nT\tG5\t\nT\tG9\t+\n"
    "T\tG6\t1\nrandom\tG20\t+\nrandom\tG30\t+\n"
)


def test_clusters_get_the_names_of_their_markers(embedded, tmp_path):
    (tmp_path / "sets.tsv").write_text(SETS)
    sets = read_marker_sets(tmp_path / "sets.tsv")
    assert sets["sign"].tolist() == [1, 1, 1, -1, 1, 1, 1, 1, 1]
    table = name_clusters(embedded, sets).set_index("cluster")
    assert table.loc["0", "cell_type"] == "B" and table.loc["1", "cell_type"] == "T"
    assert table.loc["2", "cell_type"] is None, "no set describes it"
    assert (table.loc[["0", "1"], "p"] <= 0.05).all() and table.loc["2", "p"] > 0.05
    named = embedded.obs["cell_type_by_markers"]
    assert named[embedded.obs["cluster"] == "2"].isna().all() and (named[embedded.obs["cluster"] == "0"] == "B").all()
    fill_modalities(embedded)
    assert embedded["atac"].obs["cell_type_by_markers"].cat.categories.tolist() == ["B", "T"]


def test_random_sets_name_at_most_as_many_as_they_may(embedded):
    rng = np.random.default_rng(5)
    named = 0
    for seed in range(20):
        genes = rng.choice(np.arange(15, 60), 6, replace=False)
        sets = pd.DataFrame({"type": ["a"] * 3 + ["b"] * 3, "gene": [f"G{g}" for g in genes], "sign": 1})
        named += name_clusters(embedded, sets, seed)["cell_type"].notna().sum()
    assert named <= 9, "60 clusters at level 0.05"


@pytest.mark.parametrize(
    "text, said",
    [
        ("a,b\n1,2\n", "columns a, b"),
        ("type,gene,sign\nB,G0,up\n", "line 2"),
        ("type,gene\n", "names no marker"),
        ("type,gene\nB,NOTHING\n", "none of the 1 marker genes"),
        ("type,gene,sign\nB,G0,+\nB,G0,+\nB,G0,-\n", "G0 stands as high"),
    ],
)
def test_what_cannot_be_used_is_said(embedded, tmp_path, text, said):
    (tmp_path / "sets.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        name_clusters(embedded, read_marker_sets(tmp_path / "sets.csv"))


def test_genes_and_types_that_are_not_there_are_named(embedded):
    sets = pd.DataFrame({"type": ["B", "B", "T", "NK"], "gene": ["g0", "LOST", "LOST", "GONE"], "sign": 1})
    told = told_unknown(embedded, sets)
    assert told.startswith("2 of 3 marker genes are not in the mosaic (LOST, GONE); no cluster can be called NK, T,")
    assert told_unknown(embedded, sets.head(1)) == ""
