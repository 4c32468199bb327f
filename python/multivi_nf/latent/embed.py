"""Cells in the latent space: posteriors from all modalities, or from some of them only."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from multivi_nf.data.draws import blocks
from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.data.stored import stored_source
from multivi_nf.model.fusion import Gaussian, Joint, wider_than_single

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mudata import MuData

    from multivi_nf.data.minibatch import Minibatch
    from multivi_nf.data.source import Source
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


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's weights are."""
    return next(model.parameters()).device


def cells_of(model: MultiVI, mosaic: MuData | MosaicData | Source | str | os.PathLike[str]) -> MosaicData:
    """The mosaic in the model's terms; refused, naming them, where features differ. Counts of a file stay there."""
    if isinstance(mosaic, str | os.PathLike):
        mosaic = stored_source(mosaic, atac_counts="atac" in model.config.counted)
    data = mosaic if isinstance(mosaic, MosaicData) else MosaicData(mosaic, model)
    device = device_of(model)
    return data if data.device == device else data.to(device)


def posteriors(
    model: MultiVI, minibatch: Minibatch, hide: Iterable[str] = ()
) -> tuple[Joint, dict[str, Gaussian], Minibatch]:
    """Joint posterior of a minibatch, as if the modalities in `hide` had not been measured.

    Returns
    -------
    The joint posterior, each modality's own, and the minibatch that was encoded.
    """
    hidden = set(hide)
    if hidden:
        minibatch = type(minibatch)(
            batch=minibatch.batch,
            modalities={m: rows for m, rows in minibatch.modalities.items() if m not in hidden},
            categorical=minibatch.categorical,
            continuous=minibatch.continuous,
        )
    encoded = model.encode(minibatch)
    return model.fuse(minibatch, encoded), encoded, minibatch


@torch.inference_mode()
def embed(model: MultiVI, mosaic: MuData | MosaicData | str | os.PathLike[str]) -> Embedding:
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
    data = cells_of(model, mosaic)
    model.eval()
    n, k = data.n_cells, model.config.n_latent
    mean, variance = np.empty((n, k), np.float32), np.empty((n, k), np.float32)
    by_modality = {m: np.full((n, k), np.nan, np.float32) for m in model.modalities if data.has[m].any()}
    wider = several = 0
    for part in blocks(n):
        minibatch = data.minibatch(np.arange(part.start, part.stop))
        joint, encoded, minibatch = posteriors(model, minibatch)
        mean[part], variance[part] = joint.mean.cpu().numpy(), joint.variance.cpu().numpy()
        for m, q in encoded.items():
            by_modality[m][part.start + minibatch.modalities[m].cells.cpu().numpy()] = q.mean.cpu().numpy()
        found = wider_than_single(model.stack(minibatch.n_cells, minibatch, encoded), joint.variance)
        wider, several = wider + found[0], several + found[1]
    return Embedding(
        mean,
        variance,
        by_modality,
        data.unknown_batches,
        data.unknown_categories,
        wider / several if several else float("nan"),
    )


def tempered(joint: Joint, temperature: torch.Tensor) -> Joint:
    """The posterior with its variances multiplied by a temperature per cell, but made no wider than the prior's 1."""

    def scaled(variance: torch.Tensor) -> torch.Tensor:
        return torch.minimum(variance * temperature.unsqueeze(1), variance.clamp(min=1))

    experts = [Gaussian(expert.mean, scaled(expert.variance)) for expert in joint.experts]
    return Joint(joint.mean, scaled(joint.variance), experts, joint.active)


def draw(joint: Joint, noise: torch.Tensor) -> torch.Tensor:
    """(n_draws, n_cells, n_latent) samples from noise of the same shape."""
    if joint.active is None:
        return joint.mean + joint.variance.sqrt() * noise
    return torch.stack([joint.sample(one) for one in noise])
