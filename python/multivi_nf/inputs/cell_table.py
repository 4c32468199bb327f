"""Per-cell tables: barcodes with whatever is known of each cell (types, donors, clinical data), and plain lists.

CSV, TSV, semicolons, quotes (R's `write.csv`), row names with or without a heading, gzip, parquet; Cell Ranger's own
tables with their cell flags.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.inputs.text import read_text

BARCODE_NAMES = (
    "barcode, barcodes, cell, cells, cell_id, cellid, cell_barcode, cell_barcodes, cellbarcode, cb, bc, bc_wells, "
    "obs_names, index, _index, cell_name, cellname, cell.id, cell id, cell.barcode, cell barcode, unnamed: 0, "
    "rownames"
).split(", ")
_FLAG = re.compile(r"^is_+([^\s,]+_)?cell(_+barcode)?$", re.IGNORECASE)
_NOT_CELLS = ("NO_BARCODE", "", "unmapped")
_CORE = re.compile(r"[ACGTN]{8,}")
_COMBINED = re.compile(r"^R\d\.\d+,R\d\.\d+,R\d\.\d+(,P\d+\.\d+)?$")  # SHARE-seq: one barcode, with commas
_TENX_COLUMNS = frozenset(
    (
        "excluded_reason passed_filters duplicate chimeric lowmapq nonprimary tss_fragments gex_umis_count "
        "gex_genes_count atac_fragments atac_tss_fragments gex_barcode atac_barcode gex_raw_reads atac_raw_reads "
        "peak_region_fragments"
    ).split()
)
_TRUE = {"1", "1.0", "true", "t", "yes", "y"}
_FALSE = {"0", "0.0", "false", "f", "no", "n", "", "nan", "na", "none", "<na>", "null"}


@dataclass
class CellTable:
    """What a table says of cells.

    Attributes
    ----------
    barcodes
        Its cells, in order of the table; where it has a cell flag only those that are flagged.
    columns
        Further columns, one row a barcode, types as read; none for plain lists and Cell Ranger's metrics.
    notes
        What was done on reading that the user should know.
    """

    barcodes: list[str]
    columns: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def truths(values: Sequence[object], what: str) -> np.ndarray:
    """Read a column of flags: True, TRUE, 1, yes and their contraries, whatever the type.

    Raises
    ------
    InputError
        Names the first value that is neither.
    """
    words = [str(value).strip().lower() for value in values]
    strange = next((value for value, word in zip(values, words) if word not in _TRUE and word not in _FALSE), None)
    if strange is not None:
        raise InputError(
            f"{what} holds {str(strange)!r}, which is neither true nor false",
            "which barcodes are cells cannot be known",
            "write TRUE or FALSE, or 1 or 0",
        )
    return np.array([word in _TRUE for word in words], dtype=bool)


def read_cell_table(path: Path, text: Sequence[str] | None = None) -> CellTable:
    """Read barcodes, and what a table says of them.

    Parameters
    ----------
    path
        The file; parquet by its name or its first bytes.
    text
        Its lines, where they were read already.

    Raises
    ------
    InputError
        No barcode, a flag that is neither true nor false, ragged rows.
    """
    if text is None and _is_parquet(path):
        return _from_frame(_parquet(path), path)
    if text is None:
        text = read_text(path)
    lines = [line for line in text if line.strip()]
    if not lines:
        raise InputError(f"{path} holds no barcode", "no cell would be left", "give one barcode a line")
    if all(_COMBINED.match(line.strip().strip('"')) for line in lines[:100]):
        return CellTable([line.strip().strip('"') for line in lines], pd.DataFrame(index=range(len(lines))))
    separator = _separator(lines)
    rows = [[value.strip() for value in row] for row in csv.reader(lines, delimiter=separator)]
    header = _has_header(rows)
    names = rows[0] if header else []
    body = rows[1:] if header else rows
    width = max((len(row) for row in body), default=len(names))
    if header and len(names) == 1 and names[0].lower() in BARCODE_NAMES:
        body = [row[:1] for row in body]  # a plain list under a heading; what else a line holds has no name
    elif header and width == len(names) + 1 and all(len(row) == width for row in body):
        names = ["", *names]  # R's write.table: no heading over the row names
    if not header:
        return _plain(body, width, path)
    wrong = next((i for i, row in enumerate(body, 2) if len(row) != len(names)), None)
    if wrong is not None:
        raise InputError(
            f"{path}, line {wrong}: {len(body[wrong - 2])} values where the header has {len(names)}",
            "values would slip into the wrong columns",
            "give one value a column; quote values that hold the separator",
        )
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise InputError(
            f"{path}: two columns are called {twice!r}", "which one is meant cannot be known", "rename one of them"
        )
    table = pd.DataFrame(body, columns=pd.Index(names, dtype=object), dtype=object)
    return _from_frame(table, path, decimal="," if separator == ";" else ".")


def _is_parquet(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return handle.read(4) == b"PAR1"


def _parquet(path: Path) -> pd.DataFrame:
    from fastparquet import ParquetFile

    try:
        table = ParquetFile(str(path)).to_pandas()
    except Exception as error:  # fastparquet raises many kinds; the cause is kept
        raise InputError(
            f"{path} cannot be read as parquet: {error}",
            "what it says of the cells is not known",
            "write it again, or as CSV (pandas: to_csv; R: write.csv)",
        ) from error
    return table if isinstance(table.index, pd.RangeIndex) else table.reset_index(names=table.index.name or "index")


def _separator(lines: list[str]) -> str:
    for line in lines[:2]:
        bare = re.sub(r'"[^"]*"', "", line)
        for separator in ("\t", ";", ","):
            if separator in bare:
                return separator
    return "\t"


def _has_header(rows: list[list[str]]) -> bool:
    first = [name.lower() for name in rows[0]]
    if any(name in BARCODE_NAMES or _FLAG.match(name) for name in first):
        return True
    if len(rows) < 2 or any(_CORE.search(name) for name in rows[0]):
        return False
    if first == ["x"] or (first[0] == "" and len(first) > 1):
        return True
    # a heading over barcodes: no barcode itself, where all others below it are
    below = rows[1 : min(len(rows), 200)]
    if len(rows[0]) in (len(below[0]), len(below[0]) - 1) and len(below[0]) > 1:
        return any(all(i < len(row) and _CORE.search(row[i]) for row in below) for i in range(len(below[0])))
    return False


def _plain(rows: list[list[str]], width: int, path: Path) -> CellTable:
    """A list without header: the column of barcodes is the first, unless another one plainly is (genome, barcode)."""
    column, notes = 0, []
    if width > 1:
        columns = [[row[i] if i < len(row) else "" for row in rows] for i in range(width)]
        first_is = len(set(columns[0])) == len(rows)
        like = [sum(_CORE.search(v) is not None for v in values[:1000]) > 0.5 * len(rows[:1000]) for values in columns]
        better = [i for i, values in enumerate(columns) if like[i] and len(set(values)) == len(rows)]
        if better and not (like[0] and first_is):
            column = better[0]
            notes.append(
                f"{path.name}: barcodes are taken from column {column + 1}, column 1 holds {rows[0][0]!r}, ..."
            )
    barcodes = [row[column] if column < len(row) else "" for row in rows]
    return CellTable(barcodes, pd.DataFrame(index=range(len(barcodes))), notes)


def _barcode_column(table: pd.DataFrame, path: Path) -> str:
    lower = {str(name).strip().lower(): name for name in reversed(list(table.columns))}
    for name in BARCODE_NAMES:
        if name in lower:
            return lower[name]
    candidates = [name for name in table.columns if _like_barcodes(table[name])]
    if candidates:
        return candidates[0]
    if "" in table.columns:
        return ""
    if len(table.columns) == 1:
        return table.columns[0]
    raise InputError(
        f"{path} has the columns {', '.join(map(str, table.columns[:8]))}, and none of them holds barcodes",
        "which cell a row speaks of cannot be known",
        "name the column of barcodes 'barcode'",
    )


def _like_barcodes(column: pd.Series) -> bool:
    values = column.dropna().astype(str)
    return len(values) > 0 and values.is_unique and values.head(1000).str.contains(_CORE).mean() > 0.5


def _from_frame(table: pd.DataFrame, path: Path, decimal: str = ".") -> CellTable:
    name = _barcode_column(table, path)
    flags = [column for column in table.columns if _FLAG.match(str(column).strip())]
    tenx = len({str(column).lower() for column in table.columns} & _TENX_COLUMNS) >= 2
    notes = []
    keep = ~table[name].astype(str).isin(_NOT_CELLS) & table[name].notna()
    if flags:
        is_cell = np.zeros(len(table), dtype=bool)
        for flag in flags:
            is_cell |= truths(table[flag].tolist(), f"{path}, column {flag!r}")
        keep &= is_cell
        if not keep.any():
            raise InputError(
                f"{path}: no barcode is a cell ({', '.join(map(str, flags))} is false for all {len(table)})",
                "no cell would be left",
                "give the table of the run that called cells, or a plain list of barcodes",
            )
    elif tenx:
        raise InputError(
            f"{path} is a table of barcode metrics without a cell flag (is_cell, is__cell_barcode, is_cell_barcode)",
            "all its barcodes, empty droplets too, would be taken as cells",
            "give the filtered barcodes.tsv of the run, or add a column is_cell",
        )
    table = table[keep]
    barcodes = table[name].astype(str).str.strip().tolist()
    if not barcodes:
        raise InputError(f"{path} holds no barcode", "no cell would be left", "give one barcode a line")
    rest = [column for column in table.columns if column != name and column not in flags]
    if tenx:
        notes.append(f"{path.name}: {len(rest)} columns of Cell Ranger's metrics are not taken over")
        rest = []
    columns = table[[column for column in rest if str(column).strip()]].reset_index(drop=True)
    return CellTable(barcodes, columns.apply(lambda column: _typed(column, decimal)), notes)


def _typed(column: pd.Series, decimal: str) -> pd.Series:
    """Text to whole numbers, numbers or booleans where every value is one; a leading zero is no number."""
    if column.dtype != object:
        return column
    narrow = column.isna() | column.astype(str).isin(("", "NA", "<NA>"))
    gaps = narrow | column.astype(str).isin(("NaN", "nan", "null", "None", "N/A"))
    words = column[~gaps].astype(str)
    if words.empty:
        return column.where(~narrow, None)
    if words.str.lower().isin(("true", "false")).all():
        flags = pd.array([None if gap else str(v).lower() == "true" for v, gap in zip(column, gaps)], dtype="boolean")
        return pd.Series(flags if gaps.any() else flags.astype(bool), index=column.index)
    if words.str.fullmatch(r"-?(0|[1-9]\d{0,15})").all():
        numbers = pd.array([None if gap else int(v) for v, gap in zip(column, gaps)], dtype="Int64")
        return pd.Series(numbers if gaps.any() else numbers.astype(np.int64), index=column.index)
    plain = words.str.replace(",", ".", regex=False) if decimal == "," else words
    if plain.str.fullmatch(r"[-+]?(0|[1-9]\d*)?(\.\d*)?([eE][-+]?\d+)?").all() and plain.str.contains(r"\d").all():
        return pd.to_numeric(plain).reindex(column.index)
    return column.where(~narrow, None)
