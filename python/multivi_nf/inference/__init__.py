"""What a trained model is asked for: latent space, imputed values with error bars, differential features."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Embedding": "embedding",
    "embed": "embedding",
    "annotate": "annotation",
    "impute": "imputation",
    "impute_to_zarr": "imputation",
    "gather": "gathering",
    "calibrate": "fitting",
    "Calibration": "calibration",
    "differential": "comparison",
    "read_contrasts": "contrasts",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import on first use: contrasts are also read by steps that run without torch."""
    if name not in _PUBLIC:
        msg = f"module 'multivi_nf.inference' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"multivi_nf.inference.{_PUBLIC[name]}"), name)
