"""What reduced spaces are made by: cells brought to one depth and logged, leading directions, neighbours, groups.

What adds numbers up in an order that depends on the number of threads works with one: same input, same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import sparse

from multivi_nf.io.processors import threads_at_most

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

_DENSE = 1 << 22
"""Numbers that are made dense at a time."""

_AT_ONCE = 8192
"""Points whose neighbours are in memory at a time; a multiple of `_BLOCK`, so that distances are rounded alike."""

_BLOCK = 1024
"""Queries that scikit-learn gives to a thread, at least: with fewer, threads share the points between them."""


def log_levelled(
    counts: sparse.spmatrix,
    level: float = 1e4,
    *,
    total: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    logged: bool = True,
) -> sparse.csr_matrix:
    """log(1 + level × share × weight) of each count's share of its cell, sparse; float32 of float32, else float64.

    Of open peaks with :func:`inverse_frequency` as weight it is TF-IDF (Cusanovich et al. 2015; Signac's method 1).

    Parameters
    ----------
    counts
        (n_cells, n_features).
    level
        The depth that every cell is brought to.
    total
        (n_cells,) depths, where they are not the sums of `counts`.
    weight
        (n_features,)
    logged
        False: no logarithm is taken, for what has to be linear in the shares.
    """
    total = np.asarray(counts.sum(axis=1)).ravel() if total is None else total
    x = sparse.csr_matrix(counts, dtype=np.result_type(counts.dtype, np.float32), copy=True)
    x.data *= np.repeat((level / np.maximum(total, 1)).astype(x.dtype), np.diff(x.indptr))
    if weight is not None:
        x.data *= weight[x.indices]
    if logged:
        np.log1p(x.data, out=x.data)
    return x


def inverse_frequency(counts: sparse.csr_matrix, *, damped: bool = False) -> np.ndarray:
    """(n_features,) cells over those that show the feature (at least one).

    `damped` takes log(1 + x) of it, which tells sums of two cells better from cells (docs/decisions/reduction.md) and
    types of cells worse.
    """
    shown = np.bincount(counts.indices, weights=counts.data > 0, minlength=counts.shape[1])
    frequency = counts.shape[0] / np.maximum(shown, 1)
    return np.log1p(frequency) if damped else frequency


def residual_variance(counts: sparse.csr_matrix) -> np.ndarray:
    """(n_features,) variance of Pearson residuals, by which genes are called variable.

    Residuals of a negative binomial with dispersion 100 at the cell's own total, clipped at the root of the number of
    cells (Lause, Berens & Kobak, Genome Biology 2021, equation 3). Dense some cells at a time.
    """
    n = counts.shape[0]
    total = np.maximum(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(), 1)
    share = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel() / total.sum()
    first, second = np.zeros((2, counts.shape[1]))
    step = max(1, _DENSE // max(counts.shape[1], 1))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        expected = np.maximum(total[rows, None] * share, 1e-12)
        residual = (counts[rows].toarray() - expected) / np.sqrt(expected + expected**2 / 100)
        np.clip(residual, -np.sqrt(n), np.sqrt(n), out=residual)
        first += residual.sum(axis=0)
        second += (residual**2).sum(axis=0)
    return second / max(n, 1) - (first / max(n, 1)) ** 2


def principal(
    x: np.ndarray | sparse.spmatrix, n: int, *, seed: int = 0, rounds: int | Literal["auto"] = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """Leading `n` directions of a matrix, fewer if it is small: truncated singular value decomposition.

    Parameters
    ----------
    x
        (n_cells, n_features); not centred here.
    rounds
        Power iterations of the randomised algorithm (Halko et al. 2011).

    Returns
    -------
    (n_cells, n) coordinates and (n, n_features) directions.
    """
    from sklearn.utils.extmath import randomized_svd  # dear to import

    with threads_at_most(1):
        left, values, directions = randomized_svd(x, min(n, min(x.shape) - 1), n_iter=rounds, random_state=seed)
    return left * values, directions


def nearest(queries: np.ndarray, points: np.ndarray, k: int, *, same: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Indices and Euclidean distances of the `k` nearest points, exact: a tree, or in blocks beyond 15 dimensions.

    The one place that chooses. Only the graph of the map (`latent/annotate.py`) is approximate, from 4,096 cells on:
    there scanpy's is expected.

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
    (n_queries, k) indices into `points` and distances, nearest first. Of equally near ones the same for any number of
    threads.
    """
    from sklearn.neighbors import NearestNeighbors  # dear to import

    k = min(k, len(points) - same)
    if not len(queries) or k < 1:
        return np.zeros((len(queries), max(k, 0)), np.int64), np.zeros((len(queries), max(k, 0)))
    with threads_at_most(max((len(queries) - 1) // _BLOCK, 1)):
        near = NearestNeighbors(n_neighbors=k).fit(np.asarray(points, np.float64))
        distances, found = near.kneighbors(None if same else np.asarray(queries, np.float64))
    return found, distances


def nearest_others(points: np.ndarray, k: int, among: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Indices that :func:`nearest` gives points among themselves, some thousand points at a time.

    For what is summed up of each: all at once take 16 bytes a point and neighbour.

    Parameters
    ----------
    among
        Ascending indices of those that are taken for neighbours; None: all.

    Yields
    ------
    (n, k) int64, from the first point on.
    """
    from sklearn.neighbors import NearestNeighbors

    among = np.arange(len(points)) if among is None else among
    k = min(k, len(among) - 1)
    if k < 1:
        yield np.zeros((len(points), 0), np.int64)
        return
    points, may = np.asarray(points, np.float64), np.isin(np.arange(len(points)), among)
    near = NearestNeighbors(n_neighbors=k + 1).fit(points[among])
    for start in range(0, len(points), _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, len(points)))
        with threads_at_most(max((len(rows) - 1) // _BLOCK, 1)):
            found = among[near.kneighbors(points[rows], return_distance=False)]
        others = found != rows[:, None]
        alone = others.all(axis=1)
        others[alone & may[rows], 0] = False  # of more than k equal points, as scikit-learn does
        others[alone & ~may[rows], -1] = False
        yield found[others].reshape(-1, k)


def grouped(x: np.ndarray, n: int, *, starts: int, seed: int = 0) -> KMeans:
    """k-means of (n_cells, d) places in `n` groups, the best of some `starts`."""
    from sklearn.cluster import KMeans

    with threads_at_most(1):
        return KMeans(n, n_init=starts, random_state=seed).fit(x)


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows at length one; those of zeros stay."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
