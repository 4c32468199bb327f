"""`multivi-nf benchmark-score`: the scores of one method on one split."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._outputs import OutputFolder, Step
from multivi_nf.io.outputs import SCORES


@click.command(cls=Step)
@click.argument("task", type=click.Path(path_type=Path))
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--complete", type=click.Path(path_type=Path), required=True, help="The whole mosaic.")
@click.option("--dataset", required=True, help="Name of the data in the tables.")
@click.option("--output", type=OutputFolder(SCORES), required=True, help="Folder of scores.tsv and panel.json.")
def command(task: Path, result: Path, complete: Path, dataset: str, output: Path) -> None:
    """Score RESULT on TASK against what was hidden; a method that failed gets a row that says why."""
    from multivi_nf.benchmark.runner import scored

    scored(task, result, complete, dataset, output)
