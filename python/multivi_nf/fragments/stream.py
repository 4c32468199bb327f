"""A fragments file as a stream of batches: arrays of one chromosome's fragments, in bounded memory."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread

import numpy as np

from multivi_nf.errors import InputError
from multivi_nf.fragments import parse as p
from multivi_nf.fragments.byte_scan import PADDING
from multivi_nf.fragments.names import check_barcodes, some
from multivi_nf.fragments.preview import SampledBlocks
from multivi_nf.fragments.reader import Blocks
from multivi_nf.inputs.chromosomes import MOST_OUTSIDE, canonical, harmonise, wrong_assembly

_BATCH = 1 << 16
_WHOLE = re.compile(rb"-?[0-9]{1,10}")
_BARCODE = re.compile(rb"[\x21-\x7e]{1,%d}" % p.LONGEST_NAME)
_PLACES = (p.BAD_START, p.BAD_ORDER, p.PAST_END)  # refusals of a line that may be whole and only lie at no place
_HOPELESS = 10_000
"""Lines without a place after which a pass stops early, if they are over 1 % of those read."""


@dataclass
class Batch:
    """Fragments of one chromosome, in file order. Arrays are views that the next batch overwrites.

    Attributes
    ----------
    chrom
        Index of the chromosome in the genome's sizes.
    position
        int32, n × 2; start and end, 0-based half-open.
    barcode
        int32, n; index into :meth:`FragmentStream.barcodes`.
    count
        int32, n; reads that support the fragment (column 5; 1 in a file of 4 columns).
    """

    chrom: int
    position: np.ndarray
    barcode: np.ndarray
    count: np.ndarray


@dataclass
class Facts:
    """What a whole pass over a file found.

    Attributes
    ----------
    fragments, lines
        Lines that are fragments, and all lines.
    columns
        Number of columns, 4 to 6.
    renamed
        Chromosomes whose name differs from the genome's, `{in file: in genome}`.
    other_chroms
        Chromosomes that the genome does not have, with their number of fragments (left out of everything).
    left_out
        Whole lines whose fragment lies at no place of its chromosome, by reason (`past the end`, `before the start`,
        `without length`); they are in no other number.
    sorted
        Whether starts never decrease within a chromosome.
    ends_with_newline
        Whether the last line is ended.
    """

    fragments: int = 0
    lines: int = 0
    columns: int = 0
    renamed: dict[str, str] = field(default_factory=dict)
    other_chroms: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    sorted: bool = True
    ends_with_newline: bool = True


@dataclass(frozen=True)
class Asked:
    """Which fragments are asked for.

    Attributes
    ----------
    chrom_sizes
        Chromosome name → length in bp. Fragments of other chromosomes are left out and counted.
    barcodes
        Barcodes to number first, in this order.
    only_these
        Leave out fragments of any other barcode.
    chrom_style
        See :func:`multivi_nf.inputs.chromosomes.harmonise`.
    """

    chrom_sizes: dict[str, int]
    barcodes: Sequence[str] = ()
    only_these: bool = False
    chrom_style: str = "auto"


class FragmentStream:
    """Read a fragments file once, front to back.

    Parameters
    ----------
    path
        `chrom start end barcode [count [strand]]`, tab-separated, plain, gzip or BGZF; `#` lines and empty lines are
        passed over. 10x fragments are already shifted to the cut sites and are taken as they are.
    asked
        What of it.
    on_progress
        Called with the number of bytes read.
    blocks
        Where the text comes from, if not from the whole file.
    threads
        Beyond one: blocks of BGZF are decompressed side by side, and lines are parsed while the caller works on the
        batches before. The batches are the same.

    Raises
    ------
    InputError
        While iterating: a damaged or cut file; a line that is not a fragment; a chromosome that comes back after
        another one; a file without any fragment on the genome's chromosomes; so many fragments past the ends that the
        assembly must be another one (:func:`multivi_nf.inputs.chromosomes.wrong_assembly`). Single ones, as aligners
        write them at the ends, are left out and counted.
    """

    def __init__(
        self,
        path: str | Path,
        asked: Asked,
        on_progress: Callable[[int], None] | None = None,
        *,
        blocks: SampledBlocks | None = None,
        threads: int = 1,
    ) -> None:
        self.path = Path(path)
        self.asked = asked
        self.table = p.BarcodeTable(check_barcodes(asked.barcodes), is_open=not asked.only_these)
        self.facts = Facts()
        self._threads = threads
        self._blocks = blocks or Blocks(self.path, on_progress, threads=threads)
        self._label = str(path) if blocks is None else f"{path} (in a sample of its lines)"
        self._order = {name: index for index, name in enumerate(asked.chrom_sizes)}
        self._seen: dict[str, int] = {}
        self.left_out_of: Counter[str] = Counter()
        """Lines left out, by barcode."""
        self._first_left_out: InputError | None = None

    def barcodes(self) -> list[str]:
        """All barcodes met so far (and those given), by number."""
        return self.table.names()

    def n_barcodes(self) -> int:
        """Give the number of barcodes met so far (and those given)."""
        return len(self.table)

    def chroms_met(self) -> list[str]:
        """The genome's chromosomes met so far, in file order."""
        return [self.facts.renamed.get(name, name) for name in self._seen if name not in self.facts.other_chroms]

    def __iter__(self) -> Iterator[Batch]:
        return self._parsed() if self._threads == 1 else _ahead(self._parsed())

    def _parsed(self) -> Generator[Batch]:
        state = np.zeros(p.STATE_SIZE, np.int64)
        position = np.empty((_BATCH, 2), np.int32)
        barcode = np.empty(_BATCH, np.int32)
        count = np.empty(_BATCH, np.int32)
        scratch = p.scratch()
        name, chrom, size = _padded(b""), -1, 0
        table = self.table
        for text, first, stop in self._blocks:
            state[p.POSITION] = first
            code = p.OUTPUT_FULL
            while code != p.DONE:
                known = table.pool, table.slots, table.places, table.used, table.is_open
                out = position, barcode, count, scratch
                code = p.parse(text, stop, name, chrom >= 0, size, state, *known, *out)
                n = int(state[p.N_OUT])
                if code == p.TABLE_FULL:
                    table.grow()
                    continue
                if code in _PLACES and self._leave_out(text, state, code, size):
                    continue
                if n and code != p.DONE:  # a batch goes on past the text's end: how text is cut depends on the threads
                    yield Batch(chrom, position[:n], barcode[:n], count[:n])
                    state[p.N_OUT] = 0
                if code == p.NEW_CHROM:
                    self._close(state)
                    name, chrom, size = self._open_chrom(text, state)
                elif code >= p.FIRST_ERROR:
                    raise self._refusal(text, state, code, size)
        if n := int(state[p.N_OUT]):
            yield Batch(chrom, position[:n], barcode[:n], count[:n])
        self._close(state)
        self.facts.lines = int(state[p.N_LINES])
        self.facts.columns = int(state[p.N_COLUMNS])
        self.facts.sorted = not state[p.UNSORTED]
        self.facts.ends_with_newline = self._blocks.ends_with_newline
        self._check_found()

    def _close(self, state: np.ndarray) -> None:
        """Book the fragments of the chromosome that has ended."""
        n = int(state[p.N_FRAGMENTS])
        state[p.N_FRAGMENTS] = 0
        self.facts.fragments += n
        last = next(reversed(self._seen), None)
        if last in self.facts.other_chroms:
            self.facts.other_chroms[last] += n

    def _open_chrom(self, text: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, int, int]:
        """Take the chromosome name at the current line: its bytes, its index in the genome (−1: none), its length."""
        line, number = self._line(text, state)
        raw, tab, _ = line.partition(b"\t")
        if not tab or not raw or not all(33 <= byte <= 126 for byte in raw) or len(raw) > p.LONGEST_NAME:
            raise self._refusal(text, state, p.BAD_CHROM, 0)
        name = raw.decode("ascii")
        if name in self._seen:
            raise InputError(
                f"{self._label}, line {number}: chromosome {name!r} comes back after {next(reversed(self._seen))!r} "
                f"(it was left after line {self._seen[name]})",
                "fragments are read once, chromosome by chromosome, in memory that does not grow with the file",
                "sort it: `(zgrep '^#' FILE; zgrep -v '^#' FILE | sort -k1,1 -k2,2n) | bgzip > SORTED`",
            )
        if self._seen:
            self._seen[next(reversed(self._seen))] = number - 1
        self._seen[name] = number
        state[p.LAST_START] = 0
        known = harmonise(self._seen, self.asked.chrom_sizes, self.asked.chrom_style)
        target = known.get(name)
        if target is None:
            self.facts.other_chroms[name] = 0
            return _padded(raw + b"\t"), -1, 0
        if target != name:
            self.facts.renamed[name] = target
        return _padded(raw + b"\t"), self._order[target], self.asked.chrom_sizes[target]

    def _line(self, text: np.ndarray, state: np.ndarray) -> tuple[bytes, int]:
        at = int(state[p.POSITION])
        line = text[at : at + 4096].tobytes().partition(b"\n")[0].removesuffix(b"\r")
        return line, int(state[p.N_LINES]) + 1

    def _leave_out(self, text: np.ndarray, state: np.ndarray, code: int, size: int) -> bool:
        """Pass over a whole line whose fragment lies at no place; False if the line is not whole."""
        at = int(state[p.POSITION])
        raw, newline, _ = text[at : at + 4096].tobytes().partition(b"\n")
        fields = raw.removesuffix(b"\r").split(b"\t")
        n_columns = int(state[p.N_COLUMNS]) or len(fields)
        whole = newline and len(fields) == n_columns and 4 <= len(fields) <= 6 and not any(b"\r" in f for f in fields)
        if not whole or not all(_WHOLE.fullmatch(field) for field in fields[1:3]) or not _BARCODE.fullmatch(fields[3]):
            return False
        start, end, count = int(fields[1]), int(fields[2]), fields[4] if n_columns > 4 else b"1"
        if max(start, end) >= 2**31 or not count.isdigit() or not 1 <= int(count) < 2**31:
            return False
        reason = "before the start" if start < 0 else "without length" if end <= start else "past the end"
        if self._first_left_out is None:
            self._first_left_out = self._refusal(text, state, code, size)
        self.facts.left_out[reason] = self.facts.left_out.get(reason, 0) + 1
        self.left_out_of[fields[3].decode("ascii")] += 1
        state[p.POSITION] = at + len(raw) + 1
        state[p.N_LINES] += 1
        state[p.N_COLUMNS] = n_columns
        total = sum(self.facts.left_out.values())
        if total >= _HOPELESS and total > 0.01 * int(state[p.N_LINES]):
            self._check_places(int(state[p.N_LINES]))
        return True

    def _check_places(self, n_lines: int) -> None:
        """Refuse a file of which too many fragments lie at no place."""
        total = sum(self.facts.left_out.values())
        first = self._first_left_out
        if first is not None and wrong_assembly(total, n_lines):
            what = f"{first.what}, as do {total} of {n_lines} lines ({total / n_lines:.2%}; "
            what += ", ".join(f"{reason} {n}" for reason, n in self.facts.left_out.items()) + ")"
            raise InputError(what if total > 1 else first.what, first.why, first.remedy)

    def _refusal(self, text: np.ndarray, state: np.ndarray, code: int, size: int) -> InputError:
        line, number = self._line(text, state)
        shown = line[:120].decode("ascii", "backslashreplace")
        place = f"{self._label}, line {number}: {shown!r}"
        fields = line.split(b"\t")
        layout = "give tab-separated lines of chrom, start, end, barcode and, if known, count (10x fragments.tsv.gz)"
        n_columns = int(state[p.N_COLUMNS])
        if not 4 <= len(fields) <= 6:
            what = f"has {len(fields)} column(s) where a fragment has 4 to 6"
            if n_columns:
                what += "; the line may be cut"
            return InputError(f"{place} {what}", "a fragment cannot be read from it", layout)
        if code == p.BAD_COLUMNS:
            return InputError(
                f"{place} has {len(fields)} columns where the lines before have {n_columns}",
                "the file is cut, or was joined from files of different kinds",
                layout,
            )
        if code == p.PAST_END:
            return InputError(
                f"{place} ends past the end of the chromosome, which has {size} bp",
                "the fragments belong to another assembly than the chromosome sizes, so every count would be wrong",
                "give the assembly that the fragments were aligned to by --genome or --chrom_sizes",
            )
        if code == p.BAD_START and fields[1].startswith(b"-") and _WHOLE.fullmatch(fields[1]):
            return InputError(
                f"{place}: start (column 2) is before the start of the chromosome",
                "positions are 0-based; the fragments were moved, or belong to another assembly",
                "give the fragments as they were written, positions counted from 0",
            )
        if code == p.BAD_ORDER:
            return InputError(f"{place}: end is not after start", "the fragment has no length", layout)
        wrong = {
            p.BAD_START: "start (column 2) is not a whole number below 2^31",
            p.BAD_END: "end (column 3) is not a whole number below 2^31",
            p.BAD_COUNT: "count (column 5) is not a whole number from 1 to 2^31 - 1",
            p.BAD_BARCODE: "barcode (column 4) is empty, longer than 1,024 bytes or not printable ASCII",
            p.BAD_CHROM: "chromosome (column 1) is empty or not printable ASCII",
            p.LINE_ENDS: "a carriage return stands inside the line",
        }[code]
        return InputError(f"{place}: {wrong}", "a fragment cannot be read from it", layout)

    def _check_found(self) -> None:
        self._check_places(self.facts.fragments + sum(self.facts.left_out.values()))
        if self.facts.fragments == 0:
            raise InputError(
                f"the fragments file {self.path} holds no fragment ({self.facts.lines} lines, all comments or empty)",
                "there is nothing to count",
                "copy it again from where it was made",
            )
        if len(self.facts.other_chroms) == len(self._seen):
            raise InputError(
                f"none of the chromosomes of {self.path} ({some(self._seen)}) is one of the genome's "
                f"({some(self.asked.chrom_sizes)})",
                "every count would be zero",
                "give the assembly that the fragments were aligned to by --genome or --chrom_sizes"
                + (
                    "; the names differ only in style: set --chrom_style auto"
                    if {canonical(name) for name in self._seen} & {canonical(name) for name in self.asked.chrom_sizes}
                    else ""
                ),
            )


