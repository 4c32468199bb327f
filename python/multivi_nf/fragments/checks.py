"""Preflight of a fragments file: everything that can be known of it in seconds, all problems at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.fragments import kernels as k
from multivi_nf.fragments.count import Scan, place_peaks, scan
from multivi_nf.fragments.file_facts import FileFacts
from multivi_nf.fragments.names import some
from multivi_nf.fragments.preview import SampledBlocks
from multivi_nf.fragments.quality import check_listed
from multivi_nf.fragments.reader import DAMAGED, check_complete, damaged, is_bgzf, is_gzip
from multivi_nf.fragments.stream import left_out_text
from multivi_nf.inputs.chromosomes import SIZES, canonical
from multivi_nf.inputs.genome import Genome
from multivi_nf.inputs.intervals import merge_intervals
from multivi_nf.io.machine import is_passing

WHOLE_BGZF, WHOLE_GZIP = 16 << 20, 32 << 20
"""Files up to these sizes (bytes) are read whole; larger BGZF is sampled, of larger gzip the beginning is read.

What a sample cannot show, the first pass over the whole file looks for (:func:`signs`), so it is not read once more."""

_ASSEMBLIES = dict(
    pair.split("=")
    for pair in ("GRCh38=hg38 hg38=hg38 GRCh37=hg19 hg19=hg19 GRCm38=mm10 mm10=mm10 GRCm39=mm39 mm39=mm39").split()
)
_ENOUGH = 1000
_TIMES_RANDOM = 1.5


def preflight(
    path: str | Path, genome: Genome, peaks: pd.DataFrame | None = None, *, barcodes: Sequence[str] = ()
) -> tuple[list[InputError], list[str], FileFacts]:
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

    Returns
    -------
    problems
        What must be mended; the stream would refuse it, or the result would be worthless.
    warnings
        What the user should look at.
    facts
        What is known of it.
    """
    path = Path(path)
    problems: list[InputError] = []
    warnings: list[str] = []
    facts = FileFacts()
    try:
        check_complete(path)
    except InputError as problem:
        problems.append(problem)
        if not path.is_file() or path.stat().st_size == 0:
            return problems, warnings, facts
    facts.size = path.stat().st_size
    facts.compression = "bgzf" if is_bgzf(path) else "gzip" if is_gzip(path) else "plain"
    whole = not problems and facts.size <= (WHOLE_BGZF if facts.compression == "bgzf" else WHOLE_GZIP)
    facts.read = "whole" if whole else "sample"
    problems += _check_header(path, genome, facts)
    try:
        if peaks is not None:
            place_peaks(peaks, genome)
    except InputError as problem:
        problems.append(problem)
        peaks = None
    try:
        blocks = None if whole else SampledBlocks(path)
        found = scan(path, genome, barcodes=barcodes, peaks=peaks, on_progress=lambda _n: None, blocks=blocks)
        warnings += _told(found, path, peaks, facts)
        warnings += signs(found, genome, peaks, path, facts)
        warnings += _listed(found, path, barcodes, facts)
    except InputError as problem:
        problems.append(problem)
    except DAMAGED as error:
        if is_passing(error):
            raise
        problems.append(damaged(path, facts.size, error))
    for one in problems:
        if is_passing(one):
            raise one  # a disk that fails is no problem of the file, to be written down and kept
    return problems, warnings, facts


def header_facts(path: Path, facts: FileFacts) -> set[str]:
    """Add what the `#` header says: its number of lines, primary contigs; give the assemblies that it names."""
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
    facts.header = len(header)
    facts.primary_contigs = [line.partition("=")[2] for line in header if line.startswith("primary_contig=")]
    return named


def _check_header(path: Path, genome: Genome, facts: FileFacts) -> list[InputError]:
    """Compare the reference that the `#` header names with the assembly that the sizes are of."""
    named = header_facts(path, facts)
    given = _assembly_of(genome.chrom_sizes)
    if len(named) != 1:
        return []
    facts.reference = named.pop()
    if given is None or facts.reference == given:
        return []
    return [
        InputError(
            f"the header of {path} names the reference {facts.reference}, the chromosome sizes are those of {given}",
            "positions of two assemblies do not correspond; every count would be wrong",
            f"give --genome {facts.reference}, or the fragments aligned to {given}",
        )
    ]


def _assembly_of(sizes: dict[str, int]) -> str | None:
    """Give the built-in assembly that has all these lengths for the names they share, if one has."""
    own = {canonical(name): length for name, length in sizes.items()}
    for assembly, known in SIZES.items():
        shared = [(own[canonical(name)], length) for name, length in known.items() if canonical(name) in own]
        nuclear = [pair for pair in shared if pair[1] > 1_000_000]
        if nuclear and all(a == b for a, b in nuclear):
            return assembly
    return None


