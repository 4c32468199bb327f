"""A mosaic as the model meets it: rows by modality, minibatches, and random numbers that belong to a cell."""
