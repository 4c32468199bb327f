"""Imputed values against measured ones: rank agreement, and skill over the mean profile.

A constant profile scores 0.7 and more in correlations over all entries of a matrix, so what counts is agreement within
a feature and skill: the share of the mean profile's loss that a prediction takes away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import minimize_scalar
from scipy.special import gammaln
from scipy.stats import rankdata, spearmanr

BLOCK = 512
Matrix = Any
"""Numbers, sparse or dense: what `scipy.sparse` has says nothing of its types."""


def dense(values: Matrix) -> np.ndarray:
    """A float64 array of a sparse or dense matrix."""
    return np.asarray(values.todense() if sp.issparse(values) else values, dtype=np.float64)


def column_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n_columns,) Pearson correlations of columns; NaN where one of them is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    flat = scale <= 1e-12 * np.maximum(np.abs(a).max(0), 1) * np.maximum(np.abs(b).max(0), 1)
    return np.where(flat, np.nan, (a * b).sum(0) / np.where(flat, 1, scale))


def feature_pearson(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n_features,) Pearson correlation over cells within each feature; NaN where constant."""
    return column_correlation(dense(predicted), dense(truth))


def feature_spearman(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n_features,) Spearman correlation over cells within each feature, ties averaged; NaN where constant."""
    out = np.empty(predicted.shape[1])
    for lo in range(0, out.size, BLOCK):
        columns = slice(lo, lo + BLOCK)
        ranks = (rankdata(dense(values[:, columns]), axis=0) for values in (predicted, truth))
        out[columns] = column_correlation(*ranks)
    return out


def flat_spearman(predicted: np.ndarray, truth: np.ndarray, most: int = 2_000_000, seed: int = 0) -> float:
    """Spearman correlation over all entries (at most `most`, drawn at random): legacy, a constant profile does well."""
    a, b = dense(predicted).ravel(), dense(truth).ravel()
    if a.size > most:
        pick = np.random.default_rng(seed).choice(a.size, most, replace=False)
        a, b = a[pick], b[pick]
    return float(spearmanr(a, b).statistic)


def centred_cell_pearson(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n_cells,) Pearson correlation over features after each feature's mean is taken off both; NaN where constant."""
    a, b = dense(predicted), dense(truth)
    return column_correlation((a - a.mean(0)).T, (b - b.mean(0)).T)


def scaled_squared_error(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n_features,) mean squared error over the feature's variance; below 1 beats its mean; NaN if constant."""
    a, b = dense(predicted), dense(truth)
    variance = b.var(0)
    return np.where(variance > 0, ((a - b) ** 2).mean(0) / np.where(variance > 0, variance, 1), np.nan)


# ---- RNA and protein: negative binomial -----------------------------------------------------------------------------


def fit_dispersion(counts: np.ndarray | sp.spmatrix, mean: np.ndarray) -> np.ndarray:
    """(n_features,) inverse dispersions theta of highest likelihood, given the means. Var = mean + mean² / theta.

    Brent's search over log theta in [-5, 10], feature by feature.
    """
    entries, mean = sp.csc_matrix(counts), np.maximum(dense(mean), 1e-10)
    found = np.empty(mean.shape[1])
    for j, at in enumerate(mean.T):
        own = slice(*entries.indptr[j : j + 2])
        found[j] = _dispersion(entries.data[own].astype(np.float64), at[entries.indices[own]], at)
    return found


def _dispersion(x: np.ndarray, at: np.ndarray, mean: np.ndarray) -> float:
    """Of one feature: stored counts, the means there, and those of all cells."""

    def loss(log_theta: float) -> float:
        theta = np.exp(log_theta)
        stored = gammaln(x + theta) - gammaln(theta) - x * np.log(theta + at)
        return (theta * np.log1p(mean / theta)).sum() - stored.sum()

    return float(np.exp(minimize_scalar(loss, bounds=(-5, 10), method="bounded").x))


