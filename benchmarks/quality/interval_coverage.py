"""How many true means lie in the 95 % interval of imputed RNA, overall and in the worst stratum, from 500 cells up.

    python -m benchmarks.quality.interval_coverage [--cells 500 2000 20000] [--seeds 0 1 2] [--keep DIR]

The simulated mosaic as a user has it: cells with both, RNA alone, ATAC alone, two sites (800 genes, 3,000 peaks, so
that 20,000 cells can be afforded). Cells with ATAC alone that are neither doublets nor dying, at most 800; strata are
tenths of the predicted mean, types, batches and thirds of depth. A row is appended to
`benchmarks/results/interval_coverage.tsv` as it comes.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks import places

RESULTS = places.RESULTS / "interval_coverage.tsv"
GENES, PEAKS = 800, 3000
MOST, LEAST = 800, 20
"""Cells that are scored, and cells of a stratum that counts."""


def mosaic_of(cells: int, seed: int, genes: int = GENES, peaks: int = PEAKS):
    """The mosaic of RNA and ATAC, and its truth."""
    import mudata

    from multivi_nf.simulate import PRESETS, simulated_mosaic

    base = PRESETS["default"]
    size = {"genes": genes, "peaks": peaks, "atac_fragments": base.atac_fragments * peaks / base.peaks}
    mosaic, truth = simulated_mosaic(replace(base, cells=cells, seed=seed, **size))
    parts = {m: mosaic[m].copy() for m in ("rna", "atac")}
    with mudata.set_options(pull_on_update=False):
        out = mudata.MuData(parts)
    for column in ("sample", "batch"):
        out.obs[column] = mosaic.obs[column].reindex(out.obs_names).to_numpy()
    return out, truth


def strata(mean: np.ndarray, kinds: dict[str, np.ndarray], inside: np.ndarray) -> dict[str, float]:
    """Share of true means inside, by tenth of the predicted mean (entries) and by kinds of cells."""
    edges = np.quantile(mean, np.linspace(0.1, 0.9, 9))
    tenth = np.searchsorted(edges, mean)
    found = {f"tenth {d} of the mean": float(inside[tenth == d].mean()) for d in range(10)}
    for what, of in kinds.items():
        for one in np.unique(of):
            if (of == one).sum() >= LEAST:
                found[f"{what} {one}"] = float(inside[of == one].mean())
    return found


def score(found, truth, mosaic) -> dict[str, float | str]:
    """One row of coverage, of imputed cells that are neither doublets nor dying."""
    from multivi_nf.evaluation.runs import true_expression

    cells, genes = pd.Index(found.obs_names), found.var_names
    real = true_expression(mosaic["rna"].obs_names, truth, cells, genes).to_numpy()
    lower, upper, sd = (np.asarray(found.layers[name], float) for name in ("lower", "upper", "sd"))
    mean = np.asarray(found.X, float)
    inside = (lower <= real) & (real <= upper)
    depth = np.asarray(mosaic["atac"][cells].X.sum(1)).ravel()
    kinds = {
        "type": truth.cells.loc[cells, "cell_type"].to_numpy(str),
        "batch": mosaic.obs.loc[cells, "batch"].to_numpy(str),
        "third of depth": np.digitize(depth, np.quantile(depth, [1 / 3, 2 / 3])).astype(str),
    }
    by = strata(mean, kinds, inside)
    worst = min(by, key=by.get)
    error = np.log(mean / real)
    return {
        "covered": inside.mean(),
        "worst": by[worst],
        "worst_stratum": worst,
        "n": len(cells),
        "width": np.median(np.log(upper / np.maximum(lower, 1e-9))) / (2 * 1.96 * error.std()),
        "error": error.std(),
        "sd": np.sqrt(np.mean((sd / mean) ** 2)),
        "strata": "; ".join(f"{k} {v:.3f}" for k, v in by.items()),
    }


def measured(cells: int, seed: int, keep: Path | None, genes: int, peaks: int) -> dict[str, float | str]:
    """Train (or take the kept model), calibrate, impute and score."""
    from benchmarks.quality.common import keeping

    from multivi_nf.benchmark.splits import Split
    from multivi_nf.held_out.calibrate import calibrate
    from multivi_nf.imputation.impute import impute

    mosaic, truth = mosaic_of(cells, seed, genes, peaks)
    none = pd.Series(mosaic.obs_names, index=mosaic.obs_names)
    model = keeping(
        keep, f"coverage-{cells}-{seed}{'' if genes == GENES else f'-{genes}'}", Split(mosaic, none, none), seed
    )
    started = time.process_time()
    calibration = calibrate(model, mosaic)
    good = truth.cells.index[~(truth.cells["doublet"].astype(bool) | truth.cells["dying"].astype(bool))]
    lone = mosaic["atac"].obs_names.difference(mosaic["rna"].obs_names, sort=False).intersection(good, sort=False)
    chosen = lone[np.sort(np.random.default_rng(0).permutation(len(lone))[:MOST])]
    found = impute(model, mosaic, "rna", cells=list(chosen), features="all", calibration=calibration)
    row = score(found, truth, mosaic)
    row["pairs"] = calibration.directions["atac->rna"].n_cells
    row["calibrated"] = calibration.directions["atac->rna"].calibrated
    return row | {"cpu_s": time.process_time() - started}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--cells", type=int, nargs="+", default=[500, 2000, 20000])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--keep", type=Path, help="folder of trained models")
    arguments.add_argument("--genes", type=int, default=GENES)
    arguments.add_argument("--peaks", type=int, default=PEAKS)
    arguments.add_argument("--note", default="", help="written beside each row")
    chosen = arguments.parse_args()
    import torch

    torch.set_num_threads(1)
    for cells in chosen.cells:
        for seed in chosen.seeds:
            row = {"cells": cells, "seed": seed, "note": chosen.note} | measured(
                cells, seed, chosen.keep, chosen.genes, chosen.peaks
            )
            frame = pd.DataFrame([row]).round(4)
            print(frame.drop(columns="strata").to_string(index=False), flush=True)
            RESULTS.parent.mkdir(exist_ok=True)
            frame.to_csv(RESULTS, sep="\t", mode="a", header=not RESULTS.exists(), index=False)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    main()
