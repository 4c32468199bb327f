"""Imputation of 20,000 genes: memory above the start, and time against the bare matrix products.

    python -m benchmarks.speed.imputation [--cells 50000 --genes 20000 --samples 50]

The floor is the decoder's last matrix product alone, (cells x samples, hidden) times (hidden, genes), on as many
threads. Weights are random: the cost does not depend on them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import mudata as md
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

import multivi_nf as mv
from multivi_nf.imputation.impute import Imputer, Options, impute_to_zarr
from multivi_nf.latent.cells import Cells, cells_of


@contextlib.contextmanager
def watched() -> Iterator[dict]:
    """CPU and wall seconds, and peak memory above the start."""

    def now() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    cost, stop, start = {}, threading.Event(), now()
    peak = [start]

    def look() -> None:
        while not stop.wait(0.01):
            peak[0] = max(peak[0], now())

    watcher = threading.Thread(target=look)
    watcher.start()
    cpu, wall = time.process_time(), time.monotonic()
    yield cost
    cost.update(cpu=time.process_time() - cpu, wall=time.monotonic() - wall)
    stop.set()
    watcher.join()
    cost["extra"] = (peak[0] - start) / 1e9


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("cells", 50_000), ("genes", 20_000), ("samples", 50)):
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    rng = np.random.default_rng(0)
    counts = sparse.random(chosen.cells, chosen.genes, 0.05, "csr", random_state=rng, data_rvs=lambda n: np.ones(n))
    rna = AnnData(counts.astype(np.int32), obs=pd.DataFrame(index=[f"c{i}" for i in range(chosen.cells)]))
    rna.var_names = [f"g{i}" for i in range(chosen.genes)]
    mosaic = md.MuData({"rna": rna})
    mosaic.obs["batch"] = "one"
    model = mv.MultiVI.from_mosaic(mosaic).eval()
    data = cells_of(model, mosaic)
    with tempfile.TemporaryDirectory() as folder:
        options = Options(features="all", n_samples=chosen.samples)
        some = dataclasses.replace(options, cells=list(data.cells[:8]))
        impute_to_zarr(Imputer(Cells(model, data), "rna", some), Path(folder) / "warm.zarr")
        with watched() as cost:
            impute_to_zarr(Imputer(Cells(model, data), "rna", options), Path(folder) / "all.zarr")
    hidden, rows = model.config.n_hidden, 1024
    x, w = torch.rand(rows, hidden), torch.rand(hidden, chosen.genes)
    out = torch.empty(rows, chosen.genes)
    torch.mm(x, w, out=out)
    began = time.process_time()
    for _ in range(5):
        torch.mm(x, w, out=out)
    floor = (time.process_time() - began) / 5 / rows * chosen.cells * chosen.samples
    print(
        f"{chosen.cells:,} cells x {chosen.genes:,} genes x {chosen.samples} samples: {cost['cpu']:.1f} CPU s, "
        f"{cost['wall']:.1f} s, {cost['extra']:.2f} GB extra"
    )
    print(f"matrix products alone {floor:.1f} CPU s: ratio {cost['cpu'] / floor:.1f}")


if __name__ == "__main__":
    main()
