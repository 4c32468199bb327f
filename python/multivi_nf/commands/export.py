"""`multivi-nf export`: the results as files that other tools open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.commands._numbers import Finite
from multivi_nf.commands._outputs import OutputPlace, Step
from multivi_nf.errors import InputError
from multivi_nf.io.outputs import files_of
from multivi_nf.modalities import MODALITIES

FILES = files_of("export", r"cells\.tsv\.gz|clusters\.tsv|explorer\.html|markers/\w+\.tsv\.gz|h5ad/\w+\.h5ad")


@dataclass(frozen=True)
class Explorer:
    """The page with all cells."""

    explorer_size: float
    links: Path | None
    title: str


@click.command(cls=Step)
@click.argument("embedding", type=click.Path(path_type=Path))
@click.argument("imputed", type=click.Path(path_type=Path), nargs=-1)
@click.option("--output", type=OutputPlace(FILES), required=True, help="Folder to write to.")
@click.option(
    "--h5ad",
    type=click.Choice(["auto", "true", "false"]),
    default="auto",
    help="Write h5ad/<modality>.h5ad; auto: up to 50,000 cells.",
)
@grouped(
    "page",
    Explorer,
    click.option("--explorer-size", type=Finite(0), default=25, help="Budget of explorer.html in MB; 0: no page."),
    click.option(
        "--links",
        type=click.Path(path_type=Path),
        help="links.tsv.gz of `links`: explorer.html leads from genes to peaks.",
    ),
    click.option("--title", default="multivi-nf", help="Heading of the page."),
)
def command(embedding: Path, imputed: tuple[Path, ...], output: Path, h5ad: str, page: Explorer) -> None:
    """Write EMBEDDING (multivi.h5mu of `embed`) as h5ad, tables of cells, clusters and markers, and explorer.html.

    IMPUTED: stores <modality>.zarr, whose values stand beside the measured ones in the tables of markers.
    """
    for path in imputed:
        if path.stem not in MODALITIES:
            raise InputError(
                f"IMPUTED {path}: {path.stem!r} is no modality",
                "a store's values stand beside the measured ones of the modality that its name tells",
                f"name it {', '.join(f'{name}.zarr' for name in MODALITIES[:-1])} or {MODALITIES[-1]}.zarr",
            )
    from multivi_nf.export.h5ad import MOST_CELLS, write_h5ad
    from multivi_nf.export.markers import write_markers
    from multivi_nf.export.modalities import check_embedded, fill_modalities
    from multivi_nf.export.tables import cells_table, clusters_table
    from multivi_nf.io.tables import write_table
    from multivi_nf.mosaic.read import read_mosaic, read_tables
    from multivi_nf.regulation.find_links import read_called
    from multivi_nf.report.explorer import Beside, write_explorer

    # counts stay in the file, and are read a run of cells at a time
    mosaic = read_tables(embedding, counts=True)
    mosaic = read_mosaic(embedding) if mosaic is None else mosaic
    found = None if page.links is None else read_called(page.links)
    check_embedded(mosaic, embedding)
    whole = h5ad == "true" or (h5ad == "auto" and mosaic.n_obs <= MOST_CELLS)
    fill_modalities(mosaic, graph=whole)
    write_table(cells_table(mosaic), output / "cells.tsv.gz")
    write_table(clusters_table(mosaic.obs), output / "clusters.tsv")
    stores = {path.stem: path for path in imputed}
    markers = write_markers(mosaic, stores, output / "markers")
    if page.explorer_size > 0:
        beside = Beside(stores, markers, found)
        place, size = output / "explorer.html", page.explorer_size
        cells, features = write_explorer(mosaic, beside, place, size=size, title=page.title)
        click.echo(f"explorer.html: {cells:,} cells, {features:,} features", err=True)
    if whole:
        write_h5ad(mosaic, output / "h5ad")
    elif h5ad == "auto":
        click.echo(f"no h5ad: {mosaic.n_obs:,} cells are more than {MOST_CELLS:,}; --h5ad writes them", err=True)
