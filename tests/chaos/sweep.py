"""Every step, disturbed at random moments, then run again: is anything lost, wrong, unexplained or left lying about?

    python -m tests.chaos.sweep --folder DIR [--moments 20] [--steps train,embed] [--kinds killed,full] [--table FILE]

`make chaos` is the full sweep; its table is docs/chaos.tsv. Needs gcc (faults.c), and root for a small tmpfs as the
full disk. All steps are forked from one process that has imported everything.

killed   SIGKILL at a random time, or at a random call on a file
full     no space left from a random byte or call on
failing  a read, write, open, rename or fsync that returns EIO, once or for good
slow     each such call late by 2 ms
clock    a jump of the clock on the wall
twins    two of the same at once
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import hashlib
import importlib
import mmap
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tests.chaos.steps import Step, add_inputs, chain

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
MODES = {"count": 1, "eio": 2, "eio stays": 3, "full": 4, "kill": 5, "slow": 6, "clock": 7}
KINDS = {"killed": 1.0, "full": 1.0, "failing": 1.0, "clock": 0.25, "slow": 0.05, "twins": 0.15}
"""Of each kind, trials as a share of `--moments`; at least one."""

JUMPS = (86_400, -86_400, 3_600 * 24 * 3_650, -3_600 * 24 * 3_650, -3_601)
HANGS = 120.0
"""Seconds of processor time after which a step counts as hanging, or five times as many on the wall."""

PAGE = 4096
LIBC, REMOUNT = ctypes.CDLL(None, use_errno=True), 32
ROOM = 400 << 20
"""Bytes of the disk while it is not full."""

TIMED = re.compile(rb"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?( UTC)?|Made on [^<]*")
PARTS = ("ERROR: ", "Why it matters: ", "What to do: ")


# -- the process that all others are forked from ------------------------------------------------------------------


def prepared(folder: Path, module: str = "tests.chaos.sweep") -> ctypes.CDLL:
    """Import every step and arm nothing yet; started anew under the shim if it is not loaded."""
    shim = folder / "faults.so"
    if os.environ.get("LD_PRELOAD") != str(shim):
        made = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(shim), str(HERE / "faults.c"), "-ldl"]
        subprocess.run(made, check=True)
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
        path = f"{REPOSITORY / '.venv/bin'}:{os.environ['PATH']}"
        environment = (
            os.environ
            | one
            | {
                "LD_PRELOAD": str(shim),
                "PATH": path,
                "MULTIVI_NF_CHECKPOINT_SECONDS": "0.02",
                "NUMBA_THREADING_LAYER": "workqueue",
            }
        )
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)
    from multivi_nf.commands import STEPS
    from multivi_nf.io.caches import writable_caches

    writable_caches()
    for name in STEPS:
        importlib.import_module(f"multivi_nf.commands.{name.replace('-', '_')}")
    for module in (
        "torch",
        "scanpy",
        "mudata",
        "zarr",
        "umap",
        "multivi_nf.training",
        "multivi_nf.report",
        "multivi_nf.latent",
    ):
        importlib.import_module(module)
    from multivi_nf.latent.annotate import umap_and_clusters

    umap_and_clusters(np.random.default_rng(0).normal(size=(100, 4)), 1.0, 0)  # compiled once for all
    gc.freeze()  # or every child would copy what was imported
    gc.disable()
    return ctypes.CDLL(str(shim))


@dataclass
class Fault:
    """What is done to a step: a mode of faults.c, or SIGKILL after so many seconds."""

    mode: str = ""
    moment: int = 0
    jump: int = 0
    seconds: float | None = None
    room: int | None = None  # bytes of the disk

    def __str__(self) -> str:
        if self.seconds is not None:
            return f"SIGKILL after {self.seconds:.3f} s"
        if self.room is not None:
            return f"{self.room:,} bytes free"
        return f"{self.mode} at call {self.moment}" + (f" by {self.jump} s" if self.jump else "")


@dataclass
class Ended:
    """How a process ended."""

    code: int
    said: str
    calls: int
    looks: int
    writes: int
    struck: bool
    seconds: float


class Disk:
    """A folder `disk` with `world` and `trial`; `trial` is a tmpfs where root may mount one."""

    def __init__(self, folder: Path, shim: ctypes.CDLL, keep: bool = False) -> None:
        self.root = folder / "disk"
        self.world, self.trial = self.root / "world", self.root / "trial"
        self.shim = shim
        self.tmpfs, self.owner = False, os.getpid()
        self.watched, self.memory = self.root, 0  # where calls on files count; bytes of memory, 0: no limit
        if self.trial.is_mount():  # of a sweep that was killed
            subprocess.run(["umount", "-l", self.trial], check=False)
        if keep and (self.world / "made").is_dir():  # what steps made is taken as it is
            return
        shutil.rmtree(self.root, ignore_errors=True)
        for place in (self.world / "made", self.trial):
            place.mkdir(parents=True)
        shutil.copytree(REPOSITORY / "tests/data/mosaic", self.world / "data")
        add_inputs(self.world / "data")

    def __enter__(self) -> Disk:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", self.trial], capture_output=True
        )
        self.tmpfs = mounted.returncode == 0
        return self

    def __exit__(self, *_: object) -> None:
        if self.tmpfs and os.getpid() == self.owner:  # a forked step leaves through here too
            subprocess.run(["umount", "-l", self.trial], check=False)

    def clean(self, step: Step) -> None:
        """Empty the trial's folder and lay out what the step finds."""
        self.resize(None)
        for path in self.trial.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (self.trial / "tmp").mkdir()
        step.set_up(self.trial)

    def resize(self, room: int | None) -> None:
        """Leave so many bytes free on the disk, or plenty."""
        if self.tmpfs:
            used = os.statvfs(self.trial)
            taken = (used.f_blocks - used.f_bfree) * used.f_frsize
            size = ROOM if room is None else taken + max(room, 0)
            wanted = f"size={max(size, PAGE)}".encode()
            if LIBC.mount(b"tmpfs", os.fsencode(self.trial), b"tmpfs", REMOUNT, wanted) != 0:
                raise OSError(ctypes.get_errno(), "the disk cannot be resized")

    def start(self, step: Step, fault: Fault, log: Path) -> tuple[int, mmap.mmap]:
        """Fork a process that runs the step; gives its id and what it shares."""
        shared = mmap.mmap(-1, PAGE)
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid, shared
        try:  # the child: as if the launcher had started it
            os.setsid()
            os.chdir(self.trial)
            handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.environ["TMPDIR"] = str(self.trial / "tmp")
            import tempfile

            tempfile.tempdir = None
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if self.memory:
                resource.setrlimit(resource.RLIMIT_DATA, (self.memory, self.memory))
            sys.argv = ["multivi-nf", *step.arguments()]
            counters = (ctypes.c_long * 8).from_buffer(shared)
            self.shim.chaos_arm(
                MODES.get(fault.mode, 0),
                ctypes.c_long(fault.moment),
                ctypes.c_long(fault.jump),
                os.fsencode(self.watched),
                ctypes.byref(counters),
            )
            from multivi_nf.commands import main

            main()
            sys.stdout.flush()
        except SystemExit as left:
            os._exit(left.code)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)  # to take everything down that was imported would cost more than most steps

    def wait(self, pid: int, shared: mmap.mmap, log: Path, fault: Fault, started: float) -> Ended:
        """Wait for the end of a process, killing it when the fault says so or when it hangs."""
        code, hung = None, False
        while code is None:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                break
            passed = time.monotonic() - started
            hung = passed > HANGS and (passed > 5 * HANGS or processor_seconds(pid) > HANGS)
            if (fault.seconds is not None and passed >= fault.seconds) or hung:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL) if fault.moment % 2 or hung else os.kill(pid, signal.SIGKILL)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                break
            time.sleep(0.002)
        seconds = time.monotonic() - started
        calls, looks, struck, writes = (ctypes.c_long * 4).from_buffer_copy(shared[: 4 * ctypes.sizeof(ctypes.c_long)])
        said = log.read_text(errors="replace")
        return Ended(
            -999 if hung else code, said, calls, looks, writes, bool(struck) or fault.room is not None, seconds
        )

    def run(self, step: Step, fault: Fault | None = None) -> Ended:
        """Run the step to its end."""
        fault = fault or Fault("count")
        log = self.root.parent / "log"
        started = time.monotonic()
        pid, shared = self.start(step, fault, log)
        return self.wait(pid, shared, log, fault, started)


