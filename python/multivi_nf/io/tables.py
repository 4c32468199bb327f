"""Result tables that are the same bytes for the same numbers."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from multivi_nf.io.files import written_whole

if TYPE_CHECKING:
    import pandas as pd


def write_table(table: pd.DataFrame, path: Path, *, index: bool = False, gaps: str = "nan") -> None:
    """Write a TSV, gzipped without time stamp where the name ends in .gz; numbers with six significant digits.

    Parameters
    ----------
    index
        Whether the index is the first column.
    gaps
        What stands for a missing value.
    """
    with written_whole(path) as temporary, temporary.open("wb") as raw:
        if not path.name.endswith(".gz"):
            _write(table, raw, index, gaps)
            return
        # mtime 0 and no file name in the header: the bytes depend on the table alone
        with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
            _write(table, packed, index, gaps)


def write_bed(regions: pd.DataFrame, path: Path) -> None:
    """Write regions as BED: their columns as they are, without a header."""
    with written_whole(path) as temporary:
        regions.to_csv(temporary, sep="\t", header=False, index=False)


def _write(table: pd.DataFrame, file: BinaryIO | gzip.GzipFile, index: bool, gaps: str) -> None:
    with io.TextIOWrapper(file, encoding="utf-8", newline="\n") as text:
        table.to_csv(text, sep="\t", index=index, float_format="%.6g", na_rep=gaps, lineterminator="\n")
