"""Counts of replicates under a negative binomial whose variance has a factor per feature, moderated over features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

FEATURES_AT_ONCE = 8192
RICH = 2.0
"""Mean counts a replicate from which on a feature's residuals say how replicates vary; below, single counts do."""
MOST_RICH = 2048
"""Features that the common dispersion is fitted to."""
MOST_FREEDOM = 1e6
OUTLYING = 0.05
"""False discovery rate at which a feature varies too much for the common prior."""
LEVEL = 0.05
"""What the p-value of a feature must be able to fall below."""
UPPER = 0.5 + 0.5 * (np.arange(500) + 0.5) / 500
"""Levels that stand for the upper half of a distribution."""


def quasi_likelihood_test(
    counts: np.ndarray, side: np.ndarray, block: np.ndarray, size: np.ndarray | None = None
) -> np.ndarray:
    """Two-sided p-values of the difference between two sides, each block at a level of its own.

    One negative-binomial dispersion for all features, by the median of Pearson's statistic; a factor on each feature's
    variance by its own statistic, moderated over features and no smaller than leaves the variance of Poisson counts
    (the bound of Lun, Chen & Smyth, Methods Mol Biol 2016); F-test of the difference of deviances (Lund et al., Stat
    Appl Genet Mol Biol 2012, QLShrink). Unlike logarithms of rates, deviances keep their meaning
    where a replicate has a handful of counts. Below two they exceed their chi-squared distribution, and the score
    statistic stands in for them (docs/decisions/differential.md).

    Parameters
    ----------
    counts
        (n_replicates, n_features).
    side
        (n_replicates,) 1 or 0.
    block
        (n_replicates,) from 0; all 0 without blocks.
    size
        (n_replicates,) whose logarithm is the offset: cells, where amounts a cell are compared. None: each row's sum,
        for shares.

    Returns
    -------
    np.ndarray
        (n_features,); 1 for a feature without a count, with so few that no p-value could be below 0.05 or, in blocks,
        with counts in one block only.
    """
    p = np.ones(counts.shape[1])
    # a replicate without any count says nothing, nor does a block that is left with one side
    told = counts.sum(axis=1) > 0
    if block.max() > 0:
        told &= np.bincount(block, told)[block] > 1
    size = (counts.sum(axis=1) if size is None else size)[told]
    counts, side = counts[told], side[told]
    levels, block = np.unique(block[told], return_inverse=True)
    n_blocks = len(levels)
    if not 0 < side.sum() < len(side) or len(side) - n_blocks < 2:
        return p
    fit = _Fit(side.astype(float), np.eye(n_blocks)[block].T, np.log(size))
    # counts in a single block are fitted exactly, however far replicates differ
    seen = np.flatnonzero((fit.blocks @ counts > 0).sum(axis=0) >= min(2, n_blocks))
    if not len(seen):
        return p
    rich = _rich(counts[:, seen])
    dispersion = _common_dispersion(counts[:, seen[rich][:: -(-len(rich) // MOST_RICH)]], fit)
    difference, factor, most = (np.empty(len(seen)) for _ in range(3))
    for start in range(0, len(seen), FEATURES_AT_ONCE):
        part = slice(start, start + FEATURES_AT_ONCE)
        y = counts[:, seen[part]]
        full, bare = (fit.means(y, dispersion, sides) for sides in (True, False))
        lower = np.maximum(_deviance(y, bare, dispersion) - _deviance(y, full, dispersion), 0)
        difference[part] = np.where(y.mean(axis=0) >= RICH, lower, fit.score(y, bare, dispersion))
        factor[part] = _pearson(y, full, dispersion) / fit.freedom
        most[part] = fit.largest_score(y)
    prior_freedom, prior = variance_prior(factor[rich], fit.freedom)
    # features that vary more than the prior can explain speak for themselves (as Phipson et al. 2016)
    tail = stats.f.sf(factor / max(prior, 1.0), fit.freedom, prior_freedom)
    trust = np.where(stats.false_discovery_control(tail) < OUTLYING, 0.0, prior_freedom)
    poisson = 1 / (1 + dispersion * counts[:, seen].mean(axis=0))
    factor = np.maximum(moderated(factor, fit.freedom, trust, prior), poisson)
    # three counts are not evidence however they fall (Tarone, Biometrics 1990)
    testable = stats.f.sf(most / factor, 1, trust + fit.freedom) <= LEVEL
    p[seen[testable]] = stats.f.sf(difference / factor, 1, trust + fit.freedom)[testable]
    return p


def _rich(counts: np.ndarray) -> np.ndarray:
    """Features with enough counts to see variation between replicates in: a fifth of them at least."""
    mean = counts.mean(axis=0)
    return np.flatnonzero(mean >= min(RICH, np.quantile(mean, 0.8)))


def _common_dispersion(counts: np.ndarray, fit: _Fit) -> float:
    """Dispersion at which the median of Pearson's statistic is that of its chi-squared distribution, by bisection."""
    low, high = 1e-5, 5.0
    for _ in range(16):
        middle = np.sqrt(low * high)
        statistic = _pearson(counts, fit.means(counts, middle, sides=True), middle)
        if np.median(statistic) > stats.chi2.median(fit.freedom):
            low = middle
        else:
            high = middle
    return float(np.sqrt(low * high))


@dataclass
class _Fit:
    """Maximum-likelihood means under a level per block and a difference of the sides, log link.

    Attributes
    ----------
    side
        (n_replicates,)
    blocks
        (n_blocks, n_replicates) 1 where a replicate belongs to a block.
    offset
        (n_replicates,)
    """

    side: np.ndarray
    blocks: np.ndarray
    offset: np.ndarray

    @property
    def freedom(self) -> int:
        return len(self.side) - len(self.blocks) - 1

    def means(self, counts: np.ndarray, dispersion: float, sides: bool) -> np.ndarray:
        """(n_replicates, n_features), with the sides' difference or without; all features side by side.

        Fisher scoring; blocks do not share observations, so that the step is solved for the difference alone.
        """
        side = self.side * sides
        effect = np.zeros(counts.shape[1])
        level = np.tile(np.log((counts.sum(axis=0) + 0.1) / np.exp(self.offset).sum()), (len(self.blocks), 1))
        left = np.arange(counts.shape[1])
        for _ in range(30):
            mean = self._mean(effect[left], level[:, left])
            weight = 1 / (1 + dispersion * mean)
            residual, weight = weight * (counts[:, left] - mean), weight * mean
            gradient, total, shared = (self.blocks @ v for v in (residual, weight, weight * side[:, None]))
            total += 1e-8
            slope = side @ residual
            step = slope - (shared * gradient / total).sum(axis=0)
            step /= (shared * (1 - shared / total)).sum(axis=0) + 1e-8
            steps = (gradient - shared * step) / total
            effect[left] += np.clip(step, -3, 3)
            level[:, left] += np.clip(steps, -3, 3)
            # what the log-likelihood can still gain: a side without counts has its maximum at minus infinity
            gain = (gradient * steps).sum(axis=0) + slope * step
            left = left[gain > 1e-8]
            if not len(left):
                break
        return self._mean(effect, level)

    def score(self, counts: np.ndarray, bare: np.ndarray, dispersion: float) -> np.ndarray:
        """(n_features,) squared score of the sides' difference at 0 over its information beyond that of the blocks.

        `bare` are the means without a difference (Rao 1948).
        """
        weight = bare / (1 + dispersion * bare)
        score = self.side @ ((counts - bare) / (1 + dispersion * bare))
        total, shared = self.blocks @ weight, self.blocks @ (weight * self.side[:, None])
        return score**2 / np.maximum((shared * (1 - shared / np.maximum(total, 1e-12))).sum(axis=0), 1e-12)

    def largest_score(self, counts: np.ndarray) -> np.ndarray:
        """(n_features,) score statistic of Poisson counts, had all of them fallen on the side where that is rarer."""
        size = np.exp(self.offset)
        share = ((self.blocks @ (self.side * size)) / (self.blocks @ size))[:, None]
        total = self.blocks @ counts
        information = (total * share * (1 - share)).sum(axis=0)
        away = np.maximum((total * share).sum(axis=0), (total * (1 - share)).sum(axis=0))
        return away**2 / np.maximum(information, 1e-12)

    def _mean(self, effect: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Means, kept above 0 where a block has no count and its maximum lies there."""
        return np.exp(np.clip(np.outer(self.side, effect) + self.blocks.T @ level + self.offset[:, None], -20, 50))


def _deviance(counts: np.ndarray, mean: np.ndarray, dispersion: float) -> np.ndarray:
    """Twice the log-likelihood below a perfect fit, per feature."""
    spread = (counts + 1 / dispersion) * np.log((1 + dispersion * counts) / (1 + dispersion * mean))
    return 2 * (special.xlogy(counts, counts / mean) - spread).sum(axis=0)


def _pearson(counts: np.ndarray, mean: np.ndarray, dispersion: float) -> np.ndarray:
    """Squared residuals in units of their variance, per feature: less biased than deviances at low counts."""
    return ((counts - mean) ** 2 / (mean * (1 + dispersion * mean))).sum(axis=0)


def variance_prior(variance: np.ndarray, freedom: int) -> tuple[float, float]:
    """Degrees of freedom and scale of a scaled inverse chi-square prior of variances.

    As in limma (Smyth, Stat Appl Genet Mol Biol 2004, section 6.2) variances are scale * F(freedom, prior freedom).
    But only the upper half is fitted, by its median and the mean square of log(variance / median): small variances of
    small counts come in steps, which would pass for a wide prior. Where variances vary no more than chance has them
    vary, the prior has 1e6 degrees of freedom.
    """
    middle = max(float(np.median(variance)), 1e-8)
    upper = variance[variance > middle]
    spread = np.mean(np.log(upper / middle) ** 2) if len(upper) > 2 else 0.0
    prior = MOST_FREEDOM
    if _upper_spread(freedom, MOST_FREEDOM) < spread:
        low, high = np.log(0.5), np.log(MOST_FREEDOM)
        for _ in range(30):
            prior = float(np.exp((low + high) / 2))
            if _upper_spread(freedom, prior) > spread:
                low = np.log(prior)
            else:
                high = np.log(prior)
        prior = float(np.exp((low + high) / 2))
    return prior, middle / float(stats.f.median(freedom, prior))


def moderated(variance: np.ndarray, freedom: int, prior_freedom: float | np.ndarray, prior: float) -> np.ndarray:
    """Posterior of variances under the prior of `variance_prior` (Smyth 2004, section 3)."""
    return (prior_freedom * prior + freedom * variance) / (prior_freedom + freedom)


def _upper_spread(freedom: int, prior: float) -> float:
    """Mean square of log(F / median) over the upper half of an F distribution."""
    quantiles = np.log(stats.f.ppf(UPPER, freedom, prior))
    return float(np.mean((quantiles - np.log(stats.f.median(freedom, prior))) ** 2))
