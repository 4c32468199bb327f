"""Which cells have counterparts in which other batches, and how many: looked at once, before training, without a model.

Mixing alone cannot tell a lab from a cell type that one batch alone has: pulled hard enough, both mix. So the pull is
told beforehand where it may act. In the leading directions of a modality that two batches share (without what parts
batches where they have counterparts, `directions`) a cell has counterparts in another batch if a round trip, to its
nearest there and from these to their nearest in its own batch, ends where it began. A type that the other batch lacks
goes to what is nearest there and comes back among that type's own cells. Where batches hardly differ one can ask for
more, see `sisters`. The first modality that two batches share decides; cells without it ask cells of their batch that
have it and are near in another. Evidence: docs/decisions/batch-integration.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from multivi_nf.data.source import Matrix, Source
from multivi_nf.io.processors import threads_at_most
from multivi_nf.reduction import unit_rows
from multivi_nf.training.directions import N_DIRECTIONS, Directions, leading
from multivi_nf.training.sisters import not_told_apart
from multivi_nf.training.steps import N_NEAREST, apart, closest, nearness, steps

HOME = 0.75
"""From how near a round trip must end for a cell to have counterparts: 1 is as near as a trip through its own batch
does, 0 anywhere."""

REACH = 0.6
"""Nor may the nearest of the other batch be farther than those of most: the share of the ninth decile of how near they
are (1 is as near as in the own batch) from which a cell has counterparts. Two types that each of two batches has alone
may be each other's nearest, and a trip then returns home."""

N_CELLS = 12_000
"""Cells among which neighbours are sought, of all batches together; other cells ask the nearest of these."""

N_OF_BATCH = 3_000
"""The same, of one batch."""

N_FEATURES = 2_000
"""Features, those that vary most, by which kinds are told from their counterparts."""

N_ASKED = 30
"""Cells of a batch of which an earlier modality has told that make their word count for those without it."""


