"""Is the verdict right? Runs made to be bad in one way each must have a `poor` line that names it; good runs none.

    python -m benchmarks.quality.verdict_table [--runs one_lab_apart good_multiome ...] [--seeds 0] [--keep DIR]

A row a run and seed is appended to `benchmarks/results/verdict_table.tsv` as soon as it is there, and computed once for
each state of the code. `--keep` keeps the runs' folders, so that only the verdict is computed again. `--report` prints
the table of all rows of this state.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import pandas as pd
from benchmarks import places
from benchmarks.places import PACKAGE

RESULTS = places.RESULTS / "verdict_table.tsv"
COLUMNS = [
    "run",
    "seed",
    "made_hash",
    "verdict_hash",
    "cells",
    "epochs",
    "must_be_poor",
    "as_wanted",
    "level_of_it",
    "n_poor",
    "n_look",
    "n_unknown",
    "poor",
    "look",
    "unknown",
    "cpu_s",
]
MADE = ("data", "model", "training", "latent", "calibration", "held_out", "comparison", "qc", "mosaic", "simulate")


def code_hash(rooms: tuple[str, ...], *more: Path) -> str:
    """Of everything under these rooms of the package, and of some files."""
    digest = hashlib.sha256()
    files = [p for room in rooms for p in sorted((PACKAGE / room).rglob("*.py"))]
    for path in (*files, *more):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def row_of(name: str, seed: int, folder: Path, made: str) -> dict[str, object]:
    """Make the run where it is not there as the code `made` has it, and read its verdict as REPORT does."""
    from benchmarks.quality.verdict_runs import make_run
    from benchmarks.quality.verdict_runs_all import RUNS

    from multivi_nf.report.gather import read_results
    from multivi_nf.report.verdict import verdict

    run, started = RUNS[name], time.process_time()
    done = folder / "done"
    if not done.is_file() or (made and done.read_text() != made):
        shutil.rmtree(folder, ignore_errors=True)
        make_run(run, seed, folder)
        done.write_text(made)
    results = read_results(folder)
    findings = verdict(results)
    levels = {level: [f.question for f in findings if f.level == level] for level in ("poor", "look", "unknown")}
    named = [f for f in findings if run.poor and f.question.startswith(run.poor)]
    level = named[0].level if named else "no such line" if run.poor else ""
    wanted = level == "poor" if run.poor else not levels["poor"] and len(levels["look"]) <= 1
    for finding in findings:
        print(f"    {finding.level:8s}{finding.question} {finding.answer}")
    return {
        "run": name,
        "seed": seed,
        "made_hash": done.read_text(),
        "cells": len(results.cells),
        "epochs": len(results.history),
        "must_be_poor": run.poor,
        "as_wanted": wanted,
        "level_of_it": level,
        **{f"n_{key}": len(value) for key, value in levels.items()},
        **{key: "; ".join(value) for key, value in levels.items()},
        "cpu_s": round(time.process_time() - started, 1),
    }


def main() -> None:
    from benchmarks.quality.verdict_runs_all import RUNS

    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS), metavar="RUN")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments.add_argument("--keep", type=Path)
    arguments.add_argument("--reuse", action="store_true", help="kept runs serve whatever code made them")
    arguments.add_argument("--results", type=Path, default=RESULTS)
    arguments.add_argument("--report", action="store_true")
    options = arguments.parse_args()
    made = code_hash(MADE, *sorted((places.ROOT / "benchmarks" / "quality").glob("verdict_runs*.py")))
    judged = code_hash(("report",))
    known = (
        pd.read_csv(options.results, sep="\t", dtype=str)
        if options.results.is_file()
        else pd.DataFrame(columns=COLUMNS)
    )
    mine = known[(known["made_hash"] == made) & (known["verdict_hash"] == judged)]
    if options.report:
        print(mine.drop(columns=["made_hash", "verdict_hash"]).to_string(index=False))
        return
    for seed in options.seeds:
        for name in options.runs:
            if ((mine["run"] == name) & (mine["seed"] == str(seed))).any():
                continue
            print(f"{name}, seed {seed}", flush=True)
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) if options.keep is None else options.keep / f"{name}-{seed}"
                row = row_of(name, seed, folder, "" if options.reuse else made)
            row["verdict_hash"] = judged
            print(f"  -> {'as wanted' if row['as_wanted'] else 'WRONG'}, {row['cpu_s']} CPU s", flush=True)
            table = pd.DataFrame([row])[COLUMNS]
            table.to_csv(options.results, sep="\t", mode="a", index=False, header=not options.results.is_file())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    main()
