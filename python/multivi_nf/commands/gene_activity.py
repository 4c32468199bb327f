"""`multivi-nf gene-activity`: accessibility over genes."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._fragments import Assembly, genome_options, say
from multivi_nf.commands._outputs import OutputFile, Step
from multivi_nf.commands._regulation import FACTS_OPTION, Reads, source_options


@click.command(cls=Step)
@click.argument("embedding", type=click.Path(path_type=Path))
@source_options
@FACTS_OPTION
@genome_options
@click.option("--output", type=OutputFile("hdf5"), required=True, help="h5ad to write.")
def command(
    embedding: Path,
    reads: Reads,
    facts: Path | None,
    output: Path,
    assembly: Assembly,
) -> None:
    """Add up accessibility over each gene's body and the 2 kb before it, for the cells with ATAC of EMBEDDING.

    From FRAGMENTS where every cell's sample has them, else from the counts of peaks, so that all cells are alike.
    """
    from multivi_nf.io.files import written_whole
    from multivi_nf.regulation import gene_activity as activity
    from multivi_nf.regulation.cells import covered, read_cells, read_peak_counts
    from multivi_nf.regulation.possible import told_in

    with told_in(facts, "gene_activity") as found:
        genome = assembly.load_if_known()
        genes = activity.gene_bodies(genome, assembly.genome, assembly.gtf)
        regions = activity.gene_regions(genes, genome.chrom_sizes)
        cells = read_cells(embedding)
        sources = reads.sources()
        whole = covered(cells.obs_names, sources)
        if whole:
            counts = activity.activity_from_fragments(cells.obs_names, sources, regions, genome)
        else:
            counts = activity.activity_from_peaks(*read_peak_counts(embedding, genome), regions)
        table = activity.gene_activity(cells, counts, genes, "fragments" if whole else "peaks")
        with written_whole(output) as temporary:
            table.write_h5ad(temporary, compression="gzip")
        found |= {"files": [output.name], "cells": table.n_obs, "genes": table.n_vars, "source": table.uns["source"]}
        told = f"{table.n_obs:,} cells × {table.n_vars:,} genes, from {table.uns['source']}."
        found["told"] = told
        say(told)
