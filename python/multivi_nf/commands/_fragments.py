"""Options and small helpers that the steps on fragments share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from multivi_nf.inputs.genome import SIZES, STYLES, Genome, load_genome

_FILE = click.Path(path_type=Path)


def genome_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --genome, --chrom-sizes, --tss, --gtf, --blacklist, --chrom-style and --mito-contig."""
    for option in (
        click.option("--mito-contig", help="Mitochondrial chromosomes, by commas.  [default: known by their names]"),
        click.option("--chrom-style", type=click.Choice(list(STYLES)), default="auto", help="auto: chr1 equals 1."),
        click.option("--blacklist", type=_FILE, help="BED of regions to leave out."),
        click.option("--gtf", type=_FILE, help="Gene annotation (GTF or GFF3) to take transcription start sites from."),
        click.option("--tss", type=_FILE, help="Transcription start sites as BED."),
        click.option("--chrom-sizes", type=_FILE, help="Names and lengths of chromosomes; wins over --genome."),
        click.option("--genome", help=f"A built-in assembly: {', '.join(SIZES)}."),
    ):
        function = option(function)
    return function


def genome_of(options: dict[str, Any]) -> Genome:
    """Load the genome that the options describe."""
    sources = (options[name] for name in ("genome", "chrom_sizes", "tss", "gtf", "blacklist"))
    genome = load_genome(*sources, chrom_style=options["chrom_style"], mito_contig=options.get("mito_contig"))
    for note in genome.notes:
        say(f"WARNING: {note}")
    return genome


def say(line: str) -> None:
    """Tell the user something on stderr."""
    click.echo(line, err=True)


def tell_renamed(renamed: dict[str, str], what: str) -> None:
    """Say which chromosome names were mapped, since the user did not write them so."""
    if renamed:
        shown = ", ".join(f"{name} → {target}" for name, target in list(renamed.items())[:3])
        more = ", ..." if len(renamed) > 3 else ""
        say(f"{what}: {len(renamed)} chromosome name(s) mapped to the genome's ({shown}{more})")
