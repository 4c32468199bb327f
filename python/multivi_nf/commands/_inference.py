"""What the steps after TRAIN share: opening the model, and the mosaic in its terms."""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from multivi_nf.commands._groups import grouped

if TYPE_CHECKING:
    from multivi_nf.latent.cells import Cells
    from multivi_nf.training import MultiVI

MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of malloc.h."""


@dataclass(frozen=True)
class Trained:
    """A mosaic, a model, and where to compute."""

    mosaic: Path
    model: Path
    device: str

    def load(self, *columns: str) -> Cells:
        """Read the model and the cells of the mosaic, matched by feature names, without the mosaic's layers.

        Of obs `columns` are read, and what the model conditions on.
        """
        from multivi_nf.latent.cells import Cells, cells_of

        memory_goes_back()
        model = self.load_model()
        return Cells(model, cells_of(model, self.mosaic, columns))

    def load_model(self) -> MultiVI:
        """Read the model alone."""
        from multivi_nf.training.model_folder import load_model

        return load_model(self.model, self.device)


trained_options = grouped(
    "trained",
    Trained,
    click.argument("mosaic", type=click.Path(path_type=Path)),
    click.argument("model", type=click.Path(path_type=Path)),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to compute."),
)
"""Add MOSAIC, MODEL and --device: `trained`."""


def memory_goes_back() -> None:
    """Give arrays of 4 MB and more back to the system when they are freed.

    The C library keeps up to 32 MB each for later, the more the larger those are that were freed before: what reading
    needed for a moment then stays, and a step of many cells holds a tenth more than it uses. Only glibc has this.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 4 << 20)
