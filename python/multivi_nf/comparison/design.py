"""Groups of cells of a comparison: who is in, and who stands for whom."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from multivi_nf.data.draws import cell_keys
from multivi_nf.errors import InputError, option
from multivi_nf.inputs.contrasts import (
    REST,
    SAME_DATA_COLUMNS,
    Contrast,
    NothingToCompare,
    group_labels,
    groups_of,
    others_name,
    settled,
)

if TYPE_CHECKING:
    from multivi_nf.data.mosaic_data import MosaicData

MAX_CELLS = 5000
"""Cells of a group that are decoded; a larger group is represented by so many, drawn by the hash of their names."""


@dataclass
class Group:
    """Cells that are decoded together.

    Attributes
    ----------
    name
        Value of the grouping column, or "rest".
    cells
        (n,) positions in the mosaic of the cells that are decoded.
    everyone
        Positions of all its cells, decoded or not.
    measured
        (n,) whether the modality was measured.
    replicate
        (n,) replicate names.
    batches, replicates
        Batches and replicates of all its cells.
    n_measured
        Cells of this name anywhere in the mosaic that were measured, compared or not.
    """

    name: str
    cells: np.ndarray
    everyone: np.ndarray
    measured: np.ndarray
    replicate: np.ndarray
    batches: frozenset[str]
    replicates: frozenset[str] = frozenset()
    n_measured: int = 0

    @property
    def n_cells(self) -> int:
        """Cells of the group, decoded or not."""
        return len(self.everyone)

    @property
    def share(self) -> float:
        """Cells that each decoded cell stands for."""
        return self.n_cells / len(self.cells)

    @property
    def imputed(self) -> bool:
        """Some of its cells were not measured in the modality."""
        return not self.measured.all()


@dataclass
class Design:
    """All groups of a contrast and its (target, reference) pairs."""

    groups: dict[str, Group]
    pairs: list[tuple[str, str]]
    same_data: bool

    def members(self, name: str, against: str) -> list[Group]:
        """Groups that make up one side: itself, or for "rest" all but `against`."""
        if name in self.groups:
            return [self.groups[name]]
        return [group for key, group in self.groups.items() if key != against]

    def sides(
        self, pair: tuple[str, str], of: Literal["batches", "replicates"]
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Batches or replicates of the two sides of a pair, target first."""
        target, reference = (frozenset().union(*(getattr(g, of) for g in self.members(name, pair[0]))) for name in pair)
        return target, reference

    def between(self, pair: tuple[str, str]) -> bool:
        """No batch is on both sides."""
        target, reference = self.sides(pair, "batches")
        return not target & reference

    def of(self, pairs: list[tuple[str, str]]) -> Design:
        """The same groups, some of the pairs."""
        return Design(self.groups, pairs, self.same_data)


def make_design(data: MosaicData, contrast: Contrast, replicate: str, seed: int, max_cells: int = MAX_CELLS) -> Design:
    """Find the cells of a contrast.

    Raises
    ------
    InputError
        Unknown column or group, a group without cells of the wanted kind, or of one cell.
    """
    named = group_labels(data.obs, contrast.groupby)
    pairs = groups_of(contrast, named)
    present = sorted(named.dropna().unique())
    labels, others = named.to_numpy(object), others_name(present)
    contrast = settled(contrast, present)
    if REST in present:
        meant = "all other cells" if contrast.reference == others else f"the cells of this group of {contrast.groupby}"
        print(f"'rest' is a group of {contrast.groupby}; as the reference it means {meant} here", file=sys.stderr)
    replicates = replicate_names(data, replicate)
    has = data.has[contrast.modality]
    use = {"observed": has, "imputed": ~has, "all": np.ones(len(has), bool)}[contrast.cells]
    known = np.asarray([isinstance(label, str) for label in labels])
    if contrast.target == "each":
        names = sorted(set(labels[known]))
        sets = {name: known & (labels == name) for name in names}
    else:
        sets = {contrast.target: known & (labels == contrast.target)}
        other = labels != contrast.target if contrast.reference == others else labels == contrast.reference
        sets[contrast.reference] = known & other
    keys = cell_keys(data.cells, seed, "subsample")
    groups, problems = {}, []
    for name, mask in sets.items():
        chosen = np.flatnonzero(mask & use)
        if len(chosen) < 2:
            if contrast.target == "each":
                continue
            problems.append(_too_small(contrast, name, len(chosen), int(mask.sum()), int((mask & has).sum())))
            continue
        kept = chosen if len(chosen) <= max_cells else np.sort(chosen[np.argsort(keys[chosen])[:max_cells]])
        batches = frozenset(np.unique(data.source.batch[chosen].astype(str)))
        found = frozenset(np.unique(replicates[chosen].astype(str)))
        seen = int((mask & has).sum())
        groups[name] = Group(name, kept, chosen, has[kept], replicates[kept], batches, found, seen)
    if problems:
        raise InputError.all_of(problems)
    pairs = [p for p in pairs if p[0] in groups and (p[1] in groups or p[1] == others)]
    if not pairs or len(groups) < 2:
        counts = ", ".join(f"{name!r} has {(mask & use).sum():,}" for name, mask in list(sets.items())[:10])
        raise NothingToCompare(
            f"fewer than two groups of {contrast.groupby} have two {_kind(contrast)} cells ({counts})",
            "there is nothing to compare",
            f"choose other groups, or {option('cells', 'all')}",
        )
    return Design(groups, pairs, contrast.groupby in SAME_DATA_COLUMNS)


def _kind(contrast: Contrast) -> str:
    return {"observed": f"{contrast.modality}-measured", "imputed": f"{contrast.modality}-imputed", "all": ""}[
        contrast.cells
    ]


def _too_small(contrast: Contrast, name: str, n: int, n_all: int, n_measured: int) -> InputError:
    what = f"group {contrast.groupby} = {name!r} has {n or 'no'} {_kind(contrast)} cell{'' if n == 1 else 's'} "
    remedy = "choose a larger group"
    if contrast.cells != "all" and n_all > 1:
        remedy = (
            f"use {option('cells', 'all')} to let the model impute the others"
            if contrast.cells == "observed"
            else f"use {option('cells', 'observed')} or all: its cells were measured"
        )
    return InputError(
        f"{what}({n_all:,} cells in all, {n_measured:,} measured)",
        "the mean of a group and its error need at least two cells",
        remedy,
    )


def replicate_names(data: MosaicData, column: str) -> np.ndarray:
    """(n_cells,) replicate of every cell of the mosaic."""
    if column == "batch":
        return data.source.batch.astype(str)
    if column not in data.obs:
        raise InputError(
            f"{option('replicate')} {column!r} is not a column of obs ({', '.join(map(str, data.obs.columns))})",
            "replicates decide how far an effect can be generalised",
            "name a column of the samplesheet, or leave it out (batch)",
        )
    return data.obs[column].astype(str).to_numpy(object)
