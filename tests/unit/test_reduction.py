"""The formulas of reduced spaces, by hand."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from multivi_nf.reduction import inverse_frequency, log_levelled, nearest, nearest_others, principal, unit_rows

COUNTS = sparse.csr_matrix(np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]]))


def test_cells_are_brought_to_one_depth_and_logged() -> None:
    expected = np.log1p([[2.5, 7.5, 0.0], [0.0, 0.0, 10.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(log_levelled(COUNTS, 10).toarray(), expected)
    weighed = np.log1p([[2.5, 15.0, 0.0], [0.0, 0.0, 30.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(log_levelled(COUNTS, 10, weight=np.array([1, 2, 3])).toarray(), weighed)
    shares = [[2.5, 7.5, 0.0], [0.0, 0.0, 10.0], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(log_levelled(COUNTS, 10, logged=False).toarray(), shares)
    assert log_levelled(COUNTS.astype(np.float32)).dtype == np.float32 != log_levelled(COUNTS.astype(int)).dtype
    halves = np.log1p([[1.25, 3.75, 0.0], [0.0, 0.0, 5.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(log_levelled(COUNTS, 10, total=np.array([8, 4, 0])).toarray(), halves)
    assert COUNTS.data.tolist() == [1, 3, 2], "the counts stay as they are"


def test_cells_over_those_that_show_a_peak() -> None:
    zero_stored = sparse.csr_matrix((COUNTS.data * [1, 0, 1], COUNTS.indices, COUNTS.indptr), COUNTS.shape)
    np.testing.assert_allclose(inverse_frequency(COUNTS), [3, 3, 3])
    np.testing.assert_allclose(inverse_frequency(zero_stored[:2], damped=True), np.log1p([2, 2, 2]))
    np.testing.assert_allclose(inverse_frequency(sparse.vstack([COUNTS, COUNTS[:1]]).tocsr()), [2, 2, 4])


def test_leading_directions_are_those_of_the_decomposition() -> None:
    x = np.random.default_rng(0).normal(size=(40, 9))
    coordinates, directions = principal(x, 4, seed=3, rounds=4)
    np.testing.assert_allclose(coordinates, x @ directions.T, atol=1e-8)
    np.testing.assert_allclose(directions @ directions.T, np.eye(4), atol=1e-8)
    assert np.array_equal(directions, randomized_svd(x, 4, n_iter=4, random_state=3)[2])
    assert principal(x, 50)[1].shape == (8, 9)


def test_rows_of_length_one_and_rows_of_nothing() -> None:
    np.testing.assert_allclose(unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])


def test_nearest_is_brute_force() -> None:
    rng = np.random.default_rng(0)
    points, queries = rng.normal(size=(30, 4)), rng.normal(size=(19, 4))
    table = np.linalg.norm(queries[:, None] - points[None], axis=2)
    found, distances = nearest(queries, points, 5)
    np.testing.assert_array_equal(found, np.argsort(table, axis=1)[:, :5])
    np.testing.assert_allclose(distances, np.sort(table, axis=1)[:, :5], atol=1e-10)
    own, _ = nearest(points, points, 40, same=True)
    assert own.shape == (30, 29)
    assert not (own == np.arange(30)[:, None]).any()
    assert nearest(queries[:0], points, 5)[0].shape == (0, 5) and nearest(points, points[:1], 5)[1].shape == (30, 1)


def test_neighbours_a_block_at_a_time_are_those_of_all_at_once(monkeypatch) -> None:
    monkeypatch.setattr("multivi_nf.reduction._AT_ONCE", 8)
    rng = np.random.default_rng(0)
    for points in (rng.normal(size=(30, 4)), rng.normal(size=(30, 20)), np.repeat(rng.normal(size=(3, 20)), 10, 0)):
        blocks = list(nearest_others(points, 5))
        assert [len(block) for block in blocks] == [8, 8, 8, 6]
        found = np.concatenate(blocks)
        assert not (found[np.arange(30) != 0] == np.arange(1, 30)[:, None]).any()
        if len(np.unique(points, axis=0)) == 30:
            np.testing.assert_array_equal(found, nearest(points, points, 5, same=True)[0])
    assert np.concatenate(list(nearest_others(points, 50))).shape == (30, 29)
    assert next(nearest_others(points[:1], 5)).shape == (1, 0)


def test_neighbours_among_some() -> None:
    points = np.random.default_rng(0).normal(size=(30, 20))
    some = np.arange(0, 30, 3)
    (found,) = nearest_others(points, 4, some)
    table = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(table, np.inf)
    np.testing.assert_array_equal(found, some[np.argsort(table[:, some], axis=1)[:, :4]])


def test_the_same_bytes_on_any_number_of_threads() -> None:
    """Places of whole numbers: many are equally near. Sums of many numbers differ in their last bit by their order."""
    code = """if True:
        import hashlib, numpy as np
        from multivi_nf.reduction import grouped, nearest, principal
        rng = np.random.default_rng(0)
        points, dense = rng.integers(0, 3, (2500, 20)).astype(float), rng.normal(size=(2500, 300))
        found = [*nearest(points, points, 30, same=True), *nearest(points[:500], points, 30), *principal(dense, 10)]
        found.append(grouped(dense, 8, starts=2).cluster_centers_)
        print([hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest() for x in found])
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    one, four = (
        subprocess.run([sys.executable, "-c", code], env=os.environ | dict.fromkeys(names, n), capture_output=True)
        for n in ("1", "4")
    )
    assert one.stdout and one.stdout == four.stdout, (one.stderr, four.stderr)
