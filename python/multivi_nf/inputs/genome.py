"""A genome: chromosomes, transcription start sites and regions to leave out, from files or built in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.inputs.chromosomes import SIZES, harmonise, is_mitochondrial, renamed, wrong_assembly
from multivi_nf.inputs.intervals import (
    merge_intervals,
    read_bed,
    read_bed_fields,
    read_chrom_sizes,
    read_genes,
    read_gtf_tss,
    read_tss,
    starts_of,
)


@dataclass(frozen=True)
class Genome:
    """What the steps need to know of an assembly.

    Attributes
    ----------
    chrom_sizes
        Chromosome name → length in bp, in the order of the source.
    mito
        Name of the (first) mitochondrial chromosome among `chrom_sizes`, or None.
    tss
        Transcription start sites, columns `chrom`, `pos` (0-based), `strand` (`+` or `-`), sorted and unique, in the
        naming of `chrom_sizes`; None where none were given.
    blacklist
        Regions to leave out, columns `chrom`, `start`, `end`, sorted, overlapping ones merged; None where not given.
    renamed
        What was renamed on reading, `{source: {name in file: name here}}`; empty when all names agreed.
    more_mito
        Further mitochondrial chromosomes (two species); :meth:`mitochondrial` knows all.
    notes
        What the user should know of the files: entries left out, facts that do not fit.
    style
        How names of other files are matched with these, see :func:`harmonise`.
    """

    chrom_sizes: dict[str, int]
    mito: str | None
    tss: pd.DataFrame | None
    blacklist: pd.DataFrame | None
    renamed: dict[str, dict[str, str]]
    notes: tuple[str, ...] = ()
    more_mito: tuple[str, ...] = ()
    style: str = "auto"

    def mitochondrial(self, name: str) -> bool:
        """Tell whether a chromosome is mitochondrial."""
        return name == self.mito or name in self.more_mito


BUILT_IN = ("hg38", "hg19", "mm10")
"""Assemblies whose genes and blacklist the package carries; see `multivi_nf/genomes/README.md` for their sources."""


def built_in_genes(name: str) -> pd.DataFrame:
    """Read the genes that the package carries of an assembly of :data:`BUILT_IN`.

    Returns
    -------
    `chrom`, `start`, `end`, `strand`, `id` ("" where not known), `symbol`, `refseq` (whether its start is used as a
    transcription start site).
    """
    genes = _carried(f"{name}.genes.tsv.gz")
    return genes.assign(refseq=genes["refseq"] == 1)


def known_genes(name: str | None, gtf: str | Path | None, *, coding: bool = True) -> pd.DataFrame | None:
    """Give the genes of a GTF or GFF3, else of a built-in assembly (those with a start site), else None.

    Parameters
    ----------
    coding
        Only protein-coding ones, where the file tells them.
    """
    if gtf is not None:
        genes = read_genes(Path(gtf))
        return genes[genes["coding"]] if coding and genes["coding"].any() else genes
    if name not in BUILT_IN:
        return None
    genes = built_in_genes(str(name))
    return genes[genes["refseq"]]


def start_sites(
    name: str | None, tss: str | Path | None, gtf: str | Path | None, *, coding: bool = True
) -> pd.DataFrame | None:
    """Read where genes start: from BED (name in column 4), else as :func:`known_genes`.

    Returns
    -------
    `chrom`, `pos` (0-based), `strand`, `symbol` and, but for a BED, `id`; None where nothing is known.
    """
    if tss is not None:
        names = [fields[3] if len(fields) > 3 else "" for fields in read_bed_fields(tss)[1]]
        return read_tss(tss).assign(symbol=names)
    genes = known_genes(name, gtf, coding=coding)
    if genes is None:
        return None
    return starts_of(genes).assign(symbol=genes["symbol"].to_numpy(), id=genes["id"].to_numpy())


def _carried(name: str) -> pd.DataFrame:
    with (resources.files("multivi_nf") / "genomes" / name).open("rb") as handle:
        return pd.read_csv(handle, sep="\t", compression="gzip", keep_default_na=False)


def _to_genome(
    frame: pd.DataFrame, sizes: dict[str, int], style: str, path: str | Path
) -> tuple[pd.DataFrame, dict[str, str], list[str]]:
    """Rename chromosomes, leave out unknown ones and what lies past the ends; rows in the order of `sizes`.

    Returns
    -------
    The frame, what was renamed, and what is to be told.
    """
    notes = [frame.attrs["note"]] if frame.attrs.get("note") else []
    mapping = harmonise(frame["chrom"].unique(), sizes, style)
    if not mapping:
        raise InputError(
            f"{path}: none of its chromosomes ({_some(frame['chrom'].unique())}) is of the genome's ({_some(sizes)})",
            "the file belongs to another assembly or naming; results would be empty",
            "give files of one assembly; --chrom_style auto maps chr1 and 1, MT and chrM",
        )
    frame = frame[frame["chrom"].isin(mapping)].copy()
    frame["chrom"] = frame["chrom"].map(mapping)
    last = frame["pos"] if "pos" in frame else frame["end"] - 1
    past = last.to_numpy() >= frame["chrom"].map(sizes).to_numpy()
    if wrong_assembly(int(past.sum()), len(frame)):
        row = frame[past].iloc[0]
        raise InputError(
            f"{path}: position {int(last[past].iloc[0]) + 1} lies past the end of {row.chrom} ({sizes[row.chrom]} bp), "
            f"as do {int(past.sum())} of {len(frame)} entries",
            "the file belongs to another assembly than the chromosome sizes",
            "give --genome / --chrom_sizes and this file of the same assembly",
        )
    if past.any():
        entries = f"{int(past.sum())} of {len(frame)} entries"
        notes.append(f"{Path(path).name}: {entries} lie past their chromosome's end and are left out")
    frame = frame[~past]
    order = {name: index for index, name in enumerate(sizes)}
    position = "pos" if "pos" in frame else "start"
    rank = frame["chrom"].map(order).to_numpy()
    frame = frame.iloc[np.lexsort((frame[position].to_numpy(), rank))].reset_index(drop=True)
    return frame, renamed(mapping), notes


def _some(names: Iterable[str], n: int = 3) -> str:
    names = list(names)
    return ", ".join(map(str, names[:n])) + (", ..." if len(names) > n else "")


def load_genome(
    name: str | None = None,
    chrom_sizes: str | Path | None = None,
    tss: str | Path | None = None,
    gtf: str | Path | None = None,
    blacklist: str | Path | None = None,
    *,
    chrom_style: str = "auto",
    mito_contig: str | None = None,
) -> Genome:
    """Gather what is known of the assembly.

    Parameters
    ----------
    name
        `hg38`, `hg19`, `mm10` or `mm39`: sizes of the main chromosomes are built in, and of those in :data:`BUILT_IN`
        also genes and blacklist, which stand in where no file is given.
    chrom_sizes
        File of names and lengths; wins over `name`.
    tss, gtf
        Transcription start sites as BED, or a GTF or GFF3 to take them from; `tss` wins.
    blacklist
        BED of regions to leave out.
    chrom_style
        See :func:`harmonise`.
    mito_contig
        Mitochondrial chromosomes, separated by commas; None: those whose names say so.

    Raises
    ------
    InputError
        No or an unknown assembly, unreadable files, or files that share no chromosome with the sizes.
    """
    sizes = _sizes_of(name, chrom_sizes)
    mitos = _mitochondria(sizes, mito_contig)
    changes: dict[str, dict[str, str]] = {}
    notes: list[str] = []
    facts: dict[str, pd.DataFrame] = {}
    for source, path, frame in _given(tss, gtf, blacklist):
        facts[source], changed, told = _to_genome(frame, sizes, chrom_style, path)
        changes |= {source: changed} if changed else {}
        notes += told
    if name in BUILT_IN and len(facts) < 2:
        own, told = _built_in(name, sizes, chrom_style)
        facts = own | facts
        notes += told
    if "tss" in facts:
        facts["tss"] = facts["tss"].drop_duplicates().reset_index(drop=True)
    if not mitos:
        notes.append(
            f"no chromosome is known as mitochondrial by its name ({', '.join(list(sizes)[:4])}, ...): mitochondrial "
            "fragments count as nuclear; name it by --mito_contig if there is one"
        )
    first = mitos[0] if mitos else None
    return Genome(
        sizes, first, facts.get("tss"), facts.get("blacklist"), changes, tuple(notes), tuple(mitos[1:]), chrom_style
    )


def _sizes_of(name: str | None, chrom_sizes: str | Path | None) -> dict[str, int]:
    if chrom_sizes is not None:
        return read_chrom_sizes(chrom_sizes)
    if name is None:
        raise InputError(
            "no genome was given",
            "fragments and peaks need the chromosomes' lengths",
            f"give --genome ({', '.join(SIZES)}) or --chrom_sizes FILE",
        )
    if name not in SIZES:
        raise InputError(
            f"genome {name!r} is not built in",
            "the chromosomes' lengths are not known",
            f"give --genome one of {', '.join(SIZES)}, or --chrom_sizes FILE for any other",
        )
    return dict(SIZES[name])


def _given(
    tss: str | Path | None, gtf: str | Path | None, blacklist: str | Path | None
) -> Iterator[tuple[str, str | Path, pd.DataFrame]]:
    """What of them is given: its name in a genome, its file, its content."""
    if tss is not None:
        yield "tss", tss, read_tss(tss)
    elif gtf is not None:
        yield "tss", gtf, read_gtf_tss(gtf)
    if blacklist is not None:
        regions = read_bed(blacklist)
        merged = merge_intervals(regions)
        merged.attrs["note"] = regions.attrs["note"]
        yield "blacklist", blacklist, merged


def _mitochondria(sizes: dict[str, int], given: str | None) -> list[str]:
    if not given:
        return [chrom for chrom in sizes if is_mitochondrial(chrom)]
    names = [name.strip() for name in given.split(",") if name.strip()]
    absent = [name for name in names if name not in sizes]
    if absent:
        raise InputError(
            f"--mito_contig names {', '.join(map(repr, absent))}, which the chromosome sizes have not "
            f"({', '.join(list(sizes)[:5])}, ...)",
            "no fragment would count as mitochondrial",
            "spell it as in the chromosome sizes",
        )
    return names


def _built_in(name: str, sizes: dict[str, int], style: str) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Give the start sites and the blacklist that the package carries, in the naming of `sizes`, if they fit them."""
    mapping = harmonise(SIZES[name], sizes, style)
    shared = {own: other for own, other in mapping.items() if not is_mitochondrial(own)}
    if not shared or any(SIZES[name][own] != sizes[other] for own, other in shared.items()):
        return {}, [f"the chromosome sizes given are not those of {name}: its start sites and blacklist are not used"]
    genes = built_in_genes(name)
    black = _carried(f"{name}.blacklist.tsv.gz")
    frames = {"tss": starts_of(genes[genes["refseq"]]), "blacklist": merge_intervals(black)}
    frames = {source: frame[frame["chrom"].isin(mapping)] for source, frame in frames.items()}
    return {source: _to_genome(frame, sizes, style, name)[0] for source, frame in frames.items() if len(frame)}, []
