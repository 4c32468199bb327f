"""`multivi-nf check-samplesheet`: the structure of the sheet and of the contrasts, all problems at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.commands._outputs import OutputFile, Step
from multivi_nf.errors import InputError
from multivi_nf.inputs.contrasts import read_contrasts
from multivi_nf.inputs.samplesheet import read_samplesheet, unknown_columns
from multivi_nf.inputs.schemas import CheckedSheet
from multivi_nf.io.limits import read_bytes
from multivi_nf.io.records import write_record

OWN = ("cluster", "sample", "batch", "modality", "cell_type_by_markers", "out_of_support")
"""Columns that a run makes and --groups may name before they are there."""


def is_quality(column: str | None) -> bool:
    """Tell whether a column is one that quality control makes."""
    return column is not None and column.startswith(("rna_", "atac_", "protein_", "has_"))


@dataclass(frozen=True)
class Places:
    """What relative paths are relative to, and which files are known not to exist."""

    base_dir: str | None
    missing_files: Path | None


@dataclass(frozen=True)
class Columns:
    """Columns of the sheet that parameters of the run name."""

    replicate: str | None
    peak_group: str | None
    labels: str | None
    groups: str | None

    def asked(self) -> dict[str, str]:
        """Those that check-inputs looks for again, when the annotation of .h5ad inputs is known."""
        own = self.groups in OWN or self.groups == f"{self.labels}_transferred" or is_quality(self.groups)
        asked = {"replicate": self.replicate, "labels": self.labels, "groups": None if own else self.groups}
        return {name: column for name, column in asked.items() if column}


@click.command(name="check-samplesheet", cls=Step)
@click.argument("samplesheet", type=click.Path(path_type=Path))
@grouped(
    "places",
    Places,
    click.option("--base-dir", help="Folder or URI that relative paths are relative to [default: the sheet's folder]."),
    click.option(
        "--missing-files",
        type=click.Path(path_type=Path),
        help="Text file: paths known not to exist, one a line, as in the sheet. Without it local files are looked for.",
    ),
)
@click.option("--contrasts", type=click.Path(path_type=Path), help="Table of contrasts (CSV) to check along.")
@grouped(
    "columns",
    Columns,
    click.option("--replicate", help="Column whose values are replicates."),
    click.option("--peak-group", help="Column by whose values peaks are called."),
    click.option("--labels", help="Column of labels to transfer (it may also be in the obs of .h5ad inputs)."),
    click.option("--groups", help="Column that --regulation groups cells by; the run's own (cluster, ...) are known."),
)
@click.option("--output", required=True, type=OutputFile("json"), help="JSON: samples in sheet order, contrasts.")
def command(samplesheet: Path, places: Places, contrasts: Path | None, columns: Columns, output: Path) -> None:
    """Check SAMPLESHEET (CSV) and write what the next steps need of it."""
    missing = None if places.missing_files is None else read_bytes(places.missing_files).decode().splitlines()
    peak_group = {"--peak_group": columns.peak_group} if columns.peak_group else {}
    samples = read_samplesheet(samplesheet, places.base_dir, missing, peak_group)
    named = columns.asked()
    problems: list[InputError] = []
    if not any(sample.annotated for sample in samples):
        options = {f"--{name}": column for name, column in named.items()}
        problems += unknown_columns(samplesheet.name, options, list(samples[0].metadata))
    table = None
    if contrasts is not None:
        try:
            table = read_contrasts(contrasts, samples)
        except InputError as error:
            problems.append(error)
    if problems:
        raise InputError.all_of(problems)
    write_record(CheckedSheet(samples, table, named), output)
    told = (f"{sample.sample} ({'+'.join(sample.modalities) or 'h5mu'})" for sample in samples)
    click.echo(f"{len(samples)} sample(s): " + ", ".join(told))
