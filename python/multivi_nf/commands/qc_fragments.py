"""`multivi-nf qc-fragments`: quality of every barcode of a fragments file, and the candidate cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from multivi_nf.commands._fragments import Assembly, Listed, genome_options, say, tell_renamed
from multivi_nf.commands._groups import grouped
from multivi_nf.commands._numbers import Finite, Whole
from multivi_nf.commands._outputs import OutputFile, OutputFolder, Step
from multivi_nf.io.outputs import FRAGMENTS

_FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class Asked:
    """Peaks, and floors of candidates."""

    peaks: Path | None
    min_fragments: int | None
    min_tsse: float | None


@dataclass(frozen=True)
class Made:
    """Where results go."""

    kept: Path | None
    output: Path


@click.command(cls=Step)
@click.argument("fragments", type=_FILE)
@genome_options
@grouped(
    "cells",
    Listed,
    click.option("--sample", default="", help="Name of the sample, for the report."),
    click.option(
        "--barcodes", type=_FILE, help="The cells, one barcode a line; without it (and --rna) cells are called."
    ),
    click.option(
        "--rna", type=_FILE, help="RNA matrix of the same cells: its barcodes are the cells, if no --barcodes."
    ),
    click.option("--barcode-map", type=_FILE, help="ATAC barcode, RNA barcode; translates a list of RNA barcodes."),
)
@grouped(
    "asked",
    Asked,
    click.option("--peaks", type=_FILE, help="BED of peaks, to add the fraction of fragments in peaks."),
    click.option("--min-fragments", type=Whole(min=0), help="Least fragments.  [default: 1000 if called, else 0]"),
    click.option("--min-tsse", type=Finite(min=0), help="Least TSS enrichment.  [default: not applied here]"),
)
@grouped(
    "made",
    Made,
    click.option(
        "--kept",
        type=OutputFile("kept"),
        help="File to leave the fragments of the cells in (of all barcodes, if cells are called), for count-peaks and "
        "call-peaks: 8 bytes a fragment, read five times as fast.",
    ),
    click.option(
        "--output",
        type=OutputFolder(FRAGMENTS),
        required=True,
        help="Folder: fragments.tsv.gz, candidates.txt, fragments.json.",
    ),
)
def command(fragments: Path, cells: Listed, asked: Asked, made: Made, assembly: Assembly) -> None:
    """Read FRAGMENTS once: fragments, duplicates, TSS enrichment, blacklist, mitochondria, nucleosomes, overlaps.

    Candidates are the listed cells, or those called from the number of fragments.
    """
    from multivi_nf.fragments import quality
    from multivi_nf.fragments.checks import header_facts, signs
    from multivi_nf.fragments.count import scan
    from multivi_nf.fragments.file_facts import FileFacts
    from multivi_nf.fragments.summary import Settings
    from multivi_nf.inputs.intervals import read_bed

    genome = assembly.load()
    listed = cells.read()
    regions = None if asked.peaks is None else read_bed(asked.peaks)
    found = scan(fragments, genome, barcodes=listed, peaks=regions, kept=made.kept)
    tell_renamed(found.facts.renamed, "fragments")
    if listed and (warning := quality.check_listed(listed, found.table, fragments)):
        say(f"WARNING: {warning}")
    facts = FileFacts()
    header_facts(fragments, facts)
    for warning in signs(found, genome, regions, fragments, facts):
        say(f"WARNING: {warning}")
    if genome.mito and not found.table["n_mito"].any():
        say(
            f"no fragment lies on {genome.mito}: 0 % mitochondrial in all cells; they were left out before, or the "
            "mitochondrion is called otherwise (--mito-contig)"
        )
    floors = asked.min_fragments, asked.min_tsse
    candidates = quality.choose_candidates(found.table, len(listed), *floors)
    summary = quality.summarise(found, candidates, cells.sample, Settings(*floors, len(listed)))
    for warning in summary.warnings:
        say(f"WARNING: {warning}")
    quality.write_quality(made.output, found, candidates, summary)
    say(
        f"{found.facts.fragments} fragments of {len(found.table)} barcodes, {summary.cells_out} candidate cells"
        + (f"; {candidates.absent} listed barcodes have no fragment" if candidates.absent else "")
        + ("" if found.facts.sorted else "; not sorted by position, so overlaps (n_overlap_loci) are not available")
    )
