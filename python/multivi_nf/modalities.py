"""The modalities, in the order that they have everywhere."""

from typing import Literal

Modality = Literal["rna", "atac", "protein"]
MODALITIES: tuple[Modality, ...] = ("rna", "atac", "protein")

SEEN = "seen_by_encoder"
"""Column of var, bool: features that the modality's encoder sees. Without it, all."""
