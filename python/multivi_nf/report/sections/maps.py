"""The map of all cells, by what people colour it by, and which samples make up the clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup

from multivi_nf.report import figures
from multivi_nf.report.gather import Results
from multivi_nf.report.words import slug

QC_MAPS = {
    "rna_n_counts": "log10 RNA counts",
    "atac_n_fragments": "log10 ATAC fragments",
    "atac_n_counts": "log10 ATAC counts",
    "protein_n_counts": "log10 protein counts",
}
LABEL_LIMIT = 60
"""A metadata column with more values than this is no grouping."""
NOT_LABELS = {"sample", "batch", "modality", "cluster"}

Legend = list[tuple[str, str, int]]
"""Name, colour and number of cells."""


@dataclass(frozen=True)
class Map:
    """A figure of cells by a column of theirs."""

    column: str
    svg: Markup
    legend: Legend


def composition(results: Results) -> Map | None:
    """Share of each sample in each cluster."""
    cells = results.cells
    if not {"cluster", "sample"} <= set(cells) or cells["sample"].nunique() < 2 or cells["cluster"].nunique() < 2:
        return None
    _, legend = figures.colour_of(cells["sample"])
    return Map("sample", Markup(figures.composition(cells["cluster"], cells["sample"], "composition")), legend)


def label_columns(results: Results) -> list[str]:
    """Columns of `obs` a person would colour a map by: those of the samplesheet and transferred labels."""
    transferred = [c for c in results.cells if c.endswith("_transferred")]
    named = [*("cell_type", "celltype", "label"), *results.mosaic_notes.metadata, *transferred]
    found = [c for c in dict.fromkeys(named) if c in results.cells and c not in NOT_LABELS]
    return [c for c in found if 1 < results.cells[c].nunique() <= LABEL_LIMIT]


def umaps(results: Results) -> list[Map]:
    """Maps by groups and labels, then by depth."""
    cells = results.cells
    first = [c for c in ("cluster", "sample", "batch", "modality", "cell_type_by_markers") if c in cells]
    if {"batch", "sample"} <= set(first) and (results.words("batch") == results.words("sample")).all():
        first.remove("batch")
    drawn = []
    for k, column in enumerate(dict.fromkeys(first + label_columns(results)[:4])):
        colours, legend = figures.colour_of(cells[column])
        about = f"UMAP of all cells coloured by {column}"
        groups = cells[column] if column == "cluster" else None
        drawn.append(Map(column, Markup(figures.umap(results.umap, colours, f"umap{k}", about, groups)), legend))
    for column, label in QC_MAPS.items():
        values = pd.to_numeric(cells[column], errors="coerce").to_numpy(float) if column in cells else np.array([])
        if np.isfinite(values).any():
            svg = figures.umap_of_numbers(results.umap, np.log10(values + 1), label, f"umap-{slug(column)}")
            drawn.append(Map(column, Markup(svg), []))
    return drawn
