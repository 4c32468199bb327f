"""Differential results against truth."""

from __future__ import annotations

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score


def fold_change_agreement(estimated: np.ndarray, truth: np.ndarray, top: int = 50) -> dict[str, float]:
    """Agreement of estimated with true log fold changes.

    Parameters
    ----------
    estimated, truth
        (n_features,) log fold changes.
    top
        How many features of largest |truth| count as truly differential.

    Returns
    -------
    `pearson`, `spearman`, `sign` (share of the top with the right sign), `auroc` of the truly up-regulated `top` by the
    estimate, and `precision` (share of the estimated up-regulated `top` that are truly so).
    """
    estimated, truth = np.asarray(estimated, np.float64), np.asarray(truth, np.float64)
    top = min(top, truth.size // 2)
    up = np.zeros(truth.size, bool)
    up[np.argsort(-truth, kind="stable")[:top]] = True
    largest = np.argsort(-np.abs(truth), kind="stable")[:top]
    return {
        "pearson": float(pearsonr(estimated, truth).statistic),
        "spearman": float(spearmanr(estimated, truth).statistic),
        "sign": float((np.sign(estimated[largest]) == np.sign(truth[largest])).mean()),
        "auroc": float(roc_auc_score(up, estimated)),
        "precision": float(up[np.argsort(-estimated, kind="stable")[:top]].mean()),
    }


def calls_against_truth(score: np.ndarray, called: np.ndarray, differential: np.ndarray) -> dict[str, float]:
    """Empirical false discovery rate and recall of calls, and average precision of the ranking.

    Parameters
    ----------
    score
        (n_features,) evidence, higher is stronger.
    called
        (n_features,) booleans.
    differential
        (n_features,) truth.

    Returns
    -------
    `fdr` (0 without calls), `recall`, `average_precision`, `base_rate`, `calls`.
    """
    called, differential = np.asarray(called, bool), np.asarray(differential, bool)
    n = int(called.sum())
    return {
        "fdr": float((called & ~differential).sum() / n) if n else 0.0,
        "recall": float((called & differential).sum() / max(differential.sum(), 1)),
        "average_precision": float(average_precision_score(differential, score))
        if differential.any()
        else float("nan"),
        "base_rate": float(differential.mean()),
        "calls": n,
    }
