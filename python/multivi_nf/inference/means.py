"""Means of groups of cells with their errors, tile by tile of features.

A group's mean is that of its cells' decoded values under the reference mixture, over posterior samples of z in
antithetic pairs. Its error is that of the data behind it, not of the decoder's smooth output, which is as sure of the
noise it learnt as of anything else:

- Where the modality was measured: the sampling error of the group's own counts. With x_c the count and s_c the size of
  a cell (library, depth), r = sum x / sum s, the influence of a cell on log r is (x_c - r s_c) / sum x; influences are
  squared and summed over cells, and over replicates: the variance of the Bayesian bootstrap over cells, and over
  replicates, in closed form. The counts also correct the centre: log(X / E), E the expected count of the same cells
  in their own batches, is the model's residual for the group; it is shrunk by t^2 / (t^2 + v), v its variance and t^2
  its variance between features beyond v.
- Where it was not measured: the spread of the imputed values over cells and samples of z, the sampling error of the
  measured cells from which the decoder learnt them (the nearest in the latent space), and the error of imputed effects
  that calibration found.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from multivi_nf.inference.decode import RNA_SCALE, TILE, Codes, Decoder, Prepared
from multivi_nf.inference.embedding import device_of, draw, posteriors
from multivi_nf.inference.posterior import blocks, cell_keys, normals, uniforms
from multivi_nf.inference.predictive import protein_expectation

if TYPE_CHECKING:
    from multivi_nf.inference.calibration import Calibration
    from multivi_nf.inference.groups import Design, Group
    from multivi_nf.training import MultiVI
    from multivi_nf.training.data import MosaicData

N_HALVES = 3
ROWS = 4096
NEIGHBOURS = 15
TEACHERS = 5000
LEAST_EXPECTED = 5.0
"""Expected counts from which a feature helps to learn the spread of residuals."""


@dataclass
class Cells:
    """Counts of measured cells, their sizes, and how much each one counts.

    Attributes
    ----------
    counts
        (n_cells, n_features) CSC.
    size
        (n_cells,) library per 10^4 (rna), depth over d~ (atac), 1 (protein).
    weight
        (n_cells,).
    """

    counts: sparse.csc_matrix
    size: np.ndarray
    weight: np.ndarray


@dataclass
class Part:
    """The measured, or the unmeasured, cells of a group.

    Attributes
    ----------
    group, share
        Name of the group, and cells that each decoded cell stands for.
    z
        (n_samples, n_cells, n_latent) posterior samples, antithetic pairs.
    codes
        The cells' own covariates.
    replicate
        (n_cells,) replicate names.
    rows
        (1 + n_halves, n_cells) ones, then random halves (0/1).
    own
        The cells' counts; None where they were not measured.
    teachers
        Measured cells nearest to the unmeasured ones; None for measured parts.
    noise
        Error of imputed log means by their height (:meth:`Calibration.effect_noise`).
    outside
        Share of the cells that are out of support.
    """

    group: str
    share: float
    z: torch.Tensor
    codes: Codes
    replicate: np.ndarray
    rows: np.ndarray
    own: Cells | None
    teachers: Cells | None
    noise: list[tuple[np.ndarray, np.ndarray]]
    outside: float
    normaliser: dict[tuple[int, int, bool], list[torch.Tensor]] = field(default_factory=dict)

    @property
    def n_cells(self) -> int:
        """Cells that are decoded."""
        return self.z.shape[1]


@dataclass
class Sums:
    """What one tile of a part leaves behind.

    Attributes
    ----------
    value
        (1 + 2 n_halves, width) mean decoded value of all cells, of the halves, of their complements.
    residual
        The same of log observed over expected counts; 0 where not measured.
    first
        Replicate to (width,) sum of x (counts, or decoded values of unmeasured cells).
    size
        Replicate to sum of s.
    second
        (3, width) sums over cells of x^2, x s, s^2.
    extra
        (width,) variance of the log mean beyond that of its cells (unmeasured cells).
    """

    value: np.ndarray
    residual: np.ndarray
    first: dict[str, np.ndarray]
    size: dict[str, float]
    second: np.ndarray
    extra: np.ndarray


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
        Least number of posterior samples of a group; a cell has at least one antithetic pair.
    seed
        Of all draws.
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
    ) -> None:
        self.model, self.data, self.decoder, self.seed = model, data, decoder, seed
        self.own = Decoder(model, decoder.modality, "own", decoder.depth)
        self.calibration, self.n_samples = calibration, n_samples
        self.names = data.cells.to_numpy(str)
        self._teachers: tuple[np.ndarray, Cells] | None = None
        self.parts = {
            group.name: [
                self._part(group, rows, measured)
                for measured, rows in ((True, group.measured), (False, ~group.measured))
                if rows.any()
            ]
            for group in groups
        }

    # ------------------------------------------------------------------------------------------------ cells

    def _part(self, group: Group, rows: np.ndarray, measured: bool) -> Part:
        cells, names = group.cells[rows], self.names[group.cells[rows]]
        n_pairs = max(1, -(-self.n_samples // (2 * len(group.cells))))
        z, latent, codes, own = self._encode(cells, names, n_pairs, measured)
        halves = uniforms(cell_keys(names, self.seed, "halves"), 0, N_HALVES).T < 0.5
        table = np.concatenate([np.ones((1, len(cells))), halves]).astype(np.float32)
        noise = [] if measured else self.calibration.effect_noise(self.data, cells, self.decoder.modality)
        teachers = None if measured else self._taught_by(latent)
        outside = self.calibration.assess(self.model, self.data, cells, self.decoder.modality).outside.mean()
        return Part(group.name, group.share, z, codes, group.replicate[rows], table, own, teachers, noise, outside)

    def _encode(
        self, cells: np.ndarray, names: np.ndarray, n_pairs: int, measured: bool
    ) -> tuple[torch.Tensor, np.ndarray, Codes, Cells | None]:
        k, device = self.model.config.n_latent, device_of(self.model)
        # no temperature here: it corrects single cells, and would shrink contrasts of means (their error is `extra`)
        keys = cell_keys(names, self.seed, "posterior")
        z, latent, codes, own = [], [], [], []
        for block in blocks(len(cells)):
            minibatch = self.data.minibatch(cells[block])
            joint, encoded, _ = posteriors(self.model, minibatch)
            noise = torch.from_numpy(normals(keys[block], range(n_pairs), k)).to(device)
            z.append(draw(joint, torch.cat([noise, -noise])))
            latent.append(joint.mean.cpu().numpy())
            codes.append(Codes(minibatch.batch, minibatch.categorical, minibatch.continuous))
            if measured:
                own.append(self._counted(minibatch, encoded))
        joined = Codes(*(torch.cat([getattr(c, f) for c in codes]) for f in ("batch", "categorical", "continuous")))
        counted = _stacked(own) if own else None
        return torch.cat(z, dim=1), np.concatenate(latent), joined, counted

    def _counted(self, minibatch, encoded: dict) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Counts and sizes of the measured cells of a minibatch."""
        modality = self.decoder.modality
        rows = minibatch.modalities[modality].counts
        values = np.ones(rows.indices.numel()) if rows.values is None else rows.values.cpu().numpy()
        arrays = (values.astype(np.float32), rows.indices.cpu().numpy(), rows.indptr.cpu().numpy())
        counts = sparse.csr_matrix(arrays, shape=(rows.n_rows, rows.n_features))
        if modality == "rna":
            return counts, (encoded["rna"].size.exp() / RNA_SCALE).double().cpu().numpy()
        if modality == "atac":
            return counts, (encoded["atac"].size.sigmoid() / self.decoder.depth).double().cpu().numpy()
        return counts, np.ones(rows.n_rows)

    def _taught_by(self, latent: np.ndarray) -> Cells | None:
        """Measured cells nearest to some unmeasured ones, weighted by how often they are a neighbour."""
        from sklearn.neighbors import NearestNeighbors

        if self._teachers is None:
            measured = np.flatnonzero(self.data.has[self.decoder.modality])
            if not measured.size:
                return None
            keys = cell_keys(self.names[measured], self.seed, "subsample")
            chosen = np.sort(measured[np.argsort(keys)[:TEACHERS]])
            places, own = [], []
            for block in blocks(len(chosen)):
                minibatch = self.data.minibatch(chosen[block])
                joint, encoded, _ = posteriors(self.model, minibatch)
                places.append(joint.mean.cpu().numpy())
                own.append(self._counted(minibatch, encoded))
            self._teachers = np.concatenate(places), _stacked(own)
        places, cells = self._teachers
        near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(places))).fit(places)
        weight = np.bincount(near.kneighbors(latent, return_distance=False).ravel(), minlength=len(places))
        used = weight > 0
        return Cells(cells.counts.tocsr()[used].tocsc(), cells.size[used], weight[used] / weight.sum())

    def outside(self, design: Design, pair: tuple[str, str]) -> float:
        """Share of cells out of support, of the side where it is larger."""
        shares = []
        for name in pair:
            parts = [part for group in design.members(name, pair[0]) for part in self.parts[group.name]]
            shares.append(np.average([p.outside for p in parts], weights=[p.share * p.n_cells for p in parts]))
        return float(max(shares))

    # ------------------------------------------------------------------------------------------------ sums

    def sums(self, part: Part, start: int) -> Sums:
        """Decode one part over the tile of features that begins at `start`."""
        stop = min(start + TILE, self.decoder.n_features)
        shape = (len(part.rows), stop - start)
        device = part.z.device
        value, expected = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        spread = torch.zeros(stop - start, device=device)
        per_replicate = {name: torch.zeros(stop - start, device=device) for name in sorted(set(part.replicate))}
        n_samples = part.z.shape[0]
        for rows in blocks(part.n_cells, ROWS):
            weights = torch.from_numpy(part.rows[:, rows] / n_samples).to(device)
            size = None if part.own is None else torch.from_numpy(part.own.size[rows].astype(np.float32)).to(device)
            for k in range(n_samples):
                decoded = self._decode(self.decoder, part, k, rows, start)
                value.addmm_(weights, decoded)
                if part.own is None:
                    spread += decoded.square().sum(0) / n_samples
                    for name, total in per_replicate.items():
                        mine = torch.from_numpy(part.replicate[rows] == name).to(device)
                        total += decoded[mine].sum(0) / n_samples
                else:
                    own = decoded if self._same(part) else self._decode(self.own, part, k, rows, start)
                    expected.addmm_(weights * size, own)
        if part.own is None:
            return self._unmeasured(part, value, spread, per_replicate)
        return self._measured(part, value, expected, slice(start, stop))

    def _measured(self, part: Part, value: torch.Tensor, expected: torch.Tensor, tile: slice) -> Sums:
        x = part.own.counts[:, tile].tocsr()
        observed = part.rows.astype(np.float64) @ x
        residual = np.log((_halved(observed) + 0.5) / (_halved(expected.double().cpu().numpy()) + 0.5))
        first, size = {}, {}
        for name in sorted(set(part.replicate)):
            mine = part.replicate == name
            first[name] = np.asarray(x[mine].sum(axis=0), dtype=np.float64).ravel()
            size[name] = float(part.own.size[mine].sum())
        squared = x.copy()
        squared.data = squared.data**2
        second = np.stack([
            np.asarray(squared.sum(axis=0), dtype=np.float64).ravel(),
            np.asarray(part.own.size @ x).ravel(),
            np.full(x.shape[1], (part.own.size**2).sum()),
        ])  # fmt: skip
        return Sums(self._averaged(part, value), residual, first, size, second, np.zeros(x.shape[1]))

    def _unmeasured(self, part: Part, value: torch.Tensor, spread: torch.Tensor, per_replicate: dict) -> Sums:
        first = {name: total.double().cpu().numpy() for name, total in per_replicate.items()}
        size = {name: float((part.replicate == name).sum()) for name in first}
        mean = self._averaged(part, value)
        second = np.stack([spread.double().cpu().numpy(), sum(first.values()), np.full(len(spread), part.n_cells)])
        extra = np.zeros(len(spread))
        if part.noise:
            level = np.log(np.maximum(mean[0], 1e-12))
            extra = np.max([np.interp(level, knots, height) for knots, height in part.noise], axis=0) ** 2
        return Sums(mean, np.zeros_like(mean), first, size, second, extra)

    def _averaged(self, part: Part, value: torch.Tensor) -> np.ndarray:
        cells = _halved(part.rows.sum(axis=1, keepdims=True).astype(np.float64))
        return _halved(value.double().cpu().numpy()) / np.maximum(cells, 1)

    def taught_variance(self, part: Part, start: int) -> np.ndarray:
        """(width,) sampling variance of the log mean of the measured cells that taught the decoder these values."""
        stop = min(start + TILE, self.decoder.n_features)
        if part.teachers is None:
            return np.zeros(stop - start)
        cells = part.teachers
        x = cells.counts[:, start:stop]
        squared = x.copy()
        squared.data = squared.data**2
        total = np.asarray(cells.weight @ x).ravel()
        weight2 = cells.weight**2
        rate = total / (cells.weight @ cells.size)
        quadratic = weight2 @ squared - 2 * rate * ((weight2 * cells.size) @ x) + rate**2 * (weight2 @ cells.size**2)
        # a feature that none of them showed: the variance of the log of a Poisson count of as many cells
        floor = (weight2.sum() / (total + 0.5 * weight2.sum())) if len(cells.weight) else 0.0
        return np.maximum(np.maximum(quadratic, 0) / np.maximum(total, 1e-12) ** 2 * (total > 0), floor)

    def _same(self, part: Part) -> bool:
        """Is decoding under the own batch the same as under the mixture?"""
        config = self.model.config
        if self.decoder.modality == "protein" or config.categorical or config.continuous:
            return False
        return len(self.decoder.batches) == 1 and bool((part.codes.batch == self.decoder.batches[0]).all())

    def decoded(self, part: Part, start: int) -> torch.Tensor:
        """(n_cells, width) one posterior sample of each cell over a tile."""
        return torch.cat([self._decode(self.decoder, part, 0, rows, start) for rows in blocks(part.n_cells, ROWS)])

    def _decode(self, decoder: Decoder, part: Part, k: int, rows: slice, start: int) -> torch.Tensor:
        z = part.z[k, rows]
        codes = Codes(part.codes.batch[rows], part.codes.categorical[rows], part.codes.continuous[rows])
        if decoder.modality != "rna":
            prepared = decoder.prepare(z, codes)
        else:
            # the normaliser needs all genes: it is computed once; hidden layers are cheap enough to repeat
            key = (k, rows.start, decoder.own)
            if key not in part.normaliser:
                part.normaliser[key] = decoder.prepare(z, codes).normaliser
            bare = decoder.prepare(z, codes, normalise=False)
            prepared = Prepared(bare.hidden, bare.batches, part.normaliser[key])
        if decoder.own and decoder.modality == "protein":
            return protein_expectation(decoder.raw(prepared.hidden[0], prepared.batches[0], start))
        return decoder.tile(prepared, start)


def _stacked(parts: list[tuple[sparse.csr_matrix, np.ndarray]]) -> Cells:
    size = np.concatenate([size for _, size in parts])
    return Cells(sparse.vstack([counts for counts, _ in parts]).tocsc(), size, np.ones(len(size)))


def _halved(rows: np.ndarray) -> np.ndarray:
    """(1 + n_halves, ...) sums to (1 + 2 n_halves, ...): all, the halves, their complements."""
    return np.concatenate([rows, rows[:1] - rows[1:]])
