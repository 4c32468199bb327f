"""Steps from cells to those nearest of a batch, their own or another: what counterparts and sisters are told by."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from multivi_nf.reduction import nearest

N_NEAREST = (3, 15)
"""Least and most nearest cells of a batch that are looked at: the root of its cells between these."""


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) 1 - the product of rows: of unit vectors and means of such the mean of 1 - cosine."""
    return 1 - np.einsum("ij,ij->i", a, b)


def steps(a: np.ndarray, b: np.ndarray, more: int = 0) -> sp.csr_matrix:
    """(n_a, n_b) rows that sum to 1: to each of the nearest alike, and to `more` than usual."""
    index = closest(a, b, more)
    rows = np.repeat(np.arange(len(a)), index.shape[1])
    return sp.csr_matrix((np.full(index.size, 1 / index.shape[1]), (rows, index.ravel())), (len(a), len(b)))


def closest(a: np.ndarray, b: np.ndarray, more: int = 0, most: int = N_NEAREST[1]) -> np.ndarray:
    """(n_a, k) the rows of `b` of the highest cosine, of unit vectors: those nearest."""
    return nearest(a, b, int(np.clip(np.sqrt(len(b)), N_NEAREST[0], most)) + more)[0]


def nearness(place: np.ndarray, end: np.ndarray, best: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(n,) how near `end` is to `place`: 1 at the distance `best`, 0 at that of any cell, the `centre` of all."""
    return 1 - (apart(place, end) - best) / np.maximum(1 - place @ centre - best, 0.05)
