"""`multivi-nf links`: peaks whose accessibility goes with the expression of a gene near them."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._fragments import say
from multivi_nf.commands._numbers import SEED, Finite, Whole
from multivi_nf.commands._outputs import OutputFile, OutputPlace, Step
from multivi_nf.commands._regulation import FACTS
from multivi_nf.inputs.genome import SIZES, STYLES

_FILE = click.Path(path_type=Path)


@click.command(cls=Step)
@click.argument("embedding", type=_FILE)
@click.option("--genome", help=f"A built-in assembly: {', '.join(SIZES)}.")
@click.option("--gtf", type=_FILE, help="Gene annotation (GTF or GFF3).")
@click.option("--tss", type=_FILE, help="Start sites as BED, names of genes in column 4; wins over --gtf.")
@click.option("--chrom-style", type=click.Choice(list(STYLES)), default="auto", help="auto: chr1 equals 1.")
@click.option("--fasta", type=_FILE, help="The genome, to match background peaks on GC as well.")
@click.option("--imputed", type=_FILE, help="rna.zarr of `impute`, for the columns imputed_*.")
@click.option("--window", type=Whole(min=1000), default=250_000, help="bp to either side of a start site.")
@click.option("--fdr", type=Finite(0, 1, min_open=True, max_open=True), default=0.05, help="Level of `significant`.")
@click.option("--strata", metavar="COLUMN", help="Correlate within its values.  [default: donor, else sample]")
@click.option("--seed", type=SEED, default=0, help="Seed of metacells and of the background.")
@click.option("--facts", type=OutputFile("json"), help=FACTS)
@click.option("--output", type=OutputPlace(), required=True, help="Folder for links.tsv.gz and links.bedpe.")
def command(
    embedding: Path,
    genome: str | None,
    gtf: Path | None,
    tss: Path | None,
    chrom_style: str,
    fasta: Path | None,
    imputed: Path | None,
    window: int,
    fdr: float,
    strata: str | None,
    seed: int,
    facts: Path | None,
    output: Path,
) -> None:
    """Correlate genes and the peaks near them over the paired cells of EMBEDDING (multivi.h5mu of `embed`)."""
    from multivi_nf.io.records import as_json
    from multivi_nf.io.tables import write_table
    from multivi_nf.regulation.find_links import Asked, find_links, gene_places, read_embedded
    from multivi_nf.regulation.possible import told_in

    with told_in(facts, "links") as found:
        places = gene_places(genome, gtf, tss)
        asked = Asked(window, fdr, strata, chrom_style, seed)
        table, bedpe, facts_found = find_links(read_embedded(embedding), places, asked, fasta=fasta, imputed=imputed)
        write_table(table, output / "links.tsv.gz")
        write_table(bedpe, output / "links.bedpe")
        found |= as_json(facts_found) | {"files": ["links.tsv.gz", "links.bedpe"], "fdr": fdr}
        say(facts_found.told)
