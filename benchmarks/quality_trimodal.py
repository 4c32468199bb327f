"""Three modalities, simulated: mosaics of all presence patterns against the run in which every cell has everything.

    python benchmarks/quality_trimodal.py --seeds 0 --threads 1 --peer <peers>/bin/python

Label micro-F1 (as MIDAS reports label consistency): the full run's clusters, Leiden at the resolution that agrees best
with the types, are the labels. A cell of another run takes the majority label of its 15 nearest other cells in that
run's latent space; with one label a cell, micro-F1 is the share that get their own label back. The row "full" says what
the measure gives for the full run itself, "full, other seed" how much two runs on the same complete data agree. ARI is
that of Leiden clusters with the true types, the best of one grid of resolutions for every method.
MOFA+ takes missing views, WNN does not. Doublets and dying cells are left out.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from quality_common import fit, parser, read_options, show, threads, views_of
from quality_peers import run_peer

from multivi_nf.benchmark.scores import graph_clusters, keeps_label
from multivi_nf.benchmark.splits import Split, presence_patterns
from multivi_nf.benchmark.trimodal import trimodal_cells
from multivi_nf.evaluation.metrics import adjusted_rand, best_leiden, label_purity
from multivi_nf.evaluation.metrics.clustering import leiden_clusters
from multivi_nf.modalities import MODALITIES
from multivi_nf.simulate import PRESETS

RUNNER = Path(__file__).with_name("peer_trimodal.py")
EVERY = [p for n in (1, 2, 3) for p in combinations(MODALITIES, n)]
RUNS = {
    "full": [MODALITIES],
    "7 patterns": EVERY,
    "6, no trimodal cell": EVERY[:-1],
    "3 pairs": [p for p in EVERY if len(p) == 2],
    "rna+atac, rna+protein": [("rna", "atac"), ("rna", "protein")],
}


def scores_of(space: np.ndarray, cells: pd.Index, types: pd.Series, labels: pd.Series, split: Split) -> dict:
    """Label micro-F1, also over the cells of one modality only, ARI, and 15-NN purity of the types."""
    kept = keeps_label(space, labels[cells].to_numpy())
    alone = {m: (split.modalities[cells] == m).to_numpy() for m in MODALITIES}
    of = {f"F1, {m} alone": float(kept[rows].mean()) for m, rows in alone.items() if rows.any()}
    types = types[cells].to_numpy()
    best = best_leiden(space, types)
    found = {"label micro-F1": float(kept.mean()), "ARI": best["ari"], "clusters": best["clusters"]}
    return found | {"purity": label_purity(space, types)} | of


def arrays_of(split: Split) -> dict[str, np.ndarray]:
    """Each modality's measured cells, for the peers."""
    out = {"cells": split.mosaic.obs_names, "batch": split.mosaic.obs["batch"]}
    for m, part in split.mosaic.mod.items():
        out |= {f"{m}_cells": part.obs_names, f"{m}_shape": np.array(part.shape)}
        out |= {f"{m}_{name}": getattr(part.X, name) for name in ("data", "indices", "indptr")}
    return {name: values if name.split("_")[-1] in ("data", "indices", "indptr", "shape") else np.array(values, "U")
            for name, values in out.items()}  # fmt: skip


def peers(python: Path, split: Split, types: pd.Series, labels: pd.Series, full: bool, seed: int) -> dict[str, dict]:
    """MOFA+, and on complete cells WNN, whose own weighted graph is clustered at the same resolutions."""
    common = {"seed": seed, "peaks": 3000, "factors": 15, "iterations": 500}
    found = run_peer(python, RUNNER, arrays_of(split), common | {"method": "mofa"})
    rows = {"MOFA+": scores_of(found["factors"], pd.Index(found["cells"]), types, labels, split)}
    rows["MOFA+"]["cpu_seconds"] = float(found["cpu_seconds"])
    if full:
        found = run_peer(python, RUNNER, arrays_of(split), common | {"method": "wnn"})
        parts = graph_clusters(len(found["cells"]), found["edges"], found["weights"], seed)
        ari = [adjusted_rand(types[found["cells"]], part) for part in parts]
        best = int(np.argmax(ari))
        rows["WNN"] = {"ARI": ari[best], "clusters": len(set(parts[best])), "cpu_seconds": float(found["cpu_seconds"])}
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--peer", type=Path, help="Python of the peers environment (make peers)")
    arguments.add_argument("--batch-effect", type=float, nargs="+", default=[0.0, PRESETS["default"].batch_effect])
    arguments.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS), help="the first gives labels")
    options = arguments.parse_args()
    threads(options.threads)
    for effect in options.batch_effect:
        for seed in options.seeds:
            wanted = replace(PRESETS["default"], cells=options.cells or 1500, seed=seed, called_depth=1.0,
                             batch_effect=effect)  # fmt: skip
            complete, types = trimodal_cells(wanted)
            rows, labels = {}, None
            for name in options.runs:
                split = presence_patterns(complete, RUNS[name], seed=seed)
                cells = split.mosaic.obs_names
                for title, start in ((name, seed), ("full, other seed", seed + 100))[: 1 + (name == "full")]:
                    model, seconds = fit(split, start, **read_options(options.set))
                    space = views_of(model, split).joint.to_numpy()
                    if labels is None:
                        best = best_leiden(space, types[cells].to_numpy())["resolution"]
                        labels = pd.Series(leiden_clusters(space, [best])[0], cells)
                    rows[title] = scores_of(space, cells, types, labels, split) | {"cpu_seconds": seconds}
                if options.peer:
                    found = peers(options.peer, split, types, labels, name == "full", seed)
                    rows |= {f"{name}: {peer}": row for peer, row in found.items()}
                print({key: row for key, row in rows.items() if key.startswith(name)}, flush=True)
            show(f"three modalities, {len(types)} cells, site effect {effect:g}, seed {seed}", rows)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
