"""Small mosaics with known structure."""

from __future__ import annotations

import json

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

PATTERNS = ("rna+atac", "rna", "atac", "rna+atac+protein")


def clustered_mosaic(
    n_cells: int = 150,
    n_genes: int = 30,
    n_peaks: int = 60,
    n_proteins: int = 8,
    *,
    modalities: tuple[str, ...] = ("rna", "atac"),
    seed: int = 0,
    batches: tuple[str, ...] = ("a", "b"),
    prefix: str = "c",
    paired: float = 0.4,
) -> MuData:
    """Three clusters of cells; a share is measured in all modalities, each other cell in one."""
    rng = np.random.default_rng(seed)
    structure = np.random.default_rng(99)
    cluster = rng.integers(0, 3, n_cells)
    names = np.array([f"{prefix}{i}" for i in range(n_cells)])
    sizes = {"rna": n_genes, "atac": n_peaks, "protein": n_proteins}
    profiles = {m: structure.gamma(1.0, 1.0, (3, n)) + 0.05 for m, n in sizes.items()}
    everything = rng.random(n_cells) < paired
    alone = rng.integers(0, len(modalities), n_cells)
    parts = {}
    for i, m in enumerate(modalities):
        rows = np.flatnonzero(everything | (alone == i))
        rate = profiles[m][cluster[rows]] * rng.gamma(5, 0.2, (rows.size, 1))
        counts = rng.poisson(rate * (0.4 if m == "atac" else 2.0)).astype(np.int32)
        counts = (counts > 0).astype(np.int32) if m == "atac" else counts
        var = pd.DataFrame(index=[f"{m}{j}" for j in range(sizes[m])])
        parts[m] = AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame(index=names[rows]), var=var)
    with mudata.set_options(pull_on_update=False):
        mosaic = MuData(parts)
    where = pd.Index(names).get_indexer(mosaic.obs_names)
    mosaic.obs["batch"] = np.array(batches)[where % len(batches)]
    mosaic.obs["cluster"] = cluster[where].astype(str)
    mosaic.obs["age"] = where.astype(float)
    return mosaic


def patterned_mosaic(
    n: int = 80,
    genes: int = 40,
    peaks: int = 50,
    proteins: int = 6,
    seed: int = 0,
    patterns: tuple[str, ...] = PATTERNS,
) -> MuData:
    """Cells of two types; cell i has the modalities of pattern i mod 4 and its batch."""
    rng = np.random.default_rng(seed)
    pattern = np.array([patterns[i % len(patterns)] for i in range(n)])
    names = np.array([f"s{i % len(patterns)}:cell{i}" for i in range(n)])
    types = rng.integers(2, size=n)
    profile = rng.gamma(1, 1, size=(2, genes))
    profile /= profile.sum(1, keepdims=True)
    rna = rng.poisson(profile[types] * rng.lognormal(5, 0.3, size=(n, 1)))
    atac = rng.binomial(1, rng.beta(1, 4, size=(2, peaks))[types])
    protein = rng.poisson(rng.gamma(2, 10, size=(2, proteins))[types])
    counts = {"rna": (rna, "g"), "atac": (atac, "chr1:"), "protein": (protein, "p")}
    parts = {}
    for modality, (values, prefix) in counts.items():
        rows = np.array([modality in p.split("+") for p in pattern])
        if not rows.any():
            continue
        columns = [f"{prefix}{k}" for k in range(values.shape[1])]
        if modality == "atac":
            columns = [f"chr1:{1000 * k}-{1000 * k + 500}" for k in range(values.shape[1])]
        var = pd.DataFrame({"symbol": [c.upper() for c in columns]}, index=columns)
        counts_csr = sparse.csr_matrix(values[rows].astype(np.int32))
        parts[modality] = AnnData(counts_csr, obs=pd.DataFrame(index=names[rows]), var=var)
    with mudata.set_options(pull_on_update=False):
        mosaic = MuData(parts)
    obs = pd.DataFrame({"batch": [name[:2] for name in names], "cell_type": [f"T{t}" for t in types]}, index=names)
    for column in obs:
        mosaic.obs[column] = obs.loc[mosaic.obs_names, column].to_numpy()
    return mosaic


def with_fragments(mosaic: MuData, seed: int = 0, share: float = 0.7) -> MuData:
    """The same mosaic with fragments of open peaks in `layers["counts"]`, 0/1 in X."""
    mosaic = mosaic.copy()
    atac = mosaic["atac"]
    counts = sparse.csr_matrix(atac.X).astype(np.int32)
    counts.data = np.random.default_rng(seed).geometric(share, counts.nnz).astype(np.int32)
    atac.layers["counts"] = counts
    return mosaic


def embedded_mosaic() -> MuData:
    """120 cells of three clusters: 40 paired, 40 RNA, 40 ATAC; genes 0-4, 5-9, 10-14 are high in clusters 0, 1, 2."""
    n, types = 120, ("B", "T", "NK")
    rng = np.random.default_rng(0)
    names = np.array([f"s{k % 2}:c{k}" for k in range(n)])
    cluster = np.arange(n) // 40
    has_rna, has_atac = np.arange(n) % 3 != 2, np.arange(n) % 3 != 1
    rate = np.full((n, 60), 2.0)
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
        "rna": AnnData(rna, pd.DataFrame(index=names[has_rna]), pd.DataFrame({"symbol": symbols}, index=genes)),
        "atac": AnnData(
            (counts > 0).astype(np.int8),
            pd.DataFrame(index=names[has_atac]),
            pd.DataFrame({"symbol": peaks}, index=peaks),
        ),
    }
    parts["atac"].layers["counts"] = counts
    with mudata.set_options(pull_on_update=False):
        mosaic = MuData(parts)
    obs = pd.DataFrame(
        {
            "sample": [name[:2] for name in names],
            "batch": "b",
            "has_rna": has_rna,
            "has_atac": has_atac,
            "has_protein": False,
            "modality": np.where(has_rna & has_atac, "rna+atac", np.where(has_rna, "rna", "atac")),
            "cluster": pd.Categorical(cluster.astype(str), categories=["0", "1", "2"]),
            "cell_type": [None if k % 5 == 0 else types[c] for k, c in enumerate(cluster)],
            "depth": rng.random(n),
        },
        index=names,
    )
    mosaic.obs = obs.loc[mosaic.obs_names]
    mosaic.obsm["X_umap"] = rng.normal(size=(n, 2)).astype(np.float32)
    mosaic.obsm["X_multivi"] = rng.normal(size=(n, 4)).astype(np.float32)
    for part in ("rna", "atac"):
        own = rng.normal(size=(n, 4)).astype(np.float32)
        own[~obs.loc[mosaic.obs_names, f"has_{part}"].to_numpy()] = np.nan
        mosaic.obsm[f"X_multivi_{part}"] = own
    graph = sparse.random(n, n, 0.1, "csr", random_state=0)
    mosaic.obsp["connectivities"] = mosaic.obsp["distances"] = graph
    mosaic.uns["neighbors"] = {"connectivities_key": "connectivities", "distances_key": "distances", "params": {}}
    mosaic.uns["multivi_nf"] = json.dumps({})
    return mosaic
