"""A mosaic whose markers, types and places are planted by hand."""

from __future__ import annotations

import json

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

N = 120
TYPES = ("B", "T", "NK")


def make_embedded() -> mudata.MuData:
    """120 cells of three clusters: 40 paired, 40 RNA, 40 ATAC; genes 0-4, 5-9, 10-14 are high in clusters 0, 1, 2."""
    rng = np.random.default_rng(0)
    names = np.array([f"s{k % 2}:c{k}" for k in range(N)])
    cluster = np.arange(N) // 40
    has_rna, has_atac = np.arange(N) % 3 != 2, np.arange(N) % 3 != 1
    rate = np.full((N, 60), 2.0)
    for k in range(3):
        rate[np.ix_(cluster == k, range(5 * k, 5 * k + 5))] = 12.0
    rna = sparse.csr_matrix(rng.poisson(rate[has_rna]).astype(np.int32))
    counts = sparse.csr_matrix(rng.poisson(0.6, (has_atac.sum(), 20)).astype(np.int32))
    genes = [f"ENSG{k:03d}" for k in range(60)]
    symbols = [f"G{k}" for k in range(60)]
    symbols[7] = "G6"
    symbols[8] = ""
    peaks = [f"chr1:{1000 * k + 1000}-{1000 * k + 1500}" for k in range(20)]
    parts = {
        "rna": ad.AnnData(rna, pd.DataFrame(index=names[has_rna]), pd.DataFrame({"symbol": symbols}, index=genes)),
        "atac": ad.AnnData(
            (counts > 0).astype(np.int8),
            pd.DataFrame(index=names[has_atac]),
            pd.DataFrame({"symbol": peaks}, index=peaks),
        ),
    }
    parts["atac"].layers["counts"] = counts
    with mudata.set_options(pull_on_update=False):
        mosaic = mudata.MuData(parts)
    obs = pd.DataFrame(
        {
            "sample": [name[:2] for name in names],
            "batch": "b",
            "has_rna": has_rna,
            "has_atac": has_atac,
            "has_protein": False,
            "modality": np.where(has_rna & has_atac, "rna+atac", np.where(has_rna, "rna", "atac")),
            "cluster": pd.Categorical(cluster.astype(str), categories=["0", "1", "2"]),
            "cell_type": np.where(np.arange(N) % 5 == 0, None, np.array(TYPES)[cluster]),
            "depth": rng.random(N),
        },
        index=names,
    )
    mosaic.obs = obs.loc[mosaic.obs_names]
    mosaic.obsm["X_umap"] = rng.normal(size=(N, 2)).astype(np.float32)
    mosaic.obsm["X_multivi"] = rng.normal(size=(N, 4)).astype(np.float32)
    for part in ("rna", "atac"):
        own = rng.normal(size=(N, 4)).astype(np.float32)
        own[~obs.loc[mosaic.obs_names, f"has_{part}"].to_numpy()] = np.nan
        mosaic.obsm[f"X_multivi_{part}"] = own
    graph = sparse.random(N, N, 0.1, "csr", random_state=0)
    mosaic.obsp["connectivities"] = mosaic.obsp["distances"] = graph
    mosaic.uns["neighbors"] = {"connectivities_key": "connectivities", "distances_key": "distances", "params": {}}
    mosaic.uns["multivi_nf"] = json.dumps({})
    return mosaic


@pytest.fixture
def embedded() -> mudata.MuData:
    return make_embedded()
