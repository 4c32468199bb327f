"""Barcodes of two worlds: cell lists, ATAC → RNA maps, and what to say when the two do not meet.

In 10x multiome data a cell's ATAC and RNA barcodes are two different strings, associated by their line number in two
whitelists; cellranger-arc translates the fragments to RNA barcodes, separate runs do not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from multivi_nf.errors import InputError
from multivi_nf.inputs.cell_table import read_cell_table
from multivi_nf.inputs.text import read_text

_SUFFIX = re.compile(r"[-_]\d+$")
_CORE = re.compile(r"[ACGTN]{8,}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


def check_barcodes(barcodes: Sequence[str], source: str) -> None:
    """Refuse empty, unprintable and duplicate barcodes, naming examples.

    Raises
    ------
    InputError
        With the value and its 1-based place in the list.
    """
    for number, barcode in enumerate(barcodes, 1):
        if not barcode.strip() or _CONTROL.search(barcode):
            raise InputError(
                f"{source}: barcode {number} is {barcode!r}",
                "a cell without a printable name cannot be matched",
                "correct the barcodes",
            )
    if len(set(barcodes)) != len(barcodes):
        repeated = [barcode for barcode, n in Counter(barcodes).items() if n > 1]
        raise InputError(
            f"{source}: {len(repeated)} barcode(s) occur more than once, e.g. {', '.join(repeated[:3])}",
            "one barcode is one cell of a sample; which row is meant could not be known",
            "keep one row a barcode; if several libraries were joined, give each its own sample (row)",
        )


def read_barcodes(path: str | Path) -> list[str]:
    """Read a cell list: one barcode a line, a table with a column of barcodes, or Cell Ranger's metrics.

    Where there is a cell flag (`is_cell`, `is__cell_barcode`, `is_cell_barcode`, `is_GRCh38_cell_barcode`) only rows
    where it is true count. See :func:`multivi_nf.inputs.cell_table.read_cell_table` for what is read.

    Returns
    -------
    Barcodes in file order, unique.
    """
    path = Path(path)
    barcodes = read_cell_table(path).barcodes
    check_barcodes(barcodes, str(path))
    return barcodes


@dataclass(frozen=True)
class BarcodeMap:
    """One-to-one translation of ATAC barcodes to RNA barcodes."""

    atac_to_rna: dict[str, str]

    def rna(self, barcode: str) -> str | None:
        """Translate an ATAC barcode; a suffix such as `-1` that the map lacks is carried over."""
        return _with_suffix(barcode, self.atac_to_rna)

    def inverse(self) -> BarcodeMap:
        """Give the map from RNA to ATAC barcodes (same class, directions exchanged)."""
        return BarcodeMap({rna: atac for atac, rna in self.atac_to_rna.items()})


def _with_suffix(barcode: str, mapping: dict[str, str]) -> str | None:
    if barcode in mapping:
        return mapping[barcode]
    found = _SUFFIX.search(barcode)
    if found is None or barcode[: found.start()] not in mapping:
        return None
    return mapping[barcode[: found.start()]] + found.group()


def read_barcode_map(path: str | Path) -> BarcodeMap:
    """Read the `barcode_map` of a sample.

    Parameters
    ----------
    path
        A file of two columns (ATAC barcode, RNA barcode; tab, comma or blanks between; a header line is recognised);
        or a folder with two whitelists of equal length, associated by line: one named `atac*`, one `rna*` or `gex*`.
    """
    path = Path(path)
    if path.is_dir():
        pairs = _whitelists(path)
    else:
        pairs = []
        for number, line in enumerate(read_text(path), 1):
            fields = re.split(r"[\t, ]+", line.strip())
            if fields == [""]:
                continue
            if number == 1 and re.search("barcode|^(atac|rna|gex)$", fields[0], re.IGNORECASE):
                continue
            if len(fields) < 2:
                raise InputError(
                    f"{path}, line {number}: {line!r} has one column",
                    "a barcode map needs the ATAC barcode and the RNA barcode of a cell",
                    "give two columns, or a folder with the whitelists atac.txt.gz and rna.txt.gz",
                )
            pairs.append((fields[0], fields[1]))
    if not pairs:
        raise InputError(f"{path} maps no barcode", "no ATAC cell would meet its RNA", "give two columns")
    pairs = list(dict.fromkeys(pairs))
    for side, name in ((0, "ATAC"), (1, "RNA")):
        repeated = [b for b, n in Counter(pair[side] for pair in pairs).items() if n > 1]
        if repeated:
            raise InputError(
                f"{path}: the {name} barcode {repeated[0]!r} occurs in {sum(p[side] == repeated[0] for p in pairs)} "
                f"different lines ({len(repeated)} such barcodes)",
                "the map must be one to one, or two cells would be merged",
                "keep one line a cell; the order of columns is ATAC barcode, RNA barcode",
            )
    return BarcodeMap(dict(pairs))


def _whitelists(folder: Path) -> list[tuple[str, str]]:
    names = sorted(p for p in folder.iterdir() if p.is_file())
    atac = [p for p in names if p.name.lower().startswith("atac")]
    rna = [p for p in names if p.name.lower().startswith(("rna", "gex"))]
    if len(atac) != 1 or len(rna) != 1:
        raise InputError(
            f"{folder} holds {', '.join(p.name for p in names) or 'nothing'}",
            "two whitelists, one named atac* and one rna* or gex*, are needed to associate barcodes by line",
            "copy the two 737K-arc-v1.txt.gz there under these names, or give one file of two columns",
        )
    left, right = ([b.strip() for b in read_text(p) if b.strip()] for p in (atac[0], rna[0]))
    if len(left) != len(right):
        raise InputError(
            f"{atac[0]} has {len(left)} lines and {rna[0]} {len(right)}",
            "whitelists are associated line by line",
            "give the two lists of the same chemistry",
        )
    return list(zip(left, right))


def translate(barcodes: Sequence[str], mapping: BarcodeMap) -> tuple[list[str], int]:
    """Translate ATAC barcodes to RNA barcodes.

    Barcodes outside the map keep their own name (they are cells without a partner); where that name belongs to an RNA
    barcode of the map it gets the prefix `atac_`, so that two different cells never meet by accident.

    Returns
    -------
    New names, and how many barcodes were outside the map.
    """
    translated = [mapping.rna(barcode) for barcode in barcodes]
    taken = set(mapping.atac_to_rna.values()) | {name for name in translated if name is not None}
    outside = sum(name is None for name in translated)
    names = []
    for own, name in zip(barcodes, translated):
        if name is None:
            clash = own in taken or _SUFFIX.sub("", own) in taken
            name = f"atac_{own}" if clash else own
        names.append(name)
    check_barcodes(names, "barcodes after translation by barcode_map")
    return names, outside


def fragment_barcodes(rna_barcodes: Iterable[str], mapping: BarcodeMap | None) -> list[str]:
    """Give the barcodes by which a sample's RNA cells are called in its fragments file (inverse of the map)."""
    if mapping is None:
        return list(rna_barcodes)
    inverse = mapping.inverse()
    return [name for barcode in rna_barcodes if (name := inverse.rna(barcode)) is not None]


