"""Where encoders start: the leading directions of the data instead of random ones.

A random first layer of an encoder sees mostly sequencing depth and noise, and with a few thousand cells it learns the
cells by heart before it has found what they have in common. The leading singular vectors of normalised counts are that
common part, at the price of one truncated decomposition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from multivi_nf.data.source import Matrix
from multivi_nf.io.processors import threads_at_most
from multivi_nf.reduction import inverse_frequency, log_levelled, nearest, principal, unit_rows

N_DIRECTIONS = 30
"""Components that the first layer starts with; the usual number of PCA and LSI."""

N_CELLS = 20_000
"""Cells they are computed from at most: more change the leading ones hardly, and memory stays bounded."""

SCALE = 1e4
"""Of tf-idf, as in Signac's RunTFIDF, method 1."""


N_BETWEEN = 10
"""Directions between batches that are left out at most: of many batches they span cell types as well."""

N_MUTUAL = 20
"""Neighbours on either side among which a pair of cells of two batches must find each other."""


ALIKE = 0.5
"""Share of the ninth decile of the cosine of mutual neighbours below which two are no counterparts: types that each of
two batches has alone may be each other's nearest."""

CHUNK = 20_000
"""Cells whose scores are computed at a time."""


@dataclass
class Directions:
    """The leading directions of a matrix.

    Attributes
    ----------
    vectors
        (n_features, k) directions of normalised counts, without the mean profile and what parts batches.
    weight
        (n_features,) of each feature in the normalisation.
    median
        Total that cells are levelled to.
    cells
        (n,) int64 rows they were computed from, all with a count.
    normalised
        (n, n_features) these rows.
    """

    vectors: np.ndarray
    weight: np.ndarray
    median: float
    cells: np.ndarray
    normalised: sp.csr_matrix

    def scores(self, matrix: Matrix) -> np.ndarray:
        """(n_cells, k) float64 scores of all cells, those of empty cells 0."""
        found = np.zeros((len(matrix.cells), self.vectors.shape[1]))
        for start in range(0, len(found), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(found)))
            found[rows] = self.levels(matrix, rows) @ self.vectors
        return found

    def levels(self, matrix: Matrix, rows: np.ndarray) -> sp.csr_matrix:
        """(n_rows, n_features) normalised counts of some rows."""
        counts = matrix.rows(rows)
        total = np.asarray(counts.sum(1)).ravel()
        return _levelled(counts, total, self.median, self.weight, matrix.values is None)


