"""How much of the latent space is used."""

from __future__ import annotations

import numpy as np


def kl_per_dimension(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(d,) mean over cells of KL(N(mean, variance) || N(0, 1)) of each dimension, in nats.

    Kingma & Welling 2014, appendix B. Parameters are (n_cells, d).
    """
    mean, variance = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
    return (0.5 * (mean**2 + variance - np.log(variance) - 1)).mean(0)


def active_dimensions(mean: np.ndarray, variance: np.ndarray, threshold: float = 0.05) -> int:
    """Number of latent dimensions whose mean KL from the prior exceeds `threshold` nats."""
    return int((kl_per_dimension(mean, variance) > threshold).sum())
