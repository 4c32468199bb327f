"""Whether a standard deviation follows the error, and who is right where a sure prediction is far from the counts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from multivi_nf.evaluation import metrics

FIFTIETHS = 50


def ranked(sd: np.ndarray, mean: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Rank correlation of sd and |error| over all entries and within features, and gains of the risk-coverage curve.

    Parameters
    ----------
    sd, mean, truth
        (n_cells, n_features).

    Returns
    -------
    `sd_error` pooled (as in the MultiVI paper; the mean drives it), `sd_error_within` (mean over features),
    `risk_gain`, and `risk_gain_of_mean`, that of sqrt(mean) alone.
    """
    error = np.abs(mean - truth)
    within = metrics.within_feature_rank_correlation(sd, error)
    return {
        "sd_error": float(pd.Series(sd.ravel()).corr(pd.Series(error.ravel()), method="spearman")),
        "sd_error_within": float(np.nanmean(within)),
        "risk_gain": metrics.area_under_risk_coverage(sd, error)["gain"],
        "risk_gain_of_mean": metrics.area_under_risk_coverage(np.sqrt(np.maximum(mean, 0)), error)["gain"],
    }


def sides_with_model(
    sd: np.ndarray, mean: np.ndarray, truth: np.ndarray, smooth: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Entries of low uncertainty and high error: whether the smoothed truth is nearer to the model than to the counts.

    Sure are the tenth of least sd in each fiftieth of the predicted mean, wrong the tenth of largest error of these
    (Ashuach et al. 2023, Figure 3d-e); beside them random entries of the same fiftieths.

    Parameters
    ----------
    sd, mean, truth, smooth
        (n_cells, n_features); `smooth` is the truth averaged over neighbours.

    Returns
    -------
    Booleans of the sure and wrong entries, and of the random ones.
    """
    error = np.abs(mean - truth)
    draw = np.random.default_rng(seed)
    theirs, others = [], []
    for part in np.array_split(np.argsort(mean, axis=None), FIFTIETHS):
        sure = part[np.argsort(sd.ravel()[part])[: len(part) // 10]]
        wrong = sure[np.argsort(-error.ravel()[sure])[: len(sure) // 10]]
        theirs.append(wrong)
        others.append(draw.choice(part, len(wrong), replace=False))
    m, t, s = (values.ravel() for values in (mean, truth, smooth))
    one, two = (np.abs(s - m)[at] < np.abs(s - t)[at] for at in map(np.concatenate, (theirs, others)))
    return one, two


def sure_and_wrong(
    sd: np.ndarray, mean: np.ndarray, truth: np.ndarray, smooth: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """Shares of :func:`sides_with_model`."""
    sides = sides_with_model(sd, mean, truth, smooth, seed)
    return dict(zip(("sides_with_model", "sides_with_model_random"), (float(side.mean()) for side in sides)))


def curve(uncertainty: np.ndarray, error: np.ndarray, points: int = 20) -> list[tuple[float, ...]]:
    """Mean error of the surest share of the entries, for shares from 1/points to 1."""
    order = np.argsort(uncertainty, axis=None, kind="stable")
    running = np.cumsum(error.ravel()[order]) / np.arange(1, order.size + 1)
    at = np.unique(np.linspace(0, order.size - 1, points + 1).astype(int)[1:])
    return [((k + 1) / order.size, float(running[k])) for k in at]
