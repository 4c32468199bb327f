from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multivi_nf.training.split import split_cells, split_table


def presence(n_paired: int, n_rna: int, n_atac: int) -> dict[str, np.ndarray]:
    rna = np.r_[np.ones(n_paired + n_rna, bool), np.zeros(n_atac, bool)]
    atac = np.r_[np.ones(n_paired, bool), np.zeros(n_rna, bool), np.ones(n_atac, bool)]
    return {"rna": rna, "atac": atac}


def count(roles: np.ndarray) -> dict[str, int]:
    return {role: int((roles == role).sum()) for role in ("train", "validation", "calibration")}


@pytest.mark.parametrize(
    ("pairs", "calibration"),
    [(0, 0), (67, 6), (194, 19), (195, 39), (299, 39), (300, 100), (600, 100), (1000, 100), (5000, 500)],
)
def test_calibration_takes_a_tenth_of_the_pairs_and_100_where_that_is_no_more_than_a_third(pairs, calibration):
    has = presence(pairs, 200, 200)
    roles = split_cells(has, np.full(pairs + 400, "a"), 0)
    assert count(roles)["calibration"] == calibration
    assert (roles[pairs:] != "calibration").all()


def test_two_hundred_cells_mostly_train():
    roles = split_cells(presence(67, 67, 66), np.full(200, "a"), 0)
    assert count(roles) == {"train": 175, "validation": 19, "calibration": 6}


def test_a_million_cells_are_split_in_seconds_and_validation_is_capped():
    n = 1_000_000
    batch = np.array([f"b{i}" for i in range(50)])[np.arange(n) % 50]
    roles = split_cells(presence(n // 4, n // 2, n // 4), batch, 0)
    assert count(roles)["validation"] == 10_000


def test_each_stratum_gives_its_share():
    has = presence(500, 300, 200)
    batch = np.where(np.arange(1000) % 4 == 0, "small", "large")
    roles = split_cells(has, batch, 3)
    for rna, atac in ((True, True), (True, False), (False, True)):
        for name in ("small", "large"):
            stratum = (has["rna"] == rna) & (has["atac"] == atac) & (batch == name)
            expected = 0.1 * ((roles != "calibration") & stratum).sum()
            assert abs((roles[stratum] == "validation").sum() - expected) <= 1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(1, 5), st.integers(0, 3))
def test_every_stratum_keeps_a_training_cell_and_a_seed_repeats(paired, rna, atac, n_batches, seed):
    has = presence(paired, rna, atac)
    n = paired + rna + atac
    batch = np.array([f"b{i % n_batches}" for i in range(n)], dtype=object)
    roles = split_cells(has, batch, seed)
    assert (roles == split_cells(has, batch, seed)).all()
    for key in {(r, a, b) for r, a, b in zip(has["rna"], has["atac"], batch)}:
        stratum = (has["rna"] == key[0]) & (has["atac"] == key[1]) & (batch == key[2])
        assert (roles[stratum] == "train").any()


def test_another_seed_gives_another_split():
    has, batch = presence(100, 100, 100), np.full(300, "a")
    assert (split_cells(has, batch, 0) != split_cells(has, batch, 1)).any()
    assert list(split_table(np.arange(3), np.array(["train"] * 3)).columns) == ["cell", "split"]
