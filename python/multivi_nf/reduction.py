"""What reduced spaces are made by: cells brought to one depth and logged, leading directions, rows of length one."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import sparse


def log_levelled(
    counts: sparse.spmatrix, level: float = 1e4, *, total: np.ndarray | None = None, weight: np.ndarray | None = None
) -> sparse.csr_matrix:
    """log(1 + level × share × weight) of each count's share of its cell, sparse.

    Parameters
    ----------
    counts
        (n_cells, n_features).
    level
        The depth that every cell is brought to.
    total
        (n_cells,) depths, where they are not the sums of `counts`.
    weight
        (n_features,) of peaks their inverse document frequency (TF-IDF, Cusanovich et al. 2015).
    """
    total = np.asarray(counts.sum(axis=1)).ravel() if total is None else total
    x = sparse.csr_matrix(sparse.diags(level / np.maximum(total, 1)) @ counts)
    if weight is not None:
        x = sparse.csr_matrix(x @ sparse.diags(weight))
    x.data = np.log1p(x.data)
    return x


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

    left, values, directions = randomized_svd(x, min(n, min(x.shape) - 1), n_iter=rounds, random_state=seed)
    return left * values, directions


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows at length one; those of zeros stay."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
