"""`multivi-nf check-samplesheet`: the structure of the sheet and of the contrasts, all problems at once."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from multivi_nf.commands._outputs import OutputFile, Step
from multivi_nf.errors import InputError
from multivi_nf.inputs.contrasts import read_contrasts
from multivi_nf.inputs.samplesheet import read_samplesheet
from multivi_nf.io.files import written_whole
from multivi_nf.io.limits import read_bytes

OWN = ("cluster", "sample", "batch", "modality", "cell_type_by_markers", "out_of_support")
"""Columns that a run makes and --groups may name before they are there."""


def is_quality(column: str | None) -> bool:
    """Tell whether a column is one that quality control makes."""
    return column is not None and column.startswith(("rna_", "atac_", "protein_", "has_"))


@click.command(name="check-samplesheet", cls=Step)
@click.argument("samplesheet", type=click.Path(path_type=Path))
@click.option("--base-dir", help="Folder or URI that relative paths are relative to [default: the sheet's folder].")
@click.option(
    "--missing-files",
    type=click.Path(path_type=Path),
    help="Text file: paths known not to exist, one a line, as in the sheet. Without it local files are looked for.",
)
@click.option("--contrasts", type=click.Path(path_type=Path), help="Table of contrasts (CSV) to check along.")
@click.option("--replicate", help="Column whose values are replicates.")
@click.option("--peak-group", help="Column by whose values peaks are called.")
@click.option("--labels", help="Column of labels to transfer (it may also be in the obs of .h5ad inputs).")
@click.option("--groups", help="Column that --regulation groups cells by; the run's own (cluster, ...) are known.")
@click.option("--output", required=True, type=OutputFile("json"), help="JSON: samples in sheet order, contrasts.")
def command(
    samplesheet: Path,
    base_dir: str | None,
    missing_files: Path | None,
    contrasts: Path | None,
    replicate: str | None,
    peak_group: str | None,
    labels: str | None,
    groups: str | None,
    output: Path,
) -> None:
    """Check SAMPLESHEET (CSV) and write what the next steps need of it."""
    missing = None if missing_files is None else read_bytes(missing_files).decode().splitlines()
    # labels, and replicates that are not in the sheet, may be annotation inside .h5ad inputs: check-inputs looks there
    columns = [column for column in (peak_group,) if column]
    samples = read_samplesheet(samplesheet, base_dir, missing, columns)
    annotated = any(sample.annotated for sample in samples)
    groups = None if groups in OWN or groups == f"{labels}_transferred" or is_quality(groups) else groups
    asked = {"replicate": replicate, "labels": labels, "groups": groups}
    problems = []
    for option, column in ((f"--{name}", column) for name, column in asked.items()):
        if column and not annotated:
            try:
                read_samplesheet(samplesheet, base_dir, missing, [column])
            except InputError as error:
                problems.append(InputError(error.what.replace("a parameter", option), error.why, error.remedy))
    table = None
    if contrasts is not None:
        try:
            table = [asdict(row) for row in read_contrasts(contrasts, samples)]
        except InputError as error:
            problems.append(error)
    if problems:
        raise InputError.all_of(problems)
    # check-inputs looks for these columns again, when the annotation of .h5ad inputs is known
    named = {name: column for name, column in asked.items() if column}
    content = {"samples": [sample.to_json() for sample in samples], "contrasts": table, "columns": named}
    with written_whole(output) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    told = (f"{sample.sample} ({'+'.join(sample.modalities) or 'h5mu'})" for sample in samples)
    click.echo(f"{len(samples)} sample(s): " + ", ".join(told))
