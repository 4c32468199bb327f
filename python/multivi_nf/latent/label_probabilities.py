"""Probabilities of labels from shares of votes, and how well they come true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEWTON = 50
PRIOR_SD = 1.0
"""Standard deviation of the line's level and slope around 0 and 1, before labels are seen: that votes are true."""
BINS, BIN_CELLS = 10, 100
"""Most bins of a reliability curve, and cells that each should have."""


@dataclass
class Line:
    """Probability of the label with most votes, 1 / (1 + exp(-(level + slope x))), x the logit of its share."""

    level: float
    slope: float

    @classmethod
    def fit(cls, share: np.ndarray, hit: np.ndarray) -> Line:
        """By likelihood, of votes' (n,) largest shares and whether the label was right.

        Right and wrong are taken as Platt (1999) does, (n + 1) / (n + 2) and 1 / (m + 2) of n right and m wrong ones:
        where all are right the probability stays below 1. Newton's method; the slope is never below 0.
        """
        x = np.column_stack([np.ones(len(share)), _logit(share)])
        right = int(hit.sum())
        wanted = np.where(hit, (right + 1) / (right + 2), 1 / (len(hit) - right + 2))
        start = np.array([0.0, 1.0])
        line = start.copy()
        for _ in range(NEWTON):
            p = 1 / (1 + np.exp(-x @ line))
            bend = (x * (p * (1 - p))[:, None]).T @ x + PRIOR_SD**-2 * np.eye(2)
            line += np.clip(np.linalg.solve(bend, x.T @ (wanted - p) - PRIOR_SD**-2 * (line - start)), -1, 1)
        return cls(float(line[0]), max(float(line[1]), 0.0))

    def right(self, votes: np.ndarray) -> np.ndarray:
        """(n,) probability that the label with most votes is right, of (n, n_labels) shares."""
        return 1 / (1 + np.exp(-(self.level + self.slope * _logit(votes.max(axis=1)))))

    def probabilities(self, votes: np.ndarray) -> np.ndarray:
        """(n, n_labels) of shares of votes; labels other than the first share the rest as they had it."""
        rows, first = np.arange(len(votes)), votes.argmax(axis=1)
        share, right = votes[rows, first], self.right(votes)
        p = votes * ((1 - right) / np.maximum(1 - share, 1e-12))[:, None]
        p[rows, first] = right
        return p


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.log(p) - np.log1p(-p)


def scores(p: np.ndarray, one_hot: np.ndarray) -> dict[str, float]:
    """Brier score of probabilities and of the labels' own frequencies, and the share of right labels."""
    own = one_hot.mean(axis=0)
    right = p.argmax(axis=1) == one_hot.argmax(axis=1)
    brier, prior = (float(((guess - one_hot) ** 2).sum(axis=1).mean()) for guess in (p, own))
    return {"n": len(p), "brier": brier, "brier_prior": prior, "accuracy": float(right.mean())}


def reliability_of(top: np.ndarray, hit: np.ndarray) -> tuple[list[list[float]], float]:
    """(mean probability, share right, cells) of bins of equal size, and the expected calibration error."""
    """Curve of (mean probability, share right, cells) of bins of equal size, and the expected calibration error."""
    # a bin of few cells is off by chance: of 30 by 7 % on average
    n_bins = int(np.clip(len(top) // BIN_CELLS, 3, BINS))
    rows = [part for part in np.array_split(np.argsort(top, kind="stable"), n_bins) if len(part)]
    bins = [[float(top[part].mean()), float(hit[part].mean()), len(part)] for part in rows]
    return bins, float(sum(abs(p - right) * n for p, right, n in bins) / len(top))
