"""`multivi-nf preflight`: what can be known of one sample's files in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from multivi_nf.commands._fragments import Assembly, genome_options
from multivi_nf.commands._groups import grouped
from multivi_nf.commands._outputs import OutputFile, Step
from multivi_nf.commands._qc import HASHTAGS, Hashtags
from multivi_nf.inputs.samplesheet import FILE_COLUMNS, Sample
from multivi_nf.io.records import write_record

_FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class Row:
    """A row of the samplesheet: the sample's files, and columns of its cells' own annotation."""

    sample: str
    rna: Path | None
    fragments: Path | None
    atac: Path | None
    protein: Path | None
    h5mu: Path | None
    peaks: Path | None
    barcodes: Path | None
    cells: Path | None
    barcode_map: Path | None
    batch_column: str | None
    sample_column: str | None

    def with_hashtags(self, tags: Hashtags) -> Sample:
        """As check-samplesheet gives it."""
        named = {"batch_column": self.batch_column, "sample_column": self.sample_column}
        paths = {column: getattr(self, column) for column in FILE_COLUMNS if column != "hto"} | {"hto": tags.hto}
        files = {column: None if path is None else str(path) for column, path in paths.items()}
        columns = {column: name for column, name in named.items() if name}
        return Sample(self.sample, self.sample, files, {}, columns, tags.hto_features)


@click.command(name="preflight", cls=Step)
@grouped(
    "row",
    Row,
    click.option("--sample", required=True, help="Name of the sample."),
    click.option("--rna", type=_FILE, help="RNA matrix."),
    click.option("--fragments", type=_FILE, help="Fragments file."),
    click.option("--atac", type=_FILE, help="ATAC matrix."),
    click.option("--protein", type=_FILE, help="Protein matrix."),
    click.option("--h5mu", type=_FILE, help="MuData with the modalities that the options above do not name."),
    click.option("--peaks", type=_FILE, help="The sample's own peaks (BED)."),
    click.option("--barcodes", type=_FILE, help="Its cells, one a line, or a table of them."),
    click.option("--cells", type=_FILE, help="Table of its cells: barcode and any columns, which go to obs."),
    click.option("--batch-column", help="Column of the cells' own annotation that holds their batch."),
    click.option("--sample-column", help="Column of the cells' own annotation that holds their sample."),
    click.option("--barcode-map", type=_FILE, help="ATAC barcode, RNA barcode."),
)
@genome_options
@click.option("--all-peaks", type=_FILE, help="Peaks of the whole run (BED), to compare fragments with.")
@click.option("--reference", type=_FILE, expose_value=False, help="Trained model; compared by check-inputs.")
@grouped("tags", Hashtags, *HASHTAGS)
@click.option("--output", type=OutputFile("json"), required=True, help="JSON with problems, warnings and facts.")
def command(row: Row, assembly: Assembly, all_peaks: Path | None, tags: Hashtags, output: Path) -> None:
    """Check one sample's files; problems go into the JSON (exit code 0), so that all samples' are told together."""
    from multivi_nf.preflight.check import check_sample

    found = check_sample(row.with_hashtags(tags), assembly.load, all_peaks)
    write_record(found, output)
    click.echo(f"{row.sample}: {len(found.problems)} problem(s), {len(found.warnings)} warning(s)", err=True)
    for problem in found.problems:
        click.echo(f"PROBLEM: {problem.what}", err=True)
    for warning in found.warnings:
        click.echo(f"WARNING: {warning}", err=True)
