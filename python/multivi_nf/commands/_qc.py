"""What the QC steps tell the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from multivi_nf.qc.checked import Checked


def tell(checked: Checked) -> None:
    """Say how many cells stayed and what each rule removed; warnings and notes go along."""
    summary = checked.summary
    removed = ", ".join(f"{rule['rule']} {rule['removed']}" for rule in summary["rules"] if rule["removed"])
    lost = f" (removed: {removed})" if removed else ""
    click.echo(
        f"{summary['sample']} {summary['modality']}: {summary['cells_out']} of {summary['cells_in']} cells stay{lost}",
        err=True,
    )
    for rule in summary["rules"]:
        if rule["note"] not in ("", "off", "off: not available"):
            click.echo(f"  {rule['rule']} is {rule['note']}", err=True)
    for warning in summary["warnings"]:
        click.echo(f"WARNING: {warning}", err=True)
    for note in summary["notes"]:
        click.echo(f"  {note}", err=True)
