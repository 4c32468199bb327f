"""Fragments from counts of Tn5 insertions, which some tools write: both ends of a fragment are counted there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

CELLS = 500
"""Cells of a sample whose counts tell what was counted: its first ones, so that a file is read in one go."""


def samples_of(obs: pd.DataFrame, batch: np.ndarray, cells: pd.Index) -> np.ndarray:
    """(n_rows,) what was counted together: the sample of each cell, else its batch."""
    names = obs["sample"].astype(str).to_numpy(dtype=object) if "sample" in obs else batch
    return names[obs.index.get_indexer(cells)]


def is_insertions(values: np.ndarray) -> bool:
    """Tell counts of insertions from counts of fragments by an excess of even values among the stored ones.

    A fragment inside a peak adds two insertions to it. Of a Poisson of mean m even values above 0 are tanh(m / 2) times
    as frequent as odd ones, so that no mixture of Poissons has more of them but by chance (three standard deviations).
    """
    even = int((values % 2 == 0).sum())
    return 2 * even > values.size + 3 * values.size**0.5


def counted_twice(samples: np.ndarray, values_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(n_rows,) rows of samples whose counts are insertions.

    Parameters
    ----------
    samples
        (n_rows,) names.
    values_of
        Gives the stored counts of some rows, ascending positions.
    """
    found = np.zeros(len(samples), dtype=bool)
    for name in pd.unique(samples):
        rows = np.flatnonzero(samples == name)
        if is_insertions(values_of(rows[:CELLS])):
            found[rows] = True
    return found


def fragments_of(insertions: np.ndarray) -> np.ndarray:
    """ceil(x / 2): fragments with an end in the peak, where both ends of most lie there (Martens et al. 2024)."""
    return (insertions + 1) // 2


def note_of(samples: np.ndarray, doubled: np.ndarray) -> str:
    """What was done, for the user; empty where nothing was."""
    names = sorted(set(samples[doubled]))
    if not names:
        return ""
    return (
        f"ATAC counts of {', '.join(names[:5])}{' ...' if len(names) > 5 else ''} are insertions (an excess of even "
        "values): half of them, rounded up, are read as fragments"
    )