def processor_seconds(pid: int) -> float:
    """What a process has used of the processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- what is right ------------------------------------------------------------------------------------------------


def content(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, without what may differ from run to run (seconds, dates in the report)."""
    found = {}
    for where, folders, names in os.walk(folder):
        for below in (Path(where, name) for name in folders):
            if not any(os.scandir(below)):
                found[f"{below.relative_to(folder)}/"] = ""
        for name in names:
            path = Path(where, name)
            raw = path.read_bytes()
            if name == "history.tsv":
                rows = [line.split(b"\t") for line in raw.splitlines()]
                place = rows[0].index(b"seconds") if rows and b"seconds" in rows[0] else None
                raw = b"\n".join(b"\t".join(row[:place] + row[place + 1 :]) for row in rows) if place else raw
            if name.endswith(".preflight.json"):  # it warns of a disk that is nearly full, with the number
                raw = b"\n".join(line for line in raw.splitlines() if b" GB are free here" not in line)
                raw = re.sub(rb'"warnings": \[\s*\]', b'"warnings": []', raw)
            if name == "run.json":  # what a method cost
                raw = re.sub(rb'"(cpu_seconds|peak_memory|seconds)": [-+.e0-9]+', b"", raw)
            if name == "report.html":
                raw = TIMED.sub(b"", raw)
            found[str(path.relative_to(folder))] = hashlib.sha256(raw).hexdigest()
    return found