def _told(found: Scan, path: Path, peaks: pd.DataFrame | None, facts: FileFacts) -> list[str]:
    """Take over what a pass found, and warn of what was done otherwise than the file says."""
    seen = found.facts
    facts.columns, facts.fragments, facts.sorted = seen.columns, seen.fragments, seen.sorted
    facts.renamed, facts.other_chroms, facts.left_out = seen.renamed, seen.other_chroms, seen.left_out
    facts.barcodes = int((found.table["n_fragments"] > 0).sum())
    warnings = []
    if seen.renamed:
        pairs = some([f"{name} → {target}" for name, target in seen.renamed.items()])
        warnings.append(f"{path.name}: {len(seen.renamed)} chromosome name(s) will be mapped to the genome's: {pairs}")
    left_out = left_out_text(seen, path.name)
    if left_out:
        warnings.append(left_out)
    if found.peaks_outside and peaks is not None:
        warnings.append(outside_text(found.peaks_outside, len(peaks)))
    if not seen.sorted:
        warnings.append(
            f"{path.name} is not sorted by position; it is read as it is, but overlaps of fragments, one of the two "
            "signs of doublets, will not be available (sort -k1,1 -k2,2n)"
        )
    return warnings


def _listed(found: Scan, path: Path, barcodes: Sequence[str], facts: FileFacts) -> list[str]:
    if not len(barcodes):
        return []
    facts.listed = len(barcodes)
    facts.listed_found = int((found.table["n_fragments"].to_numpy()[: len(barcodes)] > 0).sum())
    warning = check_listed(barcodes, found.table, path)
    return [warning] if warning else []


def signs(found: Scan, genome: Genome, peaks: pd.DataFrame | None, path: Path, facts: FileFacts) -> list[str]:
    """Warn of what makes a file look cut, or of another assembly, without being wrong for certain.

    Parameters
    ----------
    found
        A pass with quality, over the whole file or, where `facts.read` says so, a sample of it.
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
    if facts.read != "sample" and not seen.ends_with_newline:
        warnings.append(f"{path.name}: the last line has no end; if the file was cut, its last fragment is wrong")
    if facts.read != "sample" and facts.primary_contigs:
        met = {canonical(name) for name in [*found.chroms_met, *seen.other_chroms, "Y", "M"]}
        empty = [name for name in facts.primary_contigs if canonical(name) not in met]
        if empty:
            warnings.append(f"{path.name}: its header names {some(empty)}, which have no fragment; was the file cut?")
    if peaks is not None and found.table["n_fragments"].sum() >= _ENOUGH:
        warnings += _in_peaks(found, genome, peaks, path, facts)
    if found.profile is not None:
        warnings += _at_starts(found.profile, path, facts)
    return warnings


def outside_text(outside: int, total: int) -> str:
    """Say how many peaks reach past their chromosome's end."""
    return (
        f"{outside} of {total} peaks reach past the end of their chromosome; of those, what lies inside is counted "
        "(widened peaks of short contigs do so)"
    )


def _in_peaks(found: Scan, genome: Genome, peaks: pd.DataFrame, path: Path, facts: FileFacts) -> list[str]:
    """Warn where peaks hold no more fragments than any other place: wrong assembly, or a failed sample."""
    facts.frip = round(float(found.table["n_in_peaks"].sum() / int(found.table["n_fragments"].sum())), 4)
    located, _ = place_peaks(peaks, genome)
    bases = sum(genome.chrom_sizes[name] for name in found.chroms_met if not genome.mitochondrial(name))
    merged = merge_intervals(located[located["chrom"].isin(found.chroms_met)])
    length = float(np.average(np.arange(k.LONGEST + 1), weights=found.sizes))
    inside = (merged["end"] - merged["start"] + length).sum()
    facts.frip_random = round(float(min(1.0, inside / max(bases, 1))), 4)
    if facts.frip >= _TIMES_RANDOM * facts.frip_random or facts.frip_random >= 0.5:
        return []
    return [
        f"{path.name}: {facts.frip:.1%} of its fragments lie in peaks, {facts.frip_random:.1%} would by chance; are "
        "the peaks of another assembly or tissue?"
    ]


def _at_starts(profile: np.ndarray, path: Path, facts: FileFacts) -> list[str]:
    """Warn where cut sites are no denser at transcription starts than beside them."""
    flank = (profile[: k.TSS_FLANK].sum() + profile[-k.TSS_FLANK :].sum()) / (2 * k.TSS_FLANK)
    centre = profile[k.TSS_REACH - k.TSS_CENTRE : k.TSS_REACH + k.TSS_CENTRE + 1].mean()
    if flank * 2 * k.TSS_FLANK < 100:
        return []
    facts.tsse = round(float(centre / flank), 3)
    if facts.tsse >= _TIMES_RANDOM:
        return []
    return [
        f"{path.name}: cut sites are {facts.tsse} times as dense at transcription starts as beside them, about as by "
        "chance; are the starts of another assembly, or did the sample fail?"
    ]
