"""Calibration on held-out pairs: one modality of a pair is hidden, predicted from the other, and compared.

Per direction (sources -> target) two numbers are fitted by the held-out log score: a temperature on the variance of the
posterior, and a factor on the counts' over-dispersion (rna, protein) or the share of each peak's own rate (atac). Pairs
that TRAIN set apart are used, not those of early stopping. With them come the levels at which intervals of counts are
taken, what the report draws, the errors of imputed means and effects, and the references of support.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from multivi_nf.calibration.stored import MINIMUM_PAIRS, Calibration, Levels
from multivi_nf.calibration.support import Support
from multivi_nf.data.draws import blocks, cell_keys, normals, uniforms
from multivi_nf.data.threads import one_thread
from multivi_nf.errors import InputError
from multivi_nf.held_out import scoring
from multivi_nf.held_out.group_effects import Groups
from multivi_nf.held_out.mean_error import neighbour_means, whole_error
from multivi_nf.imputation.decode import RNA_SCALE, TILE, Codes, Decoder, median_depth
from multivi_nf.imputation.intervals import (
    CONFORMAL_INTERVAL,
    POISSON_THETA,
    Mixture,
    conformal_widths,
    protein_mixture,
    rna_dispersion,
)
from multivi_nf.io.progress import progress
from multivi_nf.latent.embed import cells_of, device_of, draw, posteriors, tempered
from multivi_nf.training.model_folder import weights_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mudata import MuData

    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.model import Joint
    from multivi_nf.training import MultiVI

MAX_CELLS = 400
MAX_FEATURES = 500
TEMPERATURES = tuple(2.0**i for i in range(-3, 8))
FACTORS = (0.05, 20.0)
NEAR = 5
FOLD_CELLS = 30
"""Cells of a batch that is a fold of its own."""
DECILES = 10
RATE_CELLS = 5000
SHRINKAGES = tuple(i / 20 for i in range(20))


@torch.inference_mode()
def calibrate(
    model: MultiVI,
    mosaic: MuData | MosaicData,
    *,
    n_samples: int = 40,
    conformal: bool = False,
    seed: int = 0,
) -> Calibration:
    """Measure and mend the error bars of a model on the pairs that its training set apart.

    Parameters
    ----------
    model
        A trained model; its `split` names the calibration cells.
    mosaic
        The mosaic that it was trained on.
    n_samples
        Posterior draws per cell.
    conformal
        Also store split-conformal widths of predicted counts, per decile of the predicted mean.
    seed
        Of draws and of the choice of at most 400 cells and 500 features a direction.

    Returns
    -------
    Calibration; directions with fewer than 100 pairs are not calibrated, which is said in it. The same bytes for any
    number of threads, since sums in another order differ in their last bit: it works with one.

    Examples
    --------
    >>> import multivi_nf as mv
    >>> from multivi_nf.simulate import Options, simulated_mosaic
    >>> cells, _ = simulated_mosaic(Options(cells=100, genes=50, peaks=100, proteins=4))
    >>> model = mv.MultiVI.from_mosaic(cells, n_latent=5, n_hidden=16)
    >>> _ = mv.train(model, cells, max_epochs=1, seed=0, quiet=True)
    >>> found = mv.calibrate(model, cells)
    >>> found.calibrated  # so few pairs check nothing, which is said
    False
    >>> imputed = mv.impute(model, cells, modality="rna", features="all", calibration=found)
    >>> imputed.uns["calibrated"]
    False
    """
    with one_thread():
        return _calibrated(model, cells_of(model, mosaic), n_samples, conformal, seed)


def _calibrated(model: MultiVI, data: MosaicData, n_samples: int, conformal: bool, seed: int) -> Calibration:
    model.eval()
    held = _held_out(model, data)
    has = {m: data.has[m] for m in model.modalities}
    paired = held[sum(has[m][held].astype(int) for m in has) > 1]
    depth = median_depth(model, data) if "atac" in has and has["atac"].any() else None
    found = Calibration(
        n_pairs=len(paired),
        batches=sorted(set(data.source.batch[paired].astype(str))),
        atac_depth=depth,
        weights=weights_digest(model),
    )
    rates = _rates(model, data, held, depth) if depth is not None and len(paired) else None
    directions = list(_directions(model.modalities))
    with progress("calibrate", len(directions), "directions") as advance:
        for sources, target in directions:
            cells = paired[np.all([has[m][paired] for m in (*sources, target)], axis=0)] if len(paired) else paired
            name = f"{'+'.join(sources)}->{target}"
            if len(cells) >= MINIMUM_PAIRS:
                entry = _Direction(model, data, cells, sources, target, depth, n_samples, seed, rates, held).fit(
                    conformal
                )
                entry["effects"] = _effects(model, data, held, sources, target, depth, seed)
                found.directions[name] = entry
            elif any(_wanted(has, sources, target)):
                found.directions[name] = {"calibrated": False, "n_cells": len(cells)}
            advance(1)
    found.calibrated = any(entry["calibrated"] for entry in found.directions.values())
    found.notes = _notes(found, data)
    found.support = Support.fit(model, data, held, seed) if len(paired) else None
    found.rates = rates if any(entry.get("shrinkage") for entry in found.directions.values()) else None
    return found


def _effects(
    model: MultiVI, data: MosaicData, held: np.ndarray, sources: tuple[str, ...], target: str, depth: float | None,
    seed: int,
) -> dict[str, dict]:  # fmt: skip
    """What imputed effects are worth, on all pairs that trained nothing: validation only chose the epoch to keep."""
    watched = _cells_of_role(model, data, "validation")
    apart = np.union1d(held, watched[watched >= 0])
    cells = apart[np.all([data.has[m][apart] for m in (*sources, target)], axis=0)]
    return Groups(model, data, cells, apart, sources, target, depth, seed).fit()


def _cells_of_role(model: MultiVI, data: MosaicData, role: str) -> np.ndarray:
    """Positions of the cells to which the split gave a role; -1 where the mosaic lacks them."""
    return data.cells.get_indexer(model.split.loc[model.split["split"] == role, "cell"])


def _held_out(model: MultiVI, data: MosaicData) -> np.ndarray:
    if model.split is None:
        raise InputError(
            "the model has no split.tsv",
            "it says which pairs were set apart in training; on others the error bars would look better than they are",
            "train the model with `multivi-nf train` (or mv.train), which sets them apart",
        )
    index = _cells_of_role(model, data, "calibration")
    if len(index) and (index < 0).mean() > 0.5:
        raise InputError(
            f"{int((index < 0).sum())} of the {len(index)} calibration cells of split.tsv are not in the mosaic",
            "calibration needs the very cells that training set apart",
            "give the mosaic that the model was trained on",
        )
    return np.sort(index[index >= 0])


def _rates(model: MultiVI, data: MosaicData, held: np.ndarray, depth: float) -> np.ndarray:
    """(n_peaks,) share of measured cells in which a peak is seen open (fragments in it), at d~; without held-out cells.

    Batches weigh as in the reference mixture; half a count on each peak, so that none has a rate of 0.
    """
    chosen, weights = model.reference_weights("atac")
    weights = weights.double().cpu().numpy()
    batch, has = data.batch.cpu().numpy(), data.has["atac"].copy()
    has[held] = False
    total = np.zeros(model.config.n_features["atac"])
    for one, weight in zip(chosen.tolist(), weights):
        cells = np.flatnonzero(has & (batch == one))
        cells = cells[np.argsort(cell_keys(data.cells[cells], 0, "rates"))[:RATE_CELLS]]
        staged = data.staged(cells)
        seen, size = np.full(len(total), 0.5), 1e-12
        for part in blocks(len(cells)):
            minibatch = staged.minibatch(cells[part])
            _, encoded, _ = posteriors(model, minibatch, [m for m in model.modalities if m != "atac"])
            counts = minibatch.modalities["atac"].counts
            values = None if counts.values is None else counts.values.cpu().numpy()
            seen += np.bincount(counts.indices.cpu().numpy(), values, minlength=len(total))
            size += float(model.level("atac", encoded["atac"]).double().sum()) / depth
        total += weight * (seen / size if model.counts_peaks else np.minimum(seen / size, 1))
    return total


def _directions(modalities: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for target in modalities:
        others = [m for m in modalities if m != target]
        for code in range(1, 1 << len(others)):
            yield tuple(m for i, m in enumerate(others) if code >> i & 1), target


def _wanted(has: dict[str, np.ndarray], sources: tuple[str, ...], target: str) -> np.ndarray:
    """Cells that this direction would impute."""
    return np.all([has[m] == (m in sources) for m in has], axis=0) & ~has[target]


def _notes(found: Calibration, data: MosaicData) -> list[str]:
    others = sorted(set(data.source.batch.astype(str)) - set(found.batches))
    notes = []
    if not found.calibrated:
        notes.append(
            f"{found.n_pairs} held-out pairs are too few to check error bars (100 are needed): "
            "they are the model's own opinion"
        )
    elif others:
        names = ", ".join(others[:10]) + (" ..." if len(others) > 10 else "")
        notes.append(f"calibrated on pairs of {', '.join(found.batches[:10])}; for {names} this is an extrapolation")
    return notes


@dataclass
class _Target:
    """Counts of the hidden modality, and what their prediction needs.

    Attributes
    ----------
    positions
        (n_features,)
    counts
        (n_cells, n_features)
    size
        (n_cells,)
    known
        (n_cells, n_features) measured; a protein outside a batch's panel is not, though its count reads 0.
    """

    positions: np.ndarray
    counts: np.ndarray
    size: np.ndarray
    known: np.ndarray


class _Direction:
    """One direction's cells, features and posterior, ready to be predicted at any temperature."""

    means: tuple[np.ndarray, np.ndarray, float] | None = None

    def __init__(
        self,
        model: MultiVI,
        data: MosaicData,
        cells: np.ndarray,
        sources: tuple[str, ...],
        target: str,
        depth: float | None,
        n_samples: int,
        seed: int,
        rates: np.ndarray | None,
        held: np.ndarray,
    ) -> None:
        self.model, self.target, self.n_cells = model, target, len(cells)
        keys = cell_keys(data.cells[cells], seed, "calibration")
        self.cells = np.sort(cells[np.argsort(keys)[:MAX_CELLS]])
        self.decoder = Decoder(model, target, None, depth or 1.0)
        self.n_samples, self.seed = n_samples, seed
        hide = [m for m in model.modalities if m not in sources]
        names = data.cells[self.cells]
        self.keys = cell_keys(names, seed, "posterior")
        self.blocks: list[tuple[Joint, Codes]] = []
        counts, sizes = [], []
        for block in blocks(len(self.cells)):
            minibatch = data.minibatch(self.cells[block])
            self.blocks.append(
                (
                    posteriors(model, minibatch, hide)[0],
                    Codes(minibatch.batch, minibatch.categorical, minibatch.continuous),
                )
            )
            counts.append(minibatch.modalities[target].counts.dense().cpu().numpy())
            sizes.append(self._sizes(minibatch))
        dense = np.concatenate(counts)
        positions = _spread_features(dense)
        panel = data.in_panel(self.cells, target)
        known = np.ones((len(dense), len(positions)), bool) if panel is None else panel[:, positions]
        self.data = _Target(positions, dense[:, positions], np.concatenate(sizes), known)
        self.rates = rates[positions] if target == "atac" else None
        self.fold = folds(data.source.batch[self.cells].astype(str))
        self.means = neighbour_means(model, data, self.cells, held, target, positions, self.decoder.depth, seed)
        self.shrinkage = 0.0
        self.latent = torch.cat([joint.mean for joint, _ in self.blocks]).cpu().numpy()
        self.uniform = uniforms(cell_keys(names, seed, "pit"), 0, len(positions))

    def _sizes(self, minibatch) -> np.ndarray:
        """What turns a decoded value into an expected count: library, or depth over d~."""
        counts = minibatch.modalities[self.target].counts
        if self.target == "rna":
            return counts.dense().sum(1).double().cpu().numpy() / RNA_SCALE
        if self.target == "atac":
            others = tuple(m for m in self.model.modalities if m != "atac")
            encoded = posteriors(self.model, minibatch, others)[1]
            return self.model.level("atac", encoded["atac"]).double().cpu().numpy() / self.decoder.depth
        return np.ones(counts.n_rows)

    # ------------------------------------------------------------------------------------------------ prediction

    def predict(self, temperature: float) -> tuple[np.ndarray, Mixture | None]:
        """Draws (n_draws, n_cells, n_features) on the user's scale, and the mixture of counts (not for atac)."""
        k, device = self.model.config.n_latent, device_of(self.model)
        values, mixtures = [], []
        step = max(1, (1 << 24) // (self.n_samples * max(self.decoder.n_features, 1)))
        start = 0
        for joint, codes in self.blocks:
            n = len(joint.mean)
            warm = tempered(joint, torch.full((n,), temperature, device=device))
            noise = torch.from_numpy(normals(self.keys[start : start + n], range(self.n_samples), k)).to(device)
            z = draw(warm, noise)
            for rows in blocks(n, step):
                some = Codes(codes.batch[rows], codes.categorical[rows], codes.continuous[rows]).repeat(self.n_samples)
                at = slice(start + rows.start, start + rows.stop)
                value, mixture = self._decode(z[:, rows].reshape(-1, k), some, self.data.size[at])
                values.append(value)
                mixtures.append(mixture)
            start += n
        draws = np.concatenate(values, axis=1)
        if self.target == "atac":
            return draws, None
        shared = mixtures[0].weight.shape[1] == 1
        joined = Mixture(
            np.concatenate([m.mean for m in mixtures], axis=1),
            mixtures[0].weight if shared else np.concatenate([m.weight for m in mixtures], axis=1),
            np.concatenate([m.zero for m in mixtures]),
            np.concatenate([m.theta for m in mixtures]),
        )
        return draws, joined

    def _decode(self, z: torch.Tensor, codes: Codes, size: np.ndarray) -> tuple[np.ndarray, Mixture | None]:
        positions, n = self.data.positions, len(size)
        shape = (self.n_samples, n, len(positions))
        if self.target == "rna":
            value = self.decoder.profile(z, codes)[:, torch.as_tensor(positions, device=z.device)]
            draws = value.reshape(shape).float().cpu().numpy()
            theta, zero = rna_dispersion(self.decoder, z, codes, positions, self.n_samples)
            weight = np.full((self.n_samples, 1, 1), 1 / self.n_samples, np.float32)
            mean = draws * size[None, :, None].astype(np.float32)
            return draws, Mixture(mean, weight, zero, np.broadcast_to(theta, zero.shape).copy())
        prepared = self.decoder.prepare(z, codes)
        draws = np.empty(shape, np.float32)
        parts = []
        for start in range(0, self.decoder.n_features, TILE):
            to = np.flatnonzero((positions >= start) & (positions < start + TILE))
            if not to.size:
                continue
            value = self.decoder.tile(prepared, start)[:, torch.as_tensor(positions[to] - start, device=z.device)]
            draws[:, :, to] = value.reshape(self.n_samples, n, -1).float().cpu().numpy()
            if self.target == "protein":
                parts.append(protein_mixture(self.decoder, prepared, z, codes, positions[to], np.ones(n)))
        if self.target == "atac":
            return draws, None
        return draws, Mixture(*(np.concatenate([getattr(p, f) for p in parts], axis=-1)
                                for f in ("mean", "weight", "zero", "theta")))  # fmt: skip

    # ------------------------------------------------------------------------------------------------ fitting

    def fit(self, conformal: bool) -> dict[str, Any]:
        """Find temperature and factor by coordinate ascent on the log score; report before and after."""
        scores: dict[float, tuple[float, float]] = {}

        def at(i: int) -> float:
            if TEMPERATURES[i] not in scores:
                scores[TEMPERATURES[i]] = self._best_factor(TEMPERATURES[i])
            return scores[TEMPERATURES[i]][0]

        i = TEMPERATURES.index(1.0)
        # of atac never below 1: beside the peaks' own rates a surer posterior would only serve to undo them
        for step in (1,) if self.target == "atac" else (1, -1):
            while 0 <= i + step < len(TEMPERATURES) and at(i + step) > at(i) + 1e-7:
                i += step
        temperature = TEMPERATURES[i]
        factor = scores[temperature][1]
        entry = {"calibrated": True, "n_cells": self.n_cells, "temperature": temperature, "dispersion_factor": factor}
        entry.update(self._report(*self.predict(1.0), 1.0, "before"))
        if self.target == "atac":
            self.shrinkage, factor = factor, 1.0
            entry.update(dispersion_factor=1.0, shrinkage=self.shrinkage)
        draws, mixture = self.predict(temperature)
        entry.update(self._report(draws, mixture, factor, "after"))
        entry["mean_sd"] = self._mean_error(draws, mixture) if self.means is None else self._whole_error(draws)
        if conformal and mixture is not None:
            level = Levels.read(entry["levels"]).at(CONFORMAL_INTERVAL)
            entry["conformal"] = conformal_widths(_scaled(mixture, factor), self.data.counts, level, self.data.known)
        return entry

    def _best_factor(self, temperature: float) -> tuple[float, float]:
        """(mean log score, dispersion factor) at a temperature; golden-section search on the logarithm.

        Of atac the share of the peaks' own rates instead (stacking, Yao et al. 2018): a decoder is bolder within a peak
        than sparse counts allow, which no wider spread of z takes back.
        """
        draws, mixture = self.predict(temperature)
        if mixture is None:
            found = [(float(self._peak_score(self._peak_mean(draws, w)).mean()), -w) for w in SHRINKAGES]
            score, share = max(found)
            return score, -share
        low, high = np.log(FACTORS)
        golden = (np.sqrt(5) - 1) / 2
        score = {}

        def value(x: float) -> float:
            if x not in score:
                scores = scoring.log_score(_scaled(mixture, np.exp(x)), self.data.counts)
                score[x] = float(scores[self.data.known].mean())
            return score[x]

        a, b = high - golden * (high - low), low + golden * (high - low)
        while high - low > 0.1:
            if value(a) > value(b):
                high, b = b, a
                a = high - golden * (high - low)
            else:
                low, a = a, b
                b = low + golden * (high - low)
        best = max(score, key=score.get)
        return score[best], float(np.exp(best))

    def _peak_mean(self, draws: np.ndarray, shrinkage: float | None = None) -> np.ndarray:
        """(n_cells, n_peaks) probability of being seen open, or expected fragments."""
        share = self.shrinkage if shrinkage is None else shrinkage
        value = ((1 - share) * draws.mean(axis=0) + share * self.rates) * self.data.size[:, None]
        return np.clip(value, 0, 1) if self.decoder.is_probability else value

    def _peak_score(self, mean: np.ndarray) -> np.ndarray:
        """Log probability of the held-out peaks, nats."""
        score = scoring.bernoulli_log_score if self.decoder.is_probability else scoring.poisson_log_score
        return score(mean, self.data.counts)

    def _report(self, draws: np.ndarray, mixture: Mixture | None, factor: float, when: str) -> dict[str, Any]:
        x, known = self.data.counts, self.data.known
        mean = draws.mean(axis=0) * self.data.size[:, None]
        if mixture is None:
            p = self._peak_mean(draws)
            # that a peak holds a fragment at all is what the report draws of both likelihoods
            seen = p if self.decoder.is_probability else -np.expm1(-p)
            out = {
                f"log_score_{when}": float(self._peak_score(p).mean()),
                f"reliability_{when}": scoring.reliability(seen, x),
                f"slope_{when}": scoring.logistic_slope(seen, x),
            }
        else:
            scaled = _scaled(mixture, factor)
            transform = scoring.pit(scaled, x, self.uniform)
            out = {}
            if when == "after":
                out["levels"] = Levels.fit(transform[known]).stored()
                transform = _levelled(transform, known, self.fold)
            out |= {
                f"log_score_{when}": float(scoring.log_score(scaled, x)[known].mean()),
                f"coverage_{when}": scoring.coverage(transform[known]),
            }
            mean = (mixture.mean * mixture.weight).sum(axis=0) * (1 - mixture.zero)
        if when == "after":
            error = np.abs(x - mean)
            sd = draws.std(axis=0) * self.data.size[:, None]
            out["risk_coverage"] = scoring.risk_coverage(error[known], sd[known])
            out["risk_coverage_mean"] = scoring.risk_coverage(error[known], np.sqrt(mean)[known])
        return out

    def _expected(self, value: np.ndarray, mixture: Mixture | None) -> np.ndarray:
        """(n_cells, n_features) expected counts; 0, as the counts, where nothing was measured."""
        if mixture is None:
            return value * self.data.size[:, None]
        return (mixture.mean * mixture.weight).sum(axis=0) * self.data.known

    def _whole_error(self, draws: np.ndarray) -> dict[str, list[float]]:
        """Error of imputed log means that their spread lacks, from the counts of cells in the same state."""
        value, spread = draws.mean(axis=0, dtype=np.float64), draws.var(axis=0, ddof=1, dtype=np.float64)
        if self.target == "atac":
            value, spread = (
                (1 - self.shrinkage) * value + self.shrinkage * self.rates,
                (1 - self.shrinkage) ** 2 * spread,
            )
        return whole_error(value, spread, self.means)

    def _mean_error(self, draws: np.ndarray, mixture: Mixture | None) -> dict[str, list[float]]:
        """Standard deviation of the error of imputed log means that neighbours share, by feature mean.

        No spread of z shows the decoder's error, and no log score of single counts can tell it from over-dispersion.
        But the residuals of two neighbours (in the latent space of the sources) have no noise in common: the mean of
        their products, over that of the products of their expected counts, is the variance of the relative error of
        both. Features are weighted by the precision of that ratio, scale^2 / var: `shared` by scale / var.
        """
        from sklearn.neighbors import NearestNeighbors

        value = draws.mean(axis=0)
        if self.target == "atac":
            value = (1 - self.shrinkage) * value + self.shrinkage * self.rates
        expected = self._expected(value, mixture)
        residual = self.data.counts - expected
        n_near = min(NEAR, len(self.cells) - 1)
        near = NearestNeighbors(n_neighbors=n_near).fit(self.latent).kneighbors(return_distance=False)
        shared, scale = (
            sum((one * one[near[:, k]]).sum(axis=0, dtype=np.float64) for k in range(n_near))
            for one in (residual, expected)
        )
        mean = expected.mean(axis=0, dtype=np.float64) + 1e-6
        theta = POISSON_THETA if mixture is None else mixture.theta.mean(axis=0)
        weight = scale / (mean * (1 + mean / theta)) ** 2
        level = np.log(np.maximum(value.mean(axis=0), 1e-12))
        parts = np.array_split(np.argsort(level), min(DECILES, len(level)))

        def sd(at: np.ndarray) -> float:
            return float(np.sqrt(max((shared[at] * weight[at]).sum() / (scale[at] * weight[at]).sum(), 0.0)))

        # a decile is too small to prove that its means are free of error: the overall value is the least
        overall = sd(np.arange(len(level)))
        return {"log_mean": [float(level[p].mean()) for p in parts], "sd": [max(sd(p), overall) for p in parts]}


def _levelled(transform: np.ndarray, known: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Transforms under levels that the cells of other folds taught: what new cells, and new batches, will see."""
    out = np.empty_like(transform)
    for one in np.unique(fold):
        mine = fold == one
        out[mine] = Levels.fit(transform[~mine][known[~mine]]).applied(transform[mine])
    return out


def folds(batch: np.ndarray) -> np.ndarray:
    """(n_cells,) batches, the small ones as one, or every second cell where fewer than two batches have 30 cells."""
    names, code, count = np.unique(batch, return_inverse=True, return_counts=True)
    large = count >= FOLD_CELLS
    if large.sum() < 2:
        return np.arange(len(batch)) % 2
    return np.where(large[code], code, len(names))


def _scaled(mixture: Mixture, factor: float) -> Mixture:
    return Mixture(mixture.mean, mixture.weight, mixture.zero, mixture.theta / factor)


def _spread_features(counts: np.ndarray) -> np.ndarray:
    """At most 500 positions of features with a count, evenly over the order of their means."""
    mean = counts.mean(axis=0)
    order = np.argsort(mean, kind="stable")
    order = order[mean[order] > 0]
    if len(order) <= MAX_FEATURES:
        return np.sort(order) if len(order) else np.arange(min(counts.shape[1], MAX_FEATURES))
    return np.sort(order[np.unique(np.linspace(0, len(order) - 1, MAX_FEATURES).astype(int))])
