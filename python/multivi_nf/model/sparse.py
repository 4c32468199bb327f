"""Sparse rows met in tiles of features, so that nothing of size cells x peaks is ever held."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from multivi_nf.data.minibatch import SparseRows

CPU_TILE_ELEMENTS = 1 << 18
"""Entries of one dense tile on the CPU: 1 MB, so that its passes stay in the caches."""
DEVICE_TILE_ELEMENTS = 1 << 25
"""The same on a GPU, where few large kernels are better than many small ones."""


def tile_width(n_rows: int, n_features: int, device: torch.device) -> int:
    """Features per tile: a multiple of 256, at least 512, sized by the number of rows and the device."""
    elements = CPU_TILE_ELEMENTS if device.type == "cpu" else DEVICE_TILE_ELEMENTS
    width = max(512, elements // max(n_rows, 1) // 256 * 256)
    return min(width, n_features)


@dataclass
class Tiles:
    """The stored entries of `SparseRows`, grouped by tile of features.

    Attributes
    ----------
    width
        Features per tile (the last tile may be narrower).
    bounds
        Entry offsets of each tile, n_tiles + 1 Python integers.
    row, flat
        (nnz,) int64 row, and position in the flattened (n_rows, width) tile, of each entry, grouped by tile.
    values
        (nnz,) values in that order, or None where all are 1.
    """

    n_rows: int
    n_features: int
    width: int
    bounds: list[int]
    row: torch.Tensor
    flat: torch.Tensor
    values: torch.Tensor | None

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return len(self.bounds) - 1

    def span(self, tile: int) -> tuple[int, int]:
        """First and one past last feature of a tile."""
        return tile * self.width, min((tile + 1) * self.width, self.n_features)

    def entries(self, tile: int) -> slice:
        """Where a tile's entries lie."""
        return slice(self.bounds[tile], self.bounds[tile + 1])

    def dense(self, tile: int, dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
        """(n_rows, width) dense tile; `out` is a flat buffer that is used again from tile to tile."""
        where = self.entries(tile)
        start, stop = self.span(tile)
        n = self.n_rows * (stop - start)
        block = self.buffer(dtype)[:n].zero_() if out is None else out[:n].zero_()
        if self.values is None:
            block.index_fill_(0, self.flat[where], 1)
        else:
            block.index_copy_(0, self.flat[where], self.values[where].to(dtype))
        return block.view(self.n_rows, stop - start)

    def thinned(self, rate: float, generator: torch.Generator) -> Tiles:
        """The same entries with a share `rate` of them set to 0 at random, the others scaled up to keep the mean."""
        kept = torch.rand(self.flat.numel(), generator=generator, device=self.flat.device) >= rate
        scale = kept.to(torch.get_default_dtype()).div_(1 - rate)
        values = scale if self.values is None else scale * self.values
        return dataclasses.replace(self, values=values)

    def logged(self) -> Tiles:
        """The same entries with log(1 + count) as values; without values (0/1) as they are."""
        return self if self.values is None else dataclasses.replace(self, values=self.values.log1p())

    def buffer(self, dtype: torch.dtype) -> torch.Tensor:
        """Flat buffer that holds any tile."""
        return torch.empty(self.n_rows * self.width, dtype=dtype, device=self.row.device)


def tiles_of(rows: SparseRows, width: int | None = None) -> Tiles:
    """Group the entries of sparse rows by tile of features.

    Rows hold ascending indices, so that each (row, tile) is a contiguous run of entries: its ends are found by
    binary search, and no sort is needed.

    Parameters
    ----------
    rows
        The rows, of n_features columns.
    width
        Features per tile; chosen from the size and the device where it is None.
    """
    device = rows.indices.device
    n, p = rows.n_rows, rows.n_features
    width = tile_width(n, p, device) if width is None else min(width, p)
    n_tiles = -(-p // width)
    row = rows.row_index()
    if n_tiles == 1:
        return Tiles(n, p, width, [0, row.numel()], row, torch.add(rows.indices, row, alpha=p), rows.values)
    key = torch.add(rows.indices, row, alpha=p)
    edges = torch.arange(n_tiles + 1, device=device).mul_(width).clamp_(max=p)
    edges = edges.unsqueeze(1) + torch.arange(n, device=device).mul_(p)
    ends = torch.searchsorted(key, edges)
    starts, lengths = ends[:-1].reshape(-1), (ends[1:] - ends[:-1]).reshape(-1)
    before = lengths.cumsum(0) - lengths
    order = torch.repeat_interleave(starts - before, lengths, output_size=key.numel())
    order += torch.arange(key.numel(), device=device)
    bounds = [*before.view(n_tiles, n)[:, 0].tolist(), key.numel()] if n else [0] * (n_tiles + 1)
    # a key is row * p + feature; its place in the tile is row * (tile's width) + feature - (tile's start)
    row, flat = row[order], key[order]
    flat.sub_(row, alpha=p - width)
    for tile in range(1, n_tiles):
        flat[bounds[tile] : bounds[tile + 1]] -= tile * width
    last = slice(bounds[-2], bounds[-1])
    flat[last].sub_(row[last], alpha=n_tiles * width - p)
    return Tiles(n, p, width, bounds, row, flat, None if rows.values is None else rows.values[order])


def log1p_rows(rows: SparseRows) -> SparseRows:
    """The same rows with log(1 + count) as values; rows without values (0/1) are returned as they are."""
    if rows.values is None:
        return rows
    return SparseRows(rows.indptr, rows.indices, rows.values.log1p(), rows.n_features)


def binary(rows: SparseRows) -> SparseRows:
    """The same rows with every stored count read as 1."""
    return rows if rows.values is None else SparseRows(rows.indptr, rows.indices, None, rows.n_features)


def row_sums(rows: SparseRows) -> torch.Tensor:
    """(n_rows,) sum of each row, float."""
    if rows.values is None:
        return rows.indptr.diff().to(torch.get_default_dtype())
    out = torch.zeros(rows.n_rows, dtype=rows.values.dtype, device=rows.values.device)
    return out.index_add_(0, rows.row_index(), rows.values)


class _FirstLayers(torch.autograd.Function):
    """x W for sparse x and several dense W (n_features, n_out), in tiles; x gets no gradient."""

    @staticmethod
    def forward(ctx: Any, tiles: Tiles, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.tiles, ctx.shapes = tiles, [w.shape for w in weights]
        dtype = weights[0].dtype
        outputs = [torch.zeros(tiles.n_rows, w.shape[1], dtype=dtype, device=w.device) for w in weights]
        buffer = tiles.buffer(dtype)
        for tile in range(tiles.n_tiles):
            start, stop = tiles.span(tile)
            block = tiles.dense(tile, dtype, buffer)
            for output, weight in zip(outputs, weights):
                output.addmm_(block, weight[start:stop])
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tiles: Tiles = ctx.tiles
        dtype = gradients[0].dtype
        result = [torch.empty(shape, dtype=dtype, device=gradients[0].device) for shape in ctx.shapes]
        buffer = tiles.buffer(dtype)
        for tile in range(tiles.n_tiles):
            start, stop = tiles.span(tile)
            block = tiles.dense(tile, dtype, buffer).T
            for out, gradient in zip(result, gradients):
                torch.mm(block, gradient, out=out[start:stop])
        return (None, *result)


def first_layers(tiles: Tiles, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Multiply sparse rows with one or more weight matrices, each tile made dense once for all of them.

    Parameters
    ----------
    tiles
        (n_rows, n_features) rows grouped by tile.
    *weights
        (n_features, n_out) each.

    Returns
    -------
    tuple
        One (n_rows, n_out) tensor per weight; gradients flow to the weights.
    """
    return _FirstLayers.apply(tiles, *weights)
