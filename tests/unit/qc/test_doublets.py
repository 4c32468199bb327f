from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from multivi_nf.qc.doublets import _flagged, doublet_share, expected_rate, score_atac, score_rna


def mixture(n_features: int, depth: float, binary: bool, n: int = 240, seed: int = 0):
    """Three types, and 8 % doublets of two different ones whose depth is that of one cell: only what is open tells."""
    rng = np.random.default_rng(seed)
    profiles = rng.gamma(0.4, 1.0, (3, n_features))
    profiles /= profiles.sum(1, keepdims=True)
    kinds = rng.integers(0, 3, n)
    doublet = np.zeros(n, dtype=bool)
    doublet[: int(0.08 * n)] = True
    share = profiles[kinds]
    share[doublet] = 0.5 * (share[doublet] + profiles[(kinds[doublet] + 1) % 3])
    counts = rng.poisson(share * depth * rng.lognormal(0, 0.3, (n, 1)))
    order = rng.permutation(n)
    return sparse.csr_matrix((counts[order] > 0 if binary else counts[order]).astype(np.int32)), doublet[order]


@pytest.mark.parametrize(
    ("score", "features", "depth", "binary"), [(score_rna, 200, 1500, False), (score_atac, 1200, 1500, True)]
)
def test_doublets_stand_out_though_their_depth_does_not(score, features, depth, binary):
    counts, doublet = mixture(features, depth, binary)
    found = score(counts, 0)
    total = np.asarray(counts.sum(axis=1)).ravel()
    assert roc_auc_score(doublet, found.score) > 0.9
    assert roc_auc_score(doublet, found.score) > roc_auc_score(doublet, total) + 0.05
    assert 1 <= found.flag.sum() <= 10  # twice 2 % of 240
    assert (found.flag & doublet).sum() >= 0.75 * found.flag.sum()
    np.testing.assert_array_equal(found.flag, found.score >= found.threshold)


@pytest.mark.parametrize("score", [score_rna, score_atac])
def test_the_same_seed_gives_the_same_scores(score):
    counts, _doublet = mixture(200, 800, False, n=120)
    np.testing.assert_array_equal(score(counts, 3).score, score(counts, 3).score)
    assert (score(counts, 3).score != score(counts, 4).score).any()


@pytest.mark.filterwarnings("ignore")
def test_scores_are_those_of_scanpy_which_makes_its_cells_dense():
    import anndata as ad
    import scanpy as sc

    counts, _doublet = mixture(300, 800, False, n=400)
    theirs = ad.AnnData(counts[:, np.bincount(counts.indices, minlength=300) >= 3].astype(np.float32))
    sc.pp.scrublet(
        theirs,
        sim_doublet_ratio=2,
        expected_doublet_rate=0.01,
        n_prin_comps=30,
        use_approx_neighbors=False,
        threshold=1.0,
        random_state=0,
        verbose=False,
    )
    found = score_rna(counts, 0)
    # scanpy takes a doublet of a cell with itself, which lies in the same place, for the cell
    assert np.sum(found.score != theirs.obs["doublet_score"].to_numpy()) <= 2
    assert len(np.unique(found.score)) > 10
    simulated = theirs.uns["scrublet"]["doublet_scores_sim"]
    np.testing.assert_array_equal(found.flag, _flagged(found.score, simulated).flag)


def test_a_cell_of_two_genes_has_no_score_and_costs_no_other_its_own():
    counts, _doublet = mixture(300, 800, False, n=200)
    bare = sparse.csr_matrix(([1, 1], ([0, 0], [0, 1])), shape=(1, 300), dtype=np.int32)
    found, whole = score_rna(sparse.vstack([counts, bare]).tocsr(), 0), score_rna(counts, 0)
    assert np.isnan(found.score[-1]) and not found.flag[-1]
    np.testing.assert_array_equal(found.flag[:-1], whole.flag)


@pytest.mark.parametrize(("score", "features"), [(score_rna, 300), (score_atac, 1200)])
def test_neighbours_among_some_cells_tell_what_those_among_all_do(monkeypatch, score, features):
    counts, doublet = mixture(features, 1500, features > 300, n=900)
    whole = score(counts, 0)
    monkeypatch.setattr("multivi_nf.qc.doublets._MOST_NEAR", 450)
    some = score(counts, 0)
    assert (some.score != whole.score).any()
    assert np.corrcoef(some.score, whole.score)[0, 1] > 0.9
    assert roc_auc_score(doublet, some.score) > roc_auc_score(doublet, whole.score) - 0.02


@pytest.mark.parametrize("score", [score_rna, score_atac])
def test_small_samples_are_not_scored_and_it_is_said(score):
    counts, _doublet = mixture(200, 800, False, n=99)
    found = score(counts, 0)
    assert np.isnan(found.score).all()
    assert not found.flag.any()
    assert "99 cells" in found.note


def test_too_few_features_are_not_scored():
    counts, _doublet = mixture(20, 300, False, n=120)
    assert "too few" in score_rna(counts, 0).note
    assert "too few" in score_atac(counts, 0).note


def test_ties_at_the_bound_are_flagged_together_or_not_at_all():
    simulated = np.full(10, 0.1)
    assert not _flagged(np.full(1000, 0.5), simulated).flag.any()
    score = np.r_[np.full(15, 0.9), np.full(30, 0.5), np.zeros(955)]
    assert _flagged(score, simulated).flag.sum() == 15
    assert _flagged(np.r_[np.full(20, 0.9), np.zeros(980)], simulated).flag.sum() == 20
    assert not _flagged(np.zeros(1000), simulated).flag.any()


def test_expected_rate_is_that_of_10x():
    assert expected_rate(1000) == pytest.approx(0.008)
    assert expected_rate(10_000) == pytest.approx(0.08)
    assert expected_rate(10**6) == 0.3


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0.0, 0.05), (0.15, 0.1, 0.2)])
def test_the_share_of_doublets_is_told_from_place_and_depth(share, low, high):
    rng = np.random.default_rng(1)
    profiles = rng.gamma(1.5, 1.0, (5, 300))
    profiles /= profiles.sum(1, keepdims=True)
    rate = rng.dirichlet(np.full(5, 0.4), 700) @ profiles
    cells = rng.poisson(rate * 600 * rng.lognormal(0, 0.3, (700, 1)))
    n = int(share * 700 / (1 + share))
    cells[:n] += cells[-n:] if n else 0
    counts = sparse.csr_matrix(cells[: 700 - n].astype(np.int32))
    assert low <= doublet_share(counts, 0) <= high
    assert doublet_share(counts, 0) == doublet_share(counts, 0)


def test_cells_between_types_are_no_doublets_and_few_cells_are_not_judged():
    rng = np.random.default_rng(2)
    profiles = rng.gamma(0.4, 1.0, (2, 300))
    place = rng.random((500, 1))
    rate = (place * profiles[0] + (1 - place) * profiles[1]) / profiles.sum(1).mean()
    counts = sparse.csr_matrix(rng.poisson(rate * 1500 * rng.lognormal(0, 0.4, (500, 1))).astype(np.int32))
    assert doublet_share(counts, 0) < 0.1
    assert np.isnan(doublet_share(counts[:99], 0))
