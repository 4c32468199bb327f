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
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from multivi_nf.calibration.effects import LABELS, neighbours_say
from multivi_nf.calibration.stored import Calibration
from multivi_nf.comparison.design import Design, Group
from multivi_nf.comparison.parts import GroupSupport, Part, Sums, Tallied, Taught
from multivi_nf.comparison.spans import Scales, Span
from multivi_nf.data.draws import blocks, cell_keys, uniforms
from multivi_nf.data.matrices import as_csr
from multivi_nf.imputation.decode import RNA_SCALE, Decoder
from multivi_nf.imputation.teachers import Teachers
from multivi_nf.latent.cells import Block, Cells, Codes, samples

N_HALVES = 3
NEIGHBOURS = 15
MIDDLE_CELLS = 512
LEAST_MEASURED = 10
"""Measured cells of a group's name from which the group counts as one that shows the modality."""


@dataclass
class Sampling:
    """How groups are decoded.

    Attributes
    ----------
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

    n_samples: int
    seed: int
    own_batches: bool = False
    kind: str = LABELS


class GroupMeans:
    """Decodes all groups of a design.

    Parameters
    ----------
    cells
        The model, and the mosaic in its terms.
    decoder
        The reference mixture of the modality.
    groups
        Groups to decode.
    calibration
        Support, and errors of imputed effects.
    how
        Samples and scales.

    Attributes
    ----------
    parts
        Name of a group to its measured and its unmeasured cells.
    middle
        A few cells of the whole mosaic, whose mean is what imputed values are drawn to; None: nothing asks for it.
    """

    def __init__(
        self, cells: Cells, decoder: Decoder, groups: list[Group], calibration: Calibration, how: Sampling
    ) -> None:
        self.decoder, self.how = decoder, how
        self.own, self.scale = (Decoder(cells.model, decoder.modality, "own", decoder.depth) for _ in range(2))
        staged = cells.staged(np.concatenate([group.cells for group in groups]))
        self.parts, self.middle = _Reading(staged, self.own, calibration, how).of(groups)

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

    def sums(self, part: Part, start: int) -> Sums:
        """Decode one part over the span of features that begins at `start`."""
        span = Span(part, self._scales(part), start)
        return span.imputed() if part.own is None else span.measured(part.own)

    def decoded(self, part: Part, start: int, step: int = 1) -> torch.Tensor:
        """(n, width) one posterior sample of every `step`-th cell over a tile."""
        return Span(part, self._scales(part), start).sampled(step)

    def _scales(self, part: Part) -> Scales:
        """Decoders of a part's means and counts; a batch that never measured the modality has no own one."""
        decoder, config, batch = self.decoder, self.decoder.config, part.codes.batch
        cells = torch.as_tensor([*config.batch_cells[decoder.modality], 0], device=batch.device)
        if self.how.own_batches and bool((cells[batch] > 0).all()):
            return Scales(self.scale, self.own, decoder.modality != "protein")
        plain = not (decoder.modality == "protein" or config.categorical or config.continuous)
        one = len(decoder.batches) == 1 and bool((batch == decoder.batches[0]).all())
        return Scales(decoder, self.own, plain and one)


