"""Types of one batch whose sister both have: where batches hardly differ, what little tells two types apart counts.

A type that one batch alone has goes to its sister in the other batch, which is near, and comes back to its sister in
its own, which is near too: by how far it went (`counterparts`) it has counterparts. What tells is who arrives. Each
cell is put at the mean of those around it, since single cells are noisier than sisters differ; the batches are laid
over each other by a stiff affine map between mutual neighbours; and a round trip must not only be short and end near
where it began but end among the same cells, as far as a few steps from neighbour to neighbour lead, and cells of the
other batch must arrive. All of it is compared with trips through as many cells of the own batch.

Of two sisters of which each batch has one nothing nearer arrives, and the map lays them over each other. What tells
them is that they differ in features in which all other kinds do not (`odd`).

Where labs differ throughout, all kinds look like sisters, and nothing is decided. Evidence:
docs/decisions/batch-integration.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from multivi_nf.reduction import unit_rows
from multivi_nf.training.steps import N_NEAREST, apart, closest, nearness, steps

LIKELY = 0.3
"""How like its counterparts a cell must be: 1 is as like as cells of its own batch, 0 as any. The product of three such
shares, how near they are, how near a round trip ends, how far it ends among the same cells, and of the root of how many
arrive, see `ARRIVED`."""

STEEP = 12
"""`LIKELY` is multiplied by this power of how near most cells have their nearest in the other batch: 0.69 where they
are at 0.97 of what cells of the own batch are, 0.28 at 0.9, nothing to speak of at 0.7."""

ARRIVED = 0.25
"""Least share of the cells that would arrive at a kind of cells if both batches had as much of it that counts: of a
kind that is rarer over there less is not asked."""

WALK = 3
"""Steps from neighbour to neighbour within a batch whose ends are where a cell's kind is."""

STIFF = 0.5
"""Penalty on the linear part of the map, as a share of the mean variance of a direction: enough freedom for what a lab
does to kinds of cells, too little to lay kinds over each other that differ."""

ROUNDS = 5
"""Looks at who are mutual neighbours and at the map that follows."""

NEAR = 0.5
"""Share of the ninth decile of the cosine of mutual neighbours, taken to be at least a half, below which two do not
decide the map: of batches that have no type in common all mutual neighbours are far apart."""

FEW = 0.05
"""Share of a batch's cells over which a cell's place is averaged, at most the most of `N_NEAREST`. Batches in which
these are fewer than the least are left as they are."""

N_TRIPS = 4
"""Trips through parts of the own batch that are averaged, each part as large as the other batch."""

N_ANCHORS = 300
"""Cells of a batch, at most, around which profiles are compared."""

ODD = 4.0
"""A kind is another than its counterparts where their profiles differ by more than this many times what they do for the
middle cell of both batches: labs do not change all kinds alike. Divided by the power of `STEEP`."""

SURE = 0.25
"""And by more than this share of what parts two such profiles by chance."""

LEAST = 200
"""Cells below which a batch's profiles say too little: then kinds are told by places alone."""

KIN = 0.5, 2 / 3
"""Cosine of places from which two cells count as of one kind, and the most of pairs of cells, drawn from those that are
not odd, that may be so: what one kind alone says is not what a lab does to all."""

FAINT = 0.05
"""Added to the share of each feature, as a part of the mean share, before its logarithm is taken."""


Both = tuple[np.ndarray, np.ndarray]
"""Of the cells of one batch, and of those of another."""


