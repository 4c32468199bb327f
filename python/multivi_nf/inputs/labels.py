"""Groups of cells as text, whatever the type of the column: which cells have one, and how a user may spell it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

UNLABELLED = {"", "unknown", "nan", "na", "n/a", "<na>", "none", "unassigned", "unlabelled", "unlabeled"}
"""Spellings of "no label", in lower case: scANVI's convention, R's and pandas' gaps as text."""


def label_text(values: pd.Series) -> pd.Series:
    """Text of each cell's group: 1 (also 1.0) is `1`, True is `True`; gaps and blank text stay gaps.

    Parameters
    ----------
    values
        Column of obs, shape (n_cells,): text, categories, whole numbers, booleans, nullable or not.

    Returns
    -------
    Objects (text or None), same index.
    """
    gaps = values.isna().to_numpy()
    plain = values.astype(object).to_numpy()
    words = {value: _word(value) for value in pd.unique(plain[~gaps])}
    text = np.array([None if gap else words[value] for value, gap in zip(plain, gaps)], dtype=object)
    return pd.Series([word if word and word.strip() else None for word in text], index=values.index, dtype=object)


def _word(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def unlabelled(values: pd.Series) -> np.ndarray:
    """Tell which cells have no label: gaps, blanks, and text that says so (`Unknown`, `nan`, `NA`, any case).

    Parameters
    ----------
    values
        Column of obs, shape (n_cells,).
    """
    text = label_text(values)
    return np.array([word is None or word.strip().lower() in UNLABELLED for word in text], dtype=bool)


def spelled(wanted: str, present: Iterable[str]) -> str | None:
    """Find the group that a user means: by the same text, the same number (1, 1.0), the same truth (true, TRUE).

    Returns
    -------
    The group's own text, or None where there is no such group.
    """
    groups = list(present)
    if wanted in groups:
        return wanted
    number = _number(wanted)
    if number is not None:
        same = [group for group in groups if _number(group) == number]
        return same[0] if len(same) == 1 else None
    if set(groups) <= {"True", "False"} and wanted.strip().lower() in ("true", "false"):
        return next((group for group in groups if group.lower() == wanted.strip().lower()), None)
    return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
