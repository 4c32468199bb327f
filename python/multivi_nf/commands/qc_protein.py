"""`multivi-nf qc-protein`: which cells stay by their surface protein."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._numbers import SEED, Finite
from multivi_nf.commands._outputs import OutputFile, OutputPlace, Step
from multivi_nf.commands._qc import hashtag_options

_FILE = click.Path(path_type=Path)


@click.command(name="qc-protein", cls=Step)
@click.argument("counts", type=_FILE)
@click.option("--sample", required=True, help="Name of the sample.")
@click.option("--barcodes", type=_FILE, help="Its cells, one a line; needed for unfiltered matrices.")
@click.option("--cells", type=_FILE, help="Table of its cells: barcode and any columns, which go to obs.")
@click.option("--mad", type=Finite(min=0), default=5, help="MADs from the sample's median; 0 = off.")
@click.option("--seed", type=SEED, default=0, expose_value=False, help="Taken and not used: nothing is random here.")
@hashtag_options
@click.option("--output", type=OutputFile("hdf5"), required=True, help="Kept cells (.h5ad).")
@click.option("--qc", type=OutputPlace(), required=True, help="Folder for protein.tsv.gz and protein.json.")
def command(
    counts: Path,
    sample: str,
    barcodes: Path | None,
    cells: Path | None,
    mad: float,
    hto: Path | None,
    hto_features: str,
    output: Path,
    qc: Path,
) -> None:
    """Filter the cells of COUNTS (10x .h5, mtx folder, .h5ad) by their protein; isotype controls are marked."""
    from multivi_nf.commands._qc import tell, tell_hashtags
    from multivi_nf.counts.given import add_tables
    from multivi_nf.counts.read import read_counts
    from multivi_nf.inputs.barcodes import read_barcodes
    from multivi_nf.qc.checked import write_checked
    from multivi_nf.qc.protein import qc_protein

    matrix = read_counts(counts, "protein", None if barcodes is None else read_barcodes(barcodes))
    checked = qc_protein(add_tables(matrix, [barcodes, cells], sample), sample, mad=mad)
    tell_hashtags(checked, hto, hto_features, barcodes, sample)
    write_checked(checked, output, qc)
    tell(checked)
