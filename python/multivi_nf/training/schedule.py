"""Weights and learning rates by where in a run a step is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from multivi_nf.training.settings import Settings

FLOOR = 0.01
"""The learning rate ends at this share of its height."""


@dataclass(frozen=True)
class Place:
    """Where in a run a step is.

    Attributes
    ----------
    epoch, step, n_steps
        Epochs done, steps done in this one, and how many it has.
    factor
        On the learning rate: 1, or 1/2 after a recovery.
    anneal
        The epoch from which the learning rate falls for good; or None.
    """

    epoch: int
    step: int
    n_steps: int
    factor: float = 1.0
    anneal: int | None = None


class Schedule:
    """Weights of a training's terms, and factors on its learning rate.

    Parameters
    ----------
    settings
        How the model is trained.
    alignment
        The alignment's weight once it is at its height.
    """

    def __init__(self, settings: Settings, alignment: float) -> None:
        self.settings, self.alignment = settings, alignment

    def kl_weight(self, epoch: int, share: float = 0.0) -> float:
        """Weight of the KL after `share` of an epoch: a straight line from 0 to 1."""
        return min(1.0, (epoch + share) / self.settings.kl_warmup) if self.settings.kl_warmup else 1.0

    def alignment_weight(self, epoch: int, share: float = 0.0) -> float:
        """Weight of the alignment: 0 in the KL warm-up, then a straight line to the model's."""
        return self.alignment * self.types_there(epoch, share)

    def types_there(self, epoch: int, share: float = 0.0) -> float:
        """How far types have formed: 0 in the KL warm-up, then a straight line to 1 as long as alignment warms up."""
        done, length = epoch + share - self.settings.kl_warmup, self.settings.alignment_warmup
        return min(max(done / length, 0.0), 1.0) if length else 1.0

    def rate(self, at: Place) -> float:
        """Factor on the learning rate.

        Linear warm-up over 2 % of the steps (100 at most), then a half cosine to the last epoch; from epoch `anneal`
        a half cosine over the epochs of annealing instead.
        """
        if at.anneal is not None:
            progress = (at.epoch - at.anneal + at.step / at.n_steps) / self.settings.anneal_epochs
            return self.rate(Place(at.anneal, 0, at.n_steps)) * _fall(progress)
        total = self.settings.max_epochs * at.n_steps
        done = at.epoch * at.n_steps + at.step
        warmup = min(100, max(1, total // 50))
        if done < warmup:
            return (done + 1) / warmup
        return _fall((done - warmup) / max(total - warmup, 1))


def _fall(progress: float) -> float:
    """Half a cosine from 1 to `FLOOR`."""
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
