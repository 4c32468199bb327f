"""What one step of training or inference sees: some cells, and for each modality only the rows that were measured."""

from __future__ import annotations

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
    """

    batch: torch.Tensor
    modalities: dict[str, ModalityRows]
    categorical: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    continuous: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    labels: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    counterparts: torch.Tensor | None = None

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
