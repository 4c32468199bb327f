"""What is called where nothing differs: random halves of a type, measured and imputed cells, genes and peaks.

    python -m benchmarks.quality.null_calls [--draws 20] [--seeds 0] [--keep DIR]

The world of `world` (2,000 cells, 600 genes, 3,000 peaks; replicates are samples); `null_power.py`
asks the same of real cells. A row a kind of cells and seed is appended to `benchmarks/results/null_calls.tsv`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks import places

RESULTS = places.RESULTS / "null_calls.tsv"
TYPE = "type_1"


def drawn(model, data, types: np.ndarray, modality: str, cells: str, draws: int, calibration) -> dict[str, float]:
    """Calls and p-values over random halves of the type."""
    from benchmarks.quality.null_power import uniformity

    from multivi_nf.comparison.compare import differential

    called, alone, low, distance = [], [], [], []
    for draw in range(draws):
        half = np.random.default_rng([draw, 7]).random(len(types)) < 0.5
        data.obs["half"] = np.where(types == TYPE, np.where(half, "A", "B"), None)
        with contextlib.redirect_stderr(io.StringIO()):
            table = differential(
                model,
                data,
                modality,
                groupby="half",
                target="A",
                reference="B",
                cells=cells,
                replicate="replicate",
                calibration=calibration,
                seed=draw,
                n_samples=200,
            )
        called.append(int(table["significant"].sum()))
        alone.append((table["fdr"] <= 0.05).mean())
        for values, value in zip((low, distance), uniformity(table), strict=True):
            values.append(value)
    return {
        "draws": draws,
        "called": sum(called),
        "draws_with_calls": sum(c > 0 for c in called),
        "fdr_alone": np.mean(alone),
        "p_below_0.05": np.nanmean(low),
        "ks_distance": np.nanmean(distance),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--draws", type=int, default=20)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments.add_argument("--keep", type=Path, help="folder of trained models (truth0, ...)")
    chosen = arguments.parse_args()
    from benchmarks.quality.common import keeping, threads
    from benchmarks.quality.world import world

    from multivi_nf.held_out.calibrate import calibrate
    from multivi_nf.latent.cells import cells_of

    threads(1)
    for seed in chosen.seeds:
        split, _, types = world(2000, 600, 3000, seed)
        model = keeping(chosen.keep, f"truth{seed}", split, seed)
        data = cells_of(model, split.mosaic)
        calibration = calibrate(model, data)
        of = types.reindex(data.cells.astype(str)).to_numpy(object)
        for modality, cells in (("rna", "imputed"), ("atac", "imputed"), ("rna", "observed"), ("atac", "observed")):
            started = time.process_time()
            row = {"modality": modality, "cells": cells, "seed": seed}
            row |= drawn(model, data, of, modality, cells, chosen.draws, calibration)
            frame = pd.DataFrame([row | {"cpu_s": time.process_time() - started}]).round(4)
            print(frame.to_string(index=False), flush=True)
            frame.to_csv(RESULTS, sep="\t", mode="a", header=not RESULTS.exists(), index=False)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    main()
