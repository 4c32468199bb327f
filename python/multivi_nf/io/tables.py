"""Result tables that are the same bytes for the same numbers."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import TYPE_CHECKING

from multivi_nf.io.files import written_whole

if TYPE_CHECKING:
    import pandas as pd


def write_table(
    table: pd.DataFrame, path: Path, *, index: bool = False, gaps: str = "nan", digits: int | None = 6
) -> None:
    """Write a TSV, gzipped without time stamp where the name ends in .gz.

    Parameters
    ----------
    index
        Whether the index is the first column.
    gaps
        What stands for a missing value.
    digits
        Significant ones of a number; None: as many as bring it back as it is.
    """
    form = None if digits is None else f"%.{digits}g"
    with written_whole(path) as temporary, temporary.open("wb") as raw:
        # mtime 0 and no file name in the header: the bytes depend on the table alone
        packed = gzip.GzipFile("", "wb", 6, raw, mtime=0) if path.name.endswith(".gz") else raw
        with packed, io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text:
            table.to_csv(text, sep="\t", index=index, float_format=form, na_rep=gaps, lineterminator="\n")


def write_bed(regions: pd.DataFrame, path: Path) -> None:
    """Write regions as BED: their columns as they are, without a header."""
    with written_whole(path) as temporary:
        regions.to_csv(temporary, sep="\t", header=False, index=False)
