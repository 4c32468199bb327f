"""From lines of text to arrays: the compiled parser and its table of barcodes.

Any barcode text goes one way: it is hashed and compared eight bytes at a time, which costs no more than packing
nucleotides into bits would, and so no second path with other limits is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from multivi_nf.fragments.byte_scan import (
    PADDING,
    Num,
    delimiters,
    field_end,
    load_byte,
    load_word,
    number,
    ones,
    prefetch,
    short_number,
    trailing_zeros,
)

# What `parse` answers. Codes from FIRST_ERROR on are errors in the line at state[POSITION].
DONE, NEW_CHROM, TABLE_FULL, OUTPUT_FULL = 0, 1, 2, 3
FIRST_ERROR = 10
BAD_COLUMNS, BAD_START, BAD_END, BAD_ORDER, BAD_COUNT, BAD_BARCODE, PAST_END, BAD_CHROM, LINE_ENDS = range(10, 19)

# Slots of the state that lives across blocks.
POSITION, N_OUT, N_LINES, N_COLUMNS, LAST_START, UNSORTED, N_FRAGMENTS, STATE_SIZE = range(8)

LONGEST_NAME = 1024
_CHUNK = 512

_TAB, _NEWLINE, _RETURN, _HASH = np.uint8(9), np.uint8(10), np.uint8(13), np.uint8(35)
_MIX, _SEED = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x2545F4914F6CDD1D)
_0, _1, _3, _16, _29, _32 = (np.uint64(n) for n in (0, 1, 3, 16, 29, 32))
_LENGTH = np.uint64(0xFFFF)
_MOST_COLUMNS = 6


@njit(cache=True, nogil=True, inline="always")
def _mix(value: Num, word: Num) -> Num:
    value = (value ^ word) * _MIX
    return value ^ (value >> _29)


@njit(cache=True, nogil=True)
def rehash(old: np.ndarray, new: np.ndarray) -> None:
    """Move every entry of a slot table to a larger one."""
    mask = new.shape[0] - 1
    for slot in range(old.shape[0]):
        if old[slot, 1] >= 0:
            to = np.int64(np.uint64(old[slot, 0]) & np.uint64(mask))
            while new[to, 1] >= 0:
                to = (to + 1) & mask
            new[to, 0], new[to, 1] = old[slot, 0], old[slot, 1]


@njit(cache=True, nogil=True, inline="always")
def _hash(text: np.ndarray, begin: Num) -> tuple[Num, Num, Num]:
    """Hash the field that starts at `begin`; also its end and its last word, cut to the field (0 if it fills words)."""
    key = _SEED
    at = begin
    word = load_word(text, at)
    stops = field_end(word)
    while stops == _0:
        key = _mix(key, word)
        at += 8
        word = load_word(text, at)
        stops = field_end(word)
    bits = (trailing_zeros(stops) >> _3) << _3
    end = at + np.int64(bits >> _3)
    word &= (_1 << bits) - _1
    key = _mix(key, word)
    key = _mix(key, np.uint64(end - begin))
    return key ^ (key >> _32), end, word


@njit(cache=True, nogil=True, inline="always")
def _find(text: np.ndarray, begin: Num, end: Num, key: Num, tail: Num, pool: np.ndarray, slots: np.ndarray) -> Num:
    """Look a barcode up: its number, or −1.

    A slot holds the hash and where in the pool the barcode is; there, number · 2¹⁶ + length, then its bytes in words.
    """
    mask = slots.shape[0] - 1
    slot = np.int64(key & np.uint64(mask))
    length = end - begin
    while slots[slot, 1] >= 0:
        if slots[slot, 0] == np.int64(key):
            at = slots[slot, 1]
            head = pool[at]
            if np.int64(head & _LENGTH) == length:
                same = True
                for i in range(length >> 3):
                    if pool[at + 1 + i] != load_word(text, begin + 8 * i):
                        same = False
                if same and (length & 7 == 0 or pool[at + 1 + (length >> 3)] == tail):
                    return np.int64(head >> _16)
        slot = (slot + 1) & mask
    return np.int64(-1)


@njit(cache=True, nogil=True)
def _add(
    text: np.ndarray,
    begin: Num,
    end: Num,
    key: Num,
    tail: Num,
    pool: np.ndarray,
    slots: np.ndarray,
    places: np.ndarray,
    used: np.ndarray,
) -> Num:
    """Add a barcode that is not in the table, which has room: its number, or −1 when it is not a barcode."""
    length = end - begin
    words = (length + 7) >> 3
    if length > LONGEST_NAME:
        return -1
    for i in range(begin, end):
        if text[i] < 33 or text[i] > 126:
            return -1
    at = used[1]
    pool[at] = (np.uint64(used[0]) << _16) | np.uint64(length)
    for i in range(length >> 3):
        pool[at + 1 + i] = load_word(text, begin + 8 * i)
    if length & 7:
        pool[at + words] = tail
    mask = slots.shape[0] - 1
    slot = np.int64(key & np.uint64(mask))
    while slots[slot, 1] >= 0:
        slot = (slot + 1) & mask
    slots[slot, 0], slots[slot, 1] = np.int64(key), at
    places[used[0]] = at
    used[0] += 1
    used[1] += words + 1
    return used[0] - 1


@njit(cache=True, nogil=True, inline="always")
def _hash_between(text: np.ndarray, begin: Num, end: Num) -> tuple[Num, Num]:
    """Hash a field of known bounds, just as :func:`_hash` does."""
    key = _SEED
    length = end - begin
    for i in range(length >> 3):
        key = _mix(key, load_word(text, begin + 8 * i))
    word = load_word(text, begin + (length >> 3 << 3)) & ((_1 << np.uint64((length & 7) << 3)) - _1)
    key = _mix(_mix(key, word), np.uint64(length))
    return key ^ (key >> _32), word


@njit(cache=True, nogil=True)
def _mark(text: np.ndarray, at: Num, stop: Num, wanted: Num, marks: np.ndarray) -> Num:
    """Write where tabs and line ends lie, from `at` on, until `wanted` are found or the text ends; how many."""
    n: Num = 0
    while at < stop and n < wanted:
        bits = delimiters(text, at)
        if stop - at < 64:
            bits &= (_1 << np.uint64(stop - at)) - _1
        first: Num = n
        rest = bits
        while rest:  # eight at a time, of which the last may be void: no guess of how many there are
            for _ in range(8):
                marks[n] = at + np.int64(trailing_zeros(rest))
                n += 1
                rest &= rest - _1
        n = first + np.int64(ones(bits))
        at += 64
    return n


@njit(cache=True, nogil=True, _nrt=False)
def _regular(
    text: np.ndarray,
    at: Num,
    stop: Num,
    chrom: np.ndarray,
    keep: bool,
    size: Num,
    n_columns: Num,
    last: Num,
    limit: Num,
    marks: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    keys: np.ndarray,
    tails: np.ndarray,
    out_pos: np.ndarray,
    out_count: np.ndarray,
    n_out: Num,
    slots: np.ndarray,
) -> tuple[Num, Num, Num, bool, Num]:
    """Take up to `limit` lines that are as nearly all are; the first other one is left to the loop that can judge it.

    All tabs and line ends of the chunk are found first, 64 bytes at a time; then no field has to wait for the end of
    the one before, and the processor works on several fields and lines at once.

    Returns
    -------
    Lines taken, where the next one begins, its start before, whether one was out of order, words of their barcodes.
    """
    n_chrom = chrom.shape[0] - PADDING
    name = load_word(chrom, 0)
    name_mask = ~_0 if n_chrom >= 8 else (_1 << np.uint64(8 * max(n_chrom, 0))) - _1
    n_marks = _mark(text, at, stop, limit * n_columns, marks)
    n_lines = min(n_marks // n_columns, limit)
    mask = slots.shape[0] - 1
    unsorted = False
    n_words = 0
    n = 0
    while n < n_lines:
        mark = n * n_columns
        tab_1, tab_2, tab_3, tab_4 = marks[mark], marks[mark + 1], marks[mark + 2], marks[mark + 3]
        newline = marks[mark + n_columns - 1]
        same = tab_1 - at == n_chrom - 1 and (load_word(text, at) & name_mask) == name
        for i in range(8, n_chrom):
            same &= load_byte(text, at + i) == chrom[i]
        same &= load_byte(text, tab_2) == _TAB and load_byte(text, tab_3) == _TAB
        same &= load_byte(text, newline) == _NEWLINE and tab_4 > tab_3 + 1
        count = np.int64(1)
        if n_columns > 4:
            same &= load_byte(text, tab_4) == _TAB
            after = marks[mark + 4]
            if n_columns > 5:
                same &= load_byte(text, after) == _TAB
            if after == tab_4 + 2:
                count = np.int64(load_byte(text, tab_4 + 1)) - 48
                same &= count < 10
            else:
                count = short_number(load_word(text, after - 8), load_byte(text, tab_4 + 1), after - tab_4 - 1)
        start = short_number(load_word(text, tab_2 - 8), load_byte(text, tab_1 + 1), tab_2 - tab_1 - 1)
        end = short_number(load_word(text, tab_3 - 8), load_byte(text, tab_2 + 1), tab_3 - tab_2 - 1)
        if not same or start < 0 or end <= start or count < 1 or (keep and end > size):
            break
        begin = tab_3 + 1
        key, tail = _hash_between(text, begin, tab_4)
        if keep:
            prefetch(slots, np.int64(key & np.uint64(mask)))
        begins[n], ends[n], keys[n], tails[n] = begin, tab_4, key, tail
        n_words += ((tab_4 - begin + 7) >> 3) + 1
        out_pos[n_out + n, 0] = start
        out_pos[n_out + n, 1] = end
        out_count[n_out + n] = count
        unsorted |= start < last
        last = start
        at = newline + 1
        n += 1
    return n, at, last, unsorted, n_words


def scratch() -> tuple[np.ndarray, ...]:
    """Room for one chunk of lines: where barcodes begin and end, line numbers, hashes, last words, tabs and ends."""
    lines = [np.empty(_CHUNK, np.int64) for _ in range(3)]
    hashes = [np.empty(_CHUNK, np.uint64) for _ in range(2)]
    return (*lines, *hashes, np.empty(_CHUNK * _MOST_COLUMNS + 72, np.int64))


# `_nrt=False`: see kernels.py
@njit(cache=True, nogil=True, _nrt=False)
def parse(
    text: np.ndarray,
    stop: Num,
    chrom: np.ndarray,
    keep: bool,
    size: Num,
    state: np.ndarray,
    pool: np.ndarray,
    slots: np.ndarray,
    places: np.ndarray,
    used: np.ndarray,
    is_open: bool,
    out_pos: np.ndarray,
    out_barcode: np.ndarray,
    out_count: np.ndarray,
    room_for_chunk: tuple[np.ndarray, ...],
) -> Num:
    """Parse lines until the text ends, the chromosome changes or an output is full.

    It goes chunk by chunk: first all lines, then all barcodes. In a loop of nothing but look-ups the processor waits
    for several places of the table at once, which halves the cost of barcodes that are seldom met.

    Parameters
    ----------
    text
        uint8; whole lines up to `stop`, each ended by a newline, and `PADDING` bytes after it.
    chrom
        uint8; name of the current chromosome and a tab, empty before the first line; `PADDING` bytes after it.
    keep
        Whether fragments of this chromosome are wanted; others are checked and left out.
    size
        Length of the chromosome in bp.
    state, used
        int64; see the slot names above; changed in place. `used` = [number of barcodes, words in the pool].
    pool, slots, places
        The table of barcodes.
    is_open
        Whether unknown barcodes are added (else they are skipped).
    out_pos
        int32, n × 2; start and end of the fragments kept.
    out_barcode, out_count
        int32; number of the barcode, support (column 5, else 1).
    room_for_chunk
        :func:`scratch`.

    Returns
    -------
    One of the codes above. `state[POSITION]` is the first line not yet taken.
    """
    begins, ends, lines, keys, tails, marks = room_for_chunk
    n_chrom = chrom.shape[0] - PADDING
    name = load_word(chrom, 0)
    name_mask = ~_0 if n_chrom >= 8 else (_1 << np.uint64(8 * max(n_chrom, 0))) - _1
    code = DONE
    while code == DONE and state[POSITION] < stop:
        at, n_out, n_lines, n_columns = state[POSITION], state[N_OUT], state[N_LINES], state[N_COLUMNS]
        last, unsorted, n_fragments = state[LAST_START], state[UNSORTED], state[N_FRAGMENTS]
        n_words = 0
        n = 0
        room = min(_CHUNK, out_barcode.shape[0] - n_out)
        if n_chrom > 0 and n_columns > 0 and at >= 8 and room > 0:
            n, at, last, late, n_words = _regular(
                text, at, stop, chrom, keep, size, n_columns, last, room, marks, begins, ends, keys, tails, out_pos,
                out_count, n_out, slots,
            )  # fmt: skip
            unsorted |= np.int64(late)
            for i in range(n):
                lines[i] = n_lines + i
            n_lines += n
            n_fragments += n
        irregular = n
        while at < stop and n < _CHUNK and n < irregular + 8:
            line = at
            # column 1: nearly always the name of the line before, and never that of a comment
            same = n_chrom > 0 and (load_word(text, at) & name_mask) == name
            for i in range(8, n_chrom):
                if load_byte(text, at + i) != chrom[i]:
                    same = False
                    break
            if not same:
                first = load_byte(text, at)
                if first == _HASH:
                    while load_byte(text, at) != _NEWLINE:
                        at += 1
                    at += 1
                    n_lines += 1
                    continue
                if first == _NEWLINE or (first == _RETURN and load_byte(text, at + 1) == _NEWLINE):
                    at += 1 if first == _NEWLINE else 2
                    n_lines += 1
                    continue
                code = NEW_CHROM
                break
            if n >= room:
                code = OUTPUT_FULL
                break
            start, at = number(text, at + n_chrom)
            if start < 0 or load_byte(text, at) != _TAB:
                code = BAD_START
                at = line
                break
            end, at = number(text, at + 1)
            if end < 0 or load_byte(text, at) != _TAB:
                code = BAD_END
                at = line
                break
            if end <= start:
                code = BAD_ORDER
                at = line
                break
            if keep and end > size:
                code = PAST_END
                at = line
                break
            begin = at + 1
            key, at, tail = _hash(text, begin)
            if at == begin:
                code = BAD_BARCODE
                at = line
                break
            begins[n], ends[n], keys[n], tails[n], lines[n] = begin, at, key, tail, n_lines
            n_words += ((at - begin + 7) >> 3) + 1
            columns = 4
            count = np.int64(1)
            mark = load_byte(text, at)
            if mark == _TAB:
                columns = 5
                count, at = number(text, at + 1)
                mark = load_byte(text, at)
                if count < 1 or (mark != _NEWLINE and mark != _TAB and mark != _RETURN):
                    code = BAD_COUNT
                    at = line
                    break
                if mark == _TAB:
                    columns = 6
                    at += 1
                    mark = load_byte(text, at)
                    while mark != _NEWLINE and mark != _TAB and mark != _RETURN:
                        at += 1
                        mark = load_byte(text, at)
            if mark == _TAB or (columns != n_columns and n_columns > 0):
                code = BAD_COLUMNS
                at = line
                break
            if mark == _RETURN:
                at += 1
                if load_byte(text, at) != _NEWLINE:
                    code = LINE_ENDS
                    at = line
                    break
            at += 1
            n_columns = columns
            n_lines += 1
            n_fragments += 1
            unsorted |= np.int64(start < last)
            last = start
            out_pos[n_out + n, 0] = start
            out_pos[n_out + n, 1] = end
            out_count[n_out + n] = count
            n += 1
        if keep:
            if is_open and (
                2 * (used[0] + n) > slots.shape[0] or used[0] + n > places.shape[0] or used[1] + n_words > pool.shape[0]
            ):
                return TABLE_FULL  # nothing of this chunk is booked; it is parsed again with a larger table
            mask = slots.shape[0] - 1
            for i in range(n):
                place = slots[np.int64(keys[i] & np.uint64(mask)), 1]
                if place >= 0:
                    prefetch(pool, place)
            for i in range(n):
                out_barcode[n_out + i] = _find(text, begins[i], ends[i], keys[i], tails[i], pool, slots)
            kept = n_out
            for i in range(n):
                barcode = np.int64(out_barcode[n_out + i])
                if barcode < 0:
                    if not is_open:
                        continue
                    # it may have been added since it was not found
                    barcode = _find(text, begins[i], ends[i], keys[i], tails[i], pool, slots)
                    if barcode < 0:
                        barcode = _add(text, begins[i], ends[i], keys[i], tails[i], pool, slots, places, used)
                    if barcode < 0:
                        code = BAD_BARCODE
                        at = begins[i] - 1
                        while at > state[POSITION] and load_byte(text, at - 1) != _NEWLINE:
                            at -= 1
                        n_lines = lines[i]
                        break
                out_pos[kept, 0] = out_pos[n_out + i, 0]
                out_pos[kept, 1] = out_pos[n_out + i, 1]
                out_barcode[kept] = barcode
                out_count[kept] = out_count[n_out + i]
                kept += 1
            n_out = kept
        state[POSITION], state[N_OUT], state[N_LINES], state[N_COLUMNS] = at, n_out, n_lines, n_columns
        state[LAST_START], state[UNSORTED], state[N_FRAGMENTS] = last, unsorted, n_fragments
    return code


class BarcodeTable:
    """Barcodes seen so far, numbered in order of first appearance; `known` ones come first.

    Parameters
    ----------
    known
        Barcodes to number before reading, unique.
    is_open
        Whether barcodes met in the file are added.
    """

    def __init__(self, known: Sequence[str] = (), is_open: bool = True) -> None:
        self.is_open = is_open
        self.used = np.zeros(2, np.int64)
        n = max(1 << 14, 1 << (4 * max(len(known), 1) - 1).bit_length())
        self.slots = np.full((n, 2), -1, np.int64)
        self.places = np.zeros(n // 2, np.int64)
        words = sum((len(name) + 7) // 8 + 1 for name in known)
        self.pool = np.zeros(max(2 * n, words), np.uint64)
        if len(known):
            text = np.frombuffer(bytearray("\n".join([*known, ""]).encode("ascii") + bytes(8)), np.uint8)
            add_all(text, len(known), (self.pool, self.slots, self.places, self.used))

    def grow(self) -> None:
        """Double every part of the table."""
        slots = np.full((2 * self.slots.shape[0], 2), -1, np.int64)
        rehash(self.slots, slots)
        self.slots = slots
        self.places = np.concatenate([self.places, np.zeros_like(self.places)])
        self.pool = np.concatenate([self.pool, np.zeros(max(len(self.pool), LONGEST_NAME), np.uint64)])

    def __len__(self) -> int:
        return int(self.used[0])

    def names(self) -> list[str]:
        """All barcodes as text, in the order of their numbers."""
        raw = self.pool[: self.used[1]].tobytes().decode("latin-1")
        places = self.places[: len(self)]
        lengths = (self.pool[places] & _LENGTH).astype(np.int64)
        return [raw[8 * at + 8 : 8 * at + 8 + n] for at, n in zip(places.tolist(), lengths.tolist())]


@njit(cache=True, nogil=True)
def add_all(text: np.ndarray, n: Num, table: tuple[np.ndarray, ...]) -> None:
    """Add `n` different newline-ended barcodes to a table that has room for them."""
    pool, slots, places, used = table
    at = 0
    for _ in range(n):
        key, end, tail = _hash(text, at)
        _add(text, at, end, key, tail, pool, slots, places, used)
        at = end + 1
