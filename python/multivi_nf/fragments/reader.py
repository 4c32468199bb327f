"""Bytes of a fragments file: plain, gzip or BGZF, in blocks of whole lines; cut and damaged files are refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import numpy as np
from isal import igzip, isal_zlib

from multivi_nf.errors import Damaged, InputError
from multivi_nf.fragments.byte_scan import PADDING
from multivi_nf.io.limits import NoHole

#: The empty block that ends every BGZF file (SAM specification, section 4.1.2).
BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")

BLOCK = 1 << 22
_READ = 1 << 20  # bytes of a BGZF file taken at once
_LARGEST_BLOCK = 1 << 16  # text of a BGZF block at most
_HEADROOM = 1 << 16  # the longest line; what is left of a block is carried into this space before the next one
#: What reading compressed data may raise.
DAMAGED: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error, isal_zlib.error, struct.error)


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
                raise Damaged(
                    path,
                    f"is cut: its {size} bytes do not end with the BGZF end marker",
                    "the fragments after the cut are lost and every reader would silently take the rest as the whole",
                    "copy it again from where it was made and compare size and checksum; if you are sure that it is "
                    "whole, `gunzip -c FILE | bgzip > NEW` writes it anew with a marker",
                )


def damaged(path: Path, offset: int, error: Exception) -> InputError:
    """Say that compressed data could not be read, and where."""
    what = "ends in the middle of its compressed data" if isinstance(error, EOFError) else f"is damaged ({error})"
    return Damaged(
        path,
        f"{what}, near byte {offset} of {path.stat().st_size}",
        "the fragments after that place are lost",
        "copy it again from where it was made and compare size and checksum",
    )


class Blocks:
    """Iterate over a file's text in blocks of whole lines, decompressing the next ones while one is worked on.

    Parameters
    ----------
    path
        Plain text, gzip (of any number of members) or BGZF.
    on_progress
        Called with the number of bytes of the file read so far.
    threads
        Blocks of a BGZF file that are decompressed side by side; any other file is read by one thread.

    Yields
    ------
    text, first, stop : uint8 array and the range of it that holds whole lines; `PADDING` bytes follow. The last line
        is given a newline if it has none. The array is overwritten when the next is asked for.
    """

    def __init__(
        self, path: Path, on_progress: Callable[[int], None] | None = None, block: int = BLOCK, threads: int = 1
    ) -> None:
        self.path = path
        self.on_progress = on_progress
        self.block = block
        self.threads = threads
        self.ends_with_newline = True
        self.text_bytes = 0

    def __iter__(self) -> Iterator[tuple[np.ndarray, int, int]]:
        check_complete(self.path)
        carried = b""
        with self.path.open("rb", buffering=0) as raw, ThreadPoolExecutor(self.threads) as pool:
            for text, n in self._filled(raw, pool):
                first = _HEADROOM - len(carried)
                text[first:_HEADROOM] = carried
                stop = _HEADROOM + n
                self.text_bytes += n
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
                if self.on_progress is not None:
                    self.on_progress(raw.tell())
        if carried:
            self.ends_with_newline = False
            yield np.frombuffer(bytearray(carried + b"\n" + bytes(PADDING)), np.uint8), 0, len(carried) + 1

    def _filled(self, raw: io.RawIOBase, pool: ThreadPoolExecutor) -> Iterator[tuple[bytearray, int]]:
        """Yield buffers and the bytes of text in each, from `_HEADROOM` on, in the order of the file."""
        work: Iterator[Callable[[bytearray], int]]
        if not is_gzip(self.path):
            work = self._serial(raw)
        elif self.threads > 1 and is_bgzf(self.path):
            work = self._side_by_side(raw)
        else:
            work = self._serial(igzip.IGzipFile(fileobj=NoHole(raw, str(self.path))))
        ready = [bytearray(_HEADROOM + self.block + 1 + PADDING) for _ in range(self.threads + 1)]
        pending: deque[tuple[Future[int], bytearray]] = deque()
        more = True
        try:
            while True:
                while ready and more:
                    task = self._taken(raw, lambda: next(work, None))
                    more = task is not None
                    if more:
                        buffer = ready.pop()
                        pending.append((pool.submit(task, buffer), buffer))
                if not pending:
                    return
                future, buffer = pending.popleft()
                n = self._taken(raw, future.result)
                if n == 0:
                    return
                yield buffer, n
                ready.append(buffer)
        finally:
            for future, _ in pending:
                future.cancel()

    def _serial(self, source: _Filling) -> Iterator[Callable[[bytearray], int]]:
        """Fill one buffer after the other: each task waits for the one before, which was started before it."""

        def fill(before: Event, done: Event, buffer: bytearray) -> int:
            before.wait()
            try:
                return _read_into(source, memoryview(buffer)[_HEADROOM : _HEADROOM + self.block])
            finally:
                done.set()

        before = Event()
        before.set()
        while True:
            done = Event()
            yield partial(fill, before, done)
            before = done

    def _side_by_side(self, raw: io.RawIOBase) -> Iterator[Callable[[bytearray], int]]:
        """Decompress groups of BGZF blocks, each into a buffer of its own; what is no BGZF is left to one thread."""
        rest = yield from self._groups(raw)
        if rest is not None:
            raw.seek(rest)
            yield from self._serial(igzip.IGzipFile(fileobj=raw))

    def _groups(self, raw: io.RawIOBase) -> Generator[Callable[[bytearray], int], None, int | None]:
        """Yield tasks for runs of blocks whose text fits a buffer; give the place where something else begins."""
        data, begin, at, size = b"", 0, 0, 0  # data starts at byte `begin` of the file, the next block at data[at]
        while True:
            head = data[at : at + 18]
            length = struct.unpack_from("<H", head, 16)[0] + 1 if len(head) == 18 else 1 << 17
            if at + length > len(data):
                more = raw.read(_READ)
                data += more or b""
                if more:
                    continue
            whole = head[:4] == BGZF_END[:4] and head[10:14] == b"\x06\0BC" and at + length <= len(data)
            n = struct.unpack_from("<I", data, at + length - 4)[0] if whole else 0
            if not whole or n > _LARGEST_BLOCK or size + n > self.block or at > 4 * _READ:
                if size:  # of empty blocks alone nothing is left to do
                    yield partial(self._inflate, data[:at], size)
                data, begin, at, size = data[at:], begin + at, 0, 0
                if not data:
                    return None
                if not whole or n > _LARGEST_BLOCK:
                    return begin
            at += length
            size += n

    def _inflate(self, data: bytes, size: int, buffer: bytearray) -> int:
        source = igzip.IGzipFile(fileobj=io.BytesIO(data))
        n = _read_into(source, memoryview(buffer)[_HEADROOM : _HEADROOM + size])
        if n != size or source.read(1):
            msg = "a block is not as long as it says"
            raise OSError(msg)
        return n

    def _taken(self, raw: io.RawIOBase, get: Callable[[], Any]) -> Any:
        try:
            return get()
        except DAMAGED as error:
            raise damaged(self.path, raw.tell(), error) from error


class _Filling(Protocol):
    """What fills buffers."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


def _read_into(source: _Filling, view: memoryview) -> int:
    """Fill a buffer as far as there is something to fill it with."""
    n = 0
    while n < len(view):
        got = source.readinto(view[n:])
        if not got:
            break
        n += got
    return n
