"""How many of a cell's neighbours are paired, in the model's own view of what the cell shows.

A type that no pair has is told from others by an encoder that saw it among lone cells, even where its counts alone are
too few to tell (ATAC of 90 fragments a cell): it lies where cells are, but no pairs. One neighbourhood is too small for
such noise or too large for a rare type, so that the share is averaged over several (as in DA-seq, Zhao et al., PNAS
2021), whose sizes are told by the pairs that each should hold. Shares of held-out pairs make it a conformal p-value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from multivi_nf.data.draws import blocks
from multivi_nf.reduction import nearest

EXPECTED = (25, 50, 100, 200)
"""Pairs that the neighbourhoods should hold, were pairs everywhere as frequent as among all cells."""
LEAST_NEIGHBOURS = 5
LARGEST = 0.25
"""Share of all cells that a neighbourhood may hold at most."""
AT_ONCE = 2048
TAIL = 0.05


@dataclass
class PairedShare:
    """Neighbours of any kind that a cell of one source is compared with.

    Attributes
    ----------
    places
        (n, n_latent) means of the source's own posterior.
    paired
        (n,) whether each cell is a pair with the target.
    held
        (n_held,) ascending shares of held-out pairs.
    """

    places: np.ndarray
    paired: np.ndarray
    held: np.ndarray

    @classmethod
    def fit(cls, places: np.ndarray, paired: np.ndarray, held: np.ndarray) -> PairedShare:
        """From places of cells, whether they are paired, and places of held-out pairs, which are not among them."""
        found = cls(places, paired, np.zeros(0))
        found.held = np.sort(found.shares(held))
        return found

    def sizes(self) -> np.ndarray:
        """Ascending sizes of the neighbourhoods."""
        wanted = np.round(np.asarray(EXPECTED) / max(float(self.paired.mean()), 1e-6))
        most = max(int(LARGEST * len(self.places)), 1)
        return np.unique(np.clip(wanted, min(LEAST_NEIGHBOURS, most), most).astype(int))

    def shares(self, places: np.ndarray) -> np.ndarray:
        """(n,) share of paired cells among the nearest others, averaged over the sizes of neighbourhoods."""
        sizes = self.sizes()
        out = np.zeros(len(places), np.float32)  # as held ones are stored: ranks are compared
        for part in blocks(len(places), AT_ONCE):
            index, distance = nearest(places[part], self.places, int(sizes[-1]) + 1)
            itself = distance[:, :1] < 1e-5
            paired = self.paired[np.where(itself, np.roll(index, -1, axis=1), index)].astype(float)
            total = np.cumsum(paired, axis=1)
            out[part] = np.mean([total[:, size - 1] / size for size in sizes], axis=0)
        return out

    def p(self, shares: np.ndarray) -> np.ndarray:
        """(n,) conformal p-values: of held-out pairs, how many have as small a share."""
        return (1 + np.searchsorted(self.held, shares, side="right")) / (1 + len(self.held))

    def widening(self, shares: np.ndarray) -> np.ndarray:
        """(n,) squared ratio of distances that the lack of pairs amounts to, at least 1.

        Where pairs are so many times rarer than around the held-out pairs that lie worst, the nearest one is farther by
        that factor's root in the number of dimensions; one pair more than are there is taken to be.
        """
        one = 1 / self.sizes()[-1]
        rarer = (np.quantile(self.held, TAIL) + one) / (shares + one)
        return np.maximum(rarer, 1) ** (2 / self.places.shape[1])
