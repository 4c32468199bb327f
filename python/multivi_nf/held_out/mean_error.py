"""The whole error of an imputed mean, told from the counts of cells in the same state.

An interval of single counts tells little of the mean behind them: noise is most of a count, and a wider mean and a
larger over-dispersion fit as well. What a held-out cell's mean is, its neighbours know: cells near it in the latent
space of the target's own counts, where half of its counts place it. Two sets of neighbours have no noise in common with
each other, so that with v the imputed mean and a, b the neighbours' means, E (a - v)(b - v) is the squared error of v:
what the posterior does not spread over, and what the decoder gets wrong for all cells of a kind, which does not fall
with the number of cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from multivi_nf.calibration.entries import Curve
from multivi_nf.held_out.pairs import Library
from multivi_nf.reduction import nearest

NEIGHBOURS = 5
"""Cells of each of the two sets."""
KNOTS = 10


@dataclass
class NeighbourMeans:
    """Means over two sets of measured cells in the state of each held-out cell, as the reference mixture shows them.

    Attributes
    ----------
    one, other
        (n_cells, n_features) on the user's scale.
    size
        What a set has on average: a mean times it is a count.
    """

    one: np.ndarray
    other: np.ndarray
    size: float

    @classmethod
    def of(cls, library: Library) -> NeighbourMeans:
        """Those of the held-out cells of a library."""
        chosen, _ = nearest(library.held, library.place, 2 * NEIGHBOURS)
        counts, ratio = library.counts, library.ratio
        means = []
        for some in (chosen[:, ::2], chosen[:, 1::2]):
            total = np.zeros((len(chosen), counts.shape[1]))
            for each in some.T:
                total += counts[each].toarray() * ratio[library.batch[each]]
            means.append(total / np.maximum(library.size[some].sum(1), 1e-12)[:, None])
        return cls(means[0], means[1], float(NEIGHBOURS * library.size.mean()))


def whole_error(value: np.ndarray, spread: np.ndarray, means: NeighbourMeans) -> Curve:
    """What the posterior's own spread lacks of the whole error of log means, by the height of the mean.

    Parameters
    ----------
    value, spread
        (n_cells, n_features) imputed means, and the posterior variance of each.
    """
    product = ((means.one - value) * (means.other - value)).sum(0)
    square, own = (value**2).sum(0), spread.sum(0)
    count = value.mean(0) * means.size
    # relative variance of a feature's ratio: its counts' in both sets, and that errors differ by themselves
    weight = count**2 / (1 + 2 * count + count**2) / np.maximum(square, 1e-300)
    level = np.log(np.maximum(value.mean(0), 1e-12))
    parts = np.array_split(np.argsort(level, kind="stable"), min(KNOTS, len(level)))

    def variance(at: np.ndarray | slice) -> float:
        bottom = max((weight * square)[at].sum(), 1e-300)
        whole, inside = ((weight * row)[at].sum() / bottom for row in (product, own))
        return max(float(np.log1p(max(whole, 0.0)) - np.log1p(inside)), 0.0)

    found = np.array([variance(p) for p in parts])
    least = min(variance(slice(None)), float(found.mean()))
    sd = np.sqrt(np.maximum(found, least))
    return Curve([float(level[p].mean()) for p in parts], sd.tolist())
