"""Measures, on groups of held-out pairs, how imputed differences between groups stand to true ones.

Each held-out cell is imputed from its other modalities, as a cell that lacks the target is. Its counts of the target
are dealt out at random in two halves: the first places it in a group (k-means in the latent space of the target alone),
the second is compared, so that no count decides twice. With O the second half's sum over a group, S what the feature's
mean would give in the group's batches, E the imputed one, x = log(E / S):

- the slope b of the true log ratio t on x is that of the multinomial of a feature's counts over the groups, given their
  sum: shares S exp(b x), exact however few counts there are;
- two random halves of a group's cells have no noise in common, counts' and cells' alike: the logarithm of the sum of
  their products O O', over that of the products expected, is the variance of t - b x, and with b = 0 that of t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from multivi_nf.calibration.effects import CLUSTERS, LABELS, LARGEST, ImputedEffects
from multivi_nf.data.draws import blocks, cell_keys, normals
from multivi_nf.held_out.mean_error import encoded, halved, sizes
from multivi_nf.imputation.decode import TILE, Codes, Decoder
from multivi_nf.imputation.intervals import protein_expectation
from multivi_nf.latent.embed import device_of, draw, posteriors

if TYPE_CHECKING:
    from multivi_nf.data.minibatch import SparseRows
    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI

MOST_CELLS, LEAST_DECODED, ELEMENTS = 2000, 400, 40_000_000
"""Cells that are decoded: so many that matrices of all features keep to 160 MB, but at least 400."""
CELLS_A_GROUP, GROUPS = 20, (3, 8)
LEAST_EXPECTED = 5.0
"""Counts of half a group from which a logarithm is near enough to normal."""
LEAST_CELLS = 8
"""Cells of a group, four a half, from which it is compared."""
DRAWS = 4
KNOTS = 10
KNOT_FEATURES, KNOT_COUNTS = 50, 2000
RIDGE = 11.0
"""Precision of the change of the slope with the mean (a standard deviation of 0.3 per one of the log means)."""
SPREAD = 0.1
"""Relative variance of sums beyond Poisson by which features of many counts are kept from outvoting the others."""
LEAST_LEFT = 0.1
"""Share of the variance of true log ratios that is their error at least: a few groups cannot prove less."""
LEAST_SQUARED = 0.25
"""Squared correlation of imputed and true log ratios below which neither is stretched to the other."""
NEIGHBOURS, LEFT_OUT = 30, 10
TEACHERS = 4000
GAIN_CELLS = 1000
LEAST_GAIN = 30
LARGEST_GAIN = 1.5


@dataclass
class Compared:
    """Counts of groups, each in two halves of its cells.

    Attributes
    ----------
    observed, expected, base
        (n_groups, 2, n_features): O, E, S. Only their ratios matter: levels are the features' own.
    level
        (n_features,) log mean on the user's scale.
    """

    observed: np.ndarray
    expected: np.ndarray
    base: np.ndarray
    level: np.ndarray

    def of(self, features: np.ndarray) -> Compared:
        """Some of the features."""
        parts = (getattr(self, name)[..., features] for name in ("observed", "expected", "base", "level"))
        return Compared(*parts)

    @property
    def log_ratio(self) -> np.ndarray:
        """(n_groups, n_features) x."""
        return np.log(np.maximum(self.expected.sum(1), 1e-12)) - np.log(np.maximum(self.base.sum(1), 1e-12))


def fit_effects(inside: Compared, near: tuple[Compared, Compared] | None = None, gain: float = 1.0) -> ImputedEffects:
    """Slopes, errors and stretch of imputed effects.

    Parameters
    ----------
    inside
        Held-out groups whose like was measured elsewhere.
    near
        The same groups predicted by their measured neighbours: all of them, and those of other groups only. What the
        second loses stands for what the model loses where no cell of a group was ever measured.
    gain
        How much farther apart cells lie that took part in training than others do: their log ratios are larger by it.
    """
    use = inside.observed.sum((0, 1)) > 0
    inside = inside.of(use)
    n_parts = np.clip(min(use.sum() // KNOT_FEATURES, inside.observed.sum() // KNOT_COUNTS), 1, KNOTS)
    parts = np.array_split(np.argsort(inside.level, kind="stable"), int(n_parts))
    slope = slopes(inside)
    left, whole = shared_variance(inside, slope, parts, sure=True), shared_variance(inside, 0 * slope, parts)
    # the slope changes with the mean up to the ends, errors are those of the outermost parts there
    ends = [np.flatnonzero(inside.level <= np.quantile(inside.level, 0.01)),
            np.flatnonzero(inside.level >= np.quantile(inside.level, 0.99))]  # fmt: skip
    level, inner = (
        np.array([row[p].mean() for p in (ends[0], *parts, ends[1])]) for row in (inside.level, slope / gain)
    )
    left, whole = (np.r_[row[0], row, row[-1]] for row in (left, whole))
    # u x has a slope of 1 on t where b^2 var(x) / var(t) is the squared correlation: u = b / it
    squared = max(1 - left.mean() / max(whole.mean(), 1e-9), LEAST_SQUARED)
    lost, more = (1.0, 0.0) if near is None else _lost(*(one.of(one.observed.sum((0, 1)) > 0) for one in near))
    unshrunk = float(np.clip(inner.mean() / squared, inner.max(), LARGEST))
    # a slope below 1 says that x holds noise, (1 - b) of its variance: it is shrunk by what all features show, so that
    # a few large effects among many small ones are kept
    spread = np.array([explained(inside)[p].mean() for p in (ends[0], *parts, ends[1])]) * gain**2
    noise = np.clip(1 - inner, 0, 1) * spread
    left = np.maximum(left - np.minimum(inner, 1) * noise, LEAST_LEFT * whole.mean())
    inner = np.clip(inner, 1, LARGEST)
    return ImputedEffects(
        level, inner, np.sqrt(left), inner * lost, np.sqrt(left + more), np.sqrt(noise), max(unshrunk, 1.0)
    )


def _jackknife(found: Compared, slope: np.ndarray, parts: list[np.ndarray]) -> float:
    """Standard error over groups of the mean of `shared_variance` over parts."""
    n = len(found.observed)
    if n < 3:
        return 0.0
    values = []
    for left_out in range(n):
        kept = np.delete(np.arange(n), left_out)
        some = Compared(found.observed[kept], found.expected[kept], found.base[kept], found.level)
        values.append(shared_variance(some, slope, parts).mean())
    return float(np.sqrt((n - 1) * np.var(values)))


def explained(found: Compared) -> np.ndarray:
    """(n_features,) variance of x over groups, weighted by their size."""
    x, weight = found.log_ratio, found.base.sum(1)
    weight = weight / np.maximum(weight.sum(0), 1e-12)
    return (weight * (x - (weight * x).sum(0)) ** 2).sum(0)


def _lost(anywhere: Compared, elsewhere: Compared) -> tuple[float, float]:
    """Factor on the slope, and variance added, where no cell of a group was ever measured.

    The slope loses half of what it loses where groups are predicted by their measured neighbours and those of the same
    group are left out (a decoder carries on beyond the cells that taught it, which neighbours cannot); the error gains
    all that it gains there.
    """
    whole = [np.arange(len(anywhere.level))]
    b = [slopes(one) for one in (anywhere, elsewhere)]
    errors = [shared_variance(one, slope, whole)[0] for one, slope in zip((anywhere, elsewhere), b, strict=True)]
    ratio = np.clip(b[1].mean() / max(b[0].mean(), 0.05), 0.0, 1.0)
    return float((1 + ratio) / 2), float(max(errors[1] - errors[0], 0.0))


def slopes(found: Compared, iterations: int = 30) -> np.ndarray:
    """(n_features,) slope of the true log ratio on the imputed one, linear in the feature's log mean.

    Newton's method on the multinomial's score; a feature counts by n / (1 + SPREAD n), n its counts a group.
    """
    observed, base, x = found.observed.sum(1), found.base.sum(1), found.log_ratio
    total = observed.sum(0)
    weight = 1 / (1 + SPREAD * total / len(observed))
    spread = found.level.std()
    u = (found.level - np.average(found.level, weights=total * weight)) / (spread if spread > 0 else 1.0)
    design, beta = np.stack([np.ones_like(u), u]), np.array([1.0, 0.0])
    for _ in range(iterations):
        shares = np.maximum(base, 1e-12) * np.exp(np.clip((beta @ design) * x, -20, 20))
        shares /= shares.sum(0)
        mean = (shares * x).sum(0)
        score = weight * ((observed * x).sum(0) - total * mean)
        information = weight * total * ((shares * x**2).sum(0) - mean**2)
        hessian = (design * information) @ design.T + np.diag([1e-9, RIDGE])
        step = np.linalg.solve(hessian, design @ score - np.array([0.0, RIDGE]) * beta)
        beta += np.clip(step, -0.5, 0.5)
        if np.abs(step).max() < 1e-7:
            break
    return np.clip(beta @ design, 0, 2 * LARGEST)


def shared_variance(compared: Compared, slope: np.ndarray, parts: list[np.ndarray], sure: bool = False) -> np.ndarray:
    """(n_parts,) variance of t - slope x in parts of the features, none below that of all features.

    A part is too small to prove that it is free of error.

    Parameters
    ----------
    slope
        (n_features,)
    parts
        Features of each part.
    sure
        Of sparse counts, raise it by its own standard error.
    """
    observed = compared.observed
    mean = compared.base * np.exp(np.clip(slope * compared.log_ratio, -20, 20))[:, None]
    n = len(observed)
    sums, means = observed.sum(1), mean.sum(1)
    # the squared level of a feature, from products of different groups: products of one hold what is looked for
    between = (sums.sum(0) ** 2 - (sums**2).sum(0)) / np.maximum(means.sum(0) ** 2 - (means**2).sum(0), 1e-12)
    count = observed.sum((0, 1)) / (2 * n)
    # a product of counts of mean c has a relative variance of 1 / c^2 + 2 / c, and true ratios differ by themselves
    weight = 1 / (1 + 2 * count + count**2 / 2)
    top = weight * (observed[:, 0] * observed[:, 1]).sum(0)
    bottom = weight * between * (mean[:, 0] * mean[:, 1]).sum(0)
    # of features with counts enough the logarithm itself, which a few large ratios do not rule
    rich, weight = count >= LEAST_EXPECTED, weight * count**2
    apart = np.log(observed + 0.5) - np.log(np.maximum(mean, 1e-12))
    apart = apart - apart.mean((0, 1))
    product = (apart[:, 0] * apart[:, 1]).sum(0) / (n - 1)

    def by_logarithm(at: np.ndarray | slice) -> bool:
        return weight[at][rich[at]].sum() > 0.5 * weight[at].sum()

    def variance(at: np.ndarray | slice) -> float:
        few = rich[at]
        if by_logarithm(at):
            return max(float(np.average(product[at][few], weights=weight[at][few])), 0.0)
        return float(np.log(max(top[at].sum() / max(bottom[at].sum(), 1e-12), 1.0)))

    everything = slice(None)
    found = np.array([variance(p) for p in parts])
    if by_logarithm(everything):
        return np.maximum(found, variance(everything))
    # of sparse counts the few frequent features rule the whole, and each part is noise: none is below the parts' mean
    # and its own error, by the jackknife over groups
    error = _jackknife(compared, slope, parts) if sure else 0.0
    return np.maximum(found, max(variance(everything), found.mean() + error))


# ---- what is compared ------------------------------------------------------------------------------------------------


class Groups:
    """Held-out cells of one direction, decoded and grouped.

    Parameters
    ----------
    model, data
        A trained model and the mosaic.
    cells
        Held-out cells with sources and target.
    held
        All held-out cells: none of them teaches.
    sources, target
        The direction.
    depth
        d~ (atac).
    seed
        Of draws and halves.
    """

    def __init__(
        self,
        model: MultiVI,
        data: MosaicData,
        cells: np.ndarray,
        held: np.ndarray,
        sources: tuple[str, ...],
        target: str,
        depth: float | None,
        seed: int,
    ) -> None:
        self.model, self.data, self.target, self.sources = model, data, target, sources
        order = np.argsort(cell_keys(data.cells[cells], seed, "effects"), kind="stable")
        self.decoder = Decoder(model, target, "own", depth or 1.0)
        most = min(MOST_CELLS, max(LEAST_DECODED, ELEMENTS // self.decoder.n_features))
        self.cells, self.held, self.seed = cells[order[:most]], held, seed
        data = data.staged(self.cells)
        random = np.random.default_rng([seed, 16])
        self.half = np.arange(len(self.cells)) % 2
        self.blocks, own, source, size, counts = [], [], [], [], []
        for block in blocks(len(self.cells)):
            minibatch = data.minibatch(self.cells[block])
            joint = posteriors(model, minibatch, [m for m in model.modalities if m not in sources])[0]
            first, second = halved(minibatch.modalities[target], random)
            own.append(encoded(model, minibatch, target, first))
            source.append(joint.mean.cpu().numpy())
            size.append(sizes(model, minibatch, target, self.decoder.depth))
            counts.append(second.toarray())
            self.blocks.append((joint, Codes(minibatch.batch, minibatch.categorical, minibatch.continuous)))
        self.own, self.source, self.size = map(np.concatenate, (own, source, size))
        self.counts = np.concatenate(counts)
        panel = data.in_panel(self.cells, target)
        if panel is not None:
            self.counts = self.counts * panel
        self.panel = panel
        self.batch = np.unique(data.source.batch[self.cells].astype(str), return_inverse=True)[1]
        self.decoded = self._decoded()

    def fit(self) -> dict[str, dict]:
        """Numbers of groups that one modality's own counts make, and of groups in the space of the sources.

        Named groups are those of the modality that tells more of a cell, by how far apart it places cells: the half
        of the target's counts that is not compared, or the sources.
        """
        gain, near = self.gain(), self._neighbours()
        telling = self.own if self.own.var(axis=0).sum() >= self.source.var(axis=0).sum() else self.source
        out = {}
        for kind, place in ((LABELS, telling), (CLUSTERS, self.source)):
            if (inside := self._compared(self._grouped(place), self.decoded)) is not None:
                out[kind] = fit_effects(inside, near, gain).stored()
        return out

    # ------------------------------------------------------------------------------------------------ cells

    def _decoded(self) -> np.ndarray:
        """(n_cells, n_features) expected counts over antithetic draws, each cell under its own batch."""
        k, device = self.model.config.n_latent, device_of(self.model)
        out, start = [], 0
        for joint, codes in self.blocks:
            keys = cell_keys(self.data.cells[self.cells[start : start + len(joint.mean)]], self.seed, "posterior")
            start += len(joint.mean)
            noise = torch.from_numpy(normals(keys, range(DRAWS // 2), k)).to(device)
            total = 0.0
            for z in draw(joint, torch.stack([noise, -noise], dim=1).flatten(0, 1)):
                total = total + self._values(z, codes) / DRAWS
            out.append(total)
        expected = np.concatenate(out) * self.size[:, None].astype(np.float32)
        return expected if self.panel is None else expected * self.panel

    def _values(self, z: torch.Tensor, codes: Codes) -> np.ndarray:
        if self.target == "rna":
            return self.decoder.profile(z, codes).float().cpu().numpy()
        prepared = self.decoder.prepare(z, codes)
        tiles = []
        for start in range(0, self.decoder.n_features, TILE):
            if self.target == "protein":
                raw = self.decoder.raw(prepared.hidden[0], prepared.batches[0], start)
                tiles.append(protein_expectation(raw).float().cpu().numpy())
            else:
                tiles.append(self.decoder.tile(prepared, start).float().cpu().numpy())
        return np.concatenate(tiles, axis=1)

    def _grouped(self, place: np.ndarray) -> np.ndarray:
        from sklearn.cluster import KMeans

        n = int(np.clip(len(place) // CELLS_A_GROUP, *GROUPS))
        return KMeans(n, n_init=3, random_state=0).fit_predict(place)

    def _compared(self, label: np.ndarray, expected: np.ndarray) -> Compared | None:
        """Sums of groups and halves; None with fewer than two groups."""
        kept = [g for g in np.unique(label) if (label == g).sum() >= LEAST_CELLS]
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
        sums = [m.astype(np.float64).reshape(shape) for m in (member @ self.counts, member @ expected, base)]
        return Compared(*sums, level)

    # ------------------------------------------------------------------------------------------------ neighbours

    def _neighbours(self) -> tuple[Compared, Compared] | None:
        """Groups as their measured neighbours predict them: any, and those that lie in other groups."""
        from sklearn.cluster import KMeans
        from sklearn.neighbors import NearestNeighbors

        known = np.setdiff1d(np.flatnonzero(self.data.has[self.target]), self.held)
        known = known[np.argsort(cell_keys(self.data.cells[known], self.seed, "teachers"), kind="stable")[:TEACHERS]]
        if len(known) < 3 * LEFT_OUT * NEIGHBOURS:
            return None
        place, counts, data = [], [], self.data.staged(known)
        for block in blocks(len(known)):
            minibatch = data.minibatch(known[block])
            rows = minibatch.modalities[self.target]
            place.append(encoded(self.model, minibatch, self.target, rows))
            counts.append(_profiles(rows.counts))
        place, profile = np.concatenate(place), sparse.vstack(counts).tocsr()
        average = np.asarray(profile.mean(axis=0), np.float32).ravel()
        groups = KMeans(LEFT_OUT, n_init=3, random_state=0).fit(place)
        label = groups.predict(self.own.astype(place.dtype))
        predictions = []
        for apart in (False, True):
            expected = np.zeros_like(self.decoded)
            for group in np.unique(label):
                mine = np.flatnonzero(label == group)
                use = np.flatnonzero(groups.labels_ != group) if apart else np.arange(len(place))
                near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(place[use])
                index = near.kneighbors(self.source[mine], return_distance=False)
                weight = np.bincount(index.ravel(), minlength=len(use)).astype(np.float32)
                mean = weight @ profile[use] + NEIGHBOURS * average  # no profile has zeros
                expected[mine] = mean / mean.sum() * self.size[mine, None]
            predictions.append(self._compared_with(label, expected, average))
        return None if predictions[0] is None else tuple(predictions)

    def _compared_with(self, label: np.ndarray, expected: np.ndarray, mean: np.ndarray) -> Compared | None:
        """As `_compared`, with an expectation whose level is that of a mean profile and not the decoder's."""
        found = self._compared(label, expected)
        if found is not None:
            sizes = np.array(
                [self.size[label == g].sum() for g in np.unique(label) if (label == g).sum() >= LEAST_CELLS]
            )
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
        only = np.all([self.data.has[m] == (m in self.sources) for m in self.model.modalities], axis=0)
        split = self.model.split.set_index("cell")["split"].reindex(self.data.cells.astype(str)).to_numpy(str)
        spread = []
        for part in ("train", "validation"):
            cells = np.flatnonzero(only & (split == part))
            if len(cells) < LEAST_GAIN:
                return 1.0
            keys = cell_keys(self.data.cells[cells], self.seed, "gain")
            cells = cells[np.argsort(keys, kind="stable")[:GAIN_CELLS]]
            data = self.data.staged(cells)
            place = [posteriors(self.model, data.minibatch(cells[b]))[0].mean.cpu().numpy() for b in blocks(len(cells))]
            spread.append(float(np.concatenate(place).var(axis=0).sum()))
        return float(np.clip(np.sqrt(spread[0] / max(spread[1], 1e-12)), 1.0, LARGEST_GAIN))


def _profiles(rows: SparseRows) -> sparse.csr_matrix:
    """Counts over their sum: profiles, whatever the cells' sizes are."""
    values = np.ones(rows.indices.numel()) if rows.values is None else rows.values.cpu().numpy()
    arrays = (values.astype(np.float32), rows.indices.cpu().numpy(), rows.indptr.cpu().numpy())
    counts = sparse.csr_matrix(arrays, shape=(rows.n_rows, rows.n_features))
    return sparse.diags(1 / np.maximum(np.asarray(counts.sum(1)).ravel(), 1)).astype(np.float32) @ counts
