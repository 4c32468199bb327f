"""Seconds per epoch against scvi-tools: 4,000 cells x (2,000 genes + peaks), a third paired, a third RNA, a third ATAC.

    python -m benchmarks.speed.model_epoch --peer <peers>/bin/python [--peaks 20000 100000] [--cells 4000] [--threads 1]

Both train on the same counts (25 % of RNA and 5 % of ATAC entries non-zero) with 128 hidden units, 11 latent
dimensions and 2 layers, every measured entry in the likelihood, adversary (scvi: batch_key = modality group) and
validation on, each in a process of its own. The time of an epoch is the CPU time of a longer training less that of a
shorter one, over the epochs between: what other programs do on the machine hardly enters it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse as sp

OURS = """
import json, resource, sys, time, warnings
warnings.filterwarnings("ignore")
import anndata, mudata, numpy as np, pandas as pd, scipy.sparse as sp, torch
settings = json.loads(sys.argv[1])
torch.set_num_threads(settings["threads"])
from multivi_nf.training import MultiVI, train
names = np.array([f"s:{i}" for i in range(settings["cells"])])
parts = {}
for m in ("rna", "atac"):
    x = sp.load_npz(f"{settings['folder']}/{m}.npz")
    keep = np.load(f"{settings['folder']}/has.npz")[m]
    parts[m] = anndata.AnnData(x[keep].astype(np.int32), pd.DataFrame(index=names[keep]))
    parts[m].var_names = [f"{m}{j}" for j in range(x.shape[1])]
mosaic = mudata.MuData(parts)
mosaic.obs["batch"] = "one"
loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
def fit(epochs):
    model = MultiVI.from_mosaic(mosaic, n_hidden=128, n_latent=11)
    started = time.process_time(), time.perf_counter()
    history = train(model, mosaic, max_epochs=epochs, batch_size=settings["batch_size"], quiet=True)
    return np.array([time.process_time() - started[0], time.perf_counter() - started[1]])
"""

THEIRS = """
import json, resource, sys, time, warnings
warnings.filterwarnings("ignore")
import anndata, mudata, numpy as np, pandas as pd, scipy.sparse as sp, scvi, torch
settings = json.loads(sys.argv[1])
torch.set_num_threads(settings["threads"])
scvi.settings.verbosity = 40
names = np.array([f"s:{i}" for i in range(settings["cells"])])
has = np.load(f"{settings['folder']}/has.npz")
parts = {}
for m in ("rna", "atac"):
    x = sp.load_npz(f"{settings['folder']}/{m}.npz").astype(np.float32)
    parts[m] = anndata.AnnData(x, pd.DataFrame(index=names))
    parts[m].var_names = [f"{m}{j}" for j in range(x.shape[1])]
mosaic = mudata.MuData(parts)
mosaic.obs["group"] = pd.Categorical([f"{r}{a}" for r, a in zip(has["rna"], has["atac"])])
loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
scvi.model.MULTIVI.setup_mudata(mosaic, rna_layer=None, atac_layer=None, batch_key="group",
                                modalities={"rna_layer": "rna", "atac_layer": "atac", "batch_key": None})
def fit(epochs):
    model = scvi.model.MULTIVI(mosaic, n_genes=mosaic["rna"].n_vars, n_regions=mosaic["atac"].n_vars, n_hidden=128,
                               n_latent=11)
    started = time.process_time(), time.perf_counter()
    model.train(max_epochs=epochs, batch_size=settings["batch_size"] or 128, accelerator="cpu",
                enable_progress_bar=False)
    return np.array([time.process_time() - started[0], time.perf_counter() - started[1]])
"""

END = """
short, long = settings["epochs"]
# the first optimiser imports much of torch: not in the time of an epoch
torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
cpu, wall = (fit(long) - fit(short)) / (long - short)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print("RESULT " + json.dumps({"cpu": cpu, "wall": wall, "peak": peak, "loaded": loaded}))
"""


def data(folder: Path, cells: int, genes: int, peaks: int) -> None:
    """Random counts, zero rows where a cell lacks the modality."""
    rng = np.random.default_rng(0)
    group = np.arange(cells) % 3
    has = {"rna": group != 2, "atac": group != 1}
    for m, n, density in (("rna", genes, 0.25), ("atac", peaks, 0.05)):
        x = sp.random(int(has[m].sum()), n, density, format="csr", random_state=rng, dtype=np.float32)
        x.data = rng.integers(1, 6, x.nnz).astype(np.float32) if m == "rna" else np.ones(x.nnz, np.float32)
        spread = sp.csr_matrix(
            (np.ones(has[m].sum()), np.flatnonzero(has[m]), np.arange(has[m].sum() + 1)), (int(has[m].sum()), cells)
        ).T
        sp.save_npz(folder / f"{m}.npz", (spread @ x).tocsr())
    np.savez(folder / "has.npz", **has)


def measure(python: str, program: str, settings: dict) -> dict[str, float]:
    run = subprocess.run(
        [python, "-c", program + END, json.dumps(settings)], capture_output=True, text=True, check=False
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(f"a run failed: {run.stderr[-2000:]}")
    return json.loads(lines[-1][len("RESULT ") :])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--peer", help="Python with scvi-tools 1.4.2; without it only ours runs")
    arguments.add_argument("--peaks", type=int, nargs="+", default=[20_000, 100_000])
    arguments.add_argument("--cells", type=int, default=4000)
    arguments.add_argument("--genes", type=int, default=2000)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--sizes", default="default,128,512", help="batch sizes to compare at")
    chosen = arguments.parse_args()
    for peaks in chosen.peaks:
        with tempfile.TemporaryDirectory() as folder:
            data(Path(folder), chosen.cells, chosen.genes, peaks)
            for size in chosen.sizes.split(","):
                settings = {
                    "folder": folder,
                    "cells": chosen.cells,
                    "threads": chosen.threads,
                    "epochs": [1, 3],
                    "batch_size": None if size == "default" else int(size),
                }
                ours = measure(sys.executable, OURS, settings)
                line = f"{peaks:7,d} peaks, batch {size:>7s}: ours {ours['cpu']:6.2f} CPU s, "
                line += f"{ours['wall']:6.2f} s wall, peak {ours['peak']:.2f} GB (data {ours['loaded']:.2f})"
                if chosen.peer:
                    settings["epochs"] = [1, 2]
                    peer = measure(chosen.peer, THEIRS, settings)
                    line += f" | scvi {peer['cpu']:6.2f} CPU s, {peer['wall']:6.2f} s wall, peak {peer['peak']:.2f} GB"
                    line += f" | {peer['cpu'] / ours['cpu']:.1f}x CPU, {peer['wall'] / ours['wall']:.1f}x wall"
                print(line, flush=True)


if __name__ == "__main__":
    main()
