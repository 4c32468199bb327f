"""What the verdict measures on the run's own cells: mixing, views of pairs, depth; nothing is read off the training."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata

from multivi_nf.reduction import nearest

NEIGHBOURS = 30
MOST_CELLS = 6000
"""Cells that are looked at; more are represented by so many, drawn once."""
MOST_PAIRS = 2000
LEAST_CELLS = 30
"""Cells of a batch below which nothing is said of it."""


def drawn(n: int, most: int, seed: int = 0) -> np.ndarray:
    """Positions of at most `most` of n cells, ascending; the same for the same seed."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


@dataclass
class Mixing:
    """How the cells of groups lie among each other.

    Attributes
    ----------
    ratio
        Share of a cell's neighbours that are of other groups, over what it would be if all were mixed.
    within
        The same within clusters that hold several groups; NaN without any.
    by_group
        Group to its own ratio.
    apart
        The group of the lowest ratio.
    """

    ratio: float
    within: float
    by_group: dict[str, float] = field(default_factory=dict)
    apart: str = ""


def mixing(
    latent: np.ndarray, group: np.ndarray, cluster: np.ndarray | None = None, expected: np.ndarray | None = None
) -> Mixing | None:
    """k-NN mixing of groups.

    Parameters
    ----------
    latent
        (n_cells, n_latent)
    group, cluster
        (n_cells,) text.
    expected
        (n_cells,) share of neighbours of other groups if all that can be was mixed; None: by the groups' sizes.

    Returns
    -------
    None with fewer than two groups of 30 cells.
    """
    names, sizes = np.unique(group, return_counts=True)
    names = names[sizes >= LEAST_CELLS]
    keep = np.isin(group, names)
    if len(names) < 2:
        return None
    latent, group = latent[keep], group[keep]
    other = _others(latent, group)
    if expected is None:
        share = {name: np.mean(group != name) for name in names}
        expected = np.array([share[g] for g in group])
    else:
        expected = expected[keep]
    by_group = {}
    for name in names:
        mine = group == name
        if expected[mine].mean() > 0.01:
            by_group[str(name)] = float(other[mine].mean() / expected[mine].mean())
    if not by_group:
        return Mixing(float("nan"), float("nan"))
    within = float("nan") if cluster is None else _within(other, group, cluster[keep])
    lowest = min(by_group, key=lambda name: by_group[name])
    return Mixing(float(other.mean() / expected.mean()), within, by_group, lowest)


def _others(latent: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(n_cells,) share of the nearest cells that are of another group."""
    index, _ = nearest(latent, latent, NEIGHBOURS, same=True)
    return (group[index] != group[:, None]).mean(axis=1)


def _within(other: np.ndarray, group: np.ndarray, cluster: np.ndarray) -> float:
    """Mixing within clusters of which a tenth or more is of other groups than the largest."""
    seen, wanted = [], []
    for name in np.unique(cluster):
        mine = cluster == name
        groups, sizes = np.unique(group[mine], return_counts=True)
        if mine.sum() < LEAST_CELLS or sizes.max() > 0.9 * mine.sum():
            continue
        share = dict(zip(groups, 1 - sizes / mine.sum()))
        seen.append(other[mine])
        wanted.append(np.array([share[g] for g in group[mine]]))
    return float(np.concatenate(seen).mean() / np.concatenate(wanted).mean()) if seen else float("nan")


def foscttm(one: np.ndarray, two: np.ndarray) -> float:
    """Share of cells closer than the true match, over both directions; ties count half. 0 is perfect, 0.5 chance."""
    from scipy.spatial.distance import cdist

    found = []
    for a, b in ((one, two), (two, one)):
        distance = cdist(a, b)
        true = np.diag(distance)[:, None]
        closer = (distance < true).sum(axis=1) + 0.5 * ((distance == true).sum(axis=1) - 1)
        found.append(closer.mean() / max(len(a) - 1, 1))
    return float(np.mean(found))


def depth_share(latent: np.ndarray, depth: np.ndarray) -> tuple[float, float]:
    """How far depth drives an embedding: share of its variance along depth, and the largest correlation.

    Parameters
    ----------
    latent
        (n_cells, n_latent)
    depth
        (n_cells,) counts; ranks are used.

    Returns
    -------
    Mean over principal components of their squared rank correlation with depth, weighted by their variance; the largest
    correlation among the first five.
    """
    centred = latent - latent.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    components = left * values
    variance = values**2 / max((values**2).sum(), 1e-12)
    ranks = rankdata(depth)
    if ranks.std() == 0:
        return 0.0, 0.0
    r = np.array([correlation(rankdata(c), ranks) for c in components.T])
    return float((variance * r**2).sum()), float(np.abs(r[:5]).max())


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; 0 where the first does not vary."""
    return 0.0 if a.std() == 0 else float(np.corrcoef(a, b)[0, 1])
