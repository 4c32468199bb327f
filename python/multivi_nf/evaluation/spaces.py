"""Each modality's own space: PCA of logged counts, LSI of binarised peaks, and means over neighbours in it."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from multivi_nf.reduction import inverse_frequency, log_levelled, nearest, principal


def log_cp10k(counts: sp.spmatrix) -> sp.csr_matrix:
    """log(1 + 10^4 count / library), sparse."""
    return log_levelled(sp.csr_matrix(counts, dtype=np.float64))


class Pca:
    """Principal components of logged counts, fitted on some cells and applied to others.

    Parameters
    ----------
    counts
        (n_cells, n_genes) counts of the cells to fit on.
    n
        Number of components.
    """

    def __init__(self, counts: sp.spmatrix, n: int = 30, seed: int = 0) -> None:
        logged = log_cp10k(counts)
        self.mean = np.asarray(logged.mean(0)).ravel()
        centred = logged.toarray()
        centred -= self.mean
        self.components = principal(centred, n, seed=seed)[1]

    def __call__(self, counts: sp.spmatrix) -> np.ndarray:
        """(n_cells, n) coordinates."""
        return log_cp10k(counts) @ self.components.T - self.mean @ self.components.T

    def restore(self, coordinates: np.ndarray) -> np.ndarray:
        """(n_cells, n_genes) logged expression that the coordinates stand for."""
        return coordinates @ self.components + self.mean


class Lsi:
    """Latent semantic indexing of binarised peaks; the first component, which is depth, is left out."""

    def __init__(self, binary: sp.spmatrix, n: int = 30, seed: int = 0) -> None:
        self.idf = inverse_frequency(sp.csr_matrix(binary))
        self.components = principal(self.weigh(binary), n + 1, seed=seed)[1][1:]

    def weigh(self, binary: sp.spmatrix) -> sp.csr_matrix:
        """log(1 + 10^4 tf idf) of binarised peaks (Signac's method 1), idf of the fitted cells."""
        binary = sp.csr_matrix(binary, dtype=np.float64).copy()
        binary.data[:] = 1
        return log_levelled(binary, weight=self.idf)

    def __call__(self, binary: sp.spmatrix) -> np.ndarray:
        """(n_cells, n) coordinates."""
        return self.weigh(binary) @ self.components.T


def pca_space(counts: sp.spmatrix, n: int = 30) -> np.ndarray:
    """(n_cells, n) principal components of log(1 + CP10k) of these cells."""
    return Pca(counts, n)(counts)


def lsi_space(binary: sp.spmatrix, n: int = 30) -> np.ndarray:
    """(n_cells, n) LSI of these cells."""
    return Lsi(binary, n)(binary)


def neighbour_mean(
    values: np.ndarray | sp.spmatrix, space: np.ndarray, k: int = 50, queries: np.ndarray | None = None
) -> np.ndarray:
    """Mean of `values` over the `k` nearest cells of `space`, the cell itself left in when `queries` is None.

    Parameters
    ----------
    values
        (n_cells, n_features).
    space
        (n_cells, d).
    queries
        (n_queries, d) other cells in the same space.

    Returns
    -------
    (n_queries or n_cells, n_features) float32.
    """
    neighbours, _ = nearest(space if queries is None else queries, space, k)
    n, k = neighbours.shape
    average = sp.csr_matrix((np.full(n * k, 1 / k), neighbours.ravel(), np.arange(0, n * k + 1, k)), (n, len(space)))
    out = average @ values
    return np.asarray(out.todense() if sp.issparse(out) else out, dtype=np.float32)
