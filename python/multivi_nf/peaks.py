"""Peaks: called by MACS3 on cut sites, and made one consensus for all samples."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numba import njit
from scipy import special

from multivi_nf.errors import InputError
from multivi_nf.fragments.byte_scan import Num
from multivi_nf.fragments.cuts import WINDOW, write_cut_sites
from multivi_nf.inputs.chromosomes import harmonise
from multivi_nf.inputs.genome import Genome
from multivi_nf.inputs.intervals import merge_intervals, read_bed_fields
from multivi_nf.inputs.text import read_text
from multivi_nf.io.caches import isolated_environment
from multivi_nf.io.files import written_whole

Q_VALUE = 0.05
"""Largest false discovery rate of a peak."""

MAPPABLE = 0.87
"""Share of a chromosome that reads can be placed on: MACS's 2.7e9 for human over its 3.1e9 bp."""

FALSE_PILES = 0.025
"""Largest share of a group's summits that may be chance: false peaks of several groups add up, true ones coincide."""

MACS3_OPTIONS = "-f BED --shift -75 --extsize 150 --keep-dup all --nomodel --nolambda --call-summits".split()


def find_macs3() -> str:
    """Give the `macs3` program: environment variable MULTIVI_NF_MACS3, else the PATH."""
    named = os.environ.get("MULTIVI_NF_MACS3")
    found = shutil.which(named or "macs3")
    if found is None:
        raise InputError(
            f"MULTIVI_NF_MACS3 names {named!r}, which is no program" if named else "the program macs3 was not found",
            "peaks cannot be called",
            "run `make macs3` once (or use the macs3 image); or give --peaks BED, or --peak_source samples",
        )
    return found


def call_peaks(
    inputs: Sequence[tuple[Path, Mapping[str, str] | None]],
    genome: Genome,
    *,
    work: Path | None = None,
    workers: int = 1,
) -> pd.DataFrame:
    """Call summits with MACS3, group by group, on the cut sites of all inputs together.

    Fragments are given as BED of their two cut sites, each widened to 150 bp around itself. MACS3's own format FRAG
    would weigh a fragment by column 5, that is by its PCR duplicates, and lose precision.

    Parameters
    ----------
    inputs
        Fragments files, each with {barcode: group}, or None for all fragments as one group.
    genome
        Sizes; the background rate is that over the chromosomes that occur.
    work
        Empty folder for temporary files (cut sites take about a fifth of a fragments file's text); default one of the
        system's, removed at the end.
    workers
        Groups whose peaks are called at a time; the result does not depend on it.

    Returns
    -------
    One row a summit: `chrom`, `start`, `end` (1 bp), `name`, `score` (−log10 q), `group`.

    Raises
    ------
    InputError
        macs3 is absent or fails, or no group has a peak.
    """
    macs3 = find_macs3()
    with tempfile.TemporaryDirectory(prefix="peaks.") if work is None else contextlib.nullcontext(work) as name:
        folder = Path(name)
        cuts = write_cut_sites(inputs, genome, folder)
        size = MAPPABLE * sum(genome.chrom_sizes[chrom] for chrom in cuts.chroms)
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(lambda group: _run_macs3(macs3, group, cuts.files[group], size, folder), cuts.files)
            called = [
                _summits_of(narrow_peak, group, cuts.fragments[group], cuts.together[group], size)
                for group, narrow_peak in zip(cuts.files, found)
            ]
    summits = pd.concat(called, ignore_index=True)
    if summits.empty:
        raise InputError(
            f"MACS3 found no peak in {sum(cuts.fragments.values())} fragments of {len(cuts.fragments)} group(s)",
            "there would be no ATAC feature",
            "check the sample's quality (qc/), pool samples by --peak_group, or give --peaks BED",
        )
    return summits


def _run_macs3(macs3: str, group: str, cuts: Path, size: float, folder: Path) -> Path:
    """Run MACS3 on one file of cut sites; its narrowPeak file."""
    name = cuts.name.removesuffix(".bed.gz")
    how = [*MACS3_OPTIONS, "-q", f"{Q_VALUE:g}", "-g", f"{max(size, 1):.0f}"]
    where = ["-n", name, "--outdir", str(folder), "--tempdir", str(folder), "--verbose", "1"]
    command = [macs3, "callpeak", "-t", str(cuts), *how, *where]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, env=isolated_environment()
        )
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        raise InputError(
            f"{macs3} is no program that this machine can start ({error.strerror})",
            "peaks cannot be called",
            "run `make macs3` once (or use the macs3 image); or give --peaks BED, or --peak_source samples",
        ) from error
    result = folder / f"{name}_peaks.narrowPeak"
    if done.returncode == -signal.SIGKILL or "MemoryError" in done.stderr:
        msg = f"macs3 on group {group!r} was ended for its memory"
        raise MemoryError(msg)
    if done.returncode or not result.is_file():
        tail = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise InputError(
            f"macs3 stopped with exit code {done.returncode} on group {group!r}: {tail}",
            "its peaks are missing",
            "look at the message; few fragments or a chromosome size of another assembly are the common causes",
        )
    cuts.unlink()
    return result


