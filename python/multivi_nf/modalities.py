"""The modalities, in the order that they have everywhere."""

from collections.abc import Container
from typing import Literal

Modality = Literal["rna", "atac", "protein"]
_ALL: tuple[Modality, ...] = ("rna", "atac", "protein")
MODALITIES: tuple[str, ...] = _ALL

SEEN = "seen_by_encoder"
"""Column of var, bool: features that the modality's encoder sees. Without it, all."""


def in_order(present: Container[str]) -> list[Modality]:
    """The modalities that are among `present`."""
    return [modality for modality in _ALL if modality in present]
