"""The mosaic with its latent space, UMAP, clusters and transferred labels: what `embed` writes."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from multivi_nf.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from multivi_nf.latent.embed import Embedding

NEIGHBOURS = 15
ACTIVE_KL = 0.05


def annotate(
    mosaic: MuData,
    embedding: Embedding,
    *,
    resolution: float = 1.0,
    labels: str | None = None,
    seed: int = 0,
) -> MuData:
    """Add to `mosaic` what the model says about its cells, in place.

    obsm: X_multivi, X_multivi_variance, X_multivi_<modality> (NaN rows where absent), X_umap. obs: cluster (Leiden,
    "0" the largest) and, with `labels`, <labels>_transferred and <labels>_transferred_probability. uns["multivi_nf"]
    gains "embed": batches the model never saw, active dimensions (mean KL > 0.05 nats), share of paired cells whose
    joint variance exceeds their smallest single one. obsp and uns["neighbors"]: the graph, as scanpy writes it.
    """
    mosaic.obsm["X_multivi"] = embedding.mean
    mosaic.obsm["X_multivi_variance"] = embedding.variance
    for modality, mean in embedding.by_modality.items():
        mosaic.obsm[f"X_multivi_{modality}"] = mean
    if labels is not None:
        name, probability = transfer_labels(embedding.mean, mosaic.obs, labels)
        mosaic.obs[f"{labels}_transferred"] = pd.Categorical(name)
        mosaic.obs[f"{labels}_transferred_probability"] = probability
    umap, cluster, graph = umap_and_clusters(embedding.mean, resolution, seed)
    mosaic.obsm["X_umap"] = umap
    for key in graph.obsp:
        mosaic.obsp[key] = graph.obsp[key]
    if "neighbors" in graph.uns:
        mosaic.uns["neighbors"] = graph.uns["neighbors"]
        mosaic.uns["neighbors"]["params"]["use_rep"] = "X_multivi"
    mosaic.obs["cluster"] = pd.Categorical(cluster, categories=sorted(set(cluster), key=int))
    record = json.loads(mosaic.uns["multivi_nf"]) if isinstance(mosaic.uns.get("multivi_nf"), str) else {}
    record["embed"] = {
        "unseen_batches": embedding.unseen_batches,
        "unseen_categories": embedding.unseen_categories,
        "joint_variance_exceeds_single": embedding.wider_than_single,
        "active_dimensions": int((kl_per_dimension(embedding) > ACTIVE_KL).sum()),
        "cluster_resolution": resolution,
        "seed": seed,
    }
    mosaic.uns["multivi_nf"] = json.dumps(record, sort_keys=True)
    return mosaic


def kl_per_dimension(embedding: Embedding) -> np.ndarray:
    """(n_latent,) mean over cells of KL(q(z_k) || N(0, 1)), nats (Kingma & Welling 2014, appendix B)."""
    variance = np.maximum(embedding.variance.astype(np.float64), 1e-12)
    return 0.5 * (variance + embedding.mean.astype(np.float64) ** 2 - 1 - np.log(variance)).mean(axis=0)


@contextlib.contextmanager
def kept_compilations() -> Iterator[None]:
    """Let numba keep on disk what umap-learn and pynndescent compile: without it, 10 s of every call go into that.

    Both ask numba for most of their functions without `cache=True`; where nothing can be written, nothing is kept.
    """
    import numba

    plain = numba.njit

    def njit(*given: Any, **options: Any) -> Any:
        function = given[0] if len(given) == 1 and callable(given[0]) else None
        signatures = () if function else given

        def compiled(function: Callable[..., Any]) -> Any:
            with contextlib.suppress(RuntimeError):  # no folder that numba could write to
                return plain(*signatures, **{"cache": True} | options)(function)
            return plain(*signatures, **options)(function)

        return compiled(function) if function else compiled

    numba.njit = njit
    try:
        yield
    finally:
        numba.njit = plain


def umap_and_clusters(latent: np.ndarray, resolution: float, seed: int) -> tuple[np.ndarray, list[str], AnnData]:
    """UMAP (n_cells, 2) float32, Leiden cluster of each cell, and the 15-nearest-neighbour graph of both; seeded."""
    import anndata as ad

    with warnings.catch_warnings(), kept_compilations():
        warnings.simplefilter("ignore")
        import scanpy as sc

        n = len(latent)
        graph = ad.AnnData(obs=pd.DataFrame(index=np.arange(n).astype(str)), obsm={"X": latent})
        if n < 4:
            return np.zeros((n, 2), np.float32), ["0"] * n, graph
        sc.pp.neighbors(graph, use_rep="X", n_neighbors=min(NEIGHBOURS, n - 1), random_state=seed)
        sc.tl.leiden(graph, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
        # spectral initialisation needs more cells than eigenvectors, and connected graphs
        sc.tl.umap(graph, random_state=seed, init_pos="spectral" if n > 50 else "random")
    return graph.obsm["X_umap"].astype(np.float32), graph.obs["leiden"].astype(str).tolist(), graph


def transfer_labels(latent: np.ndarray, obs: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels of unlabelled cells from their nearest labelled cells in the latent space.

    Each of the 15 nearest labelled cells votes with exp(-d^2 / (2 s^2)), s its distance to the third of them; the
    probability is the winner's share of (votes + one vote spread by the labels' frequency), so that it is never 1. A
    labelled cell keeps its label with probability 1.

    Raises
    ------
    InputError
        No such column, or no cell with a label.
    """
    from sklearn.neighbors import NearestNeighbors

    from multivi_nf.inputs.contrasts import group_labels
    from multivi_nf.inputs.labels import unlabelled

    given = group_labels(obs, column)
    known = ~unlabelled(given)
    if not known.any():
        raise InputError(
            f"no cell has a value in obs[{column!r}]",
            "labels can only be transferred from cells that have one",
            "fill the column for some samples in the samplesheet, or leave --labels out",
        )
    names, codes = np.unique(given[known].to_numpy(str), return_inverse=True)
    label = given.to_numpy(object).copy()
    probability = np.ones(len(given))
    if known.all():
        print(
            f"every cell has a value in {column!r} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}): no "
            "label was transferred; cells without one are empty, Unknown, NA or unassigned",
            file=sys.stderr,
        )
        return label.astype(str), probability
    neighbours = NearestNeighbors(n_neighbors=min(NEIGHBOURS, int(known.sum()))).fit(latent[known])
    distance, index = neighbours.kneighbors(latent[~known])
    scale = np.maximum(distance[:, min(2, distance.shape[1] - 1)], 1e-6)[:, None]
    weight = np.exp(-0.5 * (distance / scale) ** 2)
    votes = np.zeros((len(index), len(names)))
    np.add.at(votes, (np.arange(len(index))[:, None], codes[index]), weight)
    votes += np.bincount(codes, minlength=len(names)) / len(codes)
    votes /= votes.sum(axis=1, keepdims=True)
    label[~known] = names[votes.argmax(axis=1)]
    probability[~known] = votes.max(axis=1)
    return label.astype(str), probability
