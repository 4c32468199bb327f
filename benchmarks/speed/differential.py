"""One pair of groups, and 20 groups one against the rest: CPU seconds and memory beside scvi-tools.

    python -m benchmarks.speed.differential [--peaks 100000 --cells 4000] [--peer PYTHON-WITH-SCVI]

The cost does not depend on what the weights are, so the model is not trained; scvi's is trained for one epoch. Both
compare the same two groups of a simulated mosaic (a third paired, a third RNA, a third ATAC; 5 % of peaks open) on one
thread. With --peer the same call runs scvi-tools in a process of its own, which needs about 15 GB at 100,000 peaks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from scipy import sparse

PEER = r"""
import json, sys, threading, time, warnings
warnings.simplefilter("ignore")
import anndata as ad, mudata as md, numpy as np, scvi, torch
torch.set_num_threads(1)
folder = sys.argv[1]
parts = {m: ad.read_h5ad(f"{folder}/{m}.h5ad") for m in ("rna", "atac")}
mdata = md.MuData(parts)
mdata.obs["group"] = parts["rna"].obs["group"].to_numpy()
scvi.model.MULTIVI.setup_mudata(mdata, modalities={"rna_layer": "rna", "atac_layer": "atac"})
model = scvi.model.MULTIVI(mdata, n_genes=parts["rna"].n_vars, n_regions=parts["atac"].n_vars)
model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, adversarial_mixing=False)
exec(open(folder + "/watch.py").read())
with watched() as cost:
    model.differential_accessibility(mdata, groupby="group", group1="A", group2="B", silent=True)
print(json.dumps(cost))
"""
WATCH = r'''
import contextlib, os, threading, time
@contextlib.contextmanager
def watched():
    """CPU seconds and memory above the start, sampled every 10 ms."""
    def now():
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    cost, stop, start = {}, threading.Event(), now()
    peak = [start]
    def look():
        while not stop.wait(0.01):
            peak[0] = max(peak[0], now())
    watcher = threading.Thread(target=look)
    watcher.start()
    began = time.process_time()
    yield cost
    cost["cpu_seconds"] = round(time.process_time() - began, 2)
    stop.set()
    watcher.join()
    cost["extra_gb"] = round((peak[0] - start) / 1e9, 3)
'''


def simulate(cells: int, peaks: int, genes: int) -> tuple[dict[str, sparse.csr_matrix], np.ndarray]:
    """Counts at real densities; presence decides who is kept, values do not matter for the cost."""
    rng = np.random.default_rng(0)
    rna = sparse.random(cells, genes, 0.25, "csr", random_state=rng, data_rvs=lambda n: rng.poisson(2, n) + 1)
    atac = sparse.random(cells, peaks, 0.05, "csr", random_state=rng, data_rvs=np.ones)
    return {"rna": rna.astype(np.int32), "atac": atac.astype(np.int32)}, np.arange(cells) % 3


def ours(counts: dict[str, sparse.csr_matrix], kind: np.ndarray) -> dict[str, dict]:
    """Cost of one pair, and of 20 groups one against the rest."""
    import mudata as md
    from anndata import AnnData

    import multivi_nf as mv
    from multivi_nf.latent.cells import cells_of

    names = np.array([f"s{k}:c{i}" for i, k in enumerate(kind)])
    parts = {}
    for modality, rows in (("rna", kind != 2), ("atac", kind != 1)):
        prefix = "g" if modality == "rna" else "chr1:"
        columns = [f"{prefix}{i * 1000}-{i * 1000 + 500}" for i in range(counts[modality].shape[1])]
        parts[modality] = AnnData(counts[modality][rows], pd.DataFrame(index=names[rows]), pd.DataFrame(index=columns))
    with md.set_options(pull_on_update=False):
        mosaic = md.MuData(parts)
    place = pd.Index(names).get_indexer(mosaic.obs_names)
    mosaic.obs["batch"] = "one"
    mosaic.obs["group"] = np.array(["A", "B"])[place % 2]
    mosaic.obs["twenty"] = [f"g{i % 20}" for i in place]
    model = mv.MultiVI.from_mosaic(mosaic).eval()
    data = cells_of(model, mosaic)
    exec(WATCH, globals())
    options = {"modality": "atac", "cells": "all", "n_samples": 5000}
    found = {}
    with watched() as cost:  # noqa: F821
        mv.differential(model, data, groupby="group", target="A", reference="B", **options)
    found["one pair, all 4,000 cells, 5,000 samples a group"] = cost
    with watched() as cost:  # noqa: F821
        mv.differential(model, data, **{**options, "cells": "observed"}, groupby="group", target="A", reference="B")
    found["one pair, measured cells"] = cost
    with watched() as cost:  # noqa: F821
        mv.differential(model, data, **{**options, "n_samples": 2}, groupby="twenty", target="each")
    found["20 groups, each against the rest, all cells"] = cost
    return found


def peer(python: str, counts: dict[str, sparse.csr_matrix], kind: np.ndarray) -> dict:
    """Cost of scvi-tools' differential_accessibility in its own environment."""
    from anndata import AnnData

    with tempfile.TemporaryDirectory() as folder:
        names = [f"c{i}" for i in range(len(kind))]
        for modality, absent in (("rna", 2), ("atac", 1)):
            keep = sparse.diags((kind != absent).astype(np.int32))
            obs = pd.DataFrame({"group": np.array(["A", "B"])[np.arange(len(kind)) % 2]}, index=names)
            padded = sparse.csr_matrix(keep @ counts[modality]).astype(np.float32)
            AnnData(padded, obs, pd.DataFrame(index=[f"{modality}{i}" for i in range(padded.shape[1])])).write_h5ad(
                f"{folder}/{modality}.h5ad"
            )
        (Path(folder) / "watch.py").write_text(WATCH)
        (Path(folder) / "peer.py").write_text(PEER)
        done = subprocess.run([python, f"{folder}/peer.py", folder], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--peaks", type=int, default=100_000)
    options.add_argument("--cells", type=int, default=4000)
    options.add_argument("--genes", type=int, default=2000)
    options.add_argument("--peer", help="Python of an environment with scvi-tools")
    chosen = options.parse_args()
    counts, kind = simulate(chosen.cells, chosen.peaks, chosen.genes)
    found = ours(counts, kind)
    for what, cost in found.items():
        print(f"ours   {what}: {cost['cpu_seconds']} CPU s, {cost['extra_gb']} GB extra", flush=True)
    costs = [cost["cpu_seconds"] for cost in found.values()]
    print(f"20 groups / one pair: {costs[2] / costs[0]:.2f}")
    if chosen.peer:
        theirs = peer(chosen.peer, counts, kind)
        print(f"scvi   one pair, 5,000 samples a group: {theirs['cpu_seconds']} CPU s, {theirs['extra_gb']} GB extra")
        print(f"ratio: {theirs['cpu_seconds'] / costs[0]:.1f} times less CPU time")


if __name__ == "__main__":
    main()
