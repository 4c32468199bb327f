"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` when the block succeeds, remove it when it fails.

    Works for a file and for a directory (zarr). The suffix is kept, since writers such as
    :meth:`mudata.MuData.write` look at it.

    Parameters
    ----------
    path
        The final name. Its parent directory is made if it is missing.

    Yields
    ------
    The temporary path to write to.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{uuid.uuid4().hex}.{final.name}")
    try:
        yield temporary
        if temporary.is_dir() and final.is_dir():
            retired = final.with_name(f".{uuid.uuid4().hex}.{final.name}")
            final.rename(retired)
            temporary.rename(final)
            shutil.rmtree(retired)
        else:
            temporary.replace(final)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as gzipped TSV with the same bytes every time (no time stamp, six digits)."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
        with io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text:
            table.to_csv(text, sep="\t", float_format="%.6g", na_rep="NA", lineterminator="\n")
