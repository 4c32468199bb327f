"""Memory and time of `mosaic` with the number of cells: one sample at a time, so memory should not follow the sum.

    python -m benchmarks.speed.mosaic_memory [CELLS_PER_SAMPLE] [MAX_SAMPLES] [THINNER]

Writes samples of 10,000 cells (paired RNA and ATAC, sparse as 10x data) as QC leaves them, joins 5, 20 and up to 100 of
them in a process of its own, and prints peak memory, CPU seconds and the size of the result. The counts of all samples
but the first are links to one file: reading them costs the same. Peak memory is then made of the imports, one sample,
and the table of cells. THINNER divides the values per cell (a million cells in a minute).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

GENES, PEAKS = 5000, 50_000
STORED = {"rna": 800, "atac": 1500}

CHILD = """
import json, resource, sys
from multivi_nf.mosaic.build import MosaicRules, build_mosaic
from multivi_nf.inputs.samplesheet import read_samples_json
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rules = MosaicRules(min_cells_fraction=0)
build_mosaic(json.load(open(sys.argv[1])), read_samples_json(sys.argv[2]), sys.argv[3], rules)
after = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([before / 1024, after.ru_maxrss / 1024, after.ru_utime + after.ru_stime]))
"""


def write_part(path: Path, sample: str, modality: str, cells: int) -> None:
    """One file as `qc-rna` or `qc-atac` leaves it."""
    rng = np.random.default_rng(0)
    n = GENES if modality == "rna" else PEAKS
    each = STORED[modality]
    indices = np.sort(rng.integers(0, n // each, (cells, each)) + np.arange(each) * (n // each), axis=1)
    data = rng.geometric(0.6, cells * each).astype(np.int32)
    matrix = sparse.csr_matrix((data, indices.ravel().astype(np.int32), np.arange(cells + 1) * each), shape=(cells, n))
    names = [f"ENSG{i:011d}" if modality == "rna" else f"chr1:{i * 1000}-{i * 1000 + 500}" for i in range(n)]
    obs = pd.DataFrame({f"{modality}_n_counts": np.full(cells, each)}, index=[f"{i:016d}-1" for i in range(cells)])
    part = ad.AnnData(matrix, obs=obs, var=pd.DataFrame({"symbol": names}, index=names))
    facts = {"sample": sample, "modality": modality, "counting_strategy": "fragment"}
    part.uns["multivi_nf"] = json.dumps(facts)
    part.write_h5ad(path)


def copy_part(source: Path, path: Path, sample: str) -> None:
    """The same counts under another sample's name, by a link inside HDF5."""
    with h5py.File(source, "r") as old, h5py.File(path, "w") as new:
        new.attrs.update(old.attrs)
        new["X"] = h5py.ExternalLink(str(source), "/X")
        for key in ("obs", "var"):
            old.copy(key, new)
        facts = json.loads(old["uns/multivi_nf"][()]) | {"sample": sample}
        new.create_group("uns").attrs.update(old["uns"].attrs)
        new["uns/multivi_nf"] = json.dumps(facts)
        new["uns/multivi_nf"].attrs.update(old["uns/multivi_nf"].attrs)


def main(cells: int = 10_000, most: int = 20, thinner: int = 1) -> None:
    for modality in STORED:
        STORED[modality] //= thinner
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for modality in STORED:
            write_part(root / f"s0.{modality}.h5ad", "s0", modality, cells)
        for n in (n for n in (5, 20, 50, 100) if n <= most):
            paths, rows = [], []
            for i in range(n):
                for modality in STORED:
                    path = root / f"s{i}.{modality}.h5ad"
                    if not path.exists():
                        copy_part(root / f"s0.{modality}.h5ad", path, f"s{i}")
                    paths.append(str(path))
                rows.append({"sample": f"s{i}", "batch": f"s{i}", "rna": "x", "atac": "x", "metadata": {}})
            (root / "inputs.json").write_text(json.dumps(paths))
            (root / "samples.json").write_text(json.dumps({"samples": rows}))
            command = [
                sys.executable,
                "-c",
                CHILD,
                *(str(root / name) for name in ("inputs.json", "samples.json", "m.h5mu")),
            ]
            before, peak, seconds = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            size = (root / "m.h5mu").stat().st_size / 2**20
            values = n * cells * (8 * STORED["rna"] + 13 * STORED["atac"]) / 2**20
            print(
                f"{n * cells:>9,d} cells: peak {peak:,.0f} MB ({before:,.0f} MB of it imports), {seconds:,.0f} CPU s, "
                f"file {size:,.0f} MB, matrices in memory would be {values:,.0f} MB",
                flush=True,
            )
            (root / "m.h5mu").unlink()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
