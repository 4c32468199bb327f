"""How well groups of cells are mixed: the local inverse Simpson index.

Korsunsky et al., Nature Methods 16:1289 (2019), Methods, and their package immunogenomics/LISI.
"""

from __future__ import annotations

import numpy as np

from multivi_nf.reduction import nearest

NEIGHBOURS = 90
PERPLEXITY = 30.0


def neighbour_weights(distances: np.ndarray, perplexity: float = PERPLEXITY) -> np.ndarray:
    """Weights exp(-beta d) of a cell's neighbours, beta such that their entropy is log(perplexity).

    Parameters
    ----------
    distances
        (n_cells, k) distances (not squared, as in the LISI package).

    Returns
    -------
    (n_cells, k) weights; rows sum to 1.
    """
    shifted = distances - distances[:, :1]
    scale = np.maximum(shifted.mean(1, keepdims=True), 1e-12)
    shifted = shifted / scale
    log_beta = np.zeros((len(shifted), 1))
    low, high = np.full_like(log_beta, -20.0), np.full_like(log_beta, 20.0)
    target = np.log(min(perplexity, distances.shape[1]))
    for _ in range(50):
        weights = np.exp(-np.exp(log_beta) * shifted)
        weights /= weights.sum(1, keepdims=True)
        entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(1, keepdims=True)
        too_wide = entropy > target
        low, high = np.where(too_wide, log_beta, low), np.where(too_wide, high, log_beta)
        log_beta = (low + high) / 2
    return weights


def group_lisi(neighbours: np.ndarray, weights: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(n_cells,) inverse Simpson index of the neighbours' groups: 1 / sum over groups of (their weight)²."""
    _, codes = np.unique(groups, return_inverse=True)
    simpson = np.zeros(len(neighbours))
    for code in range(codes.max() + 1):
        simpson += (weights * (codes[neighbours] == code)).sum(1) ** 2
    return 1 / simpson


def lisi(space: np.ndarray, groups: np.ndarray, *, k: int = NEIGHBOURS, perplexity: float = PERPLEXITY) -> np.ndarray:
    """Effective number of groups in the neighbourhood of each cell, from 1 to the number of groups.

    Parameters
    ----------
    space
        (n_cells, d) embedding.
    groups
        (n_cells,) labels of what should be mixed.

    Returns
    -------
    (n_cells,) LISI.
    """
    neighbours, distances = nearest(space, space, k, same=True)
    return group_lisi(neighbours, neighbour_weights(distances, perplexity), np.asarray(groups))


def lisi_ratio(
    space: np.ndarray,
    groups: np.ndarray,
    *,
    k: int = NEIGHBOURS,
    perplexity: float = PERPLEXITY,
    permutations: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """Median LISI, beside its value when the groups are permuted over the cells.

    Even perfect mixing gives less than the number of groups (1.91 of 2, 2.45 of 3 for shares 50/25/25), so the
    value is only read against permuted groups.

    Returns
    -------
    `median`; `permuted` (mean over permutations of the median); `ratio` = median / permuted, 1 for perfect mixing and
    1 / permuted when every neighbourhood is of one group; `scaled_ratio` = (median - 1) / (permuted - 1), which is
    then 0. NaN ratios when there is one group only.

    Examples
    --------
    >>> import numpy as np
    >>> space = np.random.default_rng(0).normal(size=(400, 2))
    >>> group = np.repeat(["a", "b"], 200)
    >>> round(lisi_ratio(space, group)["ratio"], 1)  # one cloud
    1.0
    >>> round(lisi_ratio(space + 99 * (group == "b")[:, None], group)["scaled_ratio"], 1)  # two clouds
    0.0
    """
    groups = np.asarray(groups)
    neighbours, distances = nearest(space, space, k, same=True)
    weights = neighbour_weights(distances, perplexity)
    rng = np.random.default_rng(seed)
    median = float(np.median(group_lisi(neighbours, weights, groups)))
    shuffled = [np.median(group_lisi(neighbours, weights, rng.permutation(groups))) for _ in range(permutations)]
    permuted = float(np.mean(shuffled))
    several = permuted > 1 + 1e-9
    return {
        "median": median,
        "permuted": permuted,
        "ratio": median / permuted if several else float("nan"),
        "scaled_ratio": (median - 1) / (permuted - 1) if several else float("nan"),
    }


def lisi_ratio_within(
    space: np.ndarray, groups: np.ndarray, labels: np.ndarray, *, minimum: int = 100, seed: int = 0
) -> float:
    """LISI ratio inside each label, averaged with the labels' sizes: composition cannot decide it (CiLISI).

    Labels with fewer than `minimum` cells, or with one group only, are left out. NaN when none is left.
    """
    groups, labels = np.asarray(groups), np.asarray(labels)
    ratios, sizes = [], []
    for label in np.unique(labels):
        of = labels == label
        _, counts = np.unique(groups[of], return_counts=True)
        if of.sum() < minimum or (counts >= 10).sum() < 2:
            continue
        ratios.append(lisi_ratio(space[of], groups[of], seed=seed)["ratio"])
        sizes.append(of.sum())
    return float(np.average(ratios, weights=sizes)) if sizes else float("nan")
