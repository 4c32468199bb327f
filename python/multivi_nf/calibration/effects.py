"""How imputed differences between groups stand to true ones, as held-out pairs showed it; kept in calibration.json.

An imputed log ratio x of a group (to all cells) is drawn to the middle, since a cell's other modality says little, and
holds what the decoder made up: x = t / u + noise, t the true log ratio. Times u it is an estimate of t without slope,
with a standard error, as counts give one; it is shrunk once, as these are. The counts of the measured cells nearest to
a group correct x before that, by as much as held-out pairs say (`lag`). Groups that are found in the latent space
(clusters) are chosen by x and have numbers of their own; groups of which no cell shows the modality a larger error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from multivi_nf.io.records import left_out

LABELS, CLUSTERS = "labels", "clusters"
"""Groups that were named by something else than the latent space, and groups that were found in it."""

LARGEST = 5.0
"""No imputed log ratio is stretched more than this."""


IN_PROPORTION = 0.08
"""Variance of a group's true log ratio around the expected one, as a share of its square, beside the error that all
features have: on simulated groups u x missed a true log ratio by 0.33 where it is 0, 0.6 where it is 1, 0.8 at 1.5."""


@dataclass
class ImputedEffects:
    """Numbers of one direction and one kind of groups; knots of ascending log means, linear in between.

    Attributes
    ----------
    log_mean
        (n_knots,) logarithm of a feature's mean on the user's scale.
    spread
        (n_knots,) standard deviation of x over groups (natural logarithm).
    squared
        (n_knots,) squared correlation of x and t over groups, less its own standard error.
    sd
        (n_knots,) of a calibration of an earlier version: standard deviation of the truth around x.
    unshrunk
        u, the factor that makes the slope of u x on the truth 1.
    lost
        Factor on the squared correlation where no cell of a group shows the modality.
    lag
        Variance of the decoder's error of a group's log mean that the counts of measured neighbours show; 0: their
        counts say nothing that the decoder has not learnt.
    shared
        Variance over groups of an error that the log ratios of all features share: where imputed cells lie between
        types, all that these do not differ in moves by one factor, since values are shares of a whole.
    """

    log_mean: list[float]
    spread: list[float]
    squared: list[float]
    sd: list[float]
    unshrunk: float
    lost: float
    lag: float
    shared: float = left_out(0.0)

    @classmethod
    def plain(cls, log_mean: list[float], sd: list[float]) -> ImputedEffects:
        """Of a calibration of an earlier version, which knew the error alone."""
        return cls(log_mean, [0.0] * len(sd), [1.0] * len(sd), sd, 1.0, 1.0, 0.0)

    def impossible(self) -> str:
        """What no measurement can give, in words; empty if there is nothing."""
        rows, numbers = (
            (self.log_mean, self.spread, self.squared, self.sd),
            (self.unshrunk, self.lost, self.lag, self.shared),
        )
        if not self.log_mean or any(len(row) != len(self.log_mean) for row in rows):
            return "its rows are not equally long"
        if not np.isfinite([*np.concatenate(rows), *numbers]).all() or (np.diff(self.log_mean) < 0).any():
            return "a value is not finite, or means do not ascend"
        low, high = min(*self.spread, *self.squared, *self.sd, *numbers), max(*self.squared, self.lost)
        if low < 0 or self.unshrunk > LARGEST or high > 1:
            return f"a value is negative, a factor above {LARGEST:g}, or a squared correlation or its loss above 1"
        return ""

    def at(self, level: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Spread, squared correlation and error of an earlier version of features at (n_features,) log means."""
        spread, squared, sd = (np.interp(level, self.log_mean, row) for row in (self.spread, self.squared, self.sd))
        return spread, squared, sd

    def worth(self, level: np.ndarray, away: np.ndarray, outside: float, expected: bool) -> Worth:
        """What imputed log ratios of one group are worth.

        t = b x + e, with b the same and e as large however far groups lie apart, as held-out groups show: the farther
        these lie from the middle, the more of t does x tell, and the less is it stretched. What is only `expected` has
        an error that grows with how far they lie, since no held-out groups show it.

        Parameters
        ----------
        level, away
            (n_features,) log means, and imputed log ratios x.
        outside
            Share of the cells whose like never shows the modality; asked where `expected`.
        expected
            Give what is expected of t, r u x, whose error is the truth's scatter around it; and not the estimate u x,
            whose error scatters around the truth.
        """
        spread, squared, beyond = self.at(level)
        size = max(float((away**2).sum()) / max(float((spread**2).sum()), 1e-12), 1.0)
        whole = (self.unshrunk * spread) ** 2 * size
        if expected:
            # a decoder carries on beyond the cells that taught it, which the neighbours that told `lost` cannot: of
            # what they lose the effect loses half, the error gains all
            lost, u = 1 - outside * (1 - self.lost), np.full(len(level), self.unshrunk)
            factor, scatter = u * squared * (1 + lost) / 2, squared * whole * (1 - squared * lost)
            return Worth(u, factor, 0 * whole, scatter + beyond**2)
        told = squared * size / np.maximum(squared * size + 1 - squared, 1e-12)
        less = squared / np.maximum(told, 1e-12)
        # what the decoder misses of large effects is in proportion to them: it scatters the truth, and shrinks nothing
        # (an earlier version's error, without a spread, holds all of it)
        missed = IN_PROPORTION * (self.unshrunk * squared * away) ** 2 * (spread > 0)
        u, noise = self.unshrunk * less, (1 - told) * whole * less**2
        return Worth(u, u, noise, beyond**2 + missed + self.shared, self.shared)


@dataclass
class Worth:
    """Of one group: factors on its imputed log ratios, the variance of the noise in them, and of the truth beyond.

    `shared` is the part of `beyond` that all features have in common.

    Attributes
    ----------
    unshrunk, factor, noise, beyond
        (n_features,). `unshrunk` makes the slope on the truth 1; `factor` is that of effects.
    """

    unshrunk: np.ndarray
    factor: np.ndarray
    noise: np.ndarray
    beyond: np.ndarray
    shared: float = 0.0


def neighbours_say(residual: np.ndarray, variance: np.ndarray, lag: float) -> np.ndarray:
    """What the counts of measured neighbours add to imputed log means: their residual, shrunk by its variance.

    Parameters
    ----------
    residual, variance
        Log of observed over expected counts, and the variance of counts in it.
    lag
        Variance of what the decoder has not learnt.
    """
    return lag / (lag + OVERDISPERSION * variance + 1e-12) * residual


OVERDISPERSION = 1.25
"""Variance of neighbours' counts over that of Poisson counts."""
