"""Cells that trained nothing, and what they show of a modality: what everything here is measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse

from multivi_nf.data.draws import blocks, cell_keys
from multivi_nf.data.matrices import as_csr
from multivi_nf.data.minibatch import Minibatch, ModalityRows, SparseRows
from multivi_nf.errors import InputError
from multivi_nf.imputation.decode import RNA_SCALE, Decoder
from multivi_nf.latent.cells import Cells

RATE_CELLS, LIBRARY, RATIO_CELLS = 5000, 4000, 256
LEAST_VARIANCE = 1e-3
"""Relative variance of a feature's mean between batches that is taken for given: 3 %."""
LEAST_KNOWN = 50
"""Measured cells that make a library."""


@dataclass
class Library:
    """Measured cells, and held-out ones, in the latent space of half of the target's counts.

    Attributes
    ----------
    place, held
        (n, n_latent) of the measured cells, and of the held-out ones.
    counts
        (n, n_features) the other half of the measured cells' counts.
    size
        (n,) what turns a decoded value into such a count.
    batch, ratio
        (n,) batch of the measured cells, and (n_batches, n_features) decoded means under the reference mixture over
        those under it.
    """

    place: np.ndarray
    held: np.ndarray
    counts: sparse.csr_matrix
    size: np.ndarray
    batch: np.ndarray
    ratio: np.ndarray