def states(folder: Path) -> dict[str, tuple[int, ...]]:
    """Number, size and times of every file below a folder: what no reader changes."""
    found = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = f"{where}/{name}"
            state = os.lstat(path)
            found[path] = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return found


def halves(found: dict[str, str]) -> list[str]:
    """What no finished step leaves: hidden temporary names, and checkpoints."""
    return sorted(name for name in found if re.search(r"(^|/)\.(new|old|probe)-", name))


def message_fault(ended: Ended) -> str:
    """What is wrong with a step's end and its words; empty if nothing is."""
    if ended.code == -999:
        return "hangs"
    if ended.code not in (0, 2):
        return f"code {ended.code}: {ended.said.strip().splitlines()[-1:]}"
    noise = re.search(r"Traceback|Exception ignored|HDF5-DIAG|Segmentation", ended.said)
    if noise:
        return "beside the message: " + ended.said[noise.start() :][:1500]
    if ended.code == 2 and not all(part in ended.said for part in PARTS):
        return "no three parts: " + ended.said.strip()[:300]
    return ""


@dataclass
class Tally:
    """Trials of one step and kind."""

    step: str
    kind: str
    trials: int = 0
    struck: int = 0
    stopped: int = 0  # ended with 2 and a message
    lost: int = 0  # the next run's results differ, or a half had a final name, or an input changed
    unexplained: int = 0
    debris: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def row(self) -> str:
        numbers = (self.trials, self.struck, self.stopped, self.lost, self.unexplained, self.debris)
        return "\t".join([self.step, self.kind, *map(str, numbers)])


COLUMNS = "step\tkind\ttrials\tstruck\tstopped_with_message\tlost\tunexplained\tdebris"


@dataclass
class Judge:
    """Holds what a fault left against a calm run's results."""

    before: dict[str, str]
    """Digests of what lay there before the step, by name."""
    right: dict[str, str]
    """Digests of a calm run's results."""
    scratch: Path
    """Where steps put what they do not keep."""

    def judge(self, tally: Tally, fault: Fault, wrong: str, left: dict[str, str], *, killed: bool, code: int) -> None:
        if wrong:
            tally.unexplained += 1
            tally.notes.append(f"{fault}: {wrong}")
        half = [
            name
            for name, digest in left.items()
            if not halves({name: ""})
            and ".checkpoints/" not in name
            and digest
            and digest not in (self.right.get(name), self.before.get(name))
        ]
        if half or (code == 0 and not killed and self.differ(left)):
            tally.lost += 1
            tally.notes.append(f"{fault}: code {code}, wrong under a final name: {half or self.differ(left)}")
        if not killed and fault.mode != "eio stays":  # such a disk lets nothing be removed either; the next run does
            self.debris(tally, fault, left, "at its end")

    def differ(self, found: dict[str, str]) -> list[str]:
        """Names of results that are missing or wrong."""
        return [name for name, digest in self.right.items() if found.get(name) != digest][:5]

    def debris(self, tally: Tally, fault: Fault, found: dict[str, str], when: str) -> None:
        """Count what does not belong there; a checkpoint belongs to a run that may go on."""
        extra = [name for name in found if name not in self.right and name not in self.before]
        extra = [
            n
            for n in extra
            if halves({n: ""}) or when == "after the next run" or (not n.endswith("/") and ".checkpoints/" not in n)
        ]
        scratch = [path.name for path in self.scratch.iterdir()] if when == "at its end" else []
        if extra or scratch:
            tally.debris += 1
            tally.notes.append(f"{fault}: left {when}: {(extra + scratch)[:5]}")