def _ahead(batches: Generator[Batch], n: int = 4) -> Iterator[Batch]:
    """Yield copies of batches, of which a thread makes up to `n` in advance; its errors are raised in their place."""
    queue: Queue[Batch | BaseException | None] = Queue(n)
    left = Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not left.is_set():
            with contextlib.suppress(Full):
                queue.put(item, timeout=0.2)
                return True
        return False

    def run() -> None:
        try:
            for batch in batches:
                if not put(Batch(batch.chrom, batch.position.copy(), batch.barcode.copy(), batch.count.copy())):
                    return
            put(None)
        except BaseException as error:
            put(error)
        finally:
            batches.close()

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()
        thread.join()


def left_out_text(facts: Facts, name: str) -> str | None:
    """Say how many lines of a file were left out because their fragment lies at no place; None if none was."""
    if not facts.left_out:
        return None
    n = sum(facts.left_out.values())
    total = facts.fragments + n
    reasons = ", ".join(f"{reason} {k}" for reason, k in facts.left_out.items())
    return (
        f"{name}: {n} of {total} fragments lie at no place of their chromosome and are left out ({reasons}); single "
        f"ones occur in genuine files, over {MOST_OUTSIDE:.1%} would mean another assembly"
    )


def _padded(name: bytes) -> np.ndarray:
    """Give bytes as an array of its own, ready to be read in words."""
    return np.frombuffer(bytearray(name + bytes(PADDING)), np.uint8)
