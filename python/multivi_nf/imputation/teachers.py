"""What the measured cells nearest to some others show of a modality, beside what the decoder expects of them.

A decoder flattens what few counts say (its loadings decay, and it stops before it has learnt all), and the cells that
lack a modality have no counts to correct it. Measured cells that lie where they lie have: where these show more of a
feature than is decoded of them, the decoder lags behind, for both alike.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from multivi_nf.data.draws import cell_keys
from multivi_nf.imputation.decode import RNA_SCALE, Decoder
from multivi_nf.latent.cells import Block, Cells
from multivi_nf.reduction import nearest

MOST = 5000
NEIGHBOURS = 50


class Teachers:
    """Measured cells, at most `MOST`, and where they lie.

    Parameters
    ----------
    cells
        The model and the mosaic.
    decoder
        Of the modality that they show, under each cell's own batch.
    known
        Cells to choose from, all of which measured it.
    seed
        Of the choice.

    Attributes
    ----------
    index
        The chosen cells.
    places
        (n_cells, n_latent) means of their joint posterior.
    """

    def __init__(self, cells: Cells, decoder: Decoder, known: np.ndarray, seed: int) -> None:
        self.decoder = decoder
        keys = cell_keys(cells.data.cells[known], seed, "subsample")
        self.index = np.sort(known[np.argsort(keys, kind="stable")[:MOST]])
        self.cells = cells.staged(self.index)

    @cached_property
    def places(self) -> np.ndarray:
        """(n_cells, n_latent) means of their joint posterior."""
        return np.concatenate([block.mean for block in self.cells.blocks(self.index)])

    def weights(self, places: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
        """(n_cells,) how often each is among the nearest of some places, as shares."""
        near, _ = nearest(places, self.places, neighbours)
        counts = np.bincount(near.ravel(), minlength=len(self.places))
        return counts / max(counts.sum(), 1)

    def residuals(self, groups: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Log of observed over expected counts near groups of cells, and the Poisson variance of it.

        Parameters
        ----------
        groups
            (n, n_latent) places of each group's cells.

        Returns
        -------
        Two (n_groups, n_features).
        """
        weight = np.stack([self.weights(places) for places in groups])
        used = np.flatnonzero(weight.sum(0) > 0)
        observed, expected, squared = np.zeros((3, len(groups), self.decoder.n_features))
        for block in self.cells.blocks(self.index[used]):
            counts, means = _shown(self.decoder, block)
            some = weight[:, used[block.at]]
            observed += some @ counts
            expected += some @ means
            squared += some**2 @ means
        # a weighted sum of Poisson counts is worth as many counts as have its relative variance
        factor = expected / np.maximum(squared, 1e-12)
        top, bottom = (row * factor + 0.5 for row in (observed, expected))
        return np.log(top / bottom), 1 / bottom


def _shown(decoder: Decoder, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """(n_cells, n_features) counts, and those that are expected under the cells' own batches."""
    counts = block.minibatch.modalities[decoder.modality].counts.dense().double().cpu().numpy()
    means = decoder.values(block.joint.mean, block.codes).double().numpy()
    if decoder.modality == "rna":
        return counts, means * (counts.sum(1) / RNA_SCALE)[:, None]
    return counts, means * (block.levels["atac"].double().cpu().numpy() / decoder.depth)[:, None]


def knows(target: str) -> bool:
    """Are neighbours' counts of the modality what is imputed? A protein's background is no part of it."""
    return target != "protein"
