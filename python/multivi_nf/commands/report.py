"""`multivi-nf report`: the page of one run."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._outputs import OutputFile, Step
from multivi_nf.io.outputs import check_file


@click.command("report", cls=Step)
@click.argument("outdir", type=click.Path(path_type=Path))
@click.option("--output", type=OutputFile("html"), help="The page; default OUTDIR/report.html.")
def command(outdir: Path, output: Path | None) -> None:
    """Draw the results under OUTDIR on one self-contained HTML page."""
    from multivi_nf.report import write_report

    target = output or outdir / "report.html"
    check_file(target, "html")
    write_report(outdir, target)
    click.echo(f"The report is at {target}", err=True)
