"""Accessibility of each group along the genome, as bigWig files for any genome browser."""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pybigtools

from multivi_nf.fragments.kept import open_fragments
from multivi_nf.fragments.stream import Asked
from multivi_nf.inputs.genome import Genome
from multivi_nf.io.files import scratch, written_whole
from multivi_nf.io.progress import bytes_read
from multivi_nf.regulation.cells import Source, file_name, group_names, matched

BIN = 10
"""bp of a step of a track; neighbouring steps of equal height are written as one."""

_HELD = 1 << 22
"""Cut sites held before they are added up."""

Counted = tuple[np.ndarray, np.ndarray | None]
"""Keys and how often each was met; None: once."""


@dataclass
class Cuts:
    """Cut sites by group, chromosome and bin, one chromosome in memory at a time and the rest on disk.

    Attributes
    ----------
    folder
        Where `(bins, counts)` of each group and chromosome lie.
    bin_size
        bp of a bin.
    insertions
        Cut sites of each group.
    """

    folder: Path
    bin_size: int
    groups: list[str]
    insertions: dict[str, int] = field(default_factory=dict)

    def place(self, group: str, chrom: int) -> Path:
        """File of one group's chromosome."""
        return self.folder / f"{self.groups.index(group)}.{chrom}.npy"

    def read(self, group: str, chrom: int) -> np.ndarray:
        """(2, n) int64: bins, ascending, and their cut sites; (2, 0) where there are none."""
        path = self.place(group, chrom)
        return np.load(path) if path.exists() else np.empty((2, 0), np.int64)


def count_cuts(
    groups: pd.Series, sources: Sequence[Source], genome: Genome, folder: Path, *, bin_size: int = BIN
) -> Cuts:
    """Count the cut sites (first and last base of each fragment) of the cells of each group; nuclear ones.

    Memory holds the bins of one sample's one chromosome that have any cut site.

    Parameters
    ----------
    groups
        Of each cell (`sample:barcode`), missing where it has none; of :func:`multivi_nf.regulation.cells.groups_of`.
    folder
        For temporary files: at most 16 bytes a bin with cut sites.
    """
    cuts = Cuts(folder, bin_size, group_names(groups))
    cuts.insertions = dict.fromkeys(cuts.groups, 0)
    code = {name: i for i, name in enumerate(cuts.groups)}
    coded = groups.map(code).fillna(-1).to_numpy(np.int64)
    for source, rows, barcodes in matched(groups.index, sources):
        for chrom, keys, counts in _chromosomes(source, coded[rows], barcodes, genome, bin_size):
            stride = _bins(genome, chrom, bin_size)
            edges = np.searchsorted(keys, np.arange(len(cuts.groups) + 1) * stride)
            for i, group in enumerate(cuts.groups):
                part = slice(edges[i], edges[i + 1])
                found = np.stack([keys[part] - i * stride, counts[part]])
                if found.shape[1]:
                    np.save(cuts.place(group, chrom), _added(cuts.read(group, chrom), found))
                    cuts.insertions[group] += int(found[1].sum())
    return cuts


