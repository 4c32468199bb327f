"""Peaks called in each group of cells by itself: those of rare cells are lost among all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse, stats

from multivi_nf.errors import InputError, option
from multivi_nf.fragments.matrix import count_peaks
from multivi_nf.inputs.chromosomes import harmonise
from multivi_nf.inputs.genome import Genome
from multivi_nf.io.files import written_whole
from multivi_nf.peaks import call_peaks, merge_peaks
from multivi_nf.regulation.cells import Source, group_names, matched
from multivi_nf.regulation.gene_activity import overlaps
from multivi_nf.regulation.possible import NotPossible

LEAST_CELLS = 40
"""Cells of a donor in a group that make a replicate of it, as ArchR's pseudobulks have at least."""
LEAST_FRAGMENTS = 1_000
"""Fragments of a group below which no peak can be told from chance."""
REPLICATE_P = 0.05
"""Largest p of a peak in one replicate: it has to be seen there, not proved again."""
ASIDE = (-5_000, -2_500, 2_500, 5_000)
"""bp to where a replicate's own background is counted, as MACS3's local one."""
REPLICATES = 2
"""Replicates that must show a peak of the group, where it has that many."""


@dataclass
class GroupPeaks:
    """Peaks by group and what they add.

    Attributes
    ----------
    by_group
        By group, in natural order: `chrom`, `start`, `end`, `score`, `replicates` (number of donors that show it; −1
        where the group has fewer than two), `new` (it overlaps no peak of the consensus).
    merged
        `chrom`, `start`, `end`, `score`, `new`: the consensus as it is, and between its peaks the groups' new ones.
    table
        One row a group: `group`, `cells`, `donors` (replicates), `peaks`, `new`, `note`.
    """

    by_group: dict[str, pd.DataFrame]
    merged: pd.DataFrame
    table: pd.DataFrame


@dataclass(frozen=True)
class Calling:
    """How groups' peaks are called.

    Attributes
    ----------
    consensus
        The run's peaks, `chrom`, `start`, `end` and, where known, `score`.
    donor
        Column of `obs` that tells replicates; without it all peaks of a group stay.
    width
        bp of every peak, odd.
    work
        Empty folder for temporary files; default the system's.
    workers
        Groups called at a time.

    Examples
    --------
    >>> consensus = pd.DataFrame({"chrom": ["chr1"], "start": [100], "end": [601]})
    >>> Calling(consensus, donor="patient").width
    501
    """

    consensus: pd.DataFrame
    donor: str = "donor"
    width: int = 501
    work: Path | None = None
    workers: int = 1


def peaks_by_group(
    obs: pd.DataFrame,
    groups: pd.Series,
    sources: Sequence[Source],
    genome: Genome,
    calling: Calling,
) -> GroupPeaks:
    """Call peaks by MACS3 on the fragments of each group's cells, and merge them with the consensus.

    Where two or more donors have :data:`LEAST_CELLS` cells of a group, a peak stays if :data:`REPLICATES` of them show
    it: more fragments than the donor has at places of that width 2.5 and 5 kb beside peaks (Poisson,
    p ≤ :data:`REPLICATE_P`; where a donor has hardly any beside peaks, one is more). Calling each donor's peaks again,
    or asking for two fragments of each, would lose many of a rare type: a third of its cells show far fewer than a
    third of its peaks.

    Parameters
    ----------
    obs
        Of the cells with ATAC (n_cells rows); names `sample:barcode`.
    groups
        Of :func:`multivi_nf.regulation.cells.groups_of`.
    calling
        Against which peaks, with which replicates, how wide.

    Raises
    ------
    NotPossible
        No fragments, no group large enough, macs3 absent or without result.

    Examples
    --------
    `obs` and the consensus are those of a finished run; MACS3 comes with `make macs3`.

    >>> made = peaks_by_group(obs, obs["cluster"], [Source("s1", path)], genome, Calling(consensus))  # doctest: +SKIP
    >>> made.table[["group", "donors", "peaks", "new"]]  # doctest: +SKIP
    """
    kept, notes = _large_enough(obs, groups)
    called, width = groups.where(groups.isin(kept)), calling.width
    summits = _called(called, sources, genome, calling)
    donors = _replicates(obs, called, calling.donor)
    pairs = pd.Series([None if g is None or d is None else f"{g}\t{d}" for g, d in zip(called, donors)], obs.index)
    every = _widened([summits.assign(group="")], genome, width)
    shown = _shown(pairs, sources, every, genome) if pairs.notna().any() else {}
    consensus = _located(calling.consensus, genome)
    found, rows = {}, []
    for group in group_names(groups):
        mine = summits[summits["group"] == group]
        peaks = _widened([mine], genome, width)
        n_donors = donors[(called == group).to_numpy()].dropna().nunique()
        peaks["replicates"] = _seen(peaks, every, shown, group) if n_donors else -1
        peaks = peaks[~peaks["replicates"].between(0, REPLICATES - 1)].reset_index(drop=True)
        peaks["new"] = _none_overlaps(peaks, consensus)
        found[group] = peaks
        size, note = int((groups == group).sum()), notes.get(group, "")
        rows.append((group, size, int(n_donors), len(peaks), int(peaks["new"].sum()), note))
    merged = _merged(consensus, found, summits, genome, width)
    table = pd.DataFrame(rows, columns=["group", "cells", "donors", "peaks", "new", "note"])
    return GroupPeaks(found, merged, table)


