"""Imputation on SNARE-seq cortex, split S2: the hidden profile is nowhere in training or feature selection.

RNA of ATAC-only cells and ATAC of RNA-only cells: ours (defaults) beside mean profile, 50 neighbours across modalities,
ridge, the true label's mean (an oracle), the hidden modality's own neighbours (a ceiling); scvi-tools where `--peer`
is given.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.peers.runs import run_scvi
from benchmarks.quality.common import fit, imputed, parser, read_options, show, snare, threads

from multivi_nf.benchmark.baselines import Bridge, label_means, own_modality_ceiling
from multivi_nf.benchmark.scoring import Hidden, hidden_truth, score_atac, score_rna
from multivi_nf.benchmark.splits import strict_unpairing

DIRECTIONS = {"rna": ("atac", score_rna), "atac": ("rna", score_atac)}


def predictions(split, complete, labels, hidden, target, source, model) -> dict[str, np.ndarray]:
    """Method to (n_cells, n_features) predicted profiles of the hidden cells."""
    bridge = Bridge(split)
    shape = hidden.counts.shape
    origin = pd.Index(split.origin[hidden.cells])
    features = split.mosaic[target].var_names
    return {
        "mean profile": np.broadcast_to(hidden.reference, shape),
        "50 neighbours": bridge.neighbours(source, target, hidden.cells),
        "ridge": bridge.ridge_rna(hidden.cells) if target == "rna" else bridge.ridge_atac(hidden.cells),
        "true label (oracle)": label_means(split, target, labels, hidden.cells),
        "own neighbours (ceiling)": own_modality_ceiling(complete, target, origin, features),
        "multivi-nf": imputed(model, split, target, hidden.cells),
    }


def lead(hidden: Hidden, found: dict[str, np.ndarray], score, draws: int = 40) -> dict[str, dict[str, float]]:
    """2.5 % quantile of ours less each other method over resampled cells: above 0 where ours is better for sure.

    On at most 1,000 features, evenly over their order.
    """
    columns = np.unique(np.linspace(0, hidden.counts.shape[1] - 1, 1000).astype(int))
    found = {name: np.asarray(values)[:, columns] for name, values in found.items()}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in found}
    for draw in range(draws):
        rows = np.random.default_rng([draw, 13]).integers(0, len(hidden.cells), len(hidden.cells))
        counts, smooth = (values[rows][:, columns] for values in (hidden.counts, hidden.smooth))
        some = Hidden(hidden.cells[rows], counts, smooth, hidden.reference[columns])
        for name, values in found.items():
            # a constant prediction has no correlation
            runs[name].append({k: v for k, v in score(some, values[rows]).items() if np.isfinite(v)})
    ours = pd.DataFrame(runs["multivi-nf"])
    others = {name: pd.DataFrame(rows) for name, rows in runs.items() if name != "multivi-nf"}
    return {name: (ours - table).quantile(0.025).to_dict() for name, table in others.items()}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--peer", type=Path, help="Python of the peers environment (make peers)")
    arguments.add_argument("--peer-epochs", type=int, default=100)
    options = arguments.parse_args()
    threads(options.threads)
    complete, labels = snare(options.cells)
    every: dict[str, dict[str, list]] = {"rna": {}, "atac": {}}
    for seed in options.seeds:
        split = strict_unpairing(complete, 0.25, seed=seed, labels=labels)
        model, _ = fit(split, seed, **read_options(options.set))
        peer = None
        if options.peer:
            wanted = {m: split.views(source) for m, (source, _) in DIRECTIONS.items()}
            settings = {
                "seed": seed,
                "batch_key": "modality",
                "max_epochs": options.peer_epochs,
                "learning_rate": 1e-3,
                "threads": 2,
            }
            peer = run_scvi(options.peer, split, settings, wanted)
        for target, (source, score) in DIRECTIONS.items():
            hidden = hidden_truth(split, complete, target, source)
            found = predictions(split, complete, labels, hidden, target, source, model)
            if peer is not None:
                found["scvi"] = peer[f"imputed_{target}"]
            rows = {name: score(hidden, np.asarray(values)) for name, values in found.items()}
            show(f"{target} from {source}, S2, seed {seed}", rows)
            show(f"lead of multivi-nf, 2.5 % quantile, seed {seed}", lead(hidden, found, score))
            for name, scores in rows.items():
                every[target].setdefault(name, []).append(scores)
    for target, methods in every.items():
        show(
            f"{target}, mean over seeds", {name: pd.DataFrame(rows).mean().to_dict() for name, rows in methods.items()}
        )


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
