"""`multivi-nf benchmark-split`: hide parts of a mosaic as the paper's experiments do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.commands._numbers import SEED, Finite, Several, Whole
from multivi_nf.commands._outputs import OutputFolder, Step
from multivi_nf.io.outputs import SPLITS

if TYPE_CHECKING:
    from multivi_nf.benchmark.plan import Wanted

RATES = Several(Finite(min=0, max=100))


@click.command(cls=Step)
@click.argument("mosaic", type=click.Path(path_type=Path))
@click.option("--labels", metavar="COLUMN", help="Column of obs with the cells' types.")
@grouped(
    "wanted",
    "multivi_nf.benchmark.plan:Wanted",
    click.option("--experiments", type=Several(Whole(min=1, max=5)), default="1,2,3,4,5", help="Of the paper's five."),
    click.option(
        "--unpaired-rates", "rates", type=RATES, default="0,25,50,75,90,99", help="Percent of the pairs taken apart."
    ),
    click.option("--seeds", type=Several(SEED), default="0,1,2", help="Of the splits, and of the methods."),
    click.option(
        "--most-types", type=Whole(min=0), default=0, help="Types held out in experiment 4, the largest; 0 is all."
    ),
)
@click.option("--output", type=OutputFolder(SPLITS), required=True, help="Folder of splits, and plan.tsv beside them.")
def command(mosaic: Path, labels: str | None, wanted: Wanted, output: Path) -> None:
    """Write every split of MOSAIC that the experiments ask for, and which method runs on which."""
    from multivi_nf.benchmark.plan import write_plan
    from multivi_nf.mosaic.read import read_mosaic

    plan = write_plan(read_mosaic(mosaic), labels, wanted, output)
    for row in plan.loc[plan["why"] != ""].drop_duplicates("experiment").itertuples():
        click.echo(f"WARNING: experiment {row.experiment} is left out: {row.why}", err=True)
    click.echo(f"{plan.loc[plan['why'] == '', 'folder'].nunique()} splits, {(plan['why'] == '').sum()} runs", err=True)
