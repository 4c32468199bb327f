"""Whether sd follows error, and whether credible intervals of the mean hold the mean.

    python -m benchmarks.quality.uncertainty [--data snare simulated ...] [--split S2 S3]

Imputed RNA (protein on the CITE-seq sets) of cells that hide it, before and after calibration. True means are known on
the simulated mosaic; on real cells sums over 50 cells that are neighbours in the latent space stand for them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from benchmarks.quality.calibration import runs
from benchmarks.quality.common import show
from benchmarks.quality.held_out import HeldOut, distributions, true_means
from sklearn.neighbors import NearestNeighbors

from multivi_nf.benchmark.baselines import smoothed_truth
from multivi_nf.benchmark.uncertainty import sides_with_model
from multivi_nf.calibration.stored import Calibration
from multivi_nf.evaluation import metrics
from multivi_nf.imputation.impute import impute
from multivi_nf.latent.embed import embed

NEIGHBOURS = 50
LEAST_COUNTS = 10.0
"""Expected counts of a sum from which its noise is near enough to normal."""


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over features (or cells) with its 95 % bootstrap interval."""
    values = values[np.isfinite(values)]
    draws = values[np.random.default_rng(0).integers(len(values), size=(500, len(values)))].mean(1)
    return float(values.mean()), *(float(q) for q in np.quantile(draws, [0.025, 0.975]))


def within_deciles(sd: np.ndarray, error: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(n_cells, 10) rank correlation of sd and |error| over a cell's entries in each decile of all predicted means."""
    edges = np.quantile(mean, np.linspace(0.1, 0.9, 9))
    decile = np.searchsorted(edges, mean)
    out = np.full((len(sd), 10), np.nan)
    for cell in range(len(sd)):
        for d in range(10):
            use = decile[cell] == d
            if use.sum() >= 20:
                out[cell, d] = pd.Series(sd[cell, use]).corr(pd.Series(error[cell, use]), method="spearman")
    return out


def ranked(sd: np.ndarray, mean: np.ndarray, truth: np.ndarray, name: str) -> dict[str, float]:
    """Whether sd ranks |error| within features, within deciles of the mean, and better than sqrt(mean) over all."""
    error = np.abs(mean - truth)
    row = {}
    row["gene"], row["gene_low"], _ = interval(metrics.within_feature_rank_correlation(sd, error))
    row["decile"], row["decile_low"], _ = interval(np.nanmean(within_deciles(sd, error, mean), 1))
    row["risk_gain"] = metrics.area_under_risk_coverage(sd, error)["gain"]
    row["risk_gain_of_mean"] = metrics.area_under_risk_coverage(np.sqrt(mean), error)["gain"]
    return {f"{name}: {key}": value for key, value in row.items()}


def sure_and_wrong(sd, mean, truth, smooth) -> dict[str, float]:
    """How often the smoothed truth sides with the model where it is sure and wrong, beside random entries."""
    sides = sides_with_model(sd, mean, truth, smooth)
    difference = interval(sides[0].astype(float) - sides[1].astype(float))
    return {
        "sides_with_model": sides[0].mean(),
        "random": sides[1].mean(),
        "difference_low": difference[1],
    }


def sums_covered(model, held: HeldOut, modality: str, found, counts: np.ndarray, calibration) -> dict[str, float]:
    """Share of sums of counts over 50 neighbours within the interval of their mean and the counts' own noise.

    Draws of z are each cell's own, so their variances add up; what calibration adds to the sd is the error that
    neighbours share, so there standard deviations add up.
    """
    cells = found.obs_names
    place = pd.DataFrame(embed(model, held.split.mosaic).mean, held.split.mosaic.obs_names).loc[cells].to_numpy()
    seeds = np.random.default_rng(0).permutation(len(cells))[: len(cells) // 4]
    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(cells))).fit(place).kneighbors(place[seeds])[1]
    mean, own, noise, all_sd = (np.empty(counts.shape) for _ in range(4))
    for rows, draws, mixture in distributions(model, held, modality, cells, calibration):
        mean[rows] = (mixture.mean * mixture.weight).sum(0) * (1 - mixture.zero)
        second = (mixture.weight * (mixture.mean**2 * (1 + 1 / mixture.theta) + mixture.mean)).sum(0)
        size = mean[rows] / np.maximum(draws.mean(0), 1e-12) if modality == "rna" else 1.0
        own[rows], all_sd[rows] = size * draws.std(0, ddof=1), size * np.asarray(found.layers["sd"])[rows]
        noise[rows] = np.maximum(second * (1 - mixture.zero) - mean[rows] ** 2 - own[rows] ** 2, mean[rows])
    shared = np.sqrt(np.maximum(all_sd**2 - own**2, 0))
    off, large = counts[near].sum(1) - mean[near].sum(1), mean[near].sum(1) >= LEAST_COUNTS
    noise = np.sqrt(noise[near].sum(1))
    spread = np.hypot(np.sqrt((own**2)[near].sum(1)), shared[near].sum(1))
    return {
        "sums": (np.abs(off) <= 1.96 * np.hypot(spread, noise))[large].mean(),
        "sums, counts' noise alone": (np.abs(off) <= 1.96 * noise)[large].mean(),
        "sums, sd of log error": np.sqrt(max(np.mean(((off**2 - noise**2) / mean[near].sum(1) ** 2)[large]), 0)),
    }


def score(model, held: HeldOut, modality: str, calibration, cells: pd.Index) -> dict[str, float]:
    """One row."""
    split, origin = held.split, held.split.origin[cells].to_numpy()
    found = impute(
        model, split.mosaic, modality, features="all", cells=list(cells), n_samples=80, calibration=calibration
    )[cells]
    mean, sd = np.asarray(found.X, float), np.asarray(found.layers["sd"], float)
    counts = held.complete[modality][origin, found.var_names].X.toarray().astype(float)
    scale = 1e4 if modality == "rna" else 1.0
    truth = counts * (scale / np.maximum(counts.sum(1, keepdims=True), 1) if modality == "rna" else 1.0)
    row = ranked(sd, mean, truth, "counts")
    if modality == "rna":
        smooth = scale * smoothed_truth(held.complete, modality, pd.Index(origin), found.var_names)
        row |= sure_and_wrong(sd, mean, truth, smooth)
    row |= sums_covered(model, held, modality, found, counts, calibration)
    if held.truth is not None:
        real = true_means(held.truth, split, modality, pd.Index(origin))
        row |= ranked(sd, mean, real, "true means")
        lower, upper = np.asarray(found.layers["lower"]), np.asarray(found.layers["upper"])
        row["true means"] = ((lower <= real) & (real <= upper)).mean()
        soup = true_means(held.truth, split, modality, pd.Index(split.origin)).mean(0)
        share = held.truth.cells["ambient"].mean()  # ambient RNA, which nothing here takes away
        diluted = (1 - share) * real + share * soup
        row["true means with ambient RNA"] = ((lower <= diluted) & (diluted <= upper)).mean()
        row["log error"] = np.sqrt(np.mean((np.log(mean) - np.log(real)) ** 2))
        row["log sd"] = np.sqrt(np.mean((sd / mean) ** 2))
    return row


def main() -> None:
    for run in runs(__doc__.splitlines()[0]):
        rows = {
            when: score(run.model, run.held, run.modality, used, run.cells)
            for when, used in (("before", Calibration.none()), ("after", run.calibration))
        }
        show(f"uncertainty of imputed {run.modality}, {run.name}", pd.DataFrame(rows).to_dict("index"))


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
