"""A mosaic whose markers, types and places are planted by hand."""

from __future__ import annotations

import mudata
import pytest

from multivi_nf.testing.mosaics import embedded_mosaic


@pytest.fixture
def embedded() -> mudata.MuData:
    return embedded_mosaic()
