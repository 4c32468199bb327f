"""A look into a file too large to read before the run: lines from many places of it, in their order."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from isal import igzip, isal_zlib

from multivi_nf.fragments.byte_scan import PADDING
from multivi_nf.fragments.reader import BGZF_END, is_bgzf, is_gzip

_BLOCK_START = b"\x1f\x8b\x08\x04"
_LARGEST_BLOCK = 1 << 16


class SampledBlocks:
    """Blocks of whole lines like :class:`multivi_nf.fragments.reader.Blocks`, from places spread over the file.

    A BGZF file can be entered at any block; of any other only the beginning is read. Since the places are in order, the
    lines are themselves a legal fragments file.

    Parameters
    ----------
    path
        The file.
    places
        How many places to look at.
    blocks
        BGZF blocks (of 64 KiB text) a place.
    head
        Bytes of text to read of a file that is not BGZF.
    """

    def __init__(self, path: Path, places: int = 100, blocks: int = 8, head: int = 1 << 26) -> None:
        self.path = path
        self.places = places
        self.blocks = blocks
        self.head = head
        self.ends_with_newline = True

    def __iter__(self) -> Iterator[tuple[np.ndarray, int, int]]:
        for text in self._bgzf() if is_bgzf(self.path) else self._start():
            if text:
                yield np.frombuffer(bytearray(text) + bytes(PADDING), np.uint8), 0, len(text)

    def _start(self) -> Iterator[bytes]:
        with self.path.open("rb") as raw:
            source = igzip.IGzipFile(fileobj=raw) if is_gzip(self.path) else raw
            text = source.read(self.head)
        yield text[: text.rfind(b"\n") + 1]

    def _bgzf(self) -> Iterator[bytes]:
        size = self.path.stat().st_size - len(BGZF_END)
        step = max(size // self.places, 1)
        with self.path.open("rb") as raw:
            done = -1
            for i in range(self.places):
                if i * step <= done:
                    continue  # the last place reached this far
                at = 0 if i == 0 else _next_block(raw, i * step)
                if at is None:
                    return
                text, done = _inflate(raw, at, self.blocks)
                first = 0 if i == 0 else text.find(b"\n") + 1
                yield text[first : text.rfind(b"\n") + 1]


def _next_block(raw: BinaryIO, offset: int) -> int | None:
    """Find the first BGZF block that starts at or after `offset` and is followed by another block or the end."""
    raw.seek(offset)
    window = raw.read(3 * _LARGEST_BLOCK)
    at = window.find(_BLOCK_START)
    while at >= 0:
        if window[at + 12 : at + 14] == b"BC" and at + 18 <= len(window):
            end = at + struct.unpack_from("<H", window, at + 16)[0] + 1
            if end >= len(window) or window[end : end + 4] == _BLOCK_START:
                return offset + at
        at = window.find(_BLOCK_START, at + 1)
    return None


def _inflate(raw: BinaryIO, offset: int, n: int) -> tuple[bytes, int]:
    """Decompress up to `n` blocks from `offset` on: the text, and the offset after them."""
    parts = []
    for _ in range(n):
        raw.seek(offset)
        head = raw.read(18)
        if len(head) < 18:
            break
        size = struct.unpack_from("<H", head, 16)[0] + 1
        raw.seek(offset)
        block = raw.read(size)
        if len(block) < size:
            break
        parts.append(isal_zlib.decompress(block, wbits=31))
        offset += size
    return b"".join(parts), offset
