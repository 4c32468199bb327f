"""What `make run` does after set-up: simulate a mosaic, run the pipeline on it, score the result against the truth."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
BIN = CLONE / ".venv" / "bin"


def call(*command: str | Path) -> None:
    """Run a program of `.venv`; leave with its exit code if it fails."""
    done = subprocess.run([str(part) for part in command], cwd=CLONE, env=os.environ | {"NXF_ANSI_LOG": "false"})
    if done.returncode:
        sys.exit(done.returncode)


def simulated(folder: Path, preset: str) -> Path:
    """Give the folder of the simulated mosaic; made once, and anew when its options change."""
    stamp = folder / "preset.json"
    if not (stamp.is_file() and json.loads(stamp.read_text()) == preset):
        print(f"run: simulate a mosaic in {folder.relative_to(CLONE)}", flush=True)
        call(BIN / "multivi-nf", "simulate", "--outdir", folder, "--preset", preset)
        stamp.write_text(json.dumps(preset) + "\n")
    return folder


def main() -> None:
    """Simulate, run, score, and say where everything is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outdir", type=Path, default=Path("results"))
    parser.add_argument("--preset", default="default")
    given = parser.parse_args()
    started = time.monotonic()
    mosaic = simulated(CLONE / "work" / f"simulated_{given.preset}", given.preset)
    genome = mosaic / "genome"
    outdir = given.outdir.absolute()
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
