"""Where encoders start: the data's leading directions."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from threadpoolctl import threadpool_info, threadpool_limits

from multivi_nf.data.source import Matrix
from multivi_nf.training import directions
from multivi_nf.training.directions import first_layer


def matrix_of(counts: np.ndarray, binary: bool = False) -> Matrix:
    rows = sp.csr_matrix(counts)
    rows.sort_indices()
    cells = pd.Index([f"c{i}" for i in range(counts.shape[0])])
    var = pd.DataFrame(index=[f"f{i}" for i in range(counts.shape[1])])
    values = None if binary else rows.data.astype(np.int32)
    return Matrix(cells, var, rows.indptr.astype(np.int64), rows.indices.astype(np.int32), values)


def two_types(binary: bool, n: int = 400, features: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Counts of two types that differ in half of the features, at depths that differ tenfold."""
    random = np.random.default_rng(0)
    kind = np.arange(n) % 2
    profile = np.where(np.arange(features) < features // 2, 3.0, 1.0)
    profile = np.stack([profile, profile[::-1]])
    depth = 10 ** random.uniform(-0.5, 0.5, n)
    counts = random.poisson(profile[kind] * depth[:, None])
    return ((counts > 2).astype(int) if binary else counts), kind


def leading_unit(layer: tuple[np.ndarray, np.ndarray], seen: np.ndarray) -> np.ndarray:
    hidden = seen @ layer[0] + layer[1]
    return np.linalg.svd(hidden - hidden.mean(0), full_matrices=False)[0][:, 0]


@pytest.mark.parametrize("binary", [False, True])
def test_units_tell_types_apart_and_not_depth(binary):
    counts, kind = two_types(binary)
    layer = first_layer(matrix_of(counts, binary), 16)
    seen = counts if binary else np.log1p(counts)
    unit = leading_unit(layer, seen)
    assert abs(np.corrcoef(unit, kind)[0, 1]) > 0.8
    assert abs(np.corrcoef(unit, np.log1p(counts.sum(1)))[0, 1]) < 0.3


def test_a_random_layer_does_not():
    """Control: what a random first layer sees first is depth."""
    counts, kind = two_types(binary=False)
    random = np.random.default_rng(0)
    unit = leading_unit((random.standard_normal((counts.shape[1], 16)), 0.0), np.log1p(counts))
    assert abs(np.corrcoef(unit, np.log1p(counts.sum(1)))[0, 1]) > 0.8
    assert abs(np.corrcoef(unit, kind)[0, 1]) < 0.5


def test_a_layer_is_computed_by_one_thread(monkeypatch):
    """A checkpoint's identity holds the weights that a run starts with: sums may not be added in another order."""
    seen, whole = set(), directions.leading

    def leading(*arguments, **more):
        seen.update(pool["num_threads"] for pool in threadpool_info())
        return whole(*arguments, **more)

    monkeypatch.setattr(directions, "leading", leading)
    with threadpool_limits(2):
        first_layer(matrix_of(two_types(binary=False)[0]), 16)
        assert 2 in {pool["num_threads"] for pool in threadpool_info()}, "control, and given back"
    assert seen and seen <= {0, 1}


def test_units_have_mean_zero_and_variance_one_on_average():
    counts, _ = two_types(binary=False)
    weight, bias = first_layer(matrix_of(counts), 16)
    assert weight.dtype == bias.dtype == np.float32 and weight.shape == (60, 16)
    units = np.log1p(counts) @ weight + bias
    assert np.allclose(units.mean(0), 0, atol=1e-4)
    assert units.std(0).mean() == pytest.approx(1, rel=1e-4)


def test_same_seed_same_bytes_and_other_seed_other_rotation():
    matrix = matrix_of(two_types(binary=True)[0], binary=True)
    one, same, other = first_layer(matrix, 8), first_layer(matrix, 8), first_layer(matrix, 8, seed=1)
    assert one[0].tobytes() == same[0].tobytes() and one[1].tobytes() == same[1].tobytes()
    assert not np.allclose(one[0], other[0])


def test_cells_are_drawn_where_there_are_many(monkeypatch):
    monkeypatch.setattr("multivi_nf.training.directions.N_CELLS", 100)
    counts, kind = two_types(binary=False)
    unit = leading_unit(first_layer(matrix_of(counts), 16), np.log1p(counts))
    assert abs(np.corrcoef(unit, kind)[0, 1]) > 0.8


@pytest.mark.parametrize(
    "counts",
    [np.ones((2, 50), int), np.ones((50, 2), int), np.zeros((20, 20), int), np.ones((20, 20), int)],
    ids=["two cells", "two features", "all empty", "constant"],
)
def test_without_a_direction_there_is_none(counts):
    assert first_layer(matrix_of(counts), 8) is None


def test_empty_cells_change_nothing():
    counts, _ = two_types(binary=False)
    padded = np.vstack([counts, np.zeros((3, counts.shape[1]), int)])
    with_empty, without = first_layer(matrix_of(padded), 8), first_layer(matrix_of(counts), 8)
    assert np.allclose(with_empty[0], without[0])


def test_models_start_there_and_the_reference_s_formulas_do_not(mosaic):
    from multivi_nf.data.source import source_of
    from multivi_nf.training import MultiVI

    assert isinstance(mosaic["rna"], anndata.AnnData)
    source = source_of(mosaic)
    batch = source.batch[source.obs.index.get_indexer(source.matrices["rna"].cells)]
    expected = first_layer(source.matrices["rna"], 16, seed=3, batch=batch)
    model = MultiVI.from_mosaic(mosaic, seed=3, n_hidden=16)
    assert np.array_equal(model.encoders["rna"].weight.detach().numpy(), expected[0])
    assert np.array_equal(model.encoders["rna"].bias.detach().numpy(), expected[1])
    apart = MultiVI.from_mosaic(mosaic, seed=3, n_hidden=16, batch_integration=0)
    kept = first_layer(source.matrices["rna"], 16, seed=3)
    assert np.array_equal(apart.encoders["rna"].weight.detach().numpy(), kept[0])
    assert not np.array_equal(kept[0], expected[0])
    plain = MultiVI.from_mosaic(mosaic, seed=3, n_hidden=16, compat="scvi")
    assert not np.allclose(plain.encoders["rna"].weight.detach().numpy(), expected[0])


def with_a_batch_shift(n: int = 400, features: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two types, and two batches that differ in a quarter of the features more than types do."""
    random = np.random.default_rng(1)
    kind, batch = np.arange(n) % 2, np.arange(n) // (n // 2)
    profile = np.where(np.arange(features) < features // 2, 3.0, 1.5)
    shift = np.where(np.arange(features) % 4 == 0, 6.0, 1.0)
    counts = random.poisson(np.stack([profile, profile[::-1]])[kind] * np.where(batch[:, None] == 1, shift, 1.0))
    return counts, kind, batch


def test_what_separates_the_means_of_batches_is_left_out():
    counts, kind, batch = with_a_batch_shift()
    seen = np.log1p(counts)
    blind = leading_unit(first_layer(matrix_of(counts), 16, batch=batch.astype(str)), seen)
    assert abs(np.corrcoef(blind, kind)[0, 1]) > 0.8
    assert abs(np.corrcoef(blind, batch)[0, 1]) < 0.2
    sighted = leading_unit(first_layer(matrix_of(counts), 16), seen)
    assert abs(np.corrcoef(sighted, batch)[0, 1]) > 0.5, "control: the first direction holds the batch"


def test_one_batch_leaves_the_directions_as_they_are():
    counts, _ = two_types(binary=True)
    matrix = matrix_of(counts, binary=True)
    plain, one = first_layer(matrix, 8), first_layer(matrix, 8, batch=np.full(400, "a"))
    assert plain[0].tobytes() == one[0].tobytes() and plain[1].tobytes() == one[1].tobytes()


def test_of_many_batches_only_the_leading_directions_are_left_out(monkeypatch):
    """40 batches of 60 features would leave little: what remains still tells the types."""
    counts, kind = two_types(binary=False)
    unit = leading_unit(first_layer(matrix_of(counts), 16, batch=np.arange(400) // 10), np.log1p(counts))
    assert abs(np.corrcoef(unit, kind)[0, 1]) > 0.8
