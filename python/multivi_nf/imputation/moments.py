"""Mean, standard deviation and interval over posterior draws, in one sweep over a block that stays in cache."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
from scipy.special import ndtri

from multivi_nf.errors import InputError, option
from multivi_nf.io.processors import threads_given

TINY = 1e-12
_COLUMNS = 256
_FEW = 6


@dataclass
class Moments:
    """Posterior summaries of a block, each (n_cells, n_features) float32; bounds are the mean where not asked for."""

    mean: np.ndarray
    sd: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def check_interval(n_samples: int, interval: float) -> None:
    """Refuse an interval that so few draws cannot hold.

    The p-th quantile of n draws is their p (n + 1)-th order statistic (Weibull; type 6 of Hyndman & Fan 1996), whose
    expected coverage is p exactly. It exists if p (n + 1) >= 1, that is n >= 2 / (1 - interval) - 1.
    """
    needed = 2 / (1 - interval) - 1
    if n_samples < needed - 1e-9:
        raise InputError(
            f"a {interval:.0%} interval was asked for from {n_samples} posterior draws",
            "its bounds would lie outside the smallest and the largest draw",
            f"ask for at least {int(np.ceil(needed - 1e-9))} draws ({option('n_samples', shell='--samples')}), "
            f"or a narrower {option('interval')}",
        )


@numba.njit(cache=True, fastmath={"contract", "nsz", "nnan", "ninf"}, nogil=True)
def _keep(kept: np.ndarray, value: np.ndarray) -> None:
    """Take the values of a draw, which change, into the smallest ones so far, by column in their order."""
    for i in range(kept.shape[0] - 1):
        for j in range(_COLUMNS):
            a = kept[i, j]
            b = value[j]
            kept[i, j] = min(a, b)
            value[j] = max(a, b)


@numba.njit(cache=True, fastmath={"contract", "nsz", "nnan", "ninf"}, nogil=True)
def _summarise(
    p: np.ndarray, begin: int, end: int, out: tuple[np.ndarray, ...], bounds: tuple[bool, int, np.float32]
) -> None:
    """Cells `begin` to `end`. p: (n_draws, n_cells, n_features); bounds: whether any, their rank, the share after it.

    The inner loops run over a constant number of columns, without which they are not vectorised (20 times slower).
    """
    mean, sd, lower, upper = out
    bounded, rank, share = bounds
    n_draws, _, n_features = p.shape
    low = np.empty((rank + 2 if bounded else 1, _COLUMNS), np.float32)
    high = np.empty_like(low)  # of the values with their sign turned
    below, above = np.zeros(_COLUMNS, np.float32), np.zeros(_COLUMNS, np.float32)
    first = np.zeros(_COLUMNS, np.float32)
    total, square = np.empty(_COLUMNS, np.float32), np.empty(_COLUMNS, np.float32)
    for cell in range(begin, end):
        for start in range(0, n_features, _COLUMNS):
            width = min(_COLUMNS, n_features - start)
            first[:width] = p[0, cell, start : start + width]
            total[:], square[:] = 0.0, 0.0
            low[:], high[:] = np.float32(3.0e38), np.float32(3.0e38)
            for s in range(n_draws):
                if width == _COLUMNS:
                    for j in range(_COLUMNS):
                        below[j] = p[s, cell, start + j]
                else:
                    below[:width] = p[s, cell, start : start + width]
                for j in range(_COLUMNS):
                    # sums around the first draw: no cancellation where the spread is small beside the mean
                    d = below[j] - first[j]
                    above[j] = -below[j]
                    total[j] += d
                    square[j] += d * d
                _keep(low, below)
                _keep(high, above)
            for j in range(width):
                shift = total[j] / n_draws
                mean[cell, start + j] = first[j] + shift
                sd[cell, start + j] = np.sqrt(max(square[j] - total[j] * shift, 0.0) / max(n_draws - 1, 1))
                if bounded:
                    lower[cell, start + j] = low[rank - 1, j] + share * (low[rank, j] - low[rank - 1, j])
                    upper[cell, start + j] = -(high[rank - 1, j] + share * (high[rank, j] - high[rank - 1, j]))


def moments(draws: np.ndarray, interval: float | None, n_threads: int | None = None) -> Moments:
    """Summarise draws.

    Parameters
    ----------
    draws
        (n_draws, n_cells, n_features) float32, C order.
    interval
        Coverage of the bounds, quantiles at p (n + 1); None leaves them out.
    n_threads
        Cells are shared out among threads; a cell's values do not depend on it.

    Returns
    -------
    Mean, standard deviation (divisor n - 1; 0 for one draw) and bounds.
    """
    n_draws, n_cells, n_features = draws.shape
    shape = (n_cells, n_features)
    mean, sd = np.empty(shape, np.float32), np.empty(shape, np.float32)
    position = (1 - interval) / 2 * (n_draws + 1) if interval is not None else 1.0
    rank = int(position + 1e-9)
    share = max(position - rank, 0.0)
    lower, upper = (np.empty(shape, np.float32), np.empty(shape, np.float32)) if interval is not None else (mean, mean)
    few = interval is not None and rank < _FEW and rank < n_draws

    out, bounds = (mean, sd, lower, upper), (few, max(rank, 1), np.float32(share))
    share_out(lambda begin, end: _summarise(draws, begin, end, out, bounds), n_cells, n_threads)
    if interval is not None and not few:
        # many draws lie beyond the bounds: a sort is then quicker than keeping them in order
        ordered = np.sort(draws, axis=0)
        after = min(rank, n_draws - 1)
        lower[:] = ordered[rank - 1] + np.float32(share) * (ordered[after] - ordered[rank - 1])
        upper[:] = ordered[-rank] - np.float32(share) * (ordered[-rank] - ordered[-1 - after])
    return Moments(mean, sd, lower, upper)


def towards(found: Moments, rows: np.ndarray, target: np.ndarray, share: float) -> None:
    """Draw some rows towards fixed values, in place: a weighted mean of every draw and `target`, a row each."""
    for values in (found.mean, found.lower, found.upper):
        values[rows] = (1 - share) * values[rows] + share * target
    found.sd[rows] *= 1 - share


def with_mean_error(found: Moments, rows: np.ndarray, sd: np.ndarray, interval: float, largest: float) -> None:
    """Add an error of the log mean to some rows, in place: its variance to theirs, half-widths on the logarithm.

    Parameters
    ----------
    rows
        Positions of the rows.
    sd
        (n_rows, n_features) standard deviation of the error of the log mean.
    interval
        Coverage of the bounds.
    largest
        No mean exceeds it (1 for probabilities).
    """
    mean = np.maximum(found.mean[rows], TINY)
    found.sd[rows] = np.hypot(found.sd[rows], mean * sd)
    half = ndtri((1 + interval) / 2) * sd
    down = np.hypot(np.log(mean / np.clip(found.lower[rows], TINY, mean)), half)
    up = np.hypot(np.log(np.maximum(found.upper[rows], mean) / mean), half)
    found.lower[rows], found.upper[rows] = mean * np.exp(-down), np.minimum(mean * np.exp(up), largest)


def share_out(work: Callable[[int, int], None], n_cells: int, n_threads: int | None) -> None:
    """Call `work(begin, end)` for runs of cells, one a thread."""
    n_threads = max(1, min(n_threads or threads_given(), n_cells))
    edges = np.linspace(0, n_cells, n_threads + 1).astype(int)
    if n_threads == 1:
        work(0, n_cells)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(work, edges[:-1].tolist(), edges[1:].tolist()))
