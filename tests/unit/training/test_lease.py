from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from multivi_nf.errors import InputError, Interrupted
from multivi_nf.training.checkpoint.lease import Owner, make_writable

BEAT, STALE = 0.05, 0.6
LIVING = 3.0
"""Longer than a machine with too much to do keeps the heart of a living owner from beating."""


def owner(folder: Path, lines: list[str] | None = None, stale: float = LIVING) -> Owner:
    return Owner(folder, (lines if lines is not None else []).append, beat=BEAT, stale=stale)


def elsewhere(path: Path) -> None:
    """Make a token look like another machine's, so that only its heartbeat tells whether it lives."""
    content = json.loads(path.read_text())
    content["host"] = "elsewhere"
    path.write_text(json.dumps(content))


def test_a_second_run_waits_for_a_living_owner(tmp_path):
    first = owner(tmp_path).acquire()
    lines: list[str] = []
    second = owner(tmp_path, lines)
    thread = threading.Thread(target=second.acquire)
    thread.start()
    time.sleep(LIVING + 0.5)  # one that showed no life would be replaced by now
    assert thread.is_alive() and first.wanted() and not first.lost
    assert any("in use by" in line for line in lines)
    first.release()
    thread.join(10)
    assert not thread.is_alive() and not second.lost
    second.release()
    assert not list(tmp_path.iterdir())


def test_a_stale_owner_is_replaced_and_stops_when_it_wakes(tmp_path):
    first = owner(tmp_path).acquire()
    first._stop.set()  # its heart stops, as if the process were frozen
    first._thread.join()
    elsewhere(next(tmp_path.glob("owner-*.json")))
    started = time.monotonic()
    second = owner(tmp_path, stale=STALE).acquire()
    assert time.monotonic() - started >= STALE
    with pytest.raises(Interrupted, match="took over"):
        first.check()
    second.check()
    first.release()
    second.check()
    second.release()


def test_a_lost_owner_notices_by_itself(tmp_path):
    first = owner(tmp_path).acquire()
    (tmp_path / "owner-000002.json").write_text("{}")
    deadline = time.monotonic() + 60
    while not first.lost and time.monotonic() < deadline:
        time.sleep(0.02)
    assert first.lost


def test_a_killed_process_of_this_machine_is_replaced_at_once(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from multivi_nf.training.checkpoint.lease import Owner\n"
        "Owner(Path(sys.argv[1])).acquire(); print('mine', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "mine\n"
    os.kill(child.pid, signal.SIGKILL)
    started = time.monotonic()
    time.sleep(0.1)  # not yet waited for: it is a zombie, and dead all the same
    Owner(tmp_path, lambda _: None).acquire().release()
    assert time.monotonic() - started < 20
    child.wait()
    child.stdout.close()


def test_of_many_newcomers_one_wins(tmp_path):
    inside, most = [0], [0]
    lock = threading.Lock()

    def visit() -> None:
        mine = owner(tmp_path).acquire()
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        with lock:
            inside[0] -= 1
        mine.release()

    threads = [threading.Thread(target=visit) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most[0] == 1


def test_waiting_can_be_interrupted(tmp_path):
    first = owner(tmp_path).acquire()
    with pytest.raises(Interrupted, match="while waiting"):
        owner(tmp_path).acquire(lambda: True)
    first.release()
    assert not list(tmp_path.iterdir())


def test_a_site_sets_times_by_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIVI_NF_STALE_SECONDS", "0.3")
    mine = Owner(tmp_path)
    assert (mine.stale, mine.beat) == (0.3, pytest.approx(0.1))
    monkeypatch.setenv("MULTIVI_NF_STALE_SECONDS", "soon")
    with pytest.raises(InputError, match="MULTIVI_NF_STALE_SECONDS is 'soon'"):
        Owner(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        make_writable(tmp_path / "file")
