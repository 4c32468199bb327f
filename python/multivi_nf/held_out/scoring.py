"""How well predicted distributions meet counts: log score, probability integral transform, coverage, reliability."""

from __future__ import annotations

import math
from collections.abc import Callable

import numba
import numpy as np
from scipy.special import gammaln

from multivi_nf.imputation.mixtures import LONGEST, SMALLEST_LOG, Arrays, Mixture, components, gamma_cdf
from multivi_nf.imputation.moments import share_out

LEVELS = (0.5, 0.8, 0.9, 0.95)


@numba.njit(cache=True, nogil=True)
def _log_probability(mixture: Arrays, x: np.ndarray, begin: int, end: int, out: np.ndarray) -> None:
    """Log of the mixture's probability of the counts x, for cells `begin` to `end`."""
    mean, weight, zero, theta = mixture
    n_components, _, n_features = mean.shape
    shared = weight.shape[1] == 1
    for cell in range(begin, end):
        for j in range(n_features):
            size, count = theta[cell, j], x[cell, j]
            highest, total = -1e300, 0.0
            for i in range(n_components):
                m = max(mean[i, cell, j], 1e-12)
                w = weight[i, 0, 0] if shared else weight[i, cell, j]
                value = -size * math.log1p(m / size)
                if count > 0:
                    value += count * (math.log(m) - math.log(m + size))
                if w <= 0:
                    continue
                value += 0.0 if shared else math.log(w)
                if value > highest:
                    total = total * math.exp(highest - value) + 1.0
                    highest = value
                else:
                    total += math.exp(value - highest)
            value = highest + math.log(total) + (math.log(weight[0, 0, 0]) if shared else 0.0)
            if count > 0:
                value += math.lgamma(count + size) - math.lgamma(size) - math.lgamma(count + 1.0)
            inflation = zero[cell, j]
            if inflation > 0:
                value += math.log1p(-inflation)
                if count == 0:
                    value = math.log(math.exp(value) + inflation)
            out[cell, j] = value


def log_score(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    """(n_cells, n_features) log probability of counts x, nats."""
    return _shared_out(_log_probability, mixture, x)


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz", "nnan", "ninf", "reassoc"})
def _below(mixture: Arrays, x: np.ndarray, begin: int, end: int, out: np.ndarray) -> None:
    """P(X <= x - 1) of the mixture; for large means and counts by the approximation that bounds are taken from."""
    zero, theta = mixture[2], mixture[3]
    n = mixture[0].shape[0]
    held = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    mass, ratio, means, weights = held
    for cell in range(begin, end):
        for j in range(x.shape[1]):
            size, count = theta[cell, j], x[cell, j]
            if count < 1:
                out[cell, j] = 0.0
                continue
            total = zero[cell, j]
            least, largest = components(mixture, cell, j, held)
            if least < SMALLEST_LOG or max(largest, count) > LONGEST:
                for i in range(n):
                    total += weights[i] * gamma_cdf(count - 1, means[i], size)
                out[cell, j] = total
                continue
            for k in range(int(count)):
                step = (k + size) / (k + 1)
                for i in range(n):
                    total += mass[i]
                    mass[i] *= ratio[i] * step
            out[cell, j] = total


def _shared_out(kernel: Callable[..., None], mixture: Mixture, x: np.ndarray) -> np.ndarray:
    """What a kernel writes for the counts x of a mixture."""
    out, counts = np.empty(x.shape), np.ascontiguousarray(x, dtype=np.float64)
    args = (mixture.mean, mixture.weight, mixture.zero, np.ascontiguousarray(mixture.theta))
    share_out(lambda begin, end: kernel(args, counts, begin, end, out), len(x), None)
    return out


def pit(mixture: Mixture, x: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Randomised probability integral transform F(x - 1) + V p(x): uniform if the predicted distribution is right.

    Czado, Gneiting & Held, Biometrics 2009. `uniform` is V, of the shape of x.
    """
    below = _shared_out(_below, mixture, x)
    return np.clip(below + uniform * np.exp(log_score(mixture, x)), 0, 1)


def coverage(transform: np.ndarray, levels: tuple[float, ...] = LEVELS) -> list[list[float]]:
    """[nominal, covered] of central intervals, from the transform's values."""
    return [[level, float((np.abs(transform - 0.5) <= level / 2).mean())] for level in levels]


def bernoulli_log_score(p: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Log probability of 0/1 values, nats."""
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return np.where(x > 0, np.log(p), np.log1p(-p))


def poisson_log_score(mean: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Log probability of counts under Poissons, nats."""
    mean = np.maximum(mean, 1e-7)
    return x * np.log(mean) - mean - gammaln(x + 1)


def reliability(p: np.ndarray, x: np.ndarray, n_bins: int = 10) -> list[list[float]]:
    """[mean predicted, share observed] in bins of equal number."""
    order = np.argsort(p, axis=None)
    bins = np.array_split(order, n_bins)
    return [[float(p.ravel()[b].mean()), float((x.ravel()[b] > 0).mean())] for b in bins if len(b)]


def logistic_slope(p: np.ndarray, x: np.ndarray) -> float:
    """Slope of the logistic regression of x on logit p (Cox 1958): 1 if calibrated, below 1 if predictions are bold."""
    p = np.clip(p.ravel(), 1e-6, 1 - 1e-6)
    logit, y = np.log(p / (1 - p)), (x.ravel() > 0).astype(float)
    design = np.stack([np.ones_like(logit), logit], axis=1)
    beta = np.array([0.0, 1.0])
    for _ in range(25):
        fitted = 1 / (1 + np.exp(-design @ beta))
        weight = fitted * (1 - fitted) + 1e-12
        step = np.linalg.solve((design * weight[:, None]).T @ design + 1e-9 * np.eye(2), design.T @ (y - fitted))
        beta += np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-8:
            break
    return float(beta[1])


def risk_coverage(error: np.ndarray, uncertainty: np.ndarray) -> list[list[float]]:
    """[share kept, mean error] when the entries of least uncertainty are kept first."""
    ordered = error.ravel()[np.argsort(uncertainty, axis=None, kind="stable")]
    running = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    shares = np.arange(1, 11) / 10
    return [[float(s), float(running[max(int(round(s * len(ordered))) - 1, 0)])] for s in shares]
