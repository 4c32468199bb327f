"""Text files as tools and spreadsheets of any country write them."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from multivi_nf.errors import InputError


def read_text(path: Path) -> list[str]:
    """Read the lines of a plain or gzip text file; damage is an :class:`InputError`."""
    if not path.is_file():
        raise InputError(f"{path} does not exist", "it was named as an input", "correct the path in the samplesheet")
    raw = path.read_bytes()
    if not raw:
        raise InputError(f"{path} is empty (0 bytes)", "an empty list would leave no cell", "check how it was written")
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.GzipFile(fileobj=io.BytesIO(raw)).read()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read to its end: {error}",
            "the file is damaged, most often cut while copying",
            "copy or download it again; compare its checksum",
        ) from error
    return decoded(raw, path).splitlines()


def decoded(raw: bytes, path: Path) -> str:
    """Decode text as tools and spreadsheets write it: UTF-8, UTF-16 with its mark, else Latin-1 (Windows-1252).

    Raises
    ------
    InputError
        Bytes that are no text.
    """
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"", "utf-8-sig"), (b"", "cp1252")):
        if raw.startswith(mark):
            try:
                text = raw.decode(encoding)
            except UnicodeDecodeError:
                continue
            if encoding != "cp1252" or "\0" not in text:
                return text
    raise InputError(
        f"{path} cannot be read as text (it starts with {raw[:8]!r})",
        "names are read from it",
        "save it as CSV or TSV in UTF-8; spreadsheets (.xlsx) must be exported",
    )
