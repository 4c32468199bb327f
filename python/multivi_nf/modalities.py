"""The modalities, in the order that they have everywhere."""

MODALITIES = ("rna", "atac", "protein")

SEEN = "seen_by_encoder"
"""Column of var, bool: features that the modality's encoder sees. Without it, all."""
