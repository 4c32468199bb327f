"""A model and the cells it is asked about: built once, and handed to whatever is computed of them.

Cells are encoded in blocks of fixed size, so that their values do not depend on which others are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from multivi_nf.data.draws import blocks, normals
from multivi_nf.data.minibatch import Minibatch
from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.data.stored import stored_source
from multivi_nf.errors import InputError
from multivi_nf.model.fusion import Gaussian, Joint

if TYPE_CHECKING:
    from mudata import MuData

    from multivi_nf.data.source import Source
    from multivi_nf.training import MultiVI

DEPTH_CELLS = 4096


@dataclass
class Codes:
    """Covariates of some rows.

    Attributes
    ----------
    batch
        (n_rows,) each row's own batch.
    categorical, continuous
        The rows' own.
    """

    batch: torch.Tensor
    categorical: torch.Tensor
    continuous: torch.Tensor

    @classmethod
    def joined(cls, parts: list[Codes]) -> Codes:
        """Rows one below the other."""
        return cls(*(torch.cat([getattr(p, f) for p in parts]) for f in ("batch", "categorical", "continuous")))

    def rows(self, rows: slice) -> Codes:
        """Some of them."""
        return Codes(self.batch[rows], self.categorical[rows], self.continuous[rows])

    def repeat(self, n_draws: int) -> Codes:
        """Rows for `n_draws` draws of each cell, draws outermost."""
        return Codes(
            self.batch.repeat(n_draws), self.categorical.repeat(n_draws, 1), self.continuous.repeat(n_draws, 1)
        )


@dataclass
class Block:
    """Cells that were encoded together.

    Attributes
    ----------
    at
        Their place among the cells that were asked for.
    minibatch
        All that was measured of them, hidden modalities too.
    joint, encoded
        Their joint posterior, and each modality's own.
    levels
        Modality to library (counts) or depth in (0, 1) of the cells that measured it.
    """

    at: slice
    minibatch: Minibatch
    joint: Joint
    encoded: dict[str, Gaussian]
    levels: dict[str, torch.Tensor]

    @property
    def codes(self) -> Codes:
        """Their covariates."""
        return Codes(self.minibatch.batch, self.minibatch.categorical, self.minibatch.continuous)

    @property
    def mean(self) -> np.ndarray:
        """(n_cells, n_latent) means of the joint posterior."""
        return self.joint.mean.cpu().numpy()


class Cells:
    """A trained model, and cells in its terms on its device.

    Parameters
    ----------
    model
        A trained model.
    mosaic
        Cells with its features, known to the model or new; of a file, counts stay there.

    Raises
    ------
    InputError
        Features differ from the model's, which are named.
    """

    def __init__(self, model: MultiVI, mosaic: Cells | MosaicData | MuData | Source | str | os.PathLike[str]) -> None:
        self.model = model.eval()
        self.data: MosaicData = mosaic.data if isinstance(mosaic, Cells) else cells_of(model, mosaic)
        self.has = self.data.has

    def staged(self, index: np.ndarray) -> Cells:
        """The same, those of `index` ready to be read block by block in any order."""
        return Cells(self.model, self.data.staged(index))

    def encoded(self, minibatch: Minibatch, shown: Collection[str] | None = None, at: slice = slice(None)) -> Block:
        """Encode a minibatch, as if only the modalities in `shown` had been measured; None: all that were."""
        seen = minibatch if shown is None else minibatch.only(shown)
        encoded = self.model.encode(seen)
        levels = {m: self.model.level(m, q) for m, q in encoded.items() if q.size is not None}
        return Block(at, minibatch, self.model.fuse(seen, encoded), encoded, levels)

    def blocks(self, index: np.ndarray, shown: Collection[str] | None = None) -> Iterator[Block]:
        """Encode cells, block by block."""
        return (self.encoded(self.data.minibatch(index[at]), shown, at) for at in blocks(len(index)))

    @torch.inference_mode()
    def median_depth(self, stored: float | None = None) -> float:
        """d~, or l~: median depth of the measured cells (at most 4,096, evenly spaced in the mosaic's order).

        Parameters
        ----------
        stored
            The training mosaic's, from calibration.json; it is preferred, so that scales of several mosaics agree.
        """
        if stored is not None:
            return stored
        measured = np.flatnonzero(self.data.has["atac"])
        if not measured.size:
            raise InputError(
                "the mosaic holds no cell with ATAC, so that the depth at which accessibility is told is not known",
                "accessibility is told at the median depth of measured cells",
                "run `multivi-nf calibrate` on the training mosaic, which stores that depth with the model",
            )
        chosen = measured[np.unique(np.linspace(0, measured.size - 1, min(measured.size, DEPTH_CELLS)).astype(int))]
        found = [block.levels["atac"] for block in self.blocks(chosen, ("atac",))]
        return float(np.median(torch.cat(found).cpu().numpy()))


def cells_of(
    model: MultiVI,
    mosaic: MuData | MosaicData | Source | str | os.PathLike[str],
    columns: Collection[str] | None = None,
) -> MosaicData:
    """The mosaic in the model's terms; refused, naming them, where features differ. Counts of a file stay there.

    Of a file's obs `columns` are read besides those that the model conditions on; of None all.
    """
    if isinstance(mosaic, str | os.PathLike):
        config = model.config
        wanted = None if columns is None else {*columns, *config.categorical, *config.continuous}
        if wanted is not None and config.labels is not None and config.guided:
            wanted.add(config.labels)
        mosaic = stored_source(mosaic, atac_counts="atac" in config.counted, columns=wanted)
    data = mosaic if isinstance(mosaic, MosaicData) else MosaicData(mosaic, model)
    device = next(model.parameters()).device
    return data if data.device == device else data.to(device)


def samples(joint: Joint, keys: np.ndarray, n_draws: int, *, antithetic: bool = False) -> torch.Tensor:
    """(n_draws, n_cells, n_latent) posterior samples, by the cells' keys; antithetic ones come in pairs."""
    n = n_draws // 2 if antithetic else n_draws
    noise = torch.from_numpy(normals(keys, range(n), joint.mean.shape[1])).to(joint.mean.device)
    return draw(joint, torch.stack([noise, -noise], dim=1).flatten(0, 1) if antithetic else noise)


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
