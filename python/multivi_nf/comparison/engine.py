"""Effects of all pairs of a design, span by span of features."""

from __future__ import annotations

import sys
from functools import reduce
from typing import Literal

import numpy as np

from multivi_nf.comparison.design import Design
from multivi_nf.comparison.effects import (
    TINY,
    Counted,
    Restored,
    Track,
    combined_variance,
    pair_variance,
    side,
    with_effects,
)
from multivi_nf.comparison.group_means import GroupMeans
from multivi_nf.comparison.parts import Part, Sums
from multivi_nf.comparison.shrinkage import Shrunk, shrink
from multivi_nf.comparison.spans import SPAN
from multivi_nf.imputation.decode import TILE
from multivi_nf.io.progress import progress

Mode = Literal["change", "vanilla"]

TENTH = 0.1
INTERVAL = 0.95
INFLATION = 1.25
"""Factor on the variance of an effect. On simulated mosaics with batch effects the error of the centre had a standard
deviation 7-13 % above that of the counts behind it: what the decoder learns about batches has an error of its own."""


class Engine:
    """Runs over spans of features and summarises every pair of the design."""

    def __init__(self, means: GroupMeans, design: Design, delta: float | None, mode: Mode) -> None:
        self.means, self.design, self.mode, self.given = means, design, mode, delta
        self.decoder = means.decoder
        self.difference = self.decoder.modality == "atac"
        self.middle: list[np.ndarray] = []

    def run(self) -> list[dict[str, np.ndarray]]:
        """For each pair, arrays over features: means, effect, bounds, probability, delta."""
        step = TILE if self.mode == "vanilla" else SPAN
        tracks = {name: [Track() for _ in parts] for name, parts in self.means.parts.items()}
        results: list[dict[str, list[np.ndarray]]] = [{} for _ in self.design.pairs]
        with progress(f"differential {self.decoder.modality}", self.decoder.n_features, "features") as advance:
            for start in range(0, self.decoder.n_features, step):
                found = self._vanilla(start) if self.mode == "vanilla" else self._errors(start, tracks)
                for so_far, one in zip(results, found):
                    for key, value in one.items():
                        so_far.setdefault(key, []).append(value)
                advance(min(step, self.decoder.n_features - start))
        joined = [{key: np.concatenate(parts) for key, parts in one.items()} for one in results]
        return joined if self.mode == "vanilla" else self._effects(tracks, joined)

    # ------------------------------------------------------------------------------------------------ change

    def _errors(self, start: int, tracks: dict[str, list[Track]]) -> list[dict[str, np.ndarray]]:
        """Decode a span of features of all groups once; keep means, and the variance of each pair's log ratio."""
        spans: dict[str, list[tuple[Part, Sums]]] = {}
        if self.means.middle is not None:
            self.middle.append(np.log(np.maximum(self.means.sums(self.means.middle, start).value[0], TINY)))
        for name, parts in self.means.parts.items():
            spans[name] = [(part, self.means.sums(part, start)) for part in parts]
            for track, (part, sums) in zip(tracks[name], spans[name]):
                track.value.append(sums.value.astype(np.float32))
                track.residual.append(sums.residual.astype(np.float32))
                track.variance.append(side([(part, sums)]).cell)
        out = []
        for pair in self.design.pairs:
            target, reference = (
                side([s for g in self.design.members(name, pair[0]) for s in spans[g.name]]) for name in pair
            )
            cell, between, freedom = pair_variance(target, reference)
            found = {"cell": cell, "between": between}
            for name, one in zip(pair, (target, reference)):
                found |= {f"extra {name}": one.extra, f"measured {name}": one.measured}
            found |= {"count": np.minimum(target.count, reference.count), "freedom": np.full(len(cell), freedom)}
            out.append(found | {"counted": np.array([Counted.of(target, reference)], dtype=object)})
        return out

    def _effects(
        self, tracks: dict[str, list[Track]], errors: list[dict[str, np.ndarray]]
    ) -> list[dict[str, np.ndarray]]:
        middle = np.concatenate(self.middle) if self.middle else np.zeros(0)
        parts = self.means.parts
        corrected = {g: [t.corrected(p) for t, p in zip(tracks[g], parts[g], strict=True)] for g in parts}
        levelled = self.difference
        restored = {
            g: [Restored.of(p, t, middle, levelled) for t, p in zip(tracks[g], parts[g], strict=True)] for g in parts
        }
        centres = {g: [one.centre for one in found] for g, found in restored.items()}
        unshrunk = {g: [one.unshrunk for one in found] for g, found in restored.items()}
        floors, out = [], []
        for pair, error in zip(self.design.pairs, errors):
            target, reference = (self._mean(corrected, pair, name) for name in pair)
            floors.append(self._floor(target[1:], reference[1:]))
            variance = combined_variance(error["cell"], error["between"], int(error["freedom"][0]), error["count"])
            one, other = (self._mean(centres, pair, name) for name in pair)
            log_ratio, counted = np.log(one / other), Counted.join(list(error["counted"]))
            sd, beyond = settled_error(log_ratio, variance, counted) ** 2, np.zeros(len(log_ratio))
            shared = []
            for name in pair:
                members = [one for g in self.design.members(name, pair[0]) for one in restored[g.name]]
                extra, noise = with_effects(members, error[f"extra {name}"], error[f"measured {name}"])
                sd, beyond = sd + noise, beyond + extra
                shared += [0.0 if one.worth is None else one.worth.shared for one in members]
            sd, beyond = np.sqrt(sd), np.sqrt(beyond)
            # what batches do to all features of measured cells nobody measured, and proteins are no shares of a whole
            around = min(shared) > 0 and self.decoder.modality != "protein"
            common = float(np.sqrt(sum(shared))) if around else None
            posterior = shrink(log_ratio, sd, common).widened(beyond)
            summary = self._summary((target[0], reference[0]), posterior, np.hypot(sd, beyond), floors[-1])
            one, other = (self._mean(unshrunk, pair, name) for name in pair)
            summary["log2_fold_change"] = np.log2(one / other)
            out.append(summary | {"unmeasured": (counted.size == 0).any(axis=0)})
        if self.given is None:
            of = "of probability" if self.decoder.is_probability else "fragments"
            unit = of if self.difference else "log2 units"
            print(
                f"delta: {max(floors):.3g} {unit} (half the 95th percentile of `|effect|` between random halves"
                f"{'' if len(floors) == 1 else ', largest of all groups'}) plus a tenth of the larger mean",
                file=sys.stderr,
            )
        return out

    def _mean(self, corrected: dict[str, list[np.ndarray]], pair: tuple[str, str], name: str) -> np.ndarray:
        """Mean of a side over its parts: (1 + 2 n_halves, n_features) of corrected means, (n_features,) of centres."""
        groups = [group.name for group in self.design.members(name, pair[0])]
        parts = [(p, value) for g in groups for p, value in zip(self.means.parts[g], corrected[g], strict=True)]
        top = reduce(np.add, [p.share * p.n_cells * value for p, value in parts])
        return np.maximum(top / sum(p.share * p.n_cells for p, _ in parts), TINY)

    def _floor(self, *sides: np.ndarray) -> float:
        """Half the 95th percentile of |effect| between random halves of either side."""
        apart = []
        for halves in sides:
            n = len(halves) // 2
            one, other = halves[:n], halves[n:]
            apart.append(np.abs(one - other if self.difference else np.log2(one / other)).ravel())
        return 0.5 * float(np.quantile(np.concatenate(apart), 0.95))

    def _summary(
        self,
        means: tuple[np.ndarray, np.ndarray],
        posterior: Shrunk,
        error: np.ndarray,
        floor: float,
    ) -> dict[str, np.ndarray]:
        """Effect on its scale, around the common level of both means; `error` of both kinds.

        Errors of two kinds. What counts and replicates show (`sd`) scatters estimates around the truth: estimates are
        drawn to where effects lie. What imputation misses (`beyond`) scatters the truth around its prediction: that is
        an expectation already, drawn to the mean by the model, and would be shrunk twice (Berkson 1950).
        """
        level = (means[0] + means[1]) / 2
        center = posterior.expectation()
        mean_target, mean_reference = _split(level, center)
        if self.given is not None:
            delta = np.full(len(level), self.given)
        elif self.difference:
            delta = floor + TENTH * np.maximum(mean_target, mean_reference)
        else:
            # a tenth less of the larger mean is log2(10 / 9) on the logarithm
            delta = np.full(len(level), floor - np.log2(1 - TENTH))
        if self.difference:
            # a difference of delta around a level is a log ratio; beyond twice the level none is possible
            share = np.minimum(delta / (2 * level), 1 - 1e-9)
            threshold = np.log1p(share) - np.log1p(-share)
        else:
            threshold = delta * np.log(2)
        bounds = [posterior.quantile(p) for p in ((1 - INTERVAL) / 2, (1 + INTERVAL) / 2)]
        lower, upper = (self._effect(*_split(level, bound)) for bound in bounds)
        probability = np.maximum(posterior.above(threshold), posterior.below(-threshold))
        effect = self._effect(mean_target, mean_reference)
        evidence = (np.abs(center) - threshold) / error
        found = {"mean_target": mean_target, "mean_reference": mean_reference, "effect": effect}
        found |= {"effect_lower": lower, "effect_upper": upper, "delta": delta}
        return found | {"probability": np.clip(probability, 0, 1), "evidence": evidence}

    def _effect(self, target: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return target - reference if self.difference else np.log2(target / reference)

    # ------------------------------------------------------------------------------------------------ vanilla

    def _vanilla(self, start: int) -> list[dict[str, np.ndarray]]:
        """P(x > y) over random pairs of one cell of each group, a posterior sample each (scVI, Lopez et al. 2018)."""
        values = {name: self._pool(name, start) for name in self.means.parts}
        out = []
        for pair in self.design.pairs:
            target, reference = (
                np.concatenate([values[g.name] for g in self.design.members(name, pair[0])]) for name in pair
            )
            n = max(len(target), len(reference), 5000)
            rng = np.random.default_rng([self.means.how.seed, start])
            x, y = (one[rng.integers(len(one), size=n)] for one in (target, reference))
            higher = np.clip((x > y).mean(axis=0), 1 / n, 1 - 1 / n)
            effect = self._effect(np.maximum(x, TINY), np.maximum(y, TINY))
            lower, upper = np.quantile(effect, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
            mean_target, mean_reference = (np.maximum(one.mean(axis=0), TINY) for one in (target, reference))
            factor = np.log(higher) - np.log1p(-higher)
            found = {"mean_target": mean_target, "mean_reference": mean_reference, "effect": effect.mean(axis=0)}
            found |= {"effect_lower": lower, "effect_upper": upper}
            found |= {"log2_fold_change": np.log2(mean_target / mean_reference), "delta": np.zeros(len(higher))}
            found |= {"probability": np.maximum(higher, 1 - higher), "evidence": np.abs(factor)}
            out.append(found | {"bayes_factor": factor})
        return out

    def _pool(self, name: str, start: int) -> np.ndarray:
        """(n_rows, width) values of at most about 1,000 cells of a group."""
        rows = []
        for part in self.means.parts[name]:
            step = max(1, part.n_cells // 1000)
            rows.append(self.means.decoded(part, start, step).double().cpu().numpy())
        return np.concatenate(rows)


def settled_error(log_ratio: np.ndarray, variance: np.ndarray, counted: Counted) -> np.ndarray:
    """(n_features,) standard error of log ratios, at the counts expected at the ratios that these errors lead to.

    Parameters
    ----------
    log_ratio, variance
        Estimates, and their variance by the counts that each side happened to show.
    counted
        Counts behind the variance.
    """
    ratio = np.zeros(len(log_ratio))
    for _ in range(2):
        sd = np.sqrt(INFLATION * variance * counted.factor(ratio))
        ratio = shrink(log_ratio, sd).expectation()
    return sd


def _split(level: np.ndarray, log_ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two means of a given ratio around their common level."""
    share = 1 / (1 + np.exp(-log_ratio))
    return 2 * level * share, 2 * level * (1 - share)
