"""Which kinds of cells other batches hold, by the batches' own counts; the model has no part in it.

Not what TRAIN asks before it pulls batches together (`training/counterparts.py`: round trips between nearest cells): a
verdict that counted kinds as training did would repeat its mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.stats import rankdata

from multivi_nf.reduction import grouped, log_levelled, principal, unit_rows
from multivi_nf.report.measures import LEAST_CELLS

COMPONENTS = 20
GENES = 2000
SAME_KIND = 0.35
"""Agreement of two clusters' profiles from which they are one kind. Of two laboratories' blood cells clusters of one
lineage mostly agreed with 0.45 or more, of different ones with 0.3 or less."""


def centred(counts: sp.spmatrix, batch: np.ndarray, binary: bool = False) -> np.ndarray:
    """(n_cells, n_features) log-normalised counts of variable features, each batch's mean and spread taken away.

    The model has no part in it. Features that a batch never shows are left out.
    """
    x = sp.csr_matrix(counts, dtype=np.float64)
    if binary:
        x.data[:] = 1
    shared = np.ones(x.shape[1], bool)
    for name in np.unique(batch):
        shared &= np.asarray((x[batch == name] > 0).sum(axis=0)).ravel() > 0
    x = log_levelled(x[:, shared], total=np.asarray(x.sum(axis=1)).ravel())
    # variable beyond what rarity makes so, in every batch alike
    score = np.zeros(x.shape[1])
    for name in np.unique(batch):
        part = x[batch == name]
        mean = np.asarray(part.mean(axis=0)).ravel()
        variance = np.asarray(part.multiply(part).mean(axis=0)).ravel() - mean**2
        score += rankdata(variance / np.maximum(mean, 1e-3)) * (mean > 0.01)
    dense = x.tocsc()[:, np.argsort(-score, kind="stable")[:GENES]].toarray().astype(np.float32)
    for name in np.unique(batch):
        mine = batch == name
        dense[mine] -= dense[mine].mean(axis=0)
        dense[mine] = np.clip(dense[mine] / np.maximum(dense[mine].std(axis=0), 0.1), -10, 10)
    return dense


def elsewhere(values: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """(n_cells,) share of other batches among the cells of a cell's kind, in a space that the model has no part in.

    Each batch is clustered by itself; two clusters are one kind where their mean profiles agree (cosine of at least
    0.35, set against what halves of each cluster agree with each other). A kind that no other batch has gets 0.

    Parameters
    ----------
    values
        (n_cells, n_features) of :func:`centred`.
    batch
        (n_cells,) text.
    """
    space = unit_rows(principal(values, COMPONENTS)[0])
    names = [name for name in np.unique(batch) if (batch == name).sum() >= LEAST_CELLS]
    kinds = [kind for name in names for kind in _kinds(values, space, np.flatnonzero(batch == name), str(name))]
    same = _agreement(kinds) >= SAME_KIND
    np.fill_diagonal(same, True)
    size, of = np.array([len(kind.cells) for kind in kinds]), np.array([kind.batch for kind in kinds])
    share = np.zeros(len(values))
    for i, kind in enumerate(kinds):
        others = size[same[i] & (of != kind.batch)].sum()
        share[kind.cells] = others / (others + size[same[i] & (of == kind.batch)].sum())
    return share


@dataclass
class _Kind:
    """A cluster of one batch: its cells, the mean profiles of two halves of them."""

    batch: str
    cells: np.ndarray
    halves: np.ndarray


def _kinds(values: np.ndarray, space: np.ndarray, cells: np.ndarray, name: str) -> list[_Kind]:
    label = grouped(space[cells], int(np.clip(len(cells) // 50, 2, 10)), starts=2).labels_
    out = []
    for value in np.unique(label):
        mine = cells[label == value]
        halves = np.stack(
            [values[mine[k::2]].mean(axis=0) if len(mine) > 1 else values[mine].mean(axis=0) for k in (0, 1)]
        )
        out.append(_Kind(name, mine, halves.astype(np.float64)))
    return out


def _agreement(kinds: list[_Kind]) -> np.ndarray:
    """(n, n) cosine of mean profiles over the root of both reliabilities (Spearman & Brown on halves)."""
    mean = np.stack([kind.halves.mean(axis=0) for kind in kinds])
    length = np.maximum(np.linalg.norm(mean, axis=1), 1e-12)
    half = np.array([_cosine(*kind.halves) for kind in kinds]).clip(0.02)
    reliable = (2 * half / (1 + half)).clip(0.7)
    return (mean @ mean.T) / np.outer(length, length) / np.sqrt(np.outer(reliable, reliable))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))
