"""`multivi-nf benchmark-run`: one of the package's own methods on one split."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._outputs import OutputFolder, Step
from multivi_nf.io.outputs import RESULT


@click.command(cls=Step)
@click.argument("method")
@click.argument("task", type=click.Path(path_type=Path))
@click.option("--complete", type=click.Path(path_type=Path), help="The whole mosaic; only `ceiling` looks at it.")
@click.option("--output", type=OutputFolder(RESULT), required=True, help="Folder of the result.")
def command(method: str, task: Path, complete: Path | None, output: Path) -> None:
    """Run METHOD (ridge, pca-knn, depth, ceiling, cobolt) on TASK."""
    from multivi_nf.benchmark.runner import run

    told = run(method, task, complete, output)
    if told:
        click.echo(f"WARNING: {method}: {told}", err=True)
