from __future__ import annotations

import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from multivi_nf.comparison.quasi_likelihood import _Fit, quasi_likelihood_test, variance_prior

SIDE = np.repeat([1, 0], 8)
BLOCKS = {"blocked": np.tile(np.arange(8), 2), "independent": np.zeros(16, int)}


def drawn(rng, mean: np.ndarray, dispersion: np.ndarray | float, fold: np.ndarray | float = 1.0) -> np.ndarray:
    """(16, n) negative-binomial counts of eight replicates a side, libraries up to twofold apart."""
    library = rng.uniform(0.7, 1.4, size=(16, 1))
    mu = library * mean * np.where(SIDE[:, None] == 1, fold, 1.0)
    return rng.poisson(mu * rng.gamma(1 / dispersion, dispersion, size=mu.shape)).astype(float)


@pytest.mark.parametrize("design", BLOCKS)
@pytest.mark.parametrize("sides", [True, False])
def test_means_are_those_of_statsmodels(design, sides):
    counts = drawn(np.random.default_rng(0), np.geomspace(2, 300, 25), 0.1)
    blocks = np.eye(BLOCKS[design].max() + 1)[BLOCKS[design]]
    offset = np.log(counts.sum(axis=1))
    found = _Fit(SIDE.astype(float), blocks.T, offset).means(counts, 0.1, sides)
    matrix = np.column_stack([SIDE, blocks]) if sides else blocks
    family = sm.families.NegativeBinomial(alpha=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for j, y in enumerate(counts.T):
            np.testing.assert_allclose(found[:, j], sm.GLM(y, matrix, family=family, offset=offset).fit().mu, rtol=1e-3)


@pytest.mark.parametrize("design", BLOCKS)
def test_null_p_values_where_replicates_have_a_handful_of_counts(design):
    rng = np.random.default_rng(1)
    p = quasi_likelihood_test(drawn(rng, rng.gamma(1, 4, size=6000), 0.05), SIDE, BLOCKS[design])
    assert 0.03 < (p < 0.05).mean() < 0.07
    assert (p < 0.001).mean() < 0.003
    assert stats.kstest(p[p < 1], "uniform").statistic < 0.06


@pytest.mark.parametrize("design", BLOCKS)
def test_null_p_values_where_most_replicates_have_no_count(design):
    rng = np.random.default_rng(6)
    p = quasi_likelihood_test(drawn(rng, rng.gamma(1, 0.4, size=20_000) + 0.05, 0.01), SIDE, BLOCKS[design])
    assert 0.03 < (p < 0.05).mean() < 0.055
    assert (p < 0.001).mean() < 0.0015


@pytest.mark.parametrize(("design", "held_at_common"), [("blocked", 0.0165), ("independent", 0.024)])
def test_steady_features_are_not_held_at_the_common_dispersion(design, held_at_common):
    # half of the features have next to no dispersion; a factor that is never below 1 would let the rest speak for them
    rng = np.random.default_rng(4)
    p = quasi_likelihood_test(drawn(rng, np.full(4000, 100.0), np.tile([0.01, 0.2], 2000)), SIDE, BLOCKS[design])
    assert held_at_common + 0.005 < (p[::2] < 0.05).mean() < 0.05


@pytest.mark.parametrize("design", BLOCKS)
def test_counts_too_few_to_tell_have_a_p_value_of_one(design):
    # of two sides of one size, 3 against 0 counts has a score of 3 and p = 0.083, 4 against 0 a score of 4, p = 0.046
    rng = np.random.default_rng(7)
    counts = drawn(rng, np.full(2000, 0.5), 0.01)
    sides = np.ones(16)
    counts[:, :4] = 0
    for j, n in enumerate((1, 2, 3, 5)):
        counts[np.arange(n), j] = 1
    p = quasi_likelihood_test(counts, SIDE, BLOCKS[design], size=sides)
    assert p[:3].tolist() == [1, 1, 1]
    assert p[3] < 0.05
    total = counts.sum(axis=0)
    assert (p[total <= 3] == 1).all()
    assert (p[total >= 8] < 1).mean() > 0.8


def test_score_is_pearsons_statistic_of_two_rates():
    counts = np.array([[3.0], [1.0]])
    fit = _Fit(np.array([1.0, 0.0]), np.ones((1, 2)), np.log([10.0, 30.0]))
    expected = 4 * np.array([0.25, 0.75])
    pearson = ((np.array([3.0, 1.0]) - expected) ** 2 / expected).sum()
    assert fit.score(counts, expected[:, None], 1e-9)[0] == pytest.approx(pearson)


@pytest.mark.parametrize("design", BLOCKS)
def test_a_feature_that_varies_between_replicates_is_not_called(design):
    rng = np.random.default_rng(2)
    unruly = np.arange(3000) < 300
    p = quasi_likelihood_test(drawn(rng, np.full(3000, 200.0), np.where(unruly, 0.5, 0.02)), SIDE, BLOCKS[design])
    assert (p[unruly] < 0.001).mean() < 0.02
    assert (p[~unruly] < 0.05).mean() < 0.07
    assert (stats.false_discovery_control(p) <= 0.05).sum() == 0


def test_halved_features_of_few_counts_are_found():
    rng = np.random.default_rng(3)
    fold = np.where(np.arange(2000) < 200, 0.5, 1.0)
    p = quasi_likelihood_test(drawn(rng, np.full(2000, 12.0), 0.02, fold), SIDE, BLOCKS["blocked"])
    called = stats.false_discovery_control(p) <= 0.05
    assert called[:200].mean() > 0.6
    assert called[200:].sum() <= 0.1 * called.sum()


def test_counts_on_one_side_only_and_none_at_all():
    counts = np.full((16, 50), 20.0)
    counts[SIDE == 0, 0] = 0
    counts[:, 1] = 0
    p = quasi_likelihood_test(
        counts + np.random.default_rng(4).poisson(5, counts.shape) * (counts > 0), SIDE, BLOCKS["blocked"]
    )
    assert p[0] < 1e-6
    assert p[1] == 1
    assert np.isfinite(p).all()


def test_prior_of_variances_is_found_again():
    rng = np.random.default_rng(5)
    true = 8 * 2.0 / rng.chisquare(8, size=20_000)
    freedom, scale = variance_prior(true * rng.chisquare(6, size=20_000) / 6, 6)
    assert freedom == pytest.approx(8, rel=0.1)
    assert scale == pytest.approx(2, rel=0.05)
    assert variance_prior(rng.chisquare(6, size=20_000) / 6, 6)[0] > 100


@pytest.mark.parametrize("design", BLOCKS)
@pytest.mark.parametrize("n", [3, 4, 8])
@pytest.mark.parametrize("rest", [0, 5])
def test_what_one_replicate_shows_is_not_called(design, n, rest):
    rng = np.random.default_rng(7)
    some = np.r_[:n, 8 : 8 + n]
    counts = drawn(rng, rng.gamma(1, 10, size=3000), 0.05)[some]
    counts[:, 0] = rest
    counts[0, 0] = 200
    block = np.tile(np.arange(n), 2) if design == "blocked" else np.zeros(2 * n, int)
    p = quasi_likelihood_test(counts, SIDE[some], block)
    assert p[0] > 0.01
    assert stats.false_discovery_control(p)[0] > 0.05


@pytest.mark.parametrize("design", BLOCKS)
def test_a_replicate_without_counts_is_left_out(design):
    counts = drawn(np.random.default_rng(8), np.full(3000, 20.0), 0.05)[np.r_[:3, 8:11]]
    counts[0] = 0
    block = np.tile(np.arange(3), 2) if design == "blocked" else np.zeros(6, int)
    p = quasi_likelihood_test(counts, np.repeat([1, 0], 3), block)
    assert 0.02 < (p < 0.05).mean() < 0.06
    one_sided = counts * np.array([0, 0, 0, 1, 1, 1])[:, None]
    assert (quasi_likelihood_test(one_sided, np.repeat([1, 0], 3), block) == 1).all()
