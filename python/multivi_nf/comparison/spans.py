"""One pass over some features of a part: decoded means, expected counts, and what they leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from multivi_nf.comparison.parts import Part, Sums, Tallied
from multivi_nf.data.draws import blocks
from multivi_nf.imputation.decode import TILE, Decoder, Prepared
from multivi_nf.imputation.intervals import protein_expectation

ROWS = 1024
SPAN = 8 * TILE
"""Features of one pass: hidden layers are computed once for all of its tiles."""


@dataclass
class Scales:
    """What a part's means and expected counts are decoded by.

    Attributes
    ----------
    means
        The reference mixture, or each cell's own batch.
    own
        Each cell's own batch; of proteins it gives expected counts, background included.
    same
        Both give the same values.
    """

    means: Decoder
    own: Decoder
    same: bool


class Span:
    """A pass over the features from `start` on of one part."""

    def __init__(self, part: Part, scales: Scales, start: int) -> None:
        self.part, self.scales = part, scales
        self.start, self.stop = start, min(start + SPAN, scales.means.n_features)
        self.device = part.z[0].device
        self.shares = torch.from_numpy((1 / part.n_samples).astype(np.float32)).to(self.device)

    @property
    def width(self) -> int:
        """Features of the pass."""
        return self.stop - self.start

    def _zeros(self, n: int) -> torch.Tensor:
        return torch.zeros((n, self.width), device=self.device)

    def _weights(self, rows: slice) -> torch.Tensor:
        return torch.from_numpy(self.part.rows[:, rows]).to(self.device)

    # ------------------------------------------------------------------------------------------------ measured cells

    def measured(self, own: Tallied) -> Sums:
        """Decoded means beside counts, observed and expected."""
        part, span = self.part, slice(self.start, self.stop)
        value, expected = self._zeros(len(part.rows)), self._zeros(len(part.rows))
        for rows in blocks(part.n_cells, ROWS):
            weights = self._weights(rows)
            sized = weights * torch.from_numpy(own.size[rows].astype(np.float32)).to(self.device)
            for tile, mean, _ in self._averages(self.scales.means, rows):
                value[:, tile].addmm_(weights, mean)
                if self.scales.same:
                    expected[:, tile].addmm_(sized, self._in_panel(own, rows, tile, mean))
            for tile, mean, _ in () if self.scales.same else self._averages(self.scales.own, rows):
                expected[:, tile].addmm_(sized, self._in_panel(own, rows, tile, mean))
        observed = halves(own.observed[:, span])
        residual = np.log((observed + 0.5) / (halves(expected.double().cpu().numpy()) + 0.5))
        replicates = sorted(set(part.replicate))
        code = np.searchsorted(replicates, part.replicate)
        squared = np.broadcast_to((own.sizes(span) ** 2).sum(axis=0), self.width)
        second = np.stack([own.square[span], own.product[span], squared])
        sizes: list[float | np.ndarray]
        if own.panel is None:
            sizes = np.bincount(code, weights=own.size, minlength=len(replicates)).tolist()
        else:
            sizes = [own.sizes(span)[code == i].sum(axis=0) for i in range(len(replicates))]
        first = dict(zip(replicates, own.first[:, span]))
        return Sums(self._averaged(value), residual, first, dict(zip(replicates, sizes)), second, np.zeros(self.width))

    def _in_panel(self, own: Tallied, rows: slice, tile: slice, mean: torch.Tensor) -> torch.Tensor:
        if own.panel is None:
            return mean
        return mean * torch.from_numpy(own.panel[rows, self.start + tile.start : self.start + tile.stop]).to(
            mean.device
        )

    # ------------------------------------------------------------------------------------------------ imputed cells

    def imputed(self) -> Sums:
        """Decoded means and their spread over cells."""
        part = self.part
        value, spread = self._zeros(len(part.rows)), torch.zeros(self.width, device=self.device)
        replicates = sorted(set(part.replicate))
        apart = self._zeros(len(replicates))
        of_replicate = (part.replicate == np.array(replicates)[:, None]).astype(np.float32)
        for rows in blocks(part.n_cells, ROWS):
            weights, belongs = self._weights(rows), torch.from_numpy(of_replicate[:, rows]).to(self.device)
            for tile, average, square in self._averages(self.scales.means, rows):
                value[:, tile].addmm_(weights, average)
                spread[tile] += square
                apart[:, tile].addmm_(belongs, average)
        first = dict(zip(replicates, apart.double().cpu().numpy()))
        size = {name: float((part.replicate == name).sum()) for name in replicates}
        mean, squares = self._averaged(value), spread.double().cpu().numpy()
        second = np.stack([squares, sum(first.values()), np.full(self.width, part.n_cells)])
        return Sums(mean, np.zeros_like(mean), first, size, second, self._taught_variance())

    def _taught_variance(self) -> np.ndarray:
        """(width,) sampling variance of the log mean of the measured cells that taught the decoder these values."""
        cells, span = self.part.teachers, slice(self.start, self.stop)
        if cells is None:
            return np.zeros(self.width)
        total, weight2 = cells.total[span], cells.weight**2
        sizes = cells.sizes(span)
        rate = total / np.maximum(cells.weight @ sizes, 1e-12)
        quadratic = cells.square[span] - 2 * rate * cells.product[span] + rate**2 * (weight2 @ sizes**2)
        # a feature that none of them showed: the variance of the log of a Poisson count of as many cells
        floor = (weight2.sum() / (total + 0.5 * weight2.sum())) if len(cells.weight) else 0.0
        return np.maximum(np.maximum(quadratic, 0) / np.maximum(total, 1e-12) ** 2 * (total > 0), floor)

    # ------------------------------------------------------------------------------------------------ decoding

    def _averages(self, decoder: Decoder, rows: slice) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """For each tile: its place in the span, (n_rows, width) means over samples, (width,) summed mean squares."""
        samples, share = [], self.shares[rows]
        for k, z in enumerate(self.part.z):
            mine = slice(rows.start, min(rows.stop, len(z)))
            if mine.stop > mine.start:
                samples.append(self.prepared(decoder, k, mine))
        for begin in range(self.start, self.stop, TILE):
            total, square = None, torch.zeros((), device=share.device)
            for prepared in samples:
                value = self.tile(decoder, prepared, begin)
                n = len(value)
                if total is None:
                    total = value.clone()
                else:
                    total[:n] += value
                if self.part.own is None:
                    square = square + share[:n] @ value.square_()
            assert total is not None
            place = slice(begin - self.start, begin - self.start + total.shape[1])
            yield place, total.mul_(share.unsqueeze(1)), square

    def _averaged(self, value: torch.Tensor) -> np.ndarray:
        cells = halves(self.part.rows.sum(axis=1, keepdims=True).astype(np.float64))
        return halves(value.double().cpu().numpy()) / np.maximum(cells, 1)

    def prepared(self, decoder: Decoder, k: int, rows: slice) -> Prepared:
        """Hidden layers of the k-th sample of some cells."""
        z, codes, kept = self.part.z[k][rows], self.part.codes.rows(rows), self.part.normaliser
        if not decoder.is_softmax:
            return decoder.prepare(z, codes)
        # the normaliser needs all features: it is computed once; hidden layers are cheap enough to repeat
        key = (k, rows.start, decoder.own)
        if key not in kept:
            kept[key] = decoder.prepare(z, codes).normaliser
        bare = decoder.prepare(z, codes, normalise=False)
        return Prepared(bare.hidden, bare.batches, kept[key])

    def tile(self, decoder: Decoder, prepared: Prepared, start: int) -> torch.Tensor:
        """(n_rows, width) values of a tile."""
        if decoder is self.scales.own and decoder.modality == "protein":
            return protein_expectation(decoder.raw(prepared.hidden[0], prepared.batches[0], start))
        return decoder.tile(prepared, start)

    def sampled(self, step: int) -> torch.Tensor:
        """(n, width) one posterior sample of every `step`-th cell over a tile."""
        tiles = []
        for rows in blocks(self.part.n_cells, ROWS):
            tile = self.tile(self.scales.means, self.prepared(self.scales.means, 0, rows), self.start)
            tiles.append(tile[-rows.start % step :: step].clone())
        return torch.cat(tiles)


def halves(rows: np.ndarray) -> np.ndarray:
    """(1 + n_halves, ...) sums to (1 + 2 n_halves, ...): all, the halves, their complements."""
    return np.concatenate([rows, rows[:1] - rows[1:]])
