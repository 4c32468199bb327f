"""One random moment of every step and kind of trouble; `make chaos` is the whole sweep, docs/chaos.tsv its table."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.chaos.steps import chain
from tests.conftest import skip_or_fail

REPOSITORY = Path(__file__).resolve().parents[2]


def sweep(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("gcc") is None:
        skip_or_fail("no gcc, which makes the disk that fails (tests/chaos/faults.c)")
    command = [sys.executable, "-m", "tests.chaos.sweep", "--folder", str(folder), *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=1200)


def test_a_moment_of_every_step(tmp_path: Path) -> None:
    """In two processes at once: to IMPUTE, and what comes after it."""
    steps = list(dict.fromkeys(step.step for step in chain()))
    cut = steps.index("impute") + 1
    halves = [steps[:cut], steps[cut:]]
    words = ("--moments", "1", "--kinds", "killed,full,failing")
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(sweep, tmp_path / half[0], "--steps", ",".join(half), *words) for half in halves]
    for half, done in zip(halves, (job.result() for job in jobs), strict=True):
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
        assert f"{3 * len(half)} trials of {len(half)} steps: 0 wrong" in done.stdout, done.stdout[-2000:]


NO_LOCKS = "#include <errno.h>\nint flock(int fd, int how) { (void)fd; (void)how; errno = ENOLCK; return -1; }\n"


def test_a_file_server_without_locks(tmp_path: Path) -> None:
    """NFS without its lock service: flock ends with ENOLCK. HDF5 by itself refuses every file there."""
    if shutil.which("gcc") is None:
        skip_or_fail("no gcc, which makes a flock that fails")
    (tmp_path / "locks.c").write_text(NO_LOCKS)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "locks.so", "locks.c"], cwd=tmp_path, check=True)
    environment = os.environ | {"LD_PRELOAD": str(tmp_path / "locks.so")}
    environment.pop("HDF5_USE_FILE_LOCKING", None)
    plain = [sys.executable, "-c", "import h5py; h5py.File('x.h5', 'w')"]
    done = subprocess.run(plain, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "No locks available" in done.stderr, "the negative control"
    matrix = REPOSITORY / "tests/data/mosaic/rna_1/filtered_feature_bc_matrix.h5"
    words = ["qc-rna", matrix, "--sample", "s", "--output", "s.h5ad", "--qc", "qc"]
    done = subprocess.run(
        [REPOSITORY / ".venv/bin/multivi-nf", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s.h5ad").is_file()


@pytest.mark.parametrize("fault", ["half", "code", "debris"])
def test_the_sweep_sees_what_is_wrong(tmp_path: Path, fault: str) -> None:
    """The negative control: a step that leaves a half, ends with a traceback, or leaves a file behind."""
    from tests.chaos.sweep import Ended, Fault, Judge, Tally, message_fault

    one = Judge(before={}, right={"a": "1"}, scratch=tmp_path)
    tally = Tally("x", "full")
    left = {"half": {"a": "2"}, "code": {"a": "1"}, "debris": {"a": "1", ".new-x": "3"}}[fault]
    code = 1 if fault == "code" else 2
    said = "Traceback ..." if fault == "code" else "ERROR: a\n  Why it matters: b\n  What to do: c"
    wrong = message_fault(Ended(code, said, 0, 0, 0, True, 0.0))
    one.judge(tally, Fault(room=1), wrong, left, killed=False, code=code)
    assert (tally.lost, tally.unexplained, tally.debris) == {"half": (1, 0, 0), "code": (0, 1, 0), "debris": (0, 0, 1)}[
        fault
    ]
