"""How CPU seconds and memory grow with fragments, barcodes and peaks.

    python -m benchmarks.speed.fragments_growth [--fragments 2 5 20 60] [--barcodes 1 10 100] [--peaks 50 100 300]

Millions of fragments; thousands of background barcodes and of peaks, at --base million fragments (2). Each run is a
process of its own, as in `fragments_speed.py`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.speed.fragments_speed import cost

from multivi_nf.testing.fragments_made import Plan, generate


def run(name: str, plan: Plan, data: Path) -> None:
    """Make one simulation, time one pass over it, print a line, delete it."""
    folder = data / "growth"
    # a process of its own: a child's peak memory counts from what its parent held when it was started
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        totals = pool.submit(generate, plan, folder).result()
    command = [sys.executable, "-m", "benchmarks.speed.fragments_speed", "--one", str(folder)]
    row = cost(command, 1)
    size = (folder / "fragments.tsv.gz").stat().st_size / 1e6
    shutil.rmtree(folder)
    result = totals["nonzero"] * 8 / 1e6
    used = f"{row['cpu']:7.2f} CPU s {row['memory']:6.0f} MB, of which matrix {result:5.0f} MB"
    print(f"{name:24s} {size:6.0f} MB gz {used}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fragments", type=float, nargs="*", default=[2, 5, 20, 60])
    parser.add_argument("--barcodes", type=int, nargs="*", default=[1, 10, 100])
    parser.add_argument("--peaks", type=int, nargs="*", default=[50, 100, 300])
    parser.add_argument("--base", type=float, default=2)
    options = parser.parse_args()
    base = round(options.base * 1e6)
    with tempfile.TemporaryDirectory() as name:
        for millions in options.fragments:
            run(f"{millions:g} M fragments", Plan(fragments=round(millions * 1e6)), Path(name))
        for thousands in options.barcodes:
            run(f"{thousands} k barcodes", Plan(fragments=base, background=thousands * 1000), Path(name))
        for thousands in options.peaks:
            run(f"{thousands} k peaks", Plan(fragments=base, peaks=thousands * 1000), Path(name))


if __name__ == "__main__":
    main()
