"""What every reader gives: a matrix as it is in the file, and the checks that all formats share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.errors import InputError
from multivi_nf.inputs.barcodes import meeting

NEAR_INTEGER = 1e-3
"""Largest distance from a whole number that still counts as one (matrices corrected for ambient RNA and rounded)."""

MAX_COUNT = np.iinfo(np.int32).max


@dataclass
class RawMatrix:
    """Counts as read, before a modality is chosen.

    Attributes
    ----------
    matrix
        Cells × features, CSR int32.
    barcodes
        One a row.
    ids, names
        One a column; equal where the file has one kind only.
    types
        Feature type of each column, or None where the file has none.
    source
        The file, and the place in it.
    obs
        Cell annotation (h5ad only).
    genomes
        Genome of each column, where the file names several.
    notes, warnings
        What was done on reading that the user should know, and what may be wrong.
    """

    matrix: sparse.csr_matrix
    barcodes: list[str]
    ids: list[str]
    names: list[str]
    types: list[str] | None
    source: str
    obs: pd.DataFrame | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    genomes: list[str] | None = None


def whole_numbers(values: np.ndarray, source: str) -> np.ndarray:
    """Give values as int32; NaN, infinite, negative, fractional or huge ones are refused with an example.

    Parameters
    ----------
    values
        Stored values of a sparse matrix, any numeric type.
    source
        File and place, for the message.

    Raises
    ------
    InputError
        What the first offending value is.
    """
    why = "the model's likelihoods are those of molecule counts"
    remedy = "give the raw counts (h5ad: in X, layers['counts'] or raw), not normalised or scaled values"
    if values.dtype.kind not in "biuf":
        raise InputError(f"{source}: values of type {values.dtype} are not numbers", why, remedy)
    if values.size == 0:
        return values.astype(np.int32)
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        if not finite.all():
            bad = values[~finite][0]
            raise InputError(
                f"{source}: {int((~finite).sum())} value(s) are {bad}",
                "one such value makes every result of training not a number",
                "find out how they came about; set them to 0 only if nothing was counted there",
            )
    low, high = values.min(), values.max()
    if low < 0:
        raise InputError(f"{source}: {int((values < 0).sum())} value(s) are negative, e.g. {low}", why, remedy)
    if high > MAX_COUNT:
        raise InputError(f"{source}: the value {high} is larger than any count ({MAX_COUNT})", why, remedy)
    if values.dtype.kind != "f":
        return values.astype(np.int32, copy=False)
    rounded = np.rint(values)
    off = np.abs(values - rounded) > NEAR_INTEGER
    if off.any():
        raise InputError(
            f"{source}: {off.mean():.1%} of the values are not whole numbers, e.g. {values[off][0]:.6g}",
            why,
            f"{remedy}; SoupX: adjustCounts(sc, roundToInt=TRUE)",
        )
    return rounded.astype(np.int32)


def check_structure(matrix: sparse.csr_matrix | sparse.csc_matrix, source: str) -> None:
    """Refuse a sparse matrix whose pointers or indices lead outside it: compiled code would follow them.

    Raises
    ------
    InputError
        Names the file and what scipy found.
    """
    try:
        matrix.check_format(full_check=True)
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"{source}: its sparse matrix does not hold together ({error})",
            "counts would be given to the wrong cells or genes",
            "the file is damaged; write or copy it again",
        ) from error


def strings(values: np.ndarray, source: str) -> list[str]:
    """Decode an HDF5 string dataset; text that is not UTF-8 is refused."""
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: a name is not UTF-8 text ({error})", "cells and features are matched by name", "write UTF-8"
        ) from error


def listed_rows(barcodes: list[str], cells: list[str], source: str) -> tuple[np.ndarray, list[str], list[str]]:
    """Find the rows of listed cells, also where only a suffix or prefix differs between list and matrix.

    Returns
    -------
    Row numbers in the matrix's order, the cells' names (as in the list where spellings differ), and notes.
    """
    keep = set(cells)
    rows = np.array([i for i, barcode in enumerate(barcodes) if barcode in keep], dtype=np.int64)
    if len(rows):
        return rows, [barcodes[i] for i in rows], []
    met = meeting(cells, barcodes)
    if met is None:
        return rows, [], []
    listed = {theirs: own for own, theirs in met[0].items()}
    rows = np.array([i for i, barcode in enumerate(barcodes) if barcode in listed], dtype=np.int64)
    first = barcodes[rows[0]]
    note = f"{source}: listed cells were found without {met[1]} ({listed[first]} is {first} there)"
    return rows, [listed[barcodes[i]] for i in rows], [note]


def looks_raw(detected: np.ndarray, n_features: int) -> str | None:
    """Tell whether a matrix holds all droplets rather than cells.

    Parameters
    ----------
    detected
        Features detected per barcode, over all modalities of the file.
    n_features
        Features in the file.

    Returns
    -------
    The reason, or None. A filtered matrix has next to no barcode with a handful of features; of all droplets most are
    such. Small panels (a dozen proteins) are judged by emptiness alone.
    """
    if detected.size < 500:
        return None
    low = max(1, min(100 if detected.size > 100_000 else 10, n_features // 50))
    share = float((detected < low).mean())
    if share > 0.5:
        return f"{share:.0%} of its {detected.size} barcodes have fewer than {low} detected feature(s)"
    return None


def raw_refused(path: Path, reason: str) -> InputError:
    """Word the refusal of an unfiltered matrix."""
    return InputError(
        f"{path} is an unfiltered (raw) matrix: {reason}",
        "most of its barcodes are empty droplets; taken as cells they would be the bulk of the data",
        "give the filtered matrix (filtered_feature_bc_matrix), or name the cells in the column barcodes",
    )
