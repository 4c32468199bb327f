"""Posterior of effects from estimates and standard errors, the prior learnt from all features (empirical Bayes).

Adaptive shrinkage (Stephens, Biostatistics 2017): effects come from a mixture of normals around 0 whose weights are
fitted by EM, so that a probability of 0.95 means 0.95 whether one feature in a thousand differs or half of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

SMALLEST = 0.03
"""Standard deviation (natural logarithm) of the narrowest component: no two groups have exactly equal means."""
NULL_WEIGHT = 10.0
"""Pseudo-features of the narrowest component (the default of Stephens' ashr): few features learn no wide prior."""
CERTAIN = 2.0
"""Standard errors from 0 at which effects are taken to lie around another value."""
_ITERATIONS = 200
_TURNS = 5
_BISECTIONS = 24


@dataclass
class Shrunk:
    """Posterior of each feature's effect, a mixture of normals.

    Attributes
    ----------
    weight, mean, sd
        (n_features, n_components).
    """

    weight: np.ndarray
    mean: np.ndarray
    sd: np.ndarray

    def widened(self, sd: np.ndarray) -> Shrunk:
        """Posterior of effects that differ from these by an error of (n_features,) standard deviations."""
        return Shrunk(self.weight, self.mean, np.hypot(self.sd, sd[:, None]))

    def expectation(self) -> np.ndarray:
        """(n_features,) posterior mean."""
        return (self.weight * self.mean).sum(axis=1)

    def above(self, threshold: np.ndarray) -> np.ndarray:
        """(n_features,) probability of an effect above a threshold per feature."""
        return (self.weight * ndtr((self.mean - threshold[:, None]) / self.sd)).sum(axis=1)

    def below(self, threshold: np.ndarray) -> np.ndarray:
        """(n_features,) probability of an effect below a threshold per feature."""
        return (self.weight * ndtr((threshold[:, None] - self.mean) / self.sd)).sum(axis=1)

    def quantile(self, p: float) -> np.ndarray:
        """(n_features,) quantile, by bisection."""
        low, high = (self.mean - 8 * self.sd).min(axis=1), (self.mean + 8 * self.sd).max(axis=1)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            enough = self.below(middle) >= p
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return (low + high) / 2


def shrink(estimate: np.ndarray, error: np.ndarray, shared: float | None = None) -> Shrunk:
    """Posterior of effects.

    Parameters
    ----------
    estimate, error
        (n_features,) estimates and their standard errors, natural logarithms.
    shared
        Standard deviation of an error that all estimates share. Then effects may lie around another value than 0
        (Stephens' `mode`): of shares of a whole, where a few frequent features rise, all others fall by one factor. It
        is believed where it is more than twice its standard error. None: they lie around 0.

    Returns
    -------
    Shrunk.
    """
    if shared is not None:
        mode, unsure = _mode(estimate, error)
        if abs(mode) > CERTAIN * np.hypot(unsure, shared):
            found = _around_zero(estimate - mode, error)
            return Shrunk(found.weight, found.mean + mode, found.sd)
    return _around_zero(estimate, error)


def _mode(estimate: np.ndarray, error: np.ndarray) -> tuple[float, float]:
    """Value that most effects lie around, and its standard error, by turns with the weights of components."""
    # the pseudo-features of the narrowest component lie at 0: few features do not move it
    pseudo = NULL_WEIGHT / (SMALLEST**2 + float(np.median(error)) ** 2)
    mode, precision = float(np.median(estimate)), pseudo
    for _ in range(_TURNS):
        found = _around_zero(estimate - mode, error)
        # a component's ratio is its share of the whole variance: 1 - ratio = error^2 / whole
        inverse = found.weight * (1 - (found.sd / error[:, None]) ** 2) / error[:, None] ** 2
        precision = float(inverse.sum()) + pseudo
        mode = float((inverse.sum(axis=1) * estimate).sum()) / precision
    return mode, precision**-0.5


def _around_zero(estimate: np.ndarray, error: np.ndarray) -> Shrunk:
    """Posterior of effects that lie around 0."""
    largest = 2 * np.sqrt(max(float((estimate**2 - error**2).max()), 0.0))
    scales = [SMALLEST]
    while scales[-1] < largest:
        scales.append(scales[-1] * 2)
    variance = np.asarray(scales) ** 2
    total = error[:, None] ** 2 + variance[None, :]
    log = -0.5 * (estimate[:, None] ** 2 / total + np.log(total))
    likelihood = np.exp(log - log.max(axis=1, keepdims=True))
    prior = np.full(len(scales), 1 / len(scales))
    for _ in range(_ITERATIONS):
        # sums over features of likelihood * prior / its row sum, as two products with the matrix
        counts = prior * (likelihood.T @ (1 / (likelihood @ prior)))
        counts[0] += NULL_WEIGHT
        updated = counts / counts.sum()
        settled = np.abs(updated - prior).max() < 1e-6
        prior = updated
        if settled:
            break
    weight = likelihood * prior
    weight /= weight.sum(axis=1, keepdims=True)
    ratio = variance[None, :] / total
    return Shrunk(weight, estimate[:, None] * ratio, error[:, None] * np.sqrt(ratio))
