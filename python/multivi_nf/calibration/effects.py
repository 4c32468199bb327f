"""How imputed differences between groups stand to true ones, as held-out pairs showed it; kept in calibration.json.

An imputed log ratio x of a group (to all cells) is drawn to the middle: a cell's other modality says little, and a
posterior mean goes where it says nothing. Numbers tell what x is worth for the true ratio t of a group that is not
chosen by x (cell types, donors): the slope b of t on x where it is above 1, the decoder's own noise in x where it is
below, the standard deviation of what is left, and the factor u >= b for which u x has a slope of 1 on t. Groups that
are found in the latent space (clusters) are chosen by x, have less regression to the middle, and numbers of their own;
and so have groups of which no cell shows the modality.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

LABELS, CLUSTERS = "labels", "clusters"
"""Groups that were named by something else than the latent space, and groups that were found in it."""

LARGEST = 5.0
"""No imputed log ratio is stretched more than this."""


@dataclass
class ImputedEffects:
    """Numbers of one direction and one kind of groups; knots of ascending log means, linear in between.

    Attributes
    ----------
    log_mean
        (n_knots,) logarithm of a feature's mean on the user's scale.
    slope, sd
        (n_knots,) of the true log ratio on the imputed one, and of what is left (natural logarithm).
    slope_outside, sd_outside
        The same of groups of which no cell shows the modality.
    noise
        (n_knots,) standard deviation of x around what it would be without the decoder's own noise.
    unshrunk
        Factor that makes the slope on the truth 1.
    """

    log_mean: np.ndarray
    slope: np.ndarray
    sd: np.ndarray
    slope_outside: np.ndarray
    sd_outside: np.ndarray
    noise: np.ndarray
    unshrunk: float

    @classmethod
    def read(cls, stored: dict[str, Any]) -> ImputedEffects:
        """What :meth:`stored` gave."""
        rows = {name: np.asarray(stored[name]) for name in _CURVES}
        return cls(**rows, **{name: float(stored[name]) for name in _NUMBERS})

    @classmethod
    def plain(cls, curve: dict[str, list[float]]) -> ImputedEffects:
        """Of a calibration of an earlier version, which knew the error alone."""
        sd = np.asarray(curve["sd"])
        one = np.ones_like(sd)
        return cls(np.asarray(curve["log_mean"]), one, sd, one, sd, 0 * sd, 1.0)

    def stored(self) -> dict[str, Any]:
        """For calibration.json."""
        rows = {name: getattr(self, name).tolist() for name in _CURVES}
        return rows | {name: getattr(self, name) for name in _NUMBERS}

    def at(self, level: np.ndarray, outside: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Slope, standard deviation, noise and stretch of features at log means `level`.

        Parameters
        ----------
        level
            (n_features,)
        outside
            Share of the cells whose like never shows the modality: slopes and errors are means of both kinds, as the
            mean of the group is.
        """
        inner, outer = ([np.interp(level, self.log_mean, getattr(self, f"{name}{kind}")) for name in ("slope", "sd")]
                        for kind in ("", "_outside"))  # fmt: skip
        slope, sd = ((1 - outside) * a + outside * b for a, b in zip(inner, outer, strict=True))
        noise = np.interp(level, self.log_mean, self.noise)
        return slope, sd, noise, np.maximum(slope, self.unshrunk)


_CURVES = ("log_mean", "slope", "sd", "slope_outside", "sd_outside", "noise")
_NUMBERS = ("unshrunk",)


def impossible_effects(stored: Any) -> str:
    """What no measurement can give, in words; empty if there is nothing."""
    if not isinstance(stored, dict) or set(stored) != {*_CURVES, *_NUMBERS}:
        return "it does not hold " + ", ".join((*_CURVES, *_NUMBERS))
    rows = [stored[name] for name in _CURVES]
    if not all(isinstance(row, list) and row and len(row) == len(rows[0]) for row in rows):
        return "its rows are not equally long"
    values = np.asarray([*rows[1:], *([stored[name]] * len(rows[0]) for name in _NUMBERS)], dtype=object)
    try:
        values, level = values.astype(float), np.asarray(rows[0], float)
    except (TypeError, ValueError):
        return "a value is no number"
    if not (np.isfinite(values).all() and np.isfinite(level).all()) or (np.diff(level) < 0).any():
        return "a value is not finite, or means do not ascend"
    if (values < 0).any() or (values[[0, 2, 5]] > LARGEST).any():
        return f"an error or a slope is negative, or a slope is above {LARGEST:g}"
    return ""
