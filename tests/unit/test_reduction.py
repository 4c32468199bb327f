"""The formulas of reduced spaces, by hand."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from multivi_nf.reduction import log_levelled, principal, unit_rows

COUNTS = sparse.csr_matrix(np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]]))


def test_cells_are_brought_to_one_depth_and_logged() -> None:
    expected = np.log1p([[2.5, 7.5, 0.0], [0.0, 0.0, 10.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(log_levelled(COUNTS, 10).toarray(), expected)
    weighed = np.log1p([[2.5, 15.0, 0.0], [0.0, 0.0, 30.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(log_levelled(COUNTS, 10, weight=np.array([1, 2, 3])).toarray(), weighed)
    halves = np.log1p([[1.25, 3.75, 0.0], [0.0, 0.0, 5.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(log_levelled(COUNTS, 10, total=np.array([8, 4, 0])).toarray(), halves)
    assert COUNTS.data.tolist() == [1, 3, 2], "the counts stay as they are"


def test_leading_directions_are_those_of_the_decomposition() -> None:
    x = np.random.default_rng(0).normal(size=(40, 9))
    coordinates, directions = principal(x, 4, seed=3, rounds=4)
    np.testing.assert_allclose(coordinates, x @ directions.T, atol=1e-8)
    np.testing.assert_allclose(directions @ directions.T, np.eye(4), atol=1e-8)
    assert np.array_equal(directions, randomized_svd(x, 4, n_iter=4, random_state=3)[2])
    assert principal(x, 50)[1].shape == (8, 9)


def test_rows_of_length_one_and_rows_of_nothing() -> None:
    np.testing.assert_allclose(unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])
