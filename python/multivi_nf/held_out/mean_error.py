"""The whole error of an imputed mean, told from the counts of cells in the same state.

An interval of single counts tells little of the mean behind them: noise is most of a count, and a wider mean and a
larger over-dispersion fit as well. What a held-out cell's mean is, its neighbours know: cells near it in the latent
space of the target's own counts, where half of its counts place it. Two sets of neighbours have no noise in common with
each other, so that with v the imputed mean and a, b the neighbours' means, E (a - v)(b - v) is the squared error of v:
what the posterior does not spread over, and what the decoder gets wrong for all cells of a kind, which does not fall
with the number of cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from multivi_nf.data.draws import blocks, cell_keys
from multivi_nf.data.minibatch import ModalityRows, SparseRows
from multivi_nf.imputation.decode import RNA_SCALE, Codes, Decoder
from multivi_nf.latent.embed import posteriors

if TYPE_CHECKING:
    from multivi_nf.data.minibatch import Minibatch
    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI

NEIGHBOURS = 5
"""Cells of each of the two sets."""
LIBRARY = 4000
RATIO_CELLS = 256
KNOTS = 10


def halved(rows: ModalityRows, random: np.random.Generator) -> tuple[ModalityRows, sparse.csr_matrix]:
    """One random half of the counts as rows, the other as a matrix."""
    counts = rows.counts
    values = np.ones(counts.indices.numel()) if counts.values is None else counts.values.cpu().numpy()
    part = random.binomial(values.astype(np.int64), 0.5).astype(np.float32)
    device = counts.indices.device
    kept = torch.from_numpy(part > 0).to(device)
    ends = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.long().cumsum(0)])[counts.indptr]
    some = None if counts.values is None else torch.from_numpy(part).to(device)[kept]
    first = SparseRows(ends, counts.indices[kept], some, counts.n_features)
    arrays = ((values - part).astype(np.float32), counts.indices.cpu().numpy(), counts.indptr.cpu().numpy())
    return ModalityRows(rows.cells, first), sparse.csr_matrix(arrays, shape=(counts.n_rows, counts.n_features))


def encoded(model: MultiVI, minibatch: Minibatch, target: str, rows: ModalityRows) -> np.ndarray:
    """(n_cells, n_latent) mean of the posterior from one modality's rows alone."""
    alone = type(minibatch)(
        batch=minibatch.batch,
        modalities={target: rows},
        categorical=minibatch.categorical,
        continuous=minibatch.continuous,
    )
    return model.fuse(alone, model.encode(alone)).mean.cpu().numpy()


def sizes(model: MultiVI, minibatch: Minibatch, target: str, depth: float) -> np.ndarray:
    """What turns a decoded value into an expected count: library, or depth over d~; 1 for proteins."""
    rows = minibatch.modalities[target].counts
    if target == "rna":
        return rows.dense().sum(1).double().cpu().numpy() / RNA_SCALE
    if target == "atac":
        own = posteriors(model, minibatch, [m for m in model.modalities if m != "atac"])[1]
        return model.level("atac", own["atac"]).double().cpu().numpy() / depth
    return np.ones(rows.n_rows)