def not_told_apart(
    a: np.ndarray, b: np.ndarray, levels: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[Both, Both]:
    """Which cells of two batches are of a kind that the other batch may have.

    Parameters
    ----------
    a, b
        (n_a, k) and (n_b, k) unit vectors, places of the cells of each.
    levels
        (n_a, g) and (n_b, g) logged levels of features, 0 or more, to compare kinds by; None: they are not.

    Returns
    -------
    (n_a,) and (n_b,) bool, by places; and, of the same form, which of all are told to be of another kind by their
    profiles (`odd`).
    """
    nobody = np.zeros(len(a), dtype=bool), np.zeros(len(b), dtype=bool)
    a, b = _smoothed(a), _smoothed(b)
    least = LIKELY * np.clip(max(_level(a, b), _level(b, a)), 0, 1) ** STEEP
    if least < 0.01:
        return (~nobody[0], ~nobody[1]), nobody
    a, b = _aligned(a, b)
    one, two = _Kinds.of(a, len(b)), _Kinds.of(b, len(a))
    there, back = steps(a, b), steps(b, a)
    centre = (a.mean(0) + b.mean(0)) / 2
    mine, theirs = one.alike(there, back, b, centre), two.alike(back, there, a, centre)
    arrived = one.arrived(back, theirs >= least), two.arrived(there, mine >= least)
    likely = one.over(mine * arrived[0]) >= least, two.over(theirs * arrived[1]) >= least
    if levels is None or min(len(a), len(b)) < LEAST:
        return likely, nobody
    other = odd((one, two), (there, back), levels, ODD * LIKELY / least)
    return likely, other


def odd(
    kinds: tuple[_Kinds, _Kinds],
    across: tuple[sp.csr_matrix, sp.csr_matrix],
    levels: tuple[np.ndarray, np.ndarray],
    times: float = ODD,
) -> tuple[np.ndarray, np.ndarray]:
    """Whose counterparts have another profile, beyond what the two batches' kinds have in common.

    A cell's profile is the mean of `levels` over its kind, as shares; its counterparts' that over where these are led
    to. Of each feature the logarithm of the ratio of both, less its median over cells of both batches (what a lab does
    to all kinds), makes the divergence D = 1/2 sum_g share_g (log ratio_g - median_g)^2, less what halves of the same
    cells lead to expect of chance.

    Parameters
    ----------
    kinds, across
        The cells of both batches, and the steps from each to the other.
    levels
        (n_a, g) and (n_b, g).
    times
        How many times the middle cell's divergence is too much.

    Returns
    -------
    (n_a,) and (n_b,) bool.
    """
    anchors = [np.unique(np.linspace(0, len(k.place) - 1, N_ANCHORS).astype(int)) for k in kinds]
    ratio, share, noise = [], [], []
    for i, (kind, step) in enumerate(zip(kinds, across)):
        own = kind.walk[anchors[i]]
        profiles = [_Profile.of(w, x) for w, x in ((own, levels[i]), (own @ step, levels[1 - i]))]
        ratio.append((profiles[1].log - profiles[0].log) * (1.0 if i == 0 else -1.0))
        share.append((profiles[0].share + profiles[1].share) / 2)
        noise.append(profiles[0].noise + profiles[1].noise)
    lab = np.median(np.concatenate(ratio), axis=0)
    beyond = [0.5 * (m * (r - lab) ** 2).sum(1) - n for m, r, n in zip(share, ratio, noise)]
    usual = times * float(np.median(np.concatenate(beyond)))
    chance = float(np.median(np.concatenate(noise)))
    other = [excess > np.maximum(usual, SURE * np.maximum(own, chance)) for excess, own in zip(beyond, noise)]
    rest = np.concatenate([k.place[at[~o]] for k, at, o in zip(kinds, anchors, other)])
    if not len(rest) or (rest @ rest.T > KIN[0]).mean() > KIN[1]:
        return np.zeros(len(kinds[0].place), dtype=bool), np.zeros(len(kinds[1].place), dtype=bool)
    heard = [k.walk[:, at] for k, at in zip(kinds, anchors)]
    told = [h @ o.astype(np.float32) > 0.5 * h.sum(1) for h, o in zip(heard, other)]
    return told[0], told[1]


@dataclass
class _Profile:
    """Mean levels around some cells.

    Attributes
    ----------
    share, log
        (n, g) shares of the features, and their logarithms.
    noise
        (n,) by how much two such profiles diverge by chance, each profile's part: a quarter of the divergence of those
        of two halves of the cells, which is of four times the variance.
    """

    share: np.ndarray
    log: np.ndarray
    noise: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray, levels: np.ndarray) -> _Profile:
        """Of cells by weight, (n, n_cells)."""
        share, log = _shares(weight, levels)
        order, noise = np.arange(len(levels)), np.zeros(len(weight))
        for half in (order % 2 == 0, order // 2 % 2 == 0):
            one, two = (_shares(weight[:, part], levels[part]) for part in (half, ~half))
            noise += ((one[0] + two[0]) / 2 * (one[1] - two[1]) ** 2).sum(1) / 16
        return cls(share, log, noise)


def _shares(weight: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    share = weight @ levels
    share /= np.maximum(share.sum(1, keepdims=True), 1e-12)
    return share, np.log(share + FAINT / share.shape[1])


def _smoothed(place: np.ndarray) -> np.ndarray:
    """Each cell at the mean of those around it."""
    n = int(min(FEW * len(place), N_NEAREST[1]))
    return place if n < N_NEAREST[0] else unit_rows(place[closest(place, place, 1, n)].mean(1))


def _level(a: np.ndarray, b: np.ndarray) -> float:
    """Median of how near cells of `a` have their nearest in `b`: 1 as in their own batch, 0 as any cell."""
    kinds = _Kinds.of(a, len(b), walk=0)
    return float(np.median(kinds.reach(steps(a, b) @ b, (a.mean(0) + b.mean(0)) / 2)))


def _aligned(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both moved half-way to each other, by the affine map that tells best how far mutual neighbours lie apart."""
    new_a, new_b = a, b
    stiff = STIFF * (1 + 100 / min(len(a), len(b)))
    for _ in range(ROUNDS):
        i, j = steps(new_a, new_b).multiply(steps(new_b, new_a).T).nonzero()
        alike = 1 - apart(a[i], b[j])
        near = alike >= NEAR * np.clip(np.quantile(alike, 0.9), 0.5, 1) if i.size else np.zeros(0, dtype=bool)
        if not near.any():
            break
        x, y = a[i[near]], b[j[near]]
        new_a, new_b = _moved(a, x, (y - x) / 2, stiff), _moved(b, y, (x - y) / 2, stiff)
    return new_a, new_b


def _moved(place: np.ndarray, at: np.ndarray, by: np.ndarray, stiff: float) -> np.ndarray:
    """Unit vectors moved by the affine map that is nearest to moving `at` by `by`, its linear part kept small."""
    middle, step = at.mean(0), by.mean(0)
    left = (at - middle).astype(np.float64)
    spread = left.T @ left / len(at)
    spread += (stiff * np.trace(spread) / len(spread) + 1e-9) * np.eye(len(spread))
    linear = np.linalg.solve(spread, left.T @ (by - step) / len(at))
    return unit_rows(place + step + (place - middle) @ linear).astype(np.float32)


@dataclass
class _Kinds:
    """The cells of a batch, as they look at another.

    Attributes
    ----------
    place
        (n, k) unit vectors.
    around
        (n, n) the mean over a cell and its nearest in the same batch.
    walk
        (n, n) dense, where some such steps end.
    step, trip, overlap
        (n,) 1 - cosine to the nearest, and to the end of a trip that leads through as many cells of the own batch as
        the other batch has and back, and the overlap of walks from the end and from the beginning: what steps to
        another batch can be at best.
    """

    place: np.ndarray
    around: sp.csr_matrix
    walk: np.ndarray
    step: np.ndarray
    trip: np.ndarray
    overlap: np.ndarray

    @classmethod
    def of(cls, place: np.ndarray, n_other: int, walk: int = WALK) -> _Kinds:
        """Look around in a batch."""
        n = len(place)
        around = steps(place, place, more=1).astype(np.float32)
        walks = around.toarray() if walk else np.zeros((n, 0), dtype=np.float32)
        for _ in range(walk - 1):
            walks = around @ walks
        best, count = np.zeros((3, n)), np.zeros(n)
        stride = max(2, n // max(n_other, 1))
        for first in range(min(stride, N_TRIPS, n - 1)):
            rest = np.arange(first, n, stride)
            here = np.setdiff1d(np.arange(n), rest)
            there, back = steps(place[here], place[rest]), steps(place[rest], place[here])
            best[0, here] += apart(place[here], there @ place[rest])
            best[1, here] += apart(place[here], there @ (back @ place[here]))
            best[2, here] += _overlap(walks[here], there, back @ walks[here])
            count[here] += 1
        return cls(place, around, walks, *(best / np.maximum(count, 1)))

    def reach(self, nearest_there: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """(n,) how near the mean of a cell's nearest in another batch is: 1 as in the own batch, 0 as any cell."""
        return self._twice(nearness(self.place, nearest_there, self.step, centre))

    def alike(self, there: sp.csr_matrix, back: sp.csr_matrix, other: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """(n,) how like a cell's nearest in another batch are to it: 1 as those of the own batch, 0 as any cell."""
        home = self._twice(nearness(self.place, there @ (back @ self.place), self.trip, centre))
        overlap = self._twice(_overlap(self.walk, there, back @ self.walk))
        overlap = overlap / np.maximum(self._twice(self.overlap), 1e-6)
        parts = (self.reach(there @ other, centre), home, overlap)
        return np.prod([np.clip(part, 0, 1) for part in parts], axis=0)

    def arrived(self, step: sp.csr_matrix, likely: np.ndarray) -> np.ndarray:
        """(n,) root of how many of the `likely` cells of another batch step to a cell and those around it: 1 is all."""
        given = np.asarray(likely @ step).ravel()
        usual = np.asarray(self.around.sum(0)).ravel()
        even = self._twice(given) / np.maximum(self._twice(usual), 1e-6) * len(self.place) / max(given.sum(), 1e-12)
        return np.sqrt(np.clip(even, ARRIVED, 1))

    def over(self, values: np.ndarray) -> np.ndarray:
        """(n,) mean over a cell's kind."""
        return self.walk @ values

    def _twice(self, values: np.ndarray) -> np.ndarray:
        return self.around @ (self.around @ values)


def _overlap(walk: np.ndarray, there: sp.csr_matrix, back: np.ndarray) -> np.ndarray:
    """(n,) sum of the lesser of two distributions: of the walk from a cell, and from where it is brought back to."""
    return np.minimum(walk, there.astype(np.float32) @ back).sum(1).astype(np.float64)
