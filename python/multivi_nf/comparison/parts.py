"""The measured, or the unmeasured, cells of a group: their samples, and what counts say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import sparse

from multivi_nf.calibration.effects import ImputedEffects, Worth
from multivi_nf.latent.cells import Codes

MOST_OUTSIDE = 0.5
"""Share of a side's cells out of support, or never measured, from which its effects are those of such groups."""


@dataclass
class Measured:
    """Measured cells: their sizes, and sums over their counts, which are read block by block and not kept.

    Attributes
    ----------
    size
        (n_cells,) library per 10^4 (rna), depth over d~ (atac), 1 (protein).
    panel
        (n_cells, n_features) proteins that the cell's batch measured; None: all.
    """

    size: np.ndarray
    panel: np.ndarray | None

    def sizes(self, span: slice = slice(None)) -> np.ndarray:
        """(n_cells, width) sizes, 0 where a protein was not measured; (n_cells, 1) where all were."""
        return self.size[:, None] if self.panel is None else self.size[:, None] * self.panel[:, span]


@dataclass
class Tallied(Measured):
    """The cells of a part, with sums of their counts x and sizes s over cells.

    Attributes
    ----------
    observed
        (1 + n_halves, n_features) sums of x over all cells, and over random halves.
    first
        (n_replicates, n_features) sums of x.
    square, product
        (n_features,) sums of x^2 and x s.
    """

    observed: np.ndarray
    first: np.ndarray
    square: np.ndarray
    product: np.ndarray

    @classmethod
    def none(cls, n_rows: int, n_replicates: int, n_features: int) -> Tallied:
        """No cell yet."""
        shapes = (n_rows, n_features), (n_replicates, n_features), n_features, n_features
        return cls(np.zeros(0), None, *(np.zeros(shape) for shape in shapes))

    def add(self, counts: sparse.csr_matrix, size: np.ndarray, rows: np.ndarray, code: np.ndarray) -> None:
        """Add cells: (n, n_features) counts, (n,) sizes, (1 + n_halves, n) halves, (n,) codes of their replicates."""
        self.size = np.concatenate([self.size, size])
        counts = counts.astype(np.float64)
        of_replicate = (np.arange(len(self.first))[:, None] == code).astype(np.float64)
        sums = (counts.T @ np.concatenate([rows, of_replicate]).T).T
        self.observed += sums[: len(rows)]
        self.first += sums[len(rows) :]
        _add_weighted(self.square, counts, counts.data**2)
        _add_weighted(self.product, counts, counts.data * np.repeat(size, np.diff(counts.indptr)))


@dataclass
class Taught(Measured):
    """The measured cells nearest to unmeasured ones, with sums over them.

    Attributes
    ----------
    weight
        (n_cells,) how often each is a neighbour, in all 1.
    total, square, product
        (n_features,) sums of w x, w^2 x^2, w^2 x s.
    """

    weight: np.ndarray
    total: np.ndarray
    square: np.ndarray
    product: np.ndarray

    def add(self, counts: sparse.csr_matrix, weight: np.ndarray, size: np.ndarray) -> None:
        """Add cells: (n, n_features) counts, (n,) weights and sizes."""
        n, x = np.diff(counts.indptr), counts.data
        _add_weighted(self.total, counts, x * np.repeat(weight, n))
        _add_weighted(self.square, counts, x**2 * np.repeat(weight**2, n))
        _add_weighted(self.product, counts, x * np.repeat(weight**2 * size, n))


def _add_weighted(total: np.ndarray, counts: sparse.csr_matrix, values: np.ndarray) -> None:
    """Add (nnz,) values to their features, cell after cell: the same bits however cells are cut into blocks."""
    np.add.at(total, counts.indices, values)


