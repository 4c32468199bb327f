"""One pass over a fragments file: quality of every barcode, and the cells × peaks matrix where peaks are given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.errors import InputError
from multivi_nf.fragments import kernels as k
from multivi_nf.fragments.kept import KeptFragments, KeptWriter, open_fragments
from multivi_nf.fragments.names import some
from multivi_nf.fragments.preview import SampledBlocks
from multivi_nf.fragments.stream import Asked, Batch, Facts, FragmentStream
from multivi_nf.inputs.chromosomes import harmonise, wrong_assembly
from multivi_nf.inputs.genome import Genome
from multivi_nf.io.files import written_whole
from multivi_nf.io.processors import threads_given
from multivi_nf.io.progress import bytes_read

STRATEGIES = {"fragment": k.FRAGMENT, "insertion": k.INSERTION, "pic": k.PIC}

_ENTRIES = 1 << 20
_SEX = {"x", "y", "w", "z"}
_NONE = np.zeros(0, np.int64)


@dataclass
class Scan:
    """What one pass found.

    Attributes
    ----------
    table
        One row a barcode (index), the given ones first, then in order of appearance; columns of :func:`quality_table`.
    matrix
        CSR int32, given barcodes × peaks; None without peaks.
    sizes
        Fragments by length 0 to 1,000 bp, the last bin all longer ones; over all barcodes.
    profile
        Cut sites at −2,000 to 2,000 bp of TSS, in the direction of transcription, over all barcodes; None without TSS.
    facts
        See :class:`multivi_nf.fragments.stream.Facts`.
    chroms_met
        The genome's chromosomes that the file has, in its order.
    renamed_peaks
        Chromosomes of the peaks whose name differs from the genome's.
    peaks_outside
        Peaks that reach past their chromosome's end.
    """

    table: pd.DataFrame
    matrix: sparse.csr_matrix | None
    sizes: np.ndarray
    profile: np.ndarray | None
    facts: Facts
    chroms_met: list[str] = field(default_factory=list)
    renamed_peaks: dict[str, str] = field(default_factory=dict)
    peaks_outside: int = 0


def scan(
    path: str | Path,
    genome: Genome,
    *,
    barcodes: Sequence[str] = (),
    only_these: bool = False,
    peaks: pd.DataFrame | None = None,
    strategy: str = "fragment",
    quality: bool = True,
    on_progress: Callable[[int], None] | None = None,
    blocks: SampledBlocks | None = None,
    kept: Path | None = None,
    threads: int = 0,
) -> Scan:
    """Read a fragments file once and add up everything asked for.

    Parameters
    ----------
    path
        The file; see :class:`multivi_nf.fragments.stream.FragmentStream`. Without `quality` also one that an earlier
        pass wrote to `kept`.
    genome
        Sizes, and TSS and blacklist where known.
    barcodes
        The cells: rows of the matrix, in this order; those without fragments get empty rows.
    only_these
        Pass over all other barcodes (faster, and memory does not depend on their number).
    peaks
        Columns `chrom`, `start`, `end` (:func:`multivi_nf.inputs.intervals.read_bed`), in any order.
    strategy
        `fragment`: a fragment counts once in every peak that it overlaps. `insertion`: each of its two cut sites (first
        and last base) counts in the peak that holds it. `pic`: once if at least one cut site is in the peak (paired
        insertion counts, Miao & Kim 2024).
    quality
        Whether to compute more than the number of fragments in peaks.
    on_progress
        Called with the bytes read; by default progress is shown on stderr.
    blocks
        Where the text comes from, if not from the whole file (:class:`multivi_nf.fragments.preview.SampledBlocks`).
    kept
        File to leave the fragments of `barcodes` (of all, if none are given) in, for later passes
        (:mod:`multivi_nf.fragments.kept`); 8 bytes a fragment.
    threads
        Threads to read with; 0 = those given to this process. The result is the same.

    Raises
    ------
    InputError
        From the stream, or: peaks and fragments share no chromosome, peaks past the end, the same peak twice.
    """
    if strategy not in STRATEGIES:
        raise InputError(
            f"counting strategy {strategy!r} is not known",
            "fragments could not be counted",
            f"give one of {', '.join(STRATEGIES)}",
        )
    with bytes_read(Path(path), on_progress) as progress, contextlib.ExitStack() as stack:
        asked = Asked(genome.chrom_sizes, barcodes, only_these, genome.style)
        stream: FragmentStream | KeptFragments
        if quality:
            stream = FragmentStream(path, asked, progress, blocks=blocks, threads=threads or threads_given())
        else:
            stream = open_fragments(path, asked, progress)
        writer = None
        if kept is not None:
            handle = stack.enter_context(stack.enter_context(written_whole(kept)).open("wb"))
            writer = KeptWriter(handle, genome.chrom_sizes, len(barcodes))
        sums = _Sums(genome, quality)
        matrix = None if peaks is None else _Matrix(peaks, genome, len(barcodes), STRATEGIES[strategy])
        for batch in stream:
            sums.add(batch, stream.n_barcodes())
            if writer is not None:
                writer.add(batch)
            if matrix is not None and not genome.mitochondrial(sums.name):
                matrix.add(batch, sums)
        sums.resize(stream.n_barcodes())
        if writer is not None:
            writer.finish(stream)
    if matrix is not None:
        matrix.check_met(stream, path)
    return Scan(
        table=quality_table(stream, sums, with_peaks=matrix is not None),
        matrix=None if matrix is None else matrix.finish(),
        sizes=sums.sizes,
        profile=sums.profile if genome.tss is not None else None,
        facts=stream.facts,
        chroms_met=stream.chroms_met(),
        renamed_peaks={} if matrix is None else matrix.renamed,
        peaks_outside=0 if matrix is None else matrix.outside,
    )


def tss_enrichment(n_tss: np.ndarray, n_flank: np.ndarray) -> np.ndarray:
    """TSS enrichment per barcode: cut sites per bp within ± 50 bp of TSS over those of the flanks.

    Flanks are the outermost 100 bp on each side of ± 2,000 bp, as in ENCODE's score; they are taken as at least 0.1 cut
    sites per bp (ArchR's floor), so that barcodes with few fragments do not score high by an empty flank.
    """
    width = 2 * k.TSS_CENTRE + 1
    return (n_tss / width) / np.maximum(n_flank / (2 * k.TSS_FLANK), 0.1)


def quality_table(stream: FragmentStream | KeptFragments, sums: _Sums, *, with_peaks: bool) -> pd.DataFrame:
    """Turn sums into the documented columns; a value that cannot be known (no TSS, no blacklist, no order) is NaN.

    Columns
    -------
    n_fragments
        Fragments on nuclear chromosomes; each line of the file is one fragment, whatever its support.
    n_reads, duplicate_fraction
        Sum of column 5 over nuclear and mitochondrial fragments; 1 − fragments / reads of both.
    n_mito, mito_fraction
        Mitochondrial fragments, and their share of all.
    n_tss, n_flank, n_tss_core, tsse
        Cut sites within ± 50 bp, in the flanks, within ± 5 bp of TSS; see :func:`tss_enrichment`. SnapATAC2's score is
        (n_tss_core / 11) / (n_flank / 200 + 0.1).
    n_blacklist, blacklist_fraction
        Fragments that overlap the blacklist, and their share.
    n_nucleosome_free, n_mononucleosome, nucleosome_signal
        Fragments < 147 bp, of 147 to 293 bp, and the second over the first (Signac).
    n_overlap_loci
        Stretches of an autosome covered by more than two fragments (AMULET's idea); needs a sorted file.
    n_outside
        Lines of the barcode that were left out, since their fragment lies at no place of its chromosome.
    n_in_peaks, frip
        Nuclear fragments that overlap any peak, and their share of the nuclear ones.
    """
    names, genome, reads = stream.barcodes(), sums.genome, sums.words[:, k.N_READS]
    columns = {name: sums.sums[:, i] for i, name in enumerate(_SUM_NAMES)}
    nuclear = columns["n_fragments"]
    table = pd.DataFrame({"n_fragments": nuclear}, index=pd.Index(names, name="barcode"))
    missing = np.full(len(names), np.nan)
    if sums.quality:
        table["n_reads"] = reads
        table["duplicate_fraction"] = _share(reads - nuclear - columns["n_mito"], reads)
        table["n_mito"] = columns["n_mito"]
        table["mito_fraction"] = _share(columns["n_mito"], columns["n_mito"] + nuclear)
        for name in ("n_tss", "n_flank", "n_tss_core"):
            table[name] = columns[name] if genome.tss is not None else missing
        table["tsse"] = tss_enrichment(columns["n_tss"], columns["n_flank"]) if genome.tss is not None else missing
        known = genome.blacklist is not None
        table["n_blacklist"] = columns["n_blacklist"] if known else missing
        table["blacklist_fraction"] = _share(columns["n_blacklist"], nuclear) if known else missing
        table["n_nucleosome_free"] = columns["n_nucleosome_free"]
        table["n_mononucleosome"] = columns["n_mononucleosome"]
        table["nucleosome_signal"] = _share(columns["n_mononucleosome"], columns["n_nucleosome_free"])
        table["n_overlap_loci"] = columns["n_overlap_loci"] if stream.facts.sorted else missing
        table["n_outside"] = [stream.left_out_of.get(name, 0) for name in names] if stream.left_out_of else 0
    if with_peaks:
        table["n_in_peaks"] = columns["n_in_peaks"]
        table["frip"] = _share(columns["n_in_peaks"], nuclear)
    return table


_SUM_NAMES = (
    "n_fragments n_mito n_tss n_flank n_tss_core n_blacklist n_nucleosome_free n_mononucleosome n_in_peaks "
    "n_overlap_loci"
).split()


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; 0 where there is nothing to take a share of."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


class _Sums:
    """Per-barcode sums that grow with the number of barcodes, and the regions of the current chromosome."""

    def __init__(self, genome: Genome, quality: bool) -> None:
        self.genome = genome
        self.quality = quality
        self.names = list(genome.chrom_sizes)
        self.name = ""
        self._show(np.zeros((0, k.N_WORDS), np.int64))
        self.sizes = np.zeros(k.LONGEST + 1, np.int64)
        self.profile = np.zeros(2 * k.TSS_REACH + 1, np.int64)
        self.pointers = np.zeros(4, np.int64)
        self._tss = _by_chrom(genome.tss, ["pos", "strand"])
        self._black = _by_chrom(genome.blacklist, ["start", "end"])

    def resize(self, n: int) -> None:
        """Make just `n` rows, zeros where new."""
        words = np.zeros((n, k.N_WORDS), np.int64)
        old = min(n, len(self.words))
        words[:old] = self.words[:old]
        self._show(words)
        self.sums[old:, k.LOCUS_END] = -1

    def _show(self, words: np.ndarray) -> None:
        self.words = words
        self.sums = words.view(np.int32)

    def add(self, batch: Batch, n_barcodes: int) -> None:
        if n_barcodes > len(self.words):
            self.resize(max(n_barcodes, 2 * len(self.words), 1024))
        if self.names[batch.chrom] != self.name:
            self._enter(self.names[batch.chrom])
        if self.genome.mitochondrial(self.name):
            n = len(self.words)
            self.sums[:, k.N_MITO] += np.bincount(batch.barcode, minlength=n).astype(np.int32)
            self.words[:, k.N_READS] += np.bincount(batch.barcode, batch.count, minlength=n).astype(np.int64)
        elif self.quality:
            own = self.sums, self.words, self.sizes, self.profile, self.pointers
            k.add_quality(batch.position, batch.barcode, batch.count, *self._regions, *own)
        else:
            self.sums[:, k.N_NUCLEAR] += np.bincount(batch.barcode, minlength=len(self.words)).astype(np.int32)

    def _enter(self, name: str) -> None:
        self.name = name
        self.pointers[:] = 0
        self.sums[:, k.END_1 : k.LOCUS_END + 1] = (0, 0, 0, -1)
        tss, strand = self._tss.get(name, (_NONE, np.zeros(0, object)))
        black = self._black.get(name, (_NONE, _NONE))
        bare = name.lower().removeprefix("chr")
        places, first, last = (np.ascontiguousarray(one, np.int64) for one in (tss, *black))
        self._regions = places, np.asarray(strand == "-", np.bool_), first, last, bare not in _SEX


class _Matrix:
    """Cells × peaks while it is counted: (cell, peak, count) entries, 12 bytes each, then CSR."""

    def __init__(self, peaks: pd.DataFrame, genome: Genome, n_cells: int, strategy: int) -> None:
        self.n_cells, self.n_peaks, self.strategy = n_cells, len(peaks), strategy
        located, self.renamed = place_peaks(peaks, genome)
        self.outside = located.attrs["outside"]
        self._peaks = {}
        for name, group in located.groupby("chrom", sort=False):
            start, end = (group[column].to_numpy(np.int64) for column in ("start", "end"))
            self._peaks[name] = (start, end, np.maximum.accumulate(end), group["peak"].to_numpy(np.int32))
        self.last = np.full(n_cells, -1, np.int64)
        self.entries = [np.empty(_ENTRIES, np.int32) for _ in range(3)]
        self.used = np.zeros(1, np.int64)
        self.full: list[list[np.ndarray]] = []

    def add(self, batch: Batch, sums: _Sums) -> None:
        if sums.name not in self._peaks:
            return
        first = 0
        while first < len(batch.barcode):
            here = batch.position[first:], batch.barcode[first:], self.n_cells, *self._peaks[sums.name]
            own = sums.sums, self.last, *self.entries, self.used, sums.pointers
            taken = k.add_peaks(*here, self.strategy, *own)
            first += taken
            if first < len(batch.barcode):
                self._flush(at_least=0 if taken or self.used[0] else 2 * len(self.entries[0]))

    def _flush(self, at_least: int = 0) -> None:
        n = int(self.used[0])
        self.full.append([entry[:n] for entry in self.entries])
        self.used[0] = 0
        self.last[:] = -1
        # at_least: one fragment may meet more peaks than the output holds
        self.entries = [np.empty(max(at_least, _ENTRIES), np.int32) for _ in range(3)]

    def check_met(self, stream: FragmentStream | KeptFragments, path: str | Path) -> None:
        met = [self_name for self_name in stream.chroms_met() if self_name in self._peaks]
        if not met:
            raise InputError(
                f"{path} has fragments on {some(stream.chroms_met())} only, the peaks lie on {some(self._peaks)} only",
                "every count would be zero",
                "give the peaks of this sample's assembly by --peaks",
            )

    def finish(self) -> sparse.csr_matrix:
        """Sort entries into rows (a counting sort), add up the few that were written twice."""
        self._flush()
        starts = np.zeros(self.n_cells + 1, np.int64)
        for cells, _, _ in self.full:
            starts[1:] += np.bincount(cells, minlength=self.n_cells)
        np.cumsum(starts, out=starts)
        indices = np.empty(starts[-1], np.int32)
        data = np.empty(starts[-1], np.int32)
        cursor = starts[:-1].copy()
        for i, entries in enumerate(self.full):
            k.fill_rows(tuple(entries), cursor, indices, data)
            self.full[i] = []  # given back as it is used: the peak of memory is one matrix and the entries
        if starts[-1] < 2**31:
            starts = starts.astype(np.int32)
        matrix = sparse.csr_matrix((data, indices, starts), shape=(self.n_cells, self.n_peaks))
        matrix.sum_duplicates()
        return matrix


def place_peaks(peaks: pd.DataFrame, genome: Genome) -> tuple[pd.DataFrame, dict[str, str]]:
    """Give peaks the genome's chromosome names, sorted by start within each, with their number in column `peak`.

    Returns
    -------
    The peaks on chromosomes of the genome, and the names that changed. Single peaks past an end (widened ones of short
    contigs) stay with what lies inside; their number is in `attrs["outside"]`.

    Raises
    ------
    InputError
        No chromosome is the genome's, a peak occurs twice, or too many end past their chromosomes
        (:func:`multivi_nf.inputs.chromosomes.wrong_assembly`).
    """
    located = pd.DataFrame({column: peaks[column].to_numpy() for column in ("chrom", "start", "end")})
    located["peak"] = np.arange(len(located))
    twice = located.duplicated(["chrom", "start", "end"])
    if twice.any():
        row = located[twice].iloc[0]
        raise InputError(
            f"{int(twice.sum())} peak(s) occur more than once, first {row.chrom}:{row.start}-{row.end}",
            "a fragment would count for each of them, and their names would not tell them apart",
            "keep one line a peak (`sort -u`)",
        )
    mapping = harmonise(located["chrom"].unique(), genome.chrom_sizes, genome.style)
    if not mapping:
        raise InputError(
            f"none of the peaks' chromosomes ({some(located['chrom'].unique())}) is one of the genome's "
            f"({some(genome.chrom_sizes)})",
            "every count would be zero",
            "give peaks of the same assembly by --peaks, or set --chrom_style auto",
        )
    located = located[located["chrom"].isin(mapping)].assign(chrom=lambda frame: frame["chrom"].map(mapping))
    length = located["chrom"].map(genome.chrom_sizes).to_numpy()
    past = (located["end"].to_numpy() > length) | (located["start"].to_numpy() < 0)
    if wrong_assembly(int(past.sum()), len(peaks)):
        row = located[past].iloc[0]
        raise InputError(
            f"peak {row.chrom}:{row.start}-{row.end} ends past the end of the chromosome, which has "
            f"{genome.chrom_sizes[row.chrom]} bp, as do {int(past.sum())} of {len(peaks)} peaks",
            "the peaks belong to another assembly than the chromosome sizes",
            "give peaks and fragments of one assembly",
        )
    located = located[located["start"].to_numpy() < length]  # what reaches past an end counts inside it, the rest is 0
    located = located.sort_values(["chrom", "start", "end"], kind="stable")
    located.attrs["outside"] = int(past.sum())
    return located, {name: target for name, target in mapping.items() if name != target}


def _by_chrom(frame: pd.DataFrame | None, columns: list[str]) -> dict[str, tuple[np.ndarray, ...]]:
    if frame is None:
        return {}
    return {
        name: tuple(group[column].to_numpy() for column in columns)
        for name, group in frame.sort_values(["chrom", columns[0]], kind="stable").groupby("chrom", sort=False)
    }
