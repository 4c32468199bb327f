"""An atlas in one batch: loads, trains an epoch, and embeds some cells; time per epoch and peak memory.

    python -m benchmarks.speed.training_atlas [--cells 161598 --genes 30000 --peaks 165122 --genes-per-cell 1500
                                         --peaks-per-cell 5000 --epochs 1 --time-limit 5]

The size is that of the case that gives NaN in the reference (scvi-tools issue 2262: 161,598 cells x 195,122 features in
one batch). Two thirds of the cells have RNA, two thirds ATAC. Column indices are drawn by popularity (log-normal), so
that sparsity is real; each 4,000 rows are the same 4,000 in another order, which makes the file quickly. With
`--time-limit MINUTES` the epoch is cut short and its time extrapolated from the steps done.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from multivi_nf.errors import Interrupted

BLOCK = 4000


def write_matrix(group: h5py.Group, n_rows: int, n_features: int, per_row: int, rng: np.random.Generator, ones: bool):
    """CSR rows with about `per_row` entries, columns by popularity."""
    popularity = rng.lognormal(0, 1.2, n_features)
    rate = np.minimum(per_row * popularity / popularity.sum(), 0.95)
    counts = group.create_group("X")
    counts.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (n_rows, n_features)})
    options = {"maxshape": (None,), "chunks": (1 << 20,)}
    indices = counts.create_dataset("indices", (0,), np.int32, **options)
    data = counts.create_dataset("data", (0,), np.int8 if ones else np.int32, **options)
    pool, cumulative = [], np.cumsum(rate) / rate.sum()
    for _ in range(min(BLOCK, n_rows)):
        found = np.unique(np.searchsorted(cumulative, rng.random(rng.poisson(per_row))))
        pool.append(np.minimum(found, n_features - 1).astype(np.int32))
    lengths = np.array([row.size for row in pool])
    indptr = np.zeros(n_rows + 1, dtype=np.int64)
    for start in range(0, n_rows, BLOCK):
        chosen = rng.permutation(len(pool))[: n_rows - start]
        indptr[start + 1 : start + 1 + chosen.size] = indptr[start] + np.cumsum(lengths[chosen])
        block, stop = np.concatenate([pool[i] for i in chosen]), indptr[start + chosen.size]
        for dataset, values in ((indices, block), (data, 1 if ones else rng.geometric(0.6, block.size))):
            dataset.resize((stop,))
            dataset[stop - block.size :] = values
    counts["indptr"] = indptr
    return indptr[-1]


def write_mosaic(path: Path, given: argparse.Namespace) -> None:
    """An h5mu as the pipeline writes it."""
    from anndata.io import write_elem

    rng = np.random.default_rng(0)
    names = np.array([f"cell{i}" for i in range(given.cells)])
    third = np.arange(given.cells) % 3
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"] = "MuData"
        write_elem(file, "obs", pd.DataFrame({"batch": "one"}, index=names))
        write_elem(file, "uns", {"multivi_nf": "{}"})
        for modality, keep, n_features, per_row in (
            ("rna", third != 2, given.genes, given.genes_per_cell),
            ("atac", third != 1, given.peaks, given.peaks_per_cell),
        ):
            group = file.require_group("mod").create_group(modality)
            write_elem(group, "obs", pd.DataFrame(index=names[keep]))
            write_elem(group, "var", pd.DataFrame(index=[f"{modality}{j}" for j in range(n_features)]))
            n = write_matrix(group, int(keep.sum()), n_features, per_row, rng, modality == "atac")
            print(f"{modality}: {int(keep.sum()):,} cells x {n_features:,} features, {n:,} entries", flush=True)


def measure(path: str, epochs: int, threads: int, minutes: float | None) -> None:
    """Load, train, embed; print what it took."""
    import torch

    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.data.source import source_of
    from multivi_nf.training import MultiVI, train

    torch.set_num_threads(threads)
    started = time.perf_counter(), time.process_time()
    source = source_of(path)
    model = MultiVI.from_mosaic(source)
    loaded = time.perf_counter() - started[0], time.process_time() - started[1], peak()
    started = time.perf_counter(), time.process_time()
    share, losses = float(epochs), {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            history = train(
                model,
                source,
                max_epochs=epochs,
                device="cpu",
                checkpoint_dir=folder,
                time_limit=None if minutes is None else 60 * minutes,
            )
        losses = {"train_loss": history["train_loss"][-1], "validation_loss": history["validation_loss"][-1]}
    except Interrupted as stop:
        print(stop)
        epoch, step, n_steps = map(int, re.search(r"epoch (\d+), step (\d+) of (\d+)", str(stop)).groups())
        share = epoch - 1 + step / n_steps
    spent = time.perf_counter() - started[0], time.process_time() - started[1]
    model.eval()
    data = MosaicData(source, model)
    with torch.no_grad():
        minibatch = data.minibatch(np.arange(512))
        z = model.fuse(minibatch, model.encode(minibatch)).mean
    print(
        json.dumps(
            {
                "cells": data.n_cells,
                "features": sum(model.config.n_features.values()),
                "entries": sum(int(m.indices.size) for m in source.matrices.values()),
                "mapped": any(isinstance(m.indices, np.memmap) for m in source.matrices.values()),
                "load_wall": loaded[0],
                "load_cpu": loaded[1],
                "load_peak_GB": loaded[2],
                "epochs_done": share,
                "epoch_wall": spent[0] / share,
                "epoch_cpu": spent[1] / share,
                "peak_GB": peak(),
                **losses,
                "finite": bool(torch.isfinite(z).all()) and all(map(math.isfinite, losses.values())),
            },
            indent=1,
        )
    )


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=161_598)
    parser.add_argument("--genes", type=int, default=30_000)
    parser.add_argument("--peaks", type=int, default=165_122)
    parser.add_argument("--genes-per-cell", type=int, default=1500)
    parser.add_argument("--peaks-per-cell", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--time-limit", type=float, help="minutes of training")
    parser.add_argument("--measure", help="measure on this file (used by itself)")
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.epochs, given.threads, given.time_limit)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "atlas.h5mu"
        write_mosaic(path, given)
        print(f"file: {path.stat().st_size / 1e9:.2f} GB", flush=True)
        call = [
            sys.executable,
            "-m",
            "benchmarks.speed.training_atlas",
            "--measure",
            str(path),
            "--epochs",
            str(given.epochs),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
        call += ["--epochs", str(given.epochs), "--threads", str(given.threads)]
        call += [] if given.time_limit is None else ["--time-limit", str(given.time_limit)]
        sys.exit(subprocess.run(call, env=environment).returncode)


if __name__ == "__main__":
    main()
