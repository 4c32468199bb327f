"""The cell annotation that a file brings along (`obs`): every column travels on, with its type, under a free name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.inputs.barcodes import BarcodeMap, meeting
from multivi_nf.inputs.cell_table import CellTable, read_cell_table
from multivi_nf.inputs.samplesheet import RESERVED, RESERVED_PREFIXES

SUFFIX = "_given"
"""What a column gets whose name the pipeline uses itself."""
_AS_BATCH = {"batch": "batch_column", "sample": "sample_column"}


def given_name(column: str) -> str:
    """Give the name under which a column of a file's obs travels: `cluster` → `cluster_given`.

    Names that begin as the pipeline's own do (`rna_`, `atac_`, ...) get a beginning instead: `given_rna_n_counts`.
    """
    if column.startswith(RESERVED_PREFIXES):
        return f"given_{column.replace(':', '_')}"
    return f"{column}{SUFFIX}" if column in (*RESERVED, *_AS_BATCH) else column


def tidy(obs: pd.DataFrame, source: str) -> tuple[pd.DataFrame, list[str]]:
    """Bring the annotation of a file into types that every later step can write, without loss.

    Whole numbers, booleans, numbers, ordered categories and gaps stay what they are; dates become text (ISO 8601),
    mixed objects text. Columns whose names the pipeline uses itself get the suffix `_given`.

    Returns
    -------
    The table, and sentences about what was renamed.
    """
    columns: dict[str, pd.Series] = {}
    notes, renamed = [], []
    for place, column in enumerate(obs.columns):
        name = str(column).replace("/", "_")  # a slash is a folder in HDF5
        new = given_name(name)
        while new in columns:
            new += SUFFIX
        values = obs.iloc[:, place]
        columns[new] = tidy_column(values)
        if name in _AS_BATCH:
            n = values.nunique()
            notes.append(
                f"{source}: obs[{name!r}] ({n} value{'' if n == 1 else 's'}) is kept as {new!r} and not used as the "
                f"{name}; to use it, write {name} into the column {_AS_BATCH[name]} of the samplesheet"
            )
        elif new != name:
            renamed.append(f"{name} → {new}")
    if renamed:
        shown = ", ".join(renamed[:5]) + (", ..." if len(renamed) > 5 else "")
        notes.append(f"{source}: columns of obs renamed, since the pipeline writes such names itself: {shown}")
    return pd.DataFrame(columns, index=obs.index), notes


def tidy_column(values: pd.Series) -> pd.Series:
    """One column in a type that AnnData files hold; see :func:`tidy`."""
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _tidy_categories(values)
    if isinstance(dtype, pd.SparseDtype):
        return tidy_column(pd.Series(np.asarray(values), index=values.index))
    if dtype.kind in "bifu" and dtype != np.float16:
        return values
    if dtype == np.float16:
        return values.astype(np.float32)
    kinds = {type(v) for v in values.dropna().head(10_000)} if dtype.kind == "O" else set()
    if kinds and kinds <= {bool, np.bool_}:
        return values.astype("boolean")
    if kinds and all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in kinds):
        try:
            return values.astype("Int64")
        except (TypeError, ValueError, OverflowError):
            pass
    if kinds and all(issubclass(kind, (int, float, np.integer, np.floating)) and kind is not bool for kind in kinds):
        return pd.to_numeric(values)
    text = np.array([None if missing else _text(v) for v, missing in zip(values, values.isna())], dtype=object)
    return pd.Series(pd.Categorical(text), index=values.index)


def _tidy_categories(values: pd.Series) -> pd.Series:
    categories = values.cat.categories
    if categories.dtype.kind in "OUSifbu" and not any(isinstance(c, (bytes, pd.Interval)) for c in categories):
        kinds = {type(c) for c in categories}
        if len(kinds) <= 1 or not (categories.dtype == object):
            return values
    return values.cat.rename_categories([_text(c) for c in categories])


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, (pd.Timestamp, np.datetime64)):
        stamp = pd.Timestamp(value)
        return stamp.date().isoformat() if stamp == stamp.normalize() and stamp.tzinfo is None else stamp.isoformat()
    return str(value)


def add_tables(
    counts: ad.AnnData, paths: Sequence[Path | None], sample: str, mapping: BarcodeMap | None = None
) -> ad.AnnData:
    """Add the columns of per-cell tables to `obs` of a sample's matrix, in place.

    Parameters
    ----------
    counts
        Of :func:`multivi_nf.counts.read.read_counts`; its notes and warnings gain what was done.
    paths
        Tables (columns `cells` and `barcodes` of the samplesheet); None and plain lists are passed over.
    sample
        Name of the sample: a table with a column `sample` that holds it speaks of several, and only its rows count.
    mapping
        Translation by which the matrix's ATAC barcodes may be listed under their RNA names.

    Raises
    ------
    InputError
        A barcode with two different rows, or a table that none of the cells is in.
    """
    for path in paths:
        if path is None:
            continue
        table = read_cell_table(Path(path))
        if table.columns.shape[1]:
            counts.obs = _joined(counts, _one_row_a_cell(table, Path(path), sample), Path(path), mapping)
    return counts


def _one_row_a_cell(table: CellTable, path: Path, sample: str) -> pd.DataFrame:
    columns = table.columns.set_axis(pd.Index(table.barcodes, dtype=object), axis=0)
    if "sample" in columns and (columns["sample"].astype(str) == sample).any():
        columns = columns[columns["sample"].astype(str) == sample]
    own = [re.sub(rf"^{re.escape(sample)}[:_#.|-]+", "", name) for name in columns.index]
    prefixed = np.array([name != other for name, other in zip(own, columns.index)], dtype=bool)
    if prefixed.any():  # sample#barcode of several samples: those of this one, under their own barcodes
        columns = columns.set_axis(pd.Index(own, dtype=object), axis=0)[prefixed]
    again = columns.index.duplicated()
    if again.any():
        same = columns.reset_index().astype(str).duplicated()
        if not same[again].all():
            barcode = columns.index[again & ~same][0]
            raise InputError(
                f"{path}: {int((again & ~same).sum())} barcode(s) have two different rows, e.g. {barcode!r}",
                "which row speaks of the cell cannot be known",
                "keep one row a barcode; of several samples, a column 'sample' or barcodes sample_barcode tell which",
            )
        columns = columns[~again]
    return columns


def _joined(counts: ad.AnnData, table: pd.DataFrame, path: Path, mapping: BarcodeMap | None) -> pd.DataFrame:
    notes, warnings = list(counts.uns.get("notes", ())), list(counts.uns.get("warnings", ()))
    known = set(table.index)
    names = counts.obs_names.tolist()
    if mapping is not None:
        names = [name if name in known else (mapping.rna(name) or name) for name in names]
    met = meeting(names, table.index)
    if met is not None:
        names = [met[0].get(name, name) for name in names]
        notes.append(f"{path.name}: its barcodes meet the matrix's without {met[1]}")
    found = sum(name in known for name in names)
    if not found:
        raise InputError(
            f"{path}: none of its {len(table)} barcodes (e.g. {table.index[0]!r}) is among the cells (e.g. "
            f"{counts.obs_names[0]!r})",
            "what it says would be given to no cell",
            "give the table of this sample, its barcodes spelled as in the matrix",
        )
    told = f"{path.name}: {found} of {len(names)} cells are in the table"
    (warnings if found < len(names) / 2 else notes).append(told)
    rows = table.reindex(names).set_axis(counts.obs.index, axis=0)
    for column in rows.columns:  # a gap must not turn whole numbers into fractions, nor flags into objects
        kind = table[column].dtype.kind
        if found < len(names) and kind in "iub":
            rows[column] = table[column].astype("boolean" if kind == "b" else "Int64").reindex(names).to_numpy()
            rows[column] = rows[column].astype("boolean" if kind == "b" else "Int64")
    added, said = tidy(rows, path.name)
    twice = [column for column in added.columns if column in counts.obs]
    if twice:
        notes.append(f"{path.name}: its column(s) {', '.join(twice[:5])} replace those of the same name in the matrix")
    counts.uns["notes"], counts.uns["warnings"] = [*notes, *said], warnings
    return counts.obs.drop(columns=twice).join(added)
