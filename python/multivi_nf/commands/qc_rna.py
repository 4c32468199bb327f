"""`multivi-nf qc-rna`: which cells stay by their RNA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.commands._numbers import SEED, Finite, Whole
from multivi_nf.commands._outputs import Step
from multivi_nf.commands._qc import Result, SampleCells, result_options, sample_options

if TYPE_CHECKING:
    from multivi_nf.qc.rna import RnaRules


@click.command(name="qc-rna", cls=Step)
@click.argument("counts", type=click.Path(path_type=Path))
@sample_options
@grouped(
    "rules",
    "multivi_nf.qc.rna:RnaRules",
    click.option("--min-genes", type=Whole(min=0), default=0, help="Fewest genes a cell."),
    click.option("--min-counts", type=Whole(min=0), default=0, help="Fewest counts a cell."),
    click.option("--max-mito", type=Finite(0, 100), help="Largest mitochondrial percentage.  [default: off]"),
    click.option("--mad", type=Finite(min=0), default=5, help="MADs from the sample's median; 0 = off."),
    click.option(
        "--mito-genes", help="Mitochondrial genes, by commas; a beginning with * too.  [default: by name and id]"
    ),
    click.option(
        "--ambient", type=click.Choice(["none", "soup"]), default="none", help="soup: take ambient counts out."
    ),
    click.option("--ambient-share", type=Finite(0, 0.9), help="Share of ambient counts.  [default: estimated]"),
    click.option("--seed", type=SEED, default=0, help="Of the doublet simulation."),
)
@result_options("rna")
def command(counts: Path, of: SampleCells, rules: RnaRules, result: Result) -> None:
    """Filter the cells of COUNTS (10x .h5, mtx folder, .h5ad) by their RNA and flag doublets."""
    from multivi_nf.counts.given import add_tables
    from multivi_nf.counts.read import read_counts
    from multivi_nf.qc.rna import qc_rna

    cells = add_tables(read_counts(counts, "rna", of.listed()), of.tables, of.sample)
    result.write(qc_rna(cells, of.sample, rules), of)
