"""Samples of a few cells and panels of a few features: every library call falls back, says so, and none crashes."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from multivi_nf.errors import InputError
from multivi_nf.fragments.cells import call_cells, knee_curve, overlap_p_values
from multivi_nf.mosaic.build import variable_genes
from multivi_nf.qc.atac import qc_atac
from multivi_nf.qc.doublets import score_atac, score_rna
from multivi_nf.qc.protein import qc_protein
from multivi_nf.qc.rna import qc_rna

CELLS = [1, 2, 3, 10, 30, 99, 100, 130]
FEATURES = [1, 5, 30, 59, 60, 70]


def poisson(cells: int, features: int, mean: float = 2.0) -> sparse.csr_matrix:
    drawn = np.random.default_rng(1000 * cells + features).poisson(mean, (cells, features)).astype(np.int32)
    drawn[:, 0] += 1
    return sparse.csr_matrix(drawn)


def made(cells: int, features: int, kind: str) -> ad.AnnData:
    names = [f"chr1:{1000 * i}-{1000 * i + 500}" if kind == "atac" else f"F{i}" for i in range(features)]
    var = pd.DataFrame({"symbol": names, "isotype": False}, index=names)
    data = ad.AnnData(poisson(cells, features), pd.DataFrame(index=[f"c{i}" for i in range(cells)]), var)
    data.uns["notes"] = []
    return data


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("cells", CELLS)
def test_doublets_are_scored_or_said_not_to_be(cells, features):
    for score in (score_rna, score_atac):
        found = score(poisson(cells, features), 0)
        assert len(found.score) == len(found.flag) == cells
        scored = np.isfinite(found.score).all()
        assert scored == ("not scored" not in found.note)
        assert scored == (cells >= 100 and features >= 60)
        assert scored or (found.flag.sum() == 0 and "not scored" in found.note)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("cells", CELLS)
def test_qc_of_small_samples_keeps_cells_and_says_what_is_off(cells, features):
    for kind, check in (("rna", qc_rna), ("atac", qc_atac), ("protein", qc_protein)):
        checked = check(made(cells, features, kind), "s")
        assert checked.summary.cells_in == cells and checked.summary.cells_out >= 0.7 * cells
        told = " ".join([*checked.summary.notes, *(rule.note for rule in checked.summary.rules)])
        if kind != "protein" and cells < 100:
            assert "doublets not scored" in told
        if cells < 20 and kind != "atac":
            assert "fewer than 20 cells" in told


@pytest.mark.parametrize("mean", [0.02, 0.3, 5.0])
@pytest.mark.parametrize("features", [1, 5, 30, 70, 300])
@pytest.mark.parametrize("cells", [1, 2, 3, 10, 20, 30, 60])
def test_variable_genes_rank_or_say_why_not(cells, features, mean):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        table, note = variable_genes(poisson(cells, features, mean), 20)
    ranked = int(np.isfinite(table["rank"]).sum())
    assert len(table) == features
    assert ranked == 0 and note or 0 < ranked <= 20
    if cells >= 30 and features >= 70 and mean >= 0.3:
        assert ranked == 20


def test_variable_genes_are_those_that_vary():
    """The oracle: ten genes of two levels among 300 Poisson ones."""
    rng = np.random.default_rng(3)
    for cells, depth in ((150, 2.0), (40, 1.0)):
        mean = depth * rng.gamma(0.7, 2.0, 300)
        mean[:10] = depth
        drawn = rng.poisson(mean, (cells, 300))
        drawn[:, :10] = rng.poisson(depth * 8 * (rng.random((cells, 10)) < 0.125))
        table, _ = variable_genes(sparse.csr_matrix(drawn.astype(np.int32)), 15)
        assert set(range(10)) <= set(table["rank"].dropna().sort_values().index[:15])


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 30])
def test_calls_and_curves_of_few_barcodes(n):
    counts = np.arange(1, n + 1) * 700
    call = call_cells(counts)
    assert call.is_cell.shape == (n,) and (n == 0 or call.is_cell.any())
    assert len(knee_curve(counts)["rank"]) <= n
    assert overlap_p_values(counts.astype(float)).shape == (n,)


def test_nothing_at_all_is_refused_by_name():
    empty = made(5, 5, "protein")
    empty.X = sparse.csr_matrix(empty.shape, dtype=np.int32)
    with pytest.raises(InputError, match="no protein cell of 5 is left"):
        qc_protein(empty, "s")