@threads_at_most(1)
def first_layer(
    matrix: Matrix,
    n_hidden: int,
    *,
    seed: int = 0,
    batch: np.ndarray | None = None,
    seen: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Weight and bias that make a first hidden layer a rotation of the data's leading components.

    Counts become log(1 + count at the median total) and 0/1 peaks tf x log(1 + 10^4 idf / median total): the linear
    part of log-normalisation and of LSI (Cusanovich et al., Cell 2018), whose right singular vectors after the first
    (the mean profile) are taken, with what is left of the mean profile projected out, since that would be depth.
    Components enter by the square root of their standard deviation, half-way between PCA and whitening, and are spread
    over all hidden units by a random rotation.

    Parameters
    ----------
    matrix
        Counts; without values they are 0/1.
    n_hidden
        Width of the layer.
    seed
        Of the cells drawn, the decomposition and the rotation.
    batch
        (n_cells,) batch of each cell: what separates batches where they have counterparts is left out as well, so that
        encoders start blind to it. None keeps it.
    seen
        (n_features,) bool: features that have a weight, the others' are 0; None is all.

    Returns
    -------
    (n_features, n_hidden) float32 weight for the encoder's input, log(1 + count) or 0/1, and (n_hidden,) float32 bias;
    units have variance 1 on average and mean 0. None where there are too few cells or features for a direction.
    """
    found = leading(matrix, n_hidden, seed=seed, batch=batch, seen=seen)
    if found is None:
        return None
    normalised, directions, binary = found.normalised, found.vectors, matrix.values is None
    spread = (normalised @ directions).std(0)
    kept = spread > 1e-6 * max(spread.max(), 1e-12)
    if not kept.any():
        return None
    counts = matrix.rows(found.cells) if seen is None else matrix.rows(found.cells)[:, np.flatnonzero(seen)]
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((n_hidden, int(kept.sum()))))[0].T
    layer = (found.weight[:, None] * directions[:, kept] / np.sqrt(spread[kept])) @ rotation
    units = (counts if binary else counts.log1p()) @ layer
    scale = units.std(0).mean()
    if seen is not None:
        whole = np.zeros((len(seen), layer.shape[1]))
        whole[seen] = layer
        layer = whole
    return (layer / scale).astype(np.float32), (-units.mean(0) / scale).astype(np.float32)


def leading(
    matrix: Matrix,
    n: int,
    *,
    seed: int = 0,
    batch: np.ndarray | None = None,
    among: np.ndarray | None = None,
    seen: np.ndarray | None = None,
) -> Directions | None:
    """`n` leading directions of the rows `among` (None: all), `N_DIRECTIONS` at most; see :func:`first_layer`.

    Where `seen` tells features, they are directions of these alone.
    """
    binary = matrix.values is None
    some = np.arange(len(matrix.cells)) if among is None else among
    if len(some) > N_CELLS:
        some = np.sort(np.random.default_rng(seed).choice(some, N_CELLS, replace=False))
    counts = matrix.rows(some) if seen is None else matrix.rows(some)[:, np.flatnonzero(seen)]
    total = np.asarray(counts.sum(1)).ravel()
    some, counts, total = some[total > 0], counts[total > 0], total[total > 0]
    n = min(N_DIRECTIONS, n, min(counts.shape) - 2)
    if n < 1:
        return None
    normalised, weight = _normalise(counts, total, binary=binary)
    directions = principal(normalised, n + 1, seed=seed)[1][1:].T
    mean = np.asarray(normalised.mean(0)).ravel()
    mean /= np.linalg.norm(mean)
    directions = directions - np.outer(mean, mean @ directions)
    group = None if batch is None else np.asarray(batch)[some]
    if group is not None and len(set(group)) > 1:
        between = _between(normalised, group, mean, normalised @ directions)
        directions = directions - between @ (between.T @ directions)
    return Directions(directions, weight, float(np.median(total)), some, normalised)


def _between(normalised: sp.csr_matrix, group: np.ndarray, mean: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(n_features, k) orthonormal: the leading directions between groups where they have counterparts.

    Of each group against the rest the mean difference over mutual nearest neighbours (Haghverdi et al. 2018) that are
    as alike as most (`ALIKE`), without its part along `mean`: plain differences of means would hold the cell types that
    one group alone has.
    """
    names, code, size = np.unique(group.astype(str), return_inverse=True, return_counts=True)
    place = unit_rows(scores)
    rows = []
    for i in range(names.size):
        inside, outside = np.flatnonzero(code == i), np.flatnonzero(code != i)
        a, b = _mutual(place[inside], place[outside])
        if a.size:
            alike = np.einsum("ij,ij->i", place[inside[a]], place[outside[b]])
            near = alike >= ALIKE * max(np.quantile(alike, 0.9), 0.0)
            a, b = a[near], b[near]
        if a.size:
            shift = normalised[inside[a]].mean(0) - normalised[outside[b]].mean(0)
            rows.append(np.sqrt(size[i] / size.sum()) * np.asarray(shift, dtype=np.float64).ravel())
    if not rows:
        return np.zeros((normalised.shape[1], 0))
    shifts = np.stack(rows)
    shifts -= np.outer(shifts @ mean, mean)
    _, spread, directions = np.linalg.svd(shifts, full_matrices=False)
    kept = spread > 1e-6 * max(spread.max(), 1e-12)
    return directions[kept][:N_BETWEEN].T


def _mutual(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `a` and of `b` that are among each other's `N_MUTUAL` nearest."""
    there, back = nearest(a, b, N_MUTUAL)[0], nearest(b, a, N_MUTUAL)[0]
    shape = (len(a), len(b))
    one = sp.csr_matrix((np.ones(there.size), (np.repeat(np.arange(len(a)), there.shape[1]), there.ravel())), shape)
    two = sp.csr_matrix((np.ones(back.size), (back.ravel(), np.repeat(np.arange(len(b)), back.shape[1]))), shape)
    return one.multiply(two).nonzero()


def _normalise(counts: sp.csr_matrix, total: np.ndarray, *, binary: bool) -> tuple[sp.csr_matrix, np.ndarray]:
    """Cells at the median total, logged (counts) or weighted by idf (0/1); and each feature's weight."""
    median = np.median(total)
    weight = np.ones(counts.shape[1])
    if binary:
        weight = np.log1p(SCALE * inverse_frequency(counts) / median)
    return _levelled(counts, total, median, weight, binary), weight


def _levelled(
    counts: sp.csr_matrix, total: np.ndarray, median: float, weight: np.ndarray, binary: bool
) -> sp.csr_matrix:
    """Of 0/1 linear in the shares, as the first layer is: TF-IDF as it is of a cell of median depth."""
    return log_levelled(counts, median, total=total, weight=weight, logged=not binary)
