"""`multivi-nf qc-rna`: which cells stay by their RNA."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from multivi_nf.commands._numbers import SEED, Finite, Whole
from multivi_nf.commands._outputs import OutputFile, OutputPlace, Step
from multivi_nf.commands._qc import hashtag_options

_FILE = click.Path(path_type=Path)


@click.command(name="qc-rna", cls=Step)
@click.argument("counts", type=_FILE)
@click.option("--sample", required=True, help="Name of the sample.")
@click.option("--barcodes", type=_FILE, help="Its cells, one a line; needed for unfiltered matrices.")
@click.option("--cells", type=_FILE, help="Table of its cells: barcode and any columns, which go to obs.")
@click.option("--min-genes", type=Whole(min=0), default=0, help="Fewest genes a cell.")
@click.option("--min-counts", type=Whole(min=0), default=0, help="Fewest counts a cell.")
@click.option("--max-mito", type=Finite(0, 100), help="Largest mitochondrial percentage.  [default: off]")
@click.option("--mad", type=Finite(min=0), default=5, help="MADs from the sample's median; 0 = off.")
@click.option("--mito-genes", help="Mitochondrial genes, by commas; a beginning with * too.  [default: by name and id]")
@click.option("--ambient", type=click.Choice(["none", "soup"]), default="none", help="soup: take ambient counts out.")
@click.option("--ambient-share", type=Finite(0, 0.9), help="Share of ambient counts.  [default: estimated]")
@click.option("--seed", type=SEED, default=0, help="Of the doublet simulation.")
@hashtag_options
@click.option("--output", type=OutputFile("hdf5"), required=True, help="Kept cells (.h5ad).")
@click.option("--qc", type=OutputPlace(), required=True, help="Folder for rna.tsv.gz and rna.json.")
def command(
    counts: Path,
    sample: str,
    barcodes: Path | None,
    cells: Path | None,
    min_genes: int,
    min_counts: int,
    max_mito: float | None,
    mad: float,
    mito_genes: str | None,
    ambient: Literal["none", "soup"],
    ambient_share: float | None,
    seed: int,
    hto: Path | None,
    hto_features: str,
    output: Path,
    qc: Path,
) -> None:
    """Filter the cells of COUNTS (10x .h5, mtx folder, .h5ad) by their RNA and flag doublets."""
    from multivi_nf.commands._qc import tell, tell_hashtags
    from multivi_nf.counts.given import add_tables
    from multivi_nf.counts.read import read_counts
    from multivi_nf.inputs.barcodes import read_barcodes
    from multivi_nf.qc.checked import write_checked
    from multivi_nf.qc.rna import RnaRules, qc_rna

    matrix = read_counts(counts, "rna", None if barcodes is None else read_barcodes(barcodes))
    rules = RnaRules(min_genes, min_counts, max_mito, mad, seed, mito_genes, ambient, ambient_share)
    checked = qc_rna(add_tables(matrix, [barcodes, cells], sample), sample, rules)
    tell_hashtags(checked, hto, hto_features, barcodes, sample)
    write_checked(checked, output, qc)
    tell(checked)
