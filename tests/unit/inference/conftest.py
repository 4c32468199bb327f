from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("inference_helpers", Path(__file__).with_name("helpers.py"))
helpers = importlib.util.module_from_spec(_spec)
sys.modules["inference_helpers"] = helpers
_spec.loader.exec_module(helpers)


@pytest.fixture(scope="session")
def mosaic():
    return helpers.make_mosaic()


@pytest.fixture(scope="session")
def model(mosaic):
    return helpers.make_model(mosaic)
