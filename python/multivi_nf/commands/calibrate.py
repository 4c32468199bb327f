"""`multivi-nf calibrate`: measure on held-out pairs how far the model's error bars can be trusted, and mend them."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._numbers import SEED, Whole
from multivi_nf.commands._outputs import OutputPlace, Step
from multivi_nf.io.outputs import check_file


@click.command(cls=Step)
@click.argument("mosaic", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=OutputPlace(),
    help="Folder for calibration.json and the arrays beside it.  [default: MODEL]",
)
@click.option("--samples", type=Whole(min=8), default=40, help="Posterior draws per cell.")
@click.option("--seed", type=SEED, default=0, help="Seed of the posterior draws.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to compute.")
def command(mosaic: Path, model: Path, output: Path | None, samples: int, seed: int, device: str) -> None:
    """Calibrate MODEL on the pairs that `train` set apart (split.tsv); MOSAIC is the one it was trained on.

    Writes calibration.json, support.safetensors and, for imputed peaks, rates.safetensors; `impute` and `differential`
    read them. Fewer than 100 pairs: said, and everything downstream is marked as not calibrated.
    """
    from multivi_nf.commands._inference import load
    from multivi_nf.held_out.calibrate import calibrate

    check_file((output or model) / "calibration.json", "json", "--output")
    cells = load(mosaic, model, device)
    calibration = calibrate(cells.model, cells, n_samples=samples, seed=seed)
    calibration.save(output or model)
    click.echo(calibration.summary(), err=True)
