"""MultiVI for mosaics of RNA, chromatin accessibility and surface protein, from raw fragments to a report."""

from __future__ import annotations

import importlib
import os
from typing import Any

from multivi_nf._version import __version__

# Before h5py is imported: HDF5 refuses every file where its server knows no locks (NFS: ENOLCK), and results need none,
# since each takes its name once it is whole
os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")

_PUBLIC = {
    "read_mosaic": "multivi_nf.mosaic.read",
    "MultiVI": "multivi_nf.training.model_folder",
    "train": "multivi_nf.training.fit",
    "embed": "multivi_nf.latent.embed",
    "impute": "multivi_nf.imputation.impute",
    "differential": "multivi_nf.comparison.compare",
    "calibrate": "multivi_nf.held_out.calibrate",
}

__all__ = ["__version__", *_PUBLIC]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        msg = f"module 'multivi_nf' has no attribute {name!r}; public names are {sorted(__all__)}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_PUBLIC[name]), name)
