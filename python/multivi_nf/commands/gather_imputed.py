"""`multivi-nf gather-imputed`: join the chunks of `impute` into one store without loading them."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("chunks", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="AnnData zarr to write; must not exist.")
def command(chunks: tuple[Path, ...], output: Path) -> None:
    """Join CHUNKS, in any order, in the order of the mosaic's cells."""
    from multivi_nf.imputation.store import gather

    gather(list(chunks), output)
