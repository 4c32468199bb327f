"""Preflight of a fragments file: everything that can be known of it in seconds, all problems at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.fragments import kernels as k
from multivi_nf.fragments.count import Scan, place_peaks, scan
from multivi_nf.fragments.preview import SampledBlocks
from multivi_nf.fragments.quality import check_listed
from multivi_nf.fragments.reader import DAMAGED, check_complete, damaged, is_bgzf, is_gzip
from multivi_nf.fragments.stream import left_out_text, some
from multivi_nf.inputs.genome import SIZES, Genome, canonical, merge_intervals
from multivi_nf.io.machine import is_passing

WHOLE_BGZF, WHOLE_GZIP = 16 << 20, 32 << 20
"""Files up to these sizes (bytes) are read whole; larger BGZF is sampled, of larger gzip the beginning is read.

What a sample cannot show, the first pass over the whole file looks for (:func:`signs`), so it is not read once more."""

_ASSEMBLIES = {"GRCh38": "hg38", "hg38": "hg38", "GRCh37": "hg19", "hg19": "hg19", "GRCm38": "mm10", "mm10": "mm10",
               "GRCm39": "mm39", "mm39": "mm39"}  # fmt: skip
_ENOUGH = 1000
_TIMES_RANDOM = 1.5


def preflight(
    path: str | Path,
    genome: Genome,
    peaks: pd.DataFrame | None = None,
    *,
    barcodes: Sequence[str] = (),
    chrom_style: str = "auto",
) -> tuple[list[InputError], list[str], dict[str, Any]]:
    """Check a fragments file before anything long is started.

    Parameters
    ----------
    path
        The file.
    genome
        What it will be read against.
    peaks
        The peaks it will be counted on, if known by now.
    barcodes
        Its cells, in the fragments' own barcodes, if known.
    chrom_style
        See :func:`multivi_nf.inputs.genome.harmonise`.

    Returns
    -------
    problems
        What must be mended; the stream would refuse it, or the result would be worthless.
    warnings
        What the user should look at.
    facts
        `size`, `compression`, `read` (`whole` or `sample`), `header`, `reference`, `columns`, `fragments`,
        `barcodes`, `sorted`, `renamed`, `other_chroms`, `left_out`, `frip`, `frip_random`, `tsse`, `listed_found`;
        those known.
    """
    path = Path(path)
    problems: list[InputError] = []
    warnings: list[str] = []
    facts: dict[str, Any] = {}
    try:
        check_complete(path)
    except InputError as problem:
        problems.append(problem)
        if not path.is_file() or path.stat().st_size == 0:
            return problems, warnings, facts
    size = path.stat().st_size
    kind = "bgzf" if is_bgzf(path) else "gzip" if is_gzip(path) else "plain"
    whole = not problems and size <= (WHOLE_BGZF if kind == "bgzf" else WHOLE_GZIP)
    facts.update(size=size, compression=kind, read="whole" if whole else "sample")
    _check_header(path, genome, problems, facts)
    if peaks is not None:
        try:
            place_peaks(peaks, genome, chrom_style)
        except InputError as problem:
            problems.append(problem)
            peaks = None
    try:
        found = scan(
            path, genome, barcodes=barcodes, peaks=peaks, chrom_style=chrom_style, on_progress=lambda n: None,
            blocks=None if whole else SampledBlocks(path),
        )  # fmt: skip
    except InputError as problem:
        problems.append(problem)
    except DAMAGED as error:
        if is_passing(error):
            raise
        problems.append(damaged(path, size, error))
    else:
        _look(found, genome, peaks, barcodes, path, whole, problems, warnings, facts)
    for problem in problems:
        if is_passing(problem):
            raise problem  # a disk that fails is no problem of the file, to be written down and kept
    return problems, warnings, facts


def header_facts(path: Path, facts: dict[str, Any]) -> set[str]:
    """Add what the `#` header says: `header` lines, `primary_contigs`; give the assemblies that it names."""
    try:
        text = next(iter(SampledBlocks(path, places=1, blocks=4, head=1 << 16)), None)
    except DAMAGED as error:
        if is_passing(error):
            raise
        return set()  # said by the pass itself
    if text is None:
        return set()
    lines = text[0][: text[2]].tobytes().decode("ascii", "replace").splitlines()
    header = [line[1:].strip() for line in lines if line.startswith("#")]
    named = {
        assembly
        for line in header
        if line.startswith("reference")
        for name, assembly in _ASSEMBLIES.items()
        if re.search(rf"(?<![A-Za-z0-9]){name}(?![0-9])", line, re.IGNORECASE)
    }
    facts["header"] = len(header)
    facts["primary_contigs"] = [line.partition("=")[2] for line in header if line.startswith("primary_contig=")]
    return named


def _check_header(path: Path, genome: Genome, problems: list[InputError], facts: dict[str, Any]) -> None:
    """Compare the reference that the `#` header names with the assembly that the sizes are of."""
    named = header_facts(path, facts)
    given = _assembly_of(genome.chrom_sizes)
    if len(named) == 1:
        facts["reference"] = named.pop()
        if given is not None and facts["reference"] != given:
            problems.append(
                InputError(
                    f"the header of {path} names the reference {facts['reference']}, the chromosome sizes are those of "
                    f"{given}",
                    "positions of two assemblies do not correspond; every count would be wrong",
                    f"give --genome {facts['reference']}, or the fragments aligned to {given}",
                )
            )


def _assembly_of(sizes: dict[str, int]) -> str | None:
    """Give the built-in assembly that has all these lengths for the names they share, if one has."""
    own = {canonical(name): length for name, length in sizes.items()}
    for assembly, known in SIZES.items():
        shared = [(own[canonical(name)], length) for name, length in known.items() if canonical(name) in own]
        nuclear = [pair for pair in shared if pair[1] > 1_000_000]
        if nuclear and all(a == b for a, b in nuclear):
            return assembly
    return None


def _look(
    found: Scan,
    genome: Genome,
    peaks: pd.DataFrame | None,
    barcodes: Sequence[str],
    path: Path,
    whole: bool,
    problems: list[InputError],
    warnings: list[str],
    facts: dict[str, Any],
) -> None:
    """Judge what a pass found."""
    table, seen = found.table, found.facts
    facts.update(
        columns=seen.columns, fragments=seen.fragments, sorted=seen.sorted, renamed=seen.renamed,
        other_chroms=seen.other_chroms, left_out=seen.left_out, barcodes=int((table["n_fragments"] > 0).sum()),
    )  # fmt: skip
    if seen.renamed:
        pairs = some([f"{name} → {target}" for name, target in seen.renamed.items()])
        warnings.append(f"{path.name}: {len(seen.renamed)} chromosome name(s) will be mapped to the genome's: {pairs}")
    left_out = left_out_text(seen, path.name)
    if left_out:
        warnings.append(left_out)
    if found.peaks_outside:
        warnings.append(outside_text(found.peaks_outside, len(peaks)))
    if not seen.sorted:
        warnings.append(
            f"{path.name} is not sorted by position; it is read as it is, but overlaps of fragments, one of the two "
            "signs of doublets, will not be available (sort -k1,1 -k2,2n)"
        )
    warnings += signs(found, genome, peaks, path, facts, whole=whole)
    if len(barcodes):
        facts["listed"] = len(barcodes)
        facts["listed_found"] = int((table["n_fragments"].to_numpy()[: len(barcodes)] > 0).sum())
        try:
            warning = check_listed(barcodes, table, path)
        except InputError as problem:
            problems.append(problem)
        else:
            if warning:
                warnings.append(warning)


def signs(
    found: Scan, genome: Genome, peaks: pd.DataFrame | None, path: Path, facts: dict[str, Any], *, whole: bool = True
) -> list[str]:
    """Warn of what makes a file look cut, or of another assembly, without being wrong for certain.

    Parameters
    ----------
    found
        A pass with quality, over the whole file or a sample of it.
    facts
        What :func:`header_facts` found; shares in peaks and at transcription starts are added.
    """
    seen = found.facts
    warnings: list[str] = []
    other = sum(seen.other_chroms.values())
    if other > 0.1 * seen.fragments:
        warnings.append(
            f"{path.name}: {other / seen.fragments:.0%} of its fragments lie on chromosomes that the genome does not "
            f"have ({some(seen.other_chroms)}) and will be left out"
        )
    if whole and not seen.ends_with_newline:
        warnings.append(f"{path.name}: the last line has no end; if the file was cut, its last fragment is wrong")
    if whole and facts.get("primary_contigs"):
        met = {canonical(name) for name in [*found.chroms_met, *seen.other_chroms, "Y", "M"]}
        empty = [name for name in facts["primary_contigs"] if canonical(name) not in met]
        if empty:
            warnings.append(f"{path.name}: its header names {some(empty)}, which have no fragment; was the file cut?")
    _look_at_enrichment(found, genome, peaks, int(found.table["n_fragments"].sum()), path, warnings, facts)
    return warnings


def outside_text(outside: int, total: int) -> str:
    """Say how many peaks reach past their chromosome's end."""
    return (
        f"{outside} of {total} peaks reach past the end of their chromosome; of those, what lies inside is counted "
        "(widened peaks of short contigs do so)"
    )


