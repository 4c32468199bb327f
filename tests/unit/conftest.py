"""The small mosaic and its model, shared by the rooms behind training; made where a test asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from mudata import MuData

from multivi_nf.testing.mosaics import clustered_mosaic, patterned_mosaic

if TYPE_CHECKING:
    from multivi_nf.training import MultiVI


@pytest.fixture(scope="session")
def mosaic() -> MuData:
    return patterned_mosaic()


@pytest.fixture(scope="session")
def model(mosaic: MuData) -> MultiVI:
    from multivi_nf.testing.models import make_model  # torch, which most rooms do without

    return make_model(mosaic)


@pytest.fixture(scope="session")
def mosaic_maker() -> Callable[..., MuData]:
    return clustered_mosaic
