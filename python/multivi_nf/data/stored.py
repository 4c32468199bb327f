"""A mosaic that stays on disk: inference reads the rows it is asked for, and memory does not grow with the others."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import h5py
import numpy as np
import pandas as pd
import torch
from anndata.io import read_elem
from scipy import sparse

from multivi_nf.data.checks import check_names, check_values, narrow, panel_table
from multivi_nf.data.insertions import counted_twice, fragments_of, note_of, samples_of
from multivi_nf.data.minibatch import SparseRows
from multivi_nf.data.source import Matrix, Source, counts_group, source_of
from multivi_nf.io.hdf5 import check_hdf5, reading
from multivi_nf.modalities import MODALITIES

CACHE = 4 << 20
"""Bytes of decompressed chunks kept for each dataset: neighbouring runs of rows share their first and last."""

STAGED = 1024
"""Rows unpacked at a time."""

GAP = 64
"""Rows apart up to which two wanted rows are read in one go: a call costs more than a few rows that are not wanted."""


RUN = 1 << 20
"""Entries read in one go, about: four of the file's chunks. Without it a run of sparse rows may span the whole file."""


@dataclass
class StoredMatrix:
    """Counts of one modality in a file; only row pointers are in memory (8 bytes a row).

    Attributes
    ----------
    modality
        For messages.
    cells, var, indptr
        As of :class:`multivi_nf.data.source.Matrix`.
    indices, values
        Datasets of the open file.
    binary
        Stored entries count as 1 (ATAC, unless fragments are modelled).
    doubled
        (n_rows,) rows that hold insertions, read as fragments; None is no row.
    """

    modality: str
    cells: pd.Index
    var: pd.DataFrame
    indptr: np.ndarray
    indices: h5py.Dataset
    values: h5py.Dataset
    binary: bool
    doubled: np.ndarray | None = None

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return len(self.var)

    @property
    def n_bytes(self) -> int:
        """Bytes of counts held in memory."""
        return self.indptr.nbytes

    def in_memory(self) -> Matrix:
        """All rows, for what has to touch every column."""
        all_rows = self.rows(torch.arange(len(self.cells)), torch.device("cpu"))
        values = None if all_rows.values is None else narrow(all_rows.values.numpy())
        return Matrix(self.cells, self.var, all_rows.indptr.numpy(), all_rows.indices.numpy(), values)

    def to(self, device: torch.device) -> None:
        """Nothing to move: rows are copied as they are read."""

    def rows(self, rows: torch.Tensor, device: torch.device) -> SparseRows:
        """Read rows (positions in any order, repeated or not) and put them on `device`, in the order given.

        Raises
        ------
        InputError
            A value that is no count.
        """
        wanted = rows.numpy()
        unique, back = np.unique(wanted, return_inverse=True)
        cuts = np.flatnonzero((np.diff(unique) > GAP) | (np.diff(self.indptr[unique] // RUN) > 0)) + 1
        if not unique.size:
            counts = sparse.csr_matrix((0, self.n_features), dtype=np.float32)
        else:
            counts = sparse.vstack([self._run(run) for run in np.split(unique, cuts)], format="csr")
            # already in the order asked for, as runs of cells nearly always are
            counts = counts if np.array_equal(back, np.arange(unique.size)) else counts[back]
        if self.doubled is not None:
            twice = np.repeat(self.doubled[wanted], np.diff(counts.indptr))
            counts.data = np.where(twice, fragments_of(counts.data), counts.data)
        values = None if self.binary else torch.from_numpy(counts.data.astype(np.float32)).to(device)
        indptr = torch.from_numpy(counts.indptr.astype(np.int64)).to(device)
        return SparseRows(indptr, torch.from_numpy(counts.indices.astype(np.int32)).to(device), values, self.n_features)

    def _run(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Read rows that lie close together in one go; give those that were asked for, sorted and without zeros."""
        first, last = self.indptr[rows[0]], self.indptr[rows[-1] + 1]
        read = slice(rows[0], rows[-1] + 2)
        with reading(self.indices.file.filename):
            values = self.values[first:last]
            check_values(self.modality, values)
            shape = (rows[-1] + 1 - rows[0], self.n_features)
            counts = sparse.csr_matrix((values, self.indices[first:last], self.indptr[read] - first), shape=shape)
        counts = counts[rows - rows[0]]
        counts.sum_duplicates()
        counts.eliminate_zeros()
        return counts


class StagedRows:
    """Some rows of a stored matrix, unpacked into a scratch file that vanishes with the process.

    Cells that are drawn at random lie all over a file: asked for block by block, every block would unpack most of the
    file again. Here they are read once, in the file's order; memory is that of one run of rows.

    Parameters
    ----------
    stored
        The matrix.
    rows
        (n,) rows to unpack; others are read from `stored`.
    """

    def __init__(self, stored: StoredMatrix, rows: np.ndarray) -> None:
        self.stored, rows = stored, np.unique(rows)
        self.place = np.full(len(stored.cells), -1, np.int64)
        self.place[rows] = np.arange(len(rows))
        lengths = [np.zeros(1, np.int64)]
        self.indices, self.values = (tempfile.TemporaryFile(prefix="multivi_nf_") for _ in range(2))
        for start in range(0, len(rows), STAGED):
            part = stored.rows(torch.from_numpy(rows[start : start + STAGED]), torch.device("cpu"))
            lengths.append(np.diff(part.indptr.numpy()))
            self.indices.write(part.indices.numpy().data)
            if part.values is not None:
                self.values.write(part.values.numpy().data)
        self.starts = np.cumsum(np.concatenate(lengths))
        for file in (self.indices, self.values):
            file.flush()

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return self.stored.n_features

    @property
    def n_bytes(self) -> int:
        """Bytes of counts held in memory."""
        return self.stored.n_bytes + self.starts.nbytes

    def to(self, device: torch.device) -> None:
        """Nothing to move: rows are copied as they are read."""

    def rows(self, rows: torch.Tensor, device: torch.device) -> SparseRows:
        """The same as :meth:`StoredMatrix.rows`."""
        place = self.place[rows.numpy()]
        if (place < 0).any():
            return self.stored.rows(rows, device)
        first, last = self.starts[place], self.starts[place + 1]
        indptr = torch.from_numpy(np.concatenate([np.zeros(1, np.int64), np.cumsum(last - first)])).to(device)
        indices = self._read(self.indices, first, last, np.int32)
        values = None if self.stored.binary else self._read(self.values, first, last, np.float32).to(device)
        return SparseRows(indptr, indices.to(device), values, self.n_features)

    @staticmethod
    def _read(file: IO[bytes], first: np.ndarray, last: np.ndarray, dtype: type) -> torch.Tensor:
        size = np.dtype(dtype).itemsize
        parts = [os.pread(file.fileno(), size * int(b - a), size * int(a)) for a, b in zip(first, last, strict=True)]
        return torch.from_numpy(np.frombuffer(bytearray(b"".join(parts)), dtype))


def stored_source(
    path: str | os.PathLike[str], *, atac_counts: bool = False, columns: Collection[str] | None = None
) -> Source:
    """Open a mosaic for inference; counts stay in the file, which is kept open as long as the source lives.

    A file that another tool wrote is read into memory as :func:`multivi_nf.data.source.source_of` does; `atac_counts`
    as there. Of obs `columns`, `batch` and `sample` are read; all, where one of them is not there, or of None.

    Raises
    ------
    InputError
        The file cannot be read, holds no cell of any modality, or repeats a name.
    """
    path = Path(path)
    if not path.is_file():
        return source_of(path)  # which says what is wrong
    check_hdf5(path)
    with reading(path):
        source = _stored(path, atac_counts, columns)
    return source_of(path, atac_counts=atac_counts) if source is None else source


def _stored(path: Path, atac_counts: bool, columns: Collection[str] | None) -> Source | None:
    """The same of a mosaic of ours; None where the file is not one."""
    file = h5py.File(path, "r", rdcc_nbytes=CACHE)
    groups = {m: file["mod"][m] for m in MODALITIES if m in file.get("mod", {})}
    places = {m: counts_group(m, group, atac_counts) for m, group in groups.items()}
    if "multivi_nf" not in file.get("uns", {}) or any(
        place.attrs.get("encoding-type") != "csr_matrix" for place in places.values()
    ):
        file.close()
        return None
    obs = _obs_of(file["obs"], columns)
    obs.index = obs.index.astype(str)
    matrices: dict[str, StoredMatrix] = {}
    for modality, group in groups.items():
        counts = places[modality]
        index = group["obs"].attrs["_index"]
        cells = _shared(pd.Index(read_elem(group["obs"][index])).astype(str), obs.index)
        if not len(cells):
            continue
        matrices[modality] = StoredMatrix(
            modality,
            cells,
            read_elem(group["var"]),
            counts["indptr"][:].astype(np.int64),
            counts["indices"],
            counts["data"],
            modality == "atac" and not atac_counts,
        )
        check_names(modality, matrices[modality])
    if not matrices:
        file.close()
        return None
    uns = groups["protein"].get("uns", {}) if "protein" in groups else {}
    panel = read_elem(uns["panel"]) if "panel" in uns else None
    # who needs more than cells and names asks which kind a matrix is
    source = Source(obs, cast("dict[str, Matrix]", matrices), panel_table(panel, matrices))
    if atac_counts and "atac" in matrices:
        atac = matrices["atac"]
        samples = samples_of(obs, source.batch, atac.cells)
        doubled = counted_twice(samples, lambda rows: _stored_values(atac, rows))
        if doubled.any():
            atac.doubled, source.notes = doubled, (note_of(samples, doubled),)
    return source


def _obs_of(group: h5py.Group, columns: Collection[str] | None) -> pd.DataFrame:
    """The table of cells, of its columns those that are asked for."""
    there = [str(name) for name in group.attrs["column-order"]]
    if columns is None or not set(columns) <= set(there):
        return read_elem(group)
    wanted = {"batch", "sample", *columns}
    read = {name: read_elem(group[name]) for name in there if name in wanted}
    return pd.DataFrame(read, index=pd.Index(read_elem(group[group.attrs["_index"]])))


def _shared(names: pd.Index, known: pd.Index) -> pd.Index:
    """The same names, held once in memory where the other index has them all."""
    place = known.get_indexer(names) if known.is_unique else np.full(1, -1)
    return names if (place < 0).any() else known[place]


def _stored_values(matrix: StoredMatrix, rows: np.ndarray) -> np.ndarray:
    read = matrix.rows(torch.from_numpy(rows), torch.device("cpu")).values
    assert read is not None
    return read.numpy()
