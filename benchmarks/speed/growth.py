"""CPU seconds and peak memory of every step of the whole pipeline, against the number of cells.

    python -m benchmarks.speed.growth --folder DIR [--cells 2000 20000 200000] [--genes 10000] [--peaks 60000]

Each size is a simulated mosaic (the simulator's seven samples: pairs, RNA, ATAC, RNA with proteins; matrices, not
fragments), run through Nextflow on this machine with `--max_epochs 5`. A step's cost is what its tasks measured
themselves (`pipeline_info/resources`): CPU seconds summed over tasks, the largest peak memory. Of TRAIN an epoch's
seconds (clock) are given too. Rows go to `benchmarks/results/growth.tsv`; a size that has rows of the same features
is not run again, and one that was broken off is gone on with (`-resume`). With two sizes exponents follow: the slope
of log CPU seconds over log cells between the two largest, and bytes a cell more. Named are steps above 1.1, or 2 kB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks import places
from benchmarks.places import ROOT

BIN = ROOT / ".venv" / "bin"
RESULTS = places.RESULTS / "growth.tsv"
EPOCHS = 5
LARGEST_EXPONENT, BYTES_A_CELL = 1.1, 2000
LEAST_SECONDS = 1.0
"""CPU seconds of a step beyond those at the smaller size, from which an exponent tells of more than its start."""
SIZE = ["cells", "genes", "peaks"]


def run(folder: Path, cells: int, genes: int, peaks: int) -> list[dict]:
    """Simulate and run a size; rows of its steps."""
    data, out = folder / "data", folder / "results"
    folder.mkdir(parents=True, exist_ok=True)
    if not (data / "samplesheet.csv").is_file():
        sizes = ["--cells", cells, "--genes", genes, "--peaks", peaks]
        order = [BIN / "multivi-nf", "simulate", "--outdir", data, *sizes, "--no-fragments"]
        subprocess.run([str(word) for word in order], check=True)
    order = [BIN / "nextflow", "run", ROOT, "-resume", "--input", data / "samplesheet.csv", "--outdir", out]
    order += ["--chrom_sizes", data / "genome/chrom.sizes", "--tss", data / "genome/tss.bed"]
    order += ["--max_epochs", EPOCHS, "--device", "cpu"]
    subprocess.run([str(word) for word in order], check=True, cwd=folder, env=os.environ | {"NXF_ANSI_LOG": "false"})
    size = {"cells": cells, "genes": genes, "peaks": peaks}
    rows: dict[str, dict] = {}
    for path in sorted(out.rglob("*.resources.json")):
        task = json.loads(path.read_text())
        row = rows.setdefault(task["step"], size | {"step": task["step"], "tasks": 0, "cpu_s": 0.0, "peak_GB": 0.0})
        row["tasks"] += 1
        row["cpu_s"] = round(row["cpu_s"] + task["cpu_seconds"], 2)
        row["peak_GB"] = round(max(row["peak_GB"], task["peak_memory"] / 1e9), 3)
    history = pd.read_csv(out / "model/history.tsv", sep="\t")
    rows["train"]["epoch_wall_s"] = round(float(np.median(history["seconds"])), 2)
    return list(rows.values())


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Growth of each step between the two largest sizes of a table of one kind of features.

    Returns
    -------
    Columns step, from, to, exponent (of CPU seconds; missing where a step took hardly longer), bytes_a_cell, named.
    """
    small, large = sorted(table["cells"].unique())[-2:]
    one, two = (table[table["cells"] == n].set_index("step") for n in (small, large))
    rows = []
    for step in two.index.intersection(one.index, sort=False):
        more = two.loc[step, "cpu_s"] - one.loc[step, "cpu_s"]
        slope = np.log(two.loc[step, "cpu_s"] / one.loc[step, "cpu_s"]) / np.log(large / small)
        slope = round(float(slope), 2) if more >= LEAST_SECONDS else np.nan
        memory = 1e9 * (two.loc[step, "peak_GB"] - one.loc[step, "peak_GB"]) / (large - small)
        named = [word for word, bad in (("time", slope > LARGEST_EXPONENT), ("memory", memory > BYTES_A_CELL)) if bad]
        rows.append(
            {
                "step": step,
                "from": small,
                "to": large,
                "exponent": slope,
                "bytes_a_cell": round(float(memory)),
                "named": " ".join(named),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Run what is missing, print growth."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, required=True, help="Where mosaics and runs are kept.")
    options.add_argument("--cells", type=int, nargs="+", default=[2000, 20_000, 200_000])
    options.add_argument("--genes", type=int, default=10_000)
    options.add_argument("--peaks", type=int, default=60_000)
    options.add_argument("--results", type=Path, default=RESULTS)
    chosen = options.parse_args()
    kind = {"genes": chosen.genes, "peaks": chosen.peaks}
    for cells in chosen.cells:
        known = pd.read_csv(chosen.results, sep="\t") if chosen.results.exists() else pd.DataFrame(columns=SIZE)
        if (known[SIZE] == [cells, *kind.values()]).all(axis=1).any():
            continue
        name = f"{cells}_{chosen.genes}_{chosen.peaks}"
        rows = pd.DataFrame(run(chosen.folder.absolute() / name, cells, **kind))
        pd.concat([known, rows] if len(known) else [rows]).to_csv(chosen.results, sep="\t", index=False)
    table = pd.read_csv(chosen.results, sep="\t")
    table = table[(table[list(kind)] == list(kind.values())).all(axis=1)]
    print(table.to_string(index=False))
    if table["cells"].nunique() > 1:
        print(exponents(table).to_string(index=False))
    else:
        sys.exit("one size shows no growth")


if __name__ == "__main__":
    main()
