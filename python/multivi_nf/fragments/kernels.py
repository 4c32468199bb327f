"""What is added up over fragments: compiled loops over one batch each.

All take positions of one chromosome. Pointers into sorted arrays move along with the fragments, which is what makes a
sorted file cheap; a fragment out of order only makes a pointer search anew, so the sums do not depend on the order.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from multivi_nf.fragments.byte_scan import Arrays, Num, prefetch

# Columns of the table of sums: one row of 64 bytes a barcode, so that a fragment touches one place in memory. Seen as
# int32 it has ten sums and what the search for overlaps remembers; seen as int64 its last column is the sum of reads.
(
    N_NUCLEAR, N_MITO, N_TSS, N_FLANK, N_CORE, N_BLACKLIST, N_SHORT, N_MONO, N_IN_PEAKS, N_LOCI,
    END_1, END_2, END_3, LOCUS_END,
) = range(14)  # fmt: skip
N_SUMS, N_READS, N_WORDS = 10, 7, 8

TSS_REACH = 2000  # bp on each side of a TSS
TSS_CENTRE = 50  # centre window: TSS ± 50, 101 bp
TSS_FLANK = 100  # the outermost 100 bp on each side
TSS_CORE = 5  # TSS ± 5, 11 bp: the centre of SnapATAC2's definition
SHORT, MONO = 147, 294  # nucleosome-free < 147 ≤ one nucleosome < 294 bp (Signac's NucleosomeSignal)
LONGEST = 1000  # last bin of the size histogram holds all longer fragments

FRAGMENT, INSERTION, PIC = 0, 1, 2

AHEAD = 24  # fragments by which a barcode's row is asked for before it is needed


@njit(cache=True, nogil=True, inline="always")
def _seek(values: np.ndarray, index: Num, target: Num) -> Num:
    """Find the first index with values[index] >= target, near the given one if it is near."""
    n = values.shape[0]
    steps = 0
    while index < n and values[index] < target:
        index += 1
        steps += 1
        if steps > 8:
            return np.searchsorted(values, target)
    while index > 0 and values[index - 1] >= target:
        index -= 1
        steps += 1
        if steps > 8:
            return np.searchsorted(values, target)
    return index


@njit(cache=True, nogil=True, inline="always")
def _near_tss(
    site: Num, index: Num, tss: np.ndarray, reverse: np.ndarray, row: Num, sums: np.ndarray, profile: np.ndarray
) -> Num:
    """Add one cut site to every TSS within reach; the pointer moved along."""
    index = _seek(tss, index, site - TSS_REACH)
    j = index
    while j < tss.shape[0] and tss[j] <= site + TSS_REACH:
        offset = site - tss[j]
        if reverse[j]:
            offset = -offset
        profile[offset + TSS_REACH] += 1
        away = abs(offset)
        if away <= TSS_CENTRE:
            sums[row, N_TSS] += 1
            if away <= TSS_CORE:
                sums[row, N_CORE] += 1
        elif away > TSS_REACH - TSS_FLANK:
            sums[row, N_FLANK] += 1
        j += 1
    return index


# `_nrt=False`: else numba counts references to every array that an inlined function takes, fragment by fragment; these
# loops make no array, so there is nothing to count.
@njit(cache=True, nogil=True, _nrt=False)
def add_quality(
    position: np.ndarray,
    barcode: np.ndarray,
    count: np.ndarray,
    tss: np.ndarray,
    reverse: np.ndarray,
    black_start: np.ndarray,
    black_end: np.ndarray,
    autosome: bool,
    sums: np.ndarray,
    words: np.ndarray,
    sizes: np.ndarray,
    profile: np.ndarray,
    pointers: np.ndarray,
) -> None:
    """Add a batch of nuclear fragments to every per-barcode sum.

    Parameters
    ----------
    position, barcode, count
        See :class:`multivi_nf.fragments.stream.Batch`.
    tss, reverse
        Sorted sites of this chromosome and whether they are on the minus strand.
    black_start, black_end
        Disjoint, sorted regions of this chromosome.
    autosome
        Whether loci covered more than twice are counted here.
    sums, words
        int32, barcodes × 16, and the same memory as int64, barcodes × 8; added to. END_1 to END_3 are the three largest
        ends so far on this chromosome, LOCUS_END the end of the last locus: with starts in order, the positions from a
        start to the third largest end are just those newly covered by three fragments or more, so their union is the
        set covered more than twice.
    sizes, profile
        int64, LONGEST + 1 and 2 × TSS_REACH + 1; histogram of lengths and of cut sites around TSS; added to.
    pointers
        int64, 4; where the last batch of this chromosome stopped.
    """
    at_black, at_start, at_end = pointers[0], pointers[1], pointers[2]
    n_black, n_tss = black_end.shape[0], tss.shape[0]
    n = barcode.shape[0]
    for i in range(n):
        row = barcode[i]
        if i + AHEAD < n:
            prefetch(words, np.int64(barcode[i + AHEAD]))
        start, end = np.int64(position[i, 0]), np.int64(position[i, 1])
        length: Num = end - start
        sums[row, N_NUCLEAR] += 1
        words[row, N_READS] += count[i]
        sizes[min(length, LONGEST)] += 1
        sums[row, N_SHORT] += np.int32(length < SHORT)  # no branch: half of them would be guessed wrongly
        sums[row, N_MONO] += np.int32(length >= SHORT) & np.int32(length < MONO)
        black = False
        if n_black:
            at_black = _seek(black_end, at_black, start + 1)
            if at_black < n_black and black_start[at_black] < end:
                sums[row, N_BLACKLIST] += 1
                black = True
        if n_tss:
            at_start = _near_tss(start, at_start, tss, reverse, row, sums, profile)
            at_end = _near_tss(end - 1, at_end, tss, reverse, row, sums, profile)
        if autosome and not black:
            first, second, third = sums[row, END_1], sums[row, END_2], sums[row, END_3]
            if end > third:
                if end > second:
                    third = second
                    if end > first:
                        second = first
                        first = end
                    else:
                        second = end
                else:
                    third = end
                sums[row, END_1], sums[row, END_2], sums[row, END_3] = first, second, third
            if third > start:
                if start > sums[row, LOCUS_END]:
                    sums[row, N_LOCI] += 1
                if third > sums[row, LOCUS_END]:
                    sums[row, LOCUS_END] = third
    pointers[0], pointers[1], pointers[2] = at_black, at_start, at_end


@njit(cache=True, nogil=True, _nrt=False)
def add_peaks(
    position: np.ndarray,
    barcode: np.ndarray,
    n_cells: Num,
    peak_start: np.ndarray,
    peak_end: np.ndarray,
    reach: np.ndarray,
    peak_id: np.ndarray,
    strategy: Num,
    sums: np.ndarray,
    last: np.ndarray,
    cells: np.ndarray,
    peaks: np.ndarray,
    counts: np.ndarray,
    used: np.ndarray,
    pointers: np.ndarray,
) -> Num:
    """Add a batch to FRiP (every barcode) and to the matrix (barcodes below `n_cells`).

    Parameters
    ----------
    peak_start, peak_end, peak_id
        Peaks of this chromosome by start, and their number in the user's order. They may overlap.
    reach
        Largest end of all peaks up to each: sorted even where peaks lie inside others.
    strategy
        FRAGMENT, INSERTION or PIC.
    last
        int64, n_cells; where in the output the cell's last entry is, −1 for none. A cell's neighbouring fragments
        mostly meet the same peak, so most entries are complete when written; the rest is added up by the matrix.
    cells, peaks, counts
        int32; the output, filled from `used[0]` on.
    pointers
        int64; slot 3 is where the last batch of this chromosome stopped.

    Returns
    -------
    The number of fragments taken; fewer than given when the output is full.
    """
    at = pointers[3]
    n_peaks = peak_start.shape[0]
    n_used = used[0]
    capacity = cells.shape[0]
    n = taken = barcode.shape[0]
    for i in range(n):
        row = barcode[i]
        if i + AHEAD < n:
            prefetch(sums, np.int64(barcode[i + AHEAD]))
        start, end = np.int64(position[i, 0]), np.int64(position[i, 1])
        at = _seek(reach, at, start + 1)
        j = at
        hits = 0
        while j < n_peaks and peak_start[j] < end:
            if peak_end[j] > start:
                hits += 1
            j += 1
        if hits == 0:
            continue
        if row >= n_cells:
            sums[row, N_IN_PEAKS] += 1
            continue
        if n_used + hits > capacity:
            taken = i
            break
        sums[row, N_IN_PEAKS] += 1
        j = at
        while j < n_peaks and peak_start[j] < end:
            if peak_end[j] > start:
                value = 1
                if strategy != FRAGMENT:
                    value = int(peak_start[j] <= start) + int(end <= peak_end[j])
                    if strategy == PIC:
                        value = min(value, 1)
                if value:
                    entry = last[row]
                    if entry >= 0 and peaks[entry] == peak_id[j]:
                        counts[entry] += value
                    else:
                        cells[n_used], peaks[n_used], counts[n_used] = row, peak_id[j], value
                        last[row] = n_used
                        n_used += 1
            j += 1
    used[0] = n_used
    pointers[3] = at
    return taken


@njit(cache=True, nogil=True)
def fill_rows(entries: Arrays, cursor: np.ndarray, indices: np.ndarray, data: np.ndarray) -> None:
    """Put entries into their rows; `cursor` (int64, n_cells) is where each row's next entry goes."""
    cells, peaks, counts = entries
    for i in range(cells.shape[0]):
        at = cursor[cells[i]]
        indices[at], data[at] = peaks[i], counts[i]
        cursor[cells[i]] = at + 1
