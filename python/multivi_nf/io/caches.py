"""Where numba, matplotlib and torch keep what they made: a folder that can be written and that nobody else wrote.

What numba and torch load from their caches is code, so a folder of another user, or one
that others may write into, is not used.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

_CACHES = {"NUMBA_CACHE_DIR": "numba", "MPLCONFIGDIR": "matplotlib", "TORCHINDUCTOR_CACHE_DIR": "torchinductor"}


def writable_caches() -> None:
    """Set NUMBA_CACHE_DIR and its like to folders of one's own, where they are not set to such already."""
    for variable, name in _CACHES.items():
        given = os.environ.get(variable)
        places = [Path(given)] if given else []
        places += [root / name for root in _roots()]
        for place in places:
            if own(place):
                os.environ[variable] = str(place)
                break
        else:
            os.environ[variable] = tempfile.mkdtemp(prefix=f"multivi-nf-{name}-")


def _roots() -> list[Path]:
    user = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("HOME") and Path(os.environ["HOME"]) / ".cache")
    roots = [Path(user) / "multivi-nf"] if user else []
    return [*roots, Path(tempfile.gettempdir()) / f"multivi-nf-{os.getuid()}"]


def own(folder: Path) -> bool:
    """Whether a folder, made if it is missing, belongs to this user, can be written by him and by nobody else."""
    try:
        if not folder.is_absolute():
            return False
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
        parent = folder.parent.stat()
    except OSError:
        return False
    mine = found.st_uid == os.geteuid() and not found.st_mode & stat.S_IWOTH
    safe = parent.st_uid in (os.geteuid(), 0) and not (
        parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX
    )
    return mine and safe and os.access(folder, os.W_OK | os.X_OK)


def isolated_environment() -> dict[str, str]:
    """The environment for a Python that another program brings: without what would lend it other modules."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return environment | {"PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1"}
