"""Results appear whole, at once, and whatever a killed process left is cleared by the next one."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from multivi_nf.errors import InputError
from multivi_nf.io import files, processes
from multivi_nf.io.files import DiskFull, try_to_write, written_whole
from multivi_nf.io.outputs import check_folder

WRITER = """
import os, signal, sys
from pathlib import Path
from multivi_nf.io import files
where, when = Path(sys.argv[1]), sys.argv[2]
if when == "renames":
    files.exchanged = lambda one, other: False
    rename = Path.rename
    def killed(self, target):
        rename(self, target)
        os.kill(os.getpid(), signal.SIGKILL)
    Path.rename = killed
with files.written_whole(where) as temporary:
    temporary.mkdir()
    (temporary / "part").write_text("new")
    if when == "half":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_writer(path: Path, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", WRITER, path, when], check=False)
    assert done.returncode == -signal.SIGKILL


def write(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.mkdir()
        (temporary / "part").write_text(text)


def test_a_folder_changes_places_with_the_one_that_was_there(tmp_path, monkeypatch):
    """At no moment is there nothing under the final name: no rename away from it is ever called."""
    write(tmp_path / "model", "old")
    moved = []
    monkeypatch.setattr(Path, "rename", lambda self, target: moved.append(self))
    write(tmp_path / "model", "new")
    assert (tmp_path / "model/part").read_text() == "new"
    assert moved == [] and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_where_the_file_system_cannot_exchange_a_kill_between_the_renames_is_mended(tmp_path):
    write(tmp_path / "model", "old")
    killed_writer(tmp_path / "model", "renames")
    assert not (tmp_path / "model").exists(), "else this test shows nothing"
    files.sweep(tmp_path / "model")
    assert (tmp_path / "model/part").read_text() == "old"
    write(tmp_path / "model", "new")
    assert (tmp_path / "model/part").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_halves_of_killed_processes_are_swept_and_others_are_not(tmp_path):
    for _ in range(2):
        killed_writer(tmp_path / "x.zarr", "half")
    killed_writer(tmp_path / "other.zarr", "half")
    assert len(list(tmp_path.glob(".*.x.zarr"))) == 1, "each sweeps its predecessor's"
    alive = tmp_path / f".new-{processes.mark()}-77.x.zarr"
    alive.mkdir()
    foreign = tmp_path / ".new-00000000-1-1-0.x.zarr"  # of another machine, which may still be writing
    foreign.mkdir()
    (tmp_path / ".mine.x.zarr").write_text("a user's")
    write(tmp_path / "x.zarr", "whole")
    left = {path.name for path in tmp_path.iterdir() if path.name.endswith("x.zarr")}
    assert left == {"x.zarr", ".mine.x.zarr", alive.name, foreign.name}
    assert len(list(tmp_path.glob(".*.other.zarr"))) == 1
    os.utime(foreign, (0, 0))
    write(tmp_path / "x.zarr", "whole")
    assert not foreign.exists(), "nothing happened in it for an hour"


def test_files_and_folders_are_on_the_disk_before_they_take_their_name(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (calls.append("renamed"), replace(self, target)))
    write(tmp_path / "model", "x")
    renamed = calls.index("renamed")
    synced = [Path(name).name.split(".")[-1] for name in calls[:renamed]]
    assert synced == ["part", "model"], "its file, then itself"
    assert calls[renamed + 1 :] == [str(tmp_path)], "then the folder that holds the name"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        OSError("31552 requested and 19952 written"),
        OSError("Can't synchronously write data (errno = 28, error message = 'No space left on device')"),
    ],
)
def test_a_full_disk_is_told_with_what_was_written_and_what_is_free(tmp_path, error):
    with pytest.raises(DiskFull, match=r"x.h5ad was written: 1,234 bytes were written, [\d,]+ are free"):
        with written_whole(tmp_path / "x.h5ad") as temporary:
            temporary.write_bytes(b"0" * 1234)
            raise error
    assert list(tmp_path.iterdir()) == []


def test_a_bug_stays_a_bug(tmp_path):
    with pytest.raises(ZeroDivisionError), written_whole(tmp_path / "x") as temporary:
        temporary.write_text("x")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_links_and_folders_are_not_replaced_by_a_file(tmp_path):
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "folder").mkdir()
    for name, what in (("link", "a symbolic link to target"), ("folder", "a folder, and a file")):
        with pytest.raises(InputError, match=what), written_whole(tmp_path / name) as temporary:
            temporary.write_text("x")
    assert (tmp_path / "target").read_text() == "precious" and (tmp_path / "link").is_symlink()


def test_the_longest_name_that_there_is_can_be_written(tmp_path):
    name = "a" * 250 + ".json"
    with written_whole(tmp_path / name) as temporary:
        temporary.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_mount_point_is_known_before_the_work(monkeypatch, tmp_path):
    """Nothing can be renamed to it (EBUSY): a volume of a container, a disk, a single file that is mounted."""
    assert "a mount point" in files.not_replaceable(Path("/proc"), True)
    assert files.not_replaceable(Path("/proc/self"), True).startswith("a symbolic link")
    place = tmp_path / "a volume"
    place.mkdir()
    assert files.not_replaceable(place, True) == ""
    table = f"29 1 0:26 / {str(place).replace(' ', chr(92) + '040')} rw - tmpfs tmpfs rw\n".encode()
    monkeypatch.setattr(Path, "read_bytes", lambda path: table)
    assert "a mount point" in files.not_replaceable(place, True)
    with pytest.raises(InputError, match=r"a mount point.*\n.*\n.*a volume/result"):
        check_folder(place, None)
    entered = False
    with pytest.raises(InputError, match="a mount point"), written_whole(place) as temporary:
        temporary.mkdir()
        entered = True
    assert entered and list(tmp_path.iterdir()) == [place]


def test_a_try_to_write_takes_away_what_another_left_and_nothing_else(tmp_path):
    """A disk that let nothing be removed leaves a probe; a larger file of such a name, or another name, is not ours."""
    import resource

    left, mine, own = tmp_path / f".probe-{'a' * 32}", tmp_path / f".probe-{'b' * 32}", tmp_path / ".probe-notes"
    left.write_bytes(b"x")
    mine.write_text("my notes")
    own.touch()
    (tmp_path / f".probe-{'c' * 32}").symlink_to(mine)
    for content in (b"", b"x"):
        try_to_write(tmp_path, content)
        assert {path.name for path in tmp_path.iterdir()} == {mine.name, own.name, f".probe-{'c' * 32}"}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            try_to_write(tmp_path, b"x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(OSError):
        try_to_write(tmp_path / "none")


def test_what_a_thread_writes_after_the_error_is_removed_too(tmp_path, monkeypatch):
    """zarr's threads go on for a moment, and make the folder anew."""
    threads: list[threading.Thread] = []
    monkeypatch.setattr(
        files.time, "sleep", lambda _: threads[0].join()
    )  # it comes in between, however busy the machine

    def late(folder) -> None:
        deadline = time.monotonic() + 30
        while folder.exists() and time.monotonic() < deadline:
            pass
        with contextlib.suppress(OSError):  # removed under its hands once more
            (folder / "uns").mkdir(parents=True)
            (folder / "uns/.zgroup").touch()

    with pytest.raises(ValueError, match="x"), written_whole(tmp_path / "r.zarr") as temporary:
        (temporary / "X").mkdir(parents=True)
        threads.append(threading.Thread(target=late, args=(temporary,)))
        threads[0].start()
        raise ValueError("x")
    threads[0].join()
    assert list(tmp_path.iterdir()) == []
