"""What calibration.json holds: a dataclass each, checked for what no fit can give."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from multivi_nf.calibration.effects import ImputedEffects
from multivi_nf.io.records import left_out

KNOTS = (*(i / 20 for i in range(20)), 0.975, 0.99, 0.995)
Pairs = list[list[float]]


@dataclass
class Curve:
    """Error of log means by height of the mean: ascending knots, linear in between."""

    log_mean: list[float]
    sd: list[float]

    def impossible(self) -> str:
        """What no measurement gives, in words; empty if there is nothing."""
        if not _finite(*self.log_mean, *self.sd):
            return "it does not hold finite values of log_mean and sd"
        if len(self.log_mean) != len(self.sd) or min(self.sd, default=0) < 0:
            return "an error is negative, or their number is not that of the means"
        return ""


@dataclass
class Levels:
    """At which level of the predicted distribution an interval of a nominal level has to be taken.

    Distributional conformal prediction (Chernozhukov, Wuthrich & Zhu, PNAS 2021): the p-quantile of |2 u - 1| over
    held-out counts, u their randomised transform (PIT), is the level whose central intervals held a share p of them. It
    mends the form of the distribution, which neither temperature nor dispersion can: proteins are more often close to
    their mean, and more often far from it, than a negative binomial is.

    Attributes
    ----------
    nominal, used
        Ascending knots, from 0 to 1; linear in between.
    """

    nominal: list[float]
    used: list[float]

    @classmethod
    def fit(cls, transform: np.ndarray) -> Levels:
        """Learn from randomised transforms of held-out counts, by quantiles at p (n + 1)."""
        away = np.abs(2 * transform - 1)
        used = np.quantile(away[np.isfinite(away)], KNOTS, method="weibull")
        return cls([*KNOTS, 1.0], [0.0, *used[1:].tolist(), 1.0])

    def at(self, interval: float) -> float:
        """Level to use for an interval."""
        return float(np.interp(interval, self.nominal, self.used))

    def applied(self, transform: np.ndarray) -> np.ndarray:
        """Randomised transform under the mended distribution."""
        centred = 2 * transform - 1
        return 0.5 + 0.5 * np.sign(centred) * np.interp(np.abs(centred), self.used, self.nominal)

    def impossible(self) -> str:
        """What no fit gives, in words; empty if there is nothing."""
        rows = (self.nominal, self.used)
        good = len(self.nominal) == len(self.used) >= 2 and _finite(*self.nominal, *self.used)
        if good and all(r[0] >= 0 and r[-1] <= 1 and all(a <= b for a, b in zip(r, r[1:])) for r in rows):
            return ""
        return "they are not two ascending rows from 0 to 1"


@dataclass
class Direction:
    """What pairs said of imputing one modality from others.

    Attributes
    ----------
    calibrated, n_cells
        Whether there were pairs enough, and how many.
    temperature
        Factor on the variance of the posterior.
    dispersion_factor, levels
        Factor on the counts' over-dispersion 1 / theta, and where their intervals are taken.
    shrinkage
        Share of a gene's or peak's own mean in its imputed value; found from few pairs too.
    mean_sd, effects, effect_sd
        Error of imputed means; what imputed effects are worth by kind of groups; the same of an earlier version.
    log_score_before, ...
        Scores before and after, which the report draws.
    """

    calibrated: bool
    n_cells: int | None = left_out()
    temperature: float | None = left_out()
    dispersion_factor: float | None = left_out()
    levels: Levels | None = left_out()
    shrinkage: float | None = left_out()
    mean_sd: Curve | None = left_out()
    effects: dict[str, ImputedEffects] | None = left_out()
    effect_sd: Curve | None = left_out()
    log_score_before: float | None = left_out()
    log_score_after: float | None = left_out()
    coverage_before: Pairs | None = left_out()
    coverage_after: Pairs | None = left_out()
    reliability_before: Pairs | None = left_out()
    reliability_after: Pairs | None = left_out()
    slope_before: float | None = left_out()
    slope_after: float | None = left_out()
    risk_coverage: Pairs | None = left_out()
    risk_coverage_mean: Pairs | None = left_out()

    @property
    def warmth(self) -> float:
        """The temperature; 1 where none was fitted."""
        return 1.0 if self.temperature is None else float(self.temperature)

    def impossible(self) -> str:
        """What no fit gives, in words; empty if there is nothing."""
        out_of_range = self.shrinkage is not None and not 0 <= self.shrinkage <= 1
        wrong = [f"'shrinkage' is {self.shrinkage}"] if out_of_range else []
        if not self.calibrated:
            return "; ".join(wrong)
        factor = 1.0 if self.dispersion_factor is None else self.dispersion_factor
        wrong += [
            f"'{name}' is {value}"
            for name, value in (("temperature", self.temperature), ("dispersion_factor", factor))
            if value is None or not (_finite(value) and value > 0)
        ]
        parts: dict[str, Curve | Levels | ImputedEffects | None]
        parts = {"mean_sd": self.mean_sd, "effect_sd": self.effect_sd, "levels": self.levels}
        parts |= {f"effects of {kind}": effects for kind, effects in (self.effects or {}).items()}
        told = {name: part.impossible() for name, part in parts.items() if part is not None}
        return "; ".join(wrong + [f"'{name}': {what}" for name, what in told.items() if what])

    def summary(self) -> str:
        """What was fitted, in a line."""
        drawn = "" if self.shrinkage is None else f", {self.shrinkage:.0%} of each feature's own mean"
        if not self.calibrated:
            return f"{self.n_cells} pairs, too few to check error bars{drawn}"
        factor = 1.0 if self.dispersion_factor is None else self.dispersion_factor
        how = f"dispersion factor {factor:.3g}{drawn}"
        scores = f"{self.log_score_before:.5g} -> {self.log_score_after:.5g}"
        return f"temperature {self.warmth:.3g}, {how}, log score {scores} nats a value"


@dataclass
class Content:
    """calibration.json, but for its seal; files of earlier versions have neither `weights` nor `files`."""

    calibrated: bool
    n_pairs: int
    batches: list[str]
    directions: dict[str, Direction]
    atac_depth: float | None
    notes: list[str]
    weights: str | None = left_out()
    files: dict[str, str | None] | None = left_out()

    def impossible(self) -> str:
        """What no calibration can hold, in words; empty if there is nothing."""
        if self.atac_depth is not None and not (_finite(self.atac_depth) and self.atac_depth > 0):
            return f"'atac_depth' is {self.atac_depth}"
        for name, entry in self.directions.items():
            if wrong := entry.impossible():
                return f"direction {name!r}: {wrong}"
        if self.calibrated != any(entry.calibrated for entry in self.directions.values()):
            return f"'calibrated' is {self.calibrated}, which its directions contradict"
        return ""


def _finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)
