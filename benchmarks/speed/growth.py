"""CPU seconds and peak memory of every step of the whole pipeline, against the number of cells.

    python -m benchmarks.speed.growth --folder DIR [--cells 2000 20000 200000] [--genes 10000] [--peaks 60000]
    python -m benchmarks.speed.growth --folder DIR --cells 200000 --epochs 2 --few --one   within an hour

Each size is a simulated mosaic (the simulator's seven samples: pairs, RNA, ATAC, RNA with proteins; matrices, not
fragments), run through Nextflow on this machine with `--max_epochs 5`. A step's cost is what its tasks measured
themselves (`pipeline_info/resources`): CPU seconds summed over tasks, the largest peak memory. Of TRAIN an epoch's
seconds (clock) are given too. Rows go to `benchmarks/results/growth.tsv`, those of the steps that were done even where
the run was broken off, which is gone on with (`-resume`). With --few 40 genes are imputed instead of all and proteins,
with --one a task runs at a time, on one processor; `run` says so. A size that has rows of the same features and kind
of run for every step is not run again. With two sizes exponents follow: the slope of log CPU seconds over log cells
between the two largest, and bytes a cell more. Named are steps above 1.1, or 2 kB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks import places
from benchmarks.places import ROOT

from multivi_nf.simulate import read_truth

BIN = ROOT / ".venv" / "bin"
RESULTS = places.RESULTS / "growth.tsv"
EPOCHS = 5
LARGEST_EXPONENT, BYTES_A_CELL = 1.1, 2000
LEAST_SECONDS = 1.0
"""CPU seconds of a step beyond those at the smaller size, from which an exponent tells of more than its start."""
SIZE = ["cells", "genes", "peaks"]
LAST = "report"
"""The step without whose row a size was not run to its end."""
FEW = 40
ONE = "executor.cpus = 1\nprocess.resourceLimits = [cpus: 1, memory: 14.GB]\n"


@dataclass(frozen=True)
class Kind:
    """What is run, beside the size: epochs, whether 40 genes are imputed alone, and whether tasks run one by one."""

    epochs: int = EPOCHS
    few: bool = False
    one: bool = False

    @property
    def told(self) -> str:
        """As in the table's column `run`."""
        return f"{self.epochs} epochs" + (", 40 genes imputed" if self.few else "")


def frequent_genes(data: Path) -> list[str]:
    """The 40 genes of the simulation with the highest means: no filter leaves one out."""
    genes = read_truth(data / "truth")
    base = genes.features["rna"].base
    return genes.genes.index[np.sort(np.argsort(-base, kind="stable")[:FEW])].tolist()


def run(folder: Path, size: dict[str, int], kind: Kind) -> list[dict]:
    """Simulate and run a size; rows of its steps, of those that were done where it was broken off."""
    data, out = folder / "data", folder / f"results_{kind.epochs}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (data / "samplesheet.csv").is_file():
        sizes = [word for name, number in size.items() for word in (f"--{name}", number)]
        order = [BIN / "multivi-nf", "simulate", "--outdir", data, *sizes, "--no-fragments"]
        subprocess.run([str(word) for word in order], check=True)
    order = [BIN / "nextflow", "run", ROOT, "-resume", "--input", data / "samplesheet.csv", "--outdir", out]
    order += ["--chrom_sizes", data / "genome/chrom.sizes", "--tss", data / "genome/tss.bed"]
    order += ["--max_epochs", kind.epochs, "--device", "cpu"]
    if kind.few:
        (folder / "genes.txt").write_text("\n".join(frequent_genes(data)) + "\n")
        order += ["--impute", "rna", "--impute_features", folder / "genes.txt"]
    if kind.one:
        (folder / "one.config").write_text(ONE)
        order += ["-c", folder / "one.config"]
    done = subprocess.run([str(word) for word in order], cwd=folder, env=os.environ | {"NXF_ANSI_LOG": "false"})
    if done.returncode:
        print(f"the run ended with {done.returncode}: rows of what was done follow", file=sys.stderr)
    rows: dict[str, dict] = {}
    for path in sorted(out.rglob("*.resources.json")):
        task = json.loads(path.read_text())
        start = size | {"run": kind.told, "step": task["step"], "tasks": 0, "cpu_s": 0.0, "peak_GB": 0.0}
        row = rows.setdefault(task["step"], start)
        row["tasks"] += 1
        row["cpu_s"] = round(row["cpu_s"] + task["cpu_seconds"], 2)
        row["peak_GB"] = round(max(row["peak_GB"], task["peak_memory"] / 1e9), 3)
    if "train" in rows:
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
    options.add_argument("--epochs", type=int, default=EPOCHS)
    options.add_argument("--few", action="store_true", help="Impute 40 genes alone.")
    options.add_argument("--one", action="store_true", help="One task at a time, on one processor.")
    options.add_argument("--results", type=Path, default=RESULTS)
    chosen = options.parse_args()
    features = {"genes": chosen.genes, "peaks": chosen.peaks}
    kind = Kind(chosen.epochs, chosen.few, chosen.one)
    for cells in chosen.cells:
        known = (
            pd.read_csv(chosen.results, sep="\t") if chosen.results.exists() else pd.DataFrame(columns=[*SIZE, "run"])
        )
        same = (known[[*SIZE, "run"]] == [cells, *features.values(), kind.told]).all(axis=1)
        if LAST in known.loc[same, "step"].to_numpy() if len(known) else False:
            continue
        name = f"{cells}_{chosen.genes}_{chosen.peaks}"
        rows = pd.DataFrame(run(chosen.folder.absolute() / name, {"cells": cells, **features}, kind))
        rest = known[~same]
        pd.concat([rest, rows] if len(rest) else [rows]).to_csv(chosen.results, sep="\t", index=False)
    table = pd.read_csv(chosen.results, sep="\t")
    table = table[(table[list(features)] == list(features.values())).all(axis=1) & (table["run"] == kind.told)]
    print(table.to_string(index=False))
    if table["cells"].nunique() > 1:
        print(exponents(table).to_string(index=False))
    else:
        sys.exit("one size shows no growth")


if __name__ == "__main__":
    main()
