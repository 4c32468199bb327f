"""`multivi-nf benchmark-page`: all scores in one table and one page."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._numbers import Several
from multivi_nf.commands._outputs import OutputFolder, Step
from multivi_nf.io.outputs import BENCHMARK

FILE = click.Path(path_type=Path)


@click.command(cls=Step)
@click.argument("scores", type=FILE, nargs=-1)
@click.option(
    "--plan",
    "plans",
    type=FILE,
    multiple=True,
    required=True,
    help="plan.tsv: what could run, so that what gave nothing is told.",
)
@click.option("--methods", type=Several(click.STRING), default="all", help="Methods that were asked for, or all.")
@click.option("--dataset", required=True, help="Name of the data in the tables.")
@click.option("--output", type=OutputFolder(BENCHMARK), required=True, help="Folder of scores.tsv and benchmark.html.")
def command(
    scores: tuple[Path, ...], plans: tuple[Path, ...], methods: tuple[str, ...], dataset: str, output: Path
) -> None:
    """Join SCORES (folders of `benchmark-score`) and draw the paper's figures with every method."""
    from multivi_nf.benchmark.page import write_page
    from multivi_nf.benchmark.plan import chosen_methods

    write_page(list(scores), plans, chosen_methods(methods), dataset, output)
