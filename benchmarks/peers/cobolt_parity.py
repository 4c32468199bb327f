"""Our Cobolt (`multivi_nf.benchmark.cobolt`) against the authors' program, on the same cells.

    python -m benchmarks.peers.cobolt_parity [PATH] [--seed 0] [--epochs 100] [--cells 0]

PATH is a checkout of github.com/epurdom/cobolt, which needs xgboost, seaborn and umap-learn besides what this package
has, for instance `uv pip install --target FOLDER xgboost-cpu seaborn` and PYTHONPATH=FOLDER. Both see the SNARE cortex
(without "Mis"), 24 % of the pairs kept, every other cell once as RNA and once as ATAC, libraries as datasets; FOSCTTM
and the share of nearest neighbours of the other modality that are of the same type are taken over the cells seen twice.
Without PATH ours is held against what the original gave on this set once. Ours has to be within 0.02 and 0.03.
A row each is appended to `benchmarks/results/cobolt_parity.tsv`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from benchmarks.places import RESULTS
from benchmarks.quality.common import snare

from multivi_nf.benchmark.cobolt import Settings, fit_cobolt
from multivi_nf.benchmark.splits import Split, random_unpairing
from multivi_nf.evaluation.metrics import pairing

TABLE = RESULTS / "cobolt_parity.tsv"
PAIRED = 0.24
COMMITTED = {"foscttm": 0.141, "same_label": 0.643, "cpu_seconds": 341.0}
"""Of the original, 100 epochs."""

WITHIN = {"foscttm": 0.02, "same_label": 0.03}


def original(path: Path, split: Split, epochs: int, seed: int) -> pd.DataFrame:
    """(n_cells, 10) corrected latent space by the authors' program, with its defaults."""
    sys.path.insert(0, str(path))
    from cobolt.model import Cobolt
    from cobolt.utils import MultiomicDataset, SingleData

    torch.manual_seed(seed)
    np.random.seed(seed)
    parts = []
    for modality, part in split.mosaic.mod.items():
        counts = (part.layers["counts"] if "counts" in part.layers else part.X).astype(np.float32)
        batch = part.obs["batch"].astype(str).to_numpy()
        for name in np.unique(batch):
            rows = batch == name
            cells, features = (np.asarray(x, dtype=str) for x in (part.obs_names[rows], part.var_names))
            parts.append(SingleData(modality, str(name), features, counts[rows], cells))
    model = Cobolt(dataset=MultiomicDataset.from_singledata(*parts), n_latent=10, device="cpu")
    model.train(num_epochs=epochs)
    latent, barcodes = model.get_all_latent()
    return pd.DataFrame(latent, index=[name.split("~", 1)[1] for name in barcodes])


def scored(split: Split, latent: pd.DataFrame, labels: pd.Series) -> dict[str, float]:
    """FOSCTTM and the share of nearest neighbours of the same type, over the cells that the split shows twice."""
    rna, atac = split.both_views()
    own = labels.loc[split.origin[rna]].to_numpy()
    found = pairing(latent.loc[rna].to_numpy(), latent.loc[atac].to_numpy(), own)
    return {"foscttm": found.foscttm, "same_label": found.same_label}


def verdict(ours: dict[str, float], theirs: dict[str, float]) -> list[str]:
    """A line a measure: both values, and whether ours is within the bound, or better."""
    lines = []
    for name, bound in WITHIN.items():
        worse = (ours[name] - theirs[name]) * (1 if name == "foscttm" else -1)
        told = "better" if worse < -bound else "within" if worse <= bound else "WORSE"
        lines.append(f"{name}: ours {ours[name]:.3f}, theirs {theirs[name]:.3f}: {told} ({bound:g})")
    return lines


def main() -> int:
    """Run ours, and the original where it is; 1 where ours is worse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=Settings().epochs)
    parser.add_argument("--cells", type=int, default=0, help="only so many, for a quick look; no row is written")
    given = parser.parse_args()
    complete, labels = snare(given.cells)
    split = random_unpairing(complete, PAIRED, seed=given.seed, labels=labels)
    settings = Settings(epochs=given.epochs)
    programs = {"ours": lambda: fit_cobolt(split.mosaic, settings, given.seed)}
    if given.path:
        programs["original"] = lambda: original(given.path, split, given.epochs, given.seed)
    found = {}
    for name, program in programs.items():
        started = time.process_time()
        latent = program()
        spent = time.process_time() - started
        found[name] = scored(split, latent, labels) | {"cpu_seconds": spent}
        print(name, {key: round(value, 3) for key, value in found[name].items()}, flush=True)
        if not given.cells:
            row = {"program": name, "cells": len(labels), "paired": PAIRED, "epochs": given.epochs, "seed": given.seed}
            table = pd.DataFrame([row | {key: f"{value:.4g}" for key, value in found[name].items()}])
            table.to_csv(TABLE, sep="\t", index=False, mode="a", header=not TABLE.exists(), lineterminator="\n")
    lines = verdict(found["ours"], found.get("original", COMMITTED))
    print("\n".join(lines))
    return int(any("WORSE" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
