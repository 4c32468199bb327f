"""What the QC steps tell the user."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from multivi_nf.qc.checked import Checked


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


def hashtag_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --hto and --hto-features."""
    for option in (
        click.option(
            "--hto-features",
            default="",
            help="Names of the hashtags in --hto, by ; or a vertical bar.  [default: known]",
        ),
        click.option("--hto", type=click.Path(path_type=Path), help="Matrix that holds the hashtags of its cells."),
    ):
        function = option(function)
    return function


def tell_hashtags(checked: Checked, hto: Path | None, features: str, barcodes: Path | None, sample: str) -> None:
    """Tell cells apart by their hashtags, if the sample has any; columns go into its QC."""
    if hto is None:
        return
    from multivi_nf.counts.hashtags import read_hashtags, tag_names
    from multivi_nf.inputs.barcodes import read_barcodes
    from multivi_nf.qc.hashtags import add_hashtags, demultiplex

    cells = checked.table.index.tolist() if barcodes is None else read_barcodes(barcodes)
    add_hashtags(checked, demultiplex(read_hashtags(hto, cells, tag_names(features)), sample))