def least_pile(piles: np.ndarray, n_background: float, together: float, size: float) -> int:
    """Give the least number of cut sites in 150 bp that background fragments rarely pile up to.

    MACS3 takes cut sites as independent, but they come in pairs: a short fragment puts two into one window. In a group
    of few cells two such fragments that meet by chance look like a peak. At random, a window holds N₁ fragments with
    one cut site in it and N₂ with both, each Poisson, so N = N₁ + 2 N₂ sites. A pile of m is completed by a fragment
    that brings both its sites to m − 2 others, or one of them to m − 1. With s the share of the former, random piles of
    m or more are at most n (s P(N ≥ m − 2) + 2 (1 − s) P(N ≥ m − 1)) in number, for n background fragments.

    Parameters
    ----------
    piles
        Cut sites at the summits found, shape (n_summits,).
    n_background
        Number of fragments outside peaks.
    together
        See :class:`multivi_nf.fragments.cuts.CutSites`.
    size
        bp that fragments can fall on.

    Returns
    -------
    The least m of which at most FALSE_PILES of the piles found are expected at random.
    """
    rate = n_background / size
    both = rate * together
    one = 2 * WINDOW * rate - 2 * both
    heights = np.arange(int(piles.max(initial=2)) + 2)
    single, double = _poisson(heights, one), np.zeros(len(heights))
    double[::2] = _poisson(heights[: len(heights[::2])], both)
    below = np.concatenate([[0.0], np.cumsum(np.convolve(single, double)[: len(heights)])])
    at_least = np.clip(1 - below, 0, 1)  # P(N ≥ 0, 1, ...)
    share = together / WINDOW
    expected = n_background * (
        share * at_least[np.maximum(heights - 2, 0)] + 2 * (1 - share) * at_least[np.maximum(heights - 1, 0)]
    )
    found = np.bincount(piles, minlength=len(heights))[::-1].cumsum()[::-1]
    return int(np.flatnonzero((expected <= FALSE_PILES * found) | (found == 0))[0])


def _poisson(counts: np.ndarray, mean: float) -> np.ndarray:
    """P(X = k): what scipy.stats computes, without the half second that importing it takes."""
    return np.exp(special.xlogy(counts, mean) - special.gammaln(counts + 1) - mean)


def _summits_of(narrow_peak: Path, group: str, n_fragments: int, together: float, size: float) -> pd.DataFrame:
    """Read summits of a narrowPeak file: column 10 is the summit's offset, 9 −log10 q and 7 the enrichment.

    Without local background the enrichment is (pile + 1) / (mean + 1), which gives the pile back. Of the fragments in a
    peak an estimate is enough: its width times half its height.
    """
    if narrow_peak.stat().st_size == 0:
        return pd.DataFrame({"chrom": [], "start": [], "end": [], "name": [], "score": [], "group": []})
    numbers = dict.fromkeys((1, 2, 9), np.int64) | dict.fromkeys((6, 8), np.float64)
    try:
        rows = pd.read_csv(narrow_peak, sep="\t", header=None, usecols=[0, *sorted(numbers)], dtype={0: str} | numbers)
    except ValueError as error:
        raise InputError(
            f"macs3 wrote no narrowPeak of group {group!r} ({str(error).splitlines()[0]})",
            "its peaks are missing",
            "use the version that this package was tried with: run `make macs3` once (or use the macs3 image)",
        ) from error
    mean = 2 * n_fragments * WINDOW / size
    rows["pile"] = np.rint(rows[6] * (mean + 1) - 1).clip(lower=0).astype(np.int64)
    peaks = rows.groupby([0, 1, 2])["pile"].max().reset_index()
    in_peaks = float(((peaks[2] - peaks[1]) * peaks["pile"]).sum()) / (4 * WINDOW)
    background = n_fragments - min(in_peaks, 0.9 * n_fragments)
    least = least_pile(rows["pile"].to_numpy(), background, together, size)
    rows = rows[rows["pile"] >= least].reset_index(drop=True)
    summit = rows[1] + rows[9]
    summits = pd.DataFrame({"chrom": rows[0], "start": summit, "end": summit + 1, "score": rows[8]})
    summits = summits.drop_duplicates(["chrom", "start"]).reset_index(drop=True)
    summits["name"] = [f"{group}_{i + 1}" for i in range(len(summits))]
    summits["group"] = group
    return summits[["chrom", "start", "end", "name", "score", "group"]]


