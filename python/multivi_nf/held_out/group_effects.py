"""Measures, on groups of held-out pairs, how imputed differences between groups stand to true ones.

Each held-out cell is imputed from its other modalities, as a cell that lacks the target is. Groups are k-means in the
latent space of the sources; or, where these tell less of a cell, of the target alone: then its counts of the target are
dealt out at random in two halves, the first places it, the second is compared, so that no count decides twice. With O
the compared counts' sum over a group, S what the feature's mean would give in the group's batches, E the imputed one,
x = log(E / S):

- the slope b of the true log ratio t on x is that of the multinomial of a feature's counts over the groups, given their
  sum: shares S exp(b x), exact however few counts there are;
- two random halves of a group's cells have no noise in common, counts' and cells' alike: their products tell how much
  true ratios vary, and so how large the squared correlation of imputed and true ones is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, reduce

import numpy as np
import torch
from scipy import sparse

from multivi_nf.calibration.effects import CLUSTERS, LABELS, LARGEST, ImputedEffects, neighbours_say
from multivi_nf.data.draws import blocks, cell_keys
from multivi_nf.data.matrices import as_csr
from multivi_nf.data.minibatch import SparseRows
from multivi_nf.held_out.pairs import HeldOut, halved
from multivi_nf.imputation.decode import TILE, Decoder
from multivi_nf.imputation.intervals import protein_expectation
from multivi_nf.imputation.teachers import Teachers, knows
from multivi_nf.latent.cells import Codes

MOST_CELLS, LEAST_DECODED, ELEMENTS = 2000, 400, 40_000_000
"""Cells that are decoded: so many that matrices of all features keep to 160 MB, but at least 400."""
CELLS_A_GROUP, GROUPS = 20, (3, 8)
LEAST_CELLS = 8
"""Cells of a group, four a half, from which it is compared."""
DRAWS = 4
KNOTS = 10
KNOT_FEATURES, KNOT_COUNTS = 50, 2000
RIDGE = 4.0
"""Precision of the change of the slope with the mean (a standard deviation of 0.5 per one of the log means)."""
SPREAD = 0.1
"""Relative variance of sums beyond Poisson by which features of many counts are kept from outvoting the others."""

LAGS = (0.0, 0.02, 0.05, 0.1, 0.2)
LEAST_STRETCH = 0.5
LEAST_LEFT = 0.1
"""Share of the variance of stretched log ratios that is their error at least: a few groups cannot prove less."""
LEAST_SQUARED = 0.02
"""Squared correlation of imputed and true log ratios at least."""
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
    residual, variance
        (n_groups, n_features) of the measured cells nearest to each group (:class:`Teachers`); None: not known.
    """

    observed: np.ndarray
    expected: np.ndarray
    base: np.ndarray
    level: np.ndarray
    residual: np.ndarray | None = None
    variance: np.ndarray | None = None

    def of(self, features: np.ndarray) -> Compared:
        """Some of the features."""
        observed, expected, base = (part[..., features] for part in (self.observed, self.expected, self.base))
        some = Compared(observed, expected, base, self.level[features])
        if self.residual is not None and self.variance is not None:
            some.residual, some.variance = self.residual[:, features], self.variance[:, features]
        return some

    def corrected(self, lag: float) -> Compared:
        """With what the counts of measured neighbours add to the imputed means."""
        if self.residual is None or self.variance is None or lag == 0:
            return self
        more = neighbours_say(self.residual, self.variance, lag)
        return replace(self, expected=self.expected * np.exp(more)[:, None])

    @property
    def log_ratio(self) -> np.ndarray:
        """(n_groups, n_features) x."""
        return np.log(np.maximum(self.expected.sum(1), 1e-12)) - np.log(np.maximum(self.base.sum(1), 1e-12))


