"""`multivi-nf motifs`: motifs in peaks, and how far cells depart from what is expected at them."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._fragments import say
from multivi_nf.commands._numbers import SEED, Finite, Whole
from multivi_nf.commands._outputs import OutputFile, OutputPlace, Step
from multivi_nf.commands._regulation import FACTS
from multivi_nf.inputs.genome import STYLES

_FILE = click.Path(path_type=Path)


@click.command(cls=Step)
@click.argument("embedding", type=_FILE)
@click.option("--fasta", type=_FILE, help="The genome: plain, gzip or bgzip; no index is needed.")
@click.option("--motifs", type=_FILE, help="MEME or JASPAR format.  [default: JASPAR's, as `make motifs` holds them]")
@click.option("--chrom-style", type=click.Choice(list(STYLES)), default="auto", help="auto: chr1 equals 1.")
@click.option("--groups", default="cluster", help="Column of obs: each of its values against all other cells.")
@click.option("--fdr", type=Finite(0, 1, min_open=True, max_open=True), default=0.05, help="Level of `significant`.")
@click.option("--strata", metavar="COLUMN", help="Correlate RNA within its values.  [default: donor, else sample]")
@click.option("--background", type=Whole(min=10, max=1000), default=50, help="Sets of background peaks.")
@click.option("--seed", type=SEED, default=0, help="Seed of the background.")
@click.option("--facts", type=OutputFile("json"), help=FACTS)
@click.option("--output", type=OutputPlace(), required=True, help="Folder for motifs.h5ad and motifs.tsv.gz.")
def command(
    embedding: Path,
    fasta: Path | None,
    motifs: Path | None,
    chrom_style: str,
    groups: str,
    fdr: float,
    strata: str | None,
    background: int,
    seed: int,
    facts: Path | None,
    output: Path,
) -> None:
    """Compute chromVAR's deviations of motifs for the cells with ATAC of EMBEDDING (multivi.h5mu of `embed`)."""
    from multivi_nf.io.files import written_whole
    from multivi_nf.io.records import as_json
    from multivi_nf.io.tables import write_table
    from multivi_nf.regulation.cells import read_cells
    from multivi_nf.regulation.find_links import read_embedded
    from multivi_nf.regulation.find_motifs import Asked, find_motifs, held_motifs, need_sequence
    from multivi_nf.regulation.motif_files import read_motifs
    from multivi_nf.regulation.possible import told_in

    with told_in(facts, "motifs") as found:
        sequence = need_sequence(fasta)
        known = read_motifs(motifs or held_motifs())
        asked = Asked(groups, fdr, strata, chrom_style, background, seed)
        cells = read_cells(embedding)
        result, table, facts_found = find_motifs(read_embedded(embedding), cells, sequence, known, asked)
        with written_whole(output / "motifs.h5ad") as temporary:
            result.write_h5ad(temporary, compression="gzip")
        write_table(table, output / "motifs.tsv.gz")
        found |= as_json(facts_found) | {"files": ["motifs.h5ad", "motifs.tsv.gz"], "fdr": fdr}
        say(facts_found.told)
