"""`multivi-nf links`: peaks whose accessibility goes with the expression of a gene near them."""

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
from multivi_nf.inputs.chromosomes import SIZES
from multivi_nf.io.outputs import files_of

if TYPE_CHECKING:
    from multivi_nf.regulation.find_links import Asked

_FILE = click.Path(path_type=Path)

FILES = files_of("links", r"links\.(tsv\.gz|bedpe)")


@dataclass(frozen=True)
class Sources:
    """What is read beside the embedding: genes, the genome's bases, imputed RNA."""

    genome: str | None
    gtf: Path | None
    tss: Path | None
    fasta: Path | None
    imputed: Path | None


@click.command(cls=Step)
@click.argument("embedding", type=_FILE)
@grouped(
    "sources",
    Sources,
    click.option("--genome", help=f"A built-in assembly: {', '.join(SIZES)}."),
    click.option("--gtf", type=_FILE, help="Gene annotation (GTF or GFF3)."),
    click.option("--tss", type=_FILE, help="Start sites as BED, names of genes in column 4; wins over --gtf."),
    click.option("--fasta", type=_FILE, help="The genome, to match background peaks on GC as well."),
    click.option("--imputed", type=_FILE, help="rna.zarr of `impute`, for the columns imputed_*."),
)
@grouped(
    "asked",
    "multivi_nf.regulation.find_links:Asked",
    STYLE,
    click.option("--window", type=Whole(min=1000), default=250_000, help="bp to either side of a start site."),
    LEVEL,
    click.option("--strata", metavar="COLUMN", help="Correlate within its values.  [default: donor, else sample]"),
    click.option("--seed", type=SEED, default=0, help="Seed of metacells and of the background."),
)
@click.option("--facts", type=OutputFile("json"), help=FACTS)
@click.option(
    "--output",
    type=OutputPlace(FILES),
    required=True,
    help="Folder for links.tsv.gz and links.bedpe.",
)
def command(embedding: Path, sources: Sources, asked: Asked, facts: Path | None, output: Path) -> None:
    """Correlate genes and the peaks near them over the paired cells of EMBEDDING (multivi.h5mu of `embed`)."""
    from multivi_nf.io.records import as_json
    from multivi_nf.io.tables import write_table
    from multivi_nf.regulation.find_links import find_links, gene_places, read_embedded
    from multivi_nf.regulation.possible import told_in

    with told_in(facts, "links") as found:
        places = gene_places(sources.genome, sources.gtf, sources.tss)
        embedded, more = read_embedded(embedding), {"fasta": sources.fasta, "imputed": sources.imputed}
        table, bedpe, told = find_links(embedded, places, asked, **more)
        write_table(table, output / "links.tsv.gz")
        write_table(bedpe, output / "links.bedpe")
        found |= as_json(told) | {"files": ["links.tsv.gz", "links.bedpe"], "fdr": asked.level}
        say(told.told)
