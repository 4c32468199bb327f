"""`multivi-nf controls`: what chance gives on the user's own data, beside what the run found."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._inference import Trained, trained_options
from multivi_nf.commands._numbers import SEED
from multivi_nf.commands._outputs import OutputFile, Step


@click.command(cls=Step)
@trained_options
@click.option("--groupby", metavar="COLUMN", default="cluster", help="Column of obs whose groups are permuted.")
@click.option("--output", type=OutputFile("tsv"), required=True, help="Table to write (.tsv).")
@click.option("--seed", type=SEED, default=0, help="Of permutations and short runs.")
def command(trained: Trained, groupby: str, output: Path, seed: int) -> None:
    """Train short runs with pairs as they are and shuffled, permute groups, and compare with MODEL.

    MOSAIC is the multivi.h5mu that `embed` wrote. Each short run takes a quarter of the model's epochs (20 at least).
    """
    from multivi_nf.calibration.stored import Calibration
    from multivi_nf.evaluation.run_controls import run_controls
    from multivi_nf.io.tables import write_table
    from multivi_nf.mosaic.read import read_mosaic

    model = trained.load_model()
    table = run_controls(
        model,
        read_mosaic(trained.mosaic),
        Calibration.load(trained.model, model),
        groupby=groupby,
        seed=seed,
        device=trained.device,
        say=lambda line: click.echo(line, err=True),
    )
    write_table(table, output)
    for row in table.to_dict("records"):
        click.echo(f"{row['measure']}: {row['result']:.3g}, with {row['control']} {row['chance']:.3g}", err=True)
