"""Between peaks and genes: what a finished embedding and the fragments say together. No torch."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "write_tracks": "tracks",
    "gene_regions": "gene_activity",
    "activity_from_peaks": "gene_activity",
    "activity_from_fragments": "gene_activity",
    "Source": "cells",
    "Calling": "group_peaks",
    "peaks_by_group": "group_peaks",
    "near_pairs": "pairs",
    "Surroundings": "pairs",
    "expressed": "links",
    "peak_gene_links": "links",
    "make_units": "units",
    "peak_properties": "background",
    "read_motifs": "motif_files",
    "scan": "motifs",
    "background_sets": "motifs",
    "deviations": "motifs",
    "variability": "motifs",
    "by_group": "motifs",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        msg = f"module {__name__!r} has no attribute {name!r}; public names are {sorted(__all__)}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
