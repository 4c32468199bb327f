"""What pulls the posteriors of one cell's modalities together."""

from __future__ import annotations

from itertools import combinations

import torch

from multivi_nf.model.formulas import OURS, Formulas
from multivi_nf.model.fusion import Posteriors, added

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Multiples of the median squared distance at which the MMD's kernels look."""


def symmetric_kl(
    mean_a: torch.Tensor, variance_a: torch.Tensor, mean_b: torch.Tensor, variance_b: torch.Tensor
) -> torch.Tensor:
    """KL(a || b) + KL(b || a) of diagonal normals, summed over the last dimension, nats (Jeffreys divergence)."""
    square = (mean_a - mean_b).square()
    return 0.5 * ((variance_a + square) / variance_b + (variance_b + square) / variance_a - 2).sum(-1)


def squared_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(n, m) squared Euclidean distances."""
    return (a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)


def mmd(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy of two samples, sum of RBF kernels (Gretton et al. 2012, eq. 5).

    Parameters
    ----------
    a, b
        (n, K) and (m, K) samples. The kernels' widths are `BANDWIDTHS` times the median squared distance of the
        joined sample, through which no gradient flows.
    """
    both = torch.cat([a, b])
    square = squared_distances(both, both)
    scale = square.detach().median().clamp(min=1e-6)
    kernel = added(torch.exp(-square / (width * scale)) for width in BANDWIDTHS)
    n = a.shape[0]
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def alignment(
    posteriors: Posteriors, samples: torch.Tensor, rule: str, formulas: Formulas = OURS, leader: int | None = None
) -> torch.Tensor:
    """Sum over cells of the penalty over all pairs of present modalities; a scalar.

    Parameters
    ----------
    posteriors
        Stacked posteriors of n cells.
    samples
        (n_cells, n_modalities, n_latent) one draw of each, used by ``mmd``.
    rule
        ``symmetric-kl``, ``mmd`` or ``none``. The MMD of a pair counts once for each cell that has the pair, so
        that its size does not depend on the minibatch.
    formulas
        Whose.
    leader
        Modality that the others follow: no gradient of a pair reaches its posterior. None: both meet half-way.
    """
    total = posteriors.mean.new_zeros(())
    if rule == "none":
        return total
    for a, b in combinations(range(posteriors.present.shape[1]), 2):
        pair = posteriors.present[:, a] & posteriors.present[:, b]
        if rule == "symmetric-kl":
            v = formulas.aligned_variance(posteriors.variance)
            q = [(posteriors.mean[:, m], v[:, m]) for m in (a, b)]
            q = [(mean.detach(), var.detach()) if m == leader else (mean, var) for m, (mean, var) in zip((a, b), q)]
            value = symmetric_kl(*q[0], *q[1])
            total = total + torch.where(pair, value, 0.0).sum()
            continue
        rows = pair.nonzero().squeeze(1)
        if not rows.numel():
            continue
        other = formulas.discrepancy((posteriors.mean[rows, a], posteriors.mean[rows, b]), posteriors.present.shape[0])
        if other is not None:
            total = total + other
        else:
            pick = [samples[rows, m].detach() if m == leader else samples[rows, m] for m in (a, b)]
            total = total + rows.numel() * mmd(*pick)
    return total
