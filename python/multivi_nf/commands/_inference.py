"""What the steps after TRAIN share: opening the model, and the mosaic in its terms."""

from __future__ import annotations

import contextlib
import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from multivi_nf.latent.cells import Cells

MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of malloc.h."""


def load(mosaic: Path, folder: Path, device: str = "auto") -> Cells:
    """Read a model and the cells of a mosaic, matched by feature names, without the mosaic's layers."""
    from multivi_nf.latent.cells import Cells
    from multivi_nf.training.model_folder import load_model

    memory_goes_back()
    return Cells(load_model(folder, device), mosaic)


def memory_goes_back() -> None:
    """Give arrays of 4 MB and more back to the system when they are freed.

    The C library keeps up to 32 MB each for later, the more the larger those are that were freed before: what reading
    needed for a moment then stays, and a step of many cells holds a tenth more than it uses. Only glibc has this.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 4 << 20)
