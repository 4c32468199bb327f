"""What one step of training or inference sees: some cells, and for each modality only the rows that were measured."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch

UNKNOWN_BATCH = -1
"""Batch index of a cell whose batch the model never saw, or whose code was dropped in training."""


@dataclass
class SparseRows:
    """Rows of a count matrix in CSR form, on one device.

    Attributes
    ----------
    indptr
        (n_rows + 1,) int64.
    indices
        (nnz,) int32 or int64 feature indices, ascending within a row.
    values
        (nnz,) float32 counts, or None where every stored entry is 1 (ATAC, unless fragments are modelled).
    n_features
        Number of columns.
    """

    indptr: torch.Tensor
    indices: torch.Tensor
    values: torch.Tensor | None
    n_features: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.indptr.numel() - 1

    def take(self, index: torch.Tensor) -> SparseRows:
        """The given rows, in the given order, repeats allowed."""
        begin, end = self.indptr[index], self.indptr[index + 1]
        indptr, at = gathered(begin, end - begin, self.indices.device)
        return SparseRows(indptr, self.indices[at], None if self.values is None else self.values[at], self.n_features)

    def row_index(self) -> torch.Tensor:
        """(nnz,) int64 row of each stored entry."""
        rows = torch.arange(self.n_rows, device=self.indptr.device)
        return torch.repeat_interleave(rows, self.indptr.diff(), output_size=self.indices.numel())

    def dense(self) -> torch.Tensor:
        """(n_rows, n_features) float32. Only for modalities whose dense minibatch is small (RNA, protein)."""
        values = torch.ones_like(self.indices, dtype=torch.float32) if self.values is None else self.values
        out = torch.zeros(self.n_rows, self.n_features, dtype=values.dtype, device=values.device)
        out[self.row_index(), self.indices.long()] = values
        return out


@dataclass
class ModalityRows:
    """The rows of one modality inside a minibatch.

    Attributes
    ----------
    cells
        (n_rows,) int64 positions, ascending, of the measured cells in the minibatch. A cell that is listed is
        measured even if all its counts are zero; a cell that is not listed was not measured.
    counts
        The counts of these cells, in the same order.
    """

    cells: torch.Tensor
    counts: SparseRows

    def take(self, index: torch.Tensor) -> ModalityRows:
        """Some of the rows, by ascending positions."""
        return ModalityRows(self.cells[index], self.counts.take(index))


@dataclass
class Minibatch:
    """Cells of one step.

    Attributes
    ----------
    batch
        (n_cells,) int64 batch index, `UNKNOWN_BATCH` where unknown.
    modalities
        Modality name to its measured rows; modalities without a measured cell here are absent.
    categorical
        (n_cells, n_categorical) int64 codes of further categorical covariates; -1 is unknown.
    continuous
        (n_cells, n_continuous) float32, standardised.
    labels
        (n_cells,) int64 codes of known labels that guide training; -1 is none.
    counterparts
        (n_cells, n_batches) float32 cells of each batch for one of a cell's own, see
        `multivi_nf.training.counterparts`; None where nobody looked.
    told_apart
        (n_cells, n_batches) bool, of which batches the nearest cells are known to be of another kind; None: of none.
    """

    batch: torch.Tensor
    modalities: dict[str, ModalityRows]
    categorical: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    continuous: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    labels: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    counterparts: torch.Tensor | None = None
    told_apart: torch.Tensor | None = None

    def __post_init__(self) -> None:
        n = self.n_cells
        if self.categorical.dim() != 2:
            self.categorical = torch.zeros(n, 0, dtype=torch.int64, device=self.batch.device)
        if self.continuous.dim() != 2:
            self.continuous = torch.zeros(n, 0, device=self.batch.device)
        if self.labels.numel() != n:
            self.labels = torch.full((n,), -1, dtype=torch.int64, device=self.batch.device)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.batch.numel()

    def of(self, modalities: dict[str, ModalityRows]) -> Minibatch:
        """The same cells with other counts."""
        return Minibatch(self.batch, modalities, self.categorical, self.continuous)

    def only(self, shown: Collection[str]) -> Minibatch:
        """The same cells as if only some modalities had been measured."""
        return self.of({m: rows for m, rows in self.modalities.items() if m in shown})


def placed(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Put a tensor on a device; from the host to a GPU through pinned memory, without waiting."""
    if device.type == tensor.device.type:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def gathered(begin: torch.Tensor, lengths: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs of entries side by side.

    Parameters
    ----------
    begin, lengths
        (n_rows,) first entry of each run, and how many it has; on the host, where their sum is known without waiting.
    device
        Where the entries are.

    Returns
    -------
    (n_rows + 1,) row pointers beside `lengths`, and (nnz,) places of the entries, on `device`.
    """
    indptr = torch.zeros(lengths.numel() + 1, dtype=torch.int64, device=lengths.device)
    torch.cumsum(lengths, 0, out=indptr[1:])
    total = int(indptr[-1])
    at = torch.repeat_interleave(placed(begin - indptr[:-1], device), placed(lengths, device), output_size=total)
    return indptr, at.add_(torch.arange(total, device=device))
