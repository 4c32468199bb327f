"""What the measured cells nearest to some others show of a modality, beside what the decoder expects of them.

A decoder flattens what few counts say (its loadings decay, and it stops before it has learnt all), and the cells that
lack a modality have no counts to correct it. Measured cells that lie where they lie have: where these show more of a
feature than is decoded of them, the decoder lags behind, for both alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from multivi_nf.data.draws import blocks, cell_keys
from multivi_nf.imputation.decode import RNA_SCALE, TILE, Codes, Decoder
from multivi_nf.latent.embed import posteriors

if TYPE_CHECKING:
    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI

MOST = 5000
NEIGHBOURS = 50


class Teachers:
    """Measured cells, at most `MOST`, and where they lie.

    Parameters
    ----------
    model, data
        A trained model and the mosaic.
    target
        The modality that they show.
    known
        Cells to choose from, all of which measured it.
    depth
        d~ (atac).
    seed
        Of the choice.

    Attributes
    ----------
    cells
        The chosen cells.
    places
        (n_cells, n_latent) means of their joint posterior.
    """

    def __init__(
        self, model: MultiVI, data: MosaicData, target: str, known: np.ndarray, depth: float, seed: int
    ) -> None:
        self.model, self.target, self.depth = model, target, depth
        keys = cell_keys(data.cells[known], seed, "subsample")
        self.cells = np.sort(known[np.argsort(keys, kind="stable")[:MOST]])
        self.data = data = data.staged(self.cells)
        parts = [
            posteriors(model, data.minibatch(self.cells[b]))[0].mean.cpu().numpy() for b in blocks(len(self.cells))
        ]
        self.places = np.concatenate(parts) if parts else np.zeros((0, model.config.n_latent), np.float32)

    def weights(self, places: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
        """(n_cells,) how often each is among the nearest of some places, as shares."""
        from sklearn.neighbors import NearestNeighbors

        near = NearestNeighbors(n_neighbors=min(neighbours, len(self.places))).fit(self.places)
        counts = np.bincount(near.kneighbors(places, return_distance=False).ravel(), minlength=len(self.places))
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
        decoder = Decoder(self.model, self.target, "own", self.depth)
        observed, expected, squared = np.zeros((3, len(groups), decoder.n_features))
        for block in blocks(len(used)):
            counts, means = self._shown(decoder, self.cells[used[block]])
            some = weight[:, used[block]]
            observed += some @ counts
            expected += some @ means
            squared += some**2 @ means
        # a weighted sum of Poisson counts is worth as many counts as have its relative variance
        factor = expected / np.maximum(squared, 1e-12)
        top, bottom = (row * factor + 0.5 for row in (observed, expected))
        return np.log(top / bottom), 1 / bottom

    def _shown(self, decoder: Decoder, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n_cells, n_features) counts, and those that are expected under the cells' own batches."""
        minibatch = self.data.minibatch(cells)
        joint, encoded, _ = posteriors(self.model, minibatch)
        codes = Codes(minibatch.batch, minibatch.categorical, minibatch.continuous)
        counts = minibatch.modalities[self.target].counts.dense().double().cpu().numpy()
        if self.target == "rna":
            means = decoder.profile(joint.mean, codes).double().cpu().numpy()
            return counts, means * (counts.sum(1) / RNA_SCALE)[:, None]
        prepared = decoder.prepare(joint.mean, codes)
        tiles = [decoder.tile(prepared, start).double().cpu().numpy() for start in range(0, decoder.n_features, TILE)]
        size = self.model.level("atac", encoded["atac"]).double().cpu().numpy() / self.depth
        return counts, np.concatenate(tiles, axis=1) * size[:, None]


def knows(target: str) -> bool:
    """Are neighbours' counts of the modality what is imputed? A protein's background is no part of it."""
    return target != "protein"
