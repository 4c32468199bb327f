"""Size, CPU time and peak memory of `report.html` and `explorer.html` at many cells, from the results of a run.

    python -m benchmarks.speed.pages_cost OUTDIR [--cells 200000] [--features 500] [--table FILE]

A run's cells are drawn with replacement, each under a name of its own and moved a little on the map, until there are as
many as asked for: counts, columns, graphs, samples and clusters stay what they are, QC tables grow alike. Of the
imputed values as many features stay as `--features` says. Both pages are written in processes of their own; the page
opens in Chromium where there is one. Rows go to benchmarks/results/pages_cost.tsv.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
from benchmarks.places import RESULTS
from benchmarks.quality.links_truth import write_row
from scipy import sparse

from multivi_nf.export.modalities import fill_modalities
from multivi_nf.io.h5mu import read_h5mu

NEIGHBOURS = 15


def many(outdir: Path, folder: Path, cells: int, features: int) -> None:
    """Write the results of a run of `cells` cells like those of `outdir` into `folder`."""
    shutil.copytree(outdir, folder, ignore=shutil.ignore_patterns("*.h5mu", "*.h5ad", "*.zarr", "h5ad", "checkpoints"))
    rng = np.random.default_rng(0)
    small = read_h5mu(outdir / "multivi.h5mu")
    drawn = rng.integers(0, small.n_obs, cells)  # in no order: cells of a kind side by side would deflate to nothing
    names = pd.Index([f"{small.obs['sample'].iloc[k]}:{number:016x}-1" for number, k in enumerate(drawn)])
    mods = {}
    for name, data in small.mod.items():
        at = data.obs_names.get_indexer(small.obs_names)[drawn]
        layers = {key: sparse.csr_matrix(values)[at[at >= 0]] for key, values in data.layers.items()}
        mods[name] = ad.AnnData(
            sparse.csr_matrix(data.X)[at[at >= 0]], obs=pd.DataFrame(index=names[at >= 0]), var=data.var, layers=layers
        )
    with mudata.set_options(pull_on_update=False):
        large = mudata.MuData(mods)
        at = drawn[names.get_indexer(large.obs_names)]
        large.obs = small.obs.iloc[at].set_axis(large.obs_names)
    for key, values in small.obsm.items():
        if key in small.mod:
            continue
        large.obsm[key] = np.asarray(values)[at]
    spread = np.ptp(large.obsm["X_umap"], axis=0) / 200
    large.obsm["X_umap"] = (large.obsm["X_umap"] + rng.normal(0, 1, (cells, 2)) * spread).astype(np.float32)
    graph = sparse.csr_matrix(
        (
            np.ones(cells * NEIGHBOURS, np.float32),
            rng.integers(0, cells, cells * NEIGHBOURS).astype(np.int32),
            np.arange(0, cells * NEIGHBOURS + 1, NEIGHBOURS),
        ),
        shape=(cells, cells),
    )
    large.obsp["connectivities"] = large.obsp["distances"] = graph
    large.uns = small.uns
    fill_modalities(large)
    large.write_h5mu(folder / "multivi.h5mu")
    for path in sorted((outdir / "imputed").glob("*.zarr")):
        store = ad.read_zarr(path)
        rows = store.obs_names.get_indexer(small.obs_names)[at]
        kept = store[:, :features]
        part = ad.AnnData(np.asarray(kept.X)[rows], kept.obs.iloc[rows].set_axis(large.obs_names), kept.var)
        part.uns = dict(kept.uns)
        part.write_zarr(folder / "imputed" / path.name, chunks=(2048, kept.n_vars))
    for table in sorted((folder / "qc").glob("*/*.tsv.gz")):
        rows = pd.read_csv(table, sep="\t")
        pd.concat([rows] * (cells // small.n_obs), ignore_index=True).to_csv(table, sep="\t", index=False)


def timed(code: str, *given: object) -> tuple[float, float]:
    """CPU seconds and peak memory (GB) of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = "import resource as r, sys\n" + code
    said += "\nprint(r.getrusage(r.RUSAGE_SELF).ru_maxrss, file=sys.stdout)"
    done = subprocess.run([sys.executable, "-c", said, *map(str, given)], check=True, text=True, stdout=subprocess.PIPE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, int(done.stdout.split()[-1]) * 1024 / 1e9


REPORT = """
from pathlib import Path
from multivi_nf.report import write_report
write_report(Path(sys.argv[1]), Path(sys.argv[1]) / 'report.html')"""

EXPLORER = """
from pathlib import Path
import pandas as pd
from multivi_nf.io.h5mu import read_h5mu
from multivi_nf.report.explorer import Beside, write_explorer
out = Path(sys.argv[1])
markers = {m: pd.read_csv(out / 'markers' / f'{m}.tsv.gz', sep='\\t') for m in ('rna', 'atac', 'protein')}
stores = {path.stem: path for path in sorted((out / 'imputed').glob('*.zarr'))}
print(write_explorer(read_h5mu(out / 'multivi.h5mu'), Beside(stores, markers), out / 'explorer.html'))"""


def opened(page: Path) -> float:
    """Seconds until Chromium has read and drawn the page; NaN without Chromium."""
    program = shutil.which("chromium")
    if program is None:
        return float("nan")
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=1000"]
    with tempfile.TemporaryDirectory() as profile:
        command += [f"--user-data-dir={profile}", "--window-size=1400,1000", f"--screenshot={page.with_suffix('.png')}"]
        started = time.monotonic()
        subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=300)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=500)
    parser.add_argument("--pages", nargs="+", default=["report.html", "explorer.html"])
    parser.add_argument("--folder", type=Path, help="Keep what is made here.")
    parser.add_argument("--table", type=Path, default=RESULTS / "pages_cost.tsv")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (given.folder or Path(name)) / f"cells{given.cells}"
        if not (folder / "multivi.h5mu").exists():
            many(given.outdir, folder, given.cells, given.features)
        for page in given.pages:
            code = {"report.html": REPORT, "explorer.html": EXPLORER}[page]
            cpu, memory = timed(code, folder)
            row = {"page": page, "cells": given.cells, "MB": round((folder / page).stat().st_size / 1e6, 2)}
            row |= {"cpu_s": round(cpu, 1), "peak_GB": round(memory, 2), "opens_s": round(opened(folder / page), 1)}
            write_row(given.table, row)


if __name__ == "__main__":
    main()
