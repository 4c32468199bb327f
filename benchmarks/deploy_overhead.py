"""What Nextflow costs: wall time of `-profile test,podman` against the same commands without Nextflow.

    python benchmarks/deploy_overhead.py [--repeats 3] [--profile podman]

Runs the pipeline on the simulated mosaic of tests/data, then the tasks of that run again: each task's own `.command.sh`
in its own image by a bare `podman run`, started as soon as the tasks whose files it reads are done, with as many
processors in use as the local executor gave. The two take turns, so that a machine with other work disturbs both alike.
The model is trained for two epochs: steps that run long would hide what Nextflow costs. Prints both medians and the
ratio. The images must be there (`make images`).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = ["--max_epochs", "2"]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
SAYING_WHY = QUIET | {"stderr": subprocess.PIPE, "text": True}


@dataclass(frozen=True)
class Task:
    """One task of a finished run: its folder, what it waits for, and what it takes."""

    work: Path
    needs: frozenset[Path]
    cpus: int
    image: str | None
    environment: tuple[str, ...]


def pipeline(folder: Path, profile: str) -> float:
    """Wall seconds of one run of the pipeline, JVM and all."""
    started = time.monotonic()
    subprocess.run(
        [
            REPOSITORY / ".venv/bin/nextflow",
            "run",
            REPOSITORY,
            "-profile",
            profile,
            "--outdir",
            folder / "results",
            *SMALL,
        ],
        cwd=folder,
        env=os.environ | {"NXF_ANSI_LOG": "false"},
        check=True,
        **QUIET,
    )
    return time.monotonic() - started


def read_tasks(folder: Path) -> list[Task]:
    """Tasks of a finished run; a task needs those whose folders its inputs link into."""
    (trace,) = folder.glob("results/pipeline_info/execution_trace_*.txt")
    header, *rows = (line.split("\t") for line in trace.read_text().splitlines())
    tasks = []
    for row in rows:
        short = row[header.index("hash")]
        (work,) = folder.glob(f"work/{short}*")
        script = (work / ".command.run").read_text()
        links = (path.resolve() for path in work.rglob("*") if path.is_symlink())
        depth = len((folder / "work").parts) + 2
        inside = {Path(*link.parts[:depth]) for link in links if link.is_relative_to(folder / "work")}
        image = re.search(r"([\w./:-]+/multivi-nf-\w+:[\w.]+)", script)
        cpus = re.search(r"OMP_NUM_THREADS=(\d+)", (work / ".command.sh").read_text())
        environment = re.findall(r'^export (MULTIVI_NF_VERSION="?[^"\n]+)', script, re.MULTILINE)
        tasks.append(
            Task(
                work,
                frozenset(inside - {work}),
                int(cpus[1]) if cpus else 1,
                image[1] if image else None,
                tuple(environment),
            )
        )
    return tasks


def start(task: Task, folder: Path) -> subprocess.Popen:
    """Start a task's command as Nextflow wrote it, without Nextflow."""
    inner = f"export PATH={REPOSITORY}/bin:$PATH; cd '{task.work}' && exec bash -e -u -o pipefail .command.sh"
    if task.image is None:
        return subprocess.Popen(["bash", "-c", inner], **SAYING_WHY)
    mounts = [word for place in {folder, REPOSITORY} for word in ("-v", f"{place}:{place}")]
    variables = [word for value in task.environment for word in ("-e", value.replace('"', ""))]
    options = ["--rm", "--network", "none", "-u", f"{os.getuid()}:{os.getgid()}", *mounts, *variables]
    return subprocess.Popen(["podman", "run", *options, task.image, "bash", "-c", inner], **SAYING_WHY)


def remove_outputs(work: Path) -> None:
    """Leave a task's folder as Nextflow hands it over: steps refuse to write over what is there."""
    for path in work.iterdir():
        staged = path.is_symlink() or any(inside.is_symlink() for inside in path.rglob("*"))
        if path.name.startswith(".command") or staged:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def by_hand(tasks: list[Task], folder: Path, cpus: int) -> float:
    """Wall seconds of the same commands, each started when what it reads is there and processors are free."""
    for task in tasks:
        remove_outputs(task.work)
    waiting, running, done = list(tasks), {}, set()
    started = time.monotonic()
    while waiting or running:
        for process in [process for process in running if process.poll() is not None]:
            task = running.pop(process)
            if process.returncode != 0:
                msg = f"{task.work}: exit {process.returncode}: {process.stderr.read()[-1000:]}"
                raise RuntimeError(msg)
            done.add(task.work)
        free = cpus - sum(task.cpus for task in running.values())
        for task in [task for task in waiting if task.needs <= done]:
            if min(task.cpus, cpus) <= free:
                running[start(task, folder)] = task
                waiting.remove(task)
                free -= task.cpus
        time.sleep(0.02)
    return time.monotonic() - started


def main() -> None:
    """Print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", default="podman", help="engine, or `local` for no container")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        walls, hand = [], []
        for index in range(options.repeats):
            folder = Path(name) / str(index)
            folder.mkdir()
            walls.append(pipeline(folder, f"test,{options.profile}"))
            tasks = read_tasks(folder)
            hand.append(by_hand(tasks, folder, os.cpu_count() or 1))
            print(f"turn {index + 1}: pipeline {walls[-1]:.1f} s, commands {hand[-1]:.1f} s", flush=True)
    one, other = statistics.median(walls), statistics.median(hand)
    print(f"pipeline  {one:6.1f} s   ({', '.join(f'{value:.1f}' for value in walls)})")
    print(f"commands  {other:6.1f} s   ({', '.join(f'{value:.1f}' for value in hand)})")
    machine = f"{len(tasks)} tasks, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"
    print(f"overhead  {100 * (one / other - 1):.0f} %   ({machine})")


if __name__ == "__main__":
    main()
