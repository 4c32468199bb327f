"""From the latent space to the scales that users read, under batches that the modality was trained in.

Scales (`INTERFACES` section 3). rna: 10^4 softmax over all modelled genes. atac: y r d~, the probability of being seen
open at d~, the median fitted depth of the measured cells; where fragments are modelled l~ softmax over all peaks, the
fragments expected at l~, the median library of the measured cells. protein: expected foreground,
(1 - pi) alpha E[beta]. All are averaged over the reference mixture inside each draw: the batches that measured
the modality, weighted by cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from multivi_nf.errors import InputError, option
from multivi_nf.latent.cells import Codes

if TYPE_CHECKING:
    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI

RNA_SCALE = 1e4
TILE = 2048
"""Features decoded together; fixed, so that a value does not depend on which features were asked for."""


@dataclass
class Prepared:
    """Hidden layers of some rows under each batch of the mixture, ready for tiles of features.

    Attributes
    ----------
    hidden
        One (n_rows, ...) tensor a batch.
    batches
        One (n_rows,) batch index a batch.
    normaliser
        Of a softmax: one (n_rows,) logsumexp of the logits over all features a batch; else empty.
    """

    hidden: list[torch.Tensor]
    batches: list[torch.Tensor]
    normaliser: list[torch.Tensor]


class Decoder:
    """Decodes one modality.

    Parameters
    ----------
    model
        A trained model.
    modality
        Which.
    batch
        None: the reference mixture. "own": each cell's own batch and covariates. Else the name of a batch.
    depth
        d~, or l~ (atac).

    Raises
    ------
    InputError
        The model lacks the modality; the batch is unknown or never measured it.
    """

    def __init__(self, model: MultiVI, modality: str, batch: str | None = None, depth: float = 1.0) -> None:
        if modality not in model.modalities:
            raise InputError(
                f"the model has no {modality}; it was trained on {', '.join(model.modalities)}",
                "what was never seen in training cannot be computed",
                f"choose among {', '.join(model.modalities)}, or train on a mosaic that holds {modality}",
            )
        self.config, self.generative = model.config, model.generative[modality]
        self.modality, self.depth = modality, depth
        self.n_features = model.config.n_features[modality]
        self.is_softmax = modality == "rna" or (modality == "atac" and model.counts_peaks)
        self.is_probability = modality == "atac" and not model.counts_peaks
        self.own = batch == "own"
        device = next(model.parameters()).device
        self.named = None if batch is None or self.own else self._trained_batch(batch)
        if self.named is None:
            chosen, weights = model.config.reference_weights(modality)
            self.batches, self.weights = chosen.tolist(), weights.to(device)
        else:
            self.batches = [self.named]
            self.weights = torch.ones(1, self.n_features, device=device)

    @property
    def scale(self) -> str:
        """What values are, in words."""
        if self.modality == "atac" and self.is_probability:
            return f"probability at depth {self.depth:.6g}"
        if self.modality == "atac":
            return f"expected fragments at the median depth, {self.depth:.6g} in peaks"
        return "counts per 10,000" if self.modality == "rna" else "expected foreground count"

    def _trained_batch(self, name: str) -> int:
        config = self.config
        cells = config.batch_cells[self.modality]
        trained = [b for b, n in zip(config.batches, cells) if n]
        if name not in trained:
            known = name in config.batches
            raise InputError(
                f"batch {name!r} {f'never measured {self.modality}' if known else 'is not known to the model'}",
                f"decoding {self.modality} under it would read parameters that were never trained",
                f"leave {option('batch')} out (reference mixture), or name one of {', '.join(trained)}",
            )
        return config.batches.index(name)

    def rows_of_rates(self, data: MosaicData, index: np.ndarray) -> np.ndarray:
        """(n_cells,) row of `Calibration.rates` that tells a cell's means: its batch's, or the last, the mixture's."""
        mixture = -1
        if self.own:
            return np.where(self.trained(data, index), data.batch.cpu().numpy()[index], mixture)
        return np.full(len(index), mixture if self.named is None else self.named)

    def trained(self, data: MosaicData, index: np.ndarray) -> np.ndarray:
        """(n_cells,) whether the own batch of a cell measured the modality in training."""
        cells = np.asarray([*self.config.batch_cells[self.modality], 0])
        return cells[data.batch.cpu().numpy()[index]] > 0

    def check_panel(self, positions: np.ndarray, names: np.ndarray) -> None:
        """Refuse proteins that no batch of the mixture has in its panel."""
        if self.modality != "protein" or self.own:
            return
        if self.config.panel is None:
            return
        panel = np.asarray(self.config.panel)[np.ix_(self.batches, positions)].any(axis=0)
        if not panel.all():
            missing = names[positions[~panel]]
            where = ", ".join(self.config.batches[b] for b in self.batches)
            raise InputError(
                f"proteins outside the panel of {where}: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}",
                "their parameters were never trained in this batch",
                f"leave {option('batch')} out (reference mixture), or leave these proteins out of {option('features')}",
            )

    # ------------------------------------------------------------------------------------------------ decoding

    def prepare(self, z: torch.Tensor, codes: Codes, *, normalise: bool = True) -> Prepared:
        """Hidden layers of (n_rows, n_latent) z; also the normaliser of a softmax, summed over tiles."""
        index, hidden = [], []
        for batch in [None] if self.own else self.batches:
            rows = codes.batch if batch is None else torch.full_like(codes.batch, batch)
            covariates = (codes.categorical, codes.continuous) if self.own else (None, None)
            index.append(rows)
            hidden.append(self.generative.hidden(z, (rows, *covariates)))
        normaliser = []
        if self.is_softmax and normalise:
            for h, rows in zip(hidden, index):
                running = torch.full((len(z),), -torch.inf, device=z.device)
                for start in range(0, self.n_features, TILE):
                    logits = self.raw(h, rows, start)["logits"]
                    running = torch.logaddexp(running, logits.logsumexp(1))
                normaliser.append(running)
        return Prepared(hidden, index, normaliser)

    def raw(self, h: torch.Tensor, batch: torch.Tensor, start: int, stop: int | None = None) -> dict[str, torch.Tensor]:
        """The model's own parameters of a tile of features."""
        stop = min(start + TILE, self.n_features) if stop is None else stop
        return self.generative.tile(h, start, stop, batch)

    def profile(self, z: torch.Tensor, codes: Codes) -> torch.Tensor:
        """(n_rows, n_genes) rna means in one pass; the caller keeps rows x genes small."""
        prepared = self.prepare(z, codes, normalise=False)
        total: torch.Tensor | None = None
        for i, (h, rows) in enumerate(zip(prepared.hidden, prepared.batches)):
            value = torch.softmax(self.raw(h, rows, 0, self.n_features)["logits"], 1)
            weight = RNA_SCALE * (1.0 if self.own else float(self.weights[i, 0]))
            total = value.mul_(weight) if total is None else total.add_(value, alpha=weight)
        assert total is not None
        return total

    def tile(self, prepared: Prepared, start: int) -> torch.Tensor:
        """(n_rows, width) values of the features from `start` to the end of its tile, on the user's scale."""
        total: torch.Tensor | None = None
        for i, (h, rows) in enumerate(zip(prepared.hidden, prepared.batches)):
            raw = self.raw(h, rows, start)
            if self.is_softmax:
                scale = RNA_SCALE if self.modality == "rna" else self.depth
                value = raw["logits"].sub_(prepared.normaliser[i].unsqueeze(1)).exp_().mul_(scale)
            elif self.modality == "atac":
                value = raw["probability"].mul_(raw["region"] * self.depth)
            else:
                value = foreground(raw)
            if self.own:
                return value
            weight = self.weights[i, start : start + value.shape[1]]
            value = value.mul_(weight) if len(self.batches) > 1 or self.modality == "protein" else value
            total = value if total is None else total.add_(value)
        assert total is not None
        return total

    def values(self, z: torch.Tensor, codes: Codes) -> torch.Tensor:
        """(n_rows, n_features) on the host; the caller keeps rows x features small."""
        if self.modality == "rna":
            return self.profile(z, codes).cpu()
        prepared = self.prepare(z, codes)
        return torch.cat([self.tile(prepared, start).cpu() for start in range(0, self.n_features, TILE)], dim=1)


def expected_background(raw: dict[str, torch.Tensor]) -> torch.Tensor:
    """E[beta] of a log-normal background, counts."""
    return torch.exp(raw["log_background_mean"] + 0.5 * raw["log_background_sd"].square())


def foreground(raw: dict[str, torch.Tensor]) -> torch.Tensor:
    """(1 - pi) alpha E[beta]: expected count with the background removed (totalVI, Gayoso et al. 2021)."""
    return (1 - raw["mixing"]) * raw["foreground"] * expected_background(raw)
