"""Starting values from the data: directions for encoders, mean profiles for decoders, the background of proteins."""

from __future__ import annotations

import numpy as np
import torch

from multivi_nf.data.source import Matrix, Source
from multivi_nf.modalities import SEEN
from multivi_nf.model import MultiVI
from multivi_nf.training.describe import feature_means
from multivi_nf.training.directions import first_layer

PRIOR_CELLS = 100
"""Cells per batch to which the background mixture is fitted, as in totalVI."""


def initialise(model: MultiVI, source: Source, seed: int = 0) -> None:
    """Set decoder biases to the features' means, the protein background prior to each batch's, encoders to directions.

    Parameters
    ----------
    model
        Changed in place.
    source
        The data it will be trained on.
    seed
        Of the encoders' starting directions (RNA and ATAC; not with ``compat="scvi"``).
    """
    means = {m: torch.from_numpy(feature_means(matrix)) for m, matrix in source.matrices.items() if m != "protein"}
    model.initialise_from_means(means)
    for m in means:
        seen = seen_by_encoder(source.matrices[m])
        if model.formulas.tuned:
            batch = batch_of(source, m) if model.config.integrates_batches else None
            start = first_layer(source.matrices[m], model.config.n_hidden, seed=seed, batch=batch, seen=seen)
            if start is not None:
                model.encoders[m].start_at(*map(torch.from_numpy, start))
        if seen is not None:
            model.encoders[m].blind_to(torch.from_numpy(np.flatnonzero(~seen)))
    if "protein" in source.matrices:
        mean, sd = protein_background(source, model.config.batches)
        model.initialise_background(torch.from_numpy(mean), torch.from_numpy(np.log(sd)))


def seen_by_encoder(matrix: Matrix) -> np.ndarray | None:
    """(n_features,) bool: which features the encoder is to see; None is all."""
    seen = matrix.var[SEEN].to_numpy(dtype=bool) if SEEN in matrix.var else None
    return None if seen is None or seen.all() or not seen.any() else seen


def batch_of(source: Source, modality: str) -> np.ndarray:
    """(n_rows,) batch of each cell of a modality."""
    return source.batch[source.obs.index.get_indexer(source.matrices[modality].cells)]


def protein_background(source: Source, batches: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the log background of each batch.

    As totalVI (Gayoso et al., Nat Methods 2021; scvi-tools `_get_totalvi_protein_priors`): in each of up to 100 cells
    a mixture of two normals is fitted to log(1 + count) over the proteins of the panel; the lower component is the
    background, averaged over cells. A batch without protein cells takes the average of the others.

    Returns
    -------
    (n_batches, n_proteins) means and standard deviations of the log background.
    """
    matrix = source.matrices["protein"]
    cell_batch = batch_of(source, "protein")
    n = matrix.n_features
    mean, sd = np.full((len(batches), n), np.nan), np.full((len(batches), n), np.nan)
    for i, name in enumerate(batches):
        rows = np.flatnonzero(cell_batch == name)
        if rows.size:
            rows = np.sort(np.random.default_rng(0).permutation(rows)[:PRIOR_CELLS])
            panel = np.ones(n, dtype=bool)
            if source.panel is not None and name in source.panel.index:
                panel = source.panel.loc[name].to_numpy()
            mean[i], sd[i] = _background_of(np.log1p(matrix.rows(rows).toarray()[:, panel]))
    measured = ~np.isnan(mean[:, 0])
    mean[~measured], sd[~measured] = mean[measured].mean(0), sd[measured].mean(0)
    return mean, sd


def _background_of(logs: np.ndarray) -> tuple[float, float]:
    """Average mean and spread of the lower of two components, over cells (rows)."""
    # imported here: everything that loads a model loads this module, and sklearn takes most of a second
    from sklearn.mixture import GaussianMixture

    lows, spreads = [], []
    for row in logs:
        if np.unique(row).size < 3:
            lows.append(float(row.mean()) if row.size else 0.0)
            spreads.append(max(float(row.std()) if row.size else 1.0, 0.1))
            continue
        mixture = GaussianMixture(2, random_state=0).fit(row[:, None])
        low = int(mixture.means_[:, 0].argmin())
        lows.append(float(mixture.means_[low, 0]))
        spreads.append(float(np.sqrt(mixture.covariances_[low, 0, 0])))
    return float(np.mean(lows)), max(float(np.sqrt(np.mean(np.square(spreads)))), 0.05)
