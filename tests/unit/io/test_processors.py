"""How many threads a step may use."""

from __future__ import annotations

import os

import pytest

from multivi_nf.io import processors
from multivi_nf.io.processors import control_groups, threads_given


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
)  # fmt: skip
def test_the_tightest_quota_of_the_groups_above_counts(tmp_path, files, own, expected):
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text + "\n")
    (tmp_path / "own").write_text(own + "\n")
    assert processors._quota(tmp_path / "root", tmp_path / "own") == expected


def test_without_control_groups_there_is_only_the_root(tmp_path):
    assert control_groups("memory", tmp_path, tmp_path / "absent") == [tmp_path]
