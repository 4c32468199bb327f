"""What `make run` does after set-up: simulate a mosaic, run the pipeline on it, score the result against the truth."""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from multivi_nf import __version__

CLONE = Path(__file__).absolute().parents[1]  # as it was called: paths that `-resume` finds again
BIN = CLONE / ".venv" / "bin"


def call(*command: str | Path) -> None:
    """Run a program of `.venv`; leave with its exit code if it fails."""
    done = subprocess.run([str(part) for part in command], cwd=CLONE, env=os.environ | {"NXF_ANSI_LOG": "false"})
    if done.returncode:
        sys.exit(done.returncode)


SMALL = ("--preset", "default", "--cells", "500", "--genes", "500", "--peaks", "3000", "--no-fragments")
"""Of the benchmark's cells: five experiments with every method in a quarter of an hour."""

METHODS = ",".join(
    "multivi-nf scvi-multivi totalvi cobolt seurat-activity seurat-imputed seurat-wnn mofa wnn ridge pca-knn depth "
    "ceiling".split()
)
"""All but the variants of ours."""


def simulated(folder: Path, options: tuple[str, ...]) -> Path:
    """Give the folder of the simulated mosaic; made once, and anew when its options or the version change."""
    stamp, wanted = folder / "preset.json", [__version__, *options]
    if not (stamp.is_file() and json.loads(stamp.read_text()) == wanted):
        if (folder / "truth").is_dir() and (folder / "samplesheet.csv").is_file():  # a mosaic of another version
            shutil.rmtree(folder)
        print(f"run: simulate a mosaic in {folder.relative_to(CLONE)}", flush=True)
        call(BIN / "multivi-nf", "simulate", "--outdir", folder, *options)
        stamp.write_text(json.dumps(wanted) + "\n")
    return folder


def labelled(mosaic: Path) -> Path:
    """Give a samplesheet whose column `cells` tells each cell's true type, for experiments that are scored by it."""
    with gzip.open(mosaic / "truth" / "cells.tsv.gz", "rt", encoding="utf-8", newline="") as lines:
        types = {row["cell"]: row["cell_type"] for row in csv.DictReader(lines, delimiter="\t")}
    with (mosaic / "samplesheet.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        table = mosaic / "types" / f"{row['sample']}.tsv"
        table.parent.mkdir(exist_ok=True)
        own = {cell.split(":", 1)[1]: name for cell, name in types.items() if cell.split(":", 1)[0] == row["sample"]}
        table.write_text("barcode\tcell_type\n" + "".join(f"{cell}\t{name}\n" for cell, name in own.items()))
        row["cells"] = str(table.relative_to(mosaic))
    sheet = mosaic / "labelled.csv"
    with sheet.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return sheet


def benchmark(mosaic: Path, outdir: Path, given: argparse.Namespace) -> None:
    """All five experiments, small: one seed, two rates, and every method that is here."""
    genome = mosaic / "genome"
    call(
        *(BIN / "nextflow", "run", CLONE, "--workflow", "benchmark", "--input", labelled(mosaic), "--outdir", outdir),
        *("--chrom_sizes", genome / "chrom.sizes", "--gtf", genome / "genes.gtf", "--peak_source", "samples"),
        *("--labels", "cell_type", "--seeds", "0", "--unpaired_rates", "25,75", "--most_types", "1"),
        *("--methods", given.methods, "-c", CLONE / "conf" / "benchmark_small.config"),
        *(["-resume"] if given.resume else []),
    )
    print(f"\nrun: the page is {outdir / 'benchmark' / 'benchmark.html'}", flush=True)


def main() -> None:
    """Simulate, run, score, and say where everything is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outdir", type=Path, default=Path("results"))
    parser.add_argument("--preset", default="default")
    parser.add_argument("--workflow", choices=["reprocess", "benchmark"], default="reprocess")
    parser.add_argument("--methods", default=METHODS, help="of the benchmark")
    parser.add_argument("--resume", action="store_true", help="the benchmark goes on where the last run was stopped")
    given = parser.parse_args()
    started = time.monotonic()
    outdir = given.outdir.absolute()
    if given.workflow == "benchmark":
        benchmark(simulated(CLONE / "work" / "simulated_benchmark", SMALL), outdir, given)
        return
    mosaic = simulated(CLONE / "work" / f"simulated_{given.preset}", ("--preset", given.preset))
    genome = mosaic / "genome"
    call(
        *(BIN / "nextflow", "run", CLONE, "--input", mosaic / "samplesheet.csv", "--outdir", outdir),
        *(
            "--chrom_sizes",
            genome / "chrom.sizes",
            "--tss",
            genome / "tss.bed",
            "--blacklist",
            genome / "blacklist.bed",
        ),
        *("--peak_source", "samples", "--contrasts", mosaic / "contrasts.csv"),
    )
    print("\nrun: scores against the simulation's truth", flush=True)
    call(
        *(BIN / "multivi-nf", "evaluate", "--mosaic", outdir / "multivi.h5mu", "--truth", mosaic / "truth"),
        *("--model", outdir / "model", "--imputed", outdir / "imputed" / "rna.zarr"),
        *("--output", outdir / "evaluation.json"),
    )
    print(
        f"\nrun: finished in {time.monotonic() - started:.0f} s\nrun: the report is {outdir / 'report.html'}",
        flush=True,
    )


if __name__ == "__main__":
    main()
