"""Negative controls: what a model must not do without. Scores must fall to chance on them."""

from __future__ import annotations

import anndata
import mudata
import numpy as np
import scipy.sparse as sp


def shuffle_pairs(mosaic: mudata.MuData, *, seed: int = 0) -> mudata.MuData:
    """N1: among cells measured in both RNA and ATAC, give each the ATAC of another one of the same batch.

    Depth and composition of each modality stay what they were; only who belongs to whom is lost.
    """
    rng = np.random.default_rng([seed, 11])
    mosaic = mosaic.copy()
    atac = mosaic["atac"]
    paired = mosaic["rna"].obs_names.intersection(atac.obs_names)
    rows = atac.obs_names.get_indexer(paired)
    batch = mosaic.obs["batch"].reindex(paired).astype(str).to_numpy()
    source = np.arange(atac.n_obs)
    for name in np.unique(batch):
        of = rows[batch == name]
        source[of] = of[cyclic_shuffle(of.size, rng)]
    moved = anndata.AnnData(atac.X[source], var=atac.var.copy(), obs=atac.obs.copy())
    moved.layers["counts"] = atac.layers["counts"][source] if "counts" in atac.layers else moved.X.copy()
    parts = {name: moved if name == "atac" else mosaic[name] for name in mosaic.mod}
    shuffled = mudata.MuData(parts)
    shuffled = shuffled[mosaic.obs_names].copy()
    for column in mosaic.obs:
        if column not in shuffled.obs:
            shuffled.obs[column] = mosaic.obs[column].reindex(shuffled.obs_names).to_numpy()
    return shuffled


def cyclic_shuffle(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) permutation of one cycle: with two or more entries none stays (Sattolo 1986)."""
    order = rng.permutation(n)
    out = np.empty(n, np.int64)
    out[order] = np.roll(order, 1)
    return out


def without_pairs(mosaic: mudata.MuData) -> mudata.MuData:
    """The same cells with every pair split into an RNA and an ATAC cell: what a model can do without any pair."""
    both = mosaic["rna"].obs_names.intersection(mosaic["atac"].obs_names)
    parts, batch = {}, {}
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
