"""`multivi-nf embed`: place every cell in the latent space, with UMAP, clusters and transferred labels."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("mosaic", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The mosaic with the embedding (.h5mu).")
@click.option(
    "--cluster-resolution", type=click.FloatRange(min=0, min_open=True), default=1.0, help="Leiden resolution."
)
@click.option("--labels", metavar="COLUMN", help="Column of obs to transfer to the cells that have no value in it.")
@click.option(
    "--contrasts",
    type=click.Path(path_type=Path),
    help="Check that the contrasts of this CSV can be made; stop if not.",
)
@click.option(
    "--chunks",
    type=click.Path(path_type=Path),
    help="Also write lists of cells here, one file a chunk, for `impute --cells`.",
)
@click.option(
    "--chunk-size", type=click.IntRange(min=1), default=20480, help="Cells a chunk; rounded up to whole blocks."
)
@click.option("--seed", type=int, default=0, help="Seed of UMAP and clustering.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to compute.")
def command(
    mosaic: Path,
    model: Path,
    output: Path,
    cluster_resolution: float,
    labels: str | None,
    contrasts: Path | None,
    chunks: Path | None,
    chunk_size: int,
    seed: int,
    device: str,
) -> None:
    """Embed all cells of MOSAIC with MODEL, cells of batches that the model never saw included.

    obsm: X_multivi, X_multivi_variance, X_multivi_<modality>, X_umap; obs: cluster, COLUMN_transferred.
    """
    from multivi_nf.data.draws import write_chunks
    from multivi_nf.inputs.contrasts import check_contrasts, read_contrasts
    from multivi_nf.io.files import written_whole
    from multivi_nf.latent.annotate import annotate
    from multivi_nf.latent.embed import embed
    from multivi_nf.mosaic.read import read_mosaic
    from multivi_nf.training.model_folder import load_model

    table = read_contrasts(contrasts) if contrasts else []
    trained, cells = load_model(model, device), read_mosaic(mosaic)
    embedding = embed(trained, cells)
    if embedding.unseen_batches:
        names = ", ".join(embedding.unseen_batches[:5])
        click.echo(f"batches that the model never saw, embedded through its unknown code: {names}", err=True)
    for name, values in embedding.unseen_categories.items():
        told = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
        click.echo(f"WARNING: {name} has values that the model never saw, embedded as unknown: {told}", err=True)
    annotated = annotate(cells, embedding, resolution=cluster_resolution, labels=labels, seed=seed)
    check_contrasts(table, annotated)
    with written_whole(output) as temporary:
        annotated.write_h5mu(temporary)
    if chunks:
        write_chunks(chunks, annotated.obs_names, chunk_size)
