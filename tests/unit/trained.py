"""A small mosaic and model whose values tests can compute by hand."""

from __future__ import annotations

import functools

import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from multivi_nf.training import MultiVI

PATTERNS = ("rna+atac", "rna", "atac", "rna+atac+protein")


def make_mosaic(
    n: int = 80,
    genes: int = 40,
    peaks: int = 50,
    proteins: int = 6,
    seed: int = 0,
    patterns: tuple[str, ...] = PATTERNS,
) -> md.MuData:
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
    with md.set_options(pull_on_update=False):
        mosaic = md.MuData(parts)
    obs = pd.DataFrame({"batch": [name[:2] for name in names], "cell_type": [f"T{t}" for t in types]}, index=names)
    for column in obs:
        mosaic.obs[column] = obs.loc[mosaic.obs_names, column].to_numpy()
    return mosaic


def with_fragments(mosaic: md.MuData, seed: int = 0, share: float = 0.7) -> md.MuData:
    """The same mosaic with fragments of open peaks in `layers["counts"]`, 0/1 in X."""
    mosaic = mosaic.copy()
    atac = mosaic["atac"]
    counts = sparse.csr_matrix(atac.X).astype(np.int32)
    counts.data = np.random.default_rng(seed).geometric(share, counts.nnz).astype(np.int32)
    atac.layers["counts"] = counts
    return mosaic


def make_model(mosaic: md.MuData, **architecture: object) -> MultiVI:
    """An untrained model with random, not vanishing, weights."""
    options = {"n_latent": 5, "n_hidden": 16, "seed": 1, **architecture}
    model = MultiVI.from_mosaic(mosaic, **options).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adversar" not in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def with_split(model: MultiVI, mosaic: md.MuData) -> MultiVI:
    """Give a model a split in which every second pair was set apart for calibration."""
    counts = sum(np.isin(mosaic.obs_names, mosaic[m].obs_names).astype(int) for m in mosaic.mod)
    pairs = mosaic.obs_names[counts > 1]
    split = ["calibration" if i // 2 % 2 else "train" for i in range(len(pairs))]
    model.split = pd.DataFrame({"cell": pairs, "split": split})
    return model


@functools.cache
def _mosaic() -> md.MuData:
    return make_mosaic()


@pytest.fixture(scope="session")
def mosaic() -> md.MuData:
    return _mosaic()


@pytest.fixture(scope="session")
def model(mosaic: md.MuData) -> MultiVI:
    return make_model(mosaic)
