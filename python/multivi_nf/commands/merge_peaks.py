"""`multivi-nf merge-peaks`: one set of peaks for all samples."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._fragments import Assembly, genome_options, say
from multivi_nf.commands._numbers import Whole
from multivi_nf.commands._outputs import OutputFile, Step

_FILE = click.Path(path_type=Path)


@click.command(cls=Step)
@click.argument("beds", type=_FILE, nargs=-1, required=True)
@genome_options
@click.option("--width", type=Whole(), default=501, help="Width of every peak, odd.")
@click.option("--union", is_flag=True, help="Keep the peaks' own extents and unite overlapping ones instead.")
@click.option("--output", type=OutputFile("bed"), required=True, help="BED of the consensus.")
def command(beds: tuple[Path, ...], width: int, union: bool, output: Path, assembly: Assembly) -> None:
    """Merge the peaks or summits of BEDS: fixed width, the best score first, no two overlapping."""
    from multivi_nf.peaks import merge_peaks, read_summits, unite_peaks, write_peaks

    genome = assembly.load()
    sources = [read_summits(path) for path in beds]
    if union:
        merged = unite_peaks(sources, genome)
    else:
        merged = merge_peaks(sources, genome, width=width)
    write_peaks(output, merged)
    say(f"{sum(map(len, sources))} peaks of {len(beds)} file(s) → {len(merged)}")
