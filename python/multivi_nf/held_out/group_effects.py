"""Measures, on groups of held-out pairs, how imputed differences between groups stand to true ones.

Each held-out cell is imputed from its other modalities, as a cell that lacks the target is. Groups are k-means in the
latent space of the sources; or, where these tell less of a cell, of the target alone: then its counts of the target are
dealt out at random in two halves, one places it, the other is compared, so that no count decides twice; and the other
way round.
"""

from __future__ import annotations

from functools import cached_property, reduce

import numpy as np
import torch
from scipy import sparse

from multivi_nf.calibration.effects import CLUSTERS, LABELS, ImputedEffects
from multivi_nf.data.draws import blocks, cell_keys
from multivi_nf.data.matrices import as_csr
from multivi_nf.data.minibatch import SparseRows
from multivi_nf.held_out.compared import Compared, fit_effects
from multivi_nf.held_out.pairs import HeldOut, halved
from multivi_nf.imputation.decode import TILE, Decoder
from multivi_nf.imputation.intervals import protein_expectation
from multivi_nf.imputation.teachers import Teachers, knows
from multivi_nf.latent.cells import Codes, samples
from multivi_nf.reduction import grouped, nearest

MOST_CELLS, LEAST_DECODED, ELEMENTS = 2000, 400, 40_000_000
"""Cells that are decoded: so many that matrices of all features keep to 160 MB, but at least 400."""
CELLS_A_GROUP, GROUPS = 20, (3, 8)
LEAST_CELLS = 8
"""Cells of a group, four a half, from which it is compared."""
DRAWS = 4
NEIGHBOURS, LEFT_OUT = 30, 10
TEACHERS = 4000
GAIN_CELLS = 1000
LEAST_GAIN = 30
LARGEST_GAIN = 1.5