def nb_deviance(counts: np.ndarray | sp.spmatrix, mean: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """(n_features,) negative-binomial deviance summed over cells (McCullagh & Nelder, section 11.2)."""
    mean = np.maximum(dense(mean), 1e-10)
    entries = sp.csc_matrix(counts)
    column = np.repeat(np.arange(entries.shape[1]), np.diff(entries.indptr))
    x, own, at = entries.data.astype(np.float64), theta[column], mean[entries.indices, column]
    # an entry of 0 gives theta log((theta + mean) / theta); others replace it by their own deviance
    zero = (theta * np.log1p(mean / theta)).sum(0)
    keep = x > 0
    x, own, at, column = x[keep], own[keep], at[keep], column[keep]
    full = x * np.log(x / at) - (x + own) * np.log((x + own) / (at + own))
    return 2 * (zero + np.bincount(column, full - own * np.log1p(at / own), minlength=theta.size))


def nb_deviance_skill(
    counts: np.ndarray | sp.spmatrix, shares: np.ndarray, reference: np.ndarray, theta: np.ndarray | None = None
) -> float:
    """Share of the mean profile's negative-binomial deviance that a prediction takes away, at the cells' own libraries.

    Parameters
    ----------
    counts
        (n_cells, n_features) held-out counts.
    shares
        (n_cells, n_features) predicted expression, free of the library: each row is scaled to sum to the cell's counts.
    reference
        (n_features,) mean profile, in shares too.
    theta
        Inverse dispersions; fitted to the reference by default and used for both, so that the means alone decide.

    Returns
    -------
    1 - deviance / deviance of the reference; above 0 is better than the mean profile.
    """
    library = np.asarray(counts.sum(1), dtype=np.float64).reshape(-1, 1)
    shares, reference = dense(shares), np.asarray(reference, np.float64)[None, :]
    constant = library * (reference / reference.sum())
    theta = fit_dispersion(counts, constant) if theta is None else theta
    mean = library * shares / np.maximum(shares.sum(1, keepdims=True), 1e-12)
    return float(1 - nb_deviance(counts, mean, theta).sum() / nb_deviance(counts, constant, theta).sum())


# ---- ATAC: Bernoulli ------------------------------------------------------------------------------------------------


def at_true_depth(probability: np.ndarray, opened: np.ndarray) -> np.ndarray:
    """Scale each cell's probabilities so that they sum to the number of peaks seen open in it; at most 1 - 1e-6.

    A cell without ATAC has no depth; all predictions, and the mean profile, are given the true one.
    """
    scaled = dense(probability)
    target = np.asarray(opened, np.float64).reshape(-1, 1)
    for _ in range(4):  # clipping takes some of the sum away; give it back to the rest
        scaled = np.clip(scaled * target / np.maximum(scaled.sum(1, keepdims=True), 1e-12), 1e-6, 1 - 1e-6)
    return scaled


def bernoulli_losses(probability: np.ndarray, truth: np.ndarray) -> float:
    """Sum over entries of -log P(truth)."""
    return float(-(np.log(np.where(truth > 0, probability, 1 - probability))).sum())


def bernoulli_log_loss_skill(binary: np.ndarray | sp.spmatrix, probability: np.ndarray, reference: np.ndarray) -> float:
    """Share of the log loss of (peak mean x depth) that a prediction takes away, both at the cells' true depths.

    Parameters
    ----------
    binary
        (n_cells, n_peaks) measured 0/1.
    probability
        (n_cells, n_peaks) predicted, on any scale common to a cell's peaks.
    reference
        (n_peaks,) mean accessibility.
    """
    model = constant = 0.0
    for lo in range(0, binary.shape[0], BLOCK):
        rows = slice(lo, lo + BLOCK)
        truth = dense(binary[rows])
        opened = (truth > 0).sum(1)
        model += bernoulli_losses(at_true_depth(probability[rows], opened), truth)
        profile = np.broadcast_to(np.asarray(reference, np.float64), truth.shape)
        constant += bernoulli_losses(at_true_depth(profile, opened), truth)
    return 1 - model / constant


def brier_skill(binary: np.ndarray | sp.spmatrix, probability: np.ndarray, reference: np.ndarray) -> float:
    """The same with squared errors."""
    model = constant = 0.0
    for lo in range(0, binary.shape[0], BLOCK):
        rows = slice(lo, lo + BLOCK)
        truth = (dense(binary[rows]) > 0).astype(np.float64)
        opened = truth.sum(1)
        model += ((at_true_depth(probability[rows], opened) - truth) ** 2).sum()
        profile = np.broadcast_to(np.asarray(reference, np.float64), truth.shape)
        constant += ((at_true_depth(profile, opened) - truth) ** 2).sum()
    return float(1 - model / constant)


def feature_auroc(predicted: np.ndarray, truth: np.ndarray | sp.spmatrix) -> np.ndarray:
    """(n_features,) area under the ROC curve over cells within each feature, ties averaged (Mann-Whitney).

    NaN where a feature is open in all cells or in none.
    """
    out = np.empty(predicted.shape[1])
    for lo in range(0, out.size, BLOCK):
        columns = slice(lo, lo + BLOCK)
        positive = dense(truth[:, columns]) > 0
        ranks = rankdata(dense(predicted[:, columns]), axis=0)
        n_positive = positive.sum(0)
        n_negative = len(positive) - n_positive
        rank_sum = (ranks * positive).sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            out[columns] = (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    return out
