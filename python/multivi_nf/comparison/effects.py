"""Effects of a pair of groups from the means of their parts: centre, error, and how far random halves lie apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from multivi_nf.comparison.group_means import N_HALVES
from multivi_nf.comparison.quasi_likelihood import moderated, variance_prior

if TYPE_CHECKING:
    from multivi_nf.calibration.effects import Worth
    from multivi_nf.comparison.parts import Part, Sums

LEAST_COUNT = 5.0
LEAST_EXPECTED = 5.0
"""Expected counts from which a feature helps to learn the spread of residuals."""
TINY = 1e-12


@dataclass
class Side:
    """One side of a pair over one span of features, on the logarithm of its mean.

    Attributes
    ----------
    influence
        Replicate to (width,) influence on the log mean; they sum to 0.
    cell
        (width,) variance over cells.
    extra
        (width,) variance that neither cells nor replicates show (imputed), without that of effects (`with_effects`).
    measured
        (width,) standard deviation over measured cells, 0 without any: it and the errors of imputed cells go together.
    count
        (width,) counts behind it; infinite where nothing was counted.
    size
        Summed sizes of the cells that were counted, a number or (width,); 0 without any.
    """

    influence: dict[str, np.ndarray]
    cell: np.ndarray
    extra: np.ndarray
    count: np.ndarray
    measured: np.ndarray
    size: float | np.ndarray = 0.0


@dataclass
class Track:
    """Arrays over all features of one part, filled span by span."""

    value: list[np.ndarray] = field(default_factory=list)
    residual: list[np.ndarray] = field(default_factory=list)
    variance: list[np.ndarray] = field(default_factory=list)

    def corrected(self, part: Part) -> np.ndarray:
        """(1 + 2 n_halves, n_features) means, corrected by the group's own counts where there are any.

        The spread t of residuals between features is fitted by moments on features of at least five expected counts;
        halves have twice the variance of the whole.
        """
        value, residual = np.concatenate(self.value, axis=1), np.concatenate(self.residual, axis=1)
        if part.own is None:
            return value
        variance = np.concatenate(self.variance)
        use = variance < 1 / LEAST_EXPECTED
        if use.sum() < 20:
            return value
        weight = 1 / (variance[use] + np.median(variance[use])) ** 2
        spread2 = max(float(((residual[0, use] ** 2 - variance[use]) * weight).sum() / weight.sum()), 0.0)
        scale = np.array([1.0] + [2.0] * (2 * N_HALVES))[:, None]
        return value * np.exp(spread2 / (spread2 + scale * variance + TINY) * residual)

    def centre(self, part: Part) -> np.ndarray:
        """(n_features,) mean that an effect is computed from: what the part's own counts say, unshrunk.

        (m + h) (x + 1/2) / (e + 1/2), with x observed, e expected counts and h half a count on the scale of the mean m:
        the counts' own rate, carried from the cells' batches to the reference mixture by the model. It is as noisy as
        the variance that goes with it says; effects are shrunk once, by what all of them look like. Shrunk here too,
        by one normal spread, a few features that differ beside many that do not would be lost.
        """
        value = np.concatenate([tile[0] for tile in self.value])
        if part.own is None:
            return value if part.taught is None else value * np.exp(part.taught)
        size = part.own.sizes().sum(axis=0)
        # a protein that none of these cells' batches measured has no counts to correct it
        half = np.where(size > 0, 0.5 / np.maximum(size, TINY), 0.0)
        return (value + half) * np.exp(np.concatenate([tile[0] for tile in self.residual]))


@dataclass
class Restored:
    """A part's means over all features: as decoded or counted, and with imputed effects made what they are worth.

    Attributes
    ----------
    part
        Cells of a group.
    decoded
        (n_features,) decoded means, which weigh parts of a side.
    centre, unshrunk
        (n_features,) means with their distance from the middle of all cells made what it is worth, and of a slope of 1
        on the truth even where what is expected is asked for. Means of measured cells are left as they are.
    worth
        Of imputed effects, over all features: what they are worth depends on how far all of them lie from the middle.
        None: of measured cells, or nothing is known.
    """

    part: Part
    decoded: np.ndarray
    centre: np.ndarray
    unshrunk: np.ndarray
    worth: Worth | None = None

    @classmethod
    def of(cls, part: Part, track: Track, middle: np.ndarray, levelled: bool = False) -> Restored:
        """Of a part that was decoded; `middle` is the (n_features,) log mean over cells of all kinds.

        Where values are `levelled` (accessibility at a given depth, which is their sum over peaks) imputed groups of
        one depth have one sum. That of genes is one as they are decoded; nothing keeps that of peaks.
        """
        decoded, value = np.concatenate([tile[0] for tile in track.value]), track.centre(part)
        if not part.worth:
            return cls(part, decoded, value, value)
        if levelled:
            value = value * (np.exp(middle).sum() / max(float(value.sum()), TINY))
        level = np.log(np.maximum(value, TINY))
        worth = part.worth_at(level, level - middle)
        centre, unshrunk = (value * np.exp((f - 1) * (level - middle)) for f in (worth.factor, worth.unshrunk))
        return cls(part, decoded, centre, unshrunk, worth)


def with_effects(parts: list[Restored], extra: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variance of a side's log mean that its cells do not show, and the decoder's own noise in it, which is shrunk.

    Parameters
    ----------
    parts
        All of the side.
    extra, measured
        (n_features,) of `Side`. Unmeasured cells are imputed by what the measured ones taught, so both errors are taken
        to go together.
    """
    totals = [one.part.share * one.part.n_cells * one.decoded.astype(np.float64) for one in parts]
    whole, noise = np.sum(totals, axis=0) + TINY, np.zeros(len(extra))
    for one, total in zip(parts, totals):
        if one.worth is not None:
            inside = (total / whole) ** 2
            extra, noise = extra + inside * one.worth.beyond, noise + inside * one.worth.noise
    return extra + 2 * measured * np.sqrt(extra), noise


