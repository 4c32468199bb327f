"""Which cells train the model, which stop it early, and which calibrate its uncertainty."""

from __future__ import annotations

import numpy as np
import pandas as pd

ROLES = ("train", "validation", "calibration")

VALIDATION_SHARE = 0.1
MAX_VALIDATION = 10_000
CALIBRATION_SHARE = 0.1
LEAST = ((100, 1 / 3), (39, 1 / 5))
"""Calibration cells, and the share of the pairs that they may be at most: 100 calibrate error bars, and from 39 on a
cell can be told to be out of support (calibration/support.py: 2 / (n + 1) <= 0.05)."""


def split_cells(has: dict[str, np.ndarray], batch: np.ndarray, seed: int) -> np.ndarray:
    """Split cells into train, validation and calibration, stratified by modalities and batch.

    Calibration takes 10 % of the cells of each combination of two or more modalities (a direction is calibrated on its
    own pairs), at least 100 where that is no more than a third of them, else at least 39 where that is no more than a
    fifth: with few pairs, they are worth more in training.
    Validation takes 10 % of all other cells, at most 10,000 (beyond that the loss is known to far better than an epoch
    changes it). Each stratum of (modalities, batch) gives its share by largest remainder, and keeps at least one cell
    for training.

    Parameters
    ----------
    has
        Modality to (n_cells,) booleans: measured.
    batch
        (n_cells,) batch of each cell.
    seed
        The same seed gives the same split.

    Returns
    -------
    (n_cells,) strings: one of :data:`ROLES` for each cell.
    """
    rng = np.random.default_rng([seed, 0x5917])
    presence = np.column_stack([np.asarray(h, dtype=bool) for h in has.values()])
    combination = presence @ (1 << np.arange(presence.shape[1]))
    strata = pd.factorize(pd.Series(list(zip(combination.tolist(), map(str, batch)))), sort=True)[0]
    roles = np.full(len(batch), "train", dtype=object)

    paired = presence.sum(axis=1) >= 2
    for kind in np.unique(combination[paired]):
        pairs = np.flatnonzero(combination == kind)
        least = next((n for n, share in LEAST if n <= share * len(pairs)), 0)
        n = max(int(CALIBRATION_SHARE * len(pairs)), least)
        roles[_drawn(pairs, strata, n, rng)] = "calibration"

    rest = np.flatnonzero(roles == "train")
    n_validation = min(int(round(VALIDATION_SHARE * len(rest))), MAX_VALIDATION)
    roles[_drawn(rest, strata, n_validation, rng)] = "validation"
    return roles


def _drawn(candidates: np.ndarray, strata: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` of the candidates, each stratum in proportion to its size (largest remainder)."""
    names, sizes = np.unique(strata[candidates], return_counts=True)
    if not len(names) or n <= 0:
        return candidates[:0]
    quota = n * sizes / sizes.sum()
    take = np.minimum(np.floor(quota).astype(int), np.maximum(sizes - 1, 0))
    order = np.argsort(-(quota - take), kind="stable")
    for i in order[: max(n - take.sum(), 0)]:
        take[i] = min(take[i] + 1, max(sizes[i] - 1, 0))
    own = strata[candidates]
    return np.concatenate([rng.permutation(candidates[own == one])[:count] for one, count in zip(names, take)])


def split_table(cells: pd.Index, roles: np.ndarray) -> pd.DataFrame:
    """The content of `split.tsv`: one row a cell in the mosaic's order."""
    return pd.DataFrame({"cell": np.asarray(cells), "split": roles})
