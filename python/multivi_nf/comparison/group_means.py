"""Means of groups of cells with their errors, span by span of features.

A group's mean is that of its cells' decoded values under the reference mixture (their own batches where the groups
compared share none), over posterior samples of z in antithetic pairs. Its error is that of the data behind it, not of
the decoder's smooth output, which is as sure of the noise it learnt as of anything else:

- Where the modality was measured: the sampling error of the group's own counts. With x_c the count and s_c the size of
  a cell (library, depth), r = sum x / sum s, the influence of a cell on log r is (x_c - r s_c) / sum x; influences are
  squared and summed over cells, and over replicates: the variance of the Bayesian bootstrap over cells, and over
  replicates, in closed form. The counts also correct the centre: log(X / E), E the expected count of the same cells
  in their own batches, is the model's residual for the group; it is shrunk by t^2 / (t^2 + v), v its variance and t^2
  its variance between features beyond v.
- Where it was not measured: the spread of the imputed values over cells and samples of z, the sampling error of the
  measured cells from which the decoder learnt them (the nearest in the latent space), whose counts also correct them,
  and the error of imputed effects that calibration found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from multivi_nf.calibration.effects import LABELS, Worth, neighbours_say
from multivi_nf.comparison.design import Group
from multivi_nf.data.draws import blocks, cell_keys, normals, uniforms
from multivi_nf.imputation.decode import RNA_SCALE, TILE, Codes, Decoder, Prepared
from multivi_nf.imputation.intervals import protein_expectation
from multivi_nf.imputation.teachers import Teachers
from multivi_nf.latent.embed import device_of, draw, posteriors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multivi_nf.calibration.effects import ImputedEffects
    from multivi_nf.calibration.stored import Calibration
    from multivi_nf.comparison.design import Design
    from multivi_nf.data.minibatch import Minibatch
    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI

N_HALVES = 3
ROWS = 1024
SPAN = 8 * TILE
"""Features of one pass: hidden layers are computed once for all of its tiles."""
NEIGHBOURS = 15
TEACHERS = 5000
MIDDLE_CELLS = 512
MOST_OUTSIDE = 0.5
"""Share of a side's cells out of support, or never measured, from which its effects are those of such groups."""
LEAST_MEASURED = 10
"""Measured cells of a group's name from which the group counts as one that shows the modality."""
LEAST_EXPECTED = 5.0
"""Expected counts from which a feature helps to learn the spread of residuals."""


@dataclass
class Cells:
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
class Tallied(Cells):
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
class Taught(Cells):
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
    teachers: Taught | None
    worth: list[tuple[float, ImputedEffects]]
    outside: float
    extrapolated: float
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
        with means that need no shrinkage, of the second no error is known that scatters around the truth.
        """
        weights = [share for share, _ in self.worth]
        expected = self.mixed or self.extrapolated > MOST_OUTSIDE
        found = [one.worth(level, away, self.extrapolated, expected) for _, one in self.worth]
        return Worth(
            np.average([one.factor for one in found], axis=0, weights=weights),
            *(np.max([getattr(one, name) for one in found], axis=0) for name in ("noise", "beyond")),
        )

    def averaged(self, name: str) -> float:
        """A number of all directions that impute these cells, weighted by cells."""
        return float(np.average([getattr(one, name) for _, one in self.worth], weights=[w for w, _ in self.worth]))

    @property
    def stretch(self) -> float:
        """Factor that makes the slope of imputed log ratios on true ones 1."""
        return self.averaged("unshrunk")

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
        (width,) variance of the log mean beyond that of its cells (unmeasured cells): the error of imputed effects, and
        the sampling error of the measured cells that taught the decoder.
    noise
        (width,) variance of the log mean that is the decoder's own noise, and is shrunk as that of counts is.
    """

    value: np.ndarray
    residual: np.ndarray
    first: dict[str, np.ndarray]
    size: dict[str, float | np.ndarray]
    second: np.ndarray
    extra: np.ndarray
    noise: np.ndarray | float = 0.0


