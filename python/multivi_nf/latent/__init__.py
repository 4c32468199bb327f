"""Cells in the latent space: posteriors, map, clusters and transferred labels."""
