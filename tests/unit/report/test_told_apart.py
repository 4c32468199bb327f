"""Whether counts tell cells apart: noise and depth do not, types do, also in small samples of sparse counts."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from multivi_nf.report.told_apart import halved, told_apart


def sparse_counts(
    n: int, *, types: int, seed: int, features: int = 3000, depth: float = 150, up: float = 6
) -> sp.csr_matrix:
    """Poisson counts of cells whose depth varies tenfold; with types each has a tenth of its features up."""
    profile = np.random.default_rng(99).gamma(0.5, size=(1, features))
    ups = np.where(np.random.default_rng(98).random((max(types, 1), features)) < 0.1, up, 1.0) if types else [[1.0]]
    rng = np.random.default_rng(seed)
    mean = profile * np.asarray(ups)[np.arange(n) % max(types, 1)]
    mean = mean / mean.sum(axis=1, keepdims=True) * depth * rng.uniform(0.2, 2, (n, 1))
    return sp.csr_matrix(rng.poisson(mean))


@pytest.mark.parametrize("n", [200, 1500])
def test_noise_and_depth_are_nothing(n):
    counts = sparse_counts(n, types=0, seed=1)
    halves = halved(counts, np.arange(n))
    value, axes = told_apart(halves)
    assert value < 0.15
    # axes of all cells, of which these are a part: what one half holds must not be found in the other
    few = slice(0, 150)
    assert told_apart((halves[0][few], halves[1][few]), axes)[0] < 0.2


def test_a_small_sparse_sample_is_judged_along_the_axes_of_all_cells():
    counts = sparse_counts(1500, types=4, seed=2, up=2.5)
    halves = halved(counts, np.arange(1500))
    few = tuple(half[:100] for half in halves)
    value, axes = told_apart(halves)
    assert value > 0.6
    assert told_apart(few)[0] < 0.3 < 0.5 < told_apart(few, axes)[0]


def test_a_cell_is_split_the_same_way_whoever_stands_beside_it():
    counts = sparse_counts(40, types=2, seed=3)
    whole, part = halved(counts, np.arange(40)), halved(counts[10:30], np.arange(10, 30))
    assert all((one[10:30] != two).nnz == 0 for one, two in zip(whole, part))
    assert ((whole[0] + whole[1]) != counts).nnz == 0
    assert abs(whole[0].sum() / counts.sum() - 0.5) < 0.02


def test_too_few_cells_say_nothing():
    counts = sparse_counts(20, types=2, seed=4)
    halves = halved(counts, np.arange(20))
    value, axes = told_apart(halves)
    assert np.isnan(value) and axes is None
