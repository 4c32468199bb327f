"""Counts on the scale that people plot: logarithms of what does not depend on the cell's depth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from anndata import AnnData
from scipy import sparse

from multivi_nf.mosaic.rows import counts_of, runs
from multivi_nf.reduction import log_levelled

SCALES = {
    "rna": "ln(1 + counts per 10,000 counts of the cell)",
    "atac": "ln(1 + fragments per 10,000 fragments of the cell in peaks)",
    "protein": "ln(1 + counts / the cell's geometric mean of (1 + counts)): centred log ratio",
}
"""What `X` of `h5ad/<modality>.h5ad` is."""


def log_normalised(counts: sparse.csr_matrix, modality: str) -> sparse.csr_matrix:
    """Normalise each cell by its depth and take log(1 + x); zeros stay zeros.

    Parameters
    ----------
    counts
        (n_cells, n_features) CSR of counts.
    modality
        rna and atac: per 10,000 of the cell's total. protein: by the geometric mean of 1 + counts over the panel
        (Seurat's `NormalizeData(method = "CLR", margin = 2)`), since few proteins make a total that one of them leads.

    Returns
    -------
    CSR float32 of the same shape, natural logarithm.
    """
    if modality != "protein":
        return log_levelled(counts.astype(np.float64)).astype(np.float32)
    logs = counts.astype(np.float64)
    logs.data = np.log1p(logs.data)
    size = np.exp(np.asarray(logs.sum(axis=1)).ravel() / max(counts.shape[1], 1))
    return log_levelled(counts, 1, total=size).astype(np.float32)


def normalised_runs(data: AnnData, modality: str) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Yield a modality's cells a run at a time: where they stand, and :func:`log_normalised` of their counts."""
    for at, counts in runs(counts_of(data)):
        yield at, log_normalised(counts, modality)


def add_up(total: np.ndarray, rows: np.ndarray, values: sparse.csr_matrix) -> None:
    """Add each row of (n, n_features) `values` to a row of (n_rows, n_features) `total`, in place and cell by cell.

    Sums so come out the same to the bit however the cells are cut into runs.

    Parameters
    ----------
    rows
        (n,) the row of `total` that each is added to.
    """
    place = np.repeat(rows.astype(np.int64) * total.shape[1], np.diff(values.indptr)) + values.indices
    np.add.at(total.reshape(-1), place, values.data)
