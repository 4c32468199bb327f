"""`multivi-nf evaluate`: score a run against the truth of a simulated mosaic, or against labels of real cells."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.commands._outputs import OutputFile, Step
from multivi_nf.errors import InputError
from multivi_nf.evaluation.runs import (
    MOST,
    evaluate_run,
    held_out_cells,
    label_column,
    opened_run,
    too_few_labels,
    truth_labels,
)
from multivi_nf.io.files import written_whole
from multivi_nf.simulate import read_truth

EXISTING = click.Path(path_type=Path)


@dataclass(frozen=True)
class Known:
    """What cells are scored against."""

    truth: Path | None
    labels: str | None


@click.command(cls=Step)
@click.option("--mosaic", type=EXISTING, required=True, help="multivi.h5mu of `multivi-nf embed`.")
@grouped(
    "against",
    Known,
    click.option("--truth", type=EXISTING, help="truth/ of `multivi-nf simulate`."),
    click.option("--labels", help="Column of obs with cell types, where there is no truth."),
)
@click.option("--model", type=EXISTING, help="The run's model/: cells that did not train it are scored apart.")
@click.option("--imputed", type=EXISTING, help="The run's imputed/rna.zarr, scored against the truth.")
@click.option("--output", type=OutputFile("json"), required=True, help="JSON to write.")
def command(mosaic: Path, against: Known, model: Path | None, imputed: Path | None, output: Path) -> None:
    """Print how well cells are clustered, mixed, paired and imputed, and write the same as JSON."""
    truth, labels = against.truth, against.labels
    if (truth is None) == (labels is None):
        raise InputError(
            "--truth and --labels were both given" if truth else "neither --truth nor --labels was given",
            "cells are scored against one set of cell types",
            "give --truth DIR for a simulated mosaic, or --labels COLUMN for one whose types are known",
        )
    for option, path in (("--mosaic", mosaic), ("--model", model), ("--imputed", imputed)):
        if path is not None and not path.exists():
            raise InputError(
                f"{option} {path} does not exist", "there is nothing to score", "give the run's own output"
            )
    known = None if truth is None else read_truth(truth)
    with opened_run(mosaic, imputed) as (data, values):
        kinds = label_column(data, str(labels)) if known is None else truth_labels(data, known)
        unscored = too_few_labels(data, kinds)
        scores = evaluate_run(data, kinds, truth=known, held_out=held_out_cells(model), imputed=values)
    most = f", at most {MOST:,} a score" if len(kinds) > MOST else ""
    click.echo(f"{len(kinds):,} of {data.n_obs:,} cells scored{most}")
    for score in scores:
        click.echo(score.line())
    for line in unscored:
        click.echo(f"not scored: {line}")
    with written_whole(output) as temporary:
        content = {"cells": data.n_obs, "scored": len(kinds), "scores": [asdict(score) for score in scores]}
        content |= {"not_scored": unscored}
        temporary.write_text(json.dumps(content, indent=1) + "\n")
