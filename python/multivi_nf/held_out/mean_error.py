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
from scipy import sparse

from multivi_nf.calibration.entries import Curve
from multivi_nf.data.draws import blocks, cell_keys
from multivi_nf.held_out.pairs import HeldOut, halved
from multivi_nf.imputation.decode import Decoder
from multivi_nf.latent.cells import Cells

NEIGHBOURS = 5
"""Cells of each of the two sets."""
LIBRARY = 4000
RATIO_CELLS = 256
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
    def of(cls, held: HeldOut, index: np.ndarray, decoder: Decoder, positions: np.ndarray) -> NeighbourMeans | None:
        """Those of some held-out cells and features.

        None with too few measured cells, or of proteins, whose background is no part of the imputed value.
        """
        from sklearn.neighbors import NearestNeighbors

        target, known = decoder.modality, held.known(decoder.modality)
        keys = cell_keys(held.cells.data.cells[known], held.seed, "library")
        known = known[np.argsort(keys, kind="stable")[:LIBRARY]]
        if target == "protein" or len(known) < 10 * NEIGHBOURS:
            return None
        random, data = np.random.default_rng([held.seed, 3]), held.cells.data.staged(np.concatenate([known, index]))
        places, parts, sizes = [], [], []
        for block in blocks(len(known)):
            minibatch = data.minibatch(known[block])
            first, second = halved(minibatch.modalities[target], random)
            places.append(held.alone(minibatch, target, first))
            parts.append(second[:, positions])
            sizes.append(held.sizes(minibatch, target) / 2)
        place, size, counts = np.concatenate(places), np.concatenate(sizes), sparse.vstack(parts).tocsr()
        mine = []
        for block in blocks(len(index)):
            minibatch = data.minibatch(index[block])
            mine.append(held.alone(minibatch, target, halved(minibatch.modalities[target], random)[0]))
        near = NearestNeighbors(n_neighbors=2 * NEIGHBOURS).fit(place)
        chosen = near.kneighbors(np.concatenate(mine), return_distance=False)
        batch, ratio = _to_reference(held.cells.staged(known), known, decoder, positions)
        means = []
        for some in (chosen[:, ::2], chosen[:, 1::2]):
            total = np.zeros((len(index), len(positions)))
            for each in some.T:
                total += counts[each].toarray() * ratio[batch[each]]
            means.append(total / np.maximum(size[some].sum(1), 1e-12)[:, None])
        return cls(means[0], means[1], float(NEIGHBOURS * size.mean()))


def _to_reference(
    cells: Cells, index: np.ndarray, decoder: Decoder, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Batch of each cell, and (n_batches, n_features) decoded means under the reference mixture over those under it."""
    names, batch = np.unique(cells.data.source.batch[index].astype(str), return_inverse=True)
    own = Decoder(cells.model, decoder.modality, "own", decoder.depth)
    ratio = np.ones((len(names), len(positions)))
    for i in range(len(names)):
        means = []
        for one in (decoder, own):
            total = np.zeros(decoder.n_features)
            for block in cells.blocks(index[np.flatnonzero(batch == i)[:RATIO_CELLS]]):
                total += one.values(block.joint.mean, block.codes).double().numpy().sum(0)
            means.append(total[positions])
        ratio[i] = means[0] / np.maximum(means[1], 1e-12)
    return batch, np.clip(ratio, 0.1, 10)


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
