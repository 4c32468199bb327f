"""Bounds of the count itself: the likelihood's distribution function, averaged over draws and libraries, inverted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np
import torch

from multivi_nf.calibration.stored import Levels, patterns
from multivi_nf.errors import InputError, option
from multivi_nf.imputation.decode import RNA_SCALE, TILE, Codes, Decoder, Prepared, expected_background
from multivi_nf.imputation.moments import share_out

if TYPE_CHECKING:
    import pandas as pd

    from multivi_nf.calibration.stored import Calibration
    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI

N_LIBRARIES = 50
CONFORMAL_INTERVAL = 0.95
CONFORMAL_DECILES = 10
POISSON_THETA = 1e8
HIGHEST = 1 - 1e-6
"""No upper bound is taken beyond this quantile: sums of probabilities do not reach 1."""
LONGEST = 20_000
SMALLEST_LOG = -600.0


@dataclass
class Mixture:
    """Count distributions of some cells and features: components with means and weights.

    Attributes
    ----------
    mean, weight
        (n_components, n_cells, n_features); weights sum to 1 over components. A weight of shape
        (n_components, 1, 1) is shared.
    zero
        (n_cells, n_features) further probability of 0 (zero inflation, averaged over draws).
    theta
        (n_cells, n_features) inverse dispersion.
    """

    mean: np.ndarray
    weight: np.ndarray
    zero: np.ndarray
    theta: np.ndarray


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz", "nnan", "ninf", "reassoc"})
def gamma_cdf(x, mean, theta):
    """P(X <= x) of a count with a large mean: Wilson & Hilferty's cube root, on the gamma of equal moments."""
    variance = mean + mean * mean / theta
    shape = mean * mean / variance
    z = ((max(x + 0.5, 0.0) / mean) ** (1 / 3) - (1 - 1 / (9 * shape))) * 3 * math.sqrt(shape)
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


@numba.njit(cache=True, nogil=True)
def _search(mean, weight, theta, target):
    """Smallest k with sum_c weight_c P(X_c <= k) >= target, by bisection over the approximation for large means."""
    low, high = -1.0, 1.0
    for i in range(mean.size):
        high = max(high, mean[i])
    high = 4 * (high + 10 * math.sqrt(high + high * high / theta)) + 10
    while high - low > 1:
        middle = math.floor((low + high) / 2)
        total = 0.0
        for i in range(mean.size):
            total += weight[i] * gamma_cdf(middle, mean[i], theta)
        if total >= target:
            high = middle
        else:
            low = middle
    return high


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz", "nnan", "ninf", "reassoc"})
def _invert(mean, weight, zero, theta, lows, highs, begin, end, lower, upper):
    """Quantiles of mixtures of negative binomials for cells `begin` to `end`, by summing probabilities from 0 up."""
    n_components, _, n_features = mean.shape
    mass = np.empty(n_components)
    ratio = np.empty(n_components)
    means = np.empty(n_components)
    weights = np.empty(n_components)
    shared = weight.shape[1] == 1
    for cell in range(begin, end):
        low, high = lows[cell], highs[cell]
        for j in range(n_features):
            size = theta[cell, j]
            rest = 1.0 - zero[cell, j]
            least = 0.0
            expected = 0.0
            for i in range(n_components):
                m = max(mean[i, cell, j], 1e-12)
                w = weight[i, 0, 0] if shared else weight[i, cell, j]
                log_zero = -size * math.log1p(m / size)
                least = min(least, log_zero)
                expected = max(expected, m)
                mass[i] = w * rest * math.exp(log_zero)
                ratio[i] = m / (m + size)
                means[i] = m
                weights[i] = w * rest
            if least < SMALLEST_LOG or expected > LONGEST:
                lower[cell, j] = _search(means, weights, size, low - zero[cell, j])
                upper[cell, j] = _search(means, weights, size, high - zero[cell, j])
                continue
            total = zero[cell, j]
            for i in range(n_components):
                total += mass[i]
            k = 0
            while total < low and k < 100 * LONGEST:
                step = (k + size) / (k + 1)
                for i in range(n_components):
                    mass[i] *= ratio[i] * step
                    total += mass[i]
                k += 1
            lower[cell, j] = k
            while total < high and k < 100 * LONGEST:
                step = (k + size) / (k + 1)
                for i in range(n_components):
                    mass[i] *= ratio[i] * step
                    total += mass[i]
                k += 1
            upper[cell, j] = k


