"""Nextflow killed at random moments of a run, each time resumed: do the results come out whole, and is nothing left?

    python -m tests.chaos.nextflow --folder DIR [--kills 20] [--table docs/chaos.tsv]

Runs are stubs, whose tasks cost nothing: what is tried is Nextflow itself, its cache, publishing and the outdir's lock.
SIGKILL goes in turn to Nextflow alone, whose tasks live on, and to all its processes, as if the machine had
gone down. The row `nextflow` of the table is written.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.chaos.sweep import COLUMNS, PARTS, Tally, content, rows_in_order, update

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = REPOSITORY / ".venv/bin/nextflow"
OWN = re.compile(r"pipeline_info/|report\.html$|manifest\.tsv$|multiqc/")
"""What tells of its own time, or of the files that do."""


def results(folder: Path) -> dict[str, str]:
    """Digest of every result; of what tells of its own time only that it is there."""
    found = content(folder)
    return {
        name: "" if OWN.search(name) else digest
        for name, digest in found.items()
        if not re.search(r"pipeline_info/(execution|pipeline_dag|resources)", name)
    }


def start(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start the pipeline's stubs in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(PROGRAM), "run", str(REPOSITORY), "-profile", "test", "-stub-run", "--outdir", "out", *more]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"NXF_ANSI_LOG": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[bytes], *, all_of_it: bool) -> None:
    """End Nextflow, or it and its tasks, at once."""
    (os.killpg if all_of_it else os.kill)(process.pid, signal.SIGKILL)
    process.wait()


def said(folder: Path) -> str:
    """What a run told."""
    return (folder / "log").read_text(errors="replace")


def trials(folder: Path, kills: int, seed: int) -> Tally:
    """Kill so many runs, each the resumed one of the one before, until one ends; then begin anew."""
    tally, chance = Tally("nextflow", "killed"), random.Random(seed)
    began = time.monotonic()
    if start(folder / "calm").wait() != 0:
        sys.exit(f"the run left alone fails:\n{said(folder / 'calm')[-2000:]}")
    seconds = time.monotonic() - began
    right = results(folder / "calm/out")
    print(f"left alone: {seconds:.0f} s, {len(right)} results", flush=True)
    place, resumed = folder / "killed", False
    for number in range(kills):
        process = start(place, *["-resume"] * resumed)
        tally.trials += 1
        moment = chance.uniform(0.05, 1) * seconds
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            kill(process, all_of_it=bool(number % 2))
            tally.struck += 1
            resumed = True
            print(f"{number}: killed after {moment:.1f} s", flush=True)
            continue
        judge(tally, place, process.returncode, right, f"{number}")
        shutil.rmtree(place)
        resumed = False
    if resumed:
        judge(tally, place, start(place, "-resume").wait(), right, "the last")
    return tally


def judge(tally: Tally, place: Path, code: int, right: dict[str, str], name: str) -> None:
    """Count what is wrong with a run that ended by itself."""
    told = said(place)
    if code != 0:
        tally.unexplained += 1
        whole = all(part in told for part in PARTS)
        tally.notes.append(f"run {name}: code {code}, {'three parts' if whole else 'no message'}: {told[-600:]}")
        return
    found = results(place / "out")
    wrong = [path for path in right if found.get(path) != right[path]]
    extra = [path for path in found if path not in right]
    tally.lost += bool(wrong)
    tally.debris += bool(extra)
    if wrong or extra:
        tally.notes.append(f"run {name}: wrong {wrong[:5]}, left {extra[:5]}")


def main() -> int:
    """Kill, resume, tell and write the row; 1 if anything was lost, unexplained or left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="scratch, made anew")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    tally = trials(given.folder.resolve(), given.kills, given.seed)
    print(tally.row(), *tally.notes, sep="\n  ", flush=True)
    if given.table:
        update(given.table, COLUMNS, [tally.row()], 2, rows_in_order())
    return 1 if tally.lost + tally.unexplained + tally.debris else 0


if __name__ == "__main__":
    sys.exit(main())
