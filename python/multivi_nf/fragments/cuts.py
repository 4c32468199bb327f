"""Cut sites as BED, for the peak caller: two lines a fragment, one file a group of cells."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from isal import igzip
from numba import njit

from multivi_nf.errors import InputError
from multivi_nf.fragments.byte_scan import Num
from multivi_nf.fragments.kept import open_fragments
from multivi_nf.fragments.names import some
from multivi_nf.fragments.stream import Asked
from multivi_nf.fragments.writer import put_number
from multivi_nf.inputs.genome import Genome
from multivi_nf.io.progress import bytes_read

#: Each cut site is widened to this many bp by the peak caller.
WINDOW = 150


@dataclass
class CutSites:
    """Cut sites on disk and what the significance of a pile of them depends on.

    Attributes
    ----------
    files, fragments
        By group, in order of first appearance: the gzipped BED, and the number of fragments.
    together
        By group: mean over fragments of the number of windows of 150 bp that hold both of its cut sites.
    chroms
        The genome's chromosomes that occur.
    """

    files: dict[str, Path]
    fragments: dict[str, int]
    together: dict[str, float]
    chroms: list[str]


@njit(cache=True, nogil=True)
def _sites(
    chrom: np.ndarray, fragments: tuple[np.ndarray, np.ndarray], groups: np.ndarray, group: Num, out: np.ndarray
) -> tuple[Num, Num, Num]:
    """Write the cut sites of a group's fragments; bytes used, fragments, windows that hold both sites of one."""
    position, barcode = fragments
    at, taken, together = 0, 0, 0
    for i in range(barcode.shape[0]):
        if groups[barcode[i]] != group:
            continue
        taken += 1
        apart: Num = np.int64(position[i, 1]) - 1 - np.int64(position[i, 0])
        together += max(WINDOW - apart, 0)
        for side in range(2):
            site = np.int64(position[i, 0]) if side == 0 else np.int64(position[i, 1]) - 1
            for j in range(chrom.shape[0]):
                out[at] = chrom[j]
                at += 1
            out[at] = 9
            at = put_number(site, out, at + 1)
            out[at] = 9
            at = put_number(site + 1, out, at + 1)
            out[at] = 10
            at += 1
    return at, taken, together


def write_cut_sites(inputs: Sequence[tuple[Path, Mapping[str, str] | None]], genome: Genome, folder: Path) -> CutSites:
    """Write gzipped BED files of nuclear cut sites.

    Parameters
    ----------
    inputs
        Fragments files (or what a first pass kept of them), each with {barcode: group}, or None to take all its
        fragments as one group `all`.
    genome
        Sizes; the mitochondrial chromosome is left out.
    folder
        Where to write.

    Raises
    ------
    InputError
        A group without any fragment, or what the stream refuses.
    """
    names = list(dict.fromkeys(g for _, groups in inputs for g in (["all"] if groups is None else groups.values())))
    code = {name: i for i, name in enumerate(names)}
    files = {name: folder / f"cuts_{i}.bed.gz" for i, name in enumerate(names)}
    fragments, together = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    met: dict[str, None] = {}
    chroms = list(genome.chrom_sizes)
    with contextlib.ExitStack() as stack:
        handles = [stack.enter_context(igzip.open(files[name], "wb", compresslevel=1)) for name in names]
        for path, groups in inputs:
            known = [] if groups is None else list(groups)
            present = sorted({0} if groups is None else {code[g] for g in groups.values()})
            group_of = np.array([code[groups[name]] for name in known] if groups else [0], np.int32)
            with bytes_read(path) as progress:
                asked = Asked(genome.chrom_sizes, known, groups is not None, genome.style)
                stream = open_fragments(path, asked, progress)
                out = np.empty(0, np.uint8)
                for batch in stream:
                    name = chroms[batch.chrom]
                    if genome.mitochondrial(name):
                        continue
                    met[name] = None
                    if groups is None and stream.n_barcodes() > len(group_of):
                        group_of = np.zeros(2 * stream.n_barcodes(), np.int32)
                    raw = np.frombuffer(name.encode(), np.uint8).copy()
                    needed = 2 * len(batch.barcode) * (len(raw) + 24)
                    out = out if len(out) >= needed else np.empty(needed, np.uint8)
                    for g in present:
                        n, taken, both = _sites(raw, (batch.position, batch.barcode), group_of, g, out)
                        handles[g].write(out[:n].data)
                        fragments[names[g]] += taken
                        together[names[g]] += both
    empty = [name for name, n in fragments.items() if n == 0]
    if empty:
        raise InputError(
            f"group(s) {', '.join(map(repr, empty[:5]))} have no fragment in {some([str(path) for path, _ in inputs])}",
            "no peaks could be called for them",
            "give barcodes as in column 4 of the fragments files",
        )
    shares = {name: together[name] / n for name, n in fragments.items()}
    return CutSites(files, fragments, shares, list(met))
