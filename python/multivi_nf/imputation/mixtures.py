"""Mixtures of negative binomials: distributions of counts of some cells and features, and their quantiles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from multivi_nf.imputation.moments import share_out

Arrays = tuple[np.ndarray, ...]

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

    @property
    def expected(self) -> np.ndarray:
        """(n_cells, n_features) mean over components, before zero inflation."""
        return (self.mean * self.weight).sum(axis=0)

    @property
    def arrays(self) -> Arrays:
        """Means, weights, inflation, theta: as kernels take them."""
        return self.mean, self.weight, self.zero, self.theta

    def scaled(self, factor: float) -> Mixture:
        """With a factor on the over-dispersion."""
        return Mixture(self.mean, self.weight, self.zero, self.theta / factor)

    @classmethod
    def joined(cls, parts: list[Mixture]) -> Mixture:
        """Cells one below the other."""
        weight = parts[0].weight
        if weight.shape[1] > 1:
            weight = np.concatenate([part.weight for part in parts], axis=1)
        zero, theta = (np.concatenate([getattr(part, name) for part in parts]) for name in ("zero", "theta"))
        return cls(np.concatenate([part.mean for part in parts], axis=1), weight, zero, theta)

    @classmethod
    def beside(cls, parts: list[Mixture]) -> Mixture:
        """Features side by side."""
        names = ("mean", "weight", "zero", "theta")
        return cls(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names))


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz", "nnan", "ninf", "reassoc"})
def gamma_cdf(x: float, mean: float, theta: float) -> float:
    """P(X <= x) of a count with a large mean: Wilson & Hilferty's cube root, on the gamma of equal moments."""
    variance = mean + mean * mean / theta
    shape = mean * mean / variance
    z = ((max(x + 0.5, 0.0) / mean) ** (1 / 3) - (1 - 1 / (9 * shape))) * 3 * math.sqrt(shape)
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


@numba.njit(cache=True, nogil=True)
def _search(mean: np.ndarray, weight: np.ndarray, theta: float, target: float) -> float:
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
def components(mixture: Arrays, cell: int, j: int, held: Arrays) -> tuple[float, float]:
    """Write a mixture's components into `held`, each a value a component: least log P(0), and largest mean, of them.

    Parameters
    ----------
    mixture
        :attr:`Mixture.arrays`.
    held
        P(0), the factor from one probability to the next, the mean and the weight, all without the inflation.
    """
    mean, weight, zero, theta = mixture
    mass, ratio, means, weights = held
    size, rest, shared = theta[cell, j], 1.0 - zero[cell, j], weight.shape[1] == 1
    least, largest = 0.0, 0.0
    for i in range(mass.size):
        m = max(mean[i, cell, j], 1e-12)
        w = weight[i, 0, 0] if shared else weight[i, cell, j]
        log_zero = -size * math.log1p(m / size)
        least, largest = min(least, log_zero), max(largest, m)
        mass[i] = w * rest * math.exp(log_zero)
        ratio[i] = m / (m + size)
        means[i] = m
        weights[i] = w * rest
    return least, largest


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz", "nnan", "ninf", "reassoc"})
def _climb(total: float, k: int, goal: float, size: float, held: Arrays) -> tuple[float, int]:
    """Sum probabilities from the count k on until they reach a goal: the sum, and the count."""
    mass, ratio = held[0], held[1]
    while total < goal and k < 100 * LONGEST:
        step = (k + size) / (k + 1)
        for i in range(mass.size):
            mass[i] *= ratio[i] * step
            total += mass[i]
        k += 1
    return total, k


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz", "nnan", "ninf", "reassoc"})
def _invert(mixture: Arrays, goals: Arrays, begin: int, end: int, out: Arrays) -> None:
    """Quantiles of mixtures of negative binomials for cells `begin` to `end`, by summing probabilities from 0 up."""
    zero, theta = mixture[2], mixture[3]
    lower, upper = out
    n = mixture[0].shape[0]
    held = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for cell in range(begin, end):
        low, high = goals[0][cell], goals[1][cell]
        for j in range(zero.shape[1]):
            size = theta[cell, j]
            least, largest = components(mixture, cell, j, held)
            if least < SMALLEST_LOG or largest > LONGEST:
                lower[cell, j] = _search(held[2], held[3], size, low - zero[cell, j])
                upper[cell, j] = _search(held[2], held[3], size, high - zero[cell, j])
                continue
            total = zero[cell, j]
            for i in range(n):
                total += held[0][i]
            total, k = _climb(total, 0, low, size, held)
            lower[cell, j] = k
            total, k = _climb(total, k, high, size, held)
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

    arrays = mixture.arrays
    share_out(lambda begin, end: _invert(arrays, (low, high), begin, end, (lower, upper)), shape[0], n_threads)
    return lower, upper
