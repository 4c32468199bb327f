"""Small mosaics and models for the tests of the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from multivi_nf.data.minibatch import Minibatch, ModalityRows, SparseRows
from multivi_nf.model import ModelConfig, MultiVI

SIZES = {"rna": 17, "atac": 70, "protein": 6}
BATCHES = ("a", "b", "c")


def rows_of(x: torch.Tensor, cells: torch.Tensor, *, binary: bool = False) -> ModalityRows:
    """Rows of a dense matrix as measured rows of the cells."""
    row, column = x.nonzero(as_tuple=True)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), (x != 0).sum(1).cumsum(0)])
    values = None if binary else x[row, column].clone()
    return ModalityRows(cells, SparseRows(indptr, column.int(), values, x.shape[1]))


def build_config(modalities: tuple[str, ...] = ("rna", "atac", "protein"), **options) -> ModelConfig:
    """Configuration of three batches, the last of which measured nothing."""
    values = {
        "n_features": {m: SIZES[m] for m in modalities},
        "batches": BATCHES,
        "batch_cells": dict.fromkeys(modalities, (20, 10, 0)),
        "n_hidden": 8,
        "n_latent": 3,
        "cross_reconstruction": 0.5,
    }
    return ModelConfig(**{**values, **options})


def build_minibatch(
    present: dict[str, list[int]], n_cells: int, *, seed: int = 0, batch: list[int] | None = None, **zero: list[int]
) -> Minibatch:
    """Random counts for the cells listed by modality; cells named by modality in `zero` are measured and all zero."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for m, cells in present.items():
        x = torch.poisson(torch.full((len(cells), SIZES[m]), 0.6), generator=generator)
        for cell in zero.get(m, []):
            x[cells.index(cell)] = 0
        found[m] = rows_of(x if m != "atac" else (x > 0).float(), torch.tensor(cells), binary=m == "atac")
    codes = torch.tensor(batch if batch is not None else [i % 2 for i in range(n_cells)])
    return Minibatch(codes, found)


@pytest.fixture
def config() -> Callable[..., ModelConfig]:
    return build_config


@pytest.fixture
def minibatch() -> Callable[..., Minibatch]:
    return build_minibatch


@pytest.fixture
def mixed() -> Minibatch:
    """Nine cells in all seven patterns of three modalities, the last two unpaired."""
    present = {"rna": [0, 1, 2, 3, 7], "atac": [0, 1, 4, 5, 8], "protein": [0, 2, 4, 6]}
    return build_minibatch(present, 9)


@pytest.fixture
def model() -> Callable[..., MultiVI]:
    def build(modalities: tuple[str, ...] = ("rna", "atac", "protein"), seed: int = 0, **options) -> MultiVI:
        torch.manual_seed(seed)
        made = MultiVI(build_config(modalities, **options))
        with torch.no_grad():
            for parameter in made.parameters():
                # tables and heads that start at zero would hide mistakes
                parameter.add_(0.2 * torch.randn_like(parameter))
        return made

    return build


@pytest.fixture
def generator() -> Callable[[int], torch.Generator]:
    return lambda seed=0: torch.Generator().manual_seed(seed)
