"""`multivi-nf preflight`: what can be known of one sample's files in seconds."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._fragments import Assembly, genome_options
from multivi_nf.commands._outputs import OutputFile, Step
from multivi_nf.commands._qc import hashtag_options
from multivi_nf.inputs.samplesheet import Sample
from multivi_nf.io.records import write_record

_FILE = click.Path(path_type=Path)


@click.command(name="preflight", cls=Step)
@click.option("--sample", required=True, help="Name of the sample.")
@click.option("--rna", type=_FILE, help="RNA matrix.")
@click.option("--fragments", type=_FILE, help="Fragments file.")
@click.option("--atac", type=_FILE, help="ATAC matrix.")
@click.option("--protein", type=_FILE, help="Protein matrix.")
@click.option("--h5mu", type=_FILE, help="MuData with the modalities that the options above do not name.")
@click.option("--peaks", type=_FILE, help="The sample's own peaks (BED).")
@click.option("--barcodes", type=_FILE, help="Its cells, one a line, or a table of them.")
@click.option("--cells", type=_FILE, help="Table of its cells: barcode and any columns, which go to obs.")
@click.option("--batch-column", help="Column of the cells' own annotation that holds their batch.")
@click.option("--sample-column", help="Column of the cells' own annotation that holds their sample.")
@click.option("--barcode-map", type=_FILE, help="ATAC barcode, RNA barcode.")
@genome_options
@click.option("--all-peaks", type=_FILE, help="Peaks of the whole run (BED), to compare fragments with.")
@click.option("--reference", type=_FILE, expose_value=False, help="Trained model; compared by check-inputs.")
@hashtag_options
@click.option("--output", type=OutputFile("json"), required=True, help="JSON with problems, warnings and facts.")
def command(
    sample: str,
    rna: Path | None,
    fragments: Path | None,
    atac: Path | None,
    protein: Path | None,
    h5mu: Path | None,
    peaks: Path | None,
    barcodes: Path | None,
    cells: Path | None,
    batch_column: str | None,
    sample_column: str | None,
    barcode_map: Path | None,
    all_peaks: Path | None,
    hto: Path | None,
    hto_features: str,
    output: Path,
    assembly: Assembly,
) -> None:
    """Check one sample's files; problems go into the JSON (exit code 0), so that all samples' are told together."""
    from multivi_nf.preflight.check import check_sample

    files = {
        "rna": rna, "fragments": fragments, "atac": atac, "protein": protein, "h5mu": h5mu, "peaks": peaks,
        "barcodes": barcodes, "barcode_map": barcode_map, "cells": cells, "hto": hto,
    }  # fmt: skip
    naming = {"batch_column": batch_column, "sample_column": sample_column}
    row = Sample(
        sample,
        sample,
        {column: None if path is None else str(path) for column, path in files.items()},
        {},
        {column: name for column, name in naming.items() if name},
        hto_features,
    )
    found = check_sample(row, assembly.load, all_peaks)
    write_record(found, output)
    click.echo(f"{sample}: {len(found.problems)} problem(s), {len(found.warnings)} warning(s)", err=True)
    for problem in found.problems:
        click.echo(f"PROBLEM: {problem.what}", err=True)
    for warning in found.warnings:
        click.echo(f"WARNING: {warning}", err=True)
