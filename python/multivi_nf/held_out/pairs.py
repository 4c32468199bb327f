"""Cells that trained nothing, and what they show of a modality: what everything here is measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse

from multivi_nf.data.matrices import as_csr
from multivi_nf.data.minibatch import Minibatch, ModalityRows, SparseRows
from multivi_nf.errors import InputError
from multivi_nf.imputation.decode import RNA_SCALE
from multivi_nf.latent.cells import Cells


@dataclass
class HeldOut:
    """Held-out cells of a mosaic.

    Attributes
    ----------
    cells
        The model, and the mosaic that it was trained on.
    index
        Positions of the held-out cells, ascending.
    depth
        d~; None without ATAC.
    seed
        Of draws and of which cells are looked at.
    """

    cells: Cells
    index: np.ndarray
    depth: float | None
    seed: int

    @property
    def level(self) -> float:
        """d~, for a decoder."""
        return self.depth or 1.0

    def among(self, more: np.ndarray) -> HeldOut:
        """With further cells."""
        return replace(self, index=np.union1d(self.index, more))

    def measured(self, *modalities: str) -> np.ndarray:
        """Held-out cells with all of some modalities."""
        return self.index[np.all([self.cells.has[m][self.index] for m in modalities], axis=0)]

    def known(self, modality: str) -> np.ndarray:
        """Measured cells that are not held out: what may teach."""
        return np.setdiff1d(np.flatnonzero(self.cells.has[modality]), self.index)

    def sizes(self, minibatch: Minibatch, target: str) -> np.ndarray:
        """What turns a decoded value into an expected count: library, or depth over d~; 1 for proteins."""
        rows = minibatch.modalities[target].counts
        if target == "rna":
            return rows.dense().sum(1).double().cpu().numpy() / RNA_SCALE
        if target == "atac":
            return self.cells.encoded(minibatch, ("atac",)).levels["atac"].double().cpu().numpy() / self.level
        return np.ones(rows.n_rows)

    def alone(self, minibatch: Minibatch, target: str, rows: ModalityRows) -> np.ndarray:
        """(n_cells, n_latent) mean of the posterior from one modality's rows alone."""
        return self.cells.encoded(minibatch.of({target: rows})).mean


def role_cells(cells: Cells, role: str) -> np.ndarray:
    """Positions of the cells to which the model's split gave a role; -1 where the mosaic lacks them."""
    split = cells.model.split
    if split is None:
        raise InputError(
            "the model has no split.tsv",
            "it says which pairs were set apart in training; on others the error bars would look better than they are",
            "train the model with `multivi-nf train` (or mv.train), which sets them apart",
        )
    return cells.data.cells.get_indexer(split.loc[split["split"] == role, "cell"])


def halved(rows: ModalityRows, random: np.random.Generator) -> tuple[ModalityRows, sparse.csr_matrix]:
    """One random half of the counts as rows, the other as a matrix."""
    counts = rows.counts
    values = np.ones(counts.indices.numel()) if counts.values is None else counts.values.cpu().numpy()
    part = random.binomial(values.astype(np.int64), 0.5).astype(np.float32)
    device = counts.indices.device
    kept = torch.from_numpy(part > 0).to(device)
    ends = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.long().cumsum(0)])[counts.indptr]
    some = None if counts.values is None else torch.from_numpy(part).to(device)[kept]
    first = SparseRows(ends, counts.indices[kept], some, counts.n_features)
    return ModalityRows(rows.cells, first), as_csr(counts, np.float32, values - part)
