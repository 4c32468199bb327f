"""What the steps after TRAIN share: opening the model, and the mosaic in its terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multivi_nf.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from multivi_nf.training import MultiVI
    from multivi_nf.training.data import MosaicData


def load_model(folder: Path, device: str = "auto") -> MultiVI:
    """Read a trained model and put it on `device` ("auto": cuda where there is one)."""
    import torch

    from multivi_nf.training import MultiVI

    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no trained model (no config.json)",
            "latent space, imputation and differential analysis are read from a trained model",
            "give the folder that `multivi-nf train --output` wrote",
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda was asked for, but no CUDA device can be used here",
            "the step would run on the CPU without saying so",
            "use --device auto or cpu, or run where a GPU is visible",
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return MultiVI.load(folder).to(device).eval()


def load(mosaic: Path, folder: Path, device: str = "auto") -> tuple[MultiVI, MosaicData]:
    """Read a model and the cells of a mosaic, matched by feature names, without the mosaic's layers."""
    from multivi_nf.inference.embedding import cells_of

    model = load_model(folder, device)
    return model, cells_of(model, mosaic)
