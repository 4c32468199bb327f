"""CPU seconds, wall and peak memory of one pass (quality and matrix) against decompression alone and SnapATAC2.

    python -m benchmarks.speed.fragments_speed [--fragments 20000000] [--data DIR] [--peer PYTHON] [--repeats 2]

PYTHON is that of an environment with snapatac2 2.9; without it the peer is left out. Every run is a process of its own,
imports included; the floor is `python -m isal.igzip -dc`. Times are the least of the repeats.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from multivi_nf.testing.fragments_made import Plan, generate

SNAPATAC = "benchmarks.peers.fragments_snapatac"
"""Run by the peer's Python."""


def cost(command: list[str], repeats: int) -> dict[str, float]:
    """Run a command and give the least CPU seconds and wall seconds and the largest peak memory (MB)."""
    runs = []
    # as installed: Python's own compiled modules are kept, so that the first run writes what the others read
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(repeats):
        started = time.monotonic()
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere, env=environment)
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{command} failed with {process.returncode}")
        runs.append((used.ru_utime + used.ru_stime, time.monotonic() - started, used.ru_maxrss / 1024))
    cpu, wall, memory = zip(*runs)
    return {"cpu": min(cpu), "wall": min(wall), "memory": max(memory)}


def one_pass(folder: Path) -> None:
    """Do what is timed: quality of every barcode and the matrix of the cells, in one pass."""
    from multivi_nf.fragments.count import scan
    from multivi_nf.inputs.genome import load_genome
    from multivi_nf.inputs.intervals import read_bed

    genome = load_genome("hg38", tss=folder / "tss.bed", blacklist=folder / "blacklist.bed")
    cells = (folder / "barcodes.txt").read_text().split()
    found = scan(folder / "fragments.tsv.gz", genome, barcodes=cells, peaks=read_bed(folder / "peaks.bed"))
    print(len(found.table), found.matrix.nnz)


def simulated(data: Path, options: argparse.Namespace, style: str) -> Path:
    """Give the folder of a simulation, made if it is not there."""
    folder = data / f"{options.fragments}_{style}"
    if not (folder / "truth.npz").exists():
        generate(Plan(fragments=options.fragments, barcode_style=style), folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fragments", type=int, default=20_000_000)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "multivi_nf_fragments")
    parser.add_argument("--peer", help="python of an environment with snapatac2")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        one_pass(options.one)
        return
    rows: dict[str, dict[str, float]] = {}

    def measure(name: str, command: list[str], repeats: int) -> None:
        row = rows[name] = cost(command, repeats)
        print(f"{name:28s} {row['cpu']:8.2f} CPU s {row['wall']:8.2f} s {row['memory']:8.0f} MB", flush=True)

    one = [sys.executable, "-m", "benchmarks.speed.fragments_speed", "--one"]
    folder = simulated(options.data, options, "10x")
    other = simulated(options.data, options, "any")
    measure("multivi-nf, first", [*one, str(folder)], 1)  # compiles kernels into numba's cache, if they are not
    for name, where in (("10x barcodes", folder), ("any barcodes", other)):
        floor = [sys.executable, "-m", "isal.igzip", "-dc", str(where / "fragments.tsv.gz")]
        measure(f"igzip -dc, {name}", floor, options.repeats)
        measure(f"multivi-nf, {name}", [*one, str(where)], options.repeats)
    if options.peer:
        with tempfile.TemporaryDirectory() as scratch:
            command = [options.peer, "-m", SNAPATAC, str(folder), f"{scratch}/peer.npz"]
            measure("SnapATAC2, 10x barcodes", command, 1)
    print(f"{options.fragments} fragments; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name in ("10x barcodes", "any barcodes"):
        ratio = rows[f"multivi-nf, {name}"]["cpu"] / rows[f"igzip -dc, {name}"]["cpu"]
        print(f"CPU over decompression alone, {name}: {ratio:.2f}")
    if options.peer:
        own, peer = rows["multivi-nf, 10x barcodes"], rows["SnapATAC2, 10x barcodes"]
        ratios = {what: peer[what] / own[what] for what in ("cpu", "memory")}
        print(f"SnapATAC2 over multivi-nf: CPU {ratios['cpu']:.1f}, memory {ratios['memory']:.1f}")


if __name__ == "__main__":
    main()
