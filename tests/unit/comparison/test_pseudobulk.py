from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from multivi_nf.comparison.pseudobulk import comparable, false_discovery_rate, pseudobulks, replicate_test
from multivi_nf.data.mosaic_data import MosaicData


def simulate(rng, n_features: int, n_replicates: int, log_fold: np.ndarray | float, mean: np.ndarray) -> dict:
    between = rng.normal(0, 0.2, size=(n_replicates, n_features))
    return {f"r{i}": rng.poisson(mean * np.exp(log_fold + between[i])) for i in range(n_replicates)}


@pytest.mark.parametrize("blocked", [True, False])
def test_null_p_values_are_uniform(blocked):
    rng = np.random.default_rng(0)
    mean = rng.gamma(2, 50, size=4000)
    target, reference = (simulate(rng, 4000, 4, 0.0, mean) for _ in range(2))
    if not blocked:
        reference = {f"q{k}": v for k, v in reference.items()}
    p = replicate_test(target, reference)
    assert stats.kstest(p, "uniform").statistic < 0.04
    assert abs((p < 0.05).mean() - 0.05) < 0.015


def test_power_against_a_true_change():
    rng = np.random.default_rng(1)
    mean = np.full(1000, 200.0)
    change = np.where(np.arange(1000) < 100, np.log(2), 0)
    target = simulate(rng, 1000, 4, change, mean)
    reference = {f"q{k}": v for k, v in simulate(rng, 1000, 4, 0.0, mean).items()}
    called = false_discovery_rate(replicate_test(target, reference)) <= 0.05
    assert called[:100].mean() > 0.8 and called[100:].mean() < 0.02


def test_rules_of_replication():
    assert comparable({"a", "b"}, {"a", "b"}) == "blocked"
    assert comparable({"a", "b", "c"}, {"d", "e", "f"}) == "independent"
    assert comparable({"a", "b", "c"}, {"d", "e"}) == "independent"
    assert comparable({"a", "b", "c"}, {"d"}) is None
    assert comparable({"a", "b", "c"}, {"c", "d"}) is None
    assert comparable({"a"}, {"a"}) is None
    assert comparable({"a", "b", "c", "x"}, {"a", "b", "c", "y"}) == "blocked"
    assert replicate_test({"a": np.ones(3)}, {"b": np.ones(3)}) is None


def test_unseen_features_have_p_one():
    zero = {f"{g}{i}": np.array([0, 10 + i, 20]) for g in "ab" for i in range(3)}
    p = replicate_test({k: v for k, v in zero.items() if k[0] == "a"}, {k: v for k, v in zero.items() if k[0] == "b"})
    assert p[0] == 1


def test_benjamini_hochberg_as_scipy():
    p = np.random.default_rng(0).random(50) ** 2
    np.testing.assert_allclose(false_discovery_rate(p), stats.false_discovery_control(p))
    with_nan = false_discovery_rate(np.array([0.01, np.nan, 0.02]))
    np.testing.assert_allclose(with_nan, [0.02, np.nan, 0.02])


def test_pseudobulks_count_measured_cells_only(model, mosaic):
    data = MosaicData(mosaic, model)
    batch = data.source.batch.astype(str)
    sums = pseudobulks(data, np.arange(data.n_cells), batch, "rna")
    assert set(sums) == {"s0", "s1", "s3"}
    rows = mosaic["rna"].obs_names.str.startswith("s1")
    np.testing.assert_array_equal(sums["s1"], np.asarray(mosaic["rna"].X[rows].sum(0)).ravel())


@pytest.mark.parametrize("differ", [0, 3])
def test_proteins_are_compared_per_cell_not_as_shares_of_the_panel(differ):
    """Ten proteins, three of them fivefold in the target: as shares the other seven would seem to fall."""
    rng = np.random.default_rng(3)
    mean, change = np.full(10, 20.0), np.ones(10)
    change[:differ] = 5.0
    cells = {f"r{k}": 100 + 20 * k for k in range(8)}
    level = {name: rng.lognormal(0, 0.05, 10) for name in cells}
    bulk = {
        name: rng.poisson(mean * (change if k < 4 else 1) * level[name] * cells[name]).astype(float)
        for k, name in enumerate(cells)
    }
    sides = [{n: bulk[n] for n in list(cells)[half]} for half in (slice(4), slice(4, 8))]
    n_cells = tuple({n: cells[n] for n in side} for side in sides)
    called = false_discovery_rate(replicate_test(*sides, n_cells)) <= 0.05
    assert called[:differ].all() and not called[differ:].any()
    if differ:
        shares = false_discovery_rate(replicate_test(*sides)) <= 0.05
        assert shares[differ:].all(), "totals of the panel made no difference"
