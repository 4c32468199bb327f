"""`multivi-nf qc-atac`: which cells stay by their accessibility."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.commands._numbers import SEED, Finite, Whole
from multivi_nf.commands._outputs import Step
from multivi_nf.commands._qc import BARCODES, CELLS, SAMPLE, Result, SampleCells, result_options

if TYPE_CHECKING:
    from multivi_nf.qc.atac import AtacRules

_FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class AtacCells(SampleCells):
    """A sample whose ATAC barcodes may be others than its cells', and the QC of its fragments."""

    fragments_qc: Path | None
    barcode_map: Path | None


@click.command(name="qc-atac", cls=Step)
@click.argument("counts", type=_FILE)
@grouped(
    "of",
    AtacCells,
    SAMPLE,
    click.option("--fragments-qc", type=_FILE, help="Folder of qc-fragments, where COUNTS comes from count-peaks."),
    BARCODES,
    CELLS,
    click.option(
        "--barcode-map", type=_FILE, help="ATAC barcode, RNA barcode: cells carry the RNA barcode afterwards."
    ),
)
@grouped(
    "rules",
    "multivi_nf.qc.atac:AtacRules",
    click.option(
        "--min-fragments",
        type=Whole(min=0),
        help="Fewest fragments a cell.  [default: 1000 where cells were called from raw fragments, else 0]",
    ),
    click.option(
        "--min-tsse",
        type=Finite(min=0),
        help="Smallest TSS enrichment.  [default: 4 where cells were called and TSS are known, else off]",
    ),
    click.option("--min-frip", type=Finite(0, 1), default=0.0, help="Smallest fraction of fragments in peaks."),
    click.option("--max-blacklist", type=Finite(0, 1), help="Largest fraction in the blacklist.  [default: off]"),
    click.option("--seed", type=SEED, default=0, help="Of the doublet simulation."),
)
@result_options("atac")
def command(counts: Path, of: AtacCells, rules: AtacRules, result: Result) -> None:
    """Filter the cells of COUNTS (of count-peaks, or a matrix of peaks) by every ATAC threshold and flag doublets."""
    from multivi_nf.counts.given import add_tables
    from multivi_nf.counts.read import read_counts
    from multivi_nf.fragments.cells import to_atac
    from multivi_nf.fragments.matrix import read_matrix
    from multivi_nf.inputs.barcodes import read_barcode_map
    from multivi_nf.qc.atac import qc_atac

    mapping = None if of.barcode_map is None else read_barcode_map(of.barcode_map)
    if of.fragments_qc is not None:
        matrix = read_matrix(counts)  # its rows are the candidates already
    else:
        listed = of.listed()
        matrix = read_counts(counts, "atac", None if listed is None else to_atac(listed, mapping)[0])
    cells = add_tables(matrix, of.tables, of.sample, mapping)
    result.write(qc_atac(cells, of.sample, rules, fragments_qc=of.fragments_qc, barcode_map=mapping), of)
