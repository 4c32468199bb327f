"""Posterior of the means of groups of cells, tile by tile of features.

One draw of a group's mean takes bootstrap weights w of replicates and cells (`groups`), one posterior sample of z per
cell, and sums w p(z) under the reference mixture. Samples come in antithetic pairs (mean + e, mean - e), and a draw
picks one of the pair for each cell: the spread is that of independent samples, the centre that of infinitely many.

Where the modality was measured, the group's own counts correct what the decoder smoothed over: with X the weighted
observed and E the weighted expected count of the same cells (own batch, own library), log(X / E) is the model's
residual for the group. It is shrunk by t^2 / (t^2 + v), v its bootstrap variance and t^2 its variance between features
beyond v (empirical Bayes, normal-normal), and multiplies the mean. Where it was not measured, the error of imputed
effects that calibration found enters as independent noise on the logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from multivi_nf.inference.decode import RNA_SCALE, TILE, Codes, Decoder, Prepared
from multivi_nf.inference.embedding import device_of, draw, posteriors, tempered
from multivi_nf.inference.groups import Group, cell_weights
from multivi_nf.inference.posterior import blocks, cell_keys, normals, uniforms
from multivi_nf.inference.predictive import protein_expectation

if TYPE_CHECKING:
    from multivi_nf.inference.calibration import Calibration
    from multivi_nf.training import MultiVI
    from multivi_nf.training.data import MosaicData

N_HALVES = 5
LEAST_ROWS = 1000
ROWS = 4096
PRIOR_TILES = 4
LEAST_EXPECTED = 5.0
"""Expected counts from which a feature helps to learn the spread of residuals."""


@dataclass
class Part:
    """The measured, or the unmeasured, cells of a group.

    Attributes
    ----------
    group
        Name of the group.
    share
        Cells that each decoded cell stands for.
    z
        (n_picks, n_cells, n_latent) posterior samples, antithetic pairs.
    codes
        The cells' own covariates.
    weights
        (n_draws + n_halves + 1, n_cells): draws, random halves (0/1), all ones.
    pick
        (n_draws, n_cells) which sample each draw takes.
    size
        (n_cells,) library (rna, per 10^4), depth over d~ (atac), 1 (protein) of measured cells; None if imputed.
    counts
        (n_cells, n_features) CSC counts of measured cells; None if imputed.
    noise
        Error of imputed log means by their height (:meth:`Calibration.effect_noise`); empty if measured.
    spread
        t: sd between features of the log residual; set by :meth:`Means.learn`.
    """

    group: str
    share: float
    z: torch.Tensor
    codes: Codes
    weights: torch.Tensor
    pick: torch.Tensor
    size: torch.Tensor | None
    counts: sparse.csc_matrix | None
    noise: list[tuple[np.ndarray, np.ndarray]]
    spread: float = 0.0
    normaliser: dict[tuple[int, bool], list[torch.Tensor]] = field(default_factory=dict)

    @property
    def n_cells(self) -> int:
        """Cells that are decoded."""
        return self.z.shape[1]


@dataclass
class Sums:
    """Weighted sums of one part over one tile, rows as its weights: (n_rows, width).

    `value` on the user's scale; `observed` and `expected` counts of measured cells.
    """

    value: torch.Tensor
    observed: torch.Tensor | None
    expected: torch.Tensor | None


class Means:
    """Draws of the means of all groups of a design.

    Parameters
    ----------
    model, data
        Model and cells.
    decoder
        Reference mixture of the modality.
    groups
        Groups to decode.
    masses
        Bootstrap masses of replicates (:func:`~multivi_nf.inference.groups.replicate_weights`).
    calibration
        Temperatures, and errors of imputed effects.
    seed
        Of all draws.
    residuals
        Correct measured groups by their own counts.
    """

    def __init__(
        self,
        model: MultiVI,
        data: MosaicData,
        decoder: Decoder,
        groups: list[Group],
        masses: dict[str, np.ndarray],
        calibration: Calibration,
        seed: int,
        *,
        residuals: bool = True,
    ) -> None:
        self.model, self.data, self.decoder, self.seed = model, data, decoder, seed
        self.own = Decoder(model, decoder.modality, "own", decoder.depth)
        self.n_draws = len(next(iter(masses.values())))
        self.residuals = residuals
        self.names = data.cells.to_numpy(str)
        self.parts: dict[str, list[Part]] = {}
        for group in groups:
            weights = cell_weights(group, self.names, masses, seed)
            self.parts[group.name] = [
                self._part(group, weights, rows, measured, calibration)
                for measured, rows in ((True, group.measured), (False, ~group.measured))
                if rows.any()
            ]

    # ------------------------------------------------------------------------------------------------ cells

    def _part(
        self, group: Group, weights: np.ndarray, rows: np.ndarray, measured: bool, calibration: Calibration
    ) -> Part:
        cells = group.cells[rows]
        names = self.names[cells]
        n_pairs = max(1, -(-LEAST_ROWS // (2 * len(group.cells))))
        z, codes, size, counts = self._encode(cells, names, n_pairs, measured, calibration)
        device = z.device
        chosen = uniforms(cell_keys(names, self.seed, "pick"), 0, self.n_draws).T * (2 * n_pairs)
        halves = uniforms(cell_keys(names, self.seed, "halves"), 0, N_HALVES).T < 0.5
        ones = np.ones((1, len(cells)))
        table = np.concatenate([weights[:, rows], halves, ones]).astype(np.float32)
        noise = [] if measured else calibration.effect_noise(self.data, cells, self.decoder.modality)
        return Part(
            group.name,
            group.share,
            z,
            codes,
            torch.from_numpy(table).to(device),
            torch.from_numpy(chosen.astype(np.int16)).to(device),
            size,
            counts,
            noise,
        )

    def _encode(
        self, cells: np.ndarray, names: np.ndarray, n_pairs: int, measured: bool, calibration: Calibration
    ) -> tuple[torch.Tensor, Codes, torch.Tensor | None, sparse.csc_matrix | None]:
        modality, k = self.decoder.modality, self.model.config.n_latent
        device = device_of(self.model)
        temperature = calibration.assess(self.model, self.data, cells, modality).temperature
        keys = cell_keys(names, self.seed, "posterior")
        z, codes, sizes, counts = [], [], [], []
        for block in blocks(len(cells)):
            minibatch = self.data.minibatch(cells[block])
            joint, encoded, _ = posteriors(self.model, minibatch)
            joint = tempered(joint, torch.as_tensor(temperature[block], dtype=torch.float32, device=device))
            noise = torch.from_numpy(normals(keys[block], range(n_pairs), k)).to(device)
            z.append(draw(joint, torch.cat([noise, -noise])))
            codes.append(Codes(minibatch.batch, minibatch.categorical, minibatch.continuous))
            if measured and self.residuals:
                rows = minibatch.modalities[modality].counts
                values = np.ones(rows.indices.numel()) if rows.values is None else rows.values.cpu().numpy()
                part = (values.astype(np.float32), rows.indices.cpu().numpy(), rows.indptr.cpu().numpy())
                counts.append(sparse.csr_matrix(part, shape=(rows.n_rows, rows.n_features)))
                sizes.append(self._size(encoded, rows.n_rows))
        joined = Codes(*(torch.cat([getattr(c, f) for c in codes]) for f in ("batch", "categorical", "continuous")))
        if not counts:
            return torch.cat(z, dim=1), joined, None, None
        return torch.cat(z, dim=1), joined, torch.cat(sizes), sparse.vstack(counts).tocsc()

    def _size(self, encoded: dict, n_rows: int) -> torch.Tensor:
        """What turns a decoded value into an expected count."""
        modality = self.decoder.modality
        if modality == "rna":
            return encoded["rna"].size.exp() / RNA_SCALE
        if modality == "atac":
            return encoded["atac"].size.sigmoid() / self.decoder.depth
        return torch.ones(n_rows, device=device_of(self.model))

    # ------------------------------------------------------------------------------------------------ sums

    def sums(self, part: Part, start: int) -> Sums:
        """Weighted sums of a part over the tile of features that begins at `start`."""
        n_picks = part.z.shape[0]
        stop = min(start + TILE, self.decoder.n_features)
        shape = (part.weights.shape[0], stop - start)
        value = torch.zeros(shape, device=part.z.device)
        with_counts = part.counts is not None
        expected = torch.zeros_like(value) if with_counts else None
        observed = torch.zeros_like(value) if with_counts else None
        for rows in blocks(part.n_cells, ROWS):
            weights = part.weights[:, rows]
            for k in range(n_picks):
                picked = weights / n_picks
                picked[: self.n_draws] = weights[: self.n_draws] * (part.pick[:, rows] == k)
                values = self._decode(self.decoder, part, k, rows, start)
                value.addmm_(picked, values)
                if with_counts:
                    own = values if self._same(part) else self._decode(self.own, part, k, rows, start)
                    expected.addmm_(picked * part.size[rows], own)
            if with_counts:
                tile = part.counts[rows, start:stop].toarray()
                observed.addmm_(weights, torch.from_numpy(tile).to(weights.device))
        return Sums(value, observed, expected)

    def _same(self, part: Part) -> bool:
        """Is decoding under the own batch the same as under the mixture?"""
        config = self.model.config
        if self.decoder.modality == "protein" or config.categorical or config.continuous:
            return False
        return len(self.decoder.batches) == 1 and bool((part.codes.batch == self.decoder.batches[0]).all())

    def _decode(self, decoder: Decoder, part: Part, k: int, rows: slice, start: int) -> torch.Tensor:
        z = part.z[k, rows]
        codes = Codes(part.codes.batch[rows], part.codes.categorical[rows], part.codes.continuous[rows])
        if decoder.modality != "rna":
            prepared = decoder.prepare(z, codes)
        else:
            # the normaliser needs all genes: it is computed once, hidden layers are cheap enough to repeat
            key = (k * part.n_cells + rows.start, decoder.own)
            if key not in part.normaliser:
                part.normaliser[key] = decoder.prepare(z, codes).normaliser
            bare = decoder.prepare(z, codes, normalise=False)
            prepared = Prepared(bare.hidden, bare.batches, part.normaliser[key])
        if decoder.own and decoder.modality == "protein":
            return protein_expectation(decoder.raw(prepared.hidden[0], prepared.batches[0], start))
        return decoder.tile(prepared, start)

    def decoded(self, part: Part, start: int) -> torch.Tensor:
        """(n_cells, width) one posterior sample of each cell over a tile."""
        return torch.cat([self._decode(self.decoder, part, 0, rows, start) for rows in blocks(part.n_cells, ROWS)])

    # ------------------------------------------------------------------------------------------------ residuals

    def prior_tiles(self) -> list[int]:
        """A few tiles, evenly spread, from which priors are learnt."""
        starts = np.arange(0, self.decoder.n_features, TILE)
        return starts[np.unique(np.linspace(0, len(starts) - 1, min(len(starts), PRIOR_TILES)).astype(int))].tolist()

    def learn(self) -> dict[str, list[list[Sums]]]:
        """Learn each measured part's spread of residuals; give the sums of the tiles that were decoded for it."""
        kept: dict[str, list[list[Sums]]] = {}
        for name, parts in self.parts.items():
            kept[name] = []
            for part in parts:
                tiles = [self.sums(part, start) for start in self.prior_tiles()]
                kept[name].append(tiles)
                if part.counts is None:
                    continue
                log, variance, expected = zip(*(self._residual(part, one) for one in tiles))
                log, variance, expected = torch.cat(log), torch.cat(variance), torch.cat(expected)
                use = expected >= LEAST_EXPECTED
                if use.sum() >= 20:
                    beyond = (log[use].square() - variance[use]) / (1 + variance[use] / variance[use].median())
                    weight = 1 / (1 + variance[use] / variance[use].median())
                    part.spread = float((beyond.sum() / weight.sum()).clamp(min=0).sqrt())
        return kept

    def _residual(self, part: Part, sums: Sums) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log residual (width,), its variance, and the expected count, all cells at weight 1."""
        draws = ((sums.observed[: self.n_draws] + 0.5) / (sums.expected[: self.n_draws] + 0.5)).log()
        log = ((sums.observed[-1] + 0.5) / (sums.expected[-1] + 0.5)).log()
        # the bootstrap sees no spread where nothing was counted, so a Poisson count's variance is the least
        variance = torch.maximum(draws.var(0), 1 / (sums.observed[-1] + 0.5))
        return log, variance, sums.expected[-1]

    def side(self, tiles: dict[str, list[Sums]], members: list[str], start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean of the cells of some groups over one tile.

        Parameters
        ----------
        tiles
            Group to the sums of its parts over this tile.
        members
            Groups that make up the side.
        start
            First feature of the tile; keys the noise.

        Returns
        -------
        Draws (n_draws, width), and means of the random halves (2 n_halves, width): each half, then its complement.
        """
        top = bottom = half_top = half_bottom = 0.0
        for name in members:
            for i, part in enumerate(self.parts[name]):
                sums = tiles[name][i]
                factor, half_factor = self._factors(part, sums, start, i)
                top = top + part.share * sums.value[: self.n_draws] * factor
                bottom = bottom + part.share * part.weights[: self.n_draws].sum(1, keepdim=True)
                halves = sums.value[self.n_draws : -1]
                mass = part.weights[self.n_draws : -1].sum(1, keepdim=True)
                both = torch.cat([halves, sums.value[-1] - halves]) * half_factor
                half_top = half_top + part.share * both
                half_bottom = half_bottom + part.share * torch.cat([mass, part.n_cells - mass])
        ceiling = 1.0 if self.decoder.modality == "atac" else torch.inf
        return (top / bottom).clamp(max=ceiling), (half_top / half_bottom.clamp(min=1)).clamp(max=ceiling)

    def _factors(self, part: Part, sums: Sums, start: int, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What the part's sums are multiplied by: draws (n_draws, width), halves (2 n_halves, width)."""
        one = torch.ones((), device=sums.value.device)
        if part.counts is None:
            if not part.noise:
                return one, one
            level = (sums.value[-1] / part.n_cells).clamp(min=1e-12).log().cpu().numpy()
            sd = np.max([np.interp(level, knots, height) for knots, height in part.noise], axis=0)
            wide = torch.as_tensor(sd, dtype=torch.float32, device=one.device)
            return (wide * self._normals(part, start, i, len(sd))).exp(), one
        if part.spread == 0:
            return one, one
        log, variance, _ = self._residual(part, sums)
        n = self.n_draws
        draws = ((sums.observed[:n] + 0.5) / (sums.expected[:n] + 0.5)).log()
        spread2 = part.spread**2
        shrink = spread2 / (spread2 + variance)
        missing = (variance - draws.var(0)).clamp(min=0).sqrt()
        deviation = draws - draws.mean(0)
        if bool((missing > 0).any()):
            deviation = deviation + missing * self._normals(part, start, i, len(missing))
        halves = sums.observed[n:-1], sums.expected[n:-1]
        both = [torch.cat([half, total - half]) for half, total in zip(halves, (sums.observed[-1], sums.expected[-1]))]
        half_log = ((both[0] + 0.5) / (both[1] + 0.5)).log()
        half_shrink = spread2 / (spread2 + 2 * variance)
        return (shrink * log + shrink.sqrt() * deviation).exp(), (half_shrink * half_log).exp()

    def _normals(self, part: Part, start: int, i: int, width: int) -> torch.Tensor:
        """(n_draws, width) noise that belongs to the group, its part and the tile."""
        key = int(cell_keys([f"{part.group}/{i}/{start}"], self.seed, "noise")[0])
        stream = np.random.Generator(np.random.Philox(key))
        return torch.from_numpy(stream.standard_normal((self.n_draws, width), dtype=np.float32)).to(part.z.device)
