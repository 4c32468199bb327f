"""Differential expression, accessibility and protein abundance by one engine (`docs/inference.md`)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch

from multivi_nf.errors import InputError
from multivi_nf.inference.calibration import Calibration
from multivi_nf.inference.contrasts import CELLS, Contrast
from multivi_nf.inference.decode import TILE, Decoder, median_depth
from multivi_nf.inference.embedding import cells_of
from multivi_nf.inference.groups import MAX_CELLS, Design, make_design, replicate_names, replicate_weights
from multivi_nf.inference.means import Means, Sums
from multivi_nf.inference.progress import progress
from multivi_nf.inference.replicates import false_discovery_rate, pseudobulks, replicate_test

if TYPE_CHECKING:
    from mudata import MuData

    from multivi_nf.training import MultiVI
    from multivi_nf.training.data import MosaicData

TENTH = 0.1
INTERVAL = 0.95
COLUMNS = [
    "feature", "symbol", "mean_target", "mean_reference", "effect", "effect_lower", "effect_upper", "log2_fold_change",
    "delta", "probability", "fdr", "replicate_p", "replicate_fdr", "significant", "n_target", "n_reference",
    "replicates_target", "replicates_reference", "imputed", "confounded", "groups_from_same_data",
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
    n_samples: int = 250,
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
        Column of obs with the unit that was sampled; the batch by default.
    delta
        Smallest effect that counts, on the scale of `effect`. None: half the 95th percentile of |effect| between
        random halves of the groups plus a tenth of the feature's larger mean.
    fdr
        Level of `significant`.
    n_samples
        Draws of the posterior of the group means.
    mode
        "vanilla": probability is P(x > y) for a cell of each group, and a column `bayes_factor` (natural logarithm of
        the odds) is added, as the reference implementation has it.
    calibration
        From :func:`~multivi_nf.inference.calibrate`.
    max_cells
        Cells of a group that are decoded; a larger group is represented by a random subset.
    seed
        Of all draws.

    Returns
    -------
    One row a feature (and, for "each", a target, in a further column), sorted by evidence; columns of `INTERFACES`
    section 3.
    """
    calibration = calibration or Calibration.none()
    data = cells_of(model, mosaic)
    model.eval()
    contrast = Contrast(f"{groupby}_{target}_{reference}", modality, groupby, target, reference, cells)
    _check(contrast, mode, n_samples, model)
    depth = median_depth(model, data, calibration.atac_depth) if modality == "atac" else 1.0
    decoder = Decoder(model, modality, None, depth)
    design = make_design(data, contrast, replicate, seed, max_cells)
    groups = list(design.groups.values())
    means = Means(
        model, data, decoder, groups, replicate_weights(groups, n_samples, seed), calibration, seed,
        residuals=mode == "change",
    )  # fmt: skip
    engine = _Engine(means, design, delta, mode)
    found = engine.run()
    names = model.features[model.features["modality"] == modality]
    replicates = _Replicates(data, design, replicate, modality)
    tables = []
    for i, (one, other) in enumerate(design.pairs):
        table = _table(found[i], names, design, one, other, replicates, fdr)
        if target == "each":
            table.insert(0, "target", one)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _check(contrast: Contrast, mode: str, n_samples: int, model: MultiVI) -> None:
    if contrast.cells not in CELLS or mode not in ("change", "vanilla"):
        raise InputError(
            f"cells is {contrast.cells!r}, mode is {mode!r}",
            "there is no such comparison",
            f"cells is one of {', '.join(CELLS)}; mode is change or vanilla",
        )
    if n_samples < 50:
        raise InputError(
            f"{n_samples} draws were asked for",
            "probabilities near 1, which decide what is called, cannot be told from so few",
            "ask for at least 50 (--samples)",
        )
    if contrast.modality not in model.modalities:
        Decoder(model, contrast.modality)


