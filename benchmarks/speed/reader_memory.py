"""Peak memory of the steps that read a finished mosaic, against the number of cells that it holds.

    python -m benchmarks.speed.reader_memory [--cells 2000 20000 200000] [--steps impute ...] [--out TABLE]

Each size is a mosaic file of the same kind of cells (by default 1,000 genes of which a cell shows 200, 4,000 peaks of
which it shows 300; a third paired, five groups, four batches; counts of 2,000 cells repeated), and each step a process
of its own, as the pipeline runs it: 256 cells x 20 genes of imputation, a contrast of two groups, every group against
the rest with imputed cells among them, calibration, and the embedding's file handed on, scored, drawn. What grows with
the cells is the table of cells and 8 bytes a cell of row pointers: `tables_GB` is a process that reads only these.
The model is not trained, its split is the one that training draws. Peak memory is VmHWM (`ru_maxrss` of a process
counts its parent's).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

BASE = 2000
STEPS = ("tables", "impute", "differential", "each", "calibrate", "embed", "export", "evaluate", "report")
PEAK = """
import sys
from multivi_nf.commands import main
code = 0
try:
    main(sys.argv[2:])
finally:
    cpu = __import__("resource").getrusage(__import__("resource").RUSAGE_SELF)
    high = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    open(sys.argv[1], "w").write(f"{int(high.split()[1]) * 1024 / 1e9} {cpu.ru_utime + cpu.ru_stime}")
