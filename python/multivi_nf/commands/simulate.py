"""`multivi-nf simulate`: write a mosaic with known truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.commands._numbers import SEED, Whole
from multivi_nf.commands._outputs import OutputFolder, Step
from multivi_nf.simulate import PRESETS, simulate


@dataclass(frozen=True)
class Sizes:
    """What the preset's are replaced by, where given."""

    cells: int | None
    genes: int | None
    peaks: int | None
    proteins: int | None
    fragments: bool
    regulation: bool
    seed: int


@click.command(cls=Step)
@click.option("--outdir", type=OutputFolder(None), required=True, help="A folder to make.")
@click.option("--preset", type=click.Choice(list(PRESETS)), default="default", help="Sizes to start from.")
@grouped(
    "sizes",
    Sizes,
    click.option("--cells", type=Whole(), help="Cells over all seven samples."),
    click.option("--genes", type=Whole(), help="Genes, five mitochondrial ones included."),
    click.option("--peaks", type=Whole(), help="Peaks; the toy genome has 4,000 bases for each."),
    click.option("--proteins", type=Whole(), help="Surface proteins, two isotype controls included."),
    click.option(
        "--fragments/--no-fragments",
        default=True,
        help="Write fragments, or a 10x h5 of peaks for each sample (faster).",
    ),
    click.option(
        "--regulation", is_flag=True, help="Plant links and factors; write the genome's sequence and the motifs."
    ),
    click.option("--seed", type=SEED, default=0, help="The same seed and sizes give the same bytes."),
)
def command(outdir: Path, preset: str, sizes: Sizes) -> None:
    """Simulate paired and unpaired cells: samplesheet.csv, inputs as real tools write them, genome/ and truth/."""
    options = PRESETS[preset].resized(**vars(sizes))
    samplesheet = simulate(options, outdir, say=lambda line: click.echo(line, err=True))
    click.echo(samplesheet)
