"""One colour for each cluster, sample, batch and modality, the same in every file and on every page."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable

CATEGORIES = (
    "#4e9fd6", "#e8873a", "#4caf6d", "#d9596b", "#9b7fd0", "#a9805f", "#e08cc4", "#2b5f8c",
    "#c2bb3c", "#3dbdc9", "#6f7fe0", "#b8d56f", "#b5476f", "#5d8a78", "#f0b670", "#7d5ba6",
)  # fmt: skip
MODALITY_COLOURS = {
    "rna": "#4e9fd6", "atac": "#e8873a", "protein": "#4caf6d", "rna+atac": "#9b7fd0", "rna+protein": "#3dbdc9",
    "atac+protein": "#c2bb3c", "rna+atac+protein": "#d9596b",
}  # fmt: skip
MISSING = "#b9c0c8"
"""Of cells that have no value; no category of its own."""


def natural(name: str) -> tuple[int, float, str]:
    """Sort key: numbers by size, before words."""
    return (0, float(name), name) if name.isdigit() else (1, 0.0, name)


def colour(k: int) -> str:
    """Colour of the k-th category: a fixed list, then hues by the golden angle, so that none comes twice."""
    if k < len(CATEGORIES):
        return CATEGORIES[k]
    hue = (0.11 + k * 0.61803398875) % 1
    red, green, blue = colorsys.hls_to_rgb(hue, (0.42, 0.55, 0.68)[k % 3], (0.55, 0.42)[k % 2])
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def colours_of(categories: Iterable[str]) -> dict[str, str]:
    """Colour of each category, in the order given; combinations of modalities have theirs.

    Parameters
    ----------
    categories
        All categories of a column, in their order; a part of the cells must be given the colours of all.
    """
    names = [str(name) for name in categories]
    if names and all(name in MODALITY_COLOURS for name in names):
        return {name: MODALITY_COLOURS[name] for name in names}
    return {name: colour(k) for k, name in enumerate(names)}
