"""Places in a genome, read from files: BED, GTF, GFF3 and chromosome sizes.

Coordinates are 0-based and half-open everywhere (BED); GTF's 1-based closed ones are converted on reading.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from multivi_nf.errors import Damaged, InputError
from multivi_nf.inputs.chromosomes import FEW, wrong_assembly
from multivi_nf.io.limits import DAMAGED, opened

LONGEST_LINE = 1 << 20
"""Bytes; attributes of a GTF are long."""


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of a plain or gzip text file without comments, track lines and empty lines."""
    if not path.is_file():
        raise InputError(f"{path} does not exist", "it was named as an input", "correct the path")
    with path.open("rb") as handle:
        start = handle.read(2)
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        with opened(path, longest_line=LONGEST_LINE) as source:
            text_of = io.TextIOWrapper(source, encoding=encoding, errors="backslashreplace")
            for number, line in enumerate(text_of, 1):
                text = line.rstrip("\r\n")
                if "\0" in text:
                    raise InputError(
                        f"{path}, line {number}: holds bytes that are no text",
                        "names and positions are read from it",
                        "give the text file (a bigBed or .2bit file must be converted: bigBedToBed, faToTwoBit)",
                    )
                if text.strip() and not text.startswith(("#", "track", "browser")):
                    yield number, text
    except (*DAMAGED, UnicodeError) as error:
        raise Damaged(
            path, f"cannot be read as text: {error}", "the file is damaged or not what it is named as"
        ) from error


_DIGITS = 12
"""Of a position at most: the longest chromosome known has ten."""


def _integer(text: str, path: Path, number: int, what: str) -> int:
    if len(text) <= _DIGITS and text.isascii() and text.isdigit():  # nearly every line: fast
        return int(text)
    if not re.fullmatch(r"[0-9]+", text.strip()):
        raise InputError(
            f"{path}, line {number}: {what} is {text!r}, which is not a whole number ≥ 0",
            "positions cannot be read",
            "give a tab-separated file with chromosome names in column 1 and whole numbers after it",
        )
    if len(text.strip().lstrip("0")) > _DIGITS:
        raise InputError(
            f"{path}, line {number}: {what} has {len(text.strip())} digits",
            "no chromosome is that long; positions are held in 64 bits",
            "correct the line; a forged or damaged file cannot be used",
        )
    return int(text)


def read_chrom_sizes(path: str | Path) -> dict[str, int]:
    """Read chromosome sizes: two tab-separated columns, name and length in bp (a `.fai` index works too)."""
    path = Path(path)
    sizes: dict[str, int] = {}
    for number, line in _lines(path):
        fields = line.split("\t") if "\t" in line else line.split()
        if len(fields) < 2:
            raise InputError(
                f"{path}, line {number}: {line!r} has no second column",
                "a chromosome without length cannot bound fragments and peaks",
                "give two columns: name, length in bp",
            )
        if fields[0] in sizes:
            raise InputError(
                f"{path}, line {number}: chromosome {fields[0]!r} occurs twice",
                "its length would be ambiguous",
                "keep one line a chromosome",
            )
        sizes[fields[0]] = _integer(fields[1], path, number, "the length")
    if not sizes:
        raise InputError(f"{path} holds no chromosome", "nothing could be counted", "give name and length per line")
    return sizes


def read_bed(path: str | Path) -> pd.DataFrame:
    """Read a BED file of at least three columns, plain or gzip.

    Returns
    -------
    Columns `chrom`, `start`, `end` (0-based half-open), `strand` (`.` where absent), in file order. Starts below 0 (of
    widened intervals) become 0, single intervals without length are left out; `attrs["note"]` says so, else it is "".

    Raises
    ------
    InputError
        Fewer than three columns, positions that are not whole numbers, or too many intervals below 0 or without
        length, naming the line.
    """
    return read_bed_fields(path)[0]


def read_bed_fields(path: str | Path) -> tuple[pd.DataFrame, list[list[str]]]:
    """Do what :func:`read_bed` does; also give all columns of each interval, as text."""
    path = Path(path)
    rows, kept = [], []
    moved, empty, first = 0, 0, None
    correct = "correct the line (1-based files: subtract 1 from the start)"
    for number, line in _lines(path):
        fields = line.split("\t") if "\t" in line else line.split()
        if len(fields) < 3:
            raise InputError(
                f"{path}, line {number}: {line!r} has {len(fields)} column(s)",
                "an interval needs chromosome, start and end",
                "give a tab-separated BED file",
            )
        if fields[1].startswith("-") and fields[1][1:].isdigit():
            what = f"{path}, line {number}: the start {fields[1]} lies before the chromosome's, which is 0"
            first = first or InputError(what, "positions in BED are 0-based", correct)
            moved, fields[1] = moved + 1, "0"
        start, end = (_integer(fields[i], path, number, name) for i, name in ((1, "the start"), (2, "the end")))
        if end <= start:
            empty += 1
            first = first or InputError(
                f"{path}, line {number}: end {end} is not after start {start}",
                "BED intervals are 0-based and half-open; this one is empty",
                correct,
            )
            continue
        kept.append(fields)
        rows.append((fields[0], start, end, fields[5] if len(fields) > 5 and fields[5] in "+-" else "."))
    if first is not None and (not rows or wrong_assembly(moved + empty, len(rows) + empty)):
        raise first
    if not rows:
        raise InputError(f"{path} holds no interval", "an empty BED file would make empty results", "check the file")
    bed = pd.DataFrame(rows, columns=["chrom", "start", "end", "strand"])
    told = [f"{moved} start(s) below 0 were taken as 0"] if moved else []
    told += [f"{empty} interval(s) without length were left out"] if empty else []
    bed.attrs["note"] = f"{path.name}: {', '.join(told)}" if told else ""
    return bed, kept


