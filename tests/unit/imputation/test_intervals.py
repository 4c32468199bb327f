from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from multivi_nf.calibration.entries import Levels
from multivi_nf.held_out import scoring
from multivi_nf.imputation.mixtures import Mixture, invert


def make_mixture(seed: int, n: int = 12, cells: int = 3, features: int = 5, scale: float = 5.0) -> Mixture:
    rng = np.random.default_rng(seed)
    mean = rng.gamma(1.0, scale, size=(n, cells, features)).astype(np.float32)
    weight = rng.dirichlet(np.ones(n), size=(cells, features)).transpose(2, 0, 1).astype(np.float32)
    return Mixture(mean, weight, rng.uniform(0, 0.3, (cells, features)), rng.gamma(2.0, 2.0, (cells, features)) + 0.1)


def cdf(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    """Distribution function by scipy."""
    p = mixture.theta / (mixture.theta + mixture.mean)
    each = stats.nbinom.cdf(x, mixture.theta[None], p)
    return mixture.zero * (x >= 0) + (1 - mixture.zero) * (each * mixture.weight).sum(0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), interval=st.sampled_from([0.5, 0.9, 0.95]), scale=st.sampled_from([0.2, 5.0, 300.0]))
def test_bounds_invert_the_distribution_function(seed, interval, scale):
    mixture = make_mixture(seed, scale=scale)
    lower, upper = invert(mixture, interval)
    for bound, level in ((lower, (1 - interval) / 2), (upper, (1 + interval) / 2)):
        assert (cdf(mixture, bound) >= level - 1e-5).all()
        assert (cdf(mixture, bound - 1) < level + 1e-5).all()


@pytest.mark.parametrize(
    ("mean", "theta"), [(100, 50), (800, 1e8), (2000, 500), (2000, 200), (30_000, 10), (15_000, 3)]
)
def test_transforms_of_right_predictions_are_uniform_at_any_mean(mean, theta):
    rng = np.random.default_rng(0)
    shape = (4000, 1)
    rate = rng.gamma(theta, mean / theta, shape) if theta < 1e6 else np.full(shape, float(mean))
    x = rng.poisson(rate).astype(float)
    mixture = Mixture(
        np.full((1, *shape), mean, np.float32),
        np.ones((1, 1, 1), np.float32),
        np.zeros(shape),
        np.full(shape, float(theta)),
    )
    u = scoring.pit(mixture, x, rng.random(shape))
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    lower, upper = invert(mixture, 0.9)
    assert ((x >= lower) & (x <= upper)).mean() == pytest.approx(0.9, abs=0.02)


def test_levels_mend_the_form_of_the_distribution():
    """Counts more often near their mean, and more often far from it, than predicted: no one dispersion fits both."""
    rng = np.random.default_rng(0)
    shape = (400, 20)
    mean, wild = np.full(shape, 20.0), rng.random(shape) < 0.15
    x = np.where(wild, stats.nbinom.rvs(2, 2 / 22, size=shape, random_state=rng), rng.poisson(20, shape)).astype(float)
    mixture = Mixture(
        mean[None].astype(np.float32), np.ones((1, 1, 1), np.float32), np.zeros(shape), np.full(shape, 20.0)
    )
    u = scoring.pit(mixture, x, rng.random(shape))
    assert abs(dict(scoring.coverage(u))[0.5] - 0.5) > 0.08
    levels = Levels.fit(u[:200])
    assert (np.diff(levels.used) > 0).all()
    for nominal, covered in scoring.coverage(levels.applied(u[200:])):
        assert covered == pytest.approx(nominal, abs=0.02)
    # whole counts at the bounds belong to the interval, so that it holds a little more than its level
    lower, upper = invert(mixture, levels.at(0.8))
    assert 0.8 - 0.02 < ((x >= lower) & (x <= upper))[200:].mean() < 0.9
    np.testing.assert_allclose(Levels.fit(rng.random((500, 200))).at(0.9), 0.9, atol=0.01)
    # quantiles at p (n + 1): on average over few counts, intervals hold their level, not less
    levels = [Levels.fit(rng.random(99)).at(0.95) for _ in range(400)]
    assert np.mean(levels) == pytest.approx(0.95, abs=0.004)


def test_each_cell_may_have_its_own_level():
    mixture = make_mixture(1)
    level = np.array([0.5, 0.95, 0.8])
    lower, upper = invert(mixture, level)
    for cell, one in enumerate(level):
        low, high = invert(mixture, one)
        np.testing.assert_array_equal(lower[cell], low[cell])
        np.testing.assert_array_equal(upper[cell], high[cell])


def test_large_means_by_approximation():
    mixture = make_mixture(0, scale=40_000.0)
    lower, upper = invert(mixture, 0.95)
    np.testing.assert_allclose(cdf(mixture, upper), 0.975, atol=0.01)
    np.testing.assert_allclose(cdf(mixture, lower), np.maximum(0.025, mixture.zero), atol=0.012)


def test_log_score_and_transform_match_scipy():
    mixture = make_mixture(4)
    x = np.random.default_rng(0).integers(0, 20, size=mixture.zero.shape)
    probability = cdf(mixture, x) - cdf(mixture, x - 1)
    np.testing.assert_allclose(scoring.log_score(mixture, x), np.log(probability), rtol=1e-4)
    u = np.random.default_rng(1).random(x.shape)
    np.testing.assert_allclose(scoring.pit(mixture, x, u), cdf(mixture, x - 1) + u * probability, atol=1e-5)


def test_transform_of_its_own_counts_is_uniform():
    rng = np.random.default_rng(2)
    shape = (200, 40)
    mean = np.broadcast_to(rng.gamma(1.0, 3.0, size=(1, *shape)), (1, *shape)).astype(np.float32)
    mixture = Mixture(mean, np.ones((1, 1, 1), np.float32), np.zeros(shape), np.full(shape, 2.0))
    x = rng.negative_binomial(2.0, 2.0 / (2.0 + mean[0]))
    u = scoring.pit(mixture, x, rng.random(shape))
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    assert scoring.coverage(u)[3][1] == pytest.approx(0.95, abs=0.01)
    narrow = Mixture(mixture.mean, mixture.weight, mixture.zero, mixture.theta * 20)
    assert scoring.coverage(scoring.pit(narrow, x, rng.random(shape)))[3][1] < 0.93
    assert scoring.log_score(narrow, x).mean() < scoring.log_score(mixture, x).mean()


def test_logistic_slope_and_reliability():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.98, size=20_000)
    x = rng.random(p.size) < p
    assert scoring.logistic_slope(p, x) == pytest.approx(1, abs=0.05)
    bold = 1 / (1 + np.exp(-2 * np.log(p / (1 - p))))
    assert scoring.logistic_slope(bold, x) == pytest.approx(0.5, abs=0.03)
    predicted, observed = np.array(scoring.reliability(p, x)).T
    np.testing.assert_allclose(predicted, observed, atol=0.04)


def test_risk_falls_with_a_good_ranking():
    error = np.arange(100.0)
    good = np.array(scoring.risk_coverage(error, error))
    assert good[0, 1] == pytest.approx(4.5) and good[-1, 1] == pytest.approx(49.5)
    assert np.array(scoring.risk_coverage(error, -error))[0, 1] == pytest.approx(94.5)