@dataclass(frozen=True)
class Overlap:
    """How many barcodes two modalities of a sample share, and what single change would help most.

    Attributes
    ----------
    left, right
        Modality names.
    n_left, n_right, shared
        Numbers of barcodes.
    fraction
        shared / the smaller of both numbers.
    transformation, transformed_fraction
        The single transformation of the left barcodes with the highest overlap, if it is higher than the present
        one by at least 10 points; else None and `fraction`.
    """

    left: str
    right: str
    n_left: int
    n_right: int
    shared: int
    fraction: float
    transformation: str | None
    transformed_fraction: float


def _parts(barcode: str) -> tuple[str, str, str]:
    found = _CORE.search(barcode)
    if found is None:
        return "", barcode, ""
    return barcode[: found.start()], found.group(), barcode[found.end() :]


def _reverse_complement(text: str) -> str:
    return text.translate(_COMPLEMENT)[::-1]


def _without_suffix(barcode: str) -> str:
    return "".join(_parts(barcode)[:2]) if _CORE.search(barcode) else _SUFFIX.sub("", barcode)


def _without_prefix(barcode: str) -> str:
    return "".join(_parts(barcode)[1:])


def _nucleotides(barcode: str) -> str:
    return _parts(barcode)[1]


_MEETINGS = (
    ("the suffix after the barcode (such as -1)", _without_suffix),
    ("the prefix before the barcode", _without_prefix),
    ("the prefix and the suffix of the barcode", _nucleotides),
)
LEAST_MEETING = 0.5
"""Smallest share of the smaller list that must meet before barcodes are renamed."""


def meeting(
    own: Sequence[str], others: Iterable[str], least_share: float = LEAST_MEETING
) -> tuple[dict[str, str], str] | None:
    """Say how `own` barcodes are called among `others`, where one side lacks a suffix or prefix of the other.

    Only one-to-one: a name without its suffix that two cells would share is no name. A suffix is never exchanged: `-1`
    and `-2` are two wells.

    Returns
    -------
    Own → other name, for those that meet, and what was left out of the comparison, in words; None where they meet as
    they are, or where no such change makes at least `least_share` of the smaller side meet.
    """
    one, two = list(dict.fromkeys(own)), list(dict.fromkeys(others))
    least = least_share * max(1, min(len(one), len(two)))
    if len(set(one) & set(two)) >= max(least, 1):
        return None
    for words, key in _MEETINGS:
        mine, theirs = [key(name) for name in one], [key(name) for name in two]
        n_mine, n_theirs = Counter(mine), Counter(theirs)
        place = {k: name for k, name in zip(theirs, two) if n_theirs[k] == 1}
        found = {name: place[k] for k, name in zip(mine, one) if n_mine[k] == 1 and k in place}
        changes = {name: _lacks(name, other) for name, other in found.items()}
        found = {name: other for name, other in found.items() if changes[name] is not None}
        # one change for all: where some lack -1 and others -2, which well a barcode is of is not known
        if len(found) >= max(least, 1) and len({changes[name] for name in found}) == 1:
            return found, words
    return None


