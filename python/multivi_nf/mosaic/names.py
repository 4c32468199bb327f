"""Names of features that should meet: one gene or antibody under the spellings of several tools and vendors.

A small table of rules, each safe by itself: two names of *one* sample are never made one, so a panel that holds `CD8`
and `CD8a`, or two clones `CD3.1` and `CD3.2`, keeps both.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from multivi_nf.errors import InputError
from multivi_nf.inputs.text import read_text

_BEFORE = re.compile(
    r"^(anti[-_. ]*(human|mouse|rat|hu|ms)?([-_/. ]*(mouse|rat|human))*[-_. ]+|(hu|ms|hums|humsrt|msrt)\.(?=.)"
    r"|(adt|ab|prot|protein|antibody|human|mouse)[-_: ]+)",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"([-_. ]*total[-_ ]?seq([-_ ]?[a-d])?|[-_ ]+(adt|pabo|prot|protein|ab|antibody|ts[abcd])|[-_][ACGT]{8,}"
    r"|[-_ ]*\([^)]*\))$",
    re.IGNORECASE,
)
_MADE_UNIQUE = re.compile(r"[-.](\d{1,2})$")
_SAME = dict(
    pair.split("=")
    for pair in (
        "hladra=hladr cd8a=cd8 cd45r=b220 cd45rb220=b220 ighd=igd ighm=igm fcgr3a=cd16 ncam1=cd56 itgax=cd11c "
        "itgam=cd11b ptprc=cd45 il2ra=cd25 il7r=cd127 pdcd1=cd279 pd1=cd279"
    ).split()
)
"""Antibodies that vendors call by the gene, or by an older name."""


@dataclass
class Aliases:
    """What the user says of names (`--feature_aliases`): any spelling → the name meant, in lower case on the left."""

    names: dict[str, str] = field(default_factory=dict)

    def of(self, name: str) -> str:
        """The name meant, or the name itself."""
        return self.names.get(name.strip().lower(), name)


def read_aliases(path: str | Path | None) -> Aliases:
    """Read `--feature_aliases`: two columns, the spelling in the data and the name that is meant.

    Tab, comma or semicolon between; a heading (`alias`, `name`) is recognised. Further spellings of one name take
    further lines.

    Raises
    ------
    InputError
        A line without two names, or a spelling that means two things.
    """
    if path is None:
        return Aliases()
    path = Path(path)
    lines = [line for line in read_text(path) if line.strip() and not line.startswith("#")]
    separator = next((s for s in ("\t", ";", ",") if lines and s in lines[0]), "\t")
    names: dict[str, str] = {}
    for number, row in enumerate(csv.reader(lines, delimiter=separator), 1):
        row = [value.strip() for value in row]
        if number == 1 and {value.lower() for value in row[:2]} & {"alias", "spelling", "from"}:
            continue
        if len(row) < 2 or not row[0] or not row[1]:
            raise InputError(
                f"{path}, line {number}: {separator.join(row)!r} does not give two names",
                "which name is meant cannot be known",
                "give two columns: the spelling in the data, and the name that is meant",
            )
        if names.get(row[0].lower(), row[1]) != row[1]:
            raise InputError(
                f"{path}, line {number}: {row[0]!r} means {names[row[0].lower()]!r} and {row[1]!r}",
                "a feature has one name",
                "keep one of the two lines",
            )
        names[row[0].lower()] = row[1]
    return Aliases(names)


def protein_key(name: str, aliases: Aliases | None = None) -> str:
    """Reduce the name of an antibody to what vendors share: `CD3_TotalSeqB`, `anti-human CD3`, `cd3` → `cd3`."""
    given = aliases or Aliases()
    if given.of(name) != name:
        return _letters(given.of(name))
    bare, before = name.strip(), ""
    while bare != before:
        before = bare
        bare = _AFTER.sub("", _BEFORE.sub("", bare, count=1), count=1).strip() or before
    return _letters(given.of(bare))


def _letters(name: str) -> str:
    # a dot or dash before a number tells clones apart: CD3.1 is not CD31
    apart = re.sub(r"(?<=\d)[-.](?=\d+$)", "~", name.strip().lower())
    return re.sub(r"[^\w~+]+|_", "", apart) or name


def protein_keys(tables: Sequence[Sequence[str]], aliases: Aliases | None = None) -> list[list[str]]:
    """Keys of the antibodies, sample by sample; equal keys of two samples are one protein.

    Names of one sample whose keys would be equal keep their own spelling. Genes' names (`HLA-DRA`) stand for their
    proteins where no sample has both. A trailing `.1` or `-1`, as R and scanpy make names unique, is taken off where
    another sample has the bare name and the sample itself has neither that nor a second clone (`.2`).
    """
    keys = []
    for names in tables:
        own = [protein_key(name, aliases) for name in names]
        many = Counter(own)
        keys.append(
            [key if many[key] == 1 or _letters(name) == key else f"={name.strip()}" for key, name in zip(own, names)]
        )
    both = {_SAME[key] for own in keys for key in own if key in _SAME and _twice(own, _SAME[key])}
    keys = [[key if _SAME.get(key, key) in both else _SAME.get(key, key) for key in own] for own in keys]
    for place, (names, own) in enumerate(zip(tables, keys)):
        others = set().union(*(other for i, other in enumerate(keys) if i != place))
        for column, (name, key) in enumerate(zip(names, own)):
            made = _MADE_UNIQUE.search(_AFTER.sub("", name.strip()))
            if made is None or made.group(1) != "1" or key in others or key.startswith("="):
                continue
            stem = _AFTER.sub("", name.strip())[: made.start()]
            bare = protein_key(stem, aliases)
            sibling = re.compile(re.escape(stem.lower()) + r"[-.]\d{1,2}$")
            clones = [n for n in names if sibling.match(_AFTER.sub("", n.strip()).lower())]
            if bare in others and bare not in own and len(clones) == 1:
                own[column] = bare
    return keys


def _twice(keys: Sequence[str], meant: str) -> bool:
    return sum(_SAME.get(key, key) == meant for key in keys) > 1


def symbol_keys(tables: Sequence[Sequence[str]], aliases: Aliases | None = None) -> list[list[str]]:
    """Keys of gene symbols, sample by sample: what made them unique (`TBCE-1`, `TBCE.1`) is taken off.

    Only where the same sample has the bare name too and another sample has the bare name but not this one: `HLA-A` and
    `NKX2-1` are names of their own.
    """
    meant = [[(aliases or Aliases()).of(name) for name in names] for names in tables]
    sets = [set(names) for names in meant]
    keys = []
    for own, names in zip(sets, meant):
        row = []
        for name in names:
            made = _MADE_UNIQUE.search(name)
            if made is not None:
                bare = name[: made.start()]
                others = [other for other in sets if other is not own and bare in other]
                if bare in own and others and not any(name in other for other in others):
                    name = bare
            row.append(name)
        keys.append(row)
    return keys


def met_by_spelling(names: Sequence[Sequence[str]], keys: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Keys under which samples have different spellings, with these in order of appearance."""
    found: dict[str, dict[str, None]] = {}
    for own, own_keys in zip(names, keys):
        for name, key in zip(own, own_keys):
            found.setdefault(key, {})[name] = None
    return {key: list(spellings) for key, spellings in found.items() if len(spellings) > 1}