@dataclass
class HeldOut:
    """Held-out cells of a mosaic.

    Attributes
    ----------
    cells
        The model, and the mosaic that it was trained on.
    index
        Positions of the held-out cells, ascending.
    depth
        d~; None without ATAC.
    seed
        Of draws and of which cells are looked at.
    """

    cells: Cells
    index: np.ndarray
    depth: float | None
    seed: int

    @classmethod
    def of(cls, cells: Cells, seed: int) -> HeldOut:
        """The pairs that training set apart for calibration; refused where most of them are not here."""
        index = role_cells(cells, "calibration")
        if len(index) and (index < 0).mean() > 0.5:
            raise InputError(
                f"{int((index < 0).sum())} of the {len(index)} calibration cells of split.tsv are not in the mosaic",
                "calibration needs the very cells that training set apart",
                "give the mosaic that the model was trained on",
            )
        sees_atac = "atac" in cells.model.modalities and cells.has["atac"].any()
        return cls(cells, np.sort(index[index >= 0]), cells.median_depth() if sees_atac else None, seed)

    @property
    def level(self) -> float:
        """d~, for a decoder."""
        return self.depth or 1.0

    def watched(self) -> HeldOut:
        """With the cells by which training only chose the epoch to keep."""
        more = role_cells(self.cells, "validation")
        return replace(self, index=np.union1d(self.index, more[more >= 0]))

    def measured(self, *modalities: str) -> np.ndarray:
        """Held-out cells with all of some modalities."""
        return self.index[np.all([self.cells.has[m][self.index] for m in modalities], axis=0)]

    def known(self, modality: str) -> np.ndarray:
        """Measured cells that are not held out: what may teach."""
        return np.setdiff1d(np.flatnonzero(self.cells.has[modality]), self.index)

    def sizes(self, minibatch: Minibatch, target: str) -> np.ndarray:
        """What turns a decoded value into an expected count: library, or depth over d~; 1 for proteins."""
        rows = minibatch.modalities[target].counts
        if target == "rna":
            return rows.dense().sum(1).double().cpu().numpy() / RNA_SCALE
        if target == "atac":
            return self.cells.encoded(minibatch, ("atac",)).levels["atac"].double().cpu().numpy() / self.level
        return np.ones(rows.n_rows)

    def alone(self, minibatch: Minibatch, target: str, rows: ModalityRows) -> np.ndarray:
        """(n_cells, n_latent) mean of the posterior from one modality's rows alone."""
        return self.cells.encoded(minibatch.of({target: rows})).mean

    def rates(self, modality: str) -> np.ndarray:
        """(n_batches + 1, n_features) means of measured cells on the user's scale, by batch; none held out.

        rna: counts of 10,000; atac: share of cells in which a peak is seen open (fragments in it), at d~. The last row
        is of the reference mixture, with half a count on each feature, so that none has a rate of 0. A batch's own row
        is drawn to it by as little as its counts are noise (a gamma prior of the variance that batches show); a batch
        that never measured the modality has the mixture's.
        """
        cells, config, known = self.cells, self.cells.model.config, self.known(modality)
        chosen, weights = config.reference_weights(modality)
        batch = cells.data.batch.cpu().numpy()
        highest = 1.0 if modality == "atac" and not cells.model.counts_peaks else np.inf
        sums = {b: self._summed(known[batch[known] == b], modality) for b in np.unique(batch[known]).tolist()}
        nothing = np.zeros(config.n_features[modality]), 0.0
        mixture = np.zeros(config.n_features[modality])
        for one, weight in zip(chosen.tolist(), weights.double().numpy()):
            seen, size = sums.get(one, nothing)
            mixture += weight * np.minimum((seen + 0.5) / (size + 1e-12), highest)
        rows = np.tile(mixture, (len(config.batches) + 1, 1))
        for one in (b for b in sums if b < len(config.batches)):
            rows[one] = np.minimum(drawn_to(mixture, *sums[one]), highest)
        return rows

    def _summed(self, index: np.ndarray, modality: str) -> tuple[np.ndarray, float]:
        """Counts of each feature over some cells, and what turns a decoded value into as many."""
        cells = self.cells
        index = index[np.argsort(cell_keys(cells.data.cells[index], 0, "rates"))[:RATE_CELLS]]
        seen, size, staged = np.zeros(cells.model.config.n_features[modality]), 0.0, cells.data.staged(index)
        for at in blocks(len(index)):
            minibatch = staged.minibatch(index[at])
            counts = minibatch.modalities[modality].counts
            values = None if counts.values is None else counts.values.cpu().numpy()
            own = np.bincount(counts.indices.cpu().numpy(), values, minlength=len(seen))
            seen += own
            size += own.sum() / RNA_SCALE if modality == "rna" else float(self.sizes(minibatch, modality).sum())
        return seen, size

    def library(self, index: np.ndarray, decoder: Decoder, positions: np.ndarray) -> Library | None:
        """Measured cells beside the held-out ones at `index`, by features at `positions`.

        None with too few measured cells, or of proteins, whose background is no part of the imputed value.
        """
        target, known = decoder.modality, self.known(decoder.modality)
        keys = cell_keys(self.cells.data.cells[known], self.seed, "library")
        known = known[np.argsort(keys, kind="stable")[:LIBRARY]]
        if target == "protein" or len(known) < LEAST_KNOWN:
            return None
        random, data = np.random.default_rng([self.seed, 3]), self.cells.data.staged(np.concatenate([known, index]))
        places, parts, sizes, mine = [], [], [], []
        for at in blocks(len(known)):
            minibatch = data.minibatch(known[at])
            first, second = halved(minibatch.modalities[target], random)
            places.append(self.alone(minibatch, target, first))
            parts.append(as_csr(second.counts, np.float32)[:, positions])
            sizes.append(self.sizes(minibatch, target) / 2)
        for at in blocks(len(index)):
            minibatch = data.minibatch(index[at])
            mine.append(self.alone(minibatch, target, halved(minibatch.modalities[target], random)[0]))
        counts, batches = sparse.vstack(parts).tocsr(), self._to_reference(known, decoder, positions)
        return Library(np.concatenate(places), np.concatenate(mine), counts, np.concatenate(sizes), *batches)

    def _to_reference(
        self, index: np.ndarray, decoder: Decoder, positions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Batch of cells, and (n_batches, n_features) decoded means under the reference mixture over those under it."""
        cells = self.cells.staged(index)
        names, batch = np.unique(cells.data.source.batch[index].astype(str), return_inverse=True)
        own = Decoder(cells.model, decoder.modality, "own", decoder.depth)
        ratio = np.ones((len(names), len(positions)))
        for i in range(len(names)):
            means = []
            for one in (decoder, own):
                total = np.zeros(decoder.n_features)
                for block in cells.blocks(index[np.flatnonzero(batch == i)[:RATIO_CELLS]]):
                    total += one.values(block.joint.mean, block.codes).double().numpy().sum(0)
                means.append(total[positions])
            ratio[i] = means[0] / np.maximum(means[1], 1e-12)
        return batch, np.clip(ratio, 0.1, 10)


def drawn_to(mean: np.ndarray, seen: np.ndarray, size: float) -> np.ndarray:
    """(n_features,) rates from counts `seen` at `size`, each drawn to `mean` by as much as its counts are noise.

    The posterior mean of a gamma prior around `mean` whose relative variance is that of the counts beyond Poisson's,
    by moments; features weigh by how well each is measured.
    """
    expected = size * mean
    weight = (1 + expected) ** -2
    beyond = (weight * ((seen - expected) ** 2 - expected)).sum() / max((weight * expected**2).sum(), 1e-300)
    prior = 1 / max(float(beyond), LEAST_VARIANCE)
    return mean * (seen + prior) / (expected + prior)


def role_cells(cells: Cells, role: str) -> np.ndarray:
    """Positions of the cells to which the model's split gave a role; -1 where the mosaic lacks them."""
    split = cells.model.split
    if split is None:
        raise InputError(
            "the model has no split.tsv",
            "it says which pairs were set apart in training; on others the error bars would look better than they are",
            "train the model with `multivi-nf train` (or mv.train), which sets them apart",
        )
    return cells.data.cells.get_indexer(split.loc[split["split"] == role, "cell"])


def halved(rows: ModalityRows, random: np.random.Generator) -> tuple[ModalityRows, ModalityRows]:
    """Two random halves of the counts."""
    counts = rows.counts
    values = np.ones(counts.indices.numel()) if counts.values is None else counts.values.cpu().numpy()
    part = random.binomial(values.astype(np.int64), 0.5).astype(np.float32)
    return _some(rows, part), _some(rows, values.astype(np.float32) - part)


def _some(rows: ModalityRows, values: np.ndarray) -> ModalityRows:
    """Rows with so many of each stored count."""
    counts = rows.counts
    device = counts.indices.device
    kept = torch.from_numpy(values > 0).to(device)
    ends = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.long().cumsum(0)])[counts.indptr]
    some = None if counts.values is None else torch.from_numpy(values).to(device)[kept]
    return ModalityRows(rows.cells, SparseRows(ends, counts.indices[kept], some, counts.n_features))