def _look_at_enrichment(
    found: Scan,
    genome: Genome,
    peaks: pd.DataFrame | None,
    n: int,
    path: Path,
    warnings: list[str],
    facts: dict[str, Any],
) -> None:
    """Warn where peaks or TSS hold no more fragments than any other place: wrong assembly, or a failed sample."""
    if peaks is not None and n >= _ENOUGH:
        facts["frip"] = round(float(found.table["n_in_peaks"].sum() / n), 4)
        located, _ = place_peaks(peaks, genome)
        bases = sum(genome.chrom_sizes[name] for name in found.chroms_met if not genome.mitochondrial(name))
        merged = merge_intervals(located[located["chrom"].isin(found.chroms_met)])
        length = float(np.average(np.arange(k.LONGEST + 1), weights=found.sizes))
        inside = (merged["end"] - merged["start"] + length).sum()
        facts["frip_random"] = round(float(min(1.0, inside / max(bases, 1))), 4)
        if facts["frip"] < _TIMES_RANDOM * facts["frip_random"] and facts["frip_random"] < 0.5:
            warnings.append(
                f"{path.name}: {facts['frip']:.1%} of its fragments lie in peaks, {facts['frip_random']:.1%} would by "
                "chance; are the peaks of another assembly or tissue?"
            )
    if found.profile is not None:
        profile = found.profile
        flank = (profile[: k.TSS_FLANK].sum() + profile[-k.TSS_FLANK :].sum()) / (2 * k.TSS_FLANK)
        centre = profile[k.TSS_REACH - k.TSS_CENTRE : k.TSS_REACH + k.TSS_CENTRE + 1].mean()
        if flank * 2 * k.TSS_FLANK >= 100:
            facts["tsse"] = round(float(centre / flank), 3)
            if facts["tsse"] < _TIMES_RANDOM:
                warnings.append(
                    f"{path.name}: cut sites are {facts['tsse']} times as dense at transcription starts as beside "
                    "them, about as by chance; are the starts of another assembly, or did the sample fail?"
                )
