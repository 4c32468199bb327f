"""`multivi-nf calibrate`: measure on held-out pairs how far the model's error bars can be trusted, and mend them."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._inference import Trained, trained_options
from multivi_nf.commands._numbers import SEED, Whole
from multivi_nf.commands._outputs import OutputPlace, Step
from multivi_nf.io.outputs import CALIBRATION, check_file, check_place


@click.command(cls=Step)
@trained_options
@click.option(
    "--output",
    type=OutputPlace(CALIBRATION),
    help="Folder for calibration.json and the arrays beside it.  [default: MODEL]",
)
@click.option("--samples", type=Whole(min=8), default=40, help="Posterior draws per cell.")
@click.option("--seed", type=SEED, default=0, help="Seed of the posterior draws.")
def command(trained: Trained, output: Path | None, samples: int, seed: int) -> None:
    """Calibrate MODEL on the pairs that `train` set apart (split.tsv); MOSAIC is the one it was trained on.

    Writes calibration.json, support.safetensors and, for imputed peaks, rates.safetensors; `impute` and `differential`
    read them. Fewer than 100 pairs: said, and everything downstream is marked as not calibrated.
    """
    from multivi_nf.held_out.calibrate import calibrate

    place = output or trained.model
    check_place(place, CALIBRATION)
    check_file(place / "calibration.json", "json")
    cells = trained.load()
    calibration = calibrate(cells.model, cells, n_samples=samples, seed=seed)
    calibration.save(place)
    click.echo(calibration.summary(), err=True)
