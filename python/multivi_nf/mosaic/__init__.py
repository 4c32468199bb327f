"""The mosaic: all cells of all samples, each absent from the modalities that it was not measured in."""
