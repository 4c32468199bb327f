"""What imputed differences between groups are worth, from the groups' counts.

With O the compared counts' sum over a group, S what the feature's mean would give in the group's batches, E the imputed
one, x = log(E / S):

- the slope b of the true log ratio t on x is that of the multinomial of a feature's counts over the groups, given their
  sum: shares S exp(b x), exact however few counts there are;
- two random halves of a group's cells have no noise in common, counts' and cells' alike: their products tell how much
  true ratios vary, and so how large the squared correlation of imputed and true ones is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from multivi_nf.calibration.effects import LARGEST, ImputedEffects, neighbours_say
from multivi_nf.errors import InputError

KNOTS = 10
KNOT_FEATURES, KNOT_COUNTS = 50, 2000
HALF, HALF_PRECISION = -2.0, 0.25
"""Of log h, h the mean of a feature at which the slope is half of that of frequent ones: what is thought of it before
counts are seen, over the mean of all, and the precision of that."""
SPREAD = 0.1
"""Relative variance of sums beyond Poisson by which features of many counts are kept from outvoting the others."""
LAGS = (0.0, 0.02, 0.05, 0.1, 0.2)
LEAST_STRETCH = 0.5
LEAST_LEFT = 0.2
"""Share of the variance of stretched log ratios that is their error at least: a few groups cannot prove less."""
LEAST_SQUARED = 0.02
"""Squared correlation of imputed and true log ratios at least."""
SHARED_COUNTS, SHARED_FEATURES = 3.0, 50
"""Expected counts of a feature in each group, and features of so many, from which their common error is measured."""
BOUNDS = [(0, 2 * LARGEST), (-12, 12)]
"""Of B and log h."""


class NotFitted(InputError):
    """What imputed differences are worth could not be found."""


@dataclass
class Compared:
    """Counts of groups, each in two halves of its cells.

    Attributes
    ----------
    observed, expected, base
        (n_groups, 2, n_features): O, E, S. Only their ratios matter: levels are the features' own.
    level
        (n_features,) log mean on the user's scale.
    residual, variance
        (n_groups, n_features) of the measured cells nearest to each group (:class:`Teachers`); None: not known.
    """

    observed: np.ndarray
    expected: np.ndarray
    base: np.ndarray
    level: np.ndarray
    residual: np.ndarray | None = None
    variance: np.ndarray | None = None

    def of(self, features: np.ndarray) -> Compared:
        """Some of the features."""
        observed, expected, base = (part[..., features] for part in (self.observed, self.expected, self.base))
        some = Compared(observed, expected, base, self.level[features])
        if self.residual is not None and self.variance is not None:
            some.residual, some.variance = self.residual[:, features], self.variance[:, features]
        return some

    @classmethod
    def joined(cls, parts: list[Compared]) -> Compared:
        """Groups of all parts, of the same features."""
        first, names = parts[0], ["observed", "expected", "base"]
        names += [] if first.residual is None else ["residual", "variance"]
        return replace(first, **{name: np.concatenate([getattr(one, name) for one in parts]) for name in names})

    def corrected(self, lag: float) -> Compared:
        """With what the counts of measured neighbours add to the imputed means."""
        if self.residual is None or self.variance is None or lag == 0:
            return self
        more = neighbours_say(self.residual, self.variance, lag)
        return replace(self, expected=self.expected * np.exp(more)[:, None])

    @property
    def log_ratio(self) -> np.ndarray:
        """(n_groups, n_features) x."""
        return np.log(np.maximum(self.expected.sum(1), 1e-12)) - np.log(np.maximum(self.base.sum(1), 1e-12))


def fit_effects(inside: Compared, near: tuple[Compared, Compared] | None = None, gain: float = 1.0) -> ImputedEffects:
    """What imputed log ratios are worth: stretch, standard error, and how far neighbours' counts are believed.

    With x = t / u + noise, the slope b of t on x and the variance V of x give the covariance b V, hence the squared
    correlation r = b / u and the variance (1 - r) V u^2 of the noise of u x, by height of the mean. u is one number.

    Parameters
    ----------
    inside
        Held-out groups whose like was measured elsewhere.
    near
        The same groups predicted by their measured neighbours: all of them, and those of other groups only. What the
        second loses stands for what the model loses where no cell of a group was ever measured.
    gain
        How much farther apart cells lie that took part in training than others do: their log ratios are larger by it.
    """
    inside = inside.of(inside.observed.sum((0, 1)) > 0)
    lag = max(LAGS if inside.residual is not None else LAGS[:1], key=lambda one: likelihood(inside.corrected(one)))
    inside = inside.corrected(lag)
    n_parts = np.clip(min(len(inside.level) // KNOT_FEATURES, inside.observed.sum() // KNOT_COUNTS), 1, KNOTS)
    parts = np.array_split(np.argsort(inside.level, kind="stable"), int(n_parts))
    slope, error = fitted_slopes(inside)
    variance = explained(inside)
    # the slope changes with the mean up to the ends
    low, high = np.quantile(inside.level, [0.01, 0.99])
    ends = [np.flatnonzero(inside.level <= low), np.flatnonzero(inside.level >= high)]
    level, b, spread, unsure = (
        np.array([row[p].mean() for p in (ends[0], *parts, ends[1])]) for row in (inside.level, slope, variance, error)
    )
    u = stretch(inside, slope, variance)
    lost = 1.0 if near is None else _lost(*(one.of(one.observed.sum((0, 1)) > 0) for one in near))
    # what is not known of the slope is an error of all features' ratios
    sure = 1 - unsure / np.maximum(b, unsure + 1e-9)
    squared = np.clip(b / u * sure, LEAST_SQUARED, 1 - LEAST_LEFT)
    means, spreads, correlations, nothing = (r.tolist() for r in (level, np.sqrt(spread) * gain, squared, 0 * level))
    unshrunk = float(np.clip(u / gain, LEAST_STRETCH, LARGEST))
    return ImputedEffects(means, spreads, correlations, nothing, unshrunk, lost, lag, shared_error(inside, u))


def shared_error(found: Compared, u: float) -> float:
    """Variance over groups of what the log ratios of all features miss together, beyond counts.

    The median over features of log(O / S) - u x of a group; the error of a median is that of a mean times
    sqrt(pi / 2). What is alike in all groups cancels between them. 0 where too few features have counts enough to tell.
    """
    base = found.base.sum(1)
    base = base / np.maximum(base.sum(0), 1e-12) * found.observed.sum((0, 1))
    use = base.min(0) >= SHARED_COUNTS
    if use.sum() < SHARED_FEATURES or len(base) < 3:
        return 0.0
    missed = (np.log((found.observed.sum(1) + 0.5) / (base + 0.5)) - u * found.log_ratio)[:, use]
    error = np.pi / 2 * missed.var(axis=1) / use.sum()
    return float(max(np.median(missed, axis=1).var(ddof=1) - error.mean(), 0.0))


def stretch(found: Compared, slope: np.ndarray, variance: np.ndarray) -> float:
    """u: variance of true log ratios over their covariance with imputed ones, of all features together.

    Parameters
    ----------
    slope, variance
        (n_features,) slope of true on imputed ratios, and variance of the latter.
    """
    squared, weight = squared_correlation(found, slope)
    mean = np.average(slope * variance, weights=weight) / max(np.average(variance, weights=weight), 1e-12)
    return float(np.clip(mean / max(squared, LEAST_SQUARED), LEAST_STRETCH, LARGEST))


def explained(found: Compared) -> np.ndarray:
    """(n_features,) variance of x over groups, weighted by their size."""
    x, weight = found.log_ratio, found.base.sum(1)
    weight = weight / np.maximum(weight.sum(0), 1e-12)
    return (weight * (x - (weight * x).sum(0)) ** 2).sum(0)


def _lost(anywhere: Compared, elsewhere: Compared) -> float:
    """Factor on the squared correlation where the measured neighbours that predict a group are none of its own."""
    found = []
    for one in (anywhere, elsewhere):
        slope = np.maximum(slopes(one), 0)
        weight = squared_correlation(one, slope)[1]
        found.append(np.average(slope**2 * explained(one), weights=weight))
    return float(np.clip(found[1] / max(found[0], 1e-9), 0.0, 1.0))


def _weights(found: Compared) -> np.ndarray:
    """(n_features,) of a feature in a likelihood of all: 1 / (1 + SPREAD n), n its counts a group."""
    return 1 / (1 + SPREAD * found.observed.sum((0, 1)) / len(found.observed))


def slopes(found: Compared) -> np.ndarray:
    """(n_features,) slope of the true log ratio on the imputed one."""
    return fitted_slopes(found)[0]


def fitted_slopes(found: Compared) -> tuple[np.ndarray, np.ndarray]:
    """Slopes of true log ratios on imputed ones, B m / (m + h), and their standard errors.

    A decoder learns the noise of counts with the signal. Its variance in a log ratio is as 1 / m, m the feature's mean:
    the slope is one of all frequent features, and falls where counts are few. B and log h have the highest posterior
    by the multinomial's likelihood.

    Returns
    -------
    Two (n_features,).
    """
    observed, base, x = found.observed.sum(1), np.log(np.maximum(found.base.sum(1), 1e-12)), found.log_ratio
    total, weight = observed.sum(0), _weights(found)
    level = found.level - np.average(found.level, weights=total * weight)

    def slope_at(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slopes, and their derivatives by B and log h."""
        missing = expit(at[1] - level)
        return at[0] * (1 - missing), np.stack([1 - missing, -at[0] * missing * (1 - missing)])

    def shares_at(slope: np.ndarray) -> np.ndarray:
        return log_softmax(base + np.clip(slope * x, -20, 20), axis=0)

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        slope, by = slope_at(at)
        log_shares, off = shares_at(slope), at[1] - HALF
        score = weight * ((observed - total * np.exp(log_shares)) * x).sum(0)
        value = (weight * observed * log_shares).sum() - HALF_PRECISION * off**2 / 2
        return -float(value), -(by @ score - np.array([0, HALF_PRECISION * off]))

    slope, by = slope_at(_lowest(loss))
    shares = np.exp(shares_at(slope))
    information = weight * total * ((shares * x**2).sum(0) - (shares * x).sum(0) ** 2)
    covariance = np.linalg.inv((by * information) @ by.T + np.diag([1e-9, HALF_PRECISION]))
    return slope, np.sqrt(np.einsum("ij,ik,kj->j", by, covariance, by))


