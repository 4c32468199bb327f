"""What relations between modalities are computed over: paired cells, or metacells of them where there are many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.cluster import KMeans, MiniBatchKMeans

from multivi_nf.io.processors import threads_at_most

SINGLE = 2_000
"""Cells up to which each stands for itself."""
MOST = 1_000
"""Metacells. Fewer are less noisy, but tell fewer links from chance (docs/decisions/regulation.md)."""
EXACT = 20_000
"""Cells of a stratum up to which k-means sees all of them in each round."""


@dataclass(frozen=True)
class Units:
    """Cells or metacells.

    Attributes
    ----------
    cells
        Names of the cells.
    unit
        (n_cells,) number of each cell's unit.
    stratum
        (n_units,) number of each unit's stratum; a unit has cells of one stratum only.
    """

    cells: pd.Index
    unit: np.ndarray
    stratum: np.ndarray

    @property
    def metacells(self) -> bool:
        """Whether units are more than a cell each."""
        return len(self.stratum) < len(self.cells)

    def summed(self, values: sparse.csr_matrix) -> sparse.csr_matrix:
        """(n_units, n) sums over the cells of each unit."""
        return sparse.csr_matrix(self._member() @ values) if self.metacells else values

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(n_units, n) means over the cells of each unit."""
        if not self.metacells:
            return values
        return (self._member() @ values) / np.bincount(self.unit)[:, None]

    def _member(self) -> sparse.csr_matrix:
        shape = (len(self.stratum), len(self.cells))
        return sparse.csr_matrix((np.ones(shape[1]), (self.unit, np.arange(shape[1]))), shape=shape)


def make_units(cells: pd.Index, latent: np.ndarray | None, strata: pd.Series, seed: int = 0) -> Units:
    """Group cells that lie together in the latent space, within strata.

    Up to 2,000 cells (or without a latent space) each cell stands for itself. More become 1,000 metacells
    by k-means within each stratum: sparse counts are summed, so that noise of single cells averages out, and cost does
    not grow with cells.

    Parameters
    ----------
    cells
        Names.
    latent
        (n_cells, n_latent), or None.
    strata
        Stratum of each cell (donor); index `cells`. A missing one is a stratum too.
    seed
        Of k-means.

    Examples
    --------
    >>> import pandas as pd
    >>> cells = pd.Index(["s:a", "s:b", "t:c"])
    >>> units = make_units(cells, None, pd.Series(["anna", "anna", "bert"], index=cells))
    >>> units.metacells, units.stratum.tolist()
    (False, [0, 0, 1])
    """
    codes = pd.factorize(strata.reindex(cells).astype(object).where(strata.notna(), ""), sort=True)[0]
    if latent is None or len(cells) <= SINGLE:
        return Units(cells, np.arange(len(cells)), codes)
    unit = np.empty(len(cells), dtype=np.int64)
    stratum: list[int] = []
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        n = max(1, min(len(rows), round(MOST * len(rows) / len(cells))))
        method = KMeans if len(rows) <= EXACT else MiniBatchKMeans
        with threads_at_most(1):  # sums in one order
            found = method(n, n_init=1, max_iter=20, random_state=seed).fit_predict(np.asarray(latent[rows], float))
        found = np.unique(found, return_inverse=True)[1]
        unit[rows] = found + len(stratum)
        stratum += [code] * (found.max() + 1)
    return Units(cells, unit, np.array(stratum))


def centred(values: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Take each stratum's mean off: what differs between donors is no relation within them."""
    member = sparse.csr_matrix((np.ones(len(stratum)), (stratum, np.arange(len(stratum)))))
    size = np.asarray(member.sum(axis=1)).ravel()
    mean = (member @ values) / np.maximum(size, 1)[:, None]
    return values - mean[stratum]
