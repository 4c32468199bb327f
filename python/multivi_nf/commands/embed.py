"""`multivi-nf embed`: place every cell in the latent space, with UMAP, clusters and transferred labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.commands._inference import Trained, trained_options
from multivi_nf.commands._numbers import SEED, Finite
from multivi_nf.commands._outputs import OutputFile, OutputFolder, Step
from multivi_nf.io.outputs import CHUNKS

_FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class Wanted:
    """What the map of cells is given besides: clusters, labels, names, genes near peaks, contrasts to check."""

    cluster_resolution: float
    labels: str | None
    marker_sets: Path | None
    genome: str | None
    tss: Path | None
    gtf: Path | None
    chrom_style: str
    contrasts: Path | None


@click.command(cls=Step)
@trained_options
@click.option("--output", type=OutputFile("hdf5"), required=True, help="The mosaic with the embedding (.h5mu).")
@grouped(
    "wanted",
    Wanted,
    click.option("--cluster-resolution", type=Finite(min=0, min_open=True), default=1.0, help="Leiden resolution."),
    click.option("--labels", metavar="COLUMN", help="Column of obs to transfer to the cells that have no value in it."),
    click.option("--marker-sets", type=_FILE, help="Table type, gene, sign: names for clusters."),
    click.option("--genome", help="Assembly whose genes the package knows: peaks get their nearest gene."),
    click.option("--tss", type=_FILE, help="Genes' start sites (BED, name in column 4)."),
    click.option("--gtf", type=_FILE, help="Genes (GTF or GFF3)."),
    click.option(
        "--chrom-style", type=click.Choice(["auto", "exact"]), default="auto", help="chr1 and 1 are the same."
    ),
    click.option("--contrasts", type=_FILE, help="Check that the contrasts of this CSV can be made; stop if not."),
)
@click.option(
    "--chunks",
    type=OutputFolder(CHUNKS),
    help="Also write lists of cells here, one file a chunk, for `impute --cells`.",
)
@click.option("--seed", type=SEED, default=0, help="Seed of UMAP and clustering.")
def command(trained: Trained, output: Path, wanted: Wanted, chunks: Path | None, seed: int) -> None:
    """Embed all cells of MOSAIC with MODEL, cells of batches that the model never saw included.

    obsm: X_multivi, X_multivi_variance, X_multivi_<modality>, X_umap; obs: cluster, COLUMN_transferred,
    COLUMN_probability, out_of_support, support_p, calibrated, cell_type_by_markers. Each modality gets the same for its
    own cells; peaks the gene that starts nearest.
    """
    from multivi_nf.calibration.stored import Calibration, support_columns
    from multivi_nf.data.draws import write_chunks
    from multivi_nf.export.marker_sets import name_clusters, read_marker_sets, told_unknown
    from multivi_nf.export.modalities import fill_modalities
    from multivi_nf.export.peak_genes import annotate_peaks, gene_starts
    from multivi_nf.inputs.contrasts import check_contrasts, read_contrasts
    from multivi_nf.io.files import written_whole
    from multivi_nf.latent.annotate import annotate
    from multivi_nf.latent.cells import Cells
    from multivi_nf.latent.embed import embed
    from multivi_nf.mosaic.read import read_mosaic, read_tables
    from multivi_nf.mosaic.write import copy_counts

    table = read_contrasts(wanted.contrasts) if wanted.contrasts else []
    sets = read_marker_sets(wanted.marker_sets) if wanted.marker_sets else None
    starts = gene_starts(wanted.genome, wanted.tss, wanted.gtf)
    model = trained.load_model()
    # counts are read a block of cells at a time
    counted = None if sets is None else read_tables(trained.mosaic, counts=True)
    tables = None if sets is not None and counted is None else read_tables(trained.mosaic)
    cells = read_mosaic(trained.mosaic) if tables is None else tables
    joined = Cells(model, cells if tables is None else trained.mosaic)
    embedding = embed(model, joined)
    if embedding.unseen_batches:
        names = ", ".join(embedding.unseen_batches[:5])
        click.echo(f"batches that the model never saw, embedded through its unknown code: {names}", err=True)
    for name, values in embedding.unseen_categories.items():
        told = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
        click.echo(f"WARNING: {name} has values that the model never saw, embedded as unknown: {told}", err=True)
    support = support_columns(Calibration.load(trained.model, model), model.modalities, joined.data, model)
    annotated = annotate(
        cells,
        embedding,
        resolution=wanted.cluster_resolution,
        labels=wanted.labels,
        support=support,
        split=model.split,
        seed=seed,
    )
    if sets is not None:
        named = name_clusters(annotated, sets, seed, None if counted is None else counted.mod.get("rna"))
        unknown = told_unknown(annotated, sets)
        for line in (f"{named['cell_type'].notna().sum()} of {len(named)} clusters named by their markers", unknown):
            if line:
                click.echo(line, err=True)
    check_contrasts(table, annotated)
    annotate_peaks(annotated, starts, wanted.chrom_style)
    fill_modalities(annotated)
    with written_whole(output) as temporary:
        annotated.write_h5mu(temporary, compression="gzip", compression_opts=1)
        if tables is not None:
            copy_counts(trained.mosaic, temporary)
    if chunks:
        write_chunks(chunks, annotated.obs_names)
