"""Which process this is, and whether another one still runs: what locks and half-written files are told apart by."""

from __future__ import annotations

import hashlib
import os
import socket
from functools import cache
from pathlib import Path


def boot() -> str:
    """Name of this machine's last start; empty where it has none."""
    return _read("/proc/sys/kernel/random/boot_id")


def namespace() -> str:
    """Name of the set of process ids that are seen from here; empty where there is none."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


@cache
def machine() -> str:
    """Eight digits that name this machine since its last start, and the process ids that are seen from here."""
    parts = (socket.gethostname(), boot(), namespace())
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=4).hexdigest()


def started(pid: int) -> str:
    """Start time of a process in clock ticks since boot; empty if it does not run (a zombie does not)."""
    stat = _read(f"/proc/{pid}/stat")
    fields = stat.rpartition(")")[2].split()
    return "" if not fields or fields[0] in "ZX" else fields[19]


def mark() -> str:
    """`MACHINE-PID-START` of this process."""
    return f"{machine()}-{os.getpid()}-{started(os.getpid()) or 0}"


def is_gone(name: str) -> bool | None:
    """Whether the process that :func:`mark` named has ended; None where this machine cannot tell."""
    where, pid, start = name.split("-")
    if where != machine():
        return None
    return started(int(pid)) != start


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
