"""Rows of the integration benchmark are computed once, and kept as they come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks.quality import integration
from tests.conftest import skip_or_fail

KEY = {"data": "P", "data_hash": "d", "code_hash": "c", "method": "ours", "seed": 0}


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "results" / "integration.tsv"
    monkeypatch.setattr(integration, "RESULTS", path)
    return path


def test_a_row_is_appended_as_it_comes_and_computed_once(results):
    calls = []

    def compute() -> dict[str, float]:
        calls.append(1)
        return {"mix": 0.81234567, "purity": 0.9}

    integration.kept(KEY, compute)
    integration.kept(KEY, compute)
    assert len(calls) == 1
    integration.kept({**KEY, "seed": 1}, compute)
    integration.kept({**KEY, "code_hash": "other"}, compute)
    assert len(calls) == 3
    table = pd.read_csv(results, sep="\t")
    assert list(table.columns) == integration.COLUMNS
    assert table["value"].tolist() == [0.8123, 0.9] * 3


def test_what_fails_leaves_no_row(results):
    def compute() -> dict[str, float]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        integration.kept(KEY, compute)
    assert not results.exists()


def test_scores_are_those_of_the_shared_script(results):
    if not (integration.SHARED / "integration" / "score.py").is_file():
        skip_or_fail("the shared sets are not beside the checkout")
    random = np.random.default_rng(0)
    obs = pd.DataFrame({"group": ["A", "B"] * 200, "lineage": ["x", "x", "y", "y"] * 100, "label": "t", "batch": "b"})
    mixed = random.normal(size=(400, 3)) + 20 * (obs["lineage"] == "y").to_numpy()[:, None]
    found = integration.scores_of(integration.scorer(), obs, mixed)
    assert found["mix_of_ceiling"] == pytest.approx(1, abs=0.05) and found["purity"] == 1
    apart = mixed + 100 * (obs["group"] == "B").to_numpy()[:, None]
    assert integration.scores_of(integration.scorer(), obs, apart)["mix"] == 0
