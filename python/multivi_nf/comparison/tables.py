"""Tables of differential features: effects beside the test at the level of replicates, and what is called."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import pandas as pd

from multivi_nf.comparison.design import Design, replicate_names
from multivi_nf.comparison.engine import Mode
from multivi_nf.comparison.parts import MOST_OUTSIDE, GroupSupport
from multivi_nf.comparison.pseudobulk import (
    cells_of_pseudobulks,
    false_discovery_rate,
    pseudobulks_of,
    replicate_test,
)
from multivi_nf.data.mosaic_data import MosaicData

Summed = TypeVar("Summed", np.ndarray, int)

COLUMNS = (
    "feature symbol mean_target mean_reference effect effect_lower effect_upper log2_fold_change delta probability "
    "fdr replicate_p replicate_fdr significant n_target n_reference replicates_target replicates_reference imputed "
    "confounded groups_from_same_data out_of_support extrapolated"
).split()


def empty_table(target: str, mode: Mode = "change") -> pd.DataFrame:
    """What :func:`differential` gives, without rows: for a contrast that nobody asked for and that cannot be made."""
    more = ["bayes_factor"] if mode == "vanilla" else []
    return pd.DataFrame(columns=[*(["target"] if target == "each" else []), *COLUMNS, *more])


class Replicates:
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

    def side(self, name: str, against: str, of: Mapping[str, Mapping[str, Summed]]) -> dict[str, Summed]:
        """Replicate to summed counts, or number of cells, of a side."""
        total: dict[str, Summed] = {}
        for group in self.design.members(name, against):
            for replicate, counts in of[group.name].items():
                total[replicate] = total[replicate] + counts if replicate in total else counts
        return total

    def count(self, name: str, against: str) -> int:
        """Replicates of a side."""
        return len(set().union(*(self.names[g.name] for g in self.design.members(name, against))))

    def test(self, target: str, reference: str) -> np.ndarray | None:
        """(n_features,) p-values of a pair; None where cells are imputed, or replicates too few."""
        members = [self.design.members(name, target) for name in (target, reference)]
        if any(group.imputed for side in members for group in side):
            return None
        n_cells = None
        if self.cells is not None:
            n_cells = self.side(target, target, self.cells), self.side(reference, target, self.cells)
        return replicate_test(self.side(target, target, self.sums), self.side(reference, target, self.sums), n_cells)


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


class Tables:
    """Tables of results of one design.

    Parameters
    ----------
    names
        Features of the modality.
    design
        Its pairs.
    replicates
        Their pseudobulks.
    fdr
        Level of `significant`.
    """

    def __init__(self, names: pd.DataFrame, design: Design, replicates: Replicates, fdr: float) -> None:
        self.names, self.design, self.replicates, self.fdr = names, design, replicates, fdr

    def of(self, pair: tuple[str, str], found: dict[str, np.ndarray], support: GroupSupport) -> pd.DataFrame:
        """One pair's rows, sorted by evidence.

        Of a side whose imputed cells lie outside the support, or of which no cell was ever measured, nothing is called
        unless calibration measured the error of such groups; then `extrapolated` marks it.
        """
        design, replicates, names, (target, reference) = self.design, self.replicates, self.names, pair
        sides = [design.members(name, target) for name in pair]
        between, confounded = _confounded(design, pair)
        table = pd.DataFrame(
            {"feature": names["feature"].to_numpy(str), "symbol": names["symbol"].to_numpy(str), **found}
        )
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
        table["significant"] = (table["fdr"] <= self.fdr) & ((table["replicate_fdr"] <= self.fdr) | untested)
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
