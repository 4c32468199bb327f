"""MultiVI for mosaics of RNA, chromatin accessibility and surface protein, from raw fragments to a report."""

from __future__ import annotations

import importlib
from typing import Any

from multivi_nf._version import __version__

_PUBLIC = {
    "read_mosaic": "multivi_nf.mosaic",
    "MultiVI": "multivi_nf.training",
    "train": "multivi_nf.training",
    "embed": "multivi_nf.inference",
    "impute": "multivi_nf.inference",
    "differential": "multivi_nf.inference",
    "calibrate": "multivi_nf.inference",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        msg = f"module 'multivi_nf' has no attribute {name!r}; public names are {sorted(__all__)}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_PUBLIC[name]), name)