def _large_enough(obs: pd.DataFrame, groups: pd.Series) -> tuple[list[str], dict[str, str]]:
    """Groups with fragments enough, and why the others are left out."""
    names = group_names(groups)
    if "atac_n_fragments" not in obs:
        return names, {}
    total = pd.to_numeric(obs["atac_n_fragments"], errors="coerce").fillna(0).groupby(groups).sum()
    small = {
        g: f"{total[g]:.0f} fragments are too few ({LEAST_FRAGMENTS})" for g in names if total[g] < LEAST_FRAGMENTS
    }
    if len(small) == len(names):
        raise NotPossible(
            f"no group of {groups.name} has {LEAST_FRAGMENTS} fragments",
            "peaks could not be told from chance",
            f"name a column of larger groups by {option('groups')}",
        )
    return [group for group in names if group not in small], small


def _replicates(obs: pd.DataFrame, groups: pd.Series, donor: str) -> pd.Series:
    """Donor of each cell that stands in a replicate: of at least LEAST_CELLS cells, beside another one."""
    none = pd.Series([None] * len(obs), index=obs.index, dtype=object)
    if donor not in obs:
        return none
    donors = obs[donor].astype(object).where(obs[donor].notna(), None).map(str, na_action="ignore")
    size = pd.DataFrame({"group": groups, "donor": donors}).groupby(["group", "donor"]).size()
    large = size[size >= LEAST_CELLS]
    several = large[large.groupby("group").transform("size") >= REPLICATES].index
    inside = pd.MultiIndex.from_arrays([groups, donors]).isin(several)
    return donors.where(inside, None)


def _called(groups: pd.Series, sources: Sequence[Source], genome: Genome, calling: Calling) -> pd.DataFrame:
    """Summits of each group with any fragment."""
    inputs = []
    for source, rows, barcodes in matched(groups.index, sources):
        labels = groups.iloc[rows]
        inputs.append((source.fragments, {b: g for b, g in zip(barcodes, labels) if g is not None and g == g}))
    inputs = [entry for entry in inputs if entry[1]]
    if not inputs:
        raise NotPossible(
            f"no cell of a sample with fragments has a value of {groups.name}",
            "there is no group to call peaks in",
            f"name another column by {option('groups')}",
        )
    try:
        return call_peaks(inputs, genome, work=calling.work, workers=calling.workers)
    except NotPossible:
        raise
    except InputError as error:
        raise NotPossible(error.what, error.why, error.remedy) from error


def _located(peaks: pd.DataFrame, genome: Genome) -> pd.DataFrame:
    mapping = harmonise(peaks["chrom"].unique(), genome.chrom_sizes, genome.style)
    found = peaks[peaks["chrom"].isin(mapping)].assign(chrom=lambda frame: frame["chrom"].map(mapping))
    score = found["score"] if "score" in found else 0.0
    return found[["chrom", "start", "end"]].assign(score=score).reset_index(drop=True)


def _widened(parts: list[pd.DataFrame], genome: Genome, width: int) -> pd.DataFrame:
    """Peaks of fixed width of summits; none where there are none, or none at a place of the genome."""
    summits = pd.concat(parts, ignore_index=True)
    empty = pd.DataFrame({"chrom": pd.Series(dtype=object), "start": [], "end": [], "score": []})
    if summits.empty:
        return empty.astype({"start": np.int64, "end": np.int64})
    try:
        return merge_peaks([summits.assign(summit=summits["start"])], genome, width=width)
    except InputError:
        return empty.astype({"start": np.int64, "end": np.int64})  # all of them in the blacklist


