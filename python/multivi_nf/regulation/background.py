"""Peaks that are alike in what has nothing to do with regulation: what a finding is compared with."""

from __future__ import annotations

import numpy as np

from multivi_nf.errors import InputError
from multivi_nf.reduction import nearest

JITTER = 1e-6
"""Standard deviations by which peaks that are the same in everything are told apart, so that none is preferred."""
SHARE = 0.05
"""At most this share of all peaks counts as alike: a peak that is compared with everything is compared with nothing."""
FEWEST = 20


def peak_properties(
    accessible: np.ndarray, gc: np.ndarray | None = None, width: np.ndarray | None = None
) -> tuple[np.ndarray, list[str]]:
    """Put together what background peaks are matched on.

    Parameters
    ----------
    accessible
        (n_peaks,) counts (or cells) of each peak, above 0.
    gc
        (n_peaks,) share of G and C among the bases known; NaN where none is: the mean stands in. None: not matched on.
    width
        (n_peaks,) bp; left out where all peaks are equally wide.

    Returns
    -------
    (n_peaks, n) columns log10 accessibility, GC, log10 width, those that vary; and their names.

    Examples
    --------
    >>> import numpy as np
    >>> values, names = peak_properties(np.array([10, 100, 1000]), gc=np.array([0.4, 0.5, 0.6]))
    >>> names
    ['accessibility', 'GC']
    >>> values[:, 0].tolist()
    [1.0, 2.0, 3.0]
    """
    columns = {"accessibility": np.log10(np.maximum(accessible, 1e-12))}
    if gc is not None:
        columns["GC"] = np.where(np.isfinite(gc), gc, np.nanmean(gc) if np.isfinite(gc).any() else 0.5)
    if width is not None:
        columns["width"] = np.log10(np.maximum(width, 1))
    kept = {name: values for name, values in columns.items() if name == "accessibility" or np.ptp(values) > 0}
    return np.stack(list(kept.values()), axis=1).astype(np.float64), list(kept)


def matched_peaks(properties: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Find the peaks most alike each peak.

    Properties are made uncorrelated with unit variance first, so that distances are Mahalanobis', as in chromVAR
    (Schep et al. 2017, Nat. Methods 14:975), which draws from bins of that space; here the nearest peaks are taken, so
    that a peak at the rim is not its own background.

    Parameters
    ----------
    properties
        (n_peaks, n_properties) of :func:`peak_properties`.
    n
        Peaks wanted of each; fewer (at least 20) where that would be over 5 % of all.
    seed
        Of the order among peaks that are the same.

    Returns
    -------
    (n_peaks, n) int32, nearest first, never the peak itself.

    Raises
    ------
    InputError
        Too few peaks to compare with.
    """
    total = len(properties)
    if total <= FEWEST:
        raise InputError(
            f"there are {total} peaks with counts",
            f"each is compared with at least {FEWEST} others that are alike",
            "give more peaks (--peaks, or the peaks called from fragments)",
        )
    n = int(min(n, max(FEWEST, SHARE * total), total - 1))
    space = whitened(properties)
    space += np.random.default_rng(seed).normal(0.0, JITTER, space.shape)
    return nearest(space, space, n, same=True)[0].astype(np.int32)


def whitened(values: np.ndarray) -> np.ndarray:
    """Columns made uncorrelated with unit variance (Cholesky); a constant column becomes 0."""
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    centred = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    covariance = np.atleast_2d(np.cov(centred, rowvar=False)) + 1e-9 * np.eye(centred.shape[1])
    return np.linalg.solve(np.linalg.cholesky(covariance), centred.T).T