def side(parts: list[tuple[Part, Sums]]) -> Side:
    """Join the parts of a side over one span of features.

    Measured and unmeasured cells are joined separately and then weighted by what they contribute to the mean.
    """
    kinds = [[(p, s) for p, s in parts if (p.own is not None) == measured] for measured in (True, False)]
    totals = [sum(p.share * s.value[0] * p.n_cells for p, s in kind) if kind else 0.0 for kind in kinds]
    whole = sum(totals) + TINY
    names = sorted({name for _, s in parts for name in s.first})
    width = len(parts[0][1].extra)
    nothing = {n: np.zeros(width) for n in names}
    joined = Side(nothing, np.zeros(width), np.zeros(width), np.full(width, np.inf), np.zeros(width))
    for kind, total in zip(kinds, totals):
        if not kind:
            continue
        weight = total / whole
        x = sum(p.share * v for p, s in kind for v in s.first.values())
        size = sum(p.share * v for p, s in kind for v in s.size.values())
        counted = kind[0][0].own is not None
        rate, top = x / np.maximum(size, TINY), np.maximum(x, TINY) if not counted else x + 0.5
        cell = sum(p.share**2 * (s.second[0] - 2 * rate * s.second[1] + rate**2 * s.second[2]) for p, s in kind)
        cell = np.maximum(cell, 0) / top**2
        joined.cell += weight**2 * (np.maximum(cell, 1 / top) if counted else cell)
        for p, s in kind:
            for name, value in s.first.items():
                joined.influence[name] += weight * p.share * (value - rate * s.size[name]) / top
            if not counted:
                inside = p.share * s.value[0] * p.n_cells / whole
                joined.extra += inside**2 * s.extra
        if counted:
            joined.count, joined.size = np.where(weight > 0.01, x, joined.count), size
            joined.measured = np.sqrt(joined.cell)
    return joined