def fit_effects(inside: Compared, near: tuple[Compared, Compared] | None = None, gain: float = 1.0) -> ImputedEffects:
    """What imputed log ratios are worth: stretch, standard error, and how far neighbours' counts are believed.

    With x = t / u + noise, the slope b of t on x and the variance V of x give the covariance b V, hence the squared
    correlation r = b / u and the variance (1 - r) V u^2 of the noise of u x, by height of the mean. u is one number.

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
    inside = inside.of(inside.observed.sum((0, 1)) > 0)
    lag = max(LAGS if inside.residual is not None else LAGS[:1], key=lambda one: likelihood(inside.corrected(one)))
    inside = inside.corrected(lag)
    n_parts = np.clip(min(len(inside.level) // KNOT_FEATURES, inside.observed.sum() // KNOT_COUNTS), 1, KNOTS)
    parts = np.array_split(np.argsort(inside.level, kind="stable"), int(n_parts))
    slope, error = fitted_slopes(inside)
    variance = explained(inside)
    # the slope changes with the mean up to the ends
    low, high = np.quantile(inside.level, [0.01, 0.99])
    ends = [np.flatnonzero(inside.level <= low), np.flatnonzero(inside.level >= high)]
    level, b, spread, unsure = (
        np.array([row[p].mean() for p in (ends[0], *parts, ends[1])]) for row in (inside.level, slope, variance, error)
    )
    u = stretch(inside, slope, variance)
    lost = 1.0 if near is None else _lost(*(one.of(one.observed.sum((0, 1)) > 0) for one in near))
    # what is not known of the slope is an error of all features' ratios
    sure = 1 - unsure / np.maximum(b, unsure + 1e-9)
    squared = np.clip(b / u * sure, LEAST_SQUARED, 1 - LEAST_LEFT)
    means, spreads, correlations, nothing = (r.tolist() for r in (level, np.sqrt(spread) * gain, squared, 0 * level))
    unshrunk = float(np.clip(u / gain, LEAST_STRETCH, LARGEST))
    return ImputedEffects(means, spreads, correlations, nothing, unshrunk, lost, lag)


def stretch(found: Compared, slope: np.ndarray, variance: np.ndarray) -> float:
    """u: variance of true log ratios over their covariance with imputed ones, of all features together.

    Parameters
    ----------
    slope, variance
        (n_features,) slope of true on imputed ratios, and variance of the latter.
    """
    squared, weight = squared_correlation(found, slope)
    mean = np.average(slope * variance, weights=weight) / max(np.average(variance, weights=weight), 1e-12)
    return float(np.clip(mean / max(squared, LEAST_SQUARED), LEAST_STRETCH, LARGEST))


def explained(found: Compared) -> np.ndarray:
    """(n_features,) variance of x over groups, weighted by their size."""
    x, weight = found.log_ratio, found.base.sum(1)
    weight = weight / np.maximum(weight.sum(0), 1e-12)
    return (weight * (x - (weight * x).sum(0)) ** 2).sum(0)


def _lost(anywhere: Compared, elsewhere: Compared) -> float:
    """Factor on the squared correlation where the measured neighbours that predict a group are none of its own."""
    found = []
    for one in (anywhere, elsewhere):
        slope = np.maximum(slopes(one), 0)
        weight = squared_correlation(one, slope)[1]
        found.append(np.average(slope**2 * explained(one), weights=weight))
    return float(np.clip(found[1] / max(found[0], 1e-9), 0.0, 1.0))


def _weights(found: Compared) -> np.ndarray:
    """(n_features,) of a feature in a likelihood of all: 1 / (1 + SPREAD n), n its counts a group."""
    return 1 / (1 + SPREAD * found.observed.sum((0, 1)) / len(found.observed))


def slopes(found: Compared) -> np.ndarray:
    """(n_features,) slope of the true log ratio on the imputed one, linear in the feature's log mean."""
    return fitted_slopes(found)[0]


