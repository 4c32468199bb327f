"""Text files as tools and spreadsheets of any country write them."""

from __future__ import annotations

import zlib
from pathlib import Path

from multivi_nf.errors import Damaged, InputError
from multivi_nf.io.limits import read_bytes
from multivi_nf.io.text import decoded


def read_text(path: Path) -> list[str]:
    """Read the lines of a plain or gzip text file; damage is an :class:`InputError`."""
    if not path.is_file():
        raise InputError(f"{path} does not exist", "it was named as an input", "correct the path in the samplesheet")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty (0 bytes)", "an empty list would leave no cell", "check how it was written")
    try:
        raw = read_bytes(path)
    except (OSError, EOFError, zlib.error) as error:
        raise Damaged(path, f"cannot be read to its end: {error}") from error
    return decoded(raw, path).splitlines()