def _lacks(one: str, other: str) -> tuple[str, str, bool] | None:
    """What one barcode has around the nucleotides that the other lacks, and which one; None if both have their own."""
    if not (_CORE.search(one) and _CORE.search(other)):
        short, long = sorted((one, other), key=len)
        return ("", long[len(short) :], long == one) if long.startswith(short) else None
    (before, _, after), (other_before, _, other_after) = _parts(one), _parts(other)
    front = sorted((before, other_before), key=len)
    back = sorted((after, other_after), key=len)
    if not front[1].endswith(front[0]) or not back[1].startswith(back[0]):
        return None
    extra = front[1][: len(front[1]) - len(front[0])], back[1][len(back[0]) :]
    return (*extra, len(before) + len(after) > len(other_before) + len(other_after))


def overlap(
    left: Iterable[str],
    right: Iterable[str],
    names: tuple[str, str] = ("atac", "rna"),
    mapping: BarcodeMap | None = None,
) -> Overlap:
    """Compare the barcodes of two modalities of one sample.

    Parameters
    ----------
    left, right
        Barcodes.
    names
        What to call the two.
    mapping
        A barcode map that has not been applied to `left`, tried as one of the transformations.
    """
    one, two = set(left), set(right)
    smaller = max(1, min(len(one), len(two)))
    fraction = len(one & two) / smaller
    # each entry: (words for the user, key of the left barcode, key of the right barcode); equal keys = same cell
    identity: Callable[[str], str | None] = lambda b: b  # noqa: E731
    tries: list[tuple[str, Callable[[str], str | None], Callable[[str], str | None]]] = [
        ("dropping or exchanging the suffix after the barcode (such as -1)", _without_suffix, _without_suffix),
        ("dropping or exchanging the prefix before the barcode", _without_prefix, _without_prefix),
        ("comparing only the nucleotides (prefix and suffix dropped)", _nucleotides, _nucleotides),
        (
            "the reverse complement of the nucleotides",
            lambda b: _parts(b)[0] + _reverse_complement(_parts(b)[1]) + _parts(b)[2],
            identity,
        ),
        ("upper case", str.upper, str.upper),
    ]
    if mapping is not None:
        tries.append(("the barcode map", mapping.rna, identity))
        tries.append(("the barcode map with its two columns exchanged", mapping.inverse().rna, identity))
    best_words, best = None, fraction
    for words, key_left, key_right in tries:
        keys = Counter(key for b in one if (key := key_left(b)) is not None)
        others = Counter(key for b in two if (key := key_right(b)) is not None)
        # a key of two cells is no name: dropping -1 and -2 of an aggregated run would merge cells
        matched = sum(1 for key, n in keys.items() if n == 1 and others.get(key, 0) == 1) / smaller
        if matched > best + 0.0999 or (best_words is not None and matched > best):
            best_words, best = words, matched
    return Overlap(*names, len(one), len(two), len(one & two), fraction, best_words, best)


def overlap_problem(sample: str, table: Overlap) -> InputError | None:
    """Say what is wrong with an overlap under one half, and which single change would raise it to how much."""
    if table.fraction >= 0.5:
        return None
    if table.transformation is not None:
        remedy = (
            f"{table.transformation} would raise the overlap to {table.transformed_fraction:.0%}: rewrite the "
            f"{table.left} barcodes so"
        ) + (", or give the pairs in the column barcode_map" if table.left == "atac" else "")
    elif table.left == "atac":
        remedy = (
            "no suffix, prefix or reverse complement helps: give the two barcodes of each cell in the column "
            "barcode_map (10x multiome from separate runs), or put the two modalities in two rows if they are "
            "different cells"
        )
    else:
        remedy = (
            f"no suffix, prefix or reverse complement helps: write the {table.left} matrix with the barcodes of "
            f"{table.right}, or put the two modalities in two rows if they are different cells"
        )
    return InputError(
        f"sample {sample!r}: {table.shared} of {min(table.n_left, table.n_right)} barcodes ({table.fraction:.0%}) are "
        f"shared by {table.left} ({table.n_left} cells) and {table.right} ({table.n_right} cells)",
        "cells whose barcodes do not meet are taken as unpaired, and pairing is what the model learns from",
        remedy,
    )
