"""What the steps after TRAIN share: opening the mosaic and the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multivi_nf.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from mudata import MuData

    from multivi_nf.training import MultiVI


def load(mosaic: Path, model: Path, device: str = "auto") -> tuple[MultiVI, MuData]:
    """Read a mosaic and a trained model, the model on `device` ("auto": cuda where there is one)."""
    import torch

    from multivi_nf.mosaic import read_mosaic
    from multivi_nf.training import MultiVI

    if not (model / "config.json").is_file():
        raise InputError(
            f"{model} holds no trained model (no config.json)",
            "latent space, imputation and differential analysis are read from a trained model",
            "give the folder that `multivi-nf train --output` wrote",
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda was asked for, but no CUDA device can be used here",
            "the step would run on the CPU without saying so",
            "use --device auto or cpu, or run where a GPU is visible",
        )
    trained = MultiVI.load(model)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return trained.to(device).eval(), read_mosaic(mosaic)