class Groups:
    """Held-out cells of one direction, decoded and grouped.

    Parameters
    ----------
    held
        All held-out cells: none of them teaches.
    sources, target
        The direction; those with all of these are grouped.
    """

    def __init__(self, held: HeldOut, sources: tuple[str, ...], target: str) -> None:
        self.held, self.model, self.seed = held, held.cells.model, held.seed
        self.target, self.sources = target, sources
        pairs = held.measured(*sources, target)
        order = np.argsort(cell_keys(held.cells.data.cells[pairs], held.seed, "effects"), kind="stable")
        self.decoder = Decoder(self.model, target, "own", held.level)
        most = min(MOST_CELLS, max(LEAST_DECODED, ELEMENTS // self.decoder.n_features))
        self.index = pairs[order[:most]]
        cells = held.cells.staged(self.index)
        random = np.random.default_rng([held.seed, 16])
        self.half = np.arange(len(self.index)) % 2
        self.blocks = list(cells.blocks(self.index, sources))
        own: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        counts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for block in self.blocks:
            first, second = halved(block.minibatch.modalities[target], random)
            for at, half in enumerate((first, second)):
                own[at].append(held.alone(block.minibatch, target, half))
                counts[at].append(as_csr(half.counts, np.float32).toarray())
        minibatches = [block.minibatch for block in self.blocks]
        self.own, self.counts = ([np.concatenate(blocks) for blocks in halves] for halves in (own, counts))
        self.source = np.concatenate([block.mean for block in self.blocks])
        self.size = np.concatenate([held.sizes(minibatch, target) for minibatch in minibatches])
        self.whole = np.concatenate([m.modalities[target].counts.dense().cpu().numpy() for m in minibatches])
        self.panel = cells.data.in_panel(self.index, target)
        if self.panel is not None:
            self.counts, self.whole = [one * self.panel for one in self.counts], self.whole * self.panel
        self.batch = np.unique(cells.data.source.batch[self.index].astype(str), return_inverse=True)[1]
        self.decoded = self._decoded()

    @cached_property
    def teachers(self) -> Teachers:
        """Measured cells that are not held out."""
        return Teachers(self.held.cells, self.decoder, self.held.known(self.target), self.seed)

    def fit(self) -> dict[str, ImputedEffects]:
        """Numbers of groups that one modality's own counts make, and of groups in the space of the sources.

        Named groups are those of the modality that tells more of a cell, by how far apart it places cells: the half
        of the target's counts that is not compared, or the sources.
        """
        gain, near = self.gain(), self._neighbours()
        out = {}
        for kind in (LABELS, CLUSTERS):
            inside = self.compared(kind)
            if inside is not None:
                out[kind] = fit_effects(inside, near, gain)
        return out

    def compared(self, kind: str) -> Compared | None:
        """Groups of one kind; None with fewer than two."""
        by_source = self.own[0].var(axis=0).sum() < self.source.var(axis=0).sum()
        # groups that no count of the target made are compared by all of them; others made by each half, and compared
        # by the one that did not make them
        dealt = [(self.source, self.whole)] if kind == CLUSTERS or by_source else zip(self.own, self.counts[::-1])
        found = []
        for place, counts in dealt:
            label = self._grouped(place)
            one = self._compared(label, self.decoded, counts)
            if one is not None:
                self._teach(one, label)
                found.append(one)
        return Compared.joined(found) if found else None

    def _teach(self, found: Compared, label: np.ndarray) -> None:
        """Add what the measured cells nearest to each group show."""
        if not knows(self.target) or not len(self.teachers.index):
            return
        places = [self.source[label == g] for g in self._kept(label)]
        found.residual, found.variance = self.teachers.residuals(places)

    # ------------------------------------------------------------------------------------------------ cells

    def _decoded(self) -> np.ndarray:
        """(n_cells, n_features) expected counts over antithetic draws, each cell under its own batch."""
        keys = cell_keys(self.held.cells.data.cells[self.index], self.seed, "posterior")
        out = []
        for block in self.blocks:
            drawn = samples(block.joint, keys[block.at], DRAWS, antithetic=True)
            out.append(reduce(np.add, [self._values(z, block.codes) / DRAWS for z in drawn]))
        expected = np.concatenate(out) * self.size[:, None].astype(np.float32)
        return expected if self.panel is None else expected * self.panel

    def _values(self, z: torch.Tensor, codes: Codes) -> np.ndarray:
        if self.target != "protein":
            return self.decoder.values(z, codes).numpy()
        prepared = self.decoder.prepare(z, codes)
        raws = [
            self.decoder.raw(prepared.hidden[0], prepared.batches[0], start)
            for start in range(0, self.decoder.n_features, TILE)
        ]
        return torch.cat([protein_expectation(raw) for raw in raws], dim=1).cpu().numpy()

    def _grouped(self, place: np.ndarray) -> np.ndarray:
        n = int(np.clip(len(place) // CELLS_A_GROUP, *GROUPS))
        return grouped(place, n, starts=3).labels_

    @staticmethod
    def _kept(label: np.ndarray) -> list[int]:
        """Groups of cells enough."""
        return [g for g in np.unique(label) if (label == g).sum() >= LEAST_CELLS]

    def _compared(self, label: np.ndarray, expected: np.ndarray, counts: np.ndarray) -> Compared | None:
        """Sums of groups and halves of cells; None with fewer than two groups."""
        kept = self._kept(label)
        if len(kept) < 2:
            return None
        at = [(label == g) & (self.half == h) for g in kept for h in (0, 1)]
        member = np.array(at, dtype=np.float32)
        measured = self.size[:, None] if self.panel is None else self.size[:, None] * self.panel
        of_batch = np.eye(self.batch.max() + 1, dtype=np.float32)[self.batch]
        rate = (of_batch.T @ self.decoded) / np.maximum(of_batch.T @ measured, 1e-12)
        level = np.log(np.maximum(self.decoded.sum(0) / np.maximum(measured.sum(0), 1e-12), 1e-12))
        shares = np.stack([(member * of_batch[:, b]) @ measured for b in range(of_batch.shape[1])])
        base = (shares * rate[:, None, :]).sum(0)
        shape = (len(kept), 2, -1)
        observed, decoded, own = (
            m.astype(np.float64).reshape(shape) for m in (member @ counts, member @ expected, base)
        )
        return Compared(observed, decoded, own, level)

    # ------------------------------------------------------------------------------------------------ neighbours

    def _neighbours(self) -> tuple[Compared, Compared] | None:
        """Groups as their measured neighbours predict them: any, and those that lie in other groups."""
        known = self.held.known(self.target)
        keys = cell_keys(self.held.cells.data.cells[known], self.seed, "teachers")
        known = known[np.argsort(keys, kind="stable")[:TEACHERS]]
        if len(known) < 3 * LEFT_OUT * NEIGHBOURS:
            return None
        places, counts, data = [], [], self.held.cells.data.staged(known)
        for block in blocks(len(known)):
            minibatch = data.minibatch(known[block])
            rows = minibatch.modalities[self.target]
            places.append(self.held.alone(minibatch, self.target, rows))
            counts.append(_profiles(rows.counts))
        place, profile = np.concatenate(places), sparse.vstack(counts).tocsr()
        average = np.asarray(profile.mean(axis=0), np.float32).ravel()
        groups = grouped(place, LEFT_OUT, starts=3)
        label = groups.predict(self.own[0].astype(place.dtype))
        predictions = []
        for apart in (False, True):
            expected = np.zeros_like(self.decoded)
            for group in np.unique(label):
                mine = np.flatnonzero(label == group)
                use = np.flatnonzero(groups.labels_ != group) if apart else np.arange(len(place))
                index, _ = nearest(self.source[mine], place[use], NEIGHBOURS)
                weight = np.bincount(index.ravel(), minlength=len(use)).astype(np.float32)
                mean = weight @ profile[use] + NEIGHBOURS * average  # no profile has zeros
                expected[mine] = mean / mean.sum() * self.size[mine, None]
            predictions.append(self._compared_with(label, expected, average))
        anywhere, elsewhere = predictions
        return None if anywhere is None or elsewhere is None else (anywhere, elsewhere)

    def _compared_with(self, label: np.ndarray, expected: np.ndarray, mean: np.ndarray) -> Compared | None:
        """As `_compared`, with an expectation whose level is that of a mean profile and not the decoder's."""
        found = self._compared(label, expected, self.counts[1])
        if found is not None:
            sizes = np.array([self.size[label == g].sum() for g in self._kept(label)])
            flat = sizes[:, None] * (mean / mean.sum())
            # x = log(E / flat): carried by the base, which keeps the batches' part. Of a feature that no measured cell
            # shows neighbours say nothing, and it stays at the base
            said = np.divide(found.expected.sum(1), flat, out=np.ones_like(found.expected.sum(1)), where=flat > 0)
            found.expected = found.base * said[:, None]
        return found

    # ------------------------------------------------------------------------------------------------ gain

    def gain(self) -> float:
        """Spread of latent means of cells that trained the model over that of cells that only validated it.

        Of cells with just the sources measured: both kinds come from one pool, the split is random. An encoder places
        cells it was trained on farther out, at what their own counts happened to show; so do their imputed values.
        """
        if self.model.split is None:
            return 1.0
        cells = self.held.cells
        only = np.all([cells.has[m] == (m in self.sources) for m in self.model.modalities], axis=0)
        split = self.model.split.set_index("cell")["split"].reindex(cells.data.cells.astype(str)).to_numpy(str)
        spread = []
        for part in ("train", "validation"):
            index = np.flatnonzero(only & (split == part))
            if len(index) < LEAST_GAIN:
                return 1.0
            keys = cell_keys(cells.data.cells[index], self.seed, "gain")
            index = index[np.argsort(keys, kind="stable")[:GAIN_CELLS]]
            means = np.concatenate([block.mean for block in cells.staged(index).blocks(index)])
            spread.append(float(means.var(axis=0).sum()))
        return float(np.clip(np.sqrt(spread[0] / max(spread[1], 1e-12)), 1.0, LARGEST_GAIN))


def _profiles(rows: SparseRows) -> sparse.csr_matrix:
    """Counts over their sum: profiles, whatever the cells' sizes are."""
    counts = as_csr(rows, np.float32)
    return sparse.diags(1 / np.maximum(np.asarray(counts.sum(1)).ravel(), 1)).astype(np.float32) @ counts