def _lowest(loss: Callable[[np.ndarray], tuple[float, np.ndarray]]) -> np.ndarray:
    """B and log h of the lowest loss; it is looked for again without derivatives where a line search gave up.

    Raises
    ------
    NotFitted
        Neither way ended at a finite loss.
    """
    best = minimize(loss, [1.0, HALF], jac=True, method="L-BFGS-B", bounds=BOUNDS)
    if not best.success:
        start = best.x if np.isfinite(best.x).all() else np.array([1.0, HALF])
        best = minimize(lambda at: loss(at)[0], start, method="Nelder-Mead", bounds=BOUNDS)
    if not (best.success and np.isfinite(best.fun)):
        raise NotFitted(
            f"the slope of true on imputed differences was not found ({best.message})",
            "nothing would be known of how far imputed differences can be trusted",
            "look whether pairs have counts of both modalities; contrasts of measured cells need none of this",
        )
    return best.x


def likelihood(found: Compared) -> float:
    """Log likelihood of the groups' counts, given each feature's sum, at the slopes that fit best."""
    x = np.clip(slopes(found) * found.log_ratio, -20, 20)
    shares = np.maximum(found.base.sum(1), 1e-12) * np.exp(x)
    return float((_weights(found) * found.observed.sum(1) * np.log(shares / shares.sum(0))).sum())


