from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multivi_nf.data.minibatch import SparseRows
from multivi_nf.model.sparse import binary, first_layers, log1p_rows, row_sums, tile_width, tiles_of


def sparse(x: torch.Tensor) -> SparseRows:
    row, column = x.nonzero(as_tuple=True)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), (x != 0).sum(1).cumsum(0)])
    return SparseRows(indptr, column.int(), x[row, column], x.shape[1])


@st.composite
def matrices(draw) -> torch.Tensor:
    n, p = draw(st.integers(1, 6)), draw(st.integers(1, 23))
    values = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2, 7]), min_size=n * p, max_size=n * p))
    return torch.tensor(values, dtype=torch.float64).view(n, p)


@settings(max_examples=60, deadline=None)
@given(matrices(), st.integers(1, 30))
def test_tiles_side_by_side_are_the_matrix(x, width):
    tiles = tiles_of(sparse(x), width)
    blocks = [tiles.dense(i, torch.float64) for i in range(tiles.n_tiles)]
    assert torch.equal(torch.cat(blocks, 1), x)
    assert [tiles.span(i)[1] - tiles.span(i)[0] for i in range(tiles.n_tiles)] == [b.shape[1] for b in blocks]


@settings(max_examples=40, deadline=None)
@given(matrices(), st.integers(1, 30), st.integers(0, 2**31))
def test_first_layers_are_dense_products_with_their_gradients(x, width, seed):
    torch.manual_seed(seed)
    weights = [torch.randn(x.shape[1], k, dtype=torch.float64, requires_grad=True) for k in (3, 2)]
    outputs = first_layers(tiles_of(sparse(x), width), *weights)
    for output, weight in zip(outputs, weights):
        assert torch.allclose(output, x @ weight)
    sum((output.sin() * (i + 1)).sum() for i, output in enumerate(outputs)).backward()
    for i, weight in enumerate(weights):
        expected = x.T @ ((i + 1) * (x @ weight).cos())
        assert torch.allclose(weight.grad, expected)


@settings(max_examples=30, deadline=None)
@given(matrices(), st.data())
def test_selected_rows_are_the_rows_in_order_with_repeats(x, data):
    index = torch.tensor(data.draw(st.lists(st.integers(0, x.shape[0] - 1), max_size=8)), dtype=torch.int64)
    assert torch.equal(sparse(x).take(index).dense().double(), x[index])


def test_sums_logarithms_and_binary_rows():
    x = torch.tensor([[0.0, 3.0, 1.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    rows = sparse(x)
    assert row_sums(rows).tolist() == [4, 0, 2]
    assert torch.equal(log1p_rows(rows).dense(), x.log1p())
    assert torch.equal(binary(rows).dense(), (x > 0).float())
    assert row_sums(binary(rows)).tolist() == [2, 0, 1]


def test_a_tile_holds_a_bounded_number_of_entries_whatever_the_features():
    for n_rows in (1, 128, 512, 4096):
        assert n_rows * tile_width(n_rows, 10**7, torch.device("cpu")) <= max(1 << 20, 512 * n_rows)


def test_thinned_tiles_keep_the_mean_and_the_places():
    x = torch.ones(200, 50)
    tiles = tiles_of(sparse(x), 20)
    thin = tiles.thinned(0.4, torch.Generator().manual_seed(0))
    dense = torch.cat([thin.dense(i, torch.float32) for i in range(3)], 1)
    assert sorted(dense.unique().tolist()) == [0.0, float(torch.tensor(1 / 0.6))]
    assert abs(float(dense.mean()) - 1) < 0.03
    assert torch.equal(torch.cat([tiles.dense(i, torch.float32) for i in range(3)], 1), x)
