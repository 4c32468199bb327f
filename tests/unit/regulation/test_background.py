import numpy as np
import pytest

from multivi_nf.errors import InputError
from multivi_nf.regulation.background import matched_peaks, peak_properties, whitened


def properties(n=400, seed=0):
    rng = np.random.default_rng(seed)
    return peak_properties(rng.integers(1, 1000, n), rng.uniform(0.3, 0.7, n))[0]


def test_the_nearest_in_the_whitened_space_are_found_as_by_brute_force():
    table = properties()
    found = matched_peaks(table, 20)
    space = whitened(table)
    far = ((space[:, None] - space[None]) ** 2).sum(axis=2)
    np.fill_diagonal(far, np.inf)
    for peak in (0, 17, 399):
        assert set(found[peak]) == set(np.argsort(far[peak])[:20])


def test_whitened_columns_are_uncorrelated_with_unit_variance():
    rng = np.random.default_rng(0)
    one = rng.normal(size=500)
    space = whitened(np.stack([one, 3 * one + rng.normal(size=500)], axis=1))
    assert np.allclose(np.cov(space, rowvar=False), np.eye(2), atol=0.01)


def test_a_peak_is_never_its_own_background_even_among_equal_ones():
    found = matched_peaks(np.zeros((100, 1)), 30)
    assert (found != np.arange(100)[:, None]).all()
    assert all(len(set(row)) == found.shape[1] for row in found)
    # equal peaks serve equally often: none is preferred for its place in the file
    assert np.bincount(found.ravel(), minlength=100).std() < 12


def test_no_more_than_a_twentieth_counts_as_alike():
    assert matched_peaks(properties(1000), 200).shape == (1000, 50)
    assert matched_peaks(properties(100), 200).shape == (100, 20)


def test_properties_name_what_varies_and_stand_in_for_what_is_not_known():
    table, names = peak_properties(np.array([1, 10, 100]), np.array([0.4, np.nan, 0.6]), np.array([500, 500, 500]))
    assert names == ["accessibility", "GC"]
    assert table[:, 0].tolist() == [0, 1, 2] and table[1, 1] == pytest.approx(0.5)
    assert peak_properties(np.array([1, 10]), None, np.array([500, 400]))[1] == ["accessibility", "width"]


def test_too_few_peaks_are_refused():
    with pytest.raises(InputError, match="there are 20 peaks with counts"):
        matched_peaks(np.zeros((20, 1)), 10)
