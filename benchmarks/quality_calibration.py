"""Whether error bars are honest: coverage of held-out counts, reliability of peaks, credible intervals of true means.

Split S2 of SNARE-seq cortex, and the simulated mosaic, whose true means are known.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from quality_common import fit, parser, read_options, show, snare, threads

from multivi_nf.evaluation import metrics
from multivi_nf.evaluation.metrics.imputation import at_true_depth
from multivi_nf.evaluation.scoring import hidden_truth
from multivi_nf.evaluation.splits import Split, strict_unpairing
from multivi_nf.inference import calibrate, impute
from multivi_nf.simulate import PRESETS, simulated_mosaic


def real(seed: int, cells: int):
    """SNARE, its labels and no truth."""
    return (*snare(cells), None)


def simulated(seed: int, cells: int):
    """Paired cells of a larger simulated mosaic."""
    mosaic, truth = simulated_mosaic(replace(PRESETS["default"], cells=cells or 5000, seed=seed))
    both = mosaic["rna"].obs_names.intersection(mosaic["atac"].obs_names)
    both = both[~truth.cells.loc[both, "doublet"].astype(bool) & ~truth.cells.loc[both, "dying"].astype(bool)]
    complete = {m: mosaic[m][both].copy() for m in ("rna", "atac")}
    complete["atac"].X = complete["atac"].layers["counts"]
    return complete, truth.cells.loc[both, "cell_type"], truth


def coverage_of_counts(found, counts: np.ndarray) -> dict[str, float]:
    """Share of held-out counts inside the 95 % interval, overall and per decile of the predicted mean.

    Intervals of small counts are wider than asked for by necessity: inside counts 1, on an edge it counts what the
    interval's probability leaves; :func:`metrics.randomised_pit` in calibration.json is exact.
    """
    lower, upper = (np.asarray(found.layers[f"predicted_{side}"]) for side in ("lower", "upper"))
    inside = (lower <= counts) & (counts <= upper)
    mean = np.asarray(found.X)
    decile = np.searchsorted(np.quantile(mean, np.linspace(0.1, 0.9, 9)), mean)
    by = [inside[decile == d].mean() for d in range(10)]
    return {"interval_95": float(inside.mean()), "lowest_decile": float(min(by)), "highest_decile": float(max(by))}


def score(split: Split, complete, labels, truth, seed: int, options: dict) -> dict[str, dict[str, float]]:
    """Before and after calibration."""
    model, _ = fit(split, seed, **options)
    calibration = calibrate(model, split.mosaic)
    rna, atac = hidden_truth(split, complete, "rna", "atac"), hidden_truth(split, complete, "atac", "rna")
    some = rna.cells[:600]
    counts = rna.counts[:600].toarray()
    library = pd.Series(counts.sum(1).astype(float), index=some).clip(lower=1)
    rows = {}
    for name, used in (("before", None), ("after", calibration)):
        found = impute(
            model, split.mosaic, modality="rna", features="all", cells=list(some), n_samples=80, calibration=used,
            predictive=True, library=library,
        )  # fmt: skip
        row = coverage_of_counts(found, counts)
        error = np.asarray(found.X) / 1e4 - counts / np.maximum(counts.sum(1, keepdims=True), 1)
        sd = np.asarray(found.layers["sd"])
        row["sd_error_within_gene"] = float(np.nanmean(metrics.within_feature_rank_correlation(sd, error)))
        row["risk_gain"] = metrics.area_under_risk_coverage(sd, error)["gain"]
        row["risk_gain_by_mean"] = metrics.area_under_risk_coverage(np.sqrt(np.asarray(found.X)), error)["gain"]
        if truth is not None:
            mean = truth.expression(pd.Index(split.origin[some]))[:, truth.genes.index.get_indexer(found.var_names)]
            mean = 1e4 * mean / mean.sum(1, keepdims=True)
            inside = (np.asarray(found.layers["lower"]) <= mean) & (mean <= np.asarray(found.layers["upper"]))
            row["true_mean_in_95"] = float(inside.mean())
        lone = atac.cells[:600]
        peaks = impute(
            model, split.mosaic, modality="atac", features="all", cells=list(lone), n_samples=40, calibration=used
        )
        binary = (atac.counts[:600] > 0).toarray()
        probability = at_true_depth(np.asarray(peaks.X), binary.sum(1))
        row["atac_slope"], _ = metrics.logistic_calibration(probability, binary)
        row["atac_ece"] = metrics.expected_calibration_error(probability, binary)
        row["atac_log_loss_skill"] = metrics.bernoulli_log_loss_skill(binary, np.asarray(peaks.X), atac.reference)
        rows[name] = row
    for direction, values in calibration.directions.items():
        keep = ("temperature", "dispersion_factor", "log_score_before", "log_score_after")
        rows[f"calibration {direction}"] = {k: values[k] for k in keep if isinstance(values.get(k), int | float)}
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data", choices=["simulated", "snare"], nargs="+", default=["simulated", "snare"])
    options = arguments.parse_args()
    threads(options.threads)
    for data in options.data:
        for seed in options.seeds:
            complete, labels, truth = (simulated if data == "simulated" else real)(seed, options.cells)
            split = strict_unpairing(complete, 0.5 if data == "simulated" else 0.25, seed=seed, labels=labels)
            rows = score(split, complete, labels, truth, seed, read_options(options.set))
            show(f"calibration, {data}, S2, seed {seed}", rows)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
