"""Metrics against hand-made answers and brute force."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import nbinom, pearsonr, spearmanr
from sklearn.metrics import roc_auc_score

from multivi_nf.evaluation import metrics
from multivi_nf.evaluation.metrics.imputation import at_true_depth, nb_deviance
from multivi_nf.evaluation.metrics.mixing import neighbour_weights
from multivi_nf.reduction import nearest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ---- neighbours and mixing -------------------------------------------------------------------------------------------


def lisi_by_hand(space, groups, k, perplexity):
    """The LISI package's loops, one cell at a time, with scipy's root finder in place of its bisection."""
    from scipy.optimize import brentq

    out = []
    for i in range(len(space)):
        d = np.linalg.norm(space - space[i], axis=1)
        d[i] = np.inf
        order = np.argsort(d)[:k]
        d = d[order]

        def excess(log_beta, d=d):
            p = np.exp(-np.exp(log_beta) * (d - d[0]))
            p /= p.sum()
            return -(p * np.log(p + 1e-300)).sum() - np.log(perplexity)

        beta = np.exp(brentq(excess, -15, 15))
        p = np.exp(-beta * (d - d[0]))
        p /= p.sum()
        out.append(1 / sum(p[groups[order] == g].sum() ** 2 for g in np.unique(groups)))
    return np.array(out)


def test_lisi_is_the_packages_loop(rng):
    space, groups = rng.normal(size=(120, 3)), rng.choice(["a", "b", "c"], 120)
    np.testing.assert_allclose(
        metrics.lisi(space, groups, k=40, perplexity=12), lisi_by_hand(space, groups, 40, 12), rtol=1e-5
    )


SCIB = """
import sys
import numpy as np
from scib_metrics import lisi_knn
from scib_metrics.nearest_neighbors import NeighborsResults
given = np.load(sys.argv[1])
found = NeighborsResults(indices=given["indices"], distances=given["distances"])
np.save(sys.argv[2], np.asarray(lisi_knn(found, given["groups"], perplexity=30.0)))
"""


def test_lisi_is_that_of_scib_metrics(rng, tmp_path):
    """By the package itself, in the environment of the peers (`make peers`), where there is one."""
    python = Path(__file__).resolve().parents[3] / ".venv" / "bin" / "peers-python"
    if not python.exists():
        pytest.skip("scib-metrics is not installed: `make peers` makes its environment")
    space, groups = rng.normal(size=(300, 3)), rng.choice(3, 300, p=[0.6, 0.3, 0.1])
    indices, distances = nearest(space, space, 90, same=True)
    own = np.arange(300)[:, None]  # there, a cell is its own first neighbour, and left out
    arrays = {"indices": np.hstack([own, indices]), "distances": np.hstack([0.0 * own, distances])}
    np.savez(tmp_path / "given.npz", groups=groups, **arrays)
    subprocess.run([python, "-I", "-c", SCIB, tmp_path / "given.npz", tmp_path / "theirs.npy"], check=True)
    np.testing.assert_allclose(metrics.lisi(space, groups), np.load(tmp_path / "theirs.npy"), rtol=2e-3)


def test_weights_have_the_asked_perplexity(rng):
    weights = neighbour_weights(np.sort(rng.random((20, 90)), axis=1), 30)
    perplexity = np.exp(-(weights * np.log(weights)).sum(1))
    np.testing.assert_allclose(perplexity, 30, rtol=1e-6)


def test_lisi_ratio_is_one_for_mixed_and_least_for_separate_groups(rng):
    space = rng.normal(size=(600, 2))
    groups = np.where(rng.random(600) < 0.5, "rna", "atac")
    assert metrics.lisi_ratio(space, groups)["ratio"] == pytest.approx(1, abs=0.06)
    apart = space + 100 * (groups == "rna")[:, None]
    separate = metrics.lisi_ratio(apart, groups)
    assert separate["median"] == pytest.approx(1)
    assert separate["scaled_ratio"] == pytest.approx(0, abs=1e-9)
    assert separate["ratio"] == pytest.approx(1 / separate["permuted"])
    assert np.isnan(metrics.lisi_ratio(space, np.full(600, "one"))["ratio"])


def test_composition_does_not_decide_lisi_within_labels(rng):
    labels = np.repeat(["x", "y"], 300)
    groups = np.where(rng.random(600) < np.where(labels == "x", 0.9, 0.1), "rna", "atac")
    space = rng.normal(size=(600, 2)) + 50 * (labels == "x")[:, None]
    assert metrics.lisi_ratio(space, groups)["scaled_ratio"] < 0.6
    assert metrics.lisi_ratio_within(space, groups, labels) == pytest.approx(1, abs=0.12)
    assert np.isnan(metrics.lisi_ratio_within(space, labels, labels))


# ---- pairing ---------------------------------------------------------------------------------------------------------


def test_pairing_by_hand():
    a = np.array([[0.0], [1.0], [2.0], [10.0]])
    b = np.array([[0.1], [2.1], [1.2], [9.0]])
    # cell 1 of a: b2 (0.2) lies closer than b1 (1.1), b0 (0.9) too -> two closer; cell 2: b1 (0.1) closer than b2 (0.8)
    # cell 1 of b: a2 (0.1) closer than a1 (1.1) -> one; cell 2 of b: a1 (0.2) closer than a2 (0.8) -> one
    found = metrics.pairing(a, b, np.array(["x", "x", "x", "y"]))
    assert found.foscttm == pytest.approx((0 + 2 + 1 + 0 + 0 + 1 + 1 + 0) / 8 / 3)
    assert found.mean_rank == pytest.approx((5 + 8) / 8 / 4)
    assert found.mutual_rank == pytest.approx((1 + 3 + 2 + 1) / 4 / 4)
    assert found.same_cell_1 == pytest.approx(4 / 8)
    assert found.same_cell_10 == 1
    assert found.same_label == 1


def test_pairing_of_equal_views_is_perfect_and_of_constant_views_is_chance(rng):
    a = rng.normal(size=(50, 3))
    same = metrics.pairing(a, a)
    assert (same.foscttm, same.same_cell_1, same.mutual_rank) == (0, 1, pytest.approx(1 / 50))
    assert metrics.pairing(np.zeros((50, 3)), np.zeros((50, 3))).foscttm == pytest.approx(0.5)
    assert metrics.pairing(rng.normal(size=(800, 3)), rng.normal(size=(800, 3))).foscttm == pytest.approx(0.5, abs=0.03)
    with pytest.raises(ValueError, match="same shape"):
        metrics.pairing(a, a[:10])


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(0, 10_000))
def test_foscttm_is_brute_force(n, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, 2)), rng.normal(size=(n, 2))
    table = np.linalg.norm(a[:, None] - b[None], axis=2)
    own = np.diag(table)
    closer = ((table < own[:, None]).sum() + (table < own[None, :]).sum()) / (2 * n * (n - 1))
    assert metrics.pairing(a, b).foscttm == pytest.approx(closer)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 20), st.integers(0, 10_000))
def test_the_papers_rank_distance_is_brute_force(n, seed):
    """Of each cell the smallest k at which its two places are in each other's k nearest, found by trying every k."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, 2)), rng.normal(size=(n, 2))
    table = np.linalg.norm(a[:, None] - b[None], axis=2)
    smallest = []
    for i in range(n):
        for k in range(1, n + 1):
            if i in np.argsort(table[i])[:k] and i in np.argsort(table[:, i])[:k]:
                smallest.append(k)
                break
    found = metrics.pairing(a, b)
    assert found.mutual_rank * found.n_cells == pytest.approx(np.mean(smallest))