def _bins(genome: Genome, chrom: int, bin_size: int) -> int:
    return -(-list(genome.chrom_sizes.values())[chrom] // bin_size)


def _chromosomes(
    source: Source, coded: np.ndarray, barcodes: list[str], genome: Genome, bin_size: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield each chromosome of a file: keys `group × bins + bin`, ascending, and their cut sites."""
    names = list(genome.chrom_sizes)
    chrom, n_held = -1, 0
    held: list[Counted] = []
    with bytes_read(source.fragments) as progress:
        asked = Asked(genome.chrom_sizes, barcodes, only_these=True, chrom_style=genome.style)
        stream = open_fragments(source.fragments, asked, progress)
        for batch in stream:
            if genome.mitochondrial(names[batch.chrom]):
                continue
            if batch.chrom != chrom:
                if held:
                    yield chrom, *_sum(held)
                chrom, held, n_held = batch.chrom, [], 0
            group = coded[batch.barcode]
            kept = group >= 0
            first = group[kept] * _bins(genome, chrom, bin_size)
            sites = batch.position[kept].astype(np.int64)
            keys = np.concatenate([first + sites[:, 0] // bin_size, first + (sites[:, 1] - 1) // bin_size])
            held.append((keys, None))
            n_held += len(keys)
            if n_held >= _HELD:
                held, n_held = [_sum(held)], 0
        if held:
            yield chrom, *_sum(held)


def _sum(parts: Sequence[Counted]) -> tuple[np.ndarray, np.ndarray]:
    """Add up parts of (keys, counts), counts None where each key stands for one."""
    keys, place = np.unique(np.concatenate([keys for keys, _ in parts]), return_inverse=True)
    weights = np.concatenate([np.ones(len(keys), np.int64) if n is None else n for keys, n in parts])
    return keys, np.bincount(place, weights, minlength=len(keys)).astype(np.int64)


def _added(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.stack(_sum([(one[0], one[1]), (other[0], other[1])])) if one.shape[1] else other


def intervals(cuts: Cuts, group: str, genome: Genome) -> Iterator[tuple[str, int, int, float]]:
    """Yield a group's track: `(chrom, start, end, insertions per million)`, only where there are any.

    The value is that of a bin: its cut sites × 10⁶ / all of the group's. Neighbouring bins with the same value are one
    interval; a chromosome's last bin ends with it.
    """
    scale = 1e6 / cuts.insertions[group]
    for chrom, (name, size) in enumerate(genome.chrom_sizes.items()):
        bins, counts = cuts.read(group, chrom)
        if not len(bins):
            continue
        begins = np.flatnonzero(np.diff(bins, prepend=bins[0] - 2) != 1)
        changes = np.flatnonzero(np.diff(counts, prepend=counts[0] - 1) != 0)
        first = np.union1d(begins, changes)
        last = np.append(first[1:], len(bins)) - 1
        start, end = bins[first] * cuts.bin_size, np.minimum((bins[last] + 1) * cuts.bin_size, size)
        for begin, stop, value in zip(start.tolist(), end.tolist(), (counts[first] * scale).tolist()):
            yield name, begin, stop, value


def write_bigwig(path: Path, sizes: dict[str, int], values: Iterator[tuple[str, int, int, float]]) -> None:
    """Write a bigWig file of intervals, sorted as the chromosomes of `sizes` (bp), and read it back.

    The writer takes an error of `values` for its end, says nothing of a last buffer that a disk did not take, and ends
    by a panic (no `Exception`) where one of its threads met a full disk.

    Raises
    ------
    OSError
        The file could not be written.
    """
    failed: list[BaseException] = []
    written = 0

    def told() -> Iterator[tuple[str, int, int, float]]:
        nonlocal written
        try:
            for one in values:
                written += 1
                yield one
        except GeneratorExit:  # the writer ends before its values do
            raise
        except BaseException as error:
            failed.append(error)
            raise

    try:
        pybigtools.open(str(path), "w").write(sizes, told())
        found = 0 if failed else _intervals_of(path)
    except BaseException as error:
        if not failed and not isinstance(error, pybigtools.BBIReadError) and type(error).__name__ != "PanicException":
            raise
        failed.append(OSError(f"Input/output error while {path} was written ({error})"))
        failed[-1].__cause__ = error
    if failed:
        raise failed[0]
    if found != written:
        raise OSError(f"Input/output error: of {written} intervals {found} are in {path}")


def _intervals_of(path: Path) -> int:
    """How many intervals a bigWig holds; all of its blocks are read, those for views from afar too."""
    with contextlib.closing(pybigtools.open(str(path))) as file:
        chroms = list(file.chroms())
        for size, chrom in itertools.product(file.zooms(), chroms):
            collections.deque(file.zoom_records(size, chrom), maxlen=0)
        return sum(1 for chrom in chroms for _ in file.records(chrom))


def write_tracks(
    groups: pd.Series, sources: Sequence[Source], genome: Genome, output: Path, *, bin_size: int = BIN
) -> pd.DataFrame:
    r"""Write `<group>.bw` of each group into a folder; see :func:`count_cuts` and :func:`intervals`.

    Returns
    -------
    One row a group, in natural order: `group`, `file` ("" where none of its cells has a fragment here), `cells`,
    `insertions`.

    Raises
    ------
    NotPossible
        No fragments, or none of a cell with a group.

    Examples
    --------
    >>> from pathlib import Path
    >>> import pandas as pd
    >>> from multivi_nf.inputs.genome import Genome
    >>> from multivi_nf.regulation.cells import Source
    >>> _ = Path("fragments.tsv").write_text("chr1\t100\t250\tAAAC-1\t1\nchr1\t100\t300\tTTTG-1\t1\n")
    >>> cells = pd.Index(["s:AAAC-1", "s:TTTG-1"])
    >>> groups = pd.Series(["B", "B"], index=cells)
    >>> Path("tracks").mkdir()
    >>> genome = Genome({"chr1": 1000}, mito=None, tss=None, blacklist=None, renamed={})
    >>> table = write_tracks(groups, [Source("s", Path("fragments.tsv"))], genome, Path("tracks"))
    >>> table[["group", "file", "cells", "insertions"]].values.tolist()
    [['B', 'B.bw', 2, 4]]
    """
    rows = []
    with scratch(output / "tracks") as work:
        cuts = count_cuts(groups, sources, genome, work, bin_size=bin_size)
        sizes = dict(genome.chrom_sizes)
        for group in cuts.groups:
            name = f"{file_name(group)}.bw" if cuts.insertions[group] else ""
            if name:
                with written_whole(output / name) as path:
                    write_bigwig(path, sizes, intervals(cuts, group, genome))
            rows.append((group, name, int((groups == group).sum()), cuts.insertions[group]))
    return pd.DataFrame(rows, columns=["group", "file", "cells", "insertions"])
