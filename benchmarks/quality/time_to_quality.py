"""CPU and wall time to scvi-tools' quality: 3,000 SNARE cells x (1,000 genes + 5,000 peaks), each at its own defaults.

    python -m benchmarks.quality.time_to_quality --seeds 0 --threads 1 --peer <peers>/bin/python

A third of the training cells is paired, a third shows RNA, a third ATAC. 600 further cells train neither model; each is
shown to the trained models as RNA, as ATAC and as both, and from every view both modalities are decoded under the
cell's own batch. One function scores both models' decoded means against the counts: share of the mean
profile's NB deviance (one dispersion per gene, fitted to the mean profile) or Bernoulli log loss (at the cell's true
depth) that they take away. scvi-tools trains as it comes (500 epochs at most, 1e-4, early stopping) with the modality
group as its batch key, so that its adversary works, and decodes at the posterior mean; ours averages 25 draws, without
and with `calibrate`, as the pipeline runs it (its CPU seconds are in the second row).
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.peers.runs import run_scvi
from benchmarks.quality.common import fit, imputed, parser, read_options, show, snare, threads

from multivi_nf.benchmark.baselines import mean_profile
from multivi_nf.benchmark.splits import Split, build_mosaic, strict_unpairing
from multivi_nf.evaluation.metrics import bernoulli_log_loss_skill, nb_deviance_skill
from multivi_nf.held_out.calibrate import calibrate

MODALITIES = ("rna", "atac")
FEATURES = {"rna": 1000, "atac": 5000}
SHOWN = ("rna", "atac", "rna+atac")
EPOCHS, LEARNING_RATE = 500, 1e-4
"""The defaults of scvi-tools 1.4.2."""


def chosen(n_cells: int, n_held: int, seed: int):
    """Cells drawn at random, the features that are seen most in them, and which cells are held out."""
    complete, labels = snare()
    cells = np.random.default_rng([seed, 7]).choice(labels.index, n_cells + n_held, replace=False)
    complete = {m: data[cells].copy() for m, data in complete.items()}
    for m, data in complete.items():
        seen = np.asarray((data.X > 0).sum(0)).ravel()
        complete[m] = data[:, np.sort(np.argsort(-seen, kind="stable")[: FEATURES[m]])].copy()
    return complete, labels[cells], cells[n_cells:]


def splits(complete, labels: pd.Series, held: np.ndarray, seed: int) -> tuple[Split, Split]:
    """What is trained on; and the same with three views of each held-out cell behind it."""
    rest = {m: data[~data.obs_names.isin(held)].copy() for m, data in complete.items()}
    trained = strict_unpairing(rest, 1 / 3, seed=seed, labels=labels)
    complete = {m: data[:, trained.mosaic[m].var_names].copy() for m, data in complete.items()}
    shown = [(name, name, tuple(kind.split("+"))) for name, kind in trained.modalities.items()]
    shown += [(f"{cell}.{kind}", cell, tuple(kind.split("+"))) for kind in SHOWN for cell in held]
    return trained, build_mosaic(complete, shown)


def skills(values: dict[str, np.ndarray], complete, held: np.ndarray, trained: Split) -> dict[str, float]:
    """Scores of the decoded means, (3 views x n_held, n_features) of each modality."""
    out = {}
    for m, score in (("rna", nb_deviance_skill), ("atac", bernoulli_log_loss_skill)):
        truth = complete[m][held, trained.mosaic[m].var_names].X
        truth = truth if m == "rna" else (truth > 0).astype(np.int8)
        for kind, part in zip(SHOWN, np.split(values[m], len(SHOWN))):
            out[f"{m} from {kind}"] = score(truth, part, mean_profile(trained, m))
    return out


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--peer", type=Path, help="Python of the peers environment (make peers)")
    arguments.add_argument("--peer-epochs", type=int, default=EPOCHS)
    arguments.add_argument("--peer-learning-rate", type=float, nargs="+", default=[LEARNING_RATE])
    arguments.add_argument("--held", type=int, default=600)
    options = arguments.parse_args()
    threads(options.threads)
    for seed in options.seeds:
        complete, labels, held = chosen(options.cells or 3000, options.held, seed)
        trained, everything = splits(complete, labels, held, seed)
        names = pd.Index([f"{cell}.{kind}" for kind in SHOWN for cell in held])
        rows = {}
        for rate in options.peer_learning_rate if options.peer else []:
            settings = {
                "seed": seed,
                "batch_key": "modality",
                "max_epochs": options.peer_epochs,
                "learning_rate": rate,
                "threads": options.threads,
            }
            found = run_scvi(options.peer, everything, settings, dict.fromkeys(MODALITIES, names), names)
            values = {m: found[f"imputed_{m}"] for m in MODALITIES}
            cost = {key: float(found[key]) for key in ("cpu_seconds", "wall_seconds", "epochs")}
            rows[f"scvi, {rate:g}"] = skills(values, complete, held, trained) | cost
        began = time.perf_counter()
        model, seconds = fit(trained, seed, **read_options(options.set))
        cost = {"cpu_seconds": seconds, "wall_seconds": time.perf_counter() - began, "epochs": len(model.history.rows)}
        values = {m: imputed(model, everything, m, names, batch="own") for m in MODALITIES}
        rows["multivi-nf"] = skills(values, complete, held, trained) | cost
        began, started = time.perf_counter(), time.process_time()
        calibration = calibrate(model, trained.mosaic)
        more = {"cpu_seconds": time.process_time() - started, "wall_seconds": time.perf_counter() - began}
        values = {m: imputed(model, everything, m, names, batch="own", calibration=calibration) for m in MODALITIES}
        rows["calibrated"] = skills(values, complete, held, trained) | {k: cost[k] + v for k, v in more.items()}
        show(f"time to quality, {len(trained.origin)} cells, {len(held)} held out, seed {seed}", rows)
        for name in [name for name in rows if name.startswith("scvi")]:
            for own in ("multivi-nf", "calibrated"):
                times = [f"{rows[name][k] / rows[own][k]:.1f} times the {k}" for k in ("cpu_seconds", "wall_seconds")]
                behind = [key for key in list(rows[name])[:-3] if rows[own][key] < rows[name][key]]
                print(f"{name}: {', '.join(times)} of {own}, which is below it in: {', '.join(behind) or 'nothing'}")


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
