"""What a score has to beat: mean profile, label means, neighbours across modalities, ridge from LSI to PCA.

All take a split and the complete cells, use only what the split shows (but the ceiling and the label oracle, which
look, and say so), and give values for the cells whose modality is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.linear_model import Ridge, RidgeCV

from multivi_nf.benchmark.splits import Split
from multivi_nf.evaluation.metrics.imputation import feature_spearman
from multivi_nf.evaluation.spaces import Lsi, Pca, neighbour_mean
from multivi_nf.reduction import nearest


def shares(counts: sp.spmatrix) -> sp.csr_matrix:
    """Rows scaled to sum to 1."""
    library = np.maximum(np.asarray(counts.sum(1)).ravel(), 1)
    return (sp.diags(1 / library) @ sp.csr_matrix(counts, dtype=np.float64)).tocsr()


def profiles(modality: str, counts: sp.spmatrix) -> sp.csr_matrix:
    """What is averaged: shares of a cell's molecules, or 0/1 for ATAC."""
    return shares(counts) if modality != "atac" else (sp.csr_matrix(counts) > 0).astype(np.float64)


def mean_profile(split: Split, modality: str) -> np.ndarray:
    """(n_features,) mean profile over the cells that show the modality."""
    return np.asarray(profiles(modality, split.mosaic[modality].X).mean(0)).ravel()


def shrunk(values: np.ndarray, profile: np.ndarray, weight: float = 0.1) -> np.ndarray:
    """Values drawn a tenth of the way to the mean profile.

    A mean over 50 sparse cells holds zeros, and log scores would punish these alone; every baseline that averages
    gets this help.
    """
    return (1 - weight) * values + weight * profile


def label_means(split: Split, modality: str, labels: pd.Series, cells: pd.Index) -> np.ndarray:
    """(n_cells, n_features) mean profile of each cell's true label: an oracle, since labels are not known."""
    shown = split.mosaic[modality]
    own = labels[split.origin[shown.obs_names]].to_numpy()
    values = profiles(modality, shown.X)
    means = {label: np.asarray(values[own == label].mean(0)).ravel() for label in np.unique(own)}
    overall = np.asarray(values.mean(0)).ravel()
    return shrunk(np.stack([means.get(label, overall) for label in labels[split.origin[cells]]]), overall)


class Bridge:
    """The paired cells of a split and both modalities' own spaces, fitted on all that is shown.

    Parameters
    ----------
    split
        A split with paired cells.
    n
        Components of PCA and of LSI.
    """

    def __init__(self, split: Split, n: int = 30) -> None:
        self.mosaic = split.mosaic
        rna, atac = split.mosaic["rna"], split.mosaic["atac"]
        self.pca, lsi = Pca(rna.X, n), Lsi(atac.X, n)
        self.spaces = {
            m: pd.DataFrame(fit(part.X), index=part.obs_names)
            for m, fit, part in (("rna", self.pca, rna), ("atac", lsi, atac))
        }
        self.paired = rna.obs_names.intersection(atac.obs_names, sort=False)
        self.overall = {m: mean_profile(split, m) for m in ("rna", "atac")}

    def ridge(self, source: str, target: str, cells: pd.Index, penalty: float | None = None) -> np.ndarray:
        """(n_cells, n) target-space coordinates predicted from the source space by ridge regression on the pairs.

        The penalty is chosen by leave-one-out error among powers of ten unless it is given.
        """
        scale = self.spaces[source].std(0).to_numpy() + 1e-12
        x = self.spaces[source].loc[self.paired].to_numpy() / scale
        y = self.spaces[target].loc[self.paired].to_numpy()
        model = RidgeCV(alphas=np.logspace(-1, 5, 13)) if penalty is None else Ridge(alpha=penalty)
        return model.fit(x, y).predict(self.spaces[source].loc[cells].to_numpy() / scale)

    def neighbours(self, source: str, target: str, cells: pd.Index, k: int = 50) -> np.ndarray:
        """(n_cells, n_features) mean target profile of the `k` nearest paired cells in the source's own space."""
        bridge = self.mosaic[target][self.paired]
        queries, points = (self.spaces[source].loc[names].to_numpy() for names in (cells, self.paired))
        found = neighbour_mean(profiles(target, bridge.X), points, k, queries)
        return shrunk(found, self.overall[target])

    def ridge_rna(self, cells: pd.Index) -> np.ndarray:
        """(n_cells, n_genes) shares of expression: LSI to PCA by ridge, back to genes, logs undone, floored at 0."""
        logged = self.pca.restore(self.ridge("atac", "rna", cells))
        linear = np.maximum(np.expm1(logged), 1e-3)
        return shrunk(linear / linear.sum(1, keepdims=True), self.overall["rna"])

    def ridge_atac(self, cells: pd.Index, k: int = 50) -> np.ndarray:
        """(n_cells, n_peaks): PCA to LSI by ridge, then the mean of the `k` nearest cells that show ATAC."""
        predicted = self.ridge("rna", "atac", cells)
        shown = self.mosaic["atac"]
        found = neighbour_mean(profiles("atac", shown.X), self.spaces["atac"].to_numpy(), k, predicted)
        return shrunk(found, self.overall["atac"])


def own_modality_ceiling(
    complete: Mapping[str, anndata.AnnData], modality: str, cells: pd.Index, features: pd.Index, k: int = 50
) -> np.ndarray:
    """(n_cells, n_features) mean of the `k` nearest other cells in the hidden modality's own space: a ceiling."""
    data = complete[modality]
    space = (Pca if modality != "atac" else Lsi)(data.X)(data.X)
    rows = data.obs_names.get_indexer(cells)
    found, _ = nearest(space[rows], space, k + 1)
    values = profiles(modality, data[:, features].X)
    out = np.empty((len(cells), len(features)), np.float32)
    for i, row in enumerate(rows):
        others = found[i][found[i] != row][:k]
        out[i] = np.asarray(values[others].mean(0)).ravel()
    return shrunk(out, np.asarray(values.mean(0)).ravel())


def smoothed_truth(
    complete: Mapping[str, anndata.AnnData], modality: str, cells: pd.Index, features: pd.Index, k: int = 50
) -> np.ndarray:
    """(n_cells, n_features) mean of the `k` nearest cells, itself among them, in the measured modality's own space.

    The smoothed gold standard of the MultiVI paper; PCA or LSI with 30 components over all cells.
    """
    data = complete[modality]
    space = (Pca if modality != "atac" else Lsi)(data.X)(data.X)
    queries = space[data.obs_names.get_indexer(cells)]
    return neighbour_mean(profiles(modality, data[:, features].X), space, k, queries)


def thinning_ceiling(counts: sp.spmatrix, k: int = 50, seed: int = 0) -> np.ndarray:
    """(n_features,) Spearman correlation of one random half of the molecules, smoothed, with the other half.

    What a perfect predictor of the smoothed signal could reach on counts this sparse.
    """
    rng = np.random.default_rng([seed, 21])
    counts = sp.csr_matrix(counts)
    half, other = counts.copy(), counts.copy()
    half.data = rng.binomial(counts.data.astype(np.int64), 0.5)
    other.data = counts.data - half.data
    space = Pca(half)(half)
    return feature_spearman(neighbour_mean(shares(half), space, k), shares(other).toarray())
