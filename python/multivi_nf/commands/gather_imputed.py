"""`multivi-nf gather-imputed`: join the chunks of `impute` into one store without loading them."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("chunks", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="AnnData zarr to write; must not exist.")
@click.option("--embedding", type=click.Path(path_type=Path), help="multivi.h5mu: its clusters, labels, UMAP go along.")
@click.option("--zarr-format", type=click.Choice(["2", "3"]), default="2", help="2 opens in old and new anndata.")
def command(chunks: tuple[Path, ...], output: Path, embedding: Path | None, zarr_format: str) -> None:
    """Join CHUNKS, in any order, in the order of the mosaic's cells."""
    from multivi_nf.imputation.store import gather

    gather(list(chunks), output, embedding, int(zarr_format))
