"""Bounds of the count itself: the likelihood's distribution function, averaged over draws and libraries, inverted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from multivi_nf.calibration.entries import Levels
from multivi_nf.calibration.stored import patterns
from multivi_nf.errors import InputError, option
from multivi_nf.imputation.decode import RNA_SCALE, TILE, Decoder, Prepared, expected_background
from multivi_nf.imputation.mixtures import Mixture, invert
from multivi_nf.latent.cells import Codes

if TYPE_CHECKING:
    import pandas as pd

    from multivi_nf.calibration.stored import Calibration
    from multivi_nf.data.mosaic_data import MosaicData

N_LIBRARIES = 50
POISSON_THETA = 1e8


@dataclass
class Drawn:
    """Posterior draws of a few cells, to be decoded.

    Attributes
    ----------
    decoder
        Decodes them.
    z
        (n_draws, n_cells, n_latent).
    own
        The cells' covariates.
    at
        Their place among the cells that were asked for.
    """

    decoder: Decoder
    z: torch.Tensor
    own: Codes
    at: slice

    @property
    def n_draws(self) -> int:
        """Draws of a cell."""
        return self.z.shape[0]

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.z.shape[1]

    @cached_property
    def flat(self) -> torch.Tensor:
        """(n_draws * n_cells, n_latent), draws outermost."""
        return self.z.reshape(self.n_draws * self.n_cells, -1)

    @cached_property
    def codes(self) -> Codes:
        """Covariates of these rows."""
        return self.own.repeat(self.n_draws)

    @cached_property
    def prepared(self) -> Prepared:
        """Hidden layers of these rows."""
        return self.decoder.prepare(self.flat, self.codes)

    def decoded(self, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Features at some positions, tile by tile.

        Yields
        ------
        Places in `wanted`, their positions, and (n_draws, n_cells, n) float32 values on the user's scale. All genes are
        one tile: they are needed for the softmax anyway, and so decoded once, not once more for its normaliser.
        """
        if self.decoder.modality == "rna":
            values = self.decoder.profile(self.flat, self.codes)
            yield np.arange(len(wanted)), wanted, self._draws(values, wanted)
            return
        for start in range(0, self.decoder.n_features, TILE):
            to = np.flatnonzero((wanted >= start) & (wanted < start + TILE))
            if to.size:
                values = self.decoder.tile(self.prepared, start)
                yield to, wanted[to], self._draws(values, wanted[to] - start)

    def _draws(self, values: torch.Tensor, columns: np.ndarray) -> np.ndarray:
        if len(columns) != values.shape[1] or (columns != np.arange(len(columns))).any():
            values = values[:, torch.as_tensor(columns, device=values.device)]
        return np.ascontiguousarray(values.cpu().numpy().reshape(self.n_draws, -1, len(columns)))