class Means:
    """Decodes all groups of a design.

    Parameters
    ----------
    model, data, decoder
        Model, cells, and the reference mixture of the modality.
    groups
        Groups to decode.
    calibration
        Temperatures, and errors of imputed effects.
    n_samples
        Posterior samples of a group; a cell has at least one antithetic pair.
    seed
        Of all draws.
    own_batches
        Decode cells under their own batch and covariates instead of the reference mixture: for groups that share no
        batch, whose difference the batch codes would otherwise take away.
    kind
        `labels`, or `clusters` where the groups were found in the latent space.
    """

    def __init__(
        self,
        model: MultiVI,
        data: MosaicData,
        decoder: Decoder,
        groups: list[Group],
        calibration: Calibration,
        n_samples: int,
        seed: int,
        own_batches: bool = False,
        kind: str = LABELS,
    ) -> None:
        self.model, self.decoder, self.seed = model, decoder, seed
        self.data = data.staged(np.concatenate([group.cells for group in groups]))
        self.own, self.scale = (Decoder(model, decoder.modality, "own", decoder.depth) for _ in range(2))
        self.own_batches, self.kind = own_batches, kind
        self.calibration, self.n_samples = calibration, n_samples
        self.names = data.cells
        self._untaught: list[tuple[Part, np.ndarray]] = []
        self._latent: list[tuple[Part, np.ndarray]] = []
        self.parts = {
            group.name: [
                self._part(group, rows, measured)
                for measured, rows in ((True, group.measured), (False, ~group.measured))
                if rows.any()
            ]
            for group in groups
        }
        self._correct()
        imputed = any(part.worth for parts in self.parts.values() for part in parts)
        self.middle = (
            self._part(self._anyone(), np.ones(MIDDLE_CELLS, bool)[: data.n_cells], False) if imputed else None
        )
        self._teach()

    # ------------------------------------------------------------------------------------------------ cells

    def _anyone(self) -> Group:
        """A few cells of the whole mosaic: their mean is the middle that imputed values are drawn to."""
        keys = cell_keys(self.names, self.seed, "middle")
        cells = np.sort(np.argsort(keys, kind="stable")[:MIDDLE_CELLS])
        nobody = np.zeros(len(cells), bool)
        return Group("", cells, cells, nobody, np.full(len(cells), ""), frozenset(), n_measured=LEAST_MEASURED)

    def _part(self, group: Group, rows: np.ndarray, measured: bool) -> Part:
        cells = group.cells[rows]
        # in random order, so that the first ones may have a pair of samples more than the others
        order = np.argsort(cell_keys(self.names[cells], self.seed, "samples"), kind="stable")
        cells = cells[order]
        names, replicate = self.names[cells], group.replicate[rows][order]
        halves = uniforms(cell_keys(names, self.seed, "halves"), 0, N_HALVES).T < 0.5
        table = np.concatenate([np.ones((1, len(cells))), halves]).astype(np.float32)
        code = np.searchsorted(sorted(set(replicate)), replicate)
        own = Tallied.none(len(table), code.max() + 1, self.decoder.n_features) if measured else None
        pairs = -(-self.n_samples // 2) / len(group.cells)
        z, latent, codes = self._encode(cells, names, pairs, table, code, own)
        modality = self.decoder.modality
        if own is not None:
            own.panel = self.data.in_panel(cells, modality)
        worth = [] if measured else self.calibration.imputed_effects(self.data, cells, modality, self.kind)
        outside = float(self.calibration.assess(self.model, self.data, cells, modality).outside.mean())
        apart = 1.0 if group.n_measured < LEAST_MEASURED and not measured else outside
        part = Part(group.name, group.share, z, codes, replicate, table, own, None, worth, outside, apart)
        part.mixed = bool(group.measured.any())
        if not measured:
            (self._latent if worth else self._untaught).append((part, latent))
        return part

    def _correct(self) -> None:
        """Let the counts of measured neighbours correct imputed means, where calibration found that they do."""
        known = np.flatnonzero(self.data.has[self.decoder.modality])
        parts = [(part, latent) for part, latent in self._latent if part.averaged("lag") > 0]
        if parts and known.size:
            teachers = Teachers(self.model, self.data, self.decoder.modality, known, self.decoder.depth, self.seed)
            found = teachers.residuals([latent for _, latent in parts])
            for (part, _), residual, variance in zip(parts, *found, strict=True):
                part.taught = neighbours_say(residual, variance, part.averaged("lag"))
        self._latent.clear()

    def _encode(
        self,
        cells: np.ndarray,
        names: np.ndarray,
        pairs: float,
        rows: np.ndarray,
        code: np.ndarray,
        own: Tallied | None,
    ) -> tuple[list[torch.Tensor], np.ndarray, Codes]:
        """Samples, latent means and covariates of cells; `pairs` of samples a cell, on average. Counts go to `own`."""
        k, device = self.model.config.n_latent, device_of(self.model)
        # no temperature here: it corrects single cells, and would shrink contrasts of means (their error is `extra`)
        keys, n_pairs = cell_keys(names, self.seed, "posterior"), max(1, math.ceil(pairs))
        z, latent, codes = [], [], []
        for block in blocks(len(cells)):
            minibatch = self.data.minibatch(cells[block])
            joint, encoded, _ = posteriors(self.model, minibatch)
            noise = torch.from_numpy(normals(keys[block], range(n_pairs), k)).to(device)
            z.append(draw(joint, torch.stack([noise, -noise], dim=1).flatten(0, 1)))
            latent.append(joint.mean.cpu().numpy())
            codes.append(Codes(minibatch.batch, minibatch.categorical, minibatch.continuous))
            if own is not None:
                own.add(self._counts(minibatch), self._sizes(minibatch, encoded), rows[:, block], code[block])
        joined = Codes(*(torch.cat([getattr(c, f) for c in codes]) for f in ("batch", "categorical", "continuous")))
        last = math.ceil((pairs - n_pairs + 1) * len(cells) - 1e-6) if n_pairs > 1 else len(cells)
        samples = [s[: len(cells) if k < 2 * (n_pairs - 1) else last] for k, s in enumerate(torch.cat(z, dim=1))]
        return samples, np.concatenate(latent), joined

    def _counts(self, minibatch: Minibatch) -> sparse.csr_matrix:
        """Counts of the measured cells of a minibatch, float32."""
        rows = minibatch.modalities[self.decoder.modality].counts
        values = np.ones(rows.indices.numel()) if rows.values is None else rows.values.cpu().numpy()
        arrays = (values.astype(np.float32), rows.indices.cpu().numpy(), rows.indptr.cpu().numpy())
        return sparse.csr_matrix(arrays, shape=(rows.n_rows, rows.n_features))

    def _sizes(self, minibatch: Minibatch, encoded: dict) -> np.ndarray:
        """Sizes of the measured cells of a minibatch."""
        modality = self.decoder.modality
        if modality == "rna":
            return (encoded["rna"].size.exp() / RNA_SCALE).double().cpu().numpy()
        if modality == "atac":
            level = self.model.level("atac", encoded["atac"])
            return (level / self.decoder.depth).double().cpu().numpy()
        return np.ones(minibatch.modalities[modality].counts.n_rows)

    def _teach(self) -> None:
        """Give unmeasured parts the measured cells nearest to them, weighted by how often they are a neighbour.

        Counts of these cells are read once for all parts, and again to be summed when their weights are known.
        """
        from sklearn.neighbors import NearestNeighbors

        modality = self.decoder.modality
        measured = np.flatnonzero(self.data.has[modality])
        if not measured.size or not self._untaught:
            return
        keys = cell_keys(self.names[measured], self.seed, "subsample")
        chosen = np.sort(measured[np.argsort(keys)[:TEACHERS]])
        places, sizes, data = [], [], self.data.staged(chosen)
        for block in blocks(len(chosen)):
            minibatch = data.minibatch(chosen[block])
            joint, encoded, _ = posteriors(self.model, minibatch)
            places.append(joint.mean.cpu().numpy())
            sizes.append(self._sizes(minibatch, encoded))
        size, panel = np.concatenate(sizes), self.data.in_panel(chosen, modality)
        near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(chosen))).fit(np.concatenate(places))
        weights = []
        for part, latent in self._untaught:
            often = np.bincount(near.kneighbors(latent, return_distance=False).ravel(), minlength=len(chosen))
            used = often > 0
            weights.append(often / often[used].sum())
            own_panel = None if panel is None else panel[used]
            sums = (np.zeros(self.decoder.n_features) for _ in range(3))
            part.teachers = Taught(size[used], own_panel, weights[-1][used], *sums)
        for block in blocks(len(chosen)):
            counts = self._counts(data.minibatch(chosen[block]))
            for (part, _), weight in zip(self._untaught, weights, strict=True):
                used = np.flatnonzero(weight[block])
                part.teachers.add(counts[used], weight[block][used], size[block][used])
        self._untaught = []

    def support(self, design: Design, pair: tuple[str, str]) -> GroupSupport:
        """Shares of cells out of support or never measured, of the side where they are larger."""
        shares, imputed = [], []
        for name in pair:
            parts = [part for group in design.members(name, pair[0]) for part in self.parts[group.name]]
            weights = [p.share * p.n_cells for p in parts]
            shares.append(np.average([[p.outside, p.extrapolated] for p in parts], axis=0, weights=weights))
            imputed += [part for part in parts if part.own is None]
        outside, extrapolated = np.max(shares, axis=0)
        return GroupSupport(float(outside), float(extrapolated), all(bool(part.worth) for part in imputed))

    # ------------------------------------------------------------------------------------------------ sums

    def sums(self, part: Part, start: int, middle: np.ndarray | None = None) -> Sums:
        """Decode one part over the span of features that begins at `start`.

        Parameters
        ----------
        middle
            (width,) log mean that imputed values are drawn to; None: nothing is asked about effects.
        """
        stop = min(start + SPAN, self.decoder.n_features)
        shape = (len(part.rows), stop - start)
        device = part.z[0].device
        value, expected = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        spread = torch.zeros(stop - start, device=device)
        replicates = sorted(set(part.replicate))
        apart = torch.zeros((len(replicates), stop - start), device=device)
        of_replicate = (part.replicate == np.array(replicates)[:, None]).astype(np.float32)
        shares = torch.from_numpy((1 / part.n_samples).astype(np.float32)).to(device)
        for rows in blocks(part.n_cells, ROWS):
            weights, share = torch.from_numpy(part.rows[:, rows]).to(device), shares[rows]
            for tile, mean, square in self._averages(self._scale_of(part), part, rows, share, start, stop):
                value[:, tile].addmm_(weights, mean)
                if part.own is None:
                    spread[tile] += square
                    apart[:, tile].addmm_(torch.from_numpy(of_replicate[:, rows]).to(device), mean)
                elif self._same(part):
                    self._expect(expected, weights, part, rows, tile, start, mean)
            if part.own is not None and not self._same(part):
                for tile, mean, _ in self._averages(self.own, part, rows, share, start, stop):
                    self._expect(expected, weights, part, rows, tile, start, mean)
        if part.own is None:
            return self._unmeasured(part, value, spread, dict(zip(replicates, apart)), start, middle)
        return self._measured(part, value, expected, replicates, slice(start, stop))

    @staticmethod
    def _expect(
        expected: torch.Tensor, weights: torch.Tensor, part: Part, rows: slice, tile: slice, start: int,
        mean: torch.Tensor,
    ) -> None:  # fmt: skip
        """Add the expected counts of some rows to those of their tile."""
        size = torch.from_numpy(part.own.size[rows].astype(np.float32)).to(mean.device)
        if part.own.panel is not None:
            mean = mean * torch.from_numpy(part.own.panel[rows, start + tile.start : start + tile.stop]).to(mean.device)
        expected[:, tile].addmm_(weights * size, mean)

    def _averages(
        self, decoder: Decoder, part: Part, rows: slice, share: torch.Tensor, start: int, stop: int
    ) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """For each tile: its place in the span, (n_rows, width) means over samples, (width,) summed mean squares."""
        samples = []
        for k, z in enumerate(part.z):
            mine = slice(rows.start, min(rows.stop, len(z)))
            if mine.stop > mine.start:
                samples.append(self._prepared(decoder, part, k, mine))
        for begin in range(start, stop, TILE):
            total, square = None, torch.zeros((), device=share.device)
            for prepared in samples:
                value = self._tile(decoder, prepared, begin)
                n = len(value)
                if total is None:
                    total = value.clone()
                else:
                    total[:n] += value
                if part.own is None:
                    square = square + share[:n] @ value.square_()
            yield slice(begin - start, begin - start + total.shape[1]), total.mul_(share.unsqueeze(1)), square

    def _measured(
        self, part: Part, value: torch.Tensor, expected: torch.Tensor, replicates: list[str], span: slice
    ) -> Sums:
        own = part.own
        n, width = len(replicates), span.stop - span.start
        observed = own.observed[:, span]
        residual = np.log((_halved(observed) + 0.5) / (_halved(expected.double().cpu().numpy()) + 0.5))
        code = np.searchsorted(replicates, part.replicate)
        second = np.stack([
            own.square[span],
            own.product[span],
            np.broadcast_to((own.sizes(span) ** 2).sum(axis=0), width),
        ])  # fmt: skip
        if own.panel is None:
            sizes = np.bincount(code, weights=own.size, minlength=n).tolist()
        else:
            sizes = [own.sizes(span)[code == i].sum(axis=0) for i in range(n)]
        first, sizes = dict(zip(replicates, own.first[:, span])), dict(zip(replicates, sizes))
        return Sums(self._averaged(part, value), residual, first, sizes, second, *np.zeros((2, width)))

    def _unmeasured(
        self, part: Part, value: torch.Tensor, spread: torch.Tensor, per_replicate: dict, start: int,
        middle: np.ndarray | None,
    ) -> Sums:  # fmt: skip
        first = {name: total.double().cpu().numpy() for name, total in per_replicate.items()}
        size = {name: float((part.replicate == name).sum()) for name in first}
        mean = self._averaged(part, value)
        second = np.stack([spread.double().cpu().numpy(), sum(first.values()), np.full(len(spread), part.n_cells)])
        extra, own = self._taught_variance(part, start), 0.0 * spread.double().cpu().numpy()
        if part.worth and middle is not None:
            level = np.log(np.maximum(mean[0], 1e-12))
            if part.taught is not None:
                level = level + part.taught[start : start + len(level)]
            worth = part.worth_at(level, level - middle)
            extra, own = extra + worth.beyond, worth.noise
        return Sums(mean, np.zeros_like(mean), first, size, second, extra, own)

    def _averaged(self, part: Part, value: torch.Tensor) -> np.ndarray:
        cells = _halved(part.rows.sum(axis=1, keepdims=True).astype(np.float64))
        return _halved(value.double().cpu().numpy()) / np.maximum(cells, 1)

    def _taught_variance(self, part: Part, start: int) -> np.ndarray:
        """(width,) sampling variance of the log mean of the measured cells that taught the decoder these values."""
        stop = min(start + SPAN, self.decoder.n_features)
        if part.teachers is None:
            return np.zeros(stop - start)
        cells, span = part.teachers, slice(start, stop)
        total, weight2 = cells.total[span], cells.weight**2
        sizes = cells.sizes(span)
        rate = total / np.maximum(cells.weight @ sizes, 1e-12)
        quadratic = cells.square[span] - 2 * rate * cells.product[span] + rate**2 * (weight2 @ sizes**2)
        # a feature that none of them showed: the variance of the log of a Poisson count of as many cells
        floor = (weight2.sum() / (total + 0.5 * weight2.sum())) if len(cells.weight) else 0.0
        return np.maximum(np.maximum(quadratic, 0) / np.maximum(total, 1e-12) ** 2 * (total > 0), floor)

    def _scale_of(self, part: Part) -> Decoder:
        """Decoder of a part's means; a batch that never measured the modality has no own one."""
        if not self.own_batches:
            return self.decoder
        cells = torch.as_tensor(
            [*self.model.config.batch_cells[self.decoder.modality], 0], device=part.codes.batch.device
        )
        return self.scale if bool((cells[part.codes.batch] > 0).all()) else self.decoder

    def _same(self, part: Part) -> bool:
        """Is what counts are expected from the same as what means are computed from?"""
        config = self.model.config
        if self._scale_of(part).own:
            return self.decoder.modality != "protein"
        if self.decoder.modality == "protein" or config.categorical or config.continuous:
            return False
        return len(self.decoder.batches) == 1 and bool((part.codes.batch == self.decoder.batches[0]).all())

    def decoded(self, part: Part, start: int, step: int = 1) -> torch.Tensor:
        """(n, width) one posterior sample of every `step`-th cell over a tile."""
        decoder = self._scale_of(part)
        tiles = []
        for rows in blocks(part.n_cells, ROWS):
            tile = self._tile(decoder, self._prepared(decoder, part, 0, rows), start)
            tiles.append(tile[-rows.start % step :: step].clone())
        return torch.cat(tiles)

    def _prepared(self, decoder: Decoder, part: Part, k: int, rows: slice) -> Prepared:
        z = part.z[k][rows]
        codes = Codes(part.codes.batch[rows], part.codes.categorical[rows], part.codes.continuous[rows])
        if not decoder.is_softmax:
            return decoder.prepare(z, codes)
        # the normaliser needs all features: it is computed once; hidden layers are cheap enough to repeat
        key = (k, rows.start, decoder.own)
        if key not in part.normaliser:
            part.normaliser[key] = decoder.prepare(z, codes).normaliser
        bare = decoder.prepare(z, codes, normalise=False)
        return Prepared(bare.hidden, bare.batches, part.normaliser[key])

    def _tile(self, decoder: Decoder, prepared: Prepared, start: int) -> torch.Tensor:
        if decoder is self.own and decoder.modality == "protein":
            return protein_expectation(decoder.raw(prepared.hidden[0], prepared.batches[0], start))
        return decoder.tile(prepared, start)


def _halved(rows: np.ndarray) -> np.ndarray:
    """(1 + n_halves, ...) sums to (1 + 2 n_halves, ...): all, the halves, their complements."""
    return np.concatenate([rows, rows[:1] - rows[1:]])