def fitted_slopes(found: Compared, iterations: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Slopes of true log ratios on imputed ones, linear in the feature's log mean, and their standard errors.

    Newton's method on the multinomial's score.
    """
    observed, base, x = found.observed.sum(1), found.base.sum(1), found.log_ratio
    total, weight = observed.sum(0), _weights(found)
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
    error = np.sqrt(np.einsum("ij,ik,kj->j", design, np.linalg.inv(hessian), design))
    return np.clip(beta @ design, 0, 2 * LARGEST), error


def likelihood(found: Compared) -> float:
    """Log likelihood of the groups' counts, given each feature's sum, at the slopes that fit best."""
    x = np.clip(slopes(found) * found.log_ratio, -20, 20)
    shares = np.maximum(found.base.sum(1), 1e-12) * np.exp(x)
    return float((_weights(found) * found.observed.sum(1) * np.log(shares / shares.sum(0))).sum())


def squared_correlation(found: Compared, slope: np.ndarray) -> tuple[float, np.ndarray]:
    """Squared correlation of true and imputed ratios over groups, of all features together.

    Of the ratios themselves: few counts have no logarithm, and that of a mean product is ruled by a few large ratios.
    With q the predicted ratio less 1, d = O / (S r) - 1 the observed one (r the feature's own rate), it is
    (sum q d)^2 / (sum q^2 sum d d'), d d' of the two halves of a group's cells.

    Parameters
    ----------
    slope
        (n_features,) of true log ratios on imputed ones.

    Returns
    -------
    The squared correlation, at most 1, and the (n_features,) weights with which features count in it.
    """
    observed, base = found.observed, np.maximum(found.base, 1e-12)
    total, size = observed.sum((0, 1)), base.sum((0, 1))
    expected = base / size * total
    predicted = base.sum(1) * np.exp(np.clip(slope * found.log_ratio, -20, 20))
    predicted *= total / predicted.sum(0)
    of_group = (base.sum(1) / size).mean(1)[:, None]
    mean = np.maximum(expected.sum(1), 1e-12)
    q, d = predicted / mean - 1, observed.sum(1) / mean - 1
    # counts that are compared are part of the rate they are compared with: what that takes from their product
    one, other = base[:, 0] / size, base[:, 1] / size
    product = (observed - expected).prod(1) + one * other * total
    product /= np.maximum(expected.prod(1), 1e-12)
    # a product of counts of mean c has a relative variance of 1 / c^2 + 2 / c, and true ratios differ by themselves
    count = total / (2 * len(observed))
    weight = count**2 / (1 + 2 * count + count**2 / 2)
    cross, square, true = ((weight * (of_group * row).sum(0)).sum() for row in (q * d, q**2, product))
    return float(np.clip(cross, 0, None) ** 2 / max(square * true, cross**2, 1e-300)), weight


# ---- what is compared ------------------------------------------------------------------------------------------------


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
        order = np.argsort(cell_keys(held.cells.names[pairs], held.seed, "effects"), kind="stable")
        self.decoder = Decoder(self.model, target, "own", held.level)
        most = min(MOST_CELLS, max(LEAST_DECODED, ELEMENTS // self.decoder.n_features))
        self.index = pairs[order[:most]]
        cells = held.cells.staged(self.index)
        random = np.random.default_rng([held.seed, 16])
        self.half = np.arange(len(self.index)) % 2
        self.blocks = list(cells.blocks(self.index, cells.others(*sources)))
        own, counts = [], []
        for block in self.blocks:
            first, second = halved(block.minibatch.modalities[target], random)
            own.append(held.alone(block.minibatch, target, first))
            counts.append(second.toarray())
        minibatches = [block.minibatch for block in self.blocks]
        self.own, self.source = np.concatenate(own), np.concatenate([block.mean for block in self.blocks])
        self.size = np.concatenate([held.sizes(minibatch, target) for minibatch in minibatches])
        self.counts = np.concatenate(counts)
        self.whole = np.concatenate([m.modalities[target].counts.dense().cpu().numpy() for m in minibatches])
        self.panel = cells.data.in_panel(self.index, target)
        if self.panel is not None:
            self.counts, self.whole = self.counts * self.panel, self.whole * self.panel
        self.batch = np.unique(cells.batches[self.index], return_inverse=True)[1]
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
        by_source = self.own.var(axis=0).sum() < self.source.var(axis=0).sum()
        out = {}
        for kind, place in ((LABELS, None if by_source else self.own), (CLUSTERS, None)):
            label = self._grouped(self.source if place is None else place)
            # groups that no count of the target made are compared by all of them
            inside = self._compared(label, self.decoded, self.whole if place is None else self.counts)
            if inside is not None:
                self._teach(inside, label)
                out[kind] = fit_effects(inside, near, gain)
        return out

    def _teach(self, found: Compared, label: np.ndarray) -> None:
        """Add what the measured cells nearest to each group show."""
        if not knows(self.target) or not len(self.teachers.index):
            return
        places = [self.source[label == g] for g in self._kept(label)]
        found.residual, found.variance = self.teachers.residuals(places)

    # ------------------------------------------------------------------------------------------------ cells

    def _decoded(self) -> np.ndarray:
        """(n_cells, n_features) expected counts over antithetic draws, each cell under its own batch."""
        keys = cell_keys(self.held.cells.names[self.index], self.seed, "posterior")
        out = []
        for block in self.blocks:
            samples = self.held.cells.samples(block.joint, keys[block.at], DRAWS, antithetic=True)
            out.append(reduce(np.add, [self._values(z, block.codes) / DRAWS for z in samples]))
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
        from sklearn.cluster import KMeans

        n = int(np.clip(len(place) // CELLS_A_GROUP, *GROUPS))
        return KMeans(n, n_init=3, random_state=0).fit_predict(place)

    @staticmethod
    def _kept(label: np.ndarray) -> list[int]:
        """Groups of cells enough."""
        return [g for g in np.unique(label) if (label == g).sum() >= LEAST_CELLS]

    def _compared(self, label: np.ndarray, expected: np.ndarray, counts: np.ndarray | None = None) -> Compared | None:
        """Sums of groups and halves; None with fewer than two groups."""
        counts, kept = self.counts if counts is None else counts, self._kept(label)
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
        from sklearn.cluster import KMeans
        from sklearn.neighbors import NearestNeighbors

        known = self.held.known(self.target)
        keys = cell_keys(self.held.cells.names[known], self.seed, "teachers")
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
        anywhere, elsewhere = predictions
        return None if anywhere is None or elsewhere is None else (anywhere, elsewhere)

    def _compared_with(self, label: np.ndarray, expected: np.ndarray, mean: np.ndarray) -> Compared | None:
        """As `_compared`, with an expectation whose level is that of a mean profile and not the decoder's."""
        found = self._compared(label, expected)
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
            keys = cell_keys(cells.names[index], self.seed, "gain")
            index = index[np.argsort(keys, kind="stable")[:GAIN_CELLS]]
            spread.append(float(cells.staged(index).means(index).var(axis=0).sum()))
        return float(np.clip(np.sqrt(spread[0] / max(spread[1], 1e-12)), 1.0, LARGEST_GAIN))


def _profiles(rows: SparseRows) -> sparse.csr_matrix:
    """Counts over their sum: profiles, whatever the cells' sizes are."""
    counts = as_csr(rows, np.float32)
    return sparse.diags(1 / np.maximum(np.asarray(counts.sum(1)).ravel(), 1)).astype(np.float32) @ counts