# ---- clusters --------------------------------------------------------------------------------------------------------


def test_purity_and_transfer_by_hand():
    space = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [0.15]])
    labels = np.array(["a", "a", "a", "b", "b", "b"])
    # the last cell sits among a: its 2 neighbours are a; cells 1 and 2 each have it as a neighbour; of 4 and 5 one
    # neighbour is the other, the second is the nearest of the left heap
    near = [[1, 5], [5, 2], [5, 1], [4, 2], [3, 2], [1, 2]]
    expected = np.mean([[labels[j] == labels[i] for j in row] for i, row in enumerate(near)])
    assert metrics.label_purity(space, labels, k=2) == pytest.approx(expected)
    assert metrics.shared_label(np.array(near), labels) == pytest.approx(expected)
    moved = metrics.label_transfer(space, labels, np.array([[4.9], [0.05]]), k=2)
    assert moved.tolist() == ["b", "a"]
    assert metrics.label_transfer(space, labels, np.array([[0.13]]), k=2).tolist() == ["b"], "nearer one settles a tie"
    assert metrics.carried_label(np.array([[0, 3], [3, 0], [0, 1]]), labels).tolist() == ["a", "b", "a"]


def test_leiden_finds_two_heaps(rng):
    labels = np.repeat(["a", "b"], 60)
    space = rng.normal(size=(120, 3)) + 30 * (labels == "a")[:, None]
    found = metrics.best_leiden(space, labels, resolutions=(0.05, 0.5))
    assert found["ari"] == pytest.approx(1)
    assert found["clusters"] == 2
    parts = [np.zeros(120), (labels == "a").astype(int)]
    assert metrics.best_clusters(parts, labels) == {"ari": 1.0, "nmi": 1.0, "clusters": 2, "which": 1}
    assert metrics.macro_f1(["a", "a", "b", "b"], ["a", "a", "a", "b"]) == pytest.approx((0.8 + 2 / 3) / 2)
    assert metrics.adjusted_rand([0, 0, 1, 1], ["x", "x", "y", "y"]) == 1
    assert metrics.normalised_mutual_information([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(0, abs=1e-12)
    assert metrics.silhouette_of_labels(space, labels) > 0.9


def test_kl_by_hand():
    mean = np.array([[1.0, 0.0], [-1.0, 0.0]])
    variance = np.array([[0.5, 1.0], [0.5, 1.0]])
    assert metrics.kl_per_dimension(mean, variance)[0] == pytest.approx(0.5 * (1 + 0.5 + np.log(2) - 1))
    assert metrics.active_dimensions(mean, variance) == 1


# ---- imputation ------------------------------------------------------------------------------------------------------


def test_correlations_are_scipys(rng):
    a, b = rng.poisson(1.0, (40, 6)).astype(float), rng.poisson(1.0, (40, 6)).astype(float)
    a[:, 5] = 3.0
    for ours, theirs in ((metrics.feature_spearman, spearmanr), (metrics.feature_pearson, pearsonr)):
        found = ours(a, sp.csr_matrix(b) if ours is metrics.feature_pearson else b)
        assert np.isnan(found[5])
        np.testing.assert_allclose(found[:5], [theirs(a[:, j], b[:, j]).statistic for j in range(5)], atol=1e-10)
    centred = metrics.centred_cell_pearson(a, b)
    by_hand = [pearsonr((a - a.mean(0))[i], (b - b.mean(0))[i]).statistic for i in range(40)]
    np.testing.assert_allclose(centred, by_hand, atol=1e-10)
    assert metrics.flat_spearman(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    np.testing.assert_allclose(metrics.scaled_squared_error(np.broadcast_to(b.mean(0), b.shape), b), 1.0)


def test_a_constant_profile_scores_high_flat_and_nothing_per_feature(rng):
    profile = np.exp(rng.normal(0, 2, 50))
    truth = rng.poisson(np.broadcast_to(profile, (200, 50)))
    constant = np.broadcast_to(profile, truth.shape)
    assert metrics.flat_spearman(constant, truth) > 0.7
    assert np.isnan(metrics.feature_spearman(constant, truth)).all()
    assert metrics.nb_deviance_skill(sp.csr_matrix(truth), constant, profile) == pytest.approx(0)


def test_fitted_dispersion_is_the_likelihoods_maximum(rng):
    theta = np.array([0.5, 2.0, 8.0])
    mean = np.full((4000, 3), 3.0)
    counts = rng.poisson(rng.gamma(theta, mean / theta))
    fitted = metrics.fit_dispersion(counts, mean)
    np.testing.assert_allclose(fitted, theta, rtol=0.15)
    for j in range(3):
        best = minimize_scalar(
            lambda t, j=j: -nbinom.logpmf(counts[:, j], np.exp(t), np.exp(t) / (np.exp(t) + 3)).sum(),
            bounds=(-3, 5),
            method="bounded",
        )
        assert fitted[j] == pytest.approx(np.exp(best.x), rel=1e-3)


def test_nb_deviance_is_twice_the_log_likelihood_ratio_to_the_saturated_model(rng):
    counts, mean, theta = rng.poisson(2.0, (30, 4)), rng.random((30, 4)) * 4 + 0.1, np.array([0.7, 1.0, 3.0, 20.0])
    own = nbinom.logpmf(counts, theta, theta / (theta + mean))
    with np.errstate(invalid="ignore", divide="ignore"):
        saturated = np.where(counts == 0, 0.0, nbinom.logpmf(counts, theta, theta / (theta + np.maximum(counts, 1e-9))))
    np.testing.assert_allclose(nb_deviance(counts, mean, theta), 2 * (saturated - own).sum(0), rtol=1e-8)


def test_skill_is_positive_for_truth_and_negative_for_wrong_profiles(rng):
    truth = np.exp(rng.normal(0, 1, (300, 40)))
    truth /= truth.sum(1, keepdims=True)
    counts = sp.csr_matrix(rng.poisson(500 * truth))
    mean = truth.mean(0)
    assert metrics.nb_deviance_skill(counts, truth, mean) > 0.3
    assert metrics.nb_deviance_skill(counts, rng.permutation(truth), mean) < 0
    opened = rng.random((300, 40)) < np.minimum(6 * truth, 0.9)
    assert metrics.bernoulli_log_loss_skill(sp.csr_matrix(opened), truth, opened.mean(0)) > 0.05
    assert metrics.brier_skill(opened, truth, opened.mean(0)) > 0.05
    constant = np.broadcast_to(opened.mean(0), opened.shape)
    assert metrics.bernoulli_log_loss_skill(opened, constant, opened.mean(0)) == pytest.approx(0)
    assert metrics.bernoulli_log_loss_skill(opened, rng.permutation(truth), opened.mean(0)) < 0


def test_depth_is_given_back(rng):
    probability, opened = rng.random((20, 50)) * 0.1, rng.integers(1, 20, 20)
    np.testing.assert_allclose(at_true_depth(probability, opened).sum(1), opened, rtol=1e-3)


def test_auroc_is_sklearns(rng):
    score, truth = np.round(rng.random((60, 5)), 1), rng.random((60, 5)) < 0.3
    truth[:, 4] = False
    found = metrics.feature_auroc(score, sp.csr_matrix(truth))
    assert np.isnan(found[4])
    np.testing.assert_allclose(found[:4], [roc_auc_score(truth[:, j], score[:, j]) for j in range(4)])


# ---- calibration -----------------------------------------------------------------------------------------------------


def test_pit_of_the_true_distribution_is_uniform_and_of_a_narrow_one_is_not(rng):
    means, theta = rng.gamma(2.0, 2.0, 6000), 1.5
    counts = rng.poisson(rng.gamma(theta, means / theta))
    honest = metrics.randomised_pit(counts, metrics.mixture_cdf(means, theta), rng)
    narrow = metrics.randomised_pit(counts, metrics.mixture_cdf(means, 1e4), rng)
    for level in (0.5, 0.8, 0.95):
        assert metrics.central_coverage(honest, level) == pytest.approx(level, abs=0.02)
        assert metrics.central_coverage(narrow, level) < level - 0.05
    assert honest.mean() == pytest.approx(0.5, abs=0.02)


def test_mixture_cdf_crps_and_log_score_by_hand():
    means = np.array([[1.0, 4.0], [3.0, 4.0]])
    cdf = metrics.mixture_cdf(means, 2.0)
    by_hand = np.mean([nbinom.cdf(2, 2, 2 / (2 + m)) for m in (1.0, 3.0)])
    assert cdf(np.array([2, 0]))[0] == pytest.approx(by_hand)
    assert cdf(np.array([-1, -1])).tolist() == [0, 0]
    grid = np.arange(400)
    f = np.mean([nbinom.cdf(grid, 2, 2 / (2 + m)) for m in (1.0, 3.0)], axis=0)
    assert metrics.count_crps(np.array([2, 5]), cdf)[0] == pytest.approx(((f - (grid >= 2)) ** 2).sum(), rel=1e-5)
    expected = np.log(np.mean([nbinom.pmf(5, 2, 2 / 6)] * 2))
    assert metrics.count_log_score(np.array([2, 5]), cdf)[1] == pytest.approx(expected)


def test_scores_prefer_the_truth(rng):
    means = rng.gamma(2.0, 2.0, 3000)
    counts = rng.poisson(rng.gamma(2.0, means / 2.0))
    for wrong in (metrics.mixture_cdf(means, 50.0), metrics.mixture_cdf(np.full(3000, 4.0), 2.0)):
        true = metrics.mixture_cdf(means, 2.0)
        assert metrics.count_crps(counts, true).mean() < metrics.count_crps(counts, wrong).mean()
        assert metrics.count_log_score(counts, true).mean() > metrics.count_log_score(counts, wrong).mean()


def test_reliability_and_slope_of_honest_and_overconfident_probabilities(rng):
    p = rng.beta(1, 4, 40_000)
    truth = rng.random(40_000) < p
    slope, intercept = metrics.logistic_calibration(p, truth)
    assert slope == pytest.approx(1, abs=0.05)
    assert intercept == pytest.approx(0, abs=0.08)
    assert metrics.expected_calibration_error(p, truth) < 0.01
    curve = metrics.reliability_curve(p, truth)
    assert curve.shape == (10, 3)
    assert curve[:, 2].sum() == 40_000
    logit = 2 * np.log(p / (1 - p))
    assert metrics.logistic_calibration(1 / (1 + np.exp(-logit)), truth)[0] == pytest.approx(0.5, abs=0.03)
    assert metrics.expected_calibration_error(np.array([0.2, 0.2]), np.array([1, 0]), bins=1) == pytest.approx(0.3)


def test_risk_coverage_by_hand(rng):
    found = metrics.area_under_risk_coverage(np.array([3, 1, 2]), np.array([-3.0, 1.0, 2.0]))
    assert found["area"] == pytest.approx(np.mean([1, 1.5, 2]))
    assert found["gain"] == pytest.approx(1)
    noise = metrics.area_under_risk_coverage(rng.random(20_000), rng.random(20_000))
    assert noise["gain"] == pytest.approx(0, abs=0.05)


def test_within_feature_correlation_ignores_the_features_mean(rng):
    scale = np.exp(rng.normal(0, 2, 30))
    error = rng.normal(size=(200, 30)) * scale
    follows_mean_only = np.broadcast_to(scale, error.shape) + 1e-9 * rng.random(error.shape)
    assert spearmanr(follows_mean_only.ravel(), np.abs(error).ravel()).statistic > 0.5
    assert np.nanmean(metrics.within_feature_rank_correlation(follows_mean_only, error)) == pytest.approx(0, abs=0.05)
    assert np.nanmean(metrics.within_feature_rank_correlation(np.abs(error), error)) == pytest.approx(1)


# ---- effects ---------------------------------------------------------------------------------------------------------


def test_calls_by_hand():
    found = metrics.calls_against_truth(np.array([4, 3, 2, 1]), np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0]))
    assert (found["fdr"], found["recall"], found["calls"]) == (0.5, 0.5, 2)
    assert found["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    nothing = metrics.calls_against_truth(np.arange(4), np.zeros(4), np.zeros(4))
    assert nothing["fdr"] == 0
    assert np.isnan(nothing["average_precision"])


def test_fold_changes_by_hand():
    truth = np.array([3.0, 2.0, 0.1, -0.1, -2.0, 0.0])
    found = metrics.fold_change_agreement(truth * 0.5, truth, top=2)
    assert found["pearson"] == pytest.approx(1)
    assert (found["sign"], found["auroc"], found["precision"]) == (1, 1, 1)
    assert metrics.fold_change_agreement(-truth, truth, top=2)["auroc"] < 0.1
