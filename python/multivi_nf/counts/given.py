"""The cell annotation that a file brings along (`obs`): every column travels on, with its type, under a free name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from multivi_nf.inputs.samplesheet import RESERVED, RESERVED_PREFIXES

SUFFIX = "_given"
"""What a column gets whose name the pipeline uses itself."""
_AS_BATCH = {"batch": "batch_column", "sample": "sample_column"}


def given_name(column: str) -> str:
    """Give the name under which a column of a file's obs travels: `cluster` → `cluster_given`."""
    return f"{column}{SUFFIX}" if _reserved(column) else column


def _reserved(column: str) -> bool:
    return column in (*RESERVED, *_AS_BATCH) or column.startswith(RESERVED_PREFIXES)


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
        categories = values.cat.categories
        if categories.dtype.kind in "OUSifbu" and not any(isinstance(c, (bytes, pd.Interval)) for c in categories):
            kinds = {type(c) for c in categories}
            if len(kinds) <= 1 or not (categories.dtype == object):
                return values
        return values.cat.rename_categories([_text(c) for c in categories])
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


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, (pd.Timestamp, np.datetime64)):
        stamp = pd.Timestamp(value)
        return stamp.date().isoformat() if stamp == stamp.normalize() and stamp.tzinfo is None else stamp.isoformat()
    return str(value)
