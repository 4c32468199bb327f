"""Quality of the embedding on SNARE-seq cortex: 25 % paired, each other cell once as RNA and once as ATAC.

Ours (the defaults) beside ridge regression from LSI to PCA, and scvi-tools where `--peer` names a Python that has it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.peers.runs import scvi_views
from benchmarks.quality.common import fit, parser, read_options, show, snare, threads, views_of

from multivi_nf.benchmark.baselines import Bridge
from multivi_nf.benchmark.scoring import Views, score_embedding
from multivi_nf.benchmark.splits import Split, random_unpairing
from multivi_nf.evaluation import controls, metrics


def ridge_views(split: Split) -> Views:
    """RNA cells in PCA, ATAC cells predicted into it; paired cells at the mean of both."""
    bridge = Bridge(split)
    rna = bridge.spaces["rna"]
    cells = split.mosaic["atac"].obs_names
    atac = pd.DataFrame(bridge.ridge("atac", "rna", cells), index=cells)
    joint = pd.concat([rna, atac]).groupby(level=0).mean().loc[split.mosaic.obs_names]
    return Views(joint, {"rna": rna, "atac": atac})


def depth_foscttm(split: Split, complete) -> dict[str, float]:
    """What sequencing depth alone gives."""
    origin = split.origin[split.both_views()[0]].to_numpy()
    views = controls.depth_embedding(*(complete[m][origin].X for m in ("rna", "atac")))
    return metrics.pairing(*views).to_dict()


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--peer", type=Path, help="Python of the peers environment (make peers)")
    arguments.add_argument("--peer-epochs", type=int, default=100)
    options = arguments.parse_args()
    threads(options.threads)
    complete, labels = snare(options.cells)
    methods: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        split = random_unpairing(complete, 0.25, seed=seed, labels=labels)
        found = {
            "depth alone": depth_foscttm(split, complete),
            "ridge": score_embedding(split, ridge_views(split), labels),
        }
        model, seconds = fit(split, seed, **read_options(options.set))
        found["multivi-nf"] = score_embedding(split, views_of(model, split), labels) | {
            "cpu_seconds": seconds,
            "epochs": len(model.history.rows),
        }
        if options.peer:
            for batch_key in ("batch", "modality"):
                views, seconds = scvi_views(options.peer, split, seed, batch_key, options.peer_epochs)
                found[f"scvi, batch_key={batch_key}"] = score_embedding(split, views, labels) | {"cpu_seconds": seconds}
        show(f"SNARE 25 % paired, seed {seed}", found)
        for name, scores in found.items():
            methods.setdefault(name, []).append(scores)
    show("mean over seeds", {name: pd.DataFrame(rows).mean().to_dict() for name, rows in methods.items()})
    if len(options.seeds) > 1:
        show("s.d. over seeds", {name: pd.DataFrame(rows).std().to_dict() for name, rows in methods.items()})


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
