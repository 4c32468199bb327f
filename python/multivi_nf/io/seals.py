"""Digests by which the parts of a result know each other, and a JSON file knows that it was not changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

SEAL = "digest"
"""Entry of a sealed JSON object: SHA-256 of all its other entries."""


LARGEST_PART = 1 << 32
"""Bytes of a sealed part at most; a file with a hole of a terabyte would be read for hours."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits; empty, and so of no file, where it is larger than any part."""
    if path.stat().st_size > LARGEST_PART:
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The same object with the digest of its entries."""
    return {**content, SEAL: _digest(content)}


def is_intact(content: dict[str, Any]) -> bool | None:
    """Whether a sealed object is as it was written; None for one without a seal (written by an earlier version)."""
    if SEAL not in content:
        return None
    return content[SEAL] == _digest({key: value for key, value in content.items() if key != SEAL})


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
