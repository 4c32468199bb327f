"""How many threads a step may use: what it was given, never more than it can run on, and one where bytes ask for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from multivi_nf.errors import InputError

_CGROUPS = Path("/sys/fs/cgroup")


def number_from_environment(name: str, otherwise: int) -> int:
    """Give a whole number, not below 0, that torchrun or a scheduler tells by an environment variable.

    Raises
    ------
    InputError
        It is set to something else.
    """
    text = os.environ.get(name, "")
    if text.strip() and not (text.strip().isascii() and text.strip().isdigit()):
        raise InputError(
            f"the environment variable {name} is {text!r}",
            "it is not a whole number, and tells this process its place among those that train together",
            f"start by torchrun, which sets it, or `unset {name}` where one process trains alone",
        )
    return int(text) if text.strip() else otherwise


def threads_given() -> int:
    """Give OMP_NUM_THREADS (set by the pipeline to a task's processors), else the processors that this process may use.

    The processors are those of its affinity, as `taskset` and Slurm set it, and at most the quota of its control group,
    as containers and Kubernetes set it.
    """
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdecimal() and int(named) > 0:
        return int(named)
    return max(1, min(len(os.sched_getaffinity(0)), _quota()))


@contextmanager
def threads_at_most(n: int) -> Iterator[None]:
    """Let libraries of linear algebra, OpenMP, numba and torch use `n` threads at most; those imported before only.

    With one they add in one order, so that the same input gives the same bytes on every machine.
    """
    from threadpoolctl import ThreadpoolController

    with ExitStack() as stack:
        for name in ("torch", "numba"):  # numba's threads, when first asked for, change torch's number: given back last
            if library := sys.modules.get(name):
                before = library.get_num_threads()
                library.set_num_threads(min(n, before))
                stack.callback(library.set_num_threads, before)
        pools = ThreadpoolController()
        running = [pool["num_threads"] for pool in pools.info() if pool["num_threads"]]  # 0, in SciPy: all
        stack.enter_context(pools.limit(limits=min([n, *running])))
        yield


def _quota(root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Whole processors of the tightest CPU quota of this process's control groups (v2 or v1); many if there is none."""
    least = 1 << 16
    for folder in control_groups("cpu", root, own):
        try:
            if (folder / "cpu.max").is_file():
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
            if quota not in ("max", "-1"):
                least = min(least, max(1, int(quota) // int(period)))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return least


def control_groups(controller: str, root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """Folders of the control groups that this process is in, from its own to the root; limits of each hold.

    Parameters
    ----------
    controller
        `cpu` or `memory`: of version 1, where each has a tree of its own.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return [root]
    places: dict[Path, None] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        place = Path(os.path.normpath(f"{top}/{path}"))
        # in a container the path may be the host's; what is seen there is the group itself
        for folder in [place, *place.parents, top]:
            if folder == top or top in folder.parents:
                places[folder] = None
    return [folder for folder in places if folder.is_dir()] or [root]


def memory_left(root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes that this process's control groups (v2 or v1) still allow, page cache not counted; None without a limit."""
    least = None
    for folder in control_groups("memory", root, own):
        try:
            one = (folder / "memory.max").is_file()
            limit = (folder / ("memory.max" if one else "memory.limit_in_bytes")).read_text().strip()
            if limit == "max" or int(limit) >= 1 << 60:  # version 1 writes no limit as the largest number of pages
                continue
            used = int((folder / ("memory.current" if one else "memory.usage_in_bytes")).read_text())
            stored = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cache = int(stored.get("inactive_file" if one else "total_inactive_file", 0))
        except (OSError, ValueError):
            continue
        left = max(int(limit) - used + cache, 0)
        least = left if least is None else min(least, left)
    return least
