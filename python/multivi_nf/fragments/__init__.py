"""Fragments files: one streaming pass for the quality of every barcode and the cells × peaks matrix."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "FragmentStream": "stream",
    "scan": "passes",
    "Scan": "passes",
    "STRATEGIES": "passes",
    "tss_enrichment": "passes",
    "call_cells": "cells",
    "knee_curve": "cells",
    "overlap_p_values": "cells",
    "to_atac": "cells",
    "preflight": "checks",
    "FragmentWriter": "write",
    "write_fragments": "write",
    "write_cut_sites": "cuts",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        msg = f"module 'multivi_nf.fragments' has no attribute {name!r}; public names are {__all__}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"multivi_nf.fragments.{_PUBLIC[name]}"), name)
