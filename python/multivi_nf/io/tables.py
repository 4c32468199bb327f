"""Result tables that are the same bytes for the same numbers."""

from __future__ import annotations

import gzip
import io
from typing import TYPE_CHECKING

from multivi_nf.io.files import written_whole

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a TSV, gzipped without time stamp where the name ends in .gz; numbers with six significant digits."""
    text = io.StringIO()
    table.to_csv(text, sep="\t", index=False, float_format="%.6g", na_rep="nan", lineterminator="\n")
    with written_whole(path) as temporary:
        data = text.getvalue().encode()
        # mtime 0 and no file name in the header: the bytes depend on the table alone
        temporary.write_bytes(gzip.compress(data, compresslevel=6, mtime=0) if path.name.endswith(".gz") else data)
