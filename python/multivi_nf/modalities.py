"""The modalities, in the order that they have everywhere."""

MODALITIES = ("rna", "atac", "protein")
