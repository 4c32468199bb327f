"""What one direction's held-out counts say of its predictions: the numbers that mend them, and scores with and without.

By the held-out log score two numbers are fitted: a temperature on the variance of the posterior, and a factor on the
counts' over-dispersion (rna, protein) or the share of each peak's own rate (atac).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar

from multivi_nf.calibration.entries import Curve, Direction, Levels
from multivi_nf.held_out import scoring
from multivi_nf.held_out.prediction import NeighbourMeans, Predict, Prediction, Shown
from multivi_nf.imputation.intervals import POISSON_THETA
from multivi_nf.imputation.mixtures import Mixture
from multivi_nf.reduction import nearest

TEMPERATURES = tuple(2.0**i for i in range(-3, 8))
FACTORS = (0.05, 20.0)
TOLERANCE = 0.02
"""Of the logarithm of a factor."""
FEW_DRAWS = 8
SHRINKAGES = tuple(i / 20 for i in range(20))
NEAR = 5
DECILES = 10


class Fit:
    """Numbers of one direction.

    Parameters
    ----------
    shown
        What the hidden modality shows.
    predict
        Predicts it.
    """

    def __init__(self, shown: Shown, predict: Predict) -> None:
        self.shown, self.predict = shown, predict
        self.shrinkage = 0.0

    def fitted(self, n_pairs: int) -> Direction:
        """Find temperature and factor by coordinate ascent on the log score; report before and after."""
        scores: dict[float, tuple[float, float]] = {}

        def at(i: int) -> float:
            if TEMPERATURES[i] not in scores:
                scores[TEMPERATURES[i]] = self.best_factor(TEMPERATURES[i])
            return scores[TEMPERATURES[i]][0]

        i = TEMPERATURES.index(1.0)
        # of atac never below 1: beside the peaks' own rates a surer posterior would only serve to undo them
        for step in (1,) if self.shown.target == "atac" else (1, -1):
            while 0 <= i + step < len(TEMPERATURES) and at(i + step) > at(i) + 1e-7:
                i += step
        temperature = TEMPERATURES[i]
        factor = scores[temperature][1]
        found = Direction(calibrated=True, n_cells=n_pairs, temperature=temperature, dispersion_factor=factor)
        self._before(found, *self.predict(1.0))
        if self.shown.target == "atac":
            self.shrinkage, factor = factor, 1.0
            found = replace(found, dispersion_factor=1.0, shrinkage=self.shrinkage)
        draws, mixture = self.predict(temperature)
        self._after(found, draws, None if mixture is None else mixture.scaled(factor))
        found.mean_sd = self.mean_error(draws, mixture) if self.shown.means is None else self._whole_error(draws)
        return found

    def best_factor(self, temperature: float) -> tuple[float, float]:
        """(mean log score, dispersion factor) at a temperature; Brent's search on the logarithm.

        Of atac the share of the peaks' own rates instead (stacking, Yao et al. 2018): a decoder is bolder within a peak
        than sparse counts allow, which no wider spread of z takes back.
        """
        draws, mixture = self.predict(temperature)
        if mixture is None:
            found = [(float(self._peak_score(self._peaks(draws, w)).mean()), -w) for w in SHRINKAGES]
            score, share = max(found)
            return score, -share

        def loss(log_factor: float) -> float:
            scores = scoring.log_score(mixture.scaled(float(np.exp(log_factor))), self.shown.counts)
            return -float(scores[self.shown.known].mean())

        best = minimize_scalar(loss, bounds=tuple(np.log(FACTORS)), method="bounded", options={"xatol": TOLERANCE})
        return -float(best.fun), float(np.exp(best.x))

    def _own(self, value: np.ndarray, share: float) -> np.ndarray:
        """Imputed values drawn to the peaks' own rates."""
        return value if self.shown.rates is None else (1 - share) * value + share * self.shown.rates

    def _peaks(self, draws: np.ndarray, share: float) -> np.ndarray:
        """(n_cells, n_peaks) probability of being seen open, or expected fragments."""
        value = self._own(draws.mean(axis=0), share) * self.shown.size[:, None]
        return np.clip(value, 0, 1) if self.shown.is_probability else value

    def _peak_score(self, mean: np.ndarray) -> np.ndarray:
        """Log probability of the held-out peaks, nats."""
        score = scoring.bernoulli_log_score if self.shown.is_probability else scoring.poisson_log_score
        return score(mean, self.shown.counts)

    # ------------------------------------------------------------------------------------------------ reports

    def _seen(self, p: np.ndarray) -> np.ndarray:
        """That a peak holds a fragment at all is what the report draws of both likelihoods."""
        return p if self.shown.is_probability else -np.expm1(-p)

    def _before(self, found: Direction, draws: np.ndarray, mixture: Mixture | None) -> None:
        x, known = self.shown.counts, self.shown.known
        if mixture is None:
            p = self._peaks(draws, 0.0)
            found.log_score_before = float(self._peak_score(p).mean())
            found.reliability_before = scoring.reliability(self._seen(p), x)
            found.slope_before = scoring.logistic_slope(self._seen(p), x)
            return
        found.log_score_before = float(scoring.log_score(mixture, x)[known].mean())
        found.coverage_before = scoring.coverage(scoring.pit(mixture, x, self.shown.uniform)[known])

    def _after(self, found: Direction, draws: np.ndarray, mixture: Mixture | None) -> None:
        x, known, size = self.shown.counts, self.shown.known, self.shown.size[:, None]
        if mixture is None:
            p = self._peaks(draws, self.shrinkage)
            found.log_score_after = float(self._peak_score(p).mean())
            found.reliability_after = scoring.reliability(self._seen(p), x)
            found.slope_after = scoring.logistic_slope(self._seen(p), x)
            mean = draws.mean(axis=0) * size
        else:
            transform = scoring.pit(mixture, x, self.shown.uniform)
            found.levels = Levels.fit(transform[known])
            found.log_score_after = float(scoring.log_score(mixture, x)[known].mean())
            found.coverage_after = scoring.coverage(levelled(transform, known, self.shown.fold)[known])
            mean = mixture.expected * (1 - mixture.zero)
        error, sd = np.abs(x - mean)[known], (draws.std(axis=0) * size)[known]
        found.risk_coverage = scoring.risk_coverage(error, sd)
        found.risk_coverage_mean = scoring.risk_coverage(error, np.sqrt(mean)[known])

    # ------------------------------------------------------------------------------------------------ errors of means

    def _whole_error(self, draws: np.ndarray) -> Curve:
        """Error of imputed log means that their spread lacks, from the counts of cells in the same state."""
        assert self.shown.means is not None
        value, spread = draws.mean(axis=0, dtype=np.float64), draws.var(axis=0, ddof=1, dtype=np.float64)
        value, spread = self._own(value, self.shrinkage), (1 - self.shrinkage) ** 2 * spread
        return whole_error(value, spread, self.shown.means)

    def mean_error(self, draws: np.ndarray, mixture: Mixture | None) -> Curve:
        """Standard deviation of the error of imputed log means that neighbours share, by feature mean.

        No spread of z shows the decoder's error, and no log score of single counts can tell it from over-dispersion.
        But the residuals of two neighbours (in the latent space of the sources) have no noise in common: the mean of
        their products, over that of the products of their expected counts, is the variance of the relative error of
        both. Features are weighted by the precision of that ratio, scale^2 / var: `shared` by scale / var.
        """
        shown = self.shown
        value = self._own(draws.mean(axis=0), self.shrinkage)
        # 0, as the counts, where nothing was measured
        expected = value * shown.size[:, None] if mixture is None else mixture.expected * shown.known
        residual = shown.counts - expected
        near, _ = nearest(shown.latent, shown.latent, NEAR, same=True)
        shared, scale = (
            sum((one * one[near[:, k]]).sum(axis=0, dtype=np.float64) for k in range(near.shape[1]))
            for one in (residual, expected)
        )
        mean = expected.mean(axis=0, dtype=np.float64) + 1e-6
        theta = POISSON_THETA if mixture is None else mixture.theta.mean(axis=0)
        weight = scale / (mean * (1 + mean / theta)) ** 2
        level = np.log(np.maximum(value.mean(axis=0), 1e-12))
        parts = np.array_split(np.argsort(level), min(DECILES, len(level)))

        def sd(at: np.ndarray) -> float:
            return float(np.sqrt(max((shared[at] * weight[at]).sum() / (scale[at] * weight[at]).sum(), 0.0)))

        # a decile is too small to prove that its means are free of error: the overall value is the least
        overall = sd(np.arange(len(level)))
        return Curve([float(level[p].mean()) for p in parts], [max(sd(p), overall) for p in parts])