@dataclass
class Predictive:
    """What is needed beyond the draws: libraries, and the calibration's factor on dispersions and levels.

    Attributes
    ----------
    library
        rna: (n_cells,) library, NaN where the reference libraries stand in.
    reference
        rna: ascending quantiles of the libraries of measured cells in the reference batches.
    factor
        (n_cells,) factor on the over-dispersion.
    levels
        Rows of cells and the levels at which their direction's intervals are taken.
    """

    modality: str
    library: np.ndarray
    reference: np.ndarray
    factor: np.ndarray
    levels: list[tuple[np.ndarray, Levels]]

    @classmethod
    def make(
        cls,
        data: MosaicData,
        decoder: Decoder,
        index: np.ndarray,
        library: pd.Series | None,
        calibration: Calibration,
    ) -> Predictive:
        """Collect libraries: those given, else the cell's own where it was measured, else the reference's."""
        modality = decoder.modality
        if modality == "atac":
            raise InputError(
                f"{option('predictive')} was asked for atac",
                "a peak is open or not, and rarely holds more than two fragments: an interval of these says nothing",
                "read the imputed value (probability, or expected fragments); it is the prediction",
            )
        factor, levels = np.ones(len(index)), []
        for sources, rows in patterns(data, index).items():
            entry = None if modality in sources.split("+") else calibration.direction(sources, modality)
            if entry is not None:
                factor[rows] = 1.0 if entry.dispersion_factor is None else entry.dispersion_factor
                if entry.levels is not None:
                    levels.append((rows, entry.levels))
        own, reference = np.full(len(index), np.nan), np.empty(0)
        if modality == "rna":
            totals = cell_totals(data)
            own = totals[index]
            mixture = [b for b, _ in decoder.config.reference_mixture("rna")]
            known = np.flatnonzero(np.isin(data.batch.cpu().numpy(), mixture))
            reference = totals[known][totals[known] > 0]
            if library is not None:
                given = library.reindex(data.cells[index]).to_numpy(float)
                own = np.where(np.isnan(given), own, given)
            if np.isnan(own).any() and not reference.size:
                raise InputError(
                    "no cell of the mosaic shows at which RNA library counts are to be predicted",
                    "cells without RNA get the libraries of the reference batches, and none of these is here",
                    f"give {option('library', shell='--library FILE')}",
                )
        return cls(modality, own, np.sort(reference), factor, levels)

    def bounds(
        self, drawn: Drawn, draws: np.ndarray, columns: np.ndarray, interval: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bound of the counts behind (n_draws, n_cells, n_columns) draws, (n_cells, n_columns)."""
        factor, where = self.factor[drawn.at], np.arange(drawn.at.start, drawn.at.stop)
        if self.modality == "protein":
            mixture = protein_mixture(drawn, columns, factor)
        else:
            sizes = self.libraries(drawn.n_draws, drawn.at) / RNA_SCALE
            mixture = rna_mixture(drawn, draws, columns, sizes, factor)
        used = np.full(len(where), interval)
        for rows, levels in self.levels:
            used[np.isin(where, rows)] = levels.at(interval)
        return invert(mixture, used)

    def libraries(self, n_draws: int, cells: slice) -> np.ndarray:
        """(n_components, n_cells): the cell's own, or reference quantiles spread over the draws.

        Each draw meets one of `n_draws` (at least 50) quantiles of the reference libraries in a fixed shuffled order,
        so that the average over draws is also one over libraries.
        """
        own = self.library[cells]
        repeats = -(-N_LIBRARIES // n_draws) if np.isnan(own).any() else 1
        n = n_draws * repeats
        out = np.broadcast_to(own, (n, len(own))).copy()
        if np.isnan(own).any():
            levels = (np.random.default_rng(0).permutation(n) + 0.5) / n
            out[:, np.isnan(own)] = np.quantile(self.reference, levels)[:, None]
        return out


def cell_totals(data: MosaicData) -> np.ndarray:
    """(n_cells,) RNA counts over the modelled genes; NaN where RNA was not measured."""
    totals = np.full(data.n_cells, np.nan)
    measured = np.flatnonzero(data.has["rna"])
    for start in range(0, len(measured), 4096):
        part = measured[start : start + 4096]
        counts = data.minibatch(part).modalities["rna"].counts
        sums = torch.zeros(len(part), dtype=torch.float64, device=counts.indptr.device)
        ones = torch.ones_like(counts.indices) if counts.values is None else counts.values
        sums.index_add_(0, counts.row_index(), ones.double())
        totals[part] = sums.cpu().numpy()
    return totals


def rna_mixture(drawn: Drawn, draws: np.ndarray, columns: np.ndarray, sizes: np.ndarray, factor: np.ndarray) -> Mixture:
    """Counts of RNA: each draw at its library, and further rounds of all draws where there are more libraries.

    Parameters
    ----------
    draws
        (n_draws, n_cells, n_columns) values on the user's scale.
    sizes
        Libraries per 10,000: (n_components, n_cells), or (1, n_cells) where all draws have the cell's own.
    factor
        (n_cells,) factor on the over-dispersion.
    """
    n_components = max(len(sizes), drawn.n_draws)
    mean = np.tile(draws, (n_components // drawn.n_draws, 1, 1))
    mean = mean * sizes.astype(np.float32)[:, :, None]
    theta, zero = rna_dispersion(drawn, columns)
    weight = np.full((n_components, 1, 1), 1 / n_components, np.float32)
    return Mixture(mean, weight, zero, np.broadcast_to(theta, zero.shape) / factor[:, None])


def rna_dispersion(drawn: Drawn, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse dispersion (1 or n_cells, n_columns), its geometric mean over the mixture, and mean zero inflation."""
    decoder, z, n_draws, n_cells = drawn.decoder, drawn.flat, drawn.n_draws, drawn.n_cells
    at = torch.as_tensor(columns, device=z.device)
    zero = np.zeros((n_cells, len(columns)))
    prepared = decoder.prepare(z, drawn.codes, normalise=False)
    log_theta: torch.Tensor | None = None
    drop: torch.Tensor | None = None
    for i, (h, rows) in enumerate(zip(prepared.hidden, prepared.batches)):
        weight = 1.0 if decoder.own else float(decoder.weights[i, 0])
        inflated = decoder.config.rna_likelihood == "zinb"
        needed = len(z) if inflated else n_cells
        raw = decoder.raw(h[:needed], rows[:needed], 0, decoder.n_features)
        if "log_dispersion" in raw:
            value = raw["log_dispersion"][..., at]
            value = (value if value.dim() == 1 else value[:n_cells]) * weight
            log_theta = value if log_theta is None else log_theta + value
        if inflated:
            value = raw["dropout_logits"][:, at].sigmoid().reshape(n_draws, n_cells, -1).mean(0) * weight
            drop = value if drop is None else drop + value
    if log_theta is None:
        return np.full((1, len(columns)), POISSON_THETA), zero
    theta = np.atleast_2d(np.minimum(log_theta.exp().double().cpu().numpy(), POISSON_THETA))
    return theta, zero if drop is None else drop.double().cpu().numpy()


def protein_mixture(drawn: Drawn, columns: np.ndarray, factor: np.ndarray) -> Mixture:
    """Background and foreground of each draw as components, their parameters averaged over the reference mixture.

    The background enters with the spread of its log-normal: each draw meets one quantile of it, in a fixed order.
    """
    decoder, n_draws, device = drawn.decoder, drawn.n_draws, drawn.z.device
    start = int(columns.min()) // TILE * TILE
    at = torch.as_tensor(columns - start, device=device)
    sums: list[torch.Tensor] = []
    for i, (h, rows) in enumerate(zip(drawn.prepared.hidden, drawn.prepared.batches)):
        raw = decoder.raw(h, rows, start)
        share = 1.0 if decoder.own else decoder.weights[i, start : start + raw["mixing"].shape[1]]
        parts = [raw["mixing"], raw["log_background_mean"], raw["log_background_sd"], raw["foreground"]]
        parts = [(part * share)[:, at] for part in parts]
        theta = raw["log_dispersion"][at].exp().double().cpu().numpy()
        sums = [a + b for a, b in zip(sums, parts)] if sums else parts
    mixing, log_mean, log_sd, fold = sums
    level = torch.as_tensor((np.random.default_rng(0).permutation(n_draws) + 0.5) / n_draws, device=device)
    spread = torch.special.ndtri(level).to(log_sd.dtype).repeat_interleave(len(factor)).unsqueeze(1)
    background = torch.exp(log_mean + log_sd * spread)
    shape = (n_draws, len(factor), len(columns))
    mean = torch.cat([background.reshape(shape), (background * fold).reshape(shape)]).float().cpu().numpy()
    weight = torch.cat([mixing.reshape(shape), (1 - mixing).reshape(shape)]).float().cpu().numpy() / n_draws
    zero = np.zeros(shape[1:])
    return Mixture(mean, weight, zero, np.minimum(theta, POISSON_THETA)[None, :] / factor[:, None])


def protein_expectation(raw: dict[str, torch.Tensor]) -> torch.Tensor:
    """Expected count, background included: E[beta] (pi + (1 - pi) alpha)."""
    return expected_background(raw) * (raw["mixing"] + (1 - raw["mixing"]) * raw["foreground"])
