"""Names of many: barcodes that a fragments file can hold, and how the first few are shown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from multivi_nf.errors import InputError
from multivi_nf.fragments.parse import LONGEST_NAME

_PRINTABLE = re.compile(r"[\x21-\x7e]+")


def some(names: Iterable[str], n: int = 3) -> str:
    """Show the first few of many names."""
    every = list(map(str, names))
    return ", ".join(every[:n]) + (f", ... {len(every)} in all" if len(every) > n else "")


def check_barcodes(barcodes: Sequence[str]) -> Sequence[str]:
    """Refuse a list of barcodes with one twice, or one that a fragments file cannot hold."""
    twice = len(barcodes) - len(set(barcodes))
    if twice:
        first = next(name for name, n in Counter(barcodes).items() if n > 1)
        raise InputError(
            f"{twice} barcode(s) of the list occur more than once, first {first!r}",
            "a cell would be there twice",
            "keep each barcode once",
        )
    for name in barcodes:
        if len(name) > LONGEST_NAME or not _PRINTABLE.fullmatch(name):
            raise InputError(
                f"barcode {name!r} of the list is empty, longer than 1,024 characters or not printable ASCII",
                "it cannot occur in a fragments file",
                "give one barcode a line, as written in column 4 of the fragments file",
            )
    return barcodes
