"""Negative controls: what a model must not do without. Scores must fall to chance on them."""

from __future__ import annotations

import anndata
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp


def shuffle_pairs(mosaic: mudata.MuData, *, seed: int = 0) -> mudata.MuData:
    """N1: give each cell of several modalities the later ones of another such cell of its batch.

    Depth and composition of every modality stay what they were; only who belongs to whom is lost.
    """
    rng = np.random.default_rng([seed, 11])
    names = list(mosaic.mod)
    several = sum(mosaic.obs_names.isin(mosaic.mod[m].obs_names).astype(int) for m in names) > 1
    batch = batches_of(mosaic)
    parts = {names[0]: mosaic.mod[names[0]].copy()}
    for modality in names[1:]:
        part = mosaic.mod[modality]
        place = mosaic.obs_names.get_indexer(part.obs_names)
        source = np.arange(part.n_obs)
        for name in np.unique(batch[place]):
            rows = np.flatnonzero((batch[place] == name) & several[place])
            source[rows] = rows[cyclic_shuffle(len(rows), rng)]
        moved = anndata.AnnData(part.X[source], obs=part.obs.copy(), var=part.var.copy())
        for layer in part.layers:
            moved.layers[layer] = part.layers[layer][source]
        moved.uns = dict(part.uns)
        parts[modality] = moved
    return joined(parts, mosaic.obs)


def batches_of(mosaic: mudata.MuData) -> np.ndarray:
    """(n_cells,) batch of each cell as text; one without a name where there is no such column."""
    return mosaic.obs["batch"].astype(str).to_numpy() if "batch" in mosaic.obs else np.full(mosaic.n_obs, "")


def joined(parts: dict[str, anndata.AnnData], obs: pd.DataFrame) -> mudata.MuData:
    """Modalities as one mosaic, with the columns of obs of the cells that it holds."""
    with mudata.set_options(pull_on_update=False):
        out = mudata.MuData(parts)
    for column in obs:
        out.obs[column] = obs[column].reindex(out.obs_names).array
    return out


def cyclic_shuffle(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) permutation of one cycle: with two or more entries none stays (Sattolo 1986)."""
    order = rng.permutation(n)
    out = np.empty(n, np.int64)
    out[order] = np.roll(order, 1)
    return out


def without_pairs(mosaic: mudata.MuData) -> mudata.MuData:
    """The same cells with every pair split into an RNA and an ATAC cell: what a model can do without any pair."""
    both = mosaic["rna"].obs_names.intersection(mosaic["atac"].obs_names)
    parts: dict[str, anndata.AnnData] = {}
    batch: dict[str, str] = {}
    for modality, shown in mosaic.mod.items():
        parts[modality] = shown.copy()
        parts[modality].obs_names = [f"{cell}.{modality}" if cell in both else cell for cell in shown.obs_names]
        batch |= dict(zip(parts[modality].obs_names, mosaic.obs["batch"].reindex(shown.obs_names).astype(str)))
    out = mudata.MuData(parts)
    out.obs["batch"] = out.obs["sample"] = [batch[cell] for cell in out.obs_names]
    for modality, part in parts.items():
        out.obs[f"has_{modality}"] = out.obs_names.isin(part.obs_names)
    shows = [[m for m in parts if out.obs[f"has_{m}"].iloc[i]] for i in range(out.n_obs)]
    out.obs["modality"] = ["+".join(names) for names in shows]
    return out


def shuffle_features(data: anndata.AnnData, *, seed: int = 0) -> anndata.AnnData:
    """N2: the same counts under permuted feature names. A model matched by name must lose them, or refuse."""
    rng = np.random.default_rng([seed, 12])
    out = data.copy()
    out.var = data.var.iloc[cyclic_shuffle(data.n_vars, rng)]
    return out


def random_counts(like: sp.spmatrix, *, seed: int = 0) -> sp.csr_matrix:
    """Counts without structure: each feature's counts permuted over the cells, so that marginals stay."""
    rng = np.random.default_rng([seed, 13])
    columns = sp.csc_matrix(like).copy()
    for j in range(columns.shape[1]):
        span = slice(columns.indptr[j], columns.indptr[j + 1])
        columns.indices[span] = rng.choice(columns.shape[0], span.stop - span.start, replace=False)
    columns.has_sorted_indices = False
    return columns.tocsr().sorted_indices()


def depth_embedding(rna: sp.spmatrix, atac: sp.spmatrix) -> tuple[np.ndarray, np.ndarray]:
    """Two one-dimensional views that hold nothing but sequencing depth (rank of it): what pairing depth alone gives."""
    return tuple(
        (np.argsort(np.argsort(np.asarray(m.sum(1)).ravel(), kind="stable"), kind="stable") / m.shape[0])[:, None]
        for m in (rna, atac)
    )


def regress_out_depth(space: np.ndarray, counts: sp.spmatrix) -> np.ndarray:
    """The embedding less its least-squares fit on log depth (and its square), cells in the same order."""
    depth = np.log1p(np.asarray(counts.sum(1)).ravel())
    depth = (depth - depth.mean()) / max(depth.std(), 1e-12)
    design = np.stack([np.ones_like(depth), depth, depth**2], axis=1)
    weights, *_ = np.linalg.lstsq(design, space, rcond=None)
    return space - design[:, 1:] @ weights[1:]
