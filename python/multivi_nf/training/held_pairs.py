"""What users get, seen on held-out cells with two modalities: one modality told from the other, and both in one place.

-ELBO orders weights wrongly: it falls for tens of epochs less than imputation and pairing gain, and prefers variants
that are worse in both (docs/decisions/thinning.md). Where validation holds enough pairs, weights are compared by these.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from multivi_nf.data.minibatch import Minibatch
from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.model import MultiVI
from multivi_nf.model.fusion import Gaussian
from multivi_nf.model.sparse import tiles_of

LEAST = 20
"""Pairs, of any two modalities, below which their scores are noise and -ELBO decides as without pairs."""

MOST = 512
"""Pairs that are looked at: more cost time and change the score less than an epoch does."""

WIDTH, BLOCKS = 4096, 5
"""Features of a block, and blocks of each modality, evenly over its features, in which profiles are compared."""

SCALE = 1e4
"""Counts a cell at which shares of RNA are logged."""

FEW = 0.01
"""A correlation below this counts as this."""

SCORE, PAIRING, IMPUTATION = "held_out_score", "held_out_foscttm", "held_out_correlation"


class HeldPairs:
    """Scores of a model on some cells with two or more modalities.

    Parameters
    ----------
    model, data
        What is scored, and on what; `data` may move to a device later.
    cells
        (n,) positions of the cells that may be used.
    seed
        Of those that are, where there are more than `MOST`.

    Attributes
    ----------
    cells
        Positions of the cells used; none where there are fewer than `LEAST`.
    """

    def __init__(self, model: MultiVI, data: MosaicData, cells: np.ndarray, seed: int) -> None:
        self.model, self.data = model, data
        has = np.stack([data.has[m][cells] for m in model.modalities], 1)
        paired = cells[has.sum(1) > 1]
        if len(paired) > MOST:
            paired = np.sort(np.random.default_rng([seed, MOST]).choice(paired, MOST, replace=False))
        self.cells = paired if len(paired) >= LEAST and model.formulas.single_views else paired[:0]

    @torch.no_grad()
    def score(self, excess: float) -> dict[str, float]:
        """Pairing, imputation, and the one number by which weights are compared; {} without pairs.

        Parameters
        ----------
        excess
            Nats a cell by which groups mix less than they should (`validation_integration` over what a nat costs).

        Returns
        -------
        dict
            `held_out_foscttm`, the share of cells closer than the true match, mean over pairs of modalities;
            `held_out_correlation` of imputed with observed profiles, both less the mean over cells, mean over cells
            and directions; `held_out_score`: mean log correlation - log FOSCTTM - excess. Logarithms, so that a tenth
            more of the one is worth a tenth less of the other, however noisy a modality's counts are.
        """
        if not len(self.cells):
            return {}
        minibatch = self.data.minibatch(self.cells)
        encoded = self.model.encode(minibatch)
        rows = self.model.measured(minibatch)
        shares, correlations = [], []
        for a, b in itertools.combinations(encoded, 2):
            of_a, of_b = _common(rows[a].cells, rows[b].cells)
            if of_a.numel() < LEAST:
                continue
            shares.append(foscttm(encoded[a].mean[of_a].float(), encoded[b].mean[of_b].float()))
            for source, target, place, row in ((a, b, of_a, of_b), (b, a, of_b, of_a)):
                correlations.append(self._correlation(minibatch, encoded[source], target, place, row))
        if not shares:
            return {}
        share, told_well = float(np.mean(shares)), float(np.mean(np.log(np.maximum(correlations, FEW))))
        score = told_well - math.log(max(share, 0.5 / len(self.cells))) - excess
        return {PAIRING: share, IMPUTATION: float(np.mean(correlations)), SCORE: score}

    def _correlation(
        self, minibatch: Minibatch, q: Gaussian, target: str, place: torch.Tensor, row: torch.Tensor
    ) -> float:
        """Mean over cells and blocks of features of the correlation of decoded with measured profiles."""
        measured = self.model.measured(minibatch)[target].take(row)
        cells, counts = measured.cells, measured.counts
        batch = minibatch.batch[cells]
        codes = (batch, minibatch.categorical[cells], minibatch.continuous[cells])
        h = self.model.hidden(target, q.mean[place], *codes)
        tiles = tiles_of(counts, WIDTH)
        some = np.unique(np.linspace(0, tiles.n_tiles - 1, BLOCKS).astype(int)).tolist()
        found = [told(self.model.tile(target, h, *tiles.span(t), batch), tiles.dense(t, torch.float32)) for t in some]
        return float(torch.stack(found).mean())


def told(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Scalar: mean over cells of the correlation of decoded with measured features, both less their mean over cells.

    Counts of RNA, and of fragments, are compared as log(1 + 10,000 x share of the block), proteins as log(1 + count)
    inside their panel, peaks as probability and 0/1.

    Parameters
    ----------
    parameters
        Of a block of features, from `MultiVI.tile`.
    x
        (n_cells, width) measured counts.
    """
    if "logits" in parameters:
        p = (SCALE * parameters["logits"].float().softmax(1)).log1p()
        x = (SCALE * x / x.sum(1, keepdim=True).clamp(min=1)).log1p()
    elif "foreground" in parameters:
        mixing, panel = parameters["mixing"], parameters["panel"]
        mean = parameters["log_background_mean"].exp() * (mixing + (1 - mixing) * parameters["foreground"])
        n = panel.sum(0).clamp(min=1)
        p, x = (torch.where(panel, v.log1p(), 0.0) for v in (mean.float(), x))
        p, x = (torch.where(panel, v - v.sum(0) / n, 0.0) for v in (p, x))
    else:
        p, x = (parameters["probability"] * parameters["region"]).float(), x.clamp(max=1)
    p, x = (v - v.mean(0) for v in (p, x))
    p, x = (v - v.mean(1, keepdim=True) for v in (p, x))
    return ((p * x).sum(1) / (p.norm(dim=1) * x.norm(dim=1)).clamp(min=1e-9)).mean()


def foscttm(a: torch.Tensor, b: torch.Tensor) -> float:
    """Share of cells closer than the true match, over both directions (Liu et al. 2019); row i of both is one cell."""
    distance = torch.cdist(a, b)
    own = distance.diagonal()
    closer = (distance < own.unsqueeze(1)).sum() + (distance < own).sum()
    return float(closer) / (2 * len(a) * max(len(a) - 1, 1))


def _common(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the entries that two ascending index tensors share lie in each."""
    return torch.isin(a, b).nonzero().squeeze(1), torch.isin(b, a).nonzero().squeeze(1)
