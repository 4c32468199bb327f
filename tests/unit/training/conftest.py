"""Small mosaics with known structure, worked on by one thread."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mudata import MuData


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small matrices are faster, and runs comparable, on one thread."""
    torch.set_num_threads(1)


@pytest.fixture
def mosaic(mosaic_maker: Callable[..., MuData]) -> MuData:
    return mosaic_maker()
