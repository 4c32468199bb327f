"""Writing fragments files, for the simulator, the benchmarks and the tests."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
import pysam
from numba import njit

from multivi_nf.fragments.byte_scan import Arrays, Num
from multivi_nf.io.bgzf import bgzf_writer
from multivi_nf.io.files import written_whole

_CHUNK = 1 << 16


@njit(cache=True)
def put_number(value: Num, out: np.ndarray, at: Num) -> Num:
    """Write a number in decimal digits from `out[at]` on; the index after it."""
    first = at
    while True:
        out[at] = 48 + value % 10
        at += 1
        value //= 10
        if value == 0:
            break
    last = at - 1
    while first < last:
        out[first], out[last] = out[last], out[first]
        first += 1
        last -= 1
    return at


@njit(cache=True)
def _copy(source: np.ndarray, first: Num, last: np.ndarray, out: np.ndarray, at: Num) -> Num:
    for i in range(first, last):
        out[at] = source[i]
        at += 1
    return at


@njit(cache=True)
def _lines(fragments: Arrays, chromosomes: Arrays, names: Arrays, out: np.ndarray) -> Num:
    chrom, start, end, barcode, count = fragments
    chroms, chrom_at = chromosomes
    barcodes, barcode_at = names
    at = 0
    for i in range(chrom.shape[0]):
        at = _copy(chroms, chrom_at[chrom[i]], chrom_at[chrom[i] + 1], out, at)
        out[at] = 9
        at = put_number(np.int64(start[i]), out, at + 1)
        out[at] = 9
        at = put_number(np.int64(end[i]), out, at + 1)
        out[at] = 9
        at = _copy(barcodes, barcode_at[barcode[i]], barcode_at[barcode[i] + 1], out, at + 1)
        out[at] = 9
        at = put_number(np.int64(count[i]), out, at + 1)
        out[at] = 10
        at += 1
    return at


def _joined(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    raw = [name.encode("ascii") for name in names]
    starts = np.zeros(len(raw) + 1, np.int64)
    np.cumsum([len(name) for name in raw], out=starts[1:])
    return np.frombuffer(b"".join(raw) or b"\0", np.uint8), starts


class FragmentWriter:
    """Write a BGZF fragments file piece by piece; a context manager.

    Parameters
    ----------
    path
        The file, `*.tsv.gz`; it appears when the block ends without an error.
    chroms, barcodes
        The names that codes point into.
    header
        Lines to put first; `# ` is added.
    index
        Also write a tabix index, `path.tbi`; the fragments must be sorted.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        chroms: Sequence[str],
        barcodes: Sequence[str],
        header: Sequence[str] = (),
        *,
        index: bool = False,
    ) -> None:
        self._path, self._index = Path(path), index
        self._chroms, self._barcodes = _joined(chroms), _joined(barcodes)
        self._header = header
        longest = sum(int(np.diff(starts).max(initial=0)) for _, starts in (self._chroms, self._barcodes)) + 3 * 11 + 5
        self._longest = longest
        self._out = np.empty(0, np.uint8)

    def __enter__(self) -> FragmentWriter:
        self._stack = contextlib.ExitStack()
        temporary = self._stack.enter_context(written_whole(self._path))
        self._stack.push(partial(self._indexed, temporary))
        self._handle = self._stack.enter_context(bgzf_writer(temporary))
        for line in self._header:
            self._handle.write(f"# {line}\n".encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, place)

    def _indexed(self, temporary: Path, kind: type[BaseException] | None, *_: object) -> None:
        """Index the file once it is closed, before it takes its name."""
        if self._index and kind is None:
            pysam.tabix_index(str(temporary), preset="bed", force=True)
            temporary.with_name(f"{temporary.name}.tbi").replace(self._path.with_name(f"{self._path.name}.tbi"))

    def write(
        self, chrom: np.ndarray, start: np.ndarray, end: np.ndarray, barcode: np.ndarray, count: np.ndarray
    ) -> None:
        """Append fragments: integer codes into the names, 0-based half-open positions, reads that support each."""
        if len(self._out) == 0:
            self._out = np.empty(self._longest * _CHUNK, np.uint8)
        for first in range(0, len(chrom), _CHUNK):
            part = slice(first, first + _CHUNK)
            own = chrom[part], start[part], end[part], barcode[part], count[part]
            n = _lines(own, self._chroms, self._barcodes, self._out)
            self._handle.write(self._out[:n].tobytes())
