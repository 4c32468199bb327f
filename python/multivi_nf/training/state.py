"""Where a run is: what a checkpoint holds, and what a non-finite loss goes back to."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch

from multivi_nf.training.held_pairs import SCORE
from multivi_nf.training.history import History, Row
from multivi_nf.training.schedule import Place
from multivi_nf.training.settings import Settings

GAIN = 0.1
"""A tenth better in pairing or imputation of held-out pairs."""

STILL = ", and held-out pairs still gained in the last quarter: more epochs may serve"


def what_counts(row: Row) -> float:
    """The number of an epoch by which weights are compared, the lower the better.

    With enough held-out pairs what these tell (`multivi_nf.training.held_pairs`), else -ELBO plus weighted alignment
    plus what integration costs. The ELBO alone would prefer the first weights after the warm-up, which the alignment
    hardly touched; nor does it know whether batches and modalities meet.
    """
    if SCORE in row:
        return -row[SCORE]
    aligned = row["alignment_weight"] * row.get("validation_alignment", 0.0)
    return row["validation_loss"] + aligned + row.get("validation_integration", 0.0)


@dataclass
class Stored:
    """What a checkpoint's JSON holds of a run; see :class:`State`."""

    epoch: int
    step: int
    sums: list[float]
    names: list[str]
    seconds: float
    rate: float
    recovered: bool
    anneal: int | None
    best_loss: float | None
    history: list[Row]
    best_epoch: int
    stopped: str


class State:
    """Position and results of a run.

    Parameters
    ----------
    settings
        How the model is trained.
    names
        What steps report.

    Attributes
    ----------
    epoch, step
        Epochs done, and steps done in the epoch that runs.
    sums
        What the steps of this epoch reported so far, times cells.
    rate
        Factor on the learning rate: 1, or 1/2 after a recovery.
    anneal
        The epoch from which the learning rate falls for good, since the validation loss no longer does; or None.
    best
        Weights of the epoch, after the warm-ups, that :func:`what_counts` prefers; None before one.
    """

    def __init__(self, settings: Settings, names: list[str]) -> None:
        self.settings, self.names = settings, names
        self.epoch = 0
        self.step = 0
        self.sums = [0.0] * len(names)
        self.seconds = 0.0
        self.rate = 1.0
        self.recovered = False
        self.anneal: int | None = None
        self.best: dict[str, torch.Tensor] | None = None
        self.best_loss = math.inf
        self.history = History()

    def place(self, n_steps: int) -> Place:
        """Where the step that comes next is."""
        return Place(self.epoch, self.step, n_steps, self.rate, self.anneal)

    @property
    def position(self) -> int:
        """0 at the very beginning of a run."""
        return self.epoch + self.step

    @property
    def finished(self) -> bool:
        """Whether training has ended, and `history.stopped` says why."""
        return bool(self.history.stopped)

    def record(self, row: Row, *, validated: bool) -> bool:
        """End an epoch: note whether it is the best so far, whose weights are then kept, and see whether to go on.

        Returns
        -------
        Whether annealing begins, from the best weights.
        """
        self.history.rows.append(row)
        self.epoch += 1
        self.step = 0
        self.sums = [0.0] * len(self.names)
        self.seconds = 0.0
        loss = what_counts(row)
        if validated and self.epoch > self.settings.full_from and loss < self.best_loss:
            self.best_loss, self.history.best_epoch = loss, self.epoch
        if self.epoch >= self.settings.max_epochs:
            self.history.stopped = f"trained for {self.epoch} epochs" + (STILL if self._still_gains() else "")
        elif self.anneal is not None:
            if self.epoch - self.anneal >= self.settings.anneal_epochs:
                self.history.stopped = (
                    f"stopped early after epoch {self.epoch}: nothing better on held-out cells in "
                    f"{self.settings.patience} epochs, then {self.settings.anneal_epochs} from the best weights with "
                    "a falling learning rate"
                )
        elif self.history.best_epoch and self.epoch - self.history.best_epoch >= self.settings.patience:
            self.anneal = self.epoch
            return True
        return False

    def _still_gains(self) -> bool:
        """Whether the last quarter of the epochs brought more than `GAIN` on held-out pairs."""
        scores = [row[SCORE] for row in self.history.rows if SCORE in row]
        last = max(len(scores) // 4, 1)
        return len(scores) > last and max(scores[-last:]) - max(scores[:-last]) > GAIN

    def state_dict(self) -> Stored:
        """All but the best weights."""
        return Stored(
            **{name: getattr(self, name) for name in _PLAIN},
            sums=list(self.sums),
            best_loss=self.best_loss if self.best is not None else None,
            history=copy.deepcopy(self.history.rows),
            best_epoch=self.history.best_epoch,
            stopped=self.history.stopped,
        )

    def load_state_dict(self, stored: Stored, best: dict[str, torch.Tensor]) -> None:
        """Set what :meth:`state_dict` gave, and the best weights ({}: none yet)."""
        self.best = best or None
        self.best_loss = math.inf if stored.best_loss is None else stored.best_loss
        for name in set(_PLAIN) - {"names"}:
            setattr(self, name, getattr(stored, name))
        self.sums = list(stored.sums)
        self.history.rows = copy.deepcopy(stored.history)
        self.history.best_epoch, self.history.stopped = stored.best_epoch, stored.stopped


_PLAIN = ("epoch", "step", "names", "seconds", "rate", "recovered", "anneal")
