"""Chromosomes: sizes, naming, transcription start sites and regions to leave out.

Coordinates are 0-based and half-open everywhere (BED); GTF's 1-based closed ones are converted on reading.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.io.limits import DAMAGED, opened

STYLES = ("auto", "exact")

# Main chromosomes of the UCSC assemblies (chromInfo tables of the UCSC genome browser), bp.
_MOUSE = [f"chr{n}" for n in [*range(1, 20), "X", "Y", "M"]]
_HUMAN = [f"chr{n}" for n in [*range(1, 23), "X", "Y", "M"]]
SIZES: dict[str, dict[str, int]] = {
    "hg38": dict(zip(_HUMAN, [
        248956422, 242193529, 198295559, 190214555, 181538259, 170805979, 159345973, 145138636, 138394717, 133797422,
        135086622, 133275309, 114364328, 107043718, 101991189, 90338345, 83257441, 80373285, 58617616, 64444167,
        46709983, 50818468, 156040895, 57227415, 16569])),
    "hg19": dict(zip(_HUMAN, [
        249250621, 243199373, 198022430, 191154276, 180915260, 171115067, 159138663, 146364022, 141213431, 135534747,
        135006516, 133851895, 115169878, 107349540, 102531392, 90354753, 81195210, 78077248, 59128983, 63025520,
        48129895, 51304566, 155270560, 59373566, 16571])),
    "mm10": dict(zip(_MOUSE, [
        195471971, 182113224, 160039680, 156508116, 151834684, 149736546, 145441459, 129401213, 124595110, 130694993,
        122082543, 120129022, 120421639, 124902244, 104043685, 98207768, 94987271, 90702639, 61431566, 171031299,
        91744698, 16299])),
    "mm39": dict(zip(_MOUSE, [
        195154279, 181755017, 159745316, 156860686, 151758149, 149588044, 144995196, 130127694, 124359700, 130530862,
        121973369, 120092757, 120883175, 125139656, 104073951, 98008968, 95294699, 90720763, 61420004, 169476592,
        91455967, 16299])),
}  # fmt: skip


LONGEST_LINE = 1 << 20
"""Bytes; attributes of a GTF are long."""

MOST_OUTSIDE = 0.001
"""Share of a file's entries past their chromosomes' ends above which it must be of another assembly."""

_FEW = 10


def wrong_assembly(outside: int, total: int) -> bool:
    """Tell whether so many entries lie at no place of their chromosome that the file must be of another assembly.

    Single ones occur in genuine files: aligners reach past the ends, most often of the circular mitochondrion, and
    shifting or widening moves coordinates below 0. So the verdict needs over 0.1 %, and at least ten entries, or a
    tenth of a file that has few.

    Parameters
    ----------
    outside, total
        Numbers of entries.
    """
    return outside > MOST_OUTSIDE * total and (outside >= _FEW or outside > 0.1 * total)


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


_MITO = re.compile(r"(chr)?(mtdna|mito|mitochondria|mitochondrion([-_]genome)?|mt[-_]?genome)", re.IGNORECASE)


def canonical(name: str) -> str:
    """Reduce a chromosome name to what UCSC and Ensembl names share: `chr1` → `1`, `MT` and `chrM` → `M`."""
    bare = re.sub("^chr", "", name, flags=re.IGNORECASE)
    return "M" if bare.upper() in ("M", "MT") or _MITO.fullmatch(bare) else bare


def is_mitochondrial(name: str) -> bool:
    """Tell whether a name is a mitochondrion's: `chrM`, `MT`, `MtDNA` (worm), `mitochondrion_genome` (fly), `Mito`.

    Also after the name of a genome: `GRCh38_chrM`.
    """
    bare = re.sub(r"^[A-Za-z]+[A-Za-z0-9.]*\d[A-Za-z0-9.]*_+", "", name)
    return canonical(bare) == "M" or _MITO.fullmatch(bare) is not None


def harmonise(names: Iterable[str], target_names: Iterable[str], style: str = "auto") -> dict[str, str]:
    """Map chromosome names to the naming of a target.

    Parameters
    ----------
    names
        Names as in the file.
    target_names
        Names as they should be (of the chromosome sizes, as a rule).
    style
        `auto`: `chr1` and `1`, `MT` and `chrM` are the same chromosome. `exact`: only equal names are.

    Returns
    -------
    Name → target name, for those names that have one; all others (scaffolds, decoys) are left out.

    Raises
    ------
    InputError
        Two names of the file would become one chromosome.
    """
    if style not in STYLES:
        raise InputError(
            f"chromosome style {style!r} is not known",
            "names of chromosomes could not be compared",
            f"give --chrom_style one of {', '.join(STYLES)}",
        )
    names = list(dict.fromkeys(names))
    targets = list(dict.fromkeys(target_names))
    exact = set(targets)
    mapping = {name: name for name in names if name in exact}
    if style == "exact":
        return mapping
    by_canonical = {canonical(target): target for target in reversed(targets)}
    for name in names:
        if name not in mapping and canonical(name) in by_canonical:
            mapping[name] = by_canonical[canonical(name)]
    seen: dict[str, str] = {}
    for name, target in mapping.items():
        if target in seen:
            raise InputError(
                f"the names {seen[target]!r} and {name!r} occur side by side and both mean chromosome {target!r}",
                "two references seem to be mixed in one file; merging them would count the wrong places",
                "give a file aligned to one reference, or set --chrom_style exact to use only the exact names",
            )
        seen[target] = name
    return mapping


def renamed(mapping: dict[str, str]) -> dict[str, str]:
    """Keep the part of a :func:`harmonise` mapping in which the name changed, to tell the user."""
    return {name: target for name, target in mapping.items() if name != target}


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
        raise InputError(
            f"{path} cannot be read as text: {error}",
            "the file is damaged or not what it is named as",
            "copy or download it again; compare its checksum",
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
            if lines == short == _FEW:
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


def _carried(name: str) -> pd.DataFrame:
    with (resources.files("multivi_nf") / "genomes" / name).open("rb") as handle:
        return pd.read_csv(handle, sep="\t", compression="gzip", keep_default_na=False)


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
