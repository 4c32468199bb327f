"""The slow, plain way: what a fragments file means, written without any of the package's own code."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TypeAlias

PRINTABLE = re.compile(rb"[\x21-\x7e]{1,1024}")
DIGITS = re.compile(rb"[0-9]{1,10}")
Row: TypeAlias = tuple[str, int, int, str, int]
Place: TypeAlias = tuple[str, int, int]


class Refused(Exception):
    """The text is not a legal fragments file."""


def number(text: bytes, least: int) -> int:
    """Read a number of a line, at least `least` and of 31 bits."""
    if not DIGITS.fullmatch(text) or not least <= int(text) < 2**31:
        raise Refused(f"number {text!r}")
    return int(text)


def same_chrom(name: str) -> str:
    """Give what two names of one chromosome have in common."""
    bare = re.sub("^chr", "", name, flags=re.I)
    return "M" if bare.upper() in ("M", "MT") else bare


def fields_of(line: bytes) -> list[bytes]:
    """Split a line into its columns, the first of which is a name."""
    fields = (line[:-1] if line.endswith(b"\r") else line).split(b"\t")
    if not 4 <= len(fields) <= 6:
        raise Refused(f"{len(fields)} columns")
    if any(b"\r" in field for field in fields):
        raise Refused("carriage return")
    if not PRINTABLE.fullmatch(fields[0]):
        raise Refused("chromosome")
    return fields


def target_of(chrom: str, chrom_sizes: dict[str, int]) -> str | None:
    """Give the genome's name of a chromosome: the same, else one that differs in style only."""
    alike = (name for name in chrom_sizes if same_chrom(name) == same_chrom(chrom))
    return chrom if chrom in chrom_sizes else next(alike, None)


def check_order(order: list[str], chrom_sizes: dict[str, int]) -> None:
    """Refuse two names that mean one chromosome."""
    mapped = [t for t in (next((n for n in chrom_sizes if same_chrom(n) == same_chrom(c)), None) for c in order) if t]
    if len(set(mapped)) < len(mapped):
        raise Refused("two names of one chromosome")


def check_whole(placed: int, outside: int) -> None:
    """Refuse a file of which nothing, or too little, is at a place."""
    total = placed + outside
    if not placed:
        raise Refused("nothing on the genome")
    if outside > total / 1000 and (outside >= 10 or outside > total / 10):
        raise Refused("at no place")


def read(text: bytes, chrom_sizes: dict[str, int]) -> list[Row]:
    """List (genome's chromosome, start, end, barcode, count) of legal text; raise Refused for any other.

    Fragments at no place of their chromosome are left out; over 0.1 %, and ten or a tenth, of the lines are refused.
    """
    lines = text.split(b"\n")
    order: list[str] = []
    rows, n_columns, seen_any, outside = [], None, False, 0
    if lines and lines[-1] == b"":
        lines.pop()
    for line in lines:
        if line.startswith(b"#") or line in (b"", b"\r"):
            continue
        fields = fields_of(line)
        if n_columns not in (None, len(fields)):
            raise Refused("columns change")
        n_columns = len(fields)
        chrom = fields[0].decode()
        before = re.fullmatch(rb"-[0-9]{1,10}", fields[1]) is not None
        start = -1 if before else number(fields[1], 0)
        end = number(fields[2].removeprefix(b"-") if before else fields[2], 0)
        count = number(fields[4], 1) if len(fields) > 4 else 1
        if not order or order[-1] != chrom:
            if chrom in order:
                raise Refused("chromosome comes back")
            order.append(chrom)
        target = target_of(chrom, chrom_sizes)
        nowhere = before or end <= start or (target is not None and end > chrom_sizes[target])
        if fields[3] == b"" or ((target is not None or nowhere) and not PRINTABLE.fullmatch(fields[3])):
            raise Refused("barcode")
        seen_any |= target is not None
        if nowhere:
            outside += 1
            continue
        rows.append((target, start, end, fields[3].decode("latin-1"), count))
    check_order(order, chrom_sizes)
    check_whole(len(rows) if seen_any else 0, outside)
    return [(target, *row[1:]) for row in rows if (target := row[0]) is not None]


def count(rows: list[Row], peaks: list[Place], barcodes: list[str], strategy: str) -> list[list[int]]:
    """Cells × peaks as a nested list."""
    table = [[0] * len(peaks) for _ in barcodes]
    index = {name: i for i, name in enumerate(barcodes)}
    for chrom, start, end, barcode, _ in rows:
        if barcode not in index:
            continue
        for j, (peak_chrom, first, last) in enumerate(peaks):
            if peak_chrom != chrom:
                continue
            sites = sum(first <= site < last for site in (start, end - 1))
            value = {"fragment": int(start < last and end > first), "insertion": sites, "pic": min(sites, 1)}[strategy]
            table[index[barcode]][j] += value
    return table


def quality(
    rows: list[Row],
    mito: str,
    tss: list[tuple[str, int, str]],
    blacklist: list[Place],
    peaks: list[Place],
    autosomes: set[str],
) -> dict[str, Counter[str]]:
    """{barcode: {column: value}} of all sums."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    placed = defaultdict(list)
    for chrom, start, end, barcode, support in rows:
        got = sums[barcode]
        got["n_reads"] += support
        if chrom == mito:
            got["n_mito"] += 1
            continue
        got["n_fragments"] += 1
        got["n_nucleosome_free"] += end - start < 147
        got["n_mononucleosome"] += 147 <= end - start < 294
        black = any(c == chrom and start < e and end > s for c, s, e in blacklist)
        got["n_blacklist"] += black
        got["n_in_peaks"] += any(c == chrom and start < e and end > s for c, s, e in peaks)
        for site in (start, end - 1):
            for c, position, _ in tss:
                away = abs(site - position)
                if c == chrom and away <= 2000:
                    got["n_tss"] += away <= 50
                    got["n_tss_core"] += away <= 5
                    got["n_flank"] += away > 1900
        if chrom in autosomes and not black:
            placed[barcode, chrom].append((start, end))
    for (barcode, _), fragments in placed.items():
        depth = Counter(x for start, end in fragments for x in range(start, end))
        sums[barcode]["n_overlap_loci"] += sum(n > 2 and depth[x - 1] <= 2 for x, n in depth.items())
    return sums


def profile(rows: list[Row], mito: str, tss: list[tuple[str, int, str]]) -> Counter[int]:
    """Cut sites by distance from TSS in the direction of transcription."""
    got: Counter[int] = Counter()
    for chrom, start, end, _, _ in rows:
        if chrom != mito:
            for site in (start, end - 1):
                for c, position, strand in tss:
                    if c == chrom and abs(site - position) <= 2000:
                        got[(position - site if strand == "-" else site - position) + 2000] += 1
    return got