class _Reading:
    """Encodes the cells of groups, block by block, and reads their counts: all that is asked of model and mosaic."""

    def __init__(self, cells: Cells, own: Decoder, calibration: Calibration, how: Sampling) -> None:
        self.cells, self.own, self.calibration, self.how = cells, own, calibration, how
        self._untaught: list[tuple[Part, np.ndarray]] = []
        self._latent: list[tuple[Part, np.ndarray]] = []

    def of(self, groups: list[Group]) -> tuple[dict[str, list[Part]], Part | None]:
        """Parts of all groups, and the middle of the mosaic where imputed values are drawn to it."""
        parts = {
            group.name: [
                self._part(group, rows, measured)
                for measured, rows in ((True, group.measured), (False, ~group.measured))
                if rows.any()
            ]
            for group in groups
        }
        self._correct()
        imputed = any(part.worth for group in parts.values() for part in group)
        anyone = np.ones(MIDDLE_CELLS, bool)[: self.cells.data.n_cells]
        middle = self._part(self._anyone(), anyone, False) if imputed else None
        self._teach()
        return parts, middle

    def _anyone(self) -> Group:
        """A few cells of the whole mosaic: their mean is the middle that imputed values are drawn to."""
        keys = cell_keys(self.cells.data.cells, self.how.seed, "middle")
        cells = np.sort(np.argsort(keys, kind="stable")[:MIDDLE_CELLS])
        nobody = np.zeros(len(cells), bool)
        return Group("", cells, cells, nobody, np.full(len(cells), ""), frozenset(), n_measured=LEAST_MEASURED)

    def _part(self, group: Group, rows: np.ndarray, measured: bool) -> Part:
        names, seed, modality = self.cells.data.cells, self.how.seed, self.own.modality
        index = group.cells[rows]
        # in random order, so that the first ones may have a pair of samples more than the others
        order = np.argsort(cell_keys(names[index], seed, "samples"), kind="stable")
        index, replicate = index[order], group.replicate[rows][order]
        halves = uniforms(cell_keys(names[index], seed, "halves"), 0, N_HALVES).T < 0.5
        table = np.concatenate([np.ones((1, len(index))), halves]).astype(np.float32)
        code = np.searchsorted(sorted(set(replicate)), replicate)
        own = Tallied.none(len(table), code.max() + 1, self.own.n_features) if measured else None

        def tally(block: Block) -> None:
            if own is not None:
                counts = as_csr(block.minibatch.modalities[modality].counts, np.float32)
                own.add(counts, self._sizes(block), table[:, block.at], code[block.at])

        z, latent, codes = self._encode(index, -(-self.how.n_samples // 2) / len(group.cells), tally)
        if own is not None:
            own.panel = self.cells.data.in_panel(index, modality)
        data, known = self.cells.data, self.calibration
        worth = [] if measured else known.imputed_effects(data, index, modality, self.how.kind)
        outside = float(known.assess(data, index, modality, self.cells.model).outside.mean())
        apart = 1.0 if group.n_measured < LEAST_MEASURED and not measured else outside
        part = Part(group.name, group.share, z, codes, replicate, table, own, worth, outside, apart)
        part.mixed = bool(group.measured.any())
        if not measured:
            (self._latent if worth else self._untaught).append((part, latent))
        return part

    def _encode(
        self, index: np.ndarray, pairs: float, tally: Callable[[Block], None]
    ) -> tuple[list[torch.Tensor], np.ndarray, Codes]:
        """Samples, latent means and covariates of cells; `pairs` of samples a cell, on average."""
        # no temperature here: it corrects single cells, and would shrink contrasts of means (their error is `extra`)
        keys, n_pairs = cell_keys(self.cells.data.cells[index], self.how.seed, "posterior"), max(1, math.ceil(pairs))
        z, latent, codes = [], [], []
        for block in self.cells.blocks(index):
            z.append(samples(block.joint, keys[block.at], 2 * n_pairs, antithetic=True))
            latent.append(block.mean)
            codes.append(block.codes)
            tally(block)
        n = len(index)
        last = math.ceil((pairs - n_pairs + 1) * n - 1e-6) if n_pairs > 1 else n
        drawn = [s[: n if k < 2 * (n_pairs - 1) else last] for k, s in enumerate(torch.cat(z, dim=1))]
        return drawn, np.concatenate(latent), Codes.joined(codes)

    def _sizes(self, block: Block) -> np.ndarray:
        """Sizes of the measured cells of a block."""
        modality = self.own.modality
        if modality == "protein":
            return np.ones(block.minibatch.modalities[modality].counts.n_rows)
        scale = RNA_SCALE if modality == "rna" else self.own.depth
        return (block.levels[modality] / scale).double().cpu().numpy()

    # ------------------------------------------------------------------------------------------------ neighbours

    @cached_property
    def teachers(self) -> Teachers:
        """Measured cells that others may be like."""
        known = np.flatnonzero(self.cells.has[self.own.modality])
        return Teachers(self.cells, self.own, known, self.how.seed)

    def _correct(self) -> None:
        """Let the counts of measured neighbours correct imputed means, where calibration found that they do."""
        parts = [(part, latent) for part, latent in self._latent if part.averaged("lag") > 0]
        if parts and len(self.teachers.index):
            found = self.teachers.residuals([latent for _, latent in parts])
            for (part, _), residual, variance in zip(parts, *found, strict=True):
                part.taught = neighbours_say(residual, variance, part.averaged("lag"))
        self._latent.clear()

    def _teach(self) -> None:
        """Give unmeasured parts the measured cells nearest to them, weighted by how often they are a neighbour.

        Counts of these cells are read once for all parts, and again to be summed when their weights are known.
        """
        untaught, self._untaught = self._untaught, []
        if not untaught or not len(self.teachers.index):
            return
        index, cells, modality = self.teachers.index, self.teachers.cells, self.own.modality
        size = np.concatenate([self._sizes(block) for block in cells.blocks(index)])
        panel = cells.data.in_panel(index, modality)
        taught = []
        for part, latent in untaught:
            weight = self.teachers.weights(latent, NEIGHBOURS)
            used = weight > 0
            sums = (np.zeros(self.own.n_features) for _ in range(3))
            part.teachers = Taught(size[used], None if panel is None else panel[used], weight[used], *sums)
            taught.append((part.teachers, weight))
        for at in blocks(len(index)):
            counts = as_csr(cells.data.minibatch(index[at]).modalities[modality].counts, np.float32)
            for one, weight in taught:
                near = np.flatnonzero(weight[at])
                one.add(counts[near], weight[at][near], size[at][near])