def counterparts(
    source: Source, batches: Sequence[str], *, among: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """How many cells of each batch there are for one cell of a cell's own, among cells of its kind.

    Parameters
    ----------
    source
        The data.
    batches
        Names of batches, in the order of the columns.
    among
        (n_cells,) bool, the cells that are looked at, those one trains on; the others ask the nearest of these in their
        own batch. None is all.
    seed
        Of the directions and of the cells drawn where there are many.

    Returns
    -------
    See :func:`looked_at`, the first.
    """
    return looked_at(source, batches, among=among, seed=seed)[0]


@threads_at_most(1)
def looked_at(
    source: Source, batches: Sequence[str], *, among: np.ndarray | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """What :func:`counterparts` takes, and which cells are told apart from those of which batches.

    Returns
    -------
    counterparts
        (n_cells, n_batches) float32: 1 in the column of the cell's own batch, 0 where a batch has no counterpart. Where
        a cell shares no modality with a batch nothing is known: that cells are spread there alike is assumed, and
        written as a number below 0. Rows of cells of other batches than these are 0.
    told_apart
        (n_cells, n_batches) bool: cells that have none since their profile is another than that of their nearest
        there, while those of other kinds agree (`multivi_nf.training.sisters.odd`).
    """
    code = pd.Index(batches).get_indexer(source.batch)
    among = np.ones(len(code), dtype=bool) if among is None else among
    size = _sizes(code[among], len(batches))
    known = np.flatnonzero(code >= 0)
    found = np.zeros((len(code), len(batches)), dtype=np.float32)
    found[known] = -size / np.maximum(size[code[known], None], 1)
    open_ = np.ones(found.shape, dtype=bool)
    told_apart = np.zeros(found.shape, dtype=bool)
    for modality, matrix in source.matrices.items():
        rows = source.obs.index.get_indexer(matrix.cells)
        rows_code = code[rows]
        n = _sizes(rows_code[among[rows]], len(batches))
        shared = np.flatnonzero(n > max(N_NEAREST[0], 1))
        if shared.size < 2:
            continue
        taking_part = np.where(np.isin(rows_code, shared), rows_code, -1)
        of_matrix = _of_matrix(matrix, taking_part, among[rows], len(batches), seed, by_profile=modality == "rna")
        if of_matrix is None:
            continue
        masses, place, apart_ = of_matrix
        # of these cells to all cells: that a batch measured a modality in all its kinds alike
        share = np.divide(n, size, out=np.ones_like(size), where=n > 0)
        here = np.flatnonzero(np.isin(rows_code, shared))
        at = np.ix_(rows[here], shared)
        scaled = masses[np.ix_(here, shared)] * share[rows_code[here], None] / share[shared]
        told = np.where(open_[rows], np.nan, found[rows])
        scaled = _heard(place, taking_part, among[rows], told, masses=scaled, here=here, shared=shared)
        found[at] = np.where(open_[at], scaled, found[at])
        told_apart[at] |= open_[at] & apart_[np.ix_(here, shared)] & (found[at] == 0)
        open_[at] = False
    found[known, code[known]] = 1
    return found, told_apart


def _sizes(code: np.ndarray, n_batches: int) -> np.ndarray:
    """(n_batches,) cells of each."""
    return np.bincount(code[code >= 0], minlength=n_batches).astype(np.float64)


def _heard(
    place: np.ndarray,
    code: np.ndarray,
    among: np.ndarray,
    told: np.ndarray,
    *,
    masses: np.ndarray,
    here: np.ndarray,
    shared: np.ndarray,
) -> np.ndarray:
    """(n_here, n_shared) `masses`, or what cells nearby were `told` by an earlier modality, NaN where nothing was."""
    out = masses.copy()
    for column, b in enumerate(shared):
        unknown = np.isnan(told[:, b])
        for a in np.setdiff1d(shared, b):
            ask, asked = (np.flatnonzero((code == a) & which) for which in (unknown, ~unknown & among))
            if len(asked) < N_ASKED or not len(ask):
                continue
            said = told[asked, b][closest(place[ask], place[asked])]
            out[np.searchsorted(here, ask), column] = np.where((said > 0).mean(1) >= 0.5, said.mean(1), 0.0)
    return out


def _of_matrix(
    matrix: Matrix, code: np.ndarray, among: np.ndarray, n_batches: int, seed: int, *, by_profile: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(n_rows, n_batches) masses of the cells of one modality, places, and (n_rows, n_batches) whether told apart.

    `code` is -1 for cells that take no part; `by_profile`: of RNA alone, since panels of proteins differ and 0/1 says
    too little of a kind.
    """
    looked_at = among & (code >= 0)
    found = leading(matrix, N_DIRECTIONS, seed=seed, batch=code.astype(str), among=np.flatnonzero(looked_at))
    if found is None:
        return None
    place = found.scores(matrix)
    members = [np.flatnonzero(looked_at & (code == b)) for b in range(n_batches)]
    middle = np.stack([place[m].mean(0) for m in members if len(m)]).mean(0)
    place = unit_rows((place - middle).astype(np.float32))
    some = _drawn(members, seed)
    out = np.zeros((len(code), n_batches))
    told_apart = np.zeros(out.shape, dtype=bool)
    masses, others = _masses(place, some, _levels(found, matrix, some) if by_profile else None)
    scale = np.array([len(m) / max(len(s), 1) for m, s in zip(members, some)])
    for b, drawn in enumerate(some):
        if drawn.size:
            own, there = np.flatnonzero(code == b), masses[b] * scale / scale[b]
            asked = closest(place[own], place[drawn])
            mean = there[asked].mean(1)
            out[own] = np.where((there[asked] > 0).mean(1) >= 0.5, mean, 0.0)
            out[drawn] = there
            told_apart[own] = others[b][asked].mean(1) >= 0.5
            told_apart[drawn] = others[b]
    return out, place, told_apart


def _drawn(members: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """At most `N_CELLS` cells, as many of each batch as of any other where it has them."""
    sizes = np.array([len(m) for m in members])
    most = min(sizes.max(), N_OF_BATCH)
    while np.minimum(sizes, most).sum() > N_CELLS and most > N_NEAREST[1]:
        most = int(most * 0.9)
    random = np.random.default_rng(seed)
    return [m if len(m) <= most else np.sort(random.choice(m, most, replace=False)) for m in members]


def _levels(found: Directions, matrix: Matrix, members: list[np.ndarray]) -> list[np.ndarray]:
    """By batch (n_members, g): logged levels of the features that vary most."""
    rows = found.levels(matrix, np.concatenate(members))
    mean = np.asarray(rows.mean(0)).ravel()
    variance = np.asarray(rows.multiply(rows).mean(0)).ravel() - mean**2
    most = np.sort(np.argsort(-variance, kind="stable")[:N_FEATURES])
    dense = rows[:, most].toarray().astype(np.float32)
    return np.split(dense, np.cumsum([len(m) for m in members])[:-1])


def _masses(
    place: np.ndarray, members: list[np.ndarray], levels: list[np.ndarray] | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """By batch (n_members, n_batches): cells of each batch for one of a cell's own; and whether they are told apart.

    0 where a cell has no counterpart.
    """
    spots = {b: _Spot.of(place[m]) for b, m in enumerate(members) if len(m)}
    centre = np.mean([s.place.mean(0) for s in spots.values()], axis=0)
    pairs = [(a, b) for a in spots for b in spots if b < a]
    out = [np.zeros((len(m), len(members))) for m in members]
    near, told_apart = ([np.zeros((len(m), len(members)), dtype=bool) for m in members] for _ in range(2))
    for a, b in pairs:
        one, two = spots[a], spots[b]
        mine, theirs = _returned(one, two, centre)
        # where labs hardly differ one can ask for more: a sister that both have is near as well
        same, others = not_told_apart(one.place, two.place, None if levels is None else (levels[a], levels[b]))
        near[a][:, b], near[b][:, a] = mine & same[0], theirs & same[1]
        told_apart[a][:, b], told_apart[b][:, a] = others
    told_apart = _uncontradicted([place[m] for m in members], near, told_apart)
    has = [n & ~t for n, t in zip(near, told_apart)]
    for a, b in pairs:
        one, two, mine, theirs = spots[a], spots[b], has[a][:, b], has[b][:, a]
        out[a][:, b] = one.masses(steps(two.place, one.place), mine, theirs)
        out[b][:, a] = two.masses(steps(one.place, two.place), theirs, mine)
    return out, told_apart


def _returned(one: _Spot, two: _Spot, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of two batches, whose round trips through the other are short and end near where they began."""
    there, back = steps(one.place, two.place), steps(two.place, one.place)
    near = one.reach(there @ two.place, centre), two.reach(back @ one.place, centre)
    least = REACH * np.clip(max(np.quantile(n, 0.9) for n in near), 0.5, 1.0)
    mine = (one.home(there @ (back @ one.place), centre) >= HOME) & (near[0] >= least)
    theirs = (two.home(back @ (there @ two.place), centre) >= HOME) & (near[1] >= least)
    return mine, theirs


def _uncontradicted(places: list[np.ndarray], near: list[np.ndarray], told_apart: list[np.ndarray]) -> list[np.ndarray]:
    """By batch (n_members, n_batches) who is told apart, if nobody whom a cell has in a third batch says otherwise.

    Donors differ in single kinds of cells too. But if those of a third batch are of a cell's kind and of that of cells
    there, these are of one kind: then the nearest of the third batch have counterparts in both. What is said of cells
    here is true of those there that lie among them, whom a third batch may not have been asked about.

    Parameters
    ----------
    places
        By batch, unit vectors.
    near, told_apart
        By batch (n_members, n_batches) bool: who has counterparts by places, and who is told apart by profiles.
    """
    has = [n & ~t for n, t in zip(near, told_apart)]
    pairs = [(a, b) for a, told in enumerate(told_apart) for b in np.flatnonzero(told.any(0))]
    heard = [np.zeros_like(t) for t in told_apart]
    for a, b in pairs:
        for c in (c for c, place in enumerate(places) if len(place) and c not in (a, b)):
            asking = np.flatnonzero(told_apart[a][:, b] & has[a][:, c])
            if asking.size:
                said = has[c][closest(places[a][asking], places[c]), b].mean(1)
                heard[a][asking[said >= 0.5], b] = True
    out = [t & ~h for t, h in zip(told_apart, heard)]
    for a, b in pairs:
        asking = np.flatnonzero(out[a][:, b])
        if asking.size and heard[b][:, a].any():
            said = heard[b][closest(places[a][asking], places[b]), a].mean(1)
            out[a][asking[said >= 0.5], b] = False
    return out


@dataclass
class _Spot:
    """The cells of a batch.

    Attributes
    ----------
    place
        (n, k) unit vectors.
    own
        (n, n) steps to the nearest of the same batch.
    around
        (n, n) the mean over a cell and these.
    step, trip
        (n,) 1 - cosine to the nearest, and to the end of a trip that leads through the other half of the batch and
        back: what steps to another batch can be at best.
    """

    place: np.ndarray
    own: sp.csr_matrix
    around: sp.csr_matrix
    step: np.ndarray
    trip: np.ndarray

    @classmethod
    def of(cls, place: np.ndarray) -> _Spot:
        """Look around in a batch."""
        around = steps(place, place, more=1)
        own = around.copy()
        own.setdiag(0)
        own = sp.diags(1 / np.maximum(np.asarray(own.sum(1)).ravel(), 1e-12)) @ own
        step, trip = np.zeros(len(place)), np.zeros(len(place))
        for half, rest in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
            there, back = steps(place[half], place[rest]), steps(place[rest], place[half])
            step[half] = apart(place[half], there @ place[rest])
            trip[half] = apart(place[half], there @ (back @ place[half]))
        return cls(place, own.tocsr(), around, step, trip)

    def reach(self, nearest_there: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """(n,) how near the mean of a cell's nearest in another batch is: 1 as in the own batch, 0 as any cell."""
        return self.around @ nearness(self.place, nearest_there, self.step, centre)

    def home(self, end: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """(n,) how near a round trip ends to where it began: 1 as through the own batch, 0 as any cell."""
        return self.around @ nearness(self.place, end, self.trip, centre)

    def masses(self, step: sp.csr_matrix, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """(n,) cells of another batch for one of this; 0 without counterparts.

        Each cell there that has counterparts here is shared out among its nearest of these; so is each cell here among
        its nearest here, and one is divided by the other: some cells are near to many. In all there are as many as
        have counterparts there.
        """
        got, usual = (self._smooth(_shared_out(s, of, mine)) for s, of in ((step, theirs), (self.own, mine)))
        ratio = np.where(mine, got / np.maximum(usual, 1e-6), 0.0)
        return ratio * (theirs.sum() / max(ratio.sum(), 1e-12))

    def _smooth(self, values: np.ndarray) -> np.ndarray:
        return self.around @ (self.around @ values)


def _shared_out(step: sp.csr_matrix, of: np.ndarray, to: np.ndarray) -> np.ndarray:
    """(n_to,) what each cell of `to` receives where each of `of` gives 1 in all."""
    given = step @ sp.diags(to.astype(np.float64))
    total = np.asarray(given.sum(1)).ravel()
    return (of / np.maximum(total, 1e-12)) @ given