def write_summits(path: str | Path, summits: pd.DataFrame) -> None:
    """Write summits as BED: chrom, start, end, name, score, `.`, group."""
    with written_whole(path) as temporary, temporary.open("w", newline="\n") as handle:
        for row in summits.itertuples(index=False):
            handle.write(f"{row.chrom}\t{row.start}\t{row.end}\t{row.name}\t{row.score:.5g}\t.\t{row.group}\n")


def read_summits(path: str | Path) -> pd.DataFrame:
    """Read a BED of peaks with what it says of summit, score and group.

    A narrowPeak's summit is column 2 + column 10 and its score column 9; of any other BED the middle is taken and,
    where it is a number, column 5 (else 1). Column 7 of a file by :func:`write_summits` is the group.

    Returns
    -------
    Columns `chrom`, `start`, `end`, `summit`, `score`, `group`.
    """
    path = Path(path)
    bed, rows = read_bed_fields(path)
    peaks = bed[["chrom", "start", "end"]]
    narrow = all(len(row) == 10 and re.fullmatch("[0-9]{1,12}", row[9]) and _is_number(row[8]) for row in rows)
    peaks["summit"] = (peaks["start"] + peaks["end"]) // 2
    if narrow:
        peaks["summit"] = peaks["start"] + np.array([int(row[9]) for row in rows], np.int64)
    column = 8 if narrow else 4
    scored = all(len(row) > column and _is_number(row[column]) for row in rows)
    peaks["score"] = [float(row[column]) for row in rows] if scored else 1.0
    if (peaks["score"] < 0).any() or not (peaks["score"] > 0).any():
        peaks["score"] = 1.0
    grouped = all(len(row) == 7 and not _is_number(row[6]) for row in rows)
    peaks["group"] = [row[6] for row in rows] if grouped else "all"
    return peaks


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?", text) is not None