def read_tss(path: str | Path) -> pd.DataFrame:
    """Read TSS from a BED file: 1 bp sites, or genes with a strand in column 6 (then their 5' end is taken)."""
    bed = read_bed(path)
    wide = (bed["end"] - bed["start"] > 1) & (bed["strand"] == ".")
    if wide.any():
        row = bed[wide].iloc[0]
        raise InputError(
            f"{path}: {row.chrom}:{row.start}-{row.end} is wider than 1 bp and has no strand in column 6",
            "which end of it is the transcription start cannot be known",
            "give 1 bp sites, or BED6 genes with + or - in column 6, or --gtf",
        )
    minus = bed["strand"].to_numpy() == "-"
    position = np.where(minus, bed["end"] - 1, bed["start"])
    return pd.DataFrame({"chrom": bed["chrom"], "pos": position, "strand": np.where(minus, "-", "+")})


_GENES = ("gene", "ncRNA_gene", "pseudogene")
_TRANSCRIPTS = ("transcript", "mRNA")
_KEYS = {
    "id": ("gene_id", "ID", "Parent"),
    "symbol": ("gene_name", "gene_symbol", "Name", "gene"),
    "type": ("gene_type", "gene_biotype", "biotype"),
}


def _attribute(text: str, kind: str) -> str:
    """Give one attribute of a GTF (`key "value";`) or GFF3 (`key=value;`) line, "" where it is not there."""
    for key in _KEYS[kind]:
        found = re.search(rf'(?:^|[;\s]){key}(?: "([^"]*)"| ([^";\s]+)|=([^;]*))', text)
        if found:
            return next(value for value in found.groups() if value is not None).removeprefix("gene:")
    return ""


def read_genes(path: str | Path) -> pd.DataFrame:
    """Read the genes of a GTF or GFF3, plain or gzip.

    Returns
    -------
    One row a gene: `chrom`, `start`, `end` (0-based half-open), `strand`, `id`, `symbol`, `coding` (protein-coding,
    where the file says so). A file without gene lines is read by its transcripts, one row each. Single lines with too
    few columns are left out; `attrs["note"]` says so, else it is "".

    Raises
    ------
    InputError
        No gene, or lines that are none of either format.
    """
    path = Path(path)
    found: dict[str, list[tuple]] = {"genes": [], "transcripts": []}
    lines, short, first = 0, 0, None
    for number, line in _lines(path):
        if line.startswith(">"):
            break  # the sequences that may end a GFF3
        lines += 1
        fields = line.split("\t")
        if len(fields) < 9:
            short += 1
            first = first or InputError(
                f"{path}, line {number}: {len(fields)} column(s) where a GTF has 9",
                "genes and their starts cannot be read",
                "give a GTF or GFF3 (tab-separated), or TSS as BED by --tss",
            )
            if lines == short == FEW:
                raise first
            continue
        kind = "genes" if fields[2] in _GENES else "transcripts" if fields[2] in _TRANSCRIPTS else None
        if kind is None or (kind == "transcripts" and found["genes"]):
            continue
        start = _integer(fields[3], path, number, "the start") - 1
        end = _integer(fields[4], path, number, "the end")
        gene = _attribute(fields[8], "id")
        coding = _attribute(fields[8], "type") == "protein_coding"
        strand = "-" if fields[6] == "-" else "+"
        found[kind].append((fields[0], start, end, strand, gene, _attribute(fields[8], "symbol") or gene, coding))
    if first is not None and wrong_assembly(short, lines):
        raise first
    rows = found["genes"] or found["transcripts"]
    if not rows:
        raise InputError(
            f"{path} has no line of type gene or transcript",
            "there are no transcription start sites in it",
            "give a gene annotation in GTF or GFF3 format, or TSS as BED by --tss",
        )
    genes = pd.DataFrame(rows, columns=["chrom", "start", "end", "strand", "id", "symbol", "coding"])
    genes.attrs["note"] = f"{path.name}: {short} line(s) with fewer than 9 columns were left out" if short else ""
    return genes


def read_gtf_tss(path: str | Path) -> pd.DataFrame:
    """Read TSS from a GTF or GFF3: 5' ends of genes, protein-coding ones where the file says so, else all.

    Columns as in :attr:`Genome.tss`. A file without `gene` lines is read by its transcripts.
    """
    genes = read_genes(path)
    if genes["coding"].any():
        genes = genes[genes["coding"]]
    return starts_of(genes)


def starts_of(genes: pd.DataFrame) -> pd.DataFrame:
    """Give the transcription start sites of genes: their 5' ends, columns as in :attr:`Genome.tss`."""
    minus = genes["strand"].to_numpy() == "-"
    position = np.where(minus, genes["end"] - 1, genes["start"])
    sites = pd.DataFrame({"chrom": genes["chrom"].to_numpy(), "pos": position, "strand": np.where(minus, "-", "+")})
    sites.attrs["note"] = genes.attrs.get("note", "")
    return sites


def merge_intervals(bed: pd.DataFrame) -> pd.DataFrame:
    """Merge overlapping and touching intervals; the chromosome order of first appearance is kept."""
    rows: list[list] = []
    for chrom, group in bed.groupby("chrom", sort=False):
        current: list | None = None
        for start, end in sorted(zip(group["start"].tolist(), group["end"].tolist())):
            if current is not None and start <= current[2]:
                current[2] = max(current[2], end)
            else:
                current = [chrom, start, end]
                rows.append(current)
    return pd.DataFrame(rows, columns=["chrom", "start", "end"])
