"""Whether stated uncertainty is honest: coverage, proper scores, reliability, and errors ranked by it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit
from scipy.stats import nbinom

from multivi_nf.evaluation.metrics.imputation import feature_spearman

# ---- predictive distributions of counts ------------------------------------------------------------------------------


def mixture_cdf(means: np.ndarray, theta: np.ndarray | float) -> Callable[[np.ndarray], np.ndarray]:
    """Distribution function of an equal mixture of negative binomials, one component a posterior draw.

    Parameters
    ----------
    means
        (n_draws, n_entries) means of the components.
    theta
        Inverse dispersion, a scalar or (n_entries,).

    Returns
    -------
    A function of counts (n_entries,) that gives P(X <= count); -1 gives 0.
    """
    means = np.atleast_2d(np.asarray(means, np.float64))
    theta = np.broadcast_to(np.asarray(theta, np.float64), means.shape[1:])

    def cdf(counts: np.ndarray) -> np.ndarray:
        total = np.zeros(means.shape[1])
        for mean in means:
            total += nbinom.cdf(counts, theta, theta / (theta + mean))
        return total / len(means)

    return cdf


def randomised_pit(counts: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """(n_entries,) probability integral transform F(x-1) + v (F(x) - F(x-1)), v uniform.

    Uniform exactly when counts follow `cdf` (Czado, Gneiting & Held, Biometrics 65:1254, 2009).
    """
    below, upto = cdf(np.asarray(counts) - 1), cdf(np.asarray(counts))
    return below + rng.random(np.shape(counts)) * (upto - below)


def central_coverage(pit: np.ndarray, level: float) -> float:
    """Share of transforms inside the central interval of the given probability; honest when it equals `level`."""
    return float((np.abs(np.asarray(pit) - 0.5) <= level / 2).mean())


def count_log_score(counts: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(n_entries,) log probability of the counts, floored at log(1e-12)."""
    counts = np.asarray(counts)
    return np.log(np.maximum(cdf(counts) - cdf(counts - 1), 1e-12))


def count_crps(counts: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray], largest: int | None = None) -> np.ndarray:
    """(n_entries,) continuous ranked probability score: sum over k >= 0 of (F(k) - 1[x <= k])².

    Gneiting & Raftery, JASA 102:359 (2007), for integers. The sum ends where F > 1 - 1e-6
    for all entries, or at `largest`.
    """
    counts = np.asarray(counts)
    total = np.zeros(counts.shape)
    k = 0
    last = np.inf if largest is None else largest
    while k <= last:
        f = cdf(np.full(counts.shape, k))
        total += (f - (counts <= k)) ** 2
        if k >= counts.max() and (f > 1 - 1e-6).all():
            break
        k += 1
    return total


# ---- probabilities of events ---------------------------------------------------------------------------------------


def reliability_curve(probability: np.ndarray, truth: np.ndarray, bins: int = 10) -> np.ndarray:
    """(n_bins, 3) mean probability, observed share and number, in bins of equally many entries."""
    p, y = np.ravel(probability), np.ravel(truth)
    groups = np.array_split(np.argsort(p, kind="stable"), bins)
    return np.array([(p[g].mean(), y[g].mean(), g.size) for g in groups if g.size])


def expected_calibration_error(probability: np.ndarray, truth: np.ndarray, bins: int = 10) -> float:
    """Mean |observed share - probability| over bins of equally many entries."""
    curve = reliability_curve(probability, truth, bins)
    return float(np.average(np.abs(curve[:, 1] - curve[:, 0]), weights=curve[:, 2]))


def logistic_calibration(probability: np.ndarray, truth: np.ndarray, iterations: int = 50) -> tuple[float, float]:
    """Slope and intercept of the logistic regression of the truth on logit(probability); honest at 1 and 0 (Cox 1958).

    Newton's method.
    """
    p = np.clip(np.ravel(probability).astype(np.float64), 1e-9, 1 - 1e-9)
    y = np.ravel(truth).astype(np.float64)
    design = np.stack([np.log(p / (1 - p)), np.ones_like(p)], axis=1)
    weights = np.array([1.0, 0.0])
    for _ in range(iterations):
        fitted = expit(design @ weights)
        hessian = (design * (fitted * (1 - fitted))[:, None]).T @ design
        step = np.linalg.solve(hessian + 1e-9 * np.eye(2), design.T @ (y - fitted))
        weights += step
        if np.abs(step).max() < 1e-10:
            break
    return float(weights[0]), float(weights[1])


# ---- errors ranked by uncertainty ------------------------------------------------------------------------------------


def within_feature_rank_correlation(uncertainty: np.ndarray, error: np.ndarray) -> np.ndarray:
    """(n_features,) Spearman correlation of uncertainty and |error| over cells within each feature.

    Across features both follow the mean, which says nothing; within a feature it cannot.
    """
    return feature_spearman(uncertainty, np.abs(error))


def area_under_risk_coverage(uncertainty: np.ndarray, error: np.ndarray) -> dict[str, float]:
    """Area under the mean error of the most certain entries, as more are taken in (Geifman & El-Yaniv 2017).

    Returns
    -------
    `area`; `random` (the mean error) and `oracle` (ranked by the error itself); `gain` = (random - area) / (random -
    oracle), 1 for a perfect ranking and 0 for none.
    """
    error = np.abs(np.ravel(error)).astype(np.float64)
    counts = np.arange(1, error.size + 1)

    def area(order: np.ndarray) -> float:
        return float((np.cumsum(error[order]) / counts).mean())

    found, oracle = area(np.argsort(np.ravel(uncertainty), kind="stable")), area(np.argsort(error, kind="stable"))
    chance = float(error.mean())
    gain = (chance - found) / (chance - oracle) if chance > oracle else float("nan")
    return {"area": found, "random": chance, "oracle": oracle, "gain": gain}