@njit(cache=True)
def _keep_best(
    chrom: np.ndarray, summit: np.ndarray, width: Num, first_bucket: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """Walk peaks from best to worst and keep those that overlap none kept; one bucket holds at most one summit."""
    take = np.zeros(chrom.shape[0], np.bool_)
    for i in range(chrom.shape[0]):
        bucket = first_bucket[chrom[i]] + summit[i] // width
        free = True
        for near in range(bucket - 1, bucket + 2):
            if kept[near] >= 0 and abs(kept[near] - summit[i]) < width:
                free = False
        if free:
            kept[bucket] = summit[i]
            take[i] = True
    return take


def merge_peaks(sources: Sequence[pd.DataFrame], genome: Genome, *, width: int = 501) -> pd.DataFrame:
    """Make one set of peaks of fixed width that do not overlap (iterative overlap merge, Corces et al. 2018).

    Every summit is widened to `width`; from the highest score down, a peak is kept unless it overlaps one kept before.
    Scores are made comparable between groups as score per million: divided by the sum of the group's scores, times 10⁶.
    Peaks on the mitochondrial chromosome, overlapping the blacklist or reaching past a chromosome's end are left out
    beforehand, so that they displace none.

    Parameters
    ----------
    sources
        Of :func:`read_summits`; one a file.
    width
        Odd number of bp.

    Returns
    -------
    Columns `chrom`, `start`, `end`, `score`, sorted by position in the order of the genome.

    Raises
    ------
    InputError
        An even or too small width, or no peak is left.
    """
    if width < 3 or width % 2 == 0:
        raise InputError(
            f"peak width {width} is not an odd number of at least 3",
            "a peak is a summit with the same number of bases on both sides",
            "give --peak_width as an odd number, such as 501",
        )
    peaks = _gathered(sources, genome)
    half = width // 2
    peaks["start"], peaks["end"] = peaks["summit"] - half, peaks["summit"] + half + 1
    peaks = _usable(peaks, genome)
    peaks = peaks.sort_values(["score", "rank", "summit"], ascending=[False, True, True], kind="stable")
    lengths = np.array(list(genome.chrom_sizes.values()), np.int64)
    first_bucket = np.concatenate([[1], np.cumsum(lengths // width + 3)[:-1] + 1])
    kept = np.full(int((lengths // width + 3).sum()) + 2, -1, np.int64)
    columns = (peaks[name].to_numpy(np.int64) for name in ("rank", "summit"))
    peaks = peaks[_keep_best(*columns, width, first_bucket, kept)]
    return peaks.sort_values(["rank", "start"])[["chrom", "start", "end", "score"]].reset_index(drop=True)


def unite_peaks(sources: Sequence[pd.DataFrame], genome: Genome) -> pd.DataFrame:
    """Unite peaks as they are: overlapping and touching ones become one. Left out is what `merge_peaks` leaves out.

    Returns
    -------
    As :func:`merge_peaks`; the score is the sum of the parts'.
    """
    peaks = _usable(_gathered(sources, genome), genome)
    united = merge_intervals(peaks)
    united["rank"] = united["chrom"].map({name: i for i, name in enumerate(genome.chrom_sizes)})
    united = united.sort_values(["rank", "start"]).reset_index(drop=True)
    order = peaks.sort_values(["rank", "start"])
    key = united["rank"].to_numpy() * 2**32 + united["start"].to_numpy()
    owner = np.searchsorted(key, order["rank"].to_numpy() * 2**32 + order["start"].to_numpy(), side="right") - 1
    united["score"] = np.bincount(owner, weights=order["score"].to_numpy(), minlength=len(united))
    return united[["chrom", "start", "end", "score"]]


def _gathered(sources: Sequence[pd.DataFrame], genome: Genome) -> pd.DataFrame:
    """Join sources: the genome's names, scores per million of each group, `rank` of the chromosome."""
    parts = []
    order = {name: i for i, name in enumerate(genome.chrom_sizes)}
    for peaks in sources:
        mapping = harmonise(peaks["chrom"].unique(), genome.chrom_sizes, genome.style)
        share = peaks["score"] / peaks.groupby("group")["score"].transform("sum")
        part = peaks.assign(score=(share * 1e6).round(6))  # rounded: the order of a sum must not decide between equals
        part = part[part["chrom"].isin(mapping)]
        part["chrom"] = part["chrom"].map(mapping)
        part["rank"] = part["chrom"].map(order)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _usable(peaks: pd.DataFrame, genome: Genome) -> pd.DataFrame:
    """Leave out mitochondrial peaks, those past the ends and those that overlap the blacklist."""
    length = peaks["chrom"].map(genome.chrom_sizes)
    keep = ((peaks["start"] >= 0) & (peaks["end"] <= length) & ~peaks["chrom"].map(genome.mitochondrial)).to_numpy(bool)
    if genome.blacklist is not None:
        for name, group in peaks.groupby("chrom", sort=False):
            black = genome.blacklist[genome.blacklist["chrom"] == name]
            at = np.searchsorted(black["end"].to_numpy(), group["start"].to_numpy(), side="right")
            starts = np.append(black["start"].to_numpy(), np.iinfo(np.int64).max)
            keep[group.index[starts[at] < group["end"].to_numpy()]] = False
    if not keep.any():
        raise InputError(
            f"of {len(peaks)} peaks none lies on the genome's chromosomes, inside them and off the blacklist",
            "there would be no ATAC feature",
            "give peaks, chromosome sizes and blacklist of one assembly",
        )
    return peaks[keep].copy()


def write_peaks(path: str | Path, peaks: pd.DataFrame) -> None:
    """Write peaks as BED of five columns; the name is `chrom:start-end`."""
    with written_whole(path) as temporary, temporary.open("w", newline="\n") as handle:
        for chrom, start, end, score in peaks[["chrom", "start", "end", "score"]].itertuples(index=False):
            handle.write(f"{chrom}\t{start}\t{end}\t{chrom}:{start}-{end}\t{score:.5g}\n")


def read_groups(path: str | Path) -> dict[str, str]:
    """Read {barcode: group} from a TSV of two columns (a header line `barcode ...` is passed over)."""
    groups: dict[str, str] = {}
    for number, line in enumerate(read_text(Path(path)), 1):
        fields = line.split("\t")
        if not line.strip() or (number == 1 and fields[0].lower() == "barcode"):
            continue
        if len(fields) < 2 or not fields[0] or not fields[1].strip():
            raise InputError(
                f"{path}, line {number}: {line!r} is not a barcode and its group, separated by a tab",
                "the cell's group is not known",
                "give two columns: barcode, group",
            )
        if groups.setdefault(fields[0], fields[1].strip()) != fields[1].strip():
            raise InputError(
                f"{path}, line {number}: barcode {fields[0]!r} is in two groups",
                "its fragments would be called twice",
                "give each cell one group",
            )
    if not groups:
        raise InputError(f"{path} holds no group", "there is nothing to call", "give two columns: barcode, group")
    return groups