class Sweep:
    """All trials of one step."""

    def __init__(self, disk: Disk, step: Step, moments: int, seed: int) -> None:
        self.disk, self.step, self.moments = disk, step, moments
        self.chance = random.Random(f"{seed} {step.name}")
        disk.clean(step)
        before = content(disk.trial / "out")
        self.calm = disk.run(step)
        if self.calm.code != 0:
            sys.exit(f"{step.name} left alone ends with {self.calm.code}:\n{self.calm.said}")
        self.held = Judge(before, content(disk.trial / "out"), disk.trial / "tmp")
        cost = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = cost.ru_utime + cost.ru_stime
        print(f"{step.name}: {self.calm.seconds:.2f} s, {self.calm.calls} calls; {spent:.0f} CPU s so far", flush=True)
        self.bytes = sum(path.stat().st_size for path in (disk.trial / "out").rglob("*") if path.is_file())
        kept = disk.world / "made" / step.name
        if not kept.exists():
            shutil.copytree(disk.trial / "out", kept)
        if step.step == "benchmark-split" and not (disk.world / "data/task").is_symlink():
            (disk.world / "data/task").symlink_to(next(path for path in (kept / "splits").iterdir() if path.is_dir()))
        self.inputs = states(disk.world)

    def faults(self, kind: str) -> Iterator[Fault]:
        """The moments of one kind."""
        chance, n = self.chance, max(1, round(self.moments * KINDS[kind]))
        calls, looks = max(self.calm.calls, 1), max(self.calm.looks, 1)
        if kind == "killed":
            for i in range(n):
                if i % 2:
                    yield Fault("kill", chance.randint(1, calls))
                else:
                    yield Fault(moment=chance.randint(0, 1), seconds=chance.uniform(0, self.calm.seconds))
        elif kind == "full":
            pages = max(1, self.bytes // PAGE)
            rooms = sorted({chance.randrange(pages) * PAGE for _ in range(n)}) if self.disk.tmpfs else []
            yield from (Fault(room=room) for room in rooms)
            yield from (Fault("full", chance.randint(1, max(1, self.calm.writes))) for _ in range(n - len(rooms)))
        elif kind == "failing":
            yield from (Fault(("eio", "eio stays")[i % 2], chance.randint(1, calls)) for i in range(n))
        elif kind == "clock":
            yield from (Fault("clock", chance.randint(1, looks), JUMPS[i % len(JUMPS)]) for i in range(n))
        elif kind == "slow":
            yield from (Fault("slow", 1) for _ in range(n))

    def trial(self, kind: str, fault: Fault, tally: Tally) -> None:
        """One disturbed run, what it left, and the next run."""
        self.disk.clean(self.step)
        self.disk.resize(fault.room)
        ended = self.disk.run(self.step, fault)
        self.disk.resize(None)
        tally.trials += 1
        tally.struck += ended.struck or ended.code == -signal.SIGKILL
        killed = kind == "killed"
        wrong = "" if killed and ended.code in (-signal.SIGKILL, 0) else message_fault(ended)
        if kind in ("clock", "slow") and ended.code != 0:
            wrong = wrong or f"code {ended.code}: {ended.said.strip()[:300]}"
        tally.stopped += ended.code == 2 and not wrong
        left = content(self.disk.trial / "out")
        self.held.judge(tally, fault, wrong, left, killed=killed, code=ended.code)
        if ended.code != 0 or killed:
            again = self.disk.run(self.step)
            after = content(self.disk.trial / "out")
            refused = (
                again.code == 2 and self.step.step == "simulate" and not self.held.differ(left)
            )  # it was done already
            if (again.code != 0 and not refused) or self.held.differ(after):
                tally.lost += 1
                tally.notes.append(
                    f"{fault}: the next run: code {again.code}, {self.held.differ(after)} {again.said[-300:]}"
                )
            self.held.debris(tally, fault, after, "after the next run")
        if states(self.disk.world) != self.inputs:
            tally.lost += 1
            tally.notes.append(f"{fault}: an input changed")

    def twins(self, tally: Tally) -> None:
        """Two of the same at once: each ends well or says why, and the result is right."""
        self.disk.clean(self.step)
        logs = [self.disk.root.parent / f"log{i}" for i in range(2)]
        started = time.monotonic()
        both = []
        for i, log in enumerate(logs):
            both.append(self.disk.start(self.step, Fault("count"), log))
            time.sleep(self.chance.uniform(0, self.calm.seconds / 2) if i == 0 else 0)
        ends = [
            self.disk.wait(pid, shared, log, Fault(), started) for (pid, shared), log in zip(both, logs, strict=True)
        ]
        tally.trials += 1
        tally.struck += 1
        for ended in ends:
            if message_fault(ended):
                tally.unexplained += 1
                tally.notes.append(f"one of two: {message_fault(ended)}")
        found = content(self.disk.trial / "out")
        if self.held.differ(found) or all(ended.code for ended in ends):
            tally.lost += 1
            tally.notes.append(f"two at once: {self.held.differ(found)} codes {[ended.code for ended in ends]}")
        self.held.debris(tally, Fault("twins"), found, "after the next run")

    def of(self, kind: str) -> Tally:
        """All trials of one kind."""
        tally, began = Tally(self.step.step, kind), time.monotonic()
        if kind == "twins":
            for _ in range(max(1, round(self.moments * KINDS[kind]))):
                self.twins(tally)
        for fault in self.faults(kind):
            self.trial(kind, fault, tally)
        tally.seconds = time.monotonic() - began
        return tally


def update(table: Path, head: str, rows: list[str], keys: int, order: list[tuple[str, ...]]) -> None:
    """Put rows into a table in the place of those of the same first `keys` columns, and of what is gone."""
    old = table.read_text().splitlines()[1:] if table.is_file() else []
    found = {tuple(row.split("\t")[:keys]): row for row in [*old, *rows]}
    table.write_text("\n".join([head, *(found[key] for key in order if key in found)]) + "\n")


def rows_in_order() -> list[tuple[str, str]]:
    """Step and kind of every row that the table may have; the last is of tests/chaos/nextflow.py."""
    steps = dict.fromkeys(step.step for step in chain())
    return [*((name, kind) for name in steps for kind in KINDS), ("nextflow", "killed")]


def main() -> int:
    """Sweep, print and write the table; 1 if anything was lost, unexplained or left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="scratch, made anew")
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--steps", default="", help="by commas; default: all")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="take what the steps made in this folder before")
    parser.add_argument("--table", type=Path, help="rows of these steps and kinds are written anew, others stay")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = given.folder.resolve()
    shim = prepared(folder)
    wanted = [name for name in given.steps.split(",") if name]
    order = rows_in_order()
    rows, notes, seen = [], [], set()
    with Disk(folder, shim, given.keep) as disk:
        for step in chain():
            if wanted and not set(wanted) - seen:
                break
            made = disk.world / "made" / step.name
            if given.keep and made.is_dir() and (step.step in seen or (wanted and step.step not in wanted)):
                continue
            sweep = Sweep(disk, step, given.moments, given.seed)
            if step.step in seen or (wanted and step.step not in wanted):
                continue
            seen.add(step.step)
            for kind in given.kinds.split(","):
                tally = sweep.of(kind)
                rows.append(tally)
                notes += [f"{tally.step} {kind}: {note}" for note in tally.notes]
                print(tally.row(), f"{tally.seconds:.1f} s", *tally.notes, sep="\n  ", flush=True)
                if given.table:
                    update(given.table, COLUMNS, [tally.row() for tally in rows], 2, order)
    bad = sum(tally.lost + tally.unexplained + tally.debris for tally in rows)
    print(f"{sum(t.trials for t in rows)} trials of {len(seen)} steps: {bad} wrong", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
