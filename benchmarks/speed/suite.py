"""Speeds of the main pieces of work: CPU seconds, how many times the floor, and beside a peer.

    make bench                                        compare with benchmarks/results/speed.tsv
    python -m benchmarks.speed.suite [--case NAME ...] [--repeats 5] [--peer PYTHON] [--write]

Work and floor run in turns in one process (`cases.py`), CPU seconds of one thread, the least of the turns; their ratio
depends little on the machine and on what else runs on it. The suite fails where a ratio is more than 15 % above the
committed one, after a second look. --write makes the ratios of this run the committed ones; --peer (an environment of
`make peers`) adds SnapATAC2 (`fragments`) and scvi-tools (`epoch`) on the same input; the other cases have no peer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from benchmarks import places
from benchmarks.speed.fragments_speed import SNAPATAC

RESULTS = places.RESULTS / "speed.tsv"
ALLOWED = 1.15
"""A ratio above the committed one times this is a regression."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


def one(name: str, repeats: int) -> dict[str, float]:
    """Measure a case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed.suite", "--measure", name, "--repeats", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | ONE_THREAD)
    if done.returncode:
        sys.exit(f"case {name} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {"case": name, "cpu_s": found["work"], "floor_s": found["floor"], "ratio": found["work"] / found["floor"]}


def regressions(now: pd.DataFrame, committed: pd.DataFrame) -> list[str]:
    """Say which cases are more than 15 % further above their floor than committed; a case without a row is none."""
    known = committed.set_index("case")["ratio"]
    return [
        f"{row.case}: {row.ratio:.2f} times its floor, {row.ratio / known[row.case] - 1:+.0%} on the committed "
        f"{known[row.case]:.2f}"
        for row in now.itertuples()
        if row.case in known and row.ratio > ALLOWED * known[row.case]
    ]


def peer_of(name: str, python: str) -> dict[str, float | str]:
    """CPU seconds of a peer on the input of a case; empty where there is none."""
    from benchmarks.speed.fragments_speed import cost

    from multivi_nf.testing.fragments_made import Plan, generate

    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        if name == "fragments":
            generate(Plan(fragments=1_000_000, cells=1000, background=20_000, peaks=30_000), folder)
            bare = cost([python, "-c", "import snapatac2"], 2)["cpu"]
            whole = cost([python, "-m", SNAPATAC, str(folder), f"{where}/peer.npz"], 1)["cpu"]
            return {"peer": "SnapATAC2 2.9.0, both passes", "peer_cpu_s": whole - bare}
        if name == "epoch":
            from benchmarks.speed.model_epoch import THEIRS, data
            from benchmarks.speed.model_epoch import measure as measure_peer

            data(folder, 800, 1000, 10_000)
            settings = {"folder": where, "cells": 800, "threads": 1, "epochs": [1, 2], "batch_size": None}
            return {"peer": "scvi-tools 1.4.2", "peer_cpu_s": measure_peer(python, THEIRS, settings)["cpu"]}
    return {}


def main() -> None:
    """Measure, print, compare."""
    from benchmarks.speed.cases import CASES, measure, table

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--peer", help="python of an environment with snapatac2 and scvi-tools")
    options.add_argument("--write", action="store_true", help="make this run the committed one")
    options.add_argument("--measure", choices=list(CASES), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.measure:
        print(json.dumps(measure(chosen.measure, chosen.repeats)))
        return
    committed = pd.read_csv(RESULTS, sep="\t") if RESULTS.exists() else pd.DataFrame(columns=["case", "ratio"])
    rows = []
    for name in chosen.case:
        row = one(name, chosen.repeats)
        if regressions(table([row]), committed) and not chosen.write:
            again = one(name, chosen.repeats)  # a neighbour may have had the cache
            row = min(row, again, key=lambda found: found["ratio"])
        if chosen.peer:
            row |= peer_of(name, chosen.peer)
            row["peer_ratio"] = row.get("peer_cpu_s", float("nan")) / row["cpu_s"]
        rows.append(row)
        print("\t".join(str(value) for value in table([row]).iloc[0]), flush=True)
    found = table(rows)
    if chosen.write:
        old = committed[~committed["case"].isin(found["case"])]
        whole = pd.concat([old, found]) if len(old) else found
        whole = whole.set_index("case").reindex([name for name in CASES if name in set(whole["case"])]).reset_index()
        RESULTS.parent.mkdir(exist_ok=True)
        whole.to_csv(RESULTS, sep="\t", index=False)
        return
    worse = regressions(found, committed)
    if worse:
        sys.exit("slower than committed in benchmarks/results/speed.tsv:\n" + "\n".join(worse))


if __name__ == "__main__":
    main()