def neighbour_means(
    model: MultiVI,
    data: MosaicData,
    cells: np.ndarray,
    held: np.ndarray,
    target: str,
    positions: np.ndarray,
    depth: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Means over two sets of measured cells in the state of each held-out cell, as the reference mixture shows them.

    Parameters
    ----------
    cells, held
        Held-out cells that are asked for, and all of them: none is a neighbour.
    positions
        Features.

    Returns
    -------
    Two (n_cells, n_features) means on the user's scale, and the size that a set has on average (a mean times it is a
    count); None with too few measured cells, or of proteins, whose background is no part of the imputed value.
    """
    from sklearn.neighbors import NearestNeighbors

    known = np.setdiff1d(np.flatnonzero(data.has[target]), held)
    known = known[np.argsort(cell_keys(data.cells[known], seed, "library"), kind="stable")[:LIBRARY]]
    if target == "protein" or len(known) < 10 * NEIGHBOURS:
        return None
    random, data = np.random.default_rng([seed, 3]), data.staged(np.concatenate([known, cells]))
    place, counts, size = [], [], []
    for block in blocks(len(known)):
        minibatch = data.minibatch(known[block])
        first, second = halved(minibatch.modalities[target], random)
        place.append(encoded(model, minibatch, target, first))
        counts.append(second[:, positions])
        size.append(sizes(model, minibatch, target, depth) / 2)
    place, size, counts = np.concatenate(place), np.concatenate(size), sparse.vstack(counts).tocsr()
    mine = []
    for block in blocks(len(cells)):
        minibatch = data.minibatch(cells[block])
        mine.append(encoded(model, minibatch, target, halved(minibatch.modalities[target], random)[0]))
    near = NearestNeighbors(n_neighbors=2 * NEIGHBOURS).fit(place)
    near = near.kneighbors(np.concatenate(mine), return_distance=False)
    batch, ratio = _to_reference(model, data, known, target, positions, depth)
    out = []
    for chosen in (near[:, ::2], near[:, 1::2]):
        total = np.zeros((len(cells), len(positions)))
        for one in chosen.T:
            total += counts[one].toarray() * ratio[batch[one]]
        out.append(total / np.maximum(size[chosen].sum(1), 1e-12)[:, None])
    return out[0], out[1], float(NEIGHBOURS * size.mean())


def _to_reference(
    model: MultiVI, data: MosaicData, cells: np.ndarray, target: str, positions: np.ndarray, depth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Batch of each cell, and (n_batches, n_features) decoded means under the reference mixture over those under it."""
    names, batch = np.unique(data.source.batch[cells].astype(str), return_inverse=True)
    chosen = []
    for one in range(len(names)):
        chosen.append(np.flatnonzero(batch == one)[:RATIO_CELLS])
    ratio = np.ones((len(names), len(positions)))
    for one, rows in enumerate(chosen):
        means = []
        for how in (None, "own"):
            decoder, total = Decoder(model, target, how, depth), 0.0
            for block in blocks(len(rows)):
                minibatch = data.minibatch(cells[rows[block]])
                codes = Codes(minibatch.batch, minibatch.categorical, minibatch.continuous)
                z = posteriors(model, minibatch)[0].mean
                total = total + _values(decoder, z, codes).sum(0)
            means.append(total[positions])
        ratio[one] = means[0] / np.maximum(means[1], 1e-12)
    return batch, np.clip(ratio, 0.1, 10)


def _values(decoder: Decoder, z: torch.Tensor, codes: Codes) -> np.ndarray:
    if decoder.modality == "rna":
        return decoder.profile(z, codes).double().cpu().numpy()
    from multivi_nf.imputation.decode import TILE

    prepared = decoder.prepare(z, codes)
    tiles = [decoder.tile(prepared, start).double().cpu().numpy() for start in range(0, decoder.n_features, TILE)]
    return np.concatenate(tiles, axis=1)


def whole_error(
    value: np.ndarray, spread: np.ndarray, means: tuple[np.ndarray, np.ndarray, float]
) -> dict[str, list[float]]:
    """What the posterior's own spread lacks of the whole error of log means, by the height of the mean.

    Parameters
    ----------
    value, spread
        (n_cells, n_features) imputed means, and the posterior variance of each.
    means
        From :func:`neighbour_means`.

    Returns
    -------
    `log_mean`, `sd`: knots, as `Calibration` has them.
    """
    one, other, size = means
    product = ((one - value) * (other - value)).sum(0)
    square, own = (value**2).sum(0), spread.sum(0)
    count = value.mean(0) * size
    # relative variance of a feature's ratio: its counts' in both sets, and that errors differ by themselves
    weight = count**2 / (1 + 2 * count + count**2) / np.maximum(square, 1e-300)
    level = np.log(np.maximum(value.mean(0), 1e-12))
    parts = np.array_split(np.argsort(level, kind="stable"), min(KNOTS, len(level)))

    def variance(at: np.ndarray | slice) -> float:
        bottom = max((weight * square)[at].sum(), 1e-300)
        whole, spread = ((weight * row)[at].sum() / bottom for row in (product, own))
        return max(np.log1p(max(whole, 0.0)) - np.log1p(spread), 0.0)

    found = np.array([variance(p) for p in parts])
    least = min(variance(slice(None)), float(found.mean()))
    sd = np.sqrt(np.maximum(found, least))
    return {"log_mean": [float(level[p].mean()) for p in parts], "sd": sd.tolist()}
