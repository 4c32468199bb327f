"""Rows of a minibatch as scipy has them."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from multivi_nf.data.minibatch import SparseRows


def as_csr(rows: SparseRows, dtype: type[np.floating], values: np.ndarray | None = None) -> sparse.csr_matrix:
    """(n_rows, n_features) on the host.

    Parameters
    ----------
    values
        (nnz,) in place of the rows' own, of which None are ones.
    """
    if values is None:
        values = np.ones(rows.indices.numel()) if rows.values is None else rows.values.cpu().numpy()
    host = values.astype(dtype), rows.indices.cpu().numpy(), rows.indptr.cpu().numpy()
    return sparse.csr_matrix(host, shape=(rows.n_rows, rows.n_features))