def invert(
    mixture: Mixture, interval: float | np.ndarray, n_threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Central interval of the mixtures: smallest counts whose distribution function reaches (1 -+ interval) / 2.

    Parameters
    ----------
    interval
        Of all cells, or (n_cells,).

    Returns
    -------
    lower, upper: (n_cells, n_features) float32. Exact sums up to means of 20,000, beyond them the approximation of
    Wilson & Hilferty (1931).
    """
    shape = mixture.zero.shape
    lower, upper = np.empty(shape, np.float32), np.empty(shape, np.float32)
    interval = np.broadcast_to(np.asarray(interval, float), shape[:1])
    low, high = (1 - interval) / 2, np.minimum((1 + interval) / 2 - 1e-9, HIGHEST)

    def work(begin: int, end: int) -> None:
        _invert(mixture.mean, mixture.weight, mixture.zero, mixture.theta, low, high, begin, end, lower, upper)

    share_out(work, shape[0], n_threads)
    return lower, upper


def conformal_widths(
    mixture: Mixture, counts: np.ndarray, level: float = CONFORMAL_INTERVAL, known: np.ndarray | None = None
) -> dict[str, list[float]]:
    """How far the bounds of each decile of the predicted mean must move out to cover 95 % of held-out counts.

    Conformalised quantile regression (Romano, Patterson & Candes 2019): the score of a count is its distance outside
    its interval (negative inside), and bounds move by the ceil((n + 1) 0.95)-th smallest score, never inwards. `level`
    is the one at which bounds are taken (:class:`Levels`); `known` are the counts that were measured, by default all.
    """
    lower, upper = invert(mixture, level)
    mean = (mixture.mean * mixture.weight).sum(axis=0) * (1 - mixture.zero)
    known = np.ones(counts.shape, bool) if known is None else known
    score, mean = np.maximum(lower - counts, counts - upper)[known], mean[known]
    parts = np.array_split(np.argsort(mean, kind="stable"), CONFORMAL_DECILES)
    edges = [float(mean[part[-1]]) for part in parts[:-1]]
    widths = []
    for part in parts:
        rank = min(int(np.ceil((len(part) + 1) * CONFORMAL_INTERVAL)), len(part))
        widths.append(max(float(np.sort(score[part])[rank - 1]), 0.0))
    return {"edges": edges, "widths": widths}


def widen(
    lower: np.ndarray, upper: np.ndarray, mean: np.ndarray, conformal: dict | None
) -> tuple[np.ndarray, np.ndarray]:
    """Apply `conformal_widths` to bounds, given the predicted means."""
    if conformal is None:
        return lower, upper
    width = np.asarray(conformal["widths"], np.float32)[np.searchsorted(conformal["edges"], mean)]
    return np.maximum(lower - width, 0), upper + width


@dataclass
class Predictive:
    """What is needed beyond the draws: libraries, and the calibration's factor on dispersions, levels and widths.

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
    widths
        Rows of cells and the split-conformal widths of their direction, where they were asked for.
    """

    modality: str
    library: np.ndarray
    reference: np.ndarray
    factor: np.ndarray
    levels: list[tuple[np.ndarray, Levels]]
    widths: list[tuple[np.ndarray, dict]]

    @classmethod
    def make(
        cls,
        model: MultiVI,
        data: MosaicData,
        modality: str,
        index: np.ndarray,
        library: pd.Series | None,
        calibration: Calibration,
    ) -> Predictive:
        """Collect libraries: those given, else the cell's own where it was measured, else the reference's."""
        if modality == "atac":
            raise InputError(
                f"{option('predictive')} was asked for atac",
                "a peak is open or not, and rarely holds more than two fragments: an interval of these says nothing",
                "read the imputed value (probability, or expected fragments); it is the prediction",
            )
        factor, levels, widths = np.ones(len(index)), [], []
        for sources, rows in patterns(data, index).items():
            if modality not in sources.split("+"):
                factor[rows] = calibration.dispersion_factor(sources, modality)
                if (found := calibration.levels(sources, modality)) is not None:
                    levels.append((rows, found))
                if (found := calibration.conformal(sources, modality)) is not None:
                    widths.append((rows, found))
        own, reference = np.full(len(index), np.nan), np.empty(0)
        if modality == "rna":
            totals = cell_totals(data)
            own = totals[index]
            known = np.flatnonzero(np.isin(data.batch.cpu().numpy(), [b for b, _ in model.reference_mixture("rna")]))
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
        return cls(modality, own, np.sort(reference), factor, levels, widths)

    def bounds(
        self,
        decoder: Decoder,
        prepared: Prepared | None,
        z: torch.Tensor,
        codes: Codes,
        draws: np.ndarray,
        columns: np.ndarray,
        cells: slice,
        interval: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bound, (n_cells, n_columns) float32, of the cells at `cells` of the request."""
        if self.modality == "protein":
            mixture = protein_mixture(decoder, prepared, z, codes, columns, self.factor[cells])
        else:
            mixture = self._rna(decoder, z, codes, draws, columns, cells)
        where = np.arange(cells.start, cells.stop)
        used = np.full(len(where), interval)
        for rows, levels in self.levels:
            used[np.isin(where, rows)] = levels.at(interval)
        lower, upper = invert(mixture, used)
        if self.widths and interval == CONFORMAL_INTERVAL:
            mean = (mixture.mean * mixture.weight).sum(axis=0) * (1 - mixture.zero)
            for rows, found in self.widths:
                at = np.flatnonzero(np.isin(where, rows))
                lower[at], upper[at] = widen(lower[at], upper[at], mean[at], found)
        return lower, upper

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

    def _rna(
        self, decoder: Decoder, z: torch.Tensor, codes: Codes, draws: np.ndarray, columns: np.ndarray, cells: slice
    ) -> Mixture:
        n_draws, n_cells, n_features = draws.shape
        libraries = self.libraries(n_draws, cells)
        repeats = len(libraries) // n_draws
        mean = np.tile(draws, (repeats, 1, 1)) * (libraries / RNA_SCALE).astype(np.float32)[:, :, None]
        theta, zero = rna_dispersion(decoder, z, codes, columns, n_draws)
        weight = np.full((len(libraries), 1, 1), 1 / len(libraries), np.float32)
        return Mixture(mean, weight, zero, np.broadcast_to(theta, (n_cells, n_features)) / self.factor[cells][:, None])


def cell_totals(data: MosaicData) -> np.ndarray:
    """(n_cells,) RNA counts over the modelled genes; NaN where RNA was not measured."""
    totals = np.full(data.n_cells, np.nan)
    measured = np.flatnonzero(data.has["rna"])
    for start in range(0, len(measured), 4096):
        part = measured[start : start + 4096]
        counts = data.minibatch(part).modalities["rna"].counts
        sums = torch.zeros(len(part), dtype=torch.float64, device=counts.indptr.device)
        sums.index_add_(0, counts.row_index(), counts.values.double())
        totals[part] = sums.cpu().numpy()
    return totals


def rna_dispersion(
    decoder: Decoder, z: torch.Tensor, codes: Codes, columns: np.ndarray, n_draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inverse dispersion (1 or n_cells, n_columns), its geometric mean over the mixture, and mean zero inflation."""
    model, n_cells = decoder.model, len(z) // n_draws
    at = torch.as_tensor(columns, device=z.device)
    zero = np.zeros((n_cells, len(columns)))
    prepared = decoder.prepare(z, codes, normalise=False)
    log_theta, drop = None, None
    for i, (h, rows) in enumerate(zip(prepared.hidden, prepared.batches)):
        weight = 1.0 if decoder.own else float(decoder.weights[i, 0])
        inflated = model.config.rna_likelihood == "zinb"
        needed = len(z) if inflated else n_cells
        raw = model.tile("rna", h[:needed], 0, decoder.n_features, rows[:needed])
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


def protein_mixture(
    decoder: Decoder, prepared: Prepared, z: torch.Tensor, codes: Codes, columns: np.ndarray, factor: np.ndarray
) -> Mixture:
    """Background and foreground of each draw as components, their parameters averaged over the reference mixture.

    The background enters with the spread of its log-normal: each draw meets one quantile of it, in a fixed order.
    """
    n_draws = len(z) // len(factor)
    start = int(columns.min()) // TILE * TILE
    at = torch.as_tensor(columns - start, device=z.device)
    sums: list[torch.Tensor] | None = None
    for i, (h, rows) in enumerate(zip(prepared.hidden, prepared.batches)):
        raw = decoder.raw(h, rows, start)
        weight = 1.0 if decoder.own else decoder.weights[i, start : start + raw["mixing"].shape[1]]
        parts = [raw["mixing"], raw["log_background_mean"], raw["log_background_sd"], raw["foreground"]]
        parts = [(part * weight)[:, at] for part in parts]
        theta = raw["log_dispersion"][at].exp().double().cpu().numpy()
        sums = parts if sums is None else [a + b for a, b in zip(sums, parts)]
    mixing, log_mean, log_sd, fold = sums
    level = torch.as_tensor((np.random.default_rng(0).permutation(n_draws) + 0.5) / n_draws, device=z.device)
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
