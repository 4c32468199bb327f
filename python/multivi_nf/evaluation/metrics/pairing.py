"""Whether two views of the same cell lie together: FOSCTTM and neighbour ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

BLOCK = 1024
"""Cells at a time, so that memory does not grow with the square of the cells."""


@dataclass(frozen=True)
class Pairing:
    """Agreement of two views of the same cells; row i of both is cell i. Neighbours are looked for in the other view.

    Attributes
    ----------
    foscttm
        Mean share of cells closer than the true match, over both directions; chance is 0.5 (Liu et al. 2019).
    median_rank, mean_rank
        Rank of the true match (from 1) over the number of cells.
    mutual_rank
        Mean over cells of the smallest k at which each view is among the other's k nearest, over the number of cells
        (the measure of the MultiVI paper, there not divided).
    same_cell_1, same_cell_10
        Share whose true match is the nearest, or among the ten nearest; chance is 1/N and 10/N.
    same_label
        Share whose nearest cell of the other view has the same label; NaN without labels.
    """

    n_cells: int
    foscttm: float
    median_rank: float
    mean_rank: float
    mutual_rank: float
    same_cell_1: float
    same_cell_10: float
    same_label: float

    def to_dict(self) -> dict[str, float]:
        """The values by name."""
        return asdict(self)


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


def directed(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells of `b` closer to a[i] than b[i] is (ties count half), and the nearest cell of `b`."""
    closer = np.empty(len(a))
    first = np.empty(len(a), dtype=np.int64)
    for rows, block in squared_distances(a, b):
        own = block[np.arange(block.shape[0]), np.arange(rows.start, rows.stop)][:, None]
        closer[rows] = (block < own).sum(1) + 0.5 * ((block == own).sum(1) - 1)
        first[rows] = block.argmin(1)
    return closer, first


def pairing(a: np.ndarray, b: np.ndarray, labels: np.ndarray | None = None) -> Pairing:
    """Score two views of the same cells.

    Parameters
    ----------
    a, b
        (n_cells, d) embeddings of the two views, in the same cell order.
    labels
        (n_cells,) cell types.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.arange(8.0)[:, None]
    >>> pairing(one, one).foscttm, pairing(one, -one).foscttm
    (0.0, 0.5)
    """
    if np.shape(a) != np.shape(b):
        msg = f"the two views must have the same shape, not {np.shape(a)} and {np.shape(b)}"
        raise ValueError(msg)
    n = len(a)
    (closer_ab, first_ab), (closer_ba, first_ba) = directed(a, b), directed(b, a)
    ranks = np.concatenate([closer_ab, closer_ba]) + 1
    same_label = float("nan")
    if labels is not None:
        labels = np.asarray(labels)
        same_label = float(np.mean([(labels[first] == labels).mean() for first in (first_ab, first_ba)]))
    return Pairing(
        n_cells=n,
        foscttm=float((ranks - 1).mean() / max(n - 1, 1)),
        median_rank=float(np.median(ranks) / n),
        mean_rank=float(ranks.mean() / n),
        mutual_rank=float((np.maximum(closer_ab, closer_ba) + 1).mean() / n),
        same_cell_1=float((ranks < 2).mean()),
        same_cell_10=float((ranks < 11).mean()),
        same_label=same_label,
    )
