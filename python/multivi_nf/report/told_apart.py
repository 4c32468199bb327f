"""What counts alone say, by halves of them: whether they tell cells apart, and whether batches' features agree."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.stats import rankdata

from multivi_nf.reduction import principal
from multivi_nf.report.measures import LEAST_CELLS, MOST_CELLS, correlation, drawn

LEAST_FEATURES = 20
SPLIT_CELLS, SPLIT_FEATURES, AXES = 2000, 4_000, 5
"""Cells of a sample, and features, the most frequent ones, that are split; of all cells `MOST_CELLS`, since the fewer
counts a cell has the more cells it takes to find an axis (docs/decisions/verdict.md)."""
DENSE = 0.2
"""Share of ones from which halves of 0/1 values are no longer independent: each one is in one half or the other."""
RARE = 0.02
"""Expected counts below which a deviation is not scaled up further: single counts of rare features would be all."""


def agreement_of_features(counts: sp.spmatrix, batch: np.ndarray) -> dict[str, float]:
    """How far each batch's features are those of the other batches: rank correlation of mean profiles.

    Names that were swapped or shifted in one batch leave no correlation, whatever types it holds. Noise of a batch's
    own mean is allowed for by the correlation of its halves (Spearman 1904).

    Parameters
    ----------
    counts
        (n_cells, n_features)
    batch
        (n_cells,) text.

    Returns
    -------
    Batch to its correlation with the mean of the others; of batches of 30 cells or more, where 20 features are seen in
    both.
    """
    names = [name for name in np.unique(batch) if (batch == name).sum() >= LEAST_CELLS]
    halves = {name: _halves(counts, np.flatnonzero(batch == name)) for name in names}
    found = {}
    for name in names:
        others = [halves[other] for other in names if other != name]
        if not others:
            continue
        theirs = np.mean(others, axis=0)
        seen = (halves[name].sum(axis=0) > 0) & (theirs.sum(axis=0) > 0)
        if seen.sum() < LEAST_FEATURES:
            continue
        mine, theirs = halves[name][:, seen], theirs[:, seen]
        reliable = [_whole(correlation(rankdata(a), rankdata(b))) for a, b in (mine, theirs)]
        r = correlation(rankdata(mine.mean(axis=0)), rankdata(theirs.mean(axis=0)))
        found[str(name)] = float(np.clip(r / np.sqrt(np.prod(np.clip(reliable, 0.25, 1))), -1, 1))
    return found


def _halves(counts: sp.spmatrix, cells: np.ndarray) -> np.ndarray:
    """(2, n_features) mean profiles, each of sum 1, of every second cell and of the others."""
    sums = np.stack([np.asarray(counts[cells[k::2]].sum(axis=0)).ravel() for k in (0, 1)]).astype(np.float64)
    return sums / np.maximum(sums.sum(axis=1, keepdims=True), 1)


def _whole(half: float) -> float:
    """Reliability of the whole from the correlation of its halves (Spearman 1910, Brown 1910)."""
    return 2 * half / (1 + half) if half > 0 else 0.0


def halved(counts: sp.spmatrix, cells: np.ndarray, seed: int = 0) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Split each count in two by a fair draw: two halves as independent as two sequencing runs of the same cells.

    Parameters
    ----------
    counts
        (n_cells, n_features) whole numbers.
    cells
        (n_cells,) a number a cell: the same cell is split the same way whichever others stand beside it.
    """
    x = sp.csr_matrix(counts)
    rows = np.split(x.data.astype(np.int64), x.indptr[1:-1])
    drawn_ones = [np.random.default_rng([seed, 31, cell]).binomial(row, 0.5) for cell, row in zip(cells, rows)]
    first = np.concatenate(drawn_ones) if drawn_ones else x.data
    return tuple(sp.csr_matrix((part, x.indices, x.indptr), x.shape) for part in (first, x.data - first))


def told_apart(
    halves: tuple[sp.csr_matrix, sp.csr_matrix], along: np.ndarray | None = None
) -> tuple[float, np.ndarray | None]:
    """How far counts tell cells apart: how well one half of each cell's counts foretells what the other half shows.

    The axis along which the first half separates cells most is looked up in the second; depth has no part in it, since
    deviations are taken from what depth and the mean profile make expected (Pearson residuals; Lause, Berens & Kobak
    2021).

    Parameters
    ----------
    halves
        From :func:`halved`, (n_cells, n_features) each.
    along
        (n_features, n_axes) further axes to look along, such as this gives of more cells. A small sample of sparse
        counts differs along them although too little of it is there to find them.

    Returns
    -------
    Reliability of the best axis, for all counts together, less what is chance: 1 where noise plays no part, 0
    where cells differ by nothing but noise and depth. NaN of fewer than 30 cells, and of 0/1 values of which more than
    a fifth are 1.

    (n_features, 5) axes along which the **first** halves differ most beyond depth; None where it is NaN.
    """
    deviations = _deviations(halves)
    if deviations is None:
        return float("nan"), None
    first, second, features = deviations
    own = _axes(first)
    axes = own if along is None else np.hstack([own, along[features]])
    best = max(correlation(p, q) for p, q in zip((first @ axes).T, (second @ axes).T))
    of_all = np.zeros((halves[0].shape[1], own.shape[1]), np.float32)
    of_all[features] = own
    return _whole(best - 2 / np.sqrt(len(first))), of_all


def _axes(deviations: np.ndarray) -> np.ndarray:
    """(n_features, 5) leading directions of a matrix of deviations."""
    return principal(deviations, AXES, rounds=4)[1].T


def _deviations(halves: tuple[sp.csr_matrix, sp.csr_matrix]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Deviations of both halves of some cells in their most frequent features, and these; None: too little is there."""
    whole = (halves[0] + halves[1]).tocsr()
    rows = drawn(whole.shape[0], MOST_CELLS)
    rows = rows[np.asarray(whole[rows].sum(axis=1)).ravel() > 0]
    whole = whole[rows]
    features = np.sort(np.argsort(-np.asarray(whole.sum(axis=0)).ravel(), kind="stable")[:SPLIT_FEATURES])
    x = whole[:, features]
    if len(rows) < LEAST_CELLS or len(features) < 3 or (x.data.max() <= 1 and x.nnz > DENSE * np.prod(x.shape)):
        return None
    first, second = (_residuals(half[rows][:, features]) for half in halves)
    return first, second, features


def _residuals(counts: sp.csr_matrix) -> np.ndarray:
    """(n_cells, n_features) deviations from depth × mean profile over their Poisson s.d., within ± sqrt(n_cells)."""
    x = counts.toarray().astype(np.float32)
    mean = x.sum(axis=1, keepdims=True) * (x.sum(axis=0, keepdims=True) / max(float(x.sum()), 1.0))
    limit = np.sqrt(len(x))
    return np.clip((x - mean) / np.sqrt(np.maximum(mean, RARE)), -limit, limit)
