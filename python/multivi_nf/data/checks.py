"""What counts, names and panels must be: refused here, naming the first that is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.inputs.cell_table import truths

CHUNK = 1 << 24
"""Stored entries read, checked or hashed at a time."""


class Named(Protocol):
    """Cells and features of a modality, wherever its counts are."""

    cells: pd.Index
    var: pd.DataFrame

    @property
    def n_features(self) -> int:
        """Number of columns."""
        ...


def panel_table(panel: pd.DataFrame | None, matrices: Mapping[str, Named]) -> pd.DataFrame | None:
    """Read `protein.uns["panel"]`: a batch × protein table, in the proteins' order."""
    if panel is None or "protein" not in matrices:
        return None
    if not isinstance(panel, pd.DataFrame):
        raise InputError(
            f"protein.uns['panel'] is a {type(panel).__name__}, not a table",
            "it says which protein was measured in which batch; without it absent proteins would be fitted as zeros",
            "store a pandas DataFrame of booleans, batches in rows and proteins in columns",
        )
    proteins = matrices["protein"].var.index.astype(str)
    missing = [name for name in proteins if name not in panel.columns.astype(str)]
    if missing:
        raise InputError(
            f"protein.uns['panel'] has no column for {len(missing)} proteins, first {missing[:3]}",
            "it must say for each protein in which batches it was measured",
            "add these columns",
        )
    panel = panel.set_axis(panel.columns.astype(str), axis=1).set_axis(panel.index.astype(str), axis=0)
    # text such as "False" would be true by Python's own rule
    read = {name: truths(panel[name].tolist(), f"protein.uns['panel'], column {name!r},") for name in proteins}
    return pd.DataFrame(read, index=panel.index, columns=list(proteins))


def narrow(values: np.ndarray) -> np.ndarray:
    """Counts in the narrowest of int16, int32, float32 that holds them exactly."""
    if values.size == 0:
        return np.zeros(0, dtype=np.int16)
    low, high = values.min(), values.max()
    whole = values.dtype.kind in "iub" or (np.isfinite(values).all() and (values == np.rint(values)).all())
    if not whole or high > np.iinfo(np.int32).max or low < np.iinfo(np.int32).min:
        return values.astype(np.float32)
    return values.astype(np.int16 if high <= np.iinfo(np.int16).max and low >= 0 else np.int32)


def check_values(modality: str, values: np.ndarray) -> None:
    """Refuse stored values that are no counts, naming the first."""
    for start in range(0, values.size, CHUNK):
        part = values[start : start + CHUNK]
        if part.dtype.kind in "iub":
            bad = part[part < 0] if part.dtype.kind == "i" else part[:0]
        else:
            bad = part[~np.isfinite(part) | (part < 0) | (part != np.rint(part))]
        if bad.size:
            raise InputError(
                f"modality {modality!r} holds the value {bad[0]}, which is not a count",
                "the likelihoods are those of counts; normalised values would give results without meaning",
                f"put raw counts in mosaic['{modality}'].X",
            )


def check_names(modality: str, matrix: Named) -> None:
    """Refuse repeated names of cells or features, and a modality without features."""
    for what, names in (("cell", matrix.cells), ("feature", matrix.var.index)):
        if any(not str(name).strip() for name in names):
            raise InputError(
                f"modality {modality!r} holds a {what} without a name",
                f"{what}s are matched by name",
                f"give every {what} a name",
            )
        if not names.is_unique:
            name = names[names.duplicated()][0]
            raise InputError(
                f"modality {modality!r} holds the {what} {name!r} more than once",
                f"{what}s are matched by name",
                f"make the {what} names unique",
            )
    if matrix.n_features == 0:
        raise InputError(
            f"modality {modality!r} has {len(matrix.cells)} cells but no feature",
            "a modality without features cannot be modelled",
            f"remove {modality!r} from the mosaic, or loosen the feature filters before it",
        )
