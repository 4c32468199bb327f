"""What the steps after TRAIN share: opening the model, and the mosaic in its terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI


def load(mosaic: Path, folder: Path, device: str = "auto") -> tuple[MultiVI, MosaicData]:
    """Read a model and the cells of a mosaic, matched by feature names, without the mosaic's layers."""
    from multivi_nf.latent.embed import cells_of
    from multivi_nf.training.model_folder import load_model

    model = load_model(folder, device)
    return model, cells_of(model, mosaic)
