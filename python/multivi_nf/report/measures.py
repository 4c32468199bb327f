"""What the verdict measures on the run's own cells: mixing, views of pairs, depth; nothing is read off the training."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from scipy.stats import rankdata

NEIGHBOURS = 30
MOST_CELLS = 6000
"""Cells that are looked at; more are represented by so many, drawn once."""
MOST_PAIRS = 2000
LEAST_CELLS = 30
"""Cells of a batch below which nothing is said of it."""
COMPONENTS = 20
GENES = 2000
LEAST_FEATURES = 20
SPLIT_CELLS, SPLIT_FEATURES, AXES = 2000, 4_000, 5
"""Cells of a sample, and features, the most frequent ones, that are split; of all cells `MOST_CELLS`, since the fewer
counts a cell has the more cells it takes to find an axis (SNARE's 79 a cell: 0.1 from 2,000 cells, 0.46 from 7,000)."""
DENSE = 0.2
"""Share of ones from which halves of 0/1 values are no longer independent: each one is in one half or the other."""
RARE = 0.02
"""Expected counts below which a deviation is not scaled up further: single counts of rare features would be all."""
SAME_KIND = 0.35
"""Agreement of two clusters' profiles from which they are one kind. Of two laboratories' blood cells clusters of one
lineage mostly agreed with 0.45 or more, of different ones with 0.3 or less."""


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
    from sklearn.neighbors import NearestNeighbors

    k = min(NEIGHBOURS, len(latent) - 1)
    index = NearestNeighbors(n_neighbors=k).fit(latent).kneighbors(return_distance=False)
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


# --------------------------------------------------------------------------------------------- without the model


def centred(counts: sp.spmatrix, batch: np.ndarray, binary: bool = False) -> np.ndarray:
    """(n_cells, n_features) log-normalised counts of variable features, each batch's mean and spread taken away.

    The model has no part in it. Features that a batch never shows are left out.
    """
    x = sp.csr_matrix(counts, dtype=np.float64)
    if binary:
        x.data[:] = 1
    shared = np.ones(x.shape[1], bool)
    for name in np.unique(batch):
        shared &= np.asarray((x[batch == name] > 0).sum(axis=0)).ravel() > 0
    x = sp.diags(1e4 / np.maximum(np.asarray(x.sum(axis=1)).ravel(), 1)) @ x[:, shared]
    x.data = np.log1p(x.data)
    # variable beyond what rarity makes so, in every batch alike
    score = np.zeros(x.shape[1])
    for name in np.unique(batch):
        part = x[batch == name]
        mean = np.asarray(part.mean(axis=0)).ravel()
        variance = np.asarray(part.multiply(part).mean(axis=0)).ravel() - mean**2
        score += rankdata(variance / np.maximum(mean, 1e-3)) * (mean > 0.01)
    dense = x.tocsc()[:, np.argsort(-score, kind="stable")[:GENES]].toarray().astype(np.float32)
    for name in np.unique(batch):
        mine = batch == name
        dense[mine] -= dense[mine].mean(axis=0)
        dense[mine] = np.clip(dense[mine] / np.maximum(dense[mine].std(axis=0), 0.1), -10, 10)
    return dense


def counterparts(values: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """(n_cells,) share of other batches among the cells of a cell's kind, in a space that the model has no part in.

    Each batch is clustered by itself; two clusters are one kind where their mean profiles agree (cosine of at least
    0.35, set against what halves of each cluster agree with each other). A kind that no other batch has gets 0.

    Parameters
    ----------
    values
        (n_cells, n_features) of :func:`centred`.
    batch
        (n_cells,) text.
    """
    from sklearn.utils.extmath import randomized_svd

    k = min(COMPONENTS, min(values.shape) - 1)
    left, scale, _ = randomized_svd(values, k, random_state=0)
    space = left * scale
    space /= np.maximum(np.linalg.norm(space, axis=1, keepdims=True), 1e-12)
    names = [name for name in np.unique(batch) if (batch == name).sum() >= LEAST_CELLS]
    kinds = [kind for name in names for kind in _kinds(values, space, np.flatnonzero(batch == name), str(name))]
    same = _agreement(kinds) >= SAME_KIND
    np.fill_diagonal(same, True)
    size, of = np.array([len(kind.cells) for kind in kinds]), np.array([kind.batch for kind in kinds])
    share = np.zeros(len(values))
    for i, kind in enumerate(kinds):
        others = size[same[i] & (of != kind.batch)].sum()
        share[kind.cells] = others / (others + size[same[i] & (of == kind.batch)].sum())
    return share


@dataclass
class _Kind:
    """A cluster of one batch: its cells, the mean profiles of two halves of them."""

    batch: str
    cells: np.ndarray
    halves: np.ndarray


def _kinds(values: np.ndarray, space: np.ndarray, cells: np.ndarray, name: str) -> list[_Kind]:
    from sklearn.cluster import KMeans

    label = KMeans(int(np.clip(len(cells) // 50, 2, 10)), n_init=2, random_state=0).fit_predict(space[cells])
    out = []
    for value in np.unique(label):
        mine = cells[label == value]
        halves = np.stack(
            [values[mine[k::2]].mean(axis=0) if len(mine) > 1 else values[mine].mean(axis=0) for k in (0, 1)]
        )
        out.append(_Kind(name, mine, halves.astype(np.float64)))
    return out


def _agreement(kinds: list[_Kind]) -> np.ndarray:
    """(n, n) cosine of mean profiles over the root of both reliabilities (Spearman & Brown on halves)."""
    mean = np.stack([kind.halves.mean(axis=0) for kind in kinds])
    length = np.maximum(np.linalg.norm(mean, axis=1), 1e-12)
    half = np.array([_cosine(*kind.halves) for kind in kinds]).clip(0.02)
    reliable = (2 * half / (1 + half)).clip(0.7)
    return (mean @ mean.T) / np.outer(length, length) / np.sqrt(np.outer(reliable, reliable))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


def agreement_of_features(counts: sp.spmatrix, batch: np.ndarray) -> dict[str, float]:
    """How far each batch's features are those of the other batches: rank correlation of mean profiles.

    Names that were swapped or shifted in one batch leave no correlation, whatever types it holds. Noise of a batch's
    own mean is allowed for by the correlation of its halves (Spearman 1904).

    Parameters
    ----------
    counts
        (n_cells, n_features)
    batch
        (n_cells,) text.

    Returns
    -------
    Batch to its correlation with the mean of the others; of batches of 30 cells or more, where 20 features are seen in
    both.
    """
    names = [name for name in np.unique(batch) if (batch == name).sum() >= LEAST_CELLS]
    halves = {name: _halves(counts, np.flatnonzero(batch == name)) for name in names}
    found = {}
    for name in names:
        others = [halves[other] for other in names if other != name]
        if not others:
            continue
        theirs = np.mean(others, axis=0)
        seen = (halves[name].sum(axis=0) > 0) & (theirs.sum(axis=0) > 0)
        if seen.sum() < LEAST_FEATURES:
            continue
        mine, theirs = halves[name][:, seen], theirs[:, seen]
        reliable = [_whole(_correlation(rankdata(a), rankdata(b))) for a, b in (mine, theirs)]
        r = _correlation(rankdata(mine.mean(axis=0)), rankdata(theirs.mean(axis=0)))
        found[str(name)] = float(np.clip(r / np.sqrt(np.prod(np.clip(reliable, 0.25, 1))), -1, 1))
    return found


def _halves(counts: sp.spmatrix, cells: np.ndarray) -> np.ndarray:
    """(2, n_features) mean profiles, each of sum 1, of every second cell and of the others."""
    sums = np.stack([np.asarray(counts[cells[k::2]].sum(axis=0)).ravel() for k in (0, 1)]).astype(np.float64)
    return sums / np.maximum(sums.sum(axis=1, keepdims=True), 1)


def _whole(half: float) -> float:
    """Reliability of the whole from the correlation of its halves (Spearman 1910, Brown 1910)."""
    return 2 * half / (1 + half) if half > 0 else 0.0


def halved(counts: sp.spmatrix, cells: np.ndarray, seed: int = 0) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Split each count in two by a fair draw: two halves as independent as two sequencing runs of the same cells.

    Parameters
    ----------
    counts
        (n_cells, n_features) whole numbers.
    cells
        (n_cells,) a number a cell: the same cell is split the same way whichever others stand beside it.
    """
    x = sp.csr_matrix(counts)
    rows = np.split(x.data.astype(np.int64), x.indptr[1:-1])
    drawn_ones = [np.random.default_rng([seed, 31, cell]).binomial(row, 0.5) for cell, row in zip(cells, rows)]
    first = np.concatenate(drawn_ones) if drawn_ones else x.data
    return tuple(sp.csr_matrix((part, x.indices, x.indptr), x.shape) for part in (first, x.data - first))


def told_apart(
    halves: tuple[sp.csr_matrix, sp.csr_matrix], along: np.ndarray | None = None
) -> tuple[float, np.ndarray | None]:
    """How far counts tell cells apart: how well one half of each cell's counts foretells what the other half shows.

    The axis along which the first half separates cells most is looked up in the second; depth has no part in it, since
    deviations are taken from what depth and the mean profile make expected (Pearson residuals; Lause, Berens & Kobak
    2021).

    Parameters
    ----------
    halves
        From :func:`halved`, (n_cells, n_features) each.
    along
        (n_features, n_axes) further axes to look along, such as this gives of more cells. A small sample of sparse
        counts differs along them although too little of it is there to find them.

    Returns
    -------
    Reliability of the best axis, for all counts together, less what is chance: 1 where noise plays no part, 0
    where cells differ by nothing but noise and depth. NaN of fewer than 30 cells, and of 0/1 values of which more than
    a fifth are 1.

    (n_features, 5) axes along which the **first** halves differ most beyond depth; None where it is NaN.
    """
    deviations = _deviations(halves)
    if deviations is None:
        return float("nan"), None
    first, second, features = deviations
    own = _axes(first)
    axes = own if along is None else np.hstack([own, along[features]])
    best = max(_correlation(p, q) for p, q in zip((first @ axes).T, (second @ axes).T))
    of_all = np.zeros((halves[0].shape[1], own.shape[1]), np.float32)
    of_all[features] = own
    return _whole(best - 2 / np.sqrt(len(first))), of_all


def _axes(deviations: np.ndarray) -> np.ndarray:
    """(n_features, 5) leading directions of a matrix of deviations."""
    from sklearn.utils.extmath import randomized_svd

    return randomized_svd(deviations, min(AXES, min(deviations.shape) - 1), n_iter=4, random_state=0)[2].T


def _deviations(halves: tuple[sp.csr_matrix, sp.csr_matrix]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Deviations of both halves of some cells in their most frequent features, and these; None: too little is there."""
    whole = (halves[0] + halves[1]).tocsr()
    rows = drawn(whole.shape[0], MOST_CELLS)
    rows = rows[np.asarray(whole[rows].sum(axis=1)).ravel() > 0]
    whole = whole[rows]
    features = np.sort(np.argsort(-np.asarray(whole.sum(axis=0)).ravel(), kind="stable")[:SPLIT_FEATURES])
    x = whole[:, features]
    if len(rows) < LEAST_CELLS or len(features) < 3 or (x.data.max() <= 1 and x.nnz > DENSE * np.prod(x.shape)):
        return None
    first, second = (_residuals(half[rows][:, features]) for half in halves)
    return first, second, features


def _residuals(counts: sp.csr_matrix) -> np.ndarray:
    """(n_cells, n_features) deviations from depth × mean profile over their Poisson s.d., within ± sqrt(n_cells)."""
    x = counts.toarray().astype(np.float32)
    mean = x.sum(axis=1, keepdims=True) * (x.sum(axis=0, keepdims=True) / max(float(x.sum()), 1.0))
    limit = np.sqrt(len(x))
    return np.clip((x - mean) / np.sqrt(np.maximum(mean, RARE)), -limit, limit)


# ------------------------------------------------------------------------------------------------ pairs, depth


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
    r = np.array([_correlation(rankdata(c), ranks) for c in components.T])
    return float((variance * r**2).sum()), float(np.abs(r[:5]).max())


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return 0.0 if a.std() == 0 else float(np.corrcoef(a, b)[0, 1])