class _Engine:
    """Runs over tiles of features and summarises every pair of the design."""

    def __init__(self, means: Means, design: Design, delta: float | None, mode: str) -> None:
        self.means, self.design, self.mode = means, design, mode
        self.decoder = means.decoder
        self.difference = self.decoder.modality == "atac"
        self.given, self.floor = delta, []

    def run(self) -> list[dict[str, np.ndarray]]:
        """For each pair, arrays over features: means, effect, bounds, probability, delta."""
        starts = list(range(0, self.decoder.n_features, TILE))
        if self.mode == "change":
            self._learn()
        results: list[dict[str, list[np.ndarray]]] = [{} for _ in self.design.pairs]
        with progress(f"differential {self.decoder.modality}", self.decoder.n_features, "features") as advance:
            for start in starts:
                if self.mode == "vanilla":
                    found = self._vanilla(start)
                else:
                    found = self._change({n: [self.means.sums(p, start) for p in parts]
                                          for n, parts in self.means.parts.items()}, start)  # fmt: skip
                for all_tiles, one in zip(results, found):
                    for key, value in one.items():
                        all_tiles.setdefault(key, []).append(value)
                advance(min(TILE, self.decoder.n_features - start))
        return [{key: np.concatenate(parts) for key, parts in one.items()} for one in results]

    def _sides(self, tiles: dict[str, list[Sums]], start: int, pair: tuple[str, str]) -> list[tuple]:
        members = [[g.name for g in self.design.members(name, pair[0])] for name in pair]
        return [self.means.side(tiles, side, start) for side in members]

    def _effect(self, target: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        if self.difference:
            return target - reference
        return torch.log2(target.clamp(min=1e-12)) - torch.log2(reference.clamp(min=1e-12))

    def _learn(self) -> None:
        """Priors of residuals, and how far random halves of the same group lie apart (the data's part of delta)."""
        kept = self.means.learn()
        apart: list[list[torch.Tensor]] = [[] for _ in self.design.pairs]
        for t, start in enumerate(self.means.prior_tiles()):
            tiles = {name: [part[t] for part in parts] for name, parts in kept.items()}
            for i, pair in enumerate(self.design.pairs):
                for _, halves in self._sides(tiles, start, pair):
                    n = len(halves) // 2
                    apart[i].append(self._effect(halves[:n], halves[n:]).abs().flatten())
        for values in apart:
            both = torch.cat(values).cpu().numpy()
            self.floor.append(0.5 * float(np.quantile(both, 0.95)))
        if self.given is None:
            floor = max(self.floor)
            unit = "of probability" if self.difference else "log2 units"
            print(
                f"delta: {floor:.4g} {unit} (half the 95th percentile of |effect| between random halves"
                f"{'' if len(self.floor) == 1 else ', largest of all groups'}) plus a tenth of the larger mean",
                file=sys.stderr,
            )

    def _delta(self, i: int, target: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """(width,) smallest effect that counts; a tenth less of a mean is log2(10 / 9) on the logarithm."""
        if self.given is not None:
            return torch.full_like(target, self.given)
        if self.difference:
            return self.floor[i] + TENTH * torch.maximum(target, reference)
        return torch.full_like(target, self.floor[i] - float(np.log2(1 - TENTH)))

    def _change(self, tiles: dict[str, list[Sums]], start: int) -> list[dict[str, np.ndarray]]:
        out = []
        for i, pair in enumerate(self.design.pairs):
            (target, _), (reference, _) = self._sides(tiles, start, pair)
            effect = self._effect(target, reference)
            mean_target, mean_reference = target.mean(0), reference.mean(0)
            delta = self._delta(i, mean_target, mean_reference)
            above, below = (effect > delta).float().mean(0), (effect < -delta).float().mean(0)
            lower, upper = _bounds(effect)
            center, sd = effect.mean(0), effect.std(0)
            fold = torch.log2(target.clamp(min=1e-12) / reference.clamp(min=1e-12)).mean(0)
            out.append(_arrays(
                mean_target=mean_target, mean_reference=mean_reference, effect=center, effect_lower=lower,
                effect_upper=upper, log2_fold_change=fold, delta=delta, probability=torch.maximum(above, below),
                evidence=(center.abs() - delta) / sd.clamp(min=1e-12),
            ))  # fmt: skip
        return out

    def _vanilla(self, start: int) -> list[dict[str, np.ndarray]]:
        """P(x > y) over random pairs of one cell of each group, a posterior sample each (scVI, Lopez et al. 2018)."""
        values = {name: self._pool(name, start) for name in self.means.parts}
        out = []
        for pair in self.design.pairs:
            target, reference = (
                torch.cat([values[g.name] for g in self.design.members(name, pair[0])]) for name in pair
            )
            n = max(len(target), len(reference), 5000)
            rng = np.random.default_rng([self.means.seed, start])
            x, y = (
                side[torch.from_numpy(rng.integers(len(side), size=n)).to(side.device)] for side in (target, reference)
            )
            higher = (x > y).float().mean(0).clamp(1 / n, 1 - 1 / n)
            effect = self._effect(x, y)
            lower, upper = _bounds(effect)
            mean_target, mean_reference = target.mean(0), reference.mean(0)
            fold = torch.log2(mean_target.clamp(min=1e-12) / mean_reference.clamp(min=1e-12))
            factor = torch.log(higher) - torch.log1p(-higher)
            out.append(_arrays(
                mean_target=mean_target, mean_reference=mean_reference, effect=effect.mean(0), effect_lower=lower,
                effect_upper=upper, log2_fold_change=fold, delta=torch.zeros_like(higher),
                probability=torch.maximum(higher, 1 - higher), evidence=factor.abs(), bayes_factor=factor,
            ))  # fmt: skip
        return out

    def _pool(self, name: str, start: int) -> torch.Tensor:
        """(n_rows, width) values of at most 1,000 cells of a group."""
        rows = []
        for part in self.means.parts[name]:
            step = max(1, part.n_cells // 1000)
            rows.append(self.means.decoded(part, start)[::step])
        return torch.cat(rows)


def _bounds(effect: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Central 95 % of the draws, quantiles at p (n + 1)."""
    ordered = effect.sort(0).values
    n = len(ordered)
    position = (1 - INTERVAL) / 2 * (n + 1)
    rank = max(int(position), 1)
    share = max(position - rank, 0.0)
    lower = ordered[rank - 1] + share * (ordered[rank] - ordered[rank - 1])
    return lower, ordered[-rank] - share * (ordered[-rank] - ordered[-rank - 1])


def _arrays(**values: torch.Tensor) -> dict[str, np.ndarray]:
    return {key: value.double().cpu().numpy() for key, value in values.items()}


class _Replicates:
    """Pseudobulks of all groups, summed once; the tests of each pair."""

    def __init__(self, data: MosaicData, design: Design, column: str, modality: str) -> None:
        names = replicate_names(data, column)
        self.design = design
        self.sums = {g.name: pseudobulks(data, g.everyone, names, modality) for g in design.groups.values()}
        self.names = {g.name: set(names[g.everyone]) for g in design.groups.values()}

    def side(self, name: str, against: str) -> dict[str, np.ndarray]:
        """Replicate to summed counts of a side."""
        total: dict[str, np.ndarray] = {}
        for group in self.design.members(name, against):
            for replicate, counts in self.sums[group.name].items():
                total[replicate] = total.get(replicate, 0) + counts
        return total

    def count(self, name: str, against: str) -> int:
        return len(set().union(*(self.names[g.name] for g in self.design.members(name, against))))

    def test(self, target: str, reference: str) -> np.ndarray | None:
        members = [self.design.members(name, target) for name in (target, reference)]
        if any(group.imputed for side in members for group in side):
            return None
        return replicate_test(self.side(target, target), self.side(reference, target))


def _table(
    found: dict[str, np.ndarray],
    names: pd.DataFrame,
    design: Design,
    target: str,
    reference: str,
    replicates: _Replicates,
    fdr: float,
) -> pd.DataFrame:
    """One pair's rows, sorted by evidence."""
    sides = [design.members(name, target) for name in (target, reference)]
    batches = [frozenset().union(*(g.batches for g in side)) for side in sides]
    table = pd.DataFrame({"feature": names["feature"].to_numpy(str), "symbol": names["symbol"].to_numpy(str), **found})
    p = replicates.test(target, reference)
    table["replicate_p"] = np.nan if p is None else p
    table["replicate_fdr"] = np.nan if p is None else false_discovery_rate(p)
    table = table.sort_values(
        ["probability", "evidence", "feature"], ascending=[False, False, True], kind="stable", ignore_index=True
    )
    table["fdr"] = np.cumsum(1 - table["probability"]) / np.arange(1, len(table) + 1)
    table["significant"] = (table["fdr"] <= fdr) & (True if p is None else table["replicate_fdr"] <= fdr)
    table["n_target"], table["n_reference"] = (sum(g.n_cells for g in side) for side in sides)
    table["replicates_target"] = replicates.count(target, target)
    table["replicates_reference"] = replicates.count(reference, target)
    table["imputed"] = any(g.imputed for side in sides for g in side)
    table["confounded"] = not batches[0] & batches[1]
    table["groups_from_same_data"] = design.same_data
    return table[COLUMNS + [c for c in ("bayes_factor",) if c in table]]
