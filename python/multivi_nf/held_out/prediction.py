"""One modality of held-out cells, hidden and predicted from others, at any temperature of the posterior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from multivi_nf.data.draws import blocks, cell_keys, uniforms
from multivi_nf.held_out.pairs import HeldOut, Library
from multivi_nf.imputation.decode import Decoder
from multivi_nf.imputation.intervals import Drawn, protein_mixture, rna_mixture
from multivi_nf.imputation.mixtures import Mixture
from multivi_nf.latent.cells import samples, tempered
from multivi_nf.reduction import nearest

MAX_CELLS = 400
MAX_FEATURES = 500
FOLD_CELLS = 30
"""Cells of a batch that is a fold of its own."""
_ELEMENTS = 1 << 24
NEIGHBOURS = 5
"""Cells of each of the two sets."""

Predict = Callable[[float], tuple[np.ndarray, Mixture | None]]
"""Temperature to draws (n_draws, n_cells, n_features) on the user's scale, and the mixture of counts (not for atac)."""


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


@dataclass
class Shown:
    """What some held-out cells show of a hidden modality.

    Attributes
    ----------
    target
        The modality.
    positions
        (n_features,) of the features that are looked at.
    counts
        (n_cells, n_features)
    size
        (n_cells,) what turns a decoded value into an expected count.
    known
        (n_cells, n_features) measured; a protein outside a batch's panel is not, though its count reads 0.
    latent
        (n_cells, n_latent) means of what predicts them.
    fold
        (n_cells,) cells of one fold are judged by what others taught.
    uniform
        (n_cells, n_features) what counts' transforms are randomised by.
    rates
        Each feature's own mean, (n_features,) or (n_cells, n_features); None of proteins.
    means
        Means of the counts of cells in the same state, where there are enough.
    is_probability
        atac: values are probabilities.
    """

    target: str
    positions: np.ndarray
    counts: np.ndarray
    size: np.ndarray
    known: np.ndarray
    latent: np.ndarray
    fold: np.ndarray
    uniform: np.ndarray
    rates: np.ndarray | None = None
    means: NeighbourMeans | None = None
    is_probability: bool = False


class Prediction:
    """Predicts one direction's hidden modality.

    Parameters
    ----------
    held
        Held-out cells.
    sources, target
        The direction.
    n_samples
        Posterior draws of a cell.
    rates
        (n_batches + 1, n_features) each feature's own mean (:meth:`HeldOut.rates`); None of proteins.
    batch
        None: as the reference mixture shows cells. "own": as their batches do, of few cells, by more features and
        without what neighbours show.
    """

    def __init__(
        self,
        held: HeldOut,
        sources: tuple[str, ...],
        target: str,
        n_samples: int,
        rates: np.ndarray | None,
        *,
        batch: str | None = None,
    ) -> None:
        cells, self.n_samples = held.cells, n_samples
        pairs = held.measured(*sources, target)
        keys = cell_keys(cells.data.cells[pairs], held.seed, "calibration")
        index = np.sort(pairs[np.argsort(keys)[:MAX_CELLS]])
        self.decoder = Decoder(cells.model, target, batch, held.level)
        self.keys = cell_keys(cells.data.cells[index], held.seed, "posterior")
        self.blocks = list(cells.blocks(index, sources))
        dense = np.concatenate([b.minibatch.modalities[target].counts.dense().cpu().numpy() for b in self.blocks])
        # of few cells all features have to tell, and none is chosen for what these cells show
        most = max(MAX_FEATURES, MAX_CELLS * MAX_FEATURES // max(len(index), 1))
        if batch is None or rates is None:
            positions = _spread_features(dense)
            library = held.library(index, self.decoder, positions)
        else:
            positions, library = _spread_features(rates[-1:], most), None
        panel = cells.data.in_panel(index, target)
        self.shown = Shown(
            target,
            positions,
            dense[:, positions],
            np.concatenate([held.sizes(block.minibatch, target) for block in self.blocks]),
            np.ones((len(dense), len(positions)), bool) if panel is None else panel[:, positions],
            np.concatenate([block.mean for block in self.blocks]),
            folds(cells.data.source.batch[index].astype(str)),
            uniforms(cell_keys(cells.data.cells[index], held.seed, "pit"), 0, len(positions)),
            None if rates is None else rates[self.decoder.rows_of_rates(cells.data, index)][:, positions],
            None if library is None else NeighbourMeans.of(library),
            self.decoder.is_probability,
        )

    def __call__(self, temperature: float) -> tuple[np.ndarray, Mixture | None]:
        """See :data:`Predict`."""
        values, mixtures = [], []
        step = max(1, _ELEMENTS // (self.n_samples * max(self.decoder.n_features, 1)))
        for block in self.blocks:
            n = block.minibatch.n_cells
            warm = tempered(block.joint, torch.full((n,), temperature, device=block.joint.mean.device))
            z = samples(warm, self.keys[block.at], self.n_samples)
            for rows in blocks(n, step):
                at = slice(block.at.start + rows.start, block.at.start + rows.stop)
                value, mixture = self._decoded(Drawn(self.decoder, z[:, rows], block.codes.rows(rows), at))
                values.append(value)
                mixtures += [] if mixture is None else [mixture]
        return np.concatenate(values, axis=1), Mixture.joined(mixtures) if mixtures else None

    def _decoded(self, drawn: Drawn) -> tuple[np.ndarray, Mixture | None]:
        positions, ones = self.shown.positions, np.ones(drawn.n_cells)
        draws = np.empty((drawn.n_draws, drawn.n_cells, len(positions)), np.float32)
        parts = []
        for to, columns, values in drawn.decoded(positions):
            draws[:, :, to] = values
            if self.shown.target == "protein":
                parts.append(protein_mixture(drawn, columns, ones))
        if self.shown.target == "rna":
            return draws, rna_mixture(drawn, draws, positions, self.shown.size[drawn.at][None], ones)
        return draws, Mixture.beside(parts) if parts else None


def folds(batch: np.ndarray) -> np.ndarray:
    """(n_cells,) batches, the small ones as one, or every second cell where fewer than two batches have 30 cells."""
    names, code, count = np.unique(batch, return_inverse=True, return_counts=True)
    large = count >= FOLD_CELLS
    if large.sum() < 2:
        return np.arange(len(batch)) % 2
    return np.where(large[code], code, len(names))


def _spread_features(counts: np.ndarray, most: int = MAX_FEATURES) -> np.ndarray:
    """At most so many positions of features with a count, evenly over the order of their means."""
    mean = counts.mean(axis=0)
    order = np.argsort(mean, kind="stable")
    order = order[mean[order] > 0]
    if len(order) <= most:
        return np.sort(order) if len(order) else np.arange(min(counts.shape[1], most))
    return np.sort(order[np.unique(np.linspace(0, len(order) - 1, most).astype(int))])