def squared_correlation(found: Compared, slope: np.ndarray) -> tuple[float, np.ndarray]:
    """Squared correlation of true and imputed ratios over groups, of all features together.

    Of the ratios themselves: few counts have no logarithm, and that of a mean product is ruled by a few large ratios.
    With q the predicted ratio less 1, d = O / (S r) - 1 the observed one (r the feature's own rate), it is
    (sum q d)^2 / (sum q^2 sum d d'), d d' of the two halves of a group's cells.

    Parameters
    ----------
    slope
        (n_features,) of true log ratios on imputed ones.

    Returns
    -------
    The squared correlation, at most 1, and the (n_features,) weights with which features count in it.
    """
    observed, base = found.observed, np.maximum(found.base, 1e-12)
    total, size = observed.sum((0, 1)), base.sum((0, 1))
    expected = base / size * total
    predicted = base.sum(1) * np.exp(np.clip(slope * found.log_ratio, -20, 20))
    predicted *= total / predicted.sum(0)
    of_group = (base.sum(1) / size).mean(1)[:, None]
    mean = np.maximum(expected.sum(1), 1e-12)
    q, d = predicted / mean - 1, observed.sum(1) / mean - 1
    # counts that are compared are part of the rate they are compared with: what that takes from their product
    one, other = base[:, 0] / size, base[:, 1] / size
    product = (observed - expected).prod(1) + one * other * total
    product /= np.maximum(expected.prod(1), 1e-12)
    # a product of counts of mean c has a relative variance of 1 / c^2 + 2 / c, and true ratios differ by themselves
    count = total / (2 * len(observed))
    weight = count**2 / (1 + 2 * count + count**2 / 2)
    cross, square, true = ((weight * (of_group * row).sum(0)).sum() for row in (q * d, q**2, product))
    return float(np.clip(cross, 0, None) ** 2 / max(square * true, cross**2, 1e-300)), weight
