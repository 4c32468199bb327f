"""A small results folder, made by hand, whose numbers the tests know."""

from __future__ import annotations

from pathlib import Path

import pytest

from multivi_nf.testing.results import make_results


@pytest.fixture
def results_folder(tmp_path: Path) -> Path:
    return make_results(tmp_path / "results")
