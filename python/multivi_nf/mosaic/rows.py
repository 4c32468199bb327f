"""Counts of a mosaic some rows at a time, whether they are in memory or stay in its file (`read.read_tables`).

What is added up over cells goes on where it stood, cell by cell, so that sums do not depend on where runs end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TypeAlias

import h5py
import numpy as np
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from multivi_nf.io.hdf5 import reading

ROWS = 2048
"""Cells read at a time."""
GAP = 64
"""Rows apart up to which two wanted rows are read in one go: a call costs more than a few rows that are not wanted."""

Counts: TypeAlias = "sparse.csr_matrix | CSRDataset"


def counts_of(data: AnnData) -> Counts:
    """(n_cells, n_features) counts of a modality: `layers["counts"]` where there is one, else X."""
    return rows_by_rows(data.layers["counts"] if "counts" in data.layers else data.X)


def rows_by_rows(matrix: object) -> Counts:
    """A matrix as CSR; one that stays in a file so is left there."""
    if isinstance(matrix, CSRDataset):
        return matrix
    if isinstance(matrix, h5py.Dataset):
        return sparse.csr_matrix(matrix[()])
    return sparse.csr_matrix(matrix.to_memory() if isinstance(matrix, CSCDataset) else matrix)


def runs(matrix: Counts, rows: int = ROWS) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Yield all rows in their order, a run at a time: where they stand, and the rows.

    Raises
    ------
    InputError
        The file does not hold what it should.
    """
    for start in range(0, matrix.shape[0], rows):
        at = slice(start, min(start + rows, matrix.shape[0]))
        yield at, _read(matrix, at)


def chosen(matrix: Counts, wanted: np.ndarray) -> sparse.csr_matrix:
    """(n_wanted, n_features) some rows, in the order given.

    Raises
    ------
    InputError
        The file does not hold what it should.
    """
    if not isinstance(matrix, CSRDataset):
        return matrix[wanted]
    unique, back = np.unique(wanted, return_inverse=True)
    if not len(unique):
        return sparse.csr_matrix((0, matrix.shape[1]), dtype=matrix.dtype)
    far = (np.diff(unique) > GAP) | (np.diff(unique // ROWS) > 0)
    parts = [
        _read(matrix, slice(run[0], run[-1] + 1))[run - run[0]] for run in np.split(unique, np.flatnonzero(far) + 1)
    ]
    found = sparse.vstack(parts, format="csr")
    return found if np.array_equal(back, np.arange(len(unique))) else found[back]


def _read(matrix: Counts, rows: slice) -> sparse.csr_matrix:
    where = reading(Path(matrix.group.file.filename)) if isinstance(matrix, CSRDataset) else nullcontext()
    with where:
        return matrix[rows]