def pair_variance(target: Side, reference: Side) -> tuple[np.ndarray, np.ndarray, int]:
    """Variance of a log ratio over cells, over replicates, and the degrees of freedom of the latter.

    Replicates on both sides enter with the difference of their influences, so that what they share cancels (blocked).
    """
    counts = [len(side.influence) for side in (target, reference)]
    factors = [np.sqrt(n / (n - 1)) if n > 1 else 0.0 for n in counts]
    shared = set(target.influence) & set(reference.influence)
    total = np.zeros_like(target.cell)
    for name in sorted(set(target.influence) | set(reference.influence)):
        a = target.influence.get(name, 0.0) * factors[0]
        b = reference.influence.get(name, 0.0) * factors[1]
        total = total + (a - b) ** 2
    freedom = max(len(shared) - 1, 0) if shared else sum(max(n - 1, 0) for n in counts)
    return target.cell + reference.cell, total, freedom


@dataclass
class Counted:
    """Cells' variance, counts and sizes of both sides of a pair over all features, target first.

    Attributes
    ----------
    cell, count, size
        (2, n_features); size sums those of the cells that were counted.
    """

    cell: np.ndarray
    count: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, target: Side, reference: Side) -> Counted:
        """Of one span."""
        sides = (target, reference)
        return cls(
            np.stack([s.cell for s in sides]).astype(np.float32),
            np.stack([s.count for s in sides]).astype(np.float32),
            np.stack([np.broadcast_to(s.size, s.cell.shape) for s in sides]),
        )

    @classmethod
    def join(cls, spans: list[Counted]) -> Counted:
        """Spans side by side."""
        return cls(*(np.concatenate([getattr(s, f) for s in spans], axis=1) for f in ("cell", "count", "size")))

    def factor(self, log_ratio: np.ndarray) -> np.ndarray:
        """(n_features,) factor on the variance over cells if the sides' rates had this ratio.

        A side that shows few counts by chance gets a large error from these few, and one that shows many a small one:
        features would be ranked by that chance. The counts that both sides are expected to show do not have it. 1
        where a side was not counted.
        """
        known = (np.isfinite(self.count) & (self.size > 0)).all(axis=0)
        if not known.any():
            return np.ones(len(known))
        count = np.where(known, self.count, 0)
        rate = count.sum(axis=0) / np.maximum(self.size[0] * np.exp(log_ratio) + self.size[1], TINY)
        expected = np.stack([self.size[0] * np.exp(log_ratio) * rate, self.size[1] * rate])
        found = (self.cell * (count + 0.5) / (expected + 0.5)).sum(axis=0)
        return np.where(known, found / np.maximum(self.cell.sum(axis=0), TINY), 1.0)


def combined_variance(cell: np.ndarray, between: np.ndarray, freedom: int, count: np.ndarray) -> np.ndarray:
    """Variance over cells, inflated where replicates vary more than their cells explain.

    Replicates add a relative variance that most features share (:func:`shared_variance`) to that over cells. The ratio
    of `between` to their sum has few degrees of freedom in each feature; it is moderated over features with the prior
    of `variance_prior`. Never below the variance over cells. A feature that was decoded alike in all cells, to the last
    digit, takes no part: nothing is a ratio to 0, and the others' variances would be lost with it.
    """
    if freedom < 1:
        return cell
    known = (count >= LEAST_COUNT) & (between > 0) & (cell > 0)
    if known.sum() < 20:
        ratio = between / np.maximum(cell, TINY)
        return cell * max(float(np.mean(ratio[known])) if known.any() else 1.0, 1.0)
    explained = cell + shared_variance(cell[known], between[known])
    ratio = between[known] / explained[known]
    posterior = moderated(ratio, freedom, *variance_prior(ratio, freedom))
    factor = np.full(len(cell), float(np.median(posterior)))
    factor[known] = posterior
    return np.maximum(explained * factor, cell)


def shared_variance(cell: np.ndarray, between: np.ndarray) -> float:
    """Variance of log means between replicates that cells do not explain, as one value of all features.

    The value at which log(between / (cell + value)) varies least over features: there the ratio is nothing but chance
    (a scaled chi-squared variable), while without it frequent features, of small `cell`, have the largest ratios.
    """
    steps = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 49) * np.median(cell)])
    spread = [np.var(np.log(between) - np.log(np.maximum(cell + step, TINY))) for step in steps]
    return float(steps[int(np.argmin(spread))])
