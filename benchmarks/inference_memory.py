"""Peak memory of IMPUTE and DIFFERENTIAL against the number of cells of the mosaic that they read from.

    python benchmarks/inference_memory.py [--cells 2000 20000 200000]

Each size is a mosaic file of the same kind of cells (5,000 genes, 20,000 peaks, a third paired; counts of 2,000 cells
repeated), and each step a process of its own, as the pipeline runs it: 256 cells × 20 genes of imputation, and one
contrast of two groups. What grows with the cells is the table of cells and 8 bytes a cell of row pointers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import mudata as md
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

import multivi_nf as mv

GENES, PEAKS, BASE = 5000, 20_000, 2000


def mosaic_of(n_cells: int) -> md.MuData:
    """A mosaic of `n_cells`, a third RNA, a third ATAC, a third both."""
    rng = np.random.default_rng(0)
    names = np.array([f"s{i % 4}:c{i}" for i in range(n_cells)])
    parts = {}
    for modality, width, stored, skip in (("rna", GENES, 800, 2), ("atac", PEAKS, 1500, 1)):
        base = sparse.random(BASE, width, stored / width, "csr", random_state=rng, data_rvs=lambda n: np.ones(n))
        base.data = np.ones(base.nnz, np.int32) if modality == "atac" else rng.integers(1, 5, base.nnz).astype(np.int32)
        rows = np.flatnonzero(np.arange(n_cells) % 3 != skip)
        counts = base[rows % BASE].astype(np.int32)
        columns = [f"g{j}" if modality == "rna" else f"chr1:{1000 * j}-{1000 * j + 500}" for j in range(width)]
        parts[modality] = AnnData(counts, obs=pd.DataFrame(index=names[rows]), var=pd.DataFrame(index=columns))
    with md.set_options(pull_on_update=False):
        mosaic = md.MuData(parts)
    obs = pd.DataFrame({"batch": [name[:2] for name in names], "group": np.arange(n_cells) % 5}, index=names)
    for column in obs:
        mosaic.obs[column] = obs.loc[mosaic.obs_names, column].astype(str).to_numpy()
    mosaic.uns["multivi_nf"] = "{}"
    return mosaic


def cost(folder: Path, *arguments: object) -> dict[str, float]:
    """Peak memory (GB) and CPU seconds of a step in a process of its own."""
    command = [sys.executable, "-m", "multivi_nf", "--resources", folder / "cost.json", *arguments]
    subprocess.run([str(part) for part in command], check=True, stderr=subprocess.DEVNULL)
    found = json.loads((folder / "cost.json").read_text())
    return {"memory": found["peak_memory"] / 1e9, "cpu": found["cpu_seconds"]}


def main() -> None:
    """Print one row a size and step."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cells", type=int, nargs="+", default=[2000, 20_000, 200_000])
    chosen = options.parse_args()
    print("cells\tfile_MB\timpute_GB\timpute_cpu_s\tdifferential_GB\tdifferential_cpu_s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n_cells in chosen.cells:
            mosaic = mosaic_of(n_cells)
            if not (folder / "model").exists():
                mv.MultiVI.from_mosaic(mosaic).save(folder / "model")
            mosaic.write_h5mu(folder / "mosaic.h5mu", compression="gzip", compression_opts=1)
            (folder / "cells.txt").write_text("\n".join(mosaic.obs_names[:256]) + "\n")
            (folder / "genes.txt").write_text("\n".join(f"g{j}" for j in range(20)) + "\n")
            del mosaic
            imputed = cost(
                *(folder, "impute", folder / "mosaic.h5mu", folder / "model", "--modality", "rna"),
                *("--cells", folder / "cells.txt", "--features", folder / "genes.txt"),
                *("--output", folder / f"{n_cells}.zarr"),
            )
            compared = cost(
                *(folder, "differential", folder / "mosaic.h5mu", folder / "model", "--modality", "rna"),
                *("--groupby", "group", "--target", "1", "--reference", "2", "--output", folder / "table.tsv"),
            )
            size = (folder / "mosaic.h5mu").stat().st_size / 1e6
            print(
                f"{n_cells}\t{size:.0f}\t{imputed['memory']:.2f}\t{imputed['cpu']:.1f}\t"
                f"{compared['memory']:.2f}\t{compared['cpu']:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
