"""Cells in the latent space: posteriors from all modalities, or from some of them only."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from multivi_nf.latent.cells import Cells
from multivi_nf.model.fusion import wider_than_single

if TYPE_CHECKING:
    from mudata import MuData

    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI


@dataclass
class Embedding:
    """Posterior of each cell, rows in the order of the mosaic's cells.

    Attributes
    ----------
    mean, variance
        (n_cells, n_latent) float32 of the joint posterior.
    by_modality
        Modality to (n_cells, n_latent) mean of its own posterior; NaN rows where it was not measured.
    unseen_batches
        Batches that the model never saw; their cells were embedded through its "unknown" code.
    unseen_categories
        Covariate → values that the model never saw, likewise.
    wider_than_single
        Share of the cells with two or more modalities whose joint variance, summed over dimensions, exceeds the
        smallest single one; NaN without such cells.
    """

    mean: np.ndarray
    variance: np.ndarray
    by_modality: dict[str, np.ndarray]
    unseen_batches: list[str] = field(default_factory=list)
    unseen_categories: dict[str, list[str]] = field(default_factory=dict)
    wider_than_single: float = float("nan")

    def __repr__(self) -> str:
        cells, dimensions = self.mean.shape
        own = ", ".join(f"{np.isfinite(m[:, 0]).sum():,} {name}" for name, m in self.by_modality.items())
        unseen = f"; {len(self.unseen_batches):,} batches never seen" if self.unseen_batches else ""
        return f"Embedding({cells:,} cells x {dimensions} dimensions; measured: {own}{unseen})"


@torch.inference_mode()
def embed(model: MultiVI, mosaic: MuData | MosaicData | Cells | str | os.PathLike[str]) -> Embedding:
    """Place cells in the latent space, those of batches that the model never saw included.

    Parameters
    ----------
    model
        A trained model.
    mosaic
        MuData (or path of an h5mu) with the model's features; cells may be new.

    Returns
    -------
    Embedding.

    Raises
    ------
    InputError
        Features differ from the model's.

    Examples
    --------
    (A model for use is trained first, see :func:`multivi_nf.train`.)

    >>> import multivi_nf as mv
    >>> from multivi_nf.simulate import Options, simulated_mosaic
    >>> cells, _ = simulated_mosaic(Options(cells=100, genes=50, peaks=100, proteins=4))
    >>> model = mv.MultiVI.from_mosaic(cells, n_latent=5, n_hidden=16)
    >>> where = mv.embed(model, cells)
    >>> where.mean.shape, where.variance.shape
    ((100, 5), (100, 5))
    >>> import numpy as np
    >>> rna_alone = ~cells.obs["has_atac"].to_numpy()
    >>> bool(np.isnan(where.by_modality["atac"][rna_alone]).all())
    True
    """
    cells = Cells(model, mosaic)
    data, n, k = cells.data, cells.data.n_cells, model.config.n_latent
    mean, variance = np.empty((n, k), np.float32), np.empty((n, k), np.float32)
    by_modality = {m: np.full((n, k), np.nan, np.float32) for m in model.modalities if data.has[m].any()}
    wider = several = 0
    for block in cells.blocks(np.arange(n)):
        mean[block.at], variance[block.at] = block.mean, block.joint.variance.cpu().numpy()
        rows = model.measured(block.minibatch)
        for m, q in block.encoded.items():
            by_modality[m][block.at.start + rows[m].cells.cpu().numpy()] = q.mean.cpu().numpy()
        stacked = model.stack(block.minibatch.n_cells, block.minibatch, block.encoded)
        found = wider_than_single(stacked, block.joint.variance)
        wider, several = wider + found[0], several + found[1]
    return Embedding(
        mean,
        variance,
        by_modality,
        data.unknown_batches,
        data.unknown_categories,
        wider / several if several else float("nan"),
    )
