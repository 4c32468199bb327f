"""A small untrained model whose values tests can compute by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from mudata import MuData

from multivi_nf.training import MultiVI


def make_model(mosaic: MuData, **architecture: object) -> MultiVI:
    """An untrained model with random, not vanishing, weights."""
    options: dict[str, Any] = {"n_latent": 5, "n_hidden": 16, "seed": 1, **architecture}
    model = MultiVI.from_mosaic(mosaic, **options).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adversar" not in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def with_split(model: MultiVI, mosaic: MuData) -> MultiVI:
    """Give a model a split in which every second pair was set apart for calibration."""
    counts = sum(np.isin(mosaic.obs_names, mosaic[m].obs_names).astype(int) for m in mosaic.mod)
    pairs = mosaic.obs_names[counts > 1]
    split = ["calibration" if i // 2 % 2 else "train" for i in range(len(pairs))]
    model.split = pd.DataFrame({"cell": pairs, "split": split})
    return model
