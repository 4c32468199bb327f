"""A cell's likelihood scores what its encoder did not see.

An encoder that sees the counts which its decoder is scored on learns a cell's noise by heart. In training a share r of
the counts is therefore hidden, H ~ Bin(x, r), the encoder sees S = x - H, and where z was drawn from that encoder the
decoder is scored on H alone, 1/r times; where it was not, on all of x (docs/explanation/model.md, "Thinning").
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from multivi_nf.data.minibatch import SparseRows
from multivi_nf.model.generative import Observed
from multivi_nf.model.sparse import Tiles

THINNED = ("rna", "atac")
"""Modalities that are thinned. A protein's thousands of counts tell no less when halved: there is little to hide."""


@dataclass
class Halves:
    """What is hidden of a modality's rows.

    Attributes
    ----------
    rate
        r, the share hidden.
    hidden
        (nnz,) H, whole numbers, in the order in which the likelihood meets the entries: tiles' for atac, else rows'.
    """

    rate: float
    hidden: torch.Tensor


def split(
    values: torch.Tensor | None, n: int, rate: float, generator: torch.Generator, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """S and H of counts: (n,) float each, whole numbers whose sum is the count.

    Parameters
    ----------
    values
        (n,) counts; None is 1 each.
    n
        Their number.
    rate
        Share hidden.
    generator, device
        Of the draws.
    """
    hidden = (torch.rand(n, generator=generator, device=device) < rate).to(torch.get_default_dtype())
    if values is None:
        return 1 - hidden, hidden
    several = (values != 1).nonzero().squeeze(1)
    if several.numel():
        counts = values[several].to(hidden.dtype)
        hidden[several] = torch.binomial(counts, torch.full_like(counts, rate), generator=generator)
    return values - hidden, hidden


def thinned_tiles(tiles: Tiles, rate: float, generator: torch.Generator) -> tuple[Tiles, Halves]:
    """The same entries as the encoder sees them, S / (1 - r), which keeps their mean, and what is hidden."""
    shown, hidden = split(tiles.values, tiles.flat.numel(), rate, generator, tiles.flat.device)
    return dataclasses.replace(tiles, values=shown.div_(1 - rate)), Halves(rate, hidden)


def thinned_rows(rows: SparseRows, rate: float, generator: torch.Generator) -> tuple[SparseRows, Halves]:
    """The same of rows; entries that are hidden whole stay, as 0."""
    shown, hidden = split(rows.values, rows.indices.numel(), rate, generator, rows.indices.device)
    return dataclasses.replace(rows, values=shown.div_(1 - rate)), Halves(rate, hidden)


def scored(seen: Observed, halves: Halves, used: torch.Tensor, *, open_or_not: bool, observed_size: bool) -> Observed:
    """What the likelihood is to score: H with weight 1/r where z was drawn from this modality, else all of x.

    Parameters
    ----------
    seen
        Rows with all their counts.
    halves
        What their encoder did not see.
    used
        (n_rows,) bool: z was drawn from this modality (perhaps among others).
    open_or_not
        Entries are 0/1: 0 then marks one that its encoder saw, which says nothing.
    observed_size
        The size is the logarithm of the row's own total, and becomes that of what is scored.
    """
    counts, tiles, size = seen.counts, seen.tiles, seen.size
    row = counts.row_index() if tiles is None else tiles.row
    part = torch.where(used, halves.rate, 1.0).to(seen.weight.dtype)
    all_of_it = torch.ones_like(halves.hidden)
    if not open_or_not:
        given = counts.values if tiles is None else tiles.values
        all_of_it = all_of_it if given is None else given.to(halves.hidden.dtype)
    values = torch.where(used[row], halves.hidden, all_of_it)
    if size is not None and not open_or_not:
        total = torch.zeros_like(size).index_add_(0, row, values.to(size.dtype))
        size = total.log() if observed_size else size + part.log().to(size.dtype)
    if tiles is None:
        counts = _without_zeros(counts, row, values)
    else:
        tiles = dataclasses.replace(tiles, values=values)
    return dataclasses.replace(seen, counts=counts, tiles=tiles, size=size, weight=seen.weight / part, part=part)


def _without_zeros(rows: SparseRows, row: torch.Tensor, values: torch.Tensor) -> SparseRows:
    """Other counts in place of the rows', the zeros among them left out: log 0 is asked for by no count."""
    kept = (values > 0).nonzero().squeeze(1)
    indptr = torch.zeros_like(rows.indptr)
    torch.cumsum(torch.bincount(row[kept], minlength=rows.n_rows), 0, out=indptr[1:])
    return SparseRows(indptr, rows.indices[kept], values[kept], rows.n_features)
