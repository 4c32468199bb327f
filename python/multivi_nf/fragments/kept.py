"""The fragments that a first pass kept, in a compact file that later passes read instead of the text.

A fragment is one word of 64 bits: how far its start is from the one before (18 bits), its length (12), its support (8)
and its barcode's number (26). What does not fit is a word of ones and stands in full in a list of the block's own.

The file: 8 bytes that name the format; blocks, each the words of up to 65,536 fragments of one chromosome and then its
list; a JSON object that says where the blocks are, with their checksums, and what the first pass found; that object's
length and checksum, and the 8 bytes again.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from isal import isal_zlib
from numba import njit

from multivi_nf.errors import InputError
from multivi_nf.fragments.byte_scan import Arrays, Num
from multivi_nf.fragments.names import check_barcodes
from multivi_nf.fragments.stream import Asked, Batch, Facts, FragmentStream
from multivi_nf.inputs.chromosomes import harmonise
from multivi_nf.io.records import as_json, from_json

MAGIC = b"MVNFKF01"
_END = struct.Struct("<QI8s")
_WIDE = 5  # numbers of a fragment in the list: start, end, support, barcode, 0
_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
_START, _LENGTH, _COUNT, _BARCODE = 18, 12, 8, 26
_AT_LENGTH, _AT_COUNT, _AT_BARCODE = (np.uint64(n) for n in (_START, _START + _LENGTH, 64 - _BARCODE))
_STARTS, _LENGTHS, _COUNTS = (np.uint64((1 << n) - 1) for n in (_START, _LENGTH, _COUNT))
_REMEDY = "run `multivi-nf qc-fragments` again, or give the fragments file itself"


@njit(cache=True, nogil=True, _nrt=False)
def _encode(fragments: Arrays, limit: Num, words: np.ndarray, wide: np.ndarray) -> tuple[Num, Num]:
    """Write the fragments of barcodes below `limit`: how many, and how many of them stand in the list."""
    position, barcode, count = fragments
    n = m = np.int64(0)
    before = np.int64(0)
    for i in range(barcode.shape[0]):
        row = np.int64(barcode[i])
        if row >= limit:
            continue
        start, end = np.int64(position[i, 0]), np.int64(position[i, 1])
        support = np.int64(count[i])
        step, length = start - before, end - start
        if 0 <= step < 1 << _START and length < 1 << _LENGTH and support < 1 << _COUNT and row < (1 << _BARCODE) - 1:
            words[n] = (
                np.uint64(step)
                | (np.uint64(length) << _AT_LENGTH)
                | (np.uint64(support) << _AT_COUNT)
                | (np.uint64(row) << _AT_BARCODE)
            )
        else:
            words[n] = _ONES
            wide[m, 0], wide[m, 1], wide[m, 2], wide[m, 3] = start, end, support, row
            m += 1
        n += 1
        before = start
    return n, m


@njit(cache=True, nogil=True, _nrt=False)
def _decode(words: np.ndarray, wide: np.ndarray, rows: np.ndarray, out: Arrays) -> Num:
    """Write the fragments of wanted barcodes (`rows` >= 0) under their new numbers; how many, −1 for a wrong number."""
    position, barcode, count = out
    n = m = np.int64(0)
    start = np.int64(0)
    for i in range(words.shape[0]):
        word = words[i]
        if word == _ONES:
            if m >= wide.shape[0]:
                return np.int64(-1)
            start, end, support, number = wide[m, 0], wide[m, 1], wide[m, 2], wide[m, 3]
            m += 1
        else:
            start += np.int64(word & _STARTS)
            end = start + np.int64((word >> _AT_LENGTH) & _LENGTHS)
            support = np.int64((word >> _AT_COUNT) & _COUNTS)
            number = np.int64(word >> _AT_BARCODE)
        if number < 0 or number >= rows.shape[0]:
            return np.int64(-1)
        position[n, 0], position[n, 1], count[n], barcode[n] = start, end, support, rows[number]
        n += np.int64(rows[number] >= 0)
    return n if m == wide.shape[0] else np.int64(-1)


@dataclass(frozen=True)
class _Content:
    """The JSON object at the end of the file.

    Attributes
    ----------
    barcodes, all
        Those whose fragments are there, by number, and whether they are all that the fragments file has.
    chroms, chroms_met
        The genome's chromosomes with their lengths, and those that the fragments file has.
    facts, left_out_of
        What the first pass found; lines left out by barcode.
    blocks
        Chromosome, fragments, fragments in the list, checksum.
    """

    barcodes: list[str]
    all: bool
    chroms: list[tuple[str, int]]
    chroms_met: list[str]
    facts: Facts
    left_out_of: dict[str, int]
    blocks: list[list[int]]


class KeptWriter:
    """Write the fragments of a pass as it goes.

    Parameters
    ----------
    handle
        File to write to.
    chroms
        The genome's chromosomes and their lengths.
    limit
        Number of barcodes, the first ones of the stream, whose fragments are kept; 0 = of all.
    """

    def __init__(self, handle: BinaryIO, chroms: dict[str, int], limit: int = 0) -> None:
        self._handle, self._chroms, self._limit = handle, list(chroms.items()), limit
        self._blocks: list[list[int]] = []
        self._words = np.empty(0, np.uint64)
        self._wide = np.empty((0, _WIDE), np.int64)
        handle.write(MAGIC)

    def add(self, batch: Batch) -> None:
        """Append a batch."""
        size = len(batch.barcode)
        if len(self._words) < size:
            self._words, self._wide = np.empty(size, np.uint64), np.zeros((size, _WIDE), np.int64)
        limit = self._limit or 1 << 62
        n, m = _encode((batch.position, batch.barcode, batch.count), limit, self._words, self._wide)
        if n:
            raw = self._words[:n].data.cast("B"), self._wide[:m].reshape(-1).data.cast("B")
            checksum = isal_zlib.crc32(raw[1], isal_zlib.crc32(raw[0]))
            self._blocks.append([batch.chrom, n, m, checksum])
            for part in raw:
                self._handle.write(part)

    def finish(self, stream: FragmentStream | KeptFragments) -> None:
        """Write what the pass found and where everything lies."""
        names = stream.barcodes()
        content = _Content(
            names[: self._limit] if self._limit else names,
            not self._limit,
            self._chroms,
            stream.chroms_met(),
            stream.facts,
            dict(stream.left_out_of),
            self._blocks,
        )
        raw = json.dumps(as_json(content), separators=(",", ":")).encode()
        self._handle.write(raw + _END.pack(len(raw), isal_zlib.crc32(raw), MAGIC))


def is_kept(path: Path) -> bool:
    """Tell by its first bytes whether a file is one of kept fragments."""
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return handle.read(len(MAGIC)) == MAGIC


class KeptFragments:
    """Read kept fragments as :class:`multivi_nf.fragments.stream.FragmentStream` reads a fragments file.

    Parameters
    ----------
    path, asked, on_progress
        As there.

    Raises
    ------
    InputError
        The file is cut or damaged, is of another assembly, or was kept for other cells than those asked for.
    """

    def __init__(self, path: str | Path, asked: Asked, on_progress: Callable[[int], None] | None = None) -> None:
        self.path = Path(path)
        self._on_progress = on_progress
        content = self._content()
        names = content.barcodes
        self._names = list(check_barcodes(asked.barcodes))
        number = {name: i for i, name in enumerate(names)}
        self._rows = np.full(len(names), -1, np.int32)
        absent = [name for name in self._names if name not in number]
        if absent and not content.all:
            raise InputError(
                f"{self.path} holds the fragments of {len(names)} listed cells, and {len(absent)} of the "
                f"{len(self._names)} barcodes asked for, first {absent[0]!r}, are not among them",
                "they would seem to have no fragment",
                "give the fragments file itself, or the barcodes of candidates.txt",
            )
        for row, name in enumerate(self._names):
            if name in number:
                self._rows[number[name]] = row
        if not asked.only_these:
            others = np.flatnonzero(self._rows < 0)
            self._rows[others] = np.arange(len(self._names), len(self._names) + len(others))
            self._names += [names[i] for i in others]
        self.facts = content.facts
        self.left_out_of: Counter[str] = Counter(content.left_out_of)
        self._blocks = content.blocks
        self._chroms = self._placed(content, asked)
        mapped = dict(zip((name for name, _ in content.chroms), self._chroms))
        order = list(asked.chrom_sizes)
        self._met = [order[mapped[name]] for name in content.chroms_met]

    def barcodes(self) -> list[str]:
        """All barcodes, by number."""
        return self._names

    def n_barcodes(self) -> int:
        """Give the number of barcodes."""
        return len(self._names)

    def chroms_met(self) -> list[str]:
        """The genome's chromosomes that the fragments file had, in its order."""
        return self._met

    def __iter__(self) -> Iterator[Batch]:
        largest = max((block[1] for block in self._blocks), default=0)
        position, barcode, count = (
            np.empty((largest, 2), np.int32),
            np.empty(largest, np.int32),
            np.empty(largest, np.int32),
        )
        with self.path.open("rb", buffering=0) as handle:
            handle.seek(len(MAGIC))
            for chrom, n, m, checksum in self._blocks:
                raw = handle.read(8 * n + 8 * _WIDE * m)
                if len(raw) != 8 * n + 8 * _WIDE * m or isal_zlib.crc32(raw) != checksum:
                    raise self._damaged(f"is damaged, before byte {handle.tell()}")
                words, wide = np.frombuffer(raw, "<u8", n), np.frombuffer(raw, "<i8", _WIDE * m, 8 * n)
                found = _decode(words, wide.reshape(m, _WIDE), self._rows, (position, barcode, count))
                if found < 0:
                    raise self._damaged("names barcodes that it does not have")
                if self._on_progress is not None:
                    self._on_progress(handle.tell())
                if found:
                    yield Batch(self._chroms[chrom], position[:found], barcode[:found], count[:found])

    def _content(self) -> _Content:
        size = self.path.stat().st_size
        with self.path.open("rb") as handle:
            handle.seek(max(size - _END.size, 0))
            tail = handle.read()
            length, checksum, magic = _END.unpack(tail) if len(tail) == _END.size else (0, 0, b"")
            if magic != MAGIC or length > size:
                raise self._damaged("is cut: it does not end as it should")
            handle.seek(size - _END.size - length)
            raw = handle.read(length)
        if isal_zlib.crc32(raw) != checksum:
            raise self._damaged("is damaged at its end")
        return from_json(_Content, json.loads(raw), self.path)

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.path}, the fragments kept by qc-fragments, {what}", "fragments are lost", _REMEDY)

    def _placed(self, content: _Content, asked: Asked) -> list[int]:
        """Give the index in the genome of each chromosome that was kept for (−1 where it has no fragment)."""
        sizes = asked.chrom_sizes
        order = {name: i for i, name in enumerate(sizes)}
        needed = set(content.chroms_met)
        known = harmonise(needed, sizes, asked.chrom_style) if needed else {}
        places = []
        for name, length in content.chroms:
            target = known.get(name)
            if name in needed and (target is None or sizes[target] != length):
                theirs = "not there" if target is None else f"of {sizes[target]} bp"
                raise InputError(
                    f"{self.path} was made with chromosome {name} of {length} bp, here it is {theirs}",
                    "positions of two assemblies do not correspond; every count would be wrong",
                    "give the same --genome or --chrom_sizes as to qc-fragments",
                )
            places.append(-1 if target is None else order[target])
        return places


def open_fragments(
    path: str | Path, asked: Asked, on_progress: Callable[[int], None] | None = None
) -> FragmentStream | KeptFragments:
    """Open a fragments file, or the fragments that a first pass kept of it."""
    kind = KeptFragments if is_kept(Path(path)) else FragmentStream
    return kind(path, asked, on_progress)
