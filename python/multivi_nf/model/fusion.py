"""From one posterior per modality to one per cell."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from multivi_nf.model.formulas import OURS, Formulas


@dataclass
class Gaussian:
    """Diagonal normal posteriors of some cells.

    Attributes
    ----------
    mean, variance
        (n_rows, n_latent).
    weight_logit
        (n_rows,) logit of the modality's fusion weight (``cell-weighted`` only), else None.
    size
        (n_rows,) what the encoder says about the cell's size: log library (rna), logit of depth (atac), else None.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    weight_logit: torch.Tensor | None = None
    size: torch.Tensor | None = None

    @property
    def measured_size(self) -> torch.Tensor:
        """The size of a modality that has one."""
        assert self.size is not None
        return self.size


@dataclass
class Posteriors:
    """All modalities' posteriors of n cells, stacked; absent ones are N(0, 1) with `present` False.

    Attributes
    ----------
    mean, variance
        (n_cells, n_modalities, n_latent).
    logit
        (n_cells, n_modalities) logits of the fusion weights (0: equal).
    present
        (n_cells, n_modalities) bool.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    logit: torch.Tensor
    present: torch.Tensor

    def take(self, cells: torch.Tensor) -> Posteriors:
        """The same of some cells."""
        return Posteriors(self.mean[cells], self.variance[cells], self.logit[cells], self.present[cells])


def kl_standard(mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, variance) || N(0, 1)) summed over the last dimension, nats."""
    return 0.5 * (mean.square() + variance - 1 - variance.log()).sum(-1)


def fuse(posteriors: Posteriors, use: torch.Tensor, rule: str, formulas: Formulas = OURS) -> Gaussian:
    """Join the modalities marked in `use` into one posterior per cell.

    ``mean``, ``weighted``, ``cell-weighted``: z = sum w_m z_m with weights w = softmax over the used modalities, so
    the mean is sum w mu and the variance of this weighted mean of independent z_m is sum w^2 v (Ashuach et al.
    2023, joint representation). ``poe`` and the experts of ``mopoe``: product with the prior, precision
    1 + sum 1/v (Wu and Goodman 2018, eq. 2; Sutter et al. 2021), also for one modality.

    Parameters
    ----------
    posteriors
        Stacked posteriors.
    use
        (n_cells, n_modalities) bool; a row without a True gives N(0, 1).
    rule
        Fusion rule of the configuration.
    formulas
        Whose.
    """
    mask = use.unsqueeze(-1)
    if rule in ("poe", "mopoe"):
        precision = torch.where(mask, posteriors.variance.reciprocal(), 0.0)
        variance = (1 + precision.sum(1)).reciprocal()
        return Gaussian(variance * (precision * posteriors.mean).sum(1), variance)
    # a cell with nothing to join keeps the prior
    some = use.any(1, keepdim=True)
    weight = torch.softmax(posteriors.logit.masked_fill(~use & some, -math.inf), 1).unsqueeze(-1)
    mean = (weight * posteriors.mean).sum(1)
    variance = formulas.joint_variance(weight, posteriors.variance)
    return Gaussian(torch.where(some, mean, 0.0), torch.where(some, variance, 1.0))


def subsets(n_modalities: int) -> list[tuple[bool, ...]]:
    """Every non-empty subset of the modalities, in the order of its bits."""
    return [tuple(bool(i >> m & 1) for m in range(n_modalities)) for i in range(1, 1 << n_modalities)]


@dataclass
class Joint:
    """Joint posterior of each cell.

    Attributes
    ----------
    mean, variance
        (n_cells, n_latent); of a mixture (``mopoe``) its mean and total variance.
    experts, active
        ``mopoe``: one Gaussian per subset of modalities, and (n_cells, n_subsets) which are in the cell's
        mixture; else empty and None.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    experts: list[Gaussian]
    active: torch.Tensor | None = None

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        """(n_cells, n_latent) draw from standard normal noise of that shape.

        Of a mixture, the subset is chosen by the digits of the first noise value's quantile behind the third: they
        are uniform and independent of its size, so the same noise gives the same draw and nothing else is drawn.
        """
        if self.active is None:
            return self.mean + self.variance.sqrt() * noise
        uniform = torch.special.ndtr(noise[:, 0].double()).mul(1024).frac()
        pick = (uniform * self.active.sum(1)).long().clamp(max=self.active.shape[1] - 1)
        chosen = ((self.active.cumsum(1) - 1 == pick.unsqueeze(1)) & self.active).unsqueeze(-1)
        mean = added(chosen[:, i] * expert.mean for i, expert in enumerate(self.experts))
        variance = added(chosen[:, i] * expert.variance for i, expert in enumerate(self.experts))
        return mean + variance.sqrt() * noise

    def kl(self) -> torch.Tensor:
        """(n_cells,) KL to N(0, 1); of a mixture the mean of its experts' KLs, an upper bound (Sutter 2021, eq. 9)."""
        if self.active is None:
            return kl_standard(self.mean, self.variance)
        each = torch.stack([kl_standard(e.mean, e.variance) for e in self.experts], 1)
        return (each * self.active).sum(1) / self.active.sum(1)


def joint(posteriors: Posteriors, rule: str, formulas: Formulas = OURS) -> Joint:
    """Joint posterior of every cell from all its present modalities."""
    if rule != "mopoe":
        fused = fuse(posteriors, posteriors.present, rule, formulas)
        return Joint(fused.mean, fused.variance, [])
    n_modalities = posteriors.present.shape[1]
    experts, active = [], []
    for subset in subsets(n_modalities):
        use = torch.tensor(subset, device=posteriors.present.device)
        experts.append(fuse(posteriors, use.expand_as(posteriors.present), rule))
        active.append((posteriors.present | ~use).all(1))
    mask = torch.stack(active, 1)
    share = mask.to(posteriors.mean.dtype) / mask.sum(1, keepdim=True)
    mean = added(share[:, [i]] * e.mean for i, e in enumerate(experts))
    second = added(share[:, [i]] * (e.variance + e.mean.square()) for i, e in enumerate(experts))
    return Joint(mean, second - mean.square(), experts, mask)


def added(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of one or more tensors, one after the other."""
    return functools.reduce(torch.add, parts)


def wider_than_single(posteriors: Posteriors, joint_variance: torch.Tensor) -> tuple[int, int]:
    """Cells with two or more modalities whose joint variance exceeds their smallest single one, and all such cells.

    Variances are summed over latent dimensions. Of a weighted mean it can be wider; of a product it cannot.
    """
    several = posteriors.present.sum(1) > 1
    single = posteriors.variance.sum(-1).masked_fill(~posteriors.present, math.inf).amin(1)
    return int((joint_variance.sum(1) > single)[several].sum()), int(several.sum())
