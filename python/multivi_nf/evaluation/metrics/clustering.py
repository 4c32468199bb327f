"""Whether neighbours and clusters are of one type."""

from __future__ import annotations

import random
from collections.abc import Sequence

import igraph
import numpy as np
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score, silhouette_score

from multivi_nf.reduction import nearest

RESOLUTIONS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0)


Labels = Sequence[object] | np.ndarray
"""A label a cell."""


def adjusted_rand(labels: Labels, clusters: Labels) -> float:
    """Adjusted Rand index; 1 for the same partition, 0 by chance.

    Examples
    --------
    >>> adjusted_rand(["B", "B", "T", "T"], [1, 1, 0, 0])
    1.0
    """
    return float(adjusted_rand_score(labels, clusters))


def normalised_mutual_information(labels: Labels, clusters: Labels) -> float:
    """Mutual information over the arithmetic mean of the entropies."""
    return float(normalized_mutual_info_score(labels, clusters))


def macro_f1(truth: Labels, predicted: Labels) -> float:
    """Mean over true labels of their F1."""
    return float(f1_score(truth, predicted, labels=np.unique(np.asarray(truth)), average="macro", zero_division=0))


def silhouette_of_labels(space: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """Average silhouette width of the labels, scaled to 0..1, over at most 5,000 cells."""
    width = silhouette_score(space, labels, sample_size=min(len(space), 5000), random_state=seed)
    return float((width + 1) / 2)


def label_purity(space: np.ndarray, labels: np.ndarray, k: int = 15) -> float:
    """Mean share of a cell's `k` nearest cells that have its label.

    Parameters
    ----------
    space
        (n_cells, d) embedding.
    labels
        (n_cells,) labels.
    """
    return shared_label(nearest(space, space, k, same=True)[0], labels)


def shared_label(neighbours: np.ndarray, labels: np.ndarray) -> float:
    """Mean share of a cell's neighbours, (n_cells, k) indices, that have its label."""
    labels = np.asarray(labels)
    return float((labels[neighbours] == labels[:, None]).mean())


def label_transfer(source: np.ndarray, labels: np.ndarray, target: np.ndarray, k: int = 15) -> np.ndarray:
    """(n_target,) majority label of the `k` nearest source cells; ties go to the nearer cells' label.

    Examples
    --------
    >>> import numpy as np
    >>> known = np.array([[0.0], [0.1], [5.0], [5.1]])
    >>> label_transfer(known, np.array(["B", "B", "T", "T"]), np.array([[0.2], [4.0]]), k=2)
    array(['B', 'T'], dtype='<U1')
    """
    return carried_label(nearest(target, source, k)[0], labels)


def carried_label(neighbours: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n_target,) majority label of each one's neighbours, (n_target, k) indices into `labels`, nearest first."""
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    votes = np.zeros((len(neighbours), len(names)))
    for rank in range(neighbours.shape[1]):
        # a hair more for the nearer, so that ties are settled the same way everywhere
        np.add.at(votes, (np.arange(len(votes)), codes[neighbours[:, rank]]), 1 + 1e-6 * (neighbours.shape[1] - rank))
    return names[votes.argmax(1)]


def leiden_clusters(space: np.ndarray, resolutions: Sequence[float], *, k: int = 15, seed: int = 0) -> list[np.ndarray]:
    """Leiden clusters (modularity, igraph) of the symmetric `k` nearest neighbour graph, at each resolution.

    Exact neighbours and equal weights: the same for every embedding, and nothing to compile.
    """
    neighbours, _ = nearest(space, space, k, same=True)
    edges = np.sort(
        np.stack([np.repeat(np.arange(len(space)), neighbours.shape[1]), neighbours.ravel()], axis=1), axis=1
    )
    graph = igraph.Graph(n=len(space), edges=np.unique(edges, axis=0))
    found = []
    igraph.set_random_number_generator(random.Random(seed))
    try:
        for resolution in resolutions:
            parts = graph.community_leiden(objective_function="modularity", resolution=resolution, n_iterations=3)
            found.append(np.array(parts.membership))
    finally:
        igraph.set_random_number_generator(random)
    return found


def best_leiden(
    space: np.ndarray, labels: np.ndarray, *, resolutions: Sequence[float] = RESOLUTIONS, seed: int = 0
) -> dict[str, float]:
    """Agreement of Leiden clusters with the labels, at the resolution with the best ARI.

    The same grid for every embedding that is compared, so that none gains from a lucky default.

    Returns
    -------
    `ari`, `nmi`, `resolution`, `clusters`, `which` of the resolutions it is.
    """
    clusters = leiden_clusters(space, resolutions, seed=seed)
    best = best_clusters(clusters, labels)
    return best | {"resolution": float(resolutions[int(best["which"])])}


def best_clusters(clusters: Sequence[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """`ari`, `nmi` and number of `clusters` of the partition that agrees best with the labels, and `which` it is."""
    scores = [adjusted_rand(labels, found) for found in clusters]
    best = int(np.argmax(scores))
    nmi = normalised_mutual_information(labels, clusters[best])
    return {"ari": scores[best], "nmi": nmi, "clusters": len(np.unique(clusters[best])), "which": best}
