"""Exact nearest neighbours in blocks, so that memory does not grow with the square of the cells."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 1024


def squared_distances(queries: np.ndarray, points: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows of `queries`, (n_rows, n_points) squared Euclidean distances), block by block, in float64."""
    points = np.asarray(points, dtype=np.float64)
    centre = points.mean(0)
    points = points - centre
    norms = (points**2).sum(1)
    for lo in range(0, len(queries), BLOCK):
        rows = slice(lo, min(lo + BLOCK, len(queries)))
        block = np.asarray(queries[rows], dtype=np.float64) - centre
        yield rows, np.maximum((block**2).sum(1)[:, None] + norms - 2 * block @ points.T, 0.0)


def nearest(queries: np.ndarray, points: np.ndarray, k: int, *, same: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Indices and distances of the `k` nearest points.

    Parameters
    ----------
    queries, points
        (n_queries, d) and (n_points, d).
    k
        Number of neighbours; fewer when there are fewer points.
    same
        The queries are the points, in the same order; a point is not its own neighbour.

    Returns
    -------
    (n_queries, k) indices into `points` and Euclidean distances, nearest first.
    """
    k = min(k, len(points) - same)
    indices = np.empty((len(queries), k), dtype=np.int64)
    distances = np.empty((len(queries), k))
    for rows, block in squared_distances(queries, points):
        if same:
            block[np.arange(block.shape[0]), np.arange(rows.start, rows.stop)] = np.inf
        found = np.argpartition(block, k - 1, axis=1)[:, :k] if k < block.shape[1] else np.argsort(block, axis=1)[:, :k]
        values = np.take_along_axis(block, found, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        indices[rows] = np.take_along_axis(found, order, axis=1)
        distances[rows] = np.sqrt(np.take_along_axis(values, order, axis=1))
    return indices, distances