"""
TABLES = """
import sys
import torch
import multivi_nf as mv
from multivi_nf.latent.cells import cells_of
cells_of(mv.MultiVI.load(sys.argv[3]), sys.argv[2])
high = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
open(sys.argv[1], "w").write(f"{int(high.split()[1]) * 1024 / 1e9} 0")
"""


def make(folder: Path, n_cells: int, genes: int, peaks: int, shown: tuple[int, int]) -> None:
    """Write a mosaic of `n_cells`, a third RNA, a third ATAC, a third both, and a model with its split."""
    import mudata as md
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    import multivi_nf as mv
    from multivi_nf.mosaic.write import fill, skeleton
    from multivi_nf.training.split import split_cells, split_table

    rng = np.random.default_rng(0)
    names = np.array([f"s{i % 4}:ACGTACGTACGT{i:07d}-1" for i in range(n_cells)])
    kind = np.arange(n_cells) // 4 % 3
    parts, bases, rows = {}, {}, {}
    for modality, width, stored, skip in (("rna", genes, shown[0], 2), ("atac", peaks, shown[1], 1)):
        base = sparse.random(BASE, width, stored / width, "csr", random_state=rng, data_rvs=lambda n: np.ones(n))
        base.data = rng.integers(1, 5, base.nnz).astype(np.int32)
        bases[modality], rows[modality] = base, np.flatnonzero(kind != skip)
        columns = [f"g{j}" if modality == "rna" else f"chr1:{1000 * j}-{1000 * j + 500}" for j in range(width)]
        parts[modality] = names[rows[modality]], pd.DataFrame({"symbol": columns}, index=columns), {}
    has = {m: np.isin(np.arange(n_cells), rows[m]) for m in parts}
    obs = pd.DataFrame(
        {"sample": [name[:2] for name in names], "batch": [name[:2] for name in names]}
        | {f"has_{m}": has.get(m, np.zeros(n_cells, bool)) for m in ("rna", "atac", "protein")}
        | {"modality": np.array(["rna+atac", "rna", "atac"])[kind]}
        | {"group": (np.arange(n_cells) // 12 % 5).astype(str)}
        | {f"n_{k}": rng.random(n_cells) for k in range(8)},
        index=names,
    )
    path = folder / "mosaic.h5mu"
    # the order in which MuData joins its modalities' cells is the order of the file's
    with md.set_options(pull_on_update=False):
        order = md.MuData({m: AnnData(obs=pd.DataFrame(index=c)) for m, (c, _, _) in parts.items()}).obs_names
    skeleton(path, obs.loc[order], parts, {"multivi_nf": "{}"})
    for modality, base in bases.items():
        where = rows[modality] % BASE
        fill(
            path,
            modality,
            base.shape[1],
            (lambda some=where[start : start + 4096], base=base: base[some] for start in range(0, len(where), 4096)),
        )
    some = md.MuData(
        {m: AnnData(bases[m][: len(c[:50])], obs=pd.DataFrame(index=c[:50]), var=v) for m, (c, v, _) in parts.items()}
    )
    some.obs["batch"] = [name[:2] for name in some.obs_names]
    model = mv.MultiVI.from_mosaic(some)
    roles = split_cells(has, obs["batch"].to_numpy(), 0)
    model.split = split_table(names, roles).set_index("cell").loc[order].rename_axis("cell").reset_index()
    model.save(folder / "model")
    (folder / "cells.txt").write_text("\n".join(names[:256]) + "\n")
    (folder / "genes.txt").write_text("\n".join(f"g{j}" for j in range(20)) + "\n")


def arguments(folder: Path, step: str) -> list[object]:
    """Command line of a step."""
    own = [folder / "mosaic.h5mu", folder / "model"]
    rna = [*own, "--modality", "rna"]
    return {
        "tables": own,
        "impute": [
            "impute",
            *rna,
            "--cells",
            folder / "cells.txt",
            "--features",
            folder / "genes.txt",
            "--output",
            folder / "imputed.zarr",
        ],
        "differential": [
            "differential",
            *rna,
            "--groupby",
            "group",
            "--target",
            "1",
            "--reference",
            "2",
            "--output",
            folder / "table.tsv.gz",
        ],
        "each": [
            "differential",
            *own,
            "--modality",
            "atac",
            "--groupby",
            "group",
            "--target",
            "each",
            "--cells",
            "all",
            "--calibration",
            folder / "model",
            "--output",
            folder / "each.tsv.gz",
        ],
        "calibrate": ["calibrate", *own, "--output", folder / "calibrated"],
        "embed": ["embed", *own, "--output", folder / "multivi.h5mu"],
        "export": ["export", folder / "multivi.h5mu", "--h5ad", "true", "--output", folder / "exported"],
        "evaluate": [
            "evaluate",
            "--mosaic",
            folder / "multivi.h5mu",
            "--labels",
            "group",
            "--output",
            folder / "evaluation.json",
        ],
        "report": ["report", folder],
    }[step]


def cost(folder: Path, step: str) -> tuple[float, float]:
    """Peak memory (GB) and CPU seconds of a step in a process of its own."""
    found = folder / f"{step}.cost"
    code = TABLES if step == "tables" else PEAK
    command = [sys.executable, "-c", code, found, *arguments(folder, step)]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{step}: {done.stderr[-2000:]}")
    memory, cpu = found.read_text().split()
    return float(memory), float(cpu)


def main() -> None:
    """Print one row a size and step."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cells", type=int, nargs="+", default=[2000, 20_000, 200_000])
    options.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS)
    options.add_argument("--features", type=int, nargs=2, default=[1000, 4000], metavar=("GENES", "PEAKS"))
    options.add_argument("--shown", type=int, nargs=2, default=[200, 300], metavar=("GENES", "PEAKS"))
    options.add_argument("--keep", type=Path, help="Folder for the mosaics, kept and used again.")
    options.add_argument("--make", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.make:
        make(chosen.keep, chosen.make, *chosen.features, tuple(chosen.shown))
        return
    print("cells\tstep\tpeak_GB\tcpu_s")
    with tempfile.TemporaryDirectory() as scratch:
        for n_cells in chosen.cells:
            folder = (chosen.keep or Path(scratch)) / str(n_cells)
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "model").exists():
                more = [f"--{name}={value}" for name, value in (("make", n_cells), ("keep", folder))]
                for name in ("features", "shown"):
                    more += [f"--{name}", *map(str, getattr(chosen, name))]
                subprocess.run([sys.executable, "-m", "benchmarks.speed.reader_memory", *more], check=True)
            for step in chosen.steps:
                memory, cpu = cost(folder, step)
                print(f"{n_cells}\t{step}\t{memory:.3f}\t{cpu:.1f}", flush=True)


if __name__ == "__main__":
    main()
