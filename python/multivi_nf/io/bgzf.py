"""Block-compressed files (bgzip), written by htslib."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LOST: list[Any] = []
"""Handles that could not be closed: htslib has freed them, and pysam would close them once more, with a traceback."""


@contextlib.contextmanager
def bgzf_writer(path: Path) -> Iterator[Any]:
    """Give a :class:`pysam.BGZFile` to write `path` with.

    Raises
    ------
    OSError
        Something could not be written; htslib does not say why (:func:`multivi_nf.io.machine.errno_of`).
    """
    import pysam

    handle = pysam.BGZFile(
        str(path), "wb", None
    )  # by name the writer of bgzip is asked for, whatever the path ends with
    try:
        yield handle
        handle.close()
    except BaseException:
        _LOST.append(handle)
        raise
