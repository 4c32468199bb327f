"""Recall and precision of called and merged peaks on simulated fragments whose peaks are known.

    python -m benchmarks.quality.peaks_recall [--fragments 20000000] [--data DIR] [--group-only]

MACS3 is called on all cells together and by type (as `--peak_group` does), merged to 501 bp. A peak is found if a true
summit lies in it. The rare type, 3 % of the cells, has 1,000 peaks of its own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks.speed.fragments_speed import simulated

from multivi_nf.inputs.genome import load_genome
from multivi_nf.inputs.intervals import read_bed
from multivi_nf.peaks import call_peaks, merge_peaks, read_groups, read_summits, write_summits
from multivi_nf.testing.fragments_made import read_truth


def met(points, chroms, peaks) -> np.ndarray:
    """Whether each (chrom, point) lies in one of the disjoint, sorted peaks."""
    inside = np.zeros(len(points), bool)
    for chrom, group in peaks.groupby("chrom", sort=False):
        mine = np.flatnonzero(chroms == chrom)
        at = np.searchsorted(group["start"].to_numpy(), points[mine], side="right") - 1
        inside[mine] = (at >= 0) & (points[mine] < group["end"].to_numpy()[at])
    return inside


def judge(name: str, summits, genome, true, rare, scratch: Path) -> None:
    """Merge summits and print how they compare with the truth."""
    write_summits(scratch / "s.bed", summits)
    called = merge_peaks([read_summits(scratch / "s.bed")], genome)
    middle = ((true["start"] + true["end"]) // 2).to_numpy()
    # peaks on the blacklist cannot be found on purpose
    usable = ~met(middle, true["chrom"].to_numpy(), genome.blacklist)
    found = met(middle, true["chrom"].to_numpy(), called)
    called_middle = ((called["start"] + called["end"]) // 2).to_numpy()
    right = met(called_middle, called["chrom"].to_numpy(), true)
    own = np.zeros(len(true), bool)
    own[rare] = True
    print(
        f"{name}: {len(called)} peaks, recall {found[usable].mean():.3f}, precision {right.mean():.4f}, "
        f"recall of the rare type's own {found[usable & own].mean():.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fragments", type=int, default=20_000_000)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "multivi_nf_fragments")
    parser.add_argument("--group-only", action="store_true")
    options = parser.parse_args()
    folder = simulated(options.data, options, "10x")
    genome = load_genome("hg38", blacklist=folder / "blacklist.bed")
    true = read_bed(folder / "peaks.bed")
    rare = read_truth(folder)[0]["rare_own"]
    groups = read_groups(folder / "groups.tsv")
    ways = {"by type": groups} if options.group_only else {"all cells": dict.fromkeys(groups, "all"), "by type": groups}
    with tempfile.TemporaryDirectory() as name:
        for way, chosen in ways.items():
            started = time.monotonic()
            summits = call_peaks([(folder / "fragments.tsv.gz", chosen)], genome)
            judge(f"{way} ({time.monotonic() - started:.0f} s)", summits, genome, true, rare, Path(name))


if __name__ == "__main__":
    main()
