"""How many threads a step may use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from multivi_nf.io import processors
from multivi_nf.io.processors import control_groups, memory_left, threads_at_most, threads_given


@pytest.mark.parametrize(("named", "expected"), [("3", 3), ("0", 2), ("many", 2), (None, 2)])
def test_what_was_given_wins(monkeypatch, named, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(2)))
    monkeypatch.setattr(processors, "_quota", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if named is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", named)
    assert threads_given() == expected


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        ({"a/b/cpu.max": "250000 100000", "a/cpu.max": "max 100000", "cpu.max": "max 100000"}, "0::/a/b", 2),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, "0::/a/b", 1),
        ({"cpu.max": "50000 100000"}, "0::/../elsewhere", 1),
        ({"cpu,acct/x/cpu.cfs_quota_us": "400000", "cpu,acct/x/cpu.cfs_period_us": "100000"}, "3:cpu,acct:/x\n0::/", 4),
        ({"cpu,acct/x/cpu.cfs_quota_us": "-1", "cpu,acct/x/cpu.cfs_period_us": "100000"}, "3:cpu,acct:/x", 1 << 16),
        ({"a/cpu.max": "nonsense"}, "0::/a", 1 << 16),
    ],
)
def test_the_tightest_quota_of_the_groups_above_counts(tmp_path, files, own, expected):
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text + "\n")
    (tmp_path / "own").write_text(own + "\n")
    assert processors._quota(tmp_path / "root", tmp_path / "own") == expected


def test_without_control_groups_there_is_only_the_root(tmp_path):
    assert control_groups("memory", tmp_path, tmp_path / "absent") == [tmp_path]


def test_memory_that_the_groups_leave(tmp_path):
    def group(name, **files):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (tmp_path / name / file.replace("__", ".")).write_text(f"{text}\n")

    (tmp_path / "own").write_text("0::/a/b\n")
    group(".", memory__max="max", memory__current=10**9, memory__stat="inactive_file 0")
    assert memory_left(tmp_path, tmp_path / "own") is None
    group("a", memory__max=5 * 10**9, memory__current=4 * 10**9, memory__stat="anon 1\ninactive_file 500")
    group("a/b", memory__max=9 * 10**9, memory__current=10**9, memory__stat="inactive_file 0")
    assert memory_left(tmp_path, tmp_path / "own") == 10**9 + 500
    group("a", memory__max=3 * 10**9)
    assert memory_left(tmp_path, tmp_path / "own") == 0
    (tmp_path / "own").write_text("9:memory:/x\n")
    group("memory/x", memory__limit_in_bytes=100, memory__usage_in_bytes=30, memory__stat="total_inactive_file 5")
    group("memory", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=1, memory__stat="total_inactive_file 0")
    assert memory_left(tmp_path, tmp_path / "own") == 75


def test_threads_are_limited_and_given_back():
    import numba
    import threadpoolctl
    from scipy.io._fast_matrix_market import _fmm_core  # noqa: F401  # its pool stands at 0, all processors

    def now():
        pools = threadpoolctl.threadpool_info()
        return {"numba": numba.get_num_threads()} | {pool["filepath"]: pool["num_threads"] for pool in pools}

    with threads_at_most(1):  # numba loads its own pool of threads when they are first set
        pass
    before = now()
    assert before["numba"] >= 1 and 0 in before.values(), before
    with threads_at_most(1):
        assert set(now().values()) == {1}
        with threads_at_most(8):
            assert set(now().values()) == {1}, "a limit within a limit does not lift it"
    assert now() == before


def test_torch_has_its_threads_again_after_numba_made_its_own():
    code = (
        "import torch, numba\n"
        "from multivi_nf.io.processors import threads_at_most\n"
        "with threads_at_most(1): pass\n"
        "print(torch.get_num_threads())"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n", "numba's pool and torch's are one library's, and the former starts with 2"
