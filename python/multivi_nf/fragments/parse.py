"""From lines of text to arrays: the compiled parser and its table of barcodes.

Any barcode text goes one way: it is hashed and compared eight bytes at a time, which costs no more than packing
nucleotides into bits would, and so no second path with other limits is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from multivi_nf.fragments.words import load_word, trailing_zeros

# What `parse` answers. Codes from FIRST_ERROR on are errors in the line at state[POSITION].
DONE, NEW_CHROM, TABLE_FULL, OUTPUT_FULL = 0, 1, 2, 3
FIRST_ERROR = 10
BAD_COLUMNS, BAD_START, BAD_END, BAD_ORDER, BAD_COUNT, BAD_BARCODE, PAST_END, BAD_CHROM, LINE_ENDS = range(10, 19)

# Slots of the state that lives across blocks.
POSITION, N_OUT, N_LINES, N_COLUMNS, LAST_START, UNSORTED, N_FRAGMENTS, STATE_SIZE = range(8)

_ZERO, _TEN = np.uint64(48), np.uint64(10)

LONGEST_NAME = 1024
LARGEST = 2**31 - 1

_TAB, _NEWLINE, _RETURN, _HASH = np.uint8(9), np.uint8(10), np.uint8(13), np.uint8(35)
_ONES, _TOPS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_TABS, _NEWLINES, _RETURNS = _ONES * np.uint64(9), _ONES * np.uint64(10), _ONES * np.uint64(13)
_MIX, _SHIFT, _ONE, _EIGHT, _SEED = (
    np.uint64(0x9E3779B97F4A7C15), np.uint64(29), np.uint64(1), np.uint64(8), np.uint64(0x2545F4914F6CDD1D),
)  # fmt: skip


@njit(cache=True, nogil=True, inline="always")
def _stops(word):
    """Give 0x80 in the lowest byte that is a tab or an end of line (bytes above it may be wrong), else 0."""
    tab, newline, carriage = word ^ _TABS, word ^ _NEWLINES, word ^ _RETURNS
    return (
        ((tab - _ONES) & ~tab) | ((newline - _ONES) & ~newline) | ((carriage - _ONES) & ~carriage)
    ) & _TOPS


@njit(cache=True, nogil=True, inline="always")
def _mix(value, word):
    value = (value ^ word) * _MIX
    return value ^ (value >> _SHIFT)


@njit(cache=True, nogil=True)
def _place(slots, key, identity):
    mask = slots.shape[0] - 1
    slot = np.int64(key & np.uint64(mask))
    while slots[slot, 1] >= 0:
        slot = (slot + 1) & mask
    slots[slot, 0] = np.int64(key)
    slots[slot, 1] = identity


@njit(cache=True, nogil=True)
def rehash(old, new):
    """Move every entry of a slot table to a larger one."""
    for slot in range(old.shape[0]):
        if old[slot, 1] >= 0:
            _place(new, np.uint64(old[slot, 0]), old[slot, 1])


@njit(cache=True, nogil=True)
def _barcode(text, begin, pool, slots, entries, used, is_open, answer):
    """Find or add the barcode that starts at `begin`.

    Sets answer[0] to its number (−1 unknown, −2 table full, −3 not a barcode) and answer[1] to its end.

    `pool` holds barcodes as zero-padded words from `entries[i, 0]` on, `entries[i, 1]` is the length in bytes;
    `used` = [number of barcodes, words in the pool].
    """
    key = _SEED
    at = begin
    while True:
        word = load_word(text, at)
        stops = _stops(word)
        if stops:
            break
        key = _mix(key, word)
        at += 8
    tail = trailing_zeros(stops) >> np.uint64(3)
    end = at + np.int64(tail)
    if tail:
        word &= (_ONE << (tail * _EIGHT)) - _ONE
        key = _mix(key, word)
    length = end - begin
    key = _mix(key, np.uint64(length))
    key ^= key >> np.uint64(32)
    answer[1] = end
    mask = slots.shape[0] - 1
    slot = np.int64(key & np.uint64(mask))
    while slots[slot, 1] >= 0:
        if slots[slot, 0] == np.int64(key):
            identity = slots[slot, 1]
            if entries[identity, 1] == length:
                word_at = entries[identity, 0]
                same = True
                for i in range(length >> 3):
                    if pool[word_at + i] != load_word(text, begin + 8 * i):
                        same = False
                        break
                if same and (tail == 0 or pool[word_at + (length >> 3)] == word):
                    answer[0] = identity
                    return
        slot = (slot + 1) & mask
    if not is_open:
        answer[0] = -1
        return
    words = (length + 7) >> 3
    if 2 * (used[0] + 1) > slots.shape[0] or used[0] >= entries.shape[0] or used[1] + words > pool.shape[0]:
        answer[0] = -2
        return
    for i in range(begin, end):
        if text[i] < 33 or text[i] > 126:
            answer[0] = -3
            return
    if length == 0 or length > LONGEST_NAME:
        answer[0] = -3
        return
    identity = used[0]
    entries[identity, 0] = used[1]
    entries[identity, 1] = length
    for i in range(length >> 3):
        pool[used[1] + i] = load_word(text, begin + 8 * i)
    if tail:
        pool[used[1] + words - 1] = word
    used[0] += 1
    used[1] += words
    slots[slot, 0] = np.int64(key)
    slots[slot, 1] = identity
    answer[0] = identity


@njit(cache=True, nogil=True, inline="always")
def _number(text, at):
    """Read digits at `at`: (value, index after them); value −1 when there are none or it exceeds 2³¹ − 1."""
    value = np.int64(0)
    begin = at
    digit = np.uint64(text[at]) - _ZERO
    while digit < _TEN:
        value = value * 10 + np.int64(digit)
        at += 1
        digit = np.uint64(text[at]) - _ZERO
        if at - begin > 10:
            return np.int64(-1), at
    if at == begin or value > LARGEST:
        return np.int64(-1), at
    return value, at


@njit(cache=True, nogil=True)
def parse(text, stop, chrom, keep, size, state, pool, slots, entries, used, is_open, out_pos, out_barcode, out_count):
    """Parse lines until the text ends, the chromosome changes or an output is full.

    Parameters
    ----------
    text
        uint8; whole lines up to `stop`, each ended by a newline, and `PADDING` bytes after it.
    chrom
        uint8; name of the current chromosome, empty before the first line.
    keep
        Whether fragments of this chromosome are wanted; others are checked and left out.
    size
        Length of the chromosome in bp.
    state, used
        int64; see the slot names above; changed in place.
    pool, slots, entries
        The table of barcodes.
    is_open
        Whether unknown barcodes are added (else they are skipped).
    out_pos
        int32, n × 2; start and end of the fragments kept.
    out_barcode, out_count
        int32; number of the barcode, support (column 5, else 1).

    Returns
    -------
    One of the codes above. `state[POSITION]` is the first line not yet taken.
    """
    answer = np.empty(2, np.int64)
    at = state[POSITION]
    n_out = state[N_OUT]
    n_lines = state[N_LINES]
    n_columns = state[N_COLUMNS]
    last = state[LAST_START]
    unsorted = state[UNSORTED]
    n_chrom = chrom.shape[0]
    capacity = out_barcode.shape[0]
    code = DONE
    while at < stop:
        line = at
        first = text[at]
        if first == _HASH:
            while text[at] != _NEWLINE:
                at += 1
            at += 1
            n_lines += 1
            continue
        if first == _NEWLINE or (first == _RETURN and text[at + 1] == _NEWLINE):
            at += 1 if first == _NEWLINE else 2
            n_lines += 1
            continue
        if n_out >= capacity:
            code = OUTPUT_FULL
            break
        # column 1: nearly always the name of the line before
        same = n_chrom > 0
        for i in range(n_chrom):
            if text[at + i] != chrom[i]:
                same = False
                break
        if not same or text[at + n_chrom] != _TAB:
            code = NEW_CHROM
            break
        start, at = _number(text, at + n_chrom + 1)
        if start < 0 or text[at] != _TAB:
            code = BAD_START
            at = line
            break
        end, at = _number(text, at + 1)
        if end < 0 or text[at] != _TAB:
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
        if keep:
            _barcode(text, at + 1, pool, slots, entries, used, is_open, answer)
            barcode = answer[0]
            if barcode < -1:
                code = TABLE_FULL if barcode == -2 else BAD_BARCODE
                at = line
                break
            at = answer[1]
        else:
            barcode = np.int64(-1)
            at += 1
            begin = at
            while text[at] != _TAB and text[at] != _NEWLINE and text[at] != _RETURN:
                at += 1
            if at == begin:
                code = BAD_BARCODE
                at = line
                break
        columns = 4
        count = np.int64(1)
        if text[at] == _TAB:
            columns = 5
            count, at = _number(text, at + 1)
            if count < 1 or (text[at] != _NEWLINE and text[at] != _TAB and text[at] != _RETURN):
                code = BAD_COUNT
                at = line
                break
            if text[at] == _TAB:
                columns = 6
                at += 1
                while text[at] != _NEWLINE and text[at] != _TAB and text[at] != _RETURN:
                    at += 1
        if text[at] == _TAB or (n_columns > 0 and columns != n_columns):
            code = BAD_COLUMNS
            at = line
            break
        if text[at] == _RETURN:
            at += 1
            if text[at] != _NEWLINE:
                code = LINE_ENDS
                at = line
                break
        at += 1
        n_columns = columns
        n_lines += 1
        unsorted |= np.int64(start < last)
        last = start
        if barcode >= 0:
            out_pos[n_out, 0] = start
            out_pos[n_out, 1] = end
            out_barcode[n_out] = barcode
            out_count[n_out] = count
            n_out += 1
        state[N_FRAGMENTS] += 1
    state[POSITION] = at
    state[N_OUT] = n_out
    state[N_LINES] = n_lines
    state[N_COLUMNS] = n_columns
    state[LAST_START] = last
    state[UNSORTED] = unsorted
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
        words = sum((len(name.encode()) + 7) // 8 for name in known)
        self.slots = np.full((n, 2), -1, np.int64)
        self.entries = np.zeros((n // 2, 2), np.int64)
        self.pool = np.zeros(max(4 * n // 2, words), np.uint64)
        if len(known):
            text = np.frombuffer("\n".join([*known, ""]).encode() + bytes(8), np.uint8).copy()
            self.refused = _add_all(text, len(known), self.pool, self.slots, self.entries, self.used)

    def grow(self) -> None:
        """Double every part of the table."""
        slots = np.full((2 * self.slots.shape[0], 2), -1, np.int64)
        rehash(self.slots, slots)
        self.slots = slots
        self.entries = np.concatenate([self.entries, np.zeros_like(self.entries)])
        self.pool = np.concatenate([self.pool, np.zeros(max(len(self.pool), LONGEST_NAME), np.uint64)])

    def __len__(self) -> int:
        return int(self.used[0])

    def names(self) -> list[str]:
        """All barcodes as text, in the order of their numbers."""
        raw = self.pool.tobytes()
        return [
            raw[8 * first : 8 * first + length].decode("ascii")
            for first, length in self.entries[: len(self)].tolist()
        ]


@njit(cache=True, nogil=True)
def _add_all(text, n, pool, slots, entries, used):
    """Add `n` newline-ended barcodes; the number of the first that could not be added, else −1."""
    answer = np.empty(2, np.int64)
    at = 0
    for i in range(n):
        before = used[0]
        _barcode(text, at, pool, slots, entries, used, True, answer)
        if answer[0] < -1 or used[0] == before:
            return i
        at = answer[1] + 1
    return -1
