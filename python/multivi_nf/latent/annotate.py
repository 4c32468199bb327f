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

from multivi_nf.io.limits import object_in
from multivi_nf.latent.label_transfer import transfer_labels

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
    support: pd.DataFrame | None = None,
    split: pd.DataFrame | None = None,
    seed: int = 0,
) -> MuData:
    """Add to `mosaic` what the model says about its cells, in place.

    obsm: X_multivi, X_multivi_variance, X_multivi_<modality> (NaN rows where absent), X_umap. obs: cluster (Leiden, "0"
    the largest); with `labels`, <labels>_transferred (missing where unknown) and <labels>_probability; with `support`
    (of :func:`multivi_nf.calibration.stored.support_columns`) its columns; `split` is the model's. uns["multivi_nf"]
    gains "embed": batches the model never saw, active dimensions (mean KL > 0.05 nats), share of paired cells whose
    joint variance exceeds their smallest single one; and "labels", what transferred labels are worth. obsp and
    uns["neighbors"]: the graph, as scanpy writes it.
    """
    mosaic.obsm["X_multivi"] = embedding.mean
    mosaic.obsm["X_multivi_variance"] = embedding.variance
    for modality, mean in embedding.by_modality.items():
        mosaic.obsm[f"X_multivi_{modality}"] = mean
    if support is not None:
        for column in support:
            mosaic.obs[column] = support[column].array
    transferred = None if labels is None else _transfer(mosaic, embedding, labels, split, seed)
    umap, cluster, graph = umap_and_clusters(embedding.mean, resolution, seed)
    mosaic.obsm["X_umap"] = umap
    for key in graph.obsp:
        mosaic.obsp[key] = graph.obsp[key]
    if "neighbors" in graph.uns:
        mosaic.uns["neighbors"] = graph.uns["neighbors"]
        mosaic.uns["neighbors"]["params"]["use_rep"] = "X_multivi"
    mosaic.obs["cluster"] = pd.Categorical(cluster, categories=sorted(set(cluster), key=int))
    noted = mosaic.uns.get("multivi_nf")
    record = object_in(noted, "uns['multivi_nf'] of the mosaic") if isinstance(noted, str) else {}
    record["embed"] = {
        "unseen_batches": embedding.unseen_batches,
        "unseen_categories": embedding.unseen_categories,
        "joint_variance_exceeds_single": embedding.wider_than_single,
        "active_dimensions": int((kl_per_dimension(embedding) > ACTIVE_KL).sum()),
        "cluster_resolution": resolution,
        "seed": seed,
    }
    if transferred is not None:
        record["labels"] = transferred
    mosaic.uns["multivi_nf"] = json.dumps(record, sort_keys=True)
    return mosaic


def _transfer(
    mosaic: MuData, embedding: Embedding, column: str, split: pd.DataFrame | None, seed: int
) -> dict[str, Any]:
    """Write transferred labels into obs; what they are worth is returned, and said where it is little."""
    outside = mosaic.obs["out_of_support"].fillna(False).to_numpy(bool) if "out_of_support" in mosaic.obs else None
    held = None if split is None else mosaic.obs_names.isin(split.loc[split["split"] != "train", "cell"])
    found = transfer_labels(embedding.mean, mosaic.obs, column, embedding.by_modality, outside, held, seed)
    mosaic.obs[f"{column}_transferred"] = pd.Categorical(found.label, categories=found.record["labels"])
    mosaic.obs[f"{column}_probability"] = found.probability
    for note in found.record["notes"]:
        print(note, file=sys.stderr)
    return found.record


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
    return graph.obsm["X_umap"].astype(np.float32), by_size(graph.obs["leiden"].to_numpy()), graph


def by_size(groups: np.ndarray) -> list[str]:
    """Number groups from "0", the largest, on; of equal ones the first to appear goes first."""
    _, first, place, size = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(size), int)
    rank[np.lexsort((first, -size))] = np.arange(len(size))
    return rank[place].astype(str).tolist()