@dataclass
class Part:
    """The measured, or the unmeasured, cells of a group.

    Attributes
    ----------
    group, share
        Name of the group, and cells that each decoded cell stands for.
    z
        Posterior samples, antithetic pairs: the k-th is that of the first `len(z[k])` cells, (.., n_latent).
    codes
        The cells' own covariates.
    replicate
        (n_cells,) replicate names.
    rows
        (1 + n_halves, n_cells) ones, then random halves (0/1).
    own
        What the cells' counts add up to; None where they were not measured.
    teachers
        Measured cells nearest to the unmeasured ones; None for measured parts, and where calibration tells the error.
    worth
        What imputed log ratios are worth (:meth:`Calibration.imputed_effects`); empty where it is not known.
    outside
        Share of the cells that are out of support.
    extrapolated
        Share of the cells whose like never shows the modality: those out of support, or all where hardly any cell of
        the group's name does.
    taught
        (n_features,) what the counts of measured neighbours add to the log mean; None where they are not asked.
    mixed
        The group has measured cells too.
    """

    group: str
    share: float
    z: list[torch.Tensor]
    codes: Codes
    replicate: np.ndarray
    rows: np.ndarray
    own: Tallied | None
    worth: list[tuple[float, ImputedEffects]]
    outside: float
    extrapolated: float
    teachers: Taught | None = None
    taught: np.ndarray | None = None
    mixed: bool = False
    normaliser: dict[tuple[int, int, bool], list[torch.Tensor]] = field(default_factory=dict)

    @property
    def n_cells(self) -> int:
        """Cells that are decoded."""
        return len(self.z[0])

    def worth_at(self, level: np.ndarray, away: np.ndarray) -> Worth:
        """What the group's imputed log ratios are worth, of all directions that impute its cells.

        Those of a group that is measured in part, or never, enter as what is expected of them: the first are averaged
        with means that need no shrinkage, of the second no error is known that scatters around the truth. Where fewer
        than half of a group's cells are out of support its name is measured elsewhere, and flags of single cells change
        nothing.
        """
        weights = [share for share, _ in self.worth]
        expected = self.mixed or self.extrapolated > MOST_OUTSIDE
        found = [one.worth(level, away, self.extrapolated, expected) for _, one in self.worth]
        of = {name: [getattr(one, name) for one in found] for name in ("unshrunk", "factor", "noise", "beyond")}
        unshrunk, factor = (np.average(of[name], axis=0, weights=weights) for name in ("unshrunk", "factor"))
        noise, beyond = (np.max(of[name], axis=0) for name in ("noise", "beyond"))
        return Worth(unshrunk, factor, noise, beyond, max(one.shared for one in found))

    def averaged(self, name: str) -> float:
        """A number of all directions that impute these cells, weighted by cells."""
        return float(np.average([getattr(one, name) for _, one in self.worth], weights=[w for w, _ in self.worth]))

    @property
    def n_samples(self) -> np.ndarray:
        """(n_cells,) samples of each cell."""
        return np.sum([np.arange(self.n_cells) < len(z) for z in self.z], axis=0)


@dataclass
class GroupSupport:
    """How far a pair's imputed cells are like any that show the modality.

    Attributes
    ----------
    outside, extrapolated
        Share of cells, of the side where it is larger.
    known
        Calibration measured what imputed effects are worth, of groups that no cell shows too.
    """

    outside: float
    extrapolated: float
    known: bool


@dataclass
class Sums:
    """What one span of features of a part leaves behind.

    Attributes
    ----------
    value
        (1 + 2 n_halves, width) mean decoded value of all cells, of the halves, of their complements.
    residual
        The same of log observed over expected counts; 0 where not measured.
    first
        Replicate to (width,) sum of x (counts, or decoded values of unmeasured cells).
    size
        Replicate to sum of s: a number, or (width,) with a panel.
    second
        (3, width) sums over cells of x^2, x s, s^2.
    extra
        (width,) variance of the log mean beyond that of its cells (unmeasured cells): the sampling error of the
        measured cells that taught the decoder.
    """

    value: np.ndarray
    residual: np.ndarray
    first: dict[str, np.ndarray]
    size: Mapping[str, float | np.ndarray]
    second: np.ndarray
    extra: np.ndarray