def share_of_mean(prediction: Prediction) -> float:
    """Share of each feature's own mean in its imputed value with which held-out counts are told best (stacking).

    What few pairs teach fits other cells worse than a mean does: of 40 pairs the decoder has learnt the cells by heart,
    while ten others tell well how much of it is true.
    """
    shown, mixture = prediction.shown, prediction(1.0)[1]
    if mixture is None:
        return Fit(shown, prediction).best_factor(1.0)[1]
    assert shown.rates is not None
    own = (shown.rates * shown.size[:, None]).astype(np.float32)
    scores = []
    for share in SHRINKAGES:
        one = replace(mixture, mean=(1 - share) * mixture.mean + np.float32(share) * own)
        scores.append((float(scoring.log_score(one, shown.counts).mean()), -share))
    return -max(scores)[1]


def levelled(transform: np.ndarray, known: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Transforms under levels that the cells of other folds taught: what new cells, and new batches, will see."""
    out = np.empty_like(transform)
    for one in np.unique(fold):
        mine = fold == one
        out[mine] = Levels.fit(transform[~mine][known[~mine]]).applied(transform[mine])
    return out


def whole_error(value: np.ndarray, spread: np.ndarray, means: NeighbourMeans) -> Curve:
    """What the posterior's own spread lacks of the whole error of log means, by the height of the mean.

    An interval of single counts tells little of the mean behind them: noise is most of a count, and a wider mean and
    a larger over-dispersion fit as well. What a held-out cell's mean is, its neighbours know: cells near it in the
    latent space of the target's own counts, where half of its counts place it. Two sets of neighbours have no noise
    in common with each other, so that with v the imputed mean and a, b the neighbours' means, E (a - v)(b - v) is the
    squared error of v: what the posterior does not spread over, and what the decoder gets wrong for all cells of a
    kind, which does not fall with the number of cells.

    Parameters
    ----------
    value, spread
        (n_cells, n_features) imputed means, and the posterior variance of each.
    """
    product = ((means.one - value) * (means.other - value)).sum(0)
    square, own = (value**2).sum(0), spread.sum(0)
    count = value.mean(0) * means.size
    # relative variance of a feature's ratio: its counts' in both sets, and that errors differ by themselves
    weight = count**2 / (1 + 2 * count + count**2) / np.maximum(square, 1e-300)
    level = np.log(np.maximum(value.mean(0), 1e-12))
    parts = np.array_split(np.argsort(level, kind="stable"), min(DECILES, len(level)))

    def variance(at: np.ndarray | slice) -> float:
        bottom = max((weight * square)[at].sum(), 1e-300)
        whole, inside = ((weight * row)[at].sum() / bottom for row in (product, own))
        return max(float(np.log1p(max(whole, 0.0)) - np.log1p(inside)), 0.0)

    found = np.array([variance(p) for p in parts])
    least = min(variance(slice(None)), float(found.mean()))
    sd = np.sqrt(np.maximum(found, least))
    return Curve([float(level[p].mean()) for p in parts], sd.tolist())
