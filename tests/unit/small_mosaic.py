"""Small mosaics with known structure, made here."""

from __future__ import annotations

from collections.abc import Callable

import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse


def make_mosaic(
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


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small matrices are faster, and runs comparable, on one thread."""
    torch.set_num_threads(1)


@pytest.fixture
def mosaic() -> MuData:
    return make_mosaic()


@pytest.fixture(scope="session")
def mosaic_maker() -> Callable[..., MuData]:
    return make_mosaic
