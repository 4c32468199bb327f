"""One owner of a checkpoint folder at a time.

A run that was killed may still be alive somewhere: an orphan after its scheduler died, or a process that is slow to
save. Two writers in one folder would mix two histories. The owner holds a numbered token file and changes it every few
seconds; a newcomer waits while it changes, takes a higher number when it has stood still, and whoever finds a higher
number than its own stops.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multivi_nf.errors import InputError, Interrupted, option
from multivi_nf.io.files import try_to_write
from multivi_nf.io.processes import boot, namespace, started

BEAT = 5.0
"""Seconds between two signs of life."""

STALE = 60.0
"""Seconds without a sign of life after which an owner counts as dead."""

_WIDTH = 1024


class Owner:
    """The right to write into a checkpoint folder.

    Parameters
    ----------
    folder
        The checkpoint folder; made if missing.
    say
        Called with one line for the log.
    beat, stale
        Seconds between signs of life, and without them until an owner counts as dead.
    """

    def __init__(
        self, folder: Path, say: Callable[[str], None] = print, *, beat: float = BEAT, stale: float = STALE
    ) -> None:
        self.folder = Path(folder)
        self.say = say
        self.stale = seconds_from_environment("MULTIVI_NF_STALE_SECONDS", stale)
        self.beat = min(beat, self.stale / 3)
        self.token = uuid.uuid4().hex
        self.number = 0
        self.lost = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._counter = 0

    def acquire(self, interrupted: Callable[[], bool] = lambda: False) -> Owner:
        """Wait until no living owner is left, then own the folder.

        Parameters
        ----------
        interrupted
            Asked while waiting; true ends the wait with :class:`Interrupted`.
        """
        make_writable(self.folder)
        seen: dict[str, Any] | None = None
        since, told = time.monotonic(), -math.inf
        waiting = self.folder / f"waiting-{self.token}"
        try:
            while True:
                number, holder = self._holder()
                if number == 0 or self._dead(holder):
                    if self._take(number + 1):
                        break
                    continue
                now = time.monotonic()
                if holder != seen:
                    seen, since = holder, now
                if now - since > self.stale:
                    if self._take(number + 1):
                        self.say(f"took over {self.folder}: its owner showed no life for {self.stale:.0f} s")
                        break
                    continue
                waiting.touch()
                if now - told > 60:
                    told = now
                    who = f"{(holder or {}).get('host', 'another host')}, process {(holder or {}).get('pid', '?')}"
                    self.say(f"waiting: {self.folder} is in use by {who}")
                if interrupted():
                    again = f"run again with {option('resume', True)}"
                    raise Interrupted(f"stopped while waiting for another run's checkpoints; {again}")
                time.sleep(min(self.beat / 2, 1.0))
        finally:
            waiting.unlink(missing_ok=True)
        self._thread = threading.Thread(target=self._live, name="checkpoint-owner", daemon=True)
        self._thread.start()
        return self

    def release(self) -> None:
        """Give the folder up."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self.number and self._mine():
            self._path(self.number).unlink(missing_ok=True)

    def check(self) -> None:
        """Stop with :class:`Interrupted` if another run took the folder over."""
        if self.lost or not self._mine():
            self.lost = True
            msg = (
                f"stopped: another run took over the checkpoints in {self.folder} after this one showed no life for "
                f"{self.stale:.0f} s. Nothing was written; the other run goes on"
            )
            raise Interrupted(msg)

    def wanted(self) -> bool:
        """Whether another run waits for this folder (it then needs the last checkpoint)."""
        fresh = time.time() - 3600
        return any(path.stat().st_mtime > fresh for path in self.folder.glob("waiting-*"))

    def _path(self, number: int) -> Path:
        return self.folder / f"owner-{number:06d}.json"

    def _holder(self) -> tuple[int, dict[str, Any] | None]:
        """Number and content of the newest token; content None where it cannot be read at this moment."""
        names = sorted(self.folder.glob("owner-*.json"))
        if not names:
            return 0, None
        number = int(names[-1].stem.split("-")[1])
        try:
            return number, json.loads(names[-1].read_text())
        except (OSError, ValueError):
            return number, None

    def _take(self, number: int) -> bool:
        """Create the token `number`; exactly one of several newcomers can."""
        try:
            handle = os.open(self._path(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        self.number = number
        with os.fdopen(handle, "w") as file:
            file.write(self._content())
        for path in self.folder.glob("owner-*.json"):
            if int(path.stem.split("-")[1]) < number:
                path.unlink(missing_ok=True)
        return True

    def _content(self) -> str:
        self._counter += 1
        content = {"token": self.token, "counter": self._counter, **_identity()}
        return json.dumps(content).ljust(_WIDTH)

    def _mine(self) -> bool:
        number, holder = self._holder()
        return number == self.number and (holder is None or holder.get("token") == self.token)

    def _dead(self, holder: dict[str, Any] | None) -> bool:
        """Whether the holder is a process of this very machine that no longer runs."""
        me = _identity()
        if not holder or any(holder.get(key) != me[key] for key in ("host", "boot", "namespace")):
            return False
        return started(int(holder["pid"])) != holder.get("started")

    def _live(self) -> None:
        while not self._stop.wait(self.beat):
            if not self._mine():
                self.lost = True
                return
            # Opening for update fails if a newcomer removed the token, so that a lost one never comes back.
            with contextlib.suppress(OSError), self._path(self.number).open("r+") as file:
                file.write(self._content())


def seconds_from_environment(name: str, otherwise: float) -> float:
    """A number of seconds that a site may set by an environment variable."""
    text = os.environ.get(name, "")
    if not text:
        return otherwise
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < math.inf:
        raise InputError(
            f"the environment variable {name} is {text!r}", "it is not a time", "set it to a number of seconds above 0"
        )
    return seconds


def make_writable(folder: Path) -> None:
    """Make a folder and try to write into it.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try_to_write(folder, b"x")
    except OSError as error:
        raise InputError(
            f"the checkpoint folder {folder} cannot be written ({error.strerror})",
            "without checkpoints an interrupted training would start from the beginning",
            f"give a writable folder by {option('checkpoint_dir')} "
            "(pipeline: --checkpoint_dir), mounted in the container",
        ) from error


def _identity() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": boot(),
        "namespace": namespace(),
        "pid": os.getpid(),
        "started": started(os.getpid()),
    }
