"""`multivi-nf motifs`: motifs in peaks, and how far cells depart from what is expected at them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from multivi_nf.commands._fragments import say
from multivi_nf.commands._groups import grouped
from multivi_nf.commands._numbers import SEED, Whole
from multivi_nf.commands._outputs import OutputFile, OutputPlace, Step
from multivi_nf.commands._regulation import FACTS, LEVEL, STYLE
from multivi_nf.io.outputs import files_of

if TYPE_CHECKING:
    from multivi_nf.regulation.find_motifs import Asked

_FILE = click.Path(path_type=Path)

FILES = files_of("motifs", r"motifs\.(h5ad|tsv\.gz)")


@dataclass(frozen=True)
class Sources:
    """The genome's bases, and what is looked for in them."""

    fasta: Path | None
    motifs: Path | None


@click.command(cls=Step)
@click.argument("embedding", type=_FILE)
@grouped(
    "sources",
    Sources,
    click.option("--fasta", type=_FILE, help="The genome: plain, gzip or bgzip; no index is needed."),
    click.option(
        "--motifs", type=_FILE, help="MEME or JASPAR format.  [default: JASPAR's, as `make motifs` holds them]"
    ),
)
@grouped(
    "asked",
    "multivi_nf.regulation.find_motifs:Asked",
    STYLE,
    click.option("--groups", default="cluster", help="Column of obs: each of its values against all other cells."),
    LEVEL,
    click.option("--strata", metavar="COLUMN", help="Correlate RNA within its values.  [default: donor, else sample]"),
    click.option(
        "--background", "iterations", type=Whole(min=10, max=1000), default=50, help="Sets of background peaks."
    ),
    click.option("--seed", type=SEED, default=0, help="Seed of the background."),
)
@click.option("--facts", type=OutputFile("json"), help=FACTS)
@click.option(
    "--output",
    type=OutputPlace(FILES),
    required=True,
    help="Folder for motifs.h5ad and motifs.tsv.gz.",
)
def command(embedding: Path, sources: Sources, asked: Asked, facts: Path | None, output: Path) -> None:
    """Compute chromVAR's deviations of motifs for the cells with ATAC of EMBEDDING (multivi.h5mu of `embed`)."""
    from multivi_nf.io.files import written_whole
    from multivi_nf.io.records import as_json
    from multivi_nf.io.tables import write_table
    from multivi_nf.regulation.cells import read_cells
    from multivi_nf.regulation.find_links import read_embedded
    from multivi_nf.regulation.find_motifs import find_motifs, held_motifs, need_sequence
    from multivi_nf.regulation.motif_files import read_motifs
    from multivi_nf.regulation.possible import told_in

    with told_in(facts, "motifs") as found:
        sequence = need_sequence(sources.fasta)
        known = read_motifs(sources.motifs or held_motifs())
        cells = read_cells(embedding)
        result, table, told = find_motifs(read_embedded(embedding), cells, sequence, known, asked)
        with written_whole(output / "motifs.h5ad") as temporary:
            result.write_h5ad(temporary, compression="gzip")
        write_table(table, output / "motifs.tsv.gz")
        found |= as_json(told) | {"files": ["motifs.h5ad", "motifs.tsv.gz"], "fdr": asked.level}
        say(told.told)
