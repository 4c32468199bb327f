"""Bytes of a fragments file: plain, gzip or BGZF, in blocks of whole lines; cut and damaged files are refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from isal import igzip, isal_zlib

from multivi_nf.errors import InputError
from multivi_nf.fragments.byte_scan import PADDING

#: The empty block that ends every BGZF file (SAM specification, section 4.1.2).
BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")

BLOCK = 1 << 22
_HEADROOM = 1 << 16  # the longest line; what is left of a block is carried into this space before the next one
#: What reading compressed data may raise.
DAMAGED = (EOFError, OSError, zlib.error, isal_zlib.error, struct.error)


def is_gzip(path: Path) -> bool:
    """Tell by its first bytes whether a file is gzip (BGZF is gzip too)."""
    with path.open("rb") as handle:
        return handle.read(2) == b"\x1f\x8b"


def is_bgzf(path: Path) -> bool:
    """Tell by its first bytes whether a file is BGZF: gzip with the extra field `BC`."""
    with path.open("rb") as handle:
        head = handle.read(18)
    return len(head) == 18 and head[:4] == b"\x1f\x8b\x08\x04" and head[12:14] == b"BC"


def check_complete(path: Path) -> None:
    """Refuse what is no file, is empty, or is BGZF without its end marker.

    A BGZF file cut at a block boundary is read without complaint by gzip, htslib and every data-frame reader, as if
    the lost chromosomes had no fragments; the missing 28-byte end marker is the only sign.

    Raises
    ------
    InputError
        Naming the file, and its size where it is cut.
    """
    if not path.is_file():
        raise InputError(
            f"the fragments file {path} does not exist",
            "there is nothing to count",
            "correct the path in column `fragments` of the samplesheet",
        )
    size = path.stat().st_size
    if size == 0:
        raise InputError(
            f"the fragments file {path} is empty (0 bytes)",
            "there is nothing to count",
            "copy it again from where it was made",
        )
    if is_bgzf(path):
        with path.open("rb") as handle:
            handle.seek(max(size - len(BGZF_END), 0))
            if handle.read() != BGZF_END:
                raise InputError(
                    f"the fragments file {path} is cut: its {size} bytes do not end with the BGZF end marker",
                    "the fragments after the cut are lost and every reader would silently take the rest as the whole",
                    "copy it again from where it was made and compare size and checksum; if you are sure that it is "
                    "whole, `gunzip -c FILE | bgzip > NEW` writes it anew with a marker",
                )


def damaged(path: Path, offset: int, error: Exception) -> InputError:
    """Say that compressed data could not be read, and where."""
    what = "ends in the middle of its compressed data" if isinstance(error, EOFError) else f"is damaged ({error})"
    return InputError(
        f"the fragments file {path} {what}, near byte {offset} of {path.stat().st_size}",
        "the fragments after that place are lost",
        "copy it again from where it was made and compare size and checksum",
    )


class Blocks:
    """Iterate over a file's text in blocks of whole lines, decompressing the next one while the last is worked on.

    Parameters
    ----------
    path
        Plain text, gzip (of any number of members) or BGZF.
    on_progress
        Called with the number of bytes of the file read so far.

    Yields
    ------
    text, first, stop : uint8 array and the range of it that holds whole lines; `PADDING` bytes follow. The last line
        is given a newline if it has none. The array is overwritten two blocks later.
    """

    def __init__(self, path: Path, on_progress: Callable[[int], None] | None = None, block: int = BLOCK) -> None:
        self.path = path
        self.on_progress = on_progress
        self.block = block
        self.ends_with_newline = True
        self.text_bytes = 0

    def __iter__(self) -> Iterator[tuple[np.ndarray, int, int]]:
        check_complete(self.path)
        buffers = [bytearray(_HEADROOM + self.block + 1 + PADDING) for _ in range(2)]
        with self.path.open("rb", buffering=0) as raw, ThreadPoolExecutor(1) as reader:
            source: io.RawIOBase = igzip.IGzipFile(fileobj=raw) if is_gzip(self.path) else raw
            pending = reader.submit(self._fill, source, buffers[0])
            carried = b""
            turn = 0
            while True:
                n = self._taken(pending, raw)
                text = buffers[turn]
                if n:
                    pending = reader.submit(self._fill, source, buffers[1 - turn])
                first = _HEADROOM - len(carried)
                text[first:_HEADROOM] = carried
                stop = _HEADROOM + n
                self.text_bytes += n
                if n == 0:
                    if carried:
                        self.ends_with_newline = False
                        text[stop] = 10
                        yield np.frombuffer(text, np.uint8), first, stop + 1
                    return
                last = text.rfind(b"\n", first, stop) + 1
                if last == 0:
                    last = first
                if stop - last > _HEADROOM:
                    raise InputError(
                        f"the fragments file {self.path} has a line of more than {_HEADROOM} bytes",
                        "it is no tab-separated table of fragments",
                        "give the fragments.tsv.gz of the sample (chrom, start, end, barcode, count)",
                    )
                carried = bytes(text[last:stop])
                if last > first:
                    yield np.frombuffer(text, np.uint8), first, last
                turn = 1 - turn
                if self.on_progress is not None:
                    self.on_progress(raw.tell())

    def _fill(self, source: io.RawIOBase, buffer: bytearray) -> int:
        view = memoryview(buffer)[_HEADROOM : _HEADROOM + self.block]
        n = 0
        while n < len(view):
            got = source.readinto(view[n:])
            if not got:
                break
            n += got
        return n

    def _taken(self, pending: Future[int], raw: io.RawIOBase) -> int:
        try:
            return pending.result()
        except DAMAGED as error:
            raise damaged(self.path, raw.tell(), error) from error
