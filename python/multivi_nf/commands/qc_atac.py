"""`multivi-nf qc-atac`: which cells stay by their chromatin accessibility."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._numbers import SEED, Finite, Whole
from multivi_nf.commands._outputs import OutputFile, OutputPlace, Step
from multivi_nf.commands._qc import hashtag_options

_FILE = click.Path(path_type=Path)


@click.command(name="qc-atac", cls=Step)
@click.argument("counts", type=_FILE)
@click.option("--sample", required=True, help="Name of the sample.")
@click.option("--fragments-qc", type=_FILE, help="Folder of qc-fragments, where COUNTS comes from count-peaks.")
@click.option("--barcodes", type=_FILE, help="Its cells, one a line; needed for unfiltered matrices.")
@click.option("--cells", type=_FILE, help="Table of its cells: barcode and any columns, which go to obs.")
@click.option("--barcode-map", type=_FILE, help="ATAC barcode, RNA barcode: cells carry the RNA barcode afterwards.")
@click.option(
    "--min-fragments",
    type=Whole(min=0),
    help="Fewest fragments a cell.  [default: 1000 where cells were called from raw fragments, else 0]",
)
@click.option(
    "--min-tsse",
    type=Finite(min=0),
    help="Smallest TSS enrichment.  [default: 4 where cells were called and TSS are known, else off]",
)
@click.option("--min-frip", type=Finite(0, 1), default=0.0, help="Smallest fraction of fragments in peaks.")
@click.option("--max-blacklist", type=Finite(0, 1), help="Largest fraction in the blacklist.  [default: off]")
@click.option("--seed", type=SEED, default=0, help="Of the doublet simulation.")
@hashtag_options
@click.option("--output", type=OutputFile("hdf5"), required=True, help="Kept cells (.h5ad).")
@click.option("--qc", type=OutputPlace(), required=True, help="Folder for atac.tsv.gz and atac.json.")
def command(
    counts: Path,
    sample: str,
    fragments_qc: Path | None,
    barcodes: Path | None,
    cells: Path | None,
    barcode_map: Path | None,
    min_fragments: int | None,
    min_tsse: float | None,
    min_frip: float,
    max_blacklist: float | None,
    seed: int,
    hto: Path | None,
    hto_features: str,
    output: Path,
    qc: Path,
) -> None:
    """Filter the cells of COUNTS (of count-peaks, or a matrix of peaks) by every ATAC threshold and flag doublets."""
    from multivi_nf.commands._qc import tell, tell_hashtags
    from multivi_nf.counts.given import add_tables
    from multivi_nf.counts.read import read_counts
    from multivi_nf.fragments.cells import to_atac
    from multivi_nf.fragments.matrix import read_matrix
    from multivi_nf.inputs.barcodes import read_barcode_map, read_barcodes
    from multivi_nf.qc.atac import AtacRules, qc_atac
    from multivi_nf.qc.checked import write_checked

    mapping = None if barcode_map is None else read_barcode_map(barcode_map)
    if fragments_qc is not None:
        matrix = read_matrix(counts)  # its rows are the candidates already
    else:
        listed = None if barcodes is None else to_atac(read_barcodes(barcodes), mapping)[0]
        matrix = read_counts(counts, "atac", listed)
    checked = qc_atac(
        add_tables(matrix, [barcodes, cells], sample, mapping),
        sample,
        AtacRules(min_fragments, min_tsse, min_frip, max_blacklist, seed),
        fragments_qc=fragments_qc,
        barcode_map=mapping,
    )
    tell_hashtags(checked, hto, hto_features, barcodes, sample)
    write_checked(checked, output, qc)
    tell(checked)