def _none_overlaps(peaks: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    return np.asarray(overlaps(peaks, others).sum(axis=1)).ravel() == 0


def _shown(pairs: pd.Series, sources: Sequence[Source], every: pd.DataFrame, genome: Genome) -> dict[str, np.ndarray]:
    """Of each replicate, whether it shows each peak of all groups together; one pass over the fragments.

    Parameters
    ----------
    pairs
        Replicate of each cell, None where it stands in none.
    every
        Peaks of all groups, none over another.
    """
    aside = _aside(every, genome)
    windows = pd.concat([every, aside], ignore_index=True)[["chrom", "start", "end"]]
    labels, code = np.unique(pairs.dropna(), return_inverse=True)
    of_cell = pd.Series(code, index=pairs.dropna().index).reindex(pairs.index)
    total = np.zeros((len(labels), len(windows)))
    for source, rows, barcodes in matched(pairs.index, sources):
        own = of_cell.iloc[rows]
        inside = own.notna().to_numpy()
        if not inside.any():
            continue
        asked = [barcode for barcode, kept in zip(barcodes, inside) if kept]
        counted = count_peaks(source.fragments, windows, asked, genome, strategy="pic").X
        at = own[inside].astype(int).to_numpy()
        member = sparse.csr_matrix((np.ones(len(at)), (at, np.arange(len(at)))), shape=(len(labels), len(at)))
        total += (member @ counted).toarray()
    background = total[:, len(every) :].mean(axis=1) if len(aside) else np.zeros(len(labels))
    inside = total[:, : len(every)]
    found = (inside > 0) & (stats.poisson.sf(inside - 1, background[:, None]) <= REPLICATE_P)
    return dict(zip(labels, found))


def _aside(every: pd.DataFrame, genome: Genome) -> pd.DataFrame:
    """Places as wide as peaks beside them, inside of the chromosomes, that overlap no peak."""
    parts = [every.assign(start=every["start"] + far, end=every["end"] + far) for far in ASIDE]
    places = pd.concat(parts, ignore_index=True)
    inside = (places["start"] >= 0) & (places["end"] <= places["chrom"].map(genome.chrom_sizes))
    places = places[inside].drop_duplicates(["chrom", "start"]).reset_index(drop=True)
    return places[_none_overlaps(places, every)]


def _seen(peaks: pd.DataFrame, every: pd.DataFrame, shown: dict[str, np.ndarray], group: str) -> np.ndarray:
    """In how many of a group's replicates each of its peaks is met."""
    meets = overlaps(every, peaks)
    seen = np.zeros(len(peaks), np.int64)
    for label, found in shown.items():
        if label.rpartition("\t")[0] == group:
            seen += found.astype(np.int32) @ meets > 0
    return seen


def _merged(
    consensus: pd.DataFrame, found: dict[str, pd.DataFrame], summits: pd.DataFrame, genome: Genome, width: int
) -> pd.DataFrame:
    """The consensus unchanged, so that counts on it stay valid, and new peaks that overlap nothing."""
    half = width // 2
    new = [
        peaks.loc[peaks["new"], ["chrom", "start", "score"]].assign(start=lambda frame: frame["start"] + half, group=g)
        for g, peaks in found.items()
    ]
    added = _widened([part.assign(end=part["start"] + 1) for part in new] or [summits.iloc[:0]], genome, width)
    merged = pd.concat([consensus.assign(new=False), added.assign(new=True)], ignore_index=True)
    rank = merged["chrom"].map({name: i for i, name in enumerate(genome.chrom_sizes)})
    return merged.iloc[np.lexsort((merged["start"], rank))].reset_index(drop=True)


def write_group_peaks(path: Path, peaks: pd.DataFrame) -> None:
    """Write BED6 (name `chrom:start-end`, score, strand `.`) and replicates (`.`: none asked), new (0, 1)."""
    with written_whole(path) as temporary, temporary.open("w", newline="\n") as handle:
        for row in peaks.itertuples(index=False):
            replicates = "." if getattr(row, "replicates", -1) < 0 else row.replicates
            name = f"{row.chrom}:{row.start}-{row.end}"
            handle.write(
                f"{row.chrom}\t{row.start}\t{row.end}\t{name}\t{row.score:.5g}\t.\t{replicates}\t{int(row.new)}\n"
            )
