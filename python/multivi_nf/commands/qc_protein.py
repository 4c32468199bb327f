"""`multivi-nf qc-protein`: which cells stay by their protein."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._numbers import SEED, Finite
from multivi_nf.commands._outputs import Step
from multivi_nf.commands._qc import Result, SampleCells, result_options, sample_options


@click.command(name="qc-protein", cls=Step)
@click.argument("counts", type=click.Path(path_type=Path))
@sample_options
@click.option("--mad", type=Finite(min=0), default=5, help="MADs from the sample's median; 0 = off.")
@click.option("--seed", type=SEED, default=0, expose_value=False, help="Taken and not used: nothing is random here.")
@result_options("protein")
def command(counts: Path, of: SampleCells, mad: float, result: Result) -> None:
    """Filter the cells of COUNTS (10x .h5, mtx folder, .h5ad) by their protein; isotype controls are marked."""
    from multivi_nf.counts.given import add_tables
    from multivi_nf.counts.read import read_counts
    from multivi_nf.qc.protein import qc_protein

    cells = add_tables(read_counts(counts, "protein", of.listed()), of.tables, of.sample)
    result.write(qc_protein(cells, of.sample, mad=mad), of)
