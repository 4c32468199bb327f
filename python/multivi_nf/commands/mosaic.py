"""`multivi-nf mosaic`: joins the QC'd cells of all samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.commands._numbers import SEED, Finite, Whole
from multivi_nf.commands._outputs import OutputFile, Step

if TYPE_CHECKING:
    from multivi_nf.mosaic.build import MosaicRules

_FILE = click.Path(path_type=Path)


@click.command(name="mosaic", cls=Step)
@click.option("--samples", type=_FILE, required=True, help="samples.json of check-samplesheet.")
@click.option(
    "--inputs", type=_FILE, multiple=True, required=True, help="S.<modality>.h5ad of QC; give it once a file."
)
@click.argument("more_inputs", type=_FILE, nargs=-1)
@grouped(
    "rules",
    "multivi_nf.mosaic.build:MosaicRules",
    click.option("--min-cells-fraction", type=Finite(0, 1), default=0.01, help="Of the cells with the modality."),
    click.option("--min-shared-genes", type=Finite(0, 1), default=0.5, help="Of the smallest sample's genes."),
    click.option(
        "--n-top-genes", type=Whole(min=0), default=0, help="Variable genes that the RNA encoder sees; 0 = all."
    ),
    click.option(
        "--partial-cells",
        type=click.Choice(["drop", "keep"]),
        default="drop",
        help="Cells that one modality holds and fails.",
    ),
    click.option("--remove-doublets/--keep-doublets", default=False, help="Drop the cells that are flagged."),
    click.option("--reference", type=_FILE, help="Trained model whose features are taken."),
    click.option(
        "--feature-aliases", "aliases", type=_FILE, help="Two columns: a name in the data, the name that is meant."
    ),
    click.option("--seed", type=SEED, default=0, help="Recorded with the result; nothing here is random."),
)
@click.option("--output", type=OutputFile("hdf5"), required=True, help="mosaic.h5mu.")
def command(
    samples: Path, inputs: tuple[Path, ...], more_inputs: tuple[Path, ...], rules: MosaicRules, output: Path
) -> None:
    """Join all cells by sample and barcode; a cell is absent from a modality that it was not measured in."""
    from multivi_nf.inputs.samplesheet import read_samples_json
    from multivi_nf.mosaic.build import build_mosaic

    record = build_mosaic(
        [*inputs, *more_inputs], read_samples_json(samples), output, rules, lambda line: click.echo(line, err=True)
    )
    for row in record.samples:
        click.echo(f"{row.sample}: " + json.dumps(row.cells), err=True)
    for modality, numbers in record.features.items():
        click.echo(f"{modality}: {numbers['cells']} cells × {numbers['kept']} features", err=True)
    for warning in record.warnings:
        click.echo(f"WARNING: {warning}", err=True)
    for note in record.notes:
        click.echo(f"  {note}", err=True)
