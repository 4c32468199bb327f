"""How figures are drawn: SVG that takes the page's own text colour, so that it reads on light and on dark."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

INK = "#010203"
"""Stands for the page's text colour while drawing; replaced by `currentColor` in the SVG."""
DOTS = matplotlib.colors.LinearSegmentedColormap.from_list("dots", ["#a7b3c0", "#e0a23a", "#cf2f5b"])
"""Readable on light and on dark: neither end is the page's colour."""
ACCENT, SECOND, MUTED, WARN = "#2a8fd8", "#e0782f", "#8a93a0", "#d6455d"
STYLE: dict[RcKeyType, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "normal",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "text.parse_math": False,  # a dollar in a name is a dollar
}
styled = matplotlib.rc_context(STYLE)
"""Decorator of a function that draws."""


def svg(figure: Figure, name: str, description: str) -> str:
    """One inline SVG: deterministic, no fixed size, black replaced by the page's text colour.

    Parameters
    ----------
    name
        Unique on the page; keeps the ids of two figures apart.
    description
        What a person who cannot see the figure should be told.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", pad_inches=0.04, metadata={"Date": None, "Creator": None}
        )
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    label = description.replace("&", "and").replace('"', "'").replace("<", "").replace(">", "")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def panels_of(n: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `n` panels, so many a row, each of that size in inches."""
    rows = -(-n // columns)
    figure, axes = plt.subplots(rows, min(n, columns), figsize=(width * min(n, columns), height * rows), squeeze=False)
    flat = list(axes.flat)
    for unused in flat[n:]:
        unused.set_visible(False)
    return figure, flat[:n]
