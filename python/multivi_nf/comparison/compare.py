"""Differential expression, accessibility and protein abundance by one engine (`docs/explanation/inference.md`)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch

from multivi_nf.calibration.effects import CLUSTERS, LABELS
from multivi_nf.calibration.stored import Calibration
from multivi_nf.comparison.design import MAX_CELLS, Design, make_design, replicate_names
from multivi_nf.comparison.effects import TINY, Counted, Track, combined_variance, pair_variance, restored, side
from multivi_nf.comparison.group_means import MOST_OUTSIDE, SPAN, Means
from multivi_nf.comparison.pseudobulk import (
    cells_of_pseudobulks,
    false_discovery_rate,
    pseudobulks_of,
    replicate_test,
)
from multivi_nf.comparison.shrinkage import shrink
from multivi_nf.errors import InputError
from multivi_nf.imputation.decode import TILE, Decoder, median_depth
from multivi_nf.inputs.contrasts import CELLS, Contrast
from multivi_nf.io.progress import progress
from multivi_nf.latent.embed import cells_of

if TYPE_CHECKING:
    from mudata import MuData

    from multivi_nf.comparison.group_means import GroupSupport, Part, Sums
    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI

TENTH = 0.1
INTERVAL = 0.95
INFLATION = 1.25
"""Factor on the variance of an effect. On simulated mosaics with batch effects the error of the centre had a standard
deviation 7-13 % above that of the counts behind it: what the decoder learns about batches has an error of its own."""
COLUMNS = [
    "feature", "symbol", "mean_target", "mean_reference", "effect", "effect_lower", "effect_upper", "log2_fold_change",
    "delta", "probability", "fdr", "replicate_p", "replicate_fdr", "significant", "n_target", "n_reference",
    "replicates_target", "replicates_reference", "imputed", "confounded", "groups_from_same_data", "out_of_support",
    "extrapolated",
]  # fmt: skip


@torch.inference_mode()
def differential(
    model: MultiVI,
    mosaic: MuData | MosaicData,
    modality: str,
    *,
    groupby: str,
    target: str,
    reference: str = "rest",
    cells: Literal["all", "observed", "imputed"] = "observed",
    replicate: str = "batch",
    delta: float | None = None,
    fdr: float = 0.05,
    n_samples: int = 1000,
    mode: Literal["change", "vanilla"] = "change",
    calibration: Calibration | None = None,
    max_cells: int = MAX_CELLS,
    seed: int = 0,
) -> pd.DataFrame:
    """Which features differ between two groups of cells, or between every group and the rest.

    Parameters
    ----------
    model
        A trained model.
    mosaic
        Cells with a column `groupby`; the h5mu of `embed` has `cluster`.
    modality
        "rna", "atac" or "protein".
    groupby, target, reference
        Column of obs and its values; target "each" is every group in turn, reference "rest" all other cells.
    cells
        "observed": cells measured in the modality; "imputed": the others; "all".
    replicate
        Column of obs with the unit that was sampled; the batch by default. Groups that share no batch are compared
        between replicates, or between batches where these are fewer.
    delta
        Smallest effect that counts, on the scale of `effect`. None: half the 95th percentile of `|effect|` between
        random halves of the groups plus a tenth of the feature's larger mean.
    fdr
        Level of `significant`.
    n_samples
        Posterior samples of a group; every cell has at least two.
    mode
        "vanilla": probability is P(x > y) for a cell of each group, and a column `bayes_factor` (natural logarithm of
        the odds) is added, as the reference implementation has it.
    calibration
        From :func:`multivi_nf.held_out.calibrate.calibrate`.
    max_cells
        Cells of a group that are decoded; a larger group is represented by a random subset.
    seed
        Of all draws.

    Returns
    -------
    One row a feature (and, for "each", a target, in a further column), sorted by evidence; columns of `INTERFACES`
    section 3.

    Examples
    --------
    (A model for use is trained first, see :func:`multivi_nf.train`.)

    >>> import multivi_nf as mv
    >>> from multivi_nf.simulate import Options, simulated_mosaic
    >>> cells, _ = simulated_mosaic(Options(cells=100, genes=50, peaks=100, proteins=4))
    >>> model = mv.MultiVI.from_mosaic(cells, n_latent=5, n_hidden=16)
    >>> table = mv.differential(model, cells, modality="rna", groupby="batch", target="site_1", replicate="sample")
    >>> list(table.columns[:7])
    ['feature', 'symbol', 'mean_target', 'mean_reference', 'effect', 'effect_lower', 'effect_upper']
    >>> len(table) == cells["rna"].n_vars
    True
    """
    calibration = calibration or Calibration.none()
    data = cells_of(model, mosaic)
    model.eval()
    contrast = Contrast(f"{groupby}_{target}_{reference}", modality, groupby, target, reference, cells)
    _check(contrast, mode, model)
    depth = median_depth(model, data, calibration.atac_depth) if modality == "atac" else 1.0
    decoder = Decoder(model, modality, None, depth)
    names = model.features[model.features["modality"] == modality]
    tables = {}
    for design, column, own_batches in _designs(data, contrast, replicate, seed, max_cells):
        kind = CLUSTERS if design.same_data else LABELS
        groups = list(design.groups.values())
        means = Means(model, data, decoder, groups, calibration, n_samples, seed, own_batches, kind)
        found = _Engine(means, design, delta, mode).run()
        replicates = _Replicates(data, design, column, modality)
        for one, pair in zip(found, design.pairs, strict=True):
            tables[pair] = _table(one, names, design, *pair, replicates, fdr, means.support(design, pair))
            if target == "each":
                tables[pair].insert(0, "target", pair[0])
    return pd.concat([tables[pair] for pair in sorted(tables)], ignore_index=True)


def _designs(
    data: MosaicData, contrast: Contrast, replicate: str, seed: int, max_cells: int
) -> list[tuple[Design, str, bool]]:
    """Pairs that share batches, and pairs that share none: design, column of replicates, cells under own batches.

    Between batches the unit is the batch where replicates are finer: what a batch does, all of them share.
    """
    design = make_design(data, contrast, replicate, seed, max_cells)
    apart = [pair for pair in design.pairs if design.between(pair)]
    together = [pair for pair in design.pairs if pair not in apart]
    fine = [
        pair
        for pair in apart
        if any(len(r) > len(b) for r, b in zip(design.sides(pair, "replicates"), design.sides(pair, "batches")))
    ]
    by_batch = make_design(data, contrast, "batch", seed, max_cells) if fine else design
    coarse = [pair for pair in apart if pair not in fine]
    parts = [(design, together, replicate, False), (design, coarse, replicate, True), (by_batch, fine, "batch", True)]
    return [(one.of(pairs), column, own) for one, pairs, column, own in parts if pairs]


def empty_table(target: str, mode: str = "change") -> pd.DataFrame:
    """What :func:`differential` gives, without rows: for a contrast that nobody asked for and that cannot be made."""
    more = ["bayes_factor"] if mode == "vanilla" else []
    return pd.DataFrame(columns=[*(["target"] if target == "each" else []), *COLUMNS, *more])


def _check(contrast: Contrast, mode: str, model: MultiVI) -> None:
    if contrast.cells not in CELLS or mode not in ("change", "vanilla"):
        raise InputError(
            f"cells is {contrast.cells!r}, mode is {mode!r}",
            "there is no such comparison",
            f"cells is one of {', '.join(CELLS)}; mode is change or vanilla",
        )
    if contrast.modality not in model.modalities:
        Decoder(model, contrast.modality)


class _Engine:
    """Runs over spans of features and summarises every pair of the design."""

    def __init__(self, means: Means, design: Design, delta: float | None, mode: str) -> None:
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
        middle = None
        if self.means.middle is not None:
            middle = np.log(np.maximum(self.means.sums(self.means.middle, start).value[0], TINY))
            self.middle.append(middle)
        for name, parts in self.means.parts.items():
            spans[name] = [(part, self.means.sums(part, start, middle)) for part in parts]
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
            out.append({
                "cell": cell, "between": between, "extra": target.extra + reference.extra,
                "noise": np.broadcast_to(target.noise + reference.noise, cell.shape),
                "count": np.minimum(target.count, reference.count), "freedom": np.full(len(cell), freedom),
                "counted": [Counted.of(target, reference)],
            })  # fmt: skip
        return out

    def _effects(
        self, tracks: dict[str, list[Track]], errors: list[dict[str, np.ndarray]]
    ) -> list[dict[str, np.ndarray]]:
        middle = np.concatenate(self.middle) if self.middle else np.zeros(0)
        corrected, centres, unshrunk = (
            {
                name: [of(track, part) for track, part in zip(tracks[name], parts)]
                for name, parts in self.means.parts.items()
            }
            for of in (
                Track.corrected,
                lambda track, part: restored(part, track.centre(part), middle, False),
                lambda track, part: restored(part, track.centre(part), middle, True),
            )
        )
        floors, out = [], []
        for pair, error in zip(self.design.pairs, errors):
            target, reference = (self._mean(corrected, pair, name) for name in pair)
            floors.append(self._floor(target[1:], reference[1:]))
            variance = combined_variance(error["cell"], error["between"], int(error["freedom"][0]), error["count"])
            one, other = (self._mean(centres, pair, name) for name in pair)
            log_ratio, counted = np.log(one / other), Counted.join(list(error["counted"]))
            sd = settled_error(log_ratio, variance, counted)
            sd, beyond = np.sqrt(sd**2 + error["noise"]), np.sqrt(error["extra"])
            summary = self._summary(target[0], reference[0], log_ratio, sd, beyond, floors[-1])
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
        top = bottom = 0.0
        for group in self.design.members(name, pair[0]):
            for part, value in zip(self.means.parts[group.name], corrected[group.name]):
                top = top + part.share * part.n_cells * value
                bottom += part.share * part.n_cells
        return np.maximum(top / bottom, TINY)

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
        target: np.ndarray,
        reference: np.ndarray,
        log_ratio: np.ndarray,
        sd: np.ndarray,
        beyond: np.ndarray,
        floor: float,
    ) -> dict[str, np.ndarray]:
        """Posterior of the effect, on its scale, around the common level of both means.

        Errors of two kinds. What counts and replicates show (`sd`) scatters estimates around the truth: estimates are
        drawn to where effects lie. What imputation misses (`beyond`) scatters the truth around its prediction: that is
        an expectation already, drawn to the mean by the model, and would be shrunk twice (Berkson 1950).
        """
        posterior = shrink(log_ratio, sd).widened(beyond)
        level = (target + reference) / 2
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
        return {
            "mean_target": mean_target, "mean_reference": mean_reference,
            "effect": self._effect(mean_target, mean_reference), "effect_lower": lower, "effect_upper": upper,
            "delta": delta, "probability": np.clip(probability, 0, 1),
            "evidence": (np.abs(center) - threshold) / np.hypot(sd, beyond),
        }  # fmt: skip

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
            rng = np.random.default_rng([self.means.seed, start])
            x, y = (one[rng.integers(len(one), size=n)] for one in (target, reference))
            higher = np.clip((x > y).mean(axis=0), 1 / n, 1 - 1 / n)
            effect = self._effect(np.maximum(x, TINY), np.maximum(y, TINY))
            lower, upper = np.quantile(effect, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
            mean_target, mean_reference = (np.maximum(one.mean(axis=0), TINY) for one in (target, reference))
            factor = np.log(higher) - np.log1p(-higher)
            out.append({
                "mean_target": mean_target, "mean_reference": mean_reference, "effect": effect.mean(axis=0),
                "effect_lower": lower, "effect_upper": upper,
                "log2_fold_change": np.log2(mean_target / mean_reference), "delta": np.zeros(len(higher)),
                "probability": np.maximum(higher, 1 - higher), "evidence": np.abs(factor), "bayes_factor": factor,
            })  # fmt: skip
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


class _Replicates:
    """Pseudobulks of all groups, summed once; the tests of each pair."""

    def __init__(self, data: MosaicData, design: Design, column: str, modality: str) -> None:
        names = replicate_names(data, column)
        self.design = design
        groups = {g.name: g.everyone for g in design.groups.values()}
        self.sums = pseudobulks_of(groups, data, names, modality)
        self.names = {g.name: set(names[g.everyone]) for g in design.groups.values()}
        self.cells = None
        if modality == "protein":
            self.cells = {
                g.name: cells_of_pseudobulks(data, g.everyone, names, modality) for g in design.groups.values()
            }

    def side(self, name: str, against: str, of: dict[str, dict]) -> dict:
        """Replicate to summed counts, or number of cells, of a side."""
        total: dict = {}
        for group in self.design.members(name, against):
            for replicate, counts in of[group.name].items():
                total[replicate] = total.get(replicate, 0) + counts
        return total

    def count(self, name: str, against: str) -> int:
        return len(set().union(*(self.names[g.name] for g in self.design.members(name, against))))

    def test(self, target: str, reference: str) -> np.ndarray | None:
        members = [self.design.members(name, target) for name in (target, reference)]
        if any(group.imputed for side in members for group in side):
            return None
        n_cells = None if self.cells is None else [self.side(one, target, self.cells) for one in (target, reference)]
        return replicate_test(*(self.side(one, target, self.sums) for one in (target, reference)), n_cells)


def _confounded(design: Design, pair: tuple[str, str]) -> tuple[bool, bool]:
    """Whether a pair shares no batch, and whether a side then has a single one, which is said."""
    if not design.between(pair):
        return False, False
    units = [
        min(len(r), len(b))
        for r, b in zip(design.sides(pair, "replicates"), design.sides(pair, "batches"), strict=True)
    ]
    if min(units) > 1:
        return True, False
    alone = " and ".join(name for name, n in zip(pair, units, strict=True) if n < 2)
    print(
        f"{pair[0]} against {pair[1]}: no batch has cells of both, and one batch or replicate is all there is of "
        f"{alone}. What differs may be the batch and not the group: effects are given, none is called significant "
        "(two batches a side are the least that can tell)",
        file=sys.stderr,
    )
    return True, True


def _table(
    found: dict[str, np.ndarray],
    names: pd.DataFrame,
    design: Design,
    target: str,
    reference: str,
    replicates: _Replicates,
    fdr: float,
    support: GroupSupport,
) -> pd.DataFrame:
    """One pair's rows, sorted by evidence.

    Of a side whose imputed cells lie outside the support, or of which no cell was ever measured, nothing is called
    unless calibration measured the error of such groups; then `extrapolated` marks it.
    """
    sides = [design.members(name, target) for name in (target, reference)]
    between, confounded = _confounded(design, (target, reference))
    table = pd.DataFrame({"feature": names["feature"].to_numpy(str), "symbol": names["symbol"].to_numpy(str), **found})
    p = replicates.test(target, reference)
    table["replicate_p"] = np.nan if p is None else p
    table["replicate_fdr"] = np.nan if p is None else false_discovery_rate(p)
    table = table.sort_values(
        ["probability", "evidence", "feature"], ascending=[False, False, True], kind="stable", ignore_index=True
    )
    table["fdr"] = np.cumsum(1 - table["probability"]) / np.arange(1, len(table) + 1)
    untested = table["replicate_p"].isna()
    if between and not any(g.imputed for side in sides for g in side):
        untested &= False
    table["significant"] = (table["fdr"] <= fdr) & ((table["replicate_fdr"] <= fdr) | untested)
    table["significant"] &= (support.extrapolated <= MOST_OUTSIDE or support.known) and not confounded
    table["out_of_support"] = support.outside
    table["n_target"], table["n_reference"] = (sum(g.n_cells for g in side) for side in sides)
    table["replicates_target"] = replicates.count(target, target)
    table["replicates_reference"] = replicates.count(reference, target)
    # a protein may be in the panel of none of a side's batches
    table["imputed"] = any(g.imputed for side in sides for g in side) | table.get("unmeasured", False)
    table["confounded"] = confounded
    table["groups_from_same_data"] = design.same_data
    table["extrapolated"] = support.extrapolated > MOST_OUTSIDE
    return table[COLUMNS + [c for c in ("bayes_factor",) if c in table]]
