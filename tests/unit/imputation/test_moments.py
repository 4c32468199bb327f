from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multivi_nf.errors import InputError
from multivi_nf.imputation.moments import Moments, check_interval, moments, with_mean_error


def quantile(draws: np.ndarray, p: float) -> np.ndarray:
    """The p (n + 1)-th order statistic, by its definition."""
    ordered = np.sort(draws.astype(np.float64), axis=0)
    position = p * (len(draws) + 1)
    low = int(np.floor(position + 1e-9))
    share = position - low
    return ordered[low - 1] + share * (ordered[min(low, len(draws) - 1)] - ordered[low - 1])


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(40, 90),
    cells=st.integers(1, 5),
    features=st.integers(1, 300),
    interval=st.sampled_from([0.5, 0.8, 0.95]),
    seed=st.integers(0, 100),
)
def test_moments_equal_brute_force(n, cells, features, interval, seed):
    draws = np.random.default_rng(seed).gamma(1.0, 3.0, size=(n, cells, features)).astype(np.float32)
    found = moments(draws, interval, n_threads=2)
    np.testing.assert_allclose(found.mean, draws.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.sd, draws.std(0, ddof=1), rtol=2e-4)
    np.testing.assert_allclose(found.lower, quantile(draws, (1 - interval) / 2), rtol=1e-5)
    np.testing.assert_allclose(found.upper, quantile(draws, (1 + interval) / 2), rtol=1e-5)


def test_threads_do_not_change_bytes():
    draws = np.random.default_rng(0).random((60, 7, 300), dtype=np.float32)
    one, three = moments(draws, 0.9, n_threads=1), moments(draws, 0.9, n_threads=3)
    for name in ("mean", "sd", "lower", "upper"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))


def test_small_spread_beside_a_large_mean_survives():
    draws = (1e4 + np.random.default_rng(0).normal(0, 0.5, size=(80, 2, 10))).astype(np.float32)
    np.testing.assert_allclose(moments(draws, None).sd, draws.astype(np.float64).std(0, ddof=1), rtol=1e-3)


@pytest.mark.parametrize(
    ("n", "interval", "enough"), [(39, 0.95, True), (38, 0.95, False), (3, 0.5, True), (2, 0.5, False)]
)
def test_interval_needs_enough_draws(n, interval, enough):
    if enough:
        check_interval(n, interval)
        return
    with pytest.raises(InputError, match=f"from {n} posterior draws"):
        check_interval(n, interval)


def test_quantiles_cover_what_they_promise():
    # draws and a new value of the same distribution: the new one lies below the p (n + 1) quantile with chance p
    rng = np.random.default_rng(1)
    draws = rng.normal(size=(39, 200, 200)).astype(np.float32)
    new = rng.normal(size=(200, 200))
    found = moments(draws, 0.95)
    assert abs(((new >= found.lower) & (new <= found.upper)).mean() - 0.95) < 0.005


def test_an_error_of_the_mean_widens_bounds_on_the_logarithm():
    mean = np.full((3, 2), 4.0, np.float32)
    found = Moments(mean.copy(), np.full((3, 2), 0.3, np.float32), mean / 2, mean * 2)
    with_mean_error(found, np.array([0, 2]), np.full((2, 2), 0.4), 0.95, np.inf)
    np.testing.assert_allclose(found.sd[[0, 2]], np.hypot(0.3, 1.6), rtol=1e-6)
    half = np.hypot(np.log(2), 0.4 * 1.959964)
    np.testing.assert_allclose(found.lower[0], 4 * np.exp(-half), rtol=1e-5)
    np.testing.assert_allclose(found.upper[2], 4 * np.exp(half), rtol=1e-5)
    np.testing.assert_array_equal(found.lower[1], 2)  # not named
    np.testing.assert_array_equal(found.mean, mean)
    bounded = Moments(np.full((1, 1), 0.8), np.full((1, 1), 0.1), np.full((1, 1), 0.5), np.full((1, 1), 0.9))
    with_mean_error(bounded, np.array([0]), np.full((1, 1), 0.5), 0.95, 1.0)
    assert bounded.upper[0, 0] == 1.0
