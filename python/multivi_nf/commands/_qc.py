"""What the QC steps share: a sample's cells, where its QC goes, what the user is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from multivi_nf.commands._groups import Decorator, grouped
from multivi_nf.commands._outputs import OutputFile, OutputPlace
from multivi_nf.io.outputs import files_of

if TYPE_CHECKING:
    from multivi_nf.qc.checked import Checked

_FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class SampleCells:
    """A sample, and what names its cells."""

    sample: str
    barcodes: Path | None
    cells: Path | None

    def listed(self) -> list[str] | None:
        """Barcodes of its cells, None where no list is given."""
        from multivi_nf.inputs.barcodes import read_barcodes

        return None if self.barcodes is None else read_barcodes(self.barcodes)

    @property
    def tables(self) -> list[Path | None]:
        """Files whose columns go to obs."""
        return [self.barcodes, self.cells]


SAMPLE = click.option("--sample", required=True, help="Name of the sample.")
BARCODES = click.option("--barcodes", type=_FILE, help="Its cells, one a line; needed for unfiltered matrices.")
CELLS = click.option("--cells", type=_FILE, help="Table of its cells: barcode and any columns, which go to obs.")
sample_options = grouped("of", SampleCells, SAMPLE, BARCODES, CELLS)
"""Add --sample, --barcodes and --cells: `of`."""


@dataclass(frozen=True)
class Hashtags:
    """Matrix with a sample's hashtags, and their names."""

    hto: Path | None
    hto_features: str


HASHTAGS = (
    click.option("--hto", type=_FILE, help="Matrix that holds the hashtags of its cells."),
    click.option(
        "--hto-features", default="", help="Names of the hashtags in --hto, by ; or a vertical bar.  [default: known]"
    ),
)


@dataclass(frozen=True)
class Result(Hashtags):
    """Where kept cells and the QC of a sample go."""

    output: Path
    qc: Path

    def write(self, checked: Checked, of: SampleCells) -> None:
        """Tell cells apart by their hashtags, if there are any; write both, and tell."""
        from multivi_nf.qc.checked import write_checked

        if self.hto is not None:
            from multivi_nf.counts.hashtags import read_hashtags, tag_names
            from multivi_nf.qc.hashtags import add_hashtags, demultiplex

            listed = of.listed()
            cells = checked.table.index.tolist() if listed is None else listed
            tags = read_hashtags(self.hto, cells, tag_names(self.hto_features))
            add_hashtags(checked, demultiplex(tags, of.sample))
        write_checked(checked, self.output, self.qc)
        tell(checked)


def result_options(modality: str) -> Decorator:
    """Add --hto, --hto-features, --output and --qc: `result`."""
    return grouped(
        "result",
        Result,
        *HASHTAGS,
        click.option("--output", type=OutputFile("hdf5"), required=True, help="Kept cells (.h5ad)."),
        click.option(
            "--qc",
            type=OutputPlace(files_of(f"qc-{modality}", rf"{modality}\.(tsv\.gz|json)")),
            required=True,
            help=f"Folder for {modality}.tsv.gz and {modality}.json.",
        ),
    )


def tell(checked: Checked) -> None:
    """Say how many cells stayed and what each rule removed; warnings and notes go along."""
    summary = checked.summary
    removed = ", ".join(f"{rule.rule} {rule.removed}" for rule in summary.rules if rule.removed)
    lost = f" (removed: {removed})" if removed else ""
    click.echo(
        f"{summary.sample} {summary.modality}: {summary.cells_out} of {summary.cells_in} cells stay{lost}",
        err=True,
    )
    for rule in summary.rules:
        if rule.note not in ("", "off", "off: not available"):
            click.echo(f"  {rule.rule} is {rule.note}", err=True)
    for warning in summary.warnings:
        click.echo(f"WARNING: {warning}", err=True)
    for note in summary.notes:
        click.echo(f"  {note}", err=True)
