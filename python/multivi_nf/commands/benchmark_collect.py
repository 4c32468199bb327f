"""`multivi-nf benchmark-collect`: what the pipeline's steps made of one split, as a result like any method's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.commands._outputs import OutputFolder, Step
from multivi_nf.io.outputs import RESULT

FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class Made:
    """What the steps made of the split."""

    embedding: Path
    imputed: tuple[Path, ...]
    contrast: Path | None


@click.command(cls=Step)
@grouped(
    "made",
    Made,
    click.argument("embedding", type=FILE),
    click.option(
        "--imputed", type=FILE, multiple=True, help="Store of imputed cells, MODALITY.*.zarr; may come again."
    ),
    click.option("--contrast", type=FILE, help="Table of the contrast of the type that lacks a modality."),
)
@click.option("--cost", type=FILE, multiple=True, help="Resources of a step that belongs to it; may come again.")
@click.option("--method", default="multivi-nf", help="Name in the tables.")
@click.option("--output", type=OutputFolder(RESULT), required=True, help="Folder of the result.")
def command(made: Made, cost: tuple[Path, ...], method: str, output: Path) -> None:
    """Bring EMBED's, IMPUTE's and DIFFERENTIAL's files of one split into the form of a result."""
    from multivi_nf.benchmark.collect import collect
    from multivi_nf.benchmark.runner import collected

    collected(collect(made.embedding, made.imputed, made.contrast), cost, method, output)
