"""`multivi-nf gather-imputed`: join the chunks of `impute` into one store without loading them."""

from __future__ import annotations

from pathlib import Path

import click

from multivi_nf.commands._outputs import OutputFolder, Step
from multivi_nf.io.outputs import STORE


@click.command(cls=Step)
@click.argument("chunks", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--output", type=OutputFolder(STORE), required=True, help="AnnData zarr to write.")
@click.option("--embedding", type=click.Path(path_type=Path), help="multivi.h5mu: its clusters, labels, UMAP go along.")
@click.option("--zarr-format", type=click.Choice(["2", "3"]), default="2", help="2 opens in old and new anndata.")
def command(chunks: tuple[Path, ...], output: Path, embedding: Path | None, zarr_format: str) -> None:
    """Join CHUNKS, in any order, in the order of the mosaic's cells."""
    from multivi_nf.imputation.store import gather

    gather(list(chunks), output, embedding, int(zarr_format))
