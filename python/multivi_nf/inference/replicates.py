"""Test at the level of replicates: pseudobulks of measured cells, moderated t."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import special, stats

if TYPE_CHECKING:
    from multivi_nf.training.data import MosaicData

MINIMUM = 3
MINIMUM_CELLS = 10


def pseudobulks(data: MosaicData, cells: np.ndarray, replicate: np.ndarray, modality: str) -> dict[str, np.ndarray]:
    """Replicate to (n_features,) summed counts over the measured ones of `cells`.

    Parameters
    ----------
    cells
        Positions in the mosaic.
    replicate
        (n_all_cells,) replicate of every cell of the mosaic. Replicates with fewer than 10 measured cells are left out:
        the noise of so few would pass for that of a replicate.
    """
    sums: dict[str, np.ndarray] = {}
    cells = cells[data.has[modality][cells]]
    for name in sorted(set(replicate[cells])):
        mine = cells[replicate[cells] == name]
        if len(mine) < MINIMUM_CELLS:
            continue
        for start in range(0, len(mine), 2048):
            counts = data.minibatch(mine[start : start + 2048]).modalities[modality].counts
            values = None if counts.values is None else counts.values.double().cpu().numpy()
            part = np.bincount(counts.indices.cpu().numpy(), weights=values, minlength=counts.n_features)
            sums[name] = sums.get(name, 0) + part
    return sums


def comparable(target: set[str], reference: set[str]) -> str | None:
    """Say "blocked" where both sides have the same replicates (two or more), "independent" with three or more each."""
    if target == reference and len(target) >= 2:
        return "blocked"
    if len(target) >= MINIMUM and len(reference) >= MINIMUM and not target & reference:
        return "independent"
    shared = target & reference
    return "blocked" if len(shared) >= MINIMUM else None


def replicate_test(target: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> np.ndarray | None:
    """(n_features,) two-sided p-values; None where there are too few replicates.

    log2 of (count + 0.5) per (total + 1), as limma's voom; difference of means, paired by replicate where both sides
    have the same; standard error moderated over features (Smyth 2004). A feature without a count gets p = 1.
    """
    design = comparable(set(target), set(reference))
    if design is None:
        return None
    if design == "blocked":
        shared = sorted(set(target) & set(reference))
        a, b = (_log_rate(np.stack([side[name] for name in shared])) for side in (target, reference))
        difference = a - b
        effect, freedom = difference.mean(axis=0), len(shared) - 1
        variance, scale = difference.var(axis=0, ddof=1), 1 / len(shared)
    else:
        a, b = (_log_rate(np.stack([side[name] for name in sorted(side)])) for side in (target, reference))
        effect, freedom = a.mean(axis=0) - b.mean(axis=0), len(a) + len(b) - 2
        variance = (((a - a.mean(axis=0)) ** 2).sum(axis=0) + ((b - b.mean(axis=0)) ** 2).sum(axis=0)) / freedom
        scale = 1 / len(a) + 1 / len(b)
    counted = sum(target.values()) + sum(reference.values()) > 0
    p = np.ones(len(effect))
    if counted.any():
        posterior, total = moderated(variance[counted], freedom)
        t = effect[counted] / np.sqrt(posterior * scale)
        p[counted] = 2 * stats.t.sf(np.abs(t), total)
    return p


def _log_rate(counts: np.ndarray) -> np.ndarray:
    """(n_replicates, n_features) log2 counts per million, each with half a count."""
    return np.log2((counts + 0.5) / (counts.sum(axis=1, keepdims=True) + 1) * 1e6)


def moderated(variance: np.ndarray, freedom: int) -> tuple[np.ndarray, float]:
    """Posterior variances and their degrees of freedom: scaled inverse chi-square prior fitted by moments of log s^2.

    Smyth, Stat Appl Genet Mol Biol 2004, section 6.2.
    """
    variance = np.maximum(variance, 1e-8 * max(np.median(variance), 1e-8))
    e = np.log(variance) - special.digamma(freedom / 2) + np.log(freedom / 2)
    spread = e.var(ddof=1) - special.polygamma(1, freedom / 2) if len(e) > 2 else 0.0
    if spread <= 1e-6:
        return np.full_like(variance, np.exp(e.mean())), 1e6
    prior = 2 * _inverse_trigamma(spread)
    s2 = np.exp(e.mean() + special.digamma(prior / 2) - np.log(prior / 2))
    return (prior * s2 + freedom * variance) / (prior + freedom), prior + freedom


def _inverse_trigamma(x: float) -> float:
    """Solve trigamma(y) = x by Newton steps on 1 / trigamma (Smyth 2004, appendix)."""
    y = 0.5 + 1 / x
    for _ in range(50):
        value = special.polygamma(1, y)
        step = value * (1 - value / x) / special.polygamma(2, y)
        y += step
        if abs(step) < 1e-9 * y:
            break
    return float(y)


def false_discovery_rate(p: np.ndarray) -> np.ndarray:
    """Benjamini & Hochberg (1995); NaN stays NaN."""
    out = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    if known.size:
        order = known[np.argsort(p[known], kind="stable")]
        value = p[order] * len(order) / np.arange(1, len(order) + 1)
        out[order] = np.minimum(np.minimum.accumulate(value[::-1])[::-1], 1)
    return out
