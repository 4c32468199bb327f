"""Synthetic mosaics of any size for the training benchmarks: a third of cells paired, a third RNA, a third ATAC."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

N_CLUSTERS = 8


def made_mosaic(n_cells: int, n_genes: int, n_peaks: int, *, seed: int = 0, rna: float = 0.25, atac: float = 0.05):
    """A MuData of `n_cells` with the given densities of RNA and ATAC."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, N_CLUSTERS, n_cells)
    names = np.array([f"cell{i}" for i in range(n_cells)])
    parts = {}
    for modality, n_features, density, measured in (
        ("rna", n_genes, rna, np.flatnonzero(np.arange(n_cells) % 3 != 2)),
        ("atac", n_peaks, atac, np.flatnonzero(np.arange(n_cells) % 3 != 1)),
    ):
        profile = rng.lognormal(0, 1, n_features) * rng.lognormal(0, 0.6, (N_CLUSTERS, n_features))
        profile *= density / profile.mean()
        rows = []
        for start in range(0, measured.size, 512):
            cells = measured[start : start + 512]
            rate = profile[cluster[cells]].astype(np.float32) * rng.gamma(5, 0.2, (cells.size, 1)).astype(np.float32)
            if modality == "rna":
                rows.append(sparse.csr_matrix(rng.poisson(rate * 1.6).astype(np.int32)))
            else:
                rows.append(sparse.csr_matrix((rng.random(rate.shape, np.float32) < rate).astype(np.int32)))
        var = pd.DataFrame(index=[f"{modality}{j}" for j in range(n_features)])
        parts[modality] = AnnData(sparse.vstack(rows, "csr"), obs=pd.DataFrame(index=names[measured]), var=var)
    with mudata.set_options(pull_on_update=False):
        mosaic = MuData(parts)
    mosaic.obs["batch"] = "one"
    mosaic.obs["cluster"] = cluster[pd.Index(names).get_indexer(mosaic.obs_names)].astype(str)
    return mosaic
