"""Where a run is: what a checkpoint holds, and what a non-finite loss goes back to."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from multivi_nf.training.held_pairs import SCORE
from multivi_nf.training.history import History
from multivi_nf.training.settings import Settings

if TYPE_CHECKING:
    from multivi_nf.training.optimiser import Objective


GAIN = 0.1
"""A tenth better in pairing or imputation of held-out pairs."""

STILL = ", and held-out pairs still gained in the last quarter: more epochs may serve"


def copy_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A model's weights, copied to the host."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def what_counts(row: dict[str, Any]) -> float:
    """The number of an epoch by which weights are compared, the lower the better.

    With enough held-out pairs what these tell (`multivi_nf.training.held_pairs`), else -ELBO plus weighted alignment
    plus what integration costs. The ELBO alone would prefer the first weights after the warm-up, which the alignment
    hardly touched; nor does it know whether batches and modalities meet.
    """
    if SCORE in row:
        return -row[SCORE]
    aligned = row["alignment_weight"] * row.get("validation_alignment", 0.0)
    return row["validation_loss"] + aligned + row.get("validation_integration", 0.0)


class State:
    """Position, weights, optimisers and results of a run.

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

    def __init__(self, objective: Objective, settings: Settings) -> None:
        self.objective = objective
        self.settings = settings
        self.epoch = 0
        self.step = 0
        self.sums = [0.0] * len(objective.names)
        self.seconds = 0.0
        self.rate = 1.0
        self.recovered = False
        self.anneal: int | None = None
        self.best: dict[str, torch.Tensor] | None = None
        self.best_loss = math.inf
        self.history = History()

    @property
    def position(self) -> int:
        """0 at the very beginning of a run."""
        return self.epoch + self.step

    @property
    def finished(self) -> bool:
        """Whether training has ended, and `history.stopped` says why."""
        return bool(self.history.stopped)

    def record(self, row: dict[str, Any], weights: Callable[[], dict[str, torch.Tensor]], *, validated: bool) -> None:
        """End an epoch: keep its weights if they are the best so far, and see whether to go on."""
        self.history.rows.append(row)
        self.epoch += 1
        self.step = 0
        self.sums = [0.0] * len(self.objective.names)
        self.seconds = 0.0
        loss = what_counts(row)
        if validated and self.epoch > self.settings.full_from and loss < self.best_loss:
            self.best, self.best_loss = weights(), loss
            self.history.best_epoch = self.epoch
        if self.epoch >= self.settings.max_epochs:
            self.history.stopped = f"trained for {self.epoch} epochs" + (STILL if self._still_gains() else "")
        elif self.anneal is not None:
            if self.epoch - self.anneal >= self.settings.anneal_epochs:
                self.history.stopped = (
                    f"stopped early after epoch {self.epoch}: nothing better on held-out cells in "
                    f"{self.settings.patience} epochs, then {self.settings.anneal_epochs} from the best weights with "
                    "a falling learning rate"
                )
        elif self.best is not None and self.epoch - self.history.best_epoch >= self.settings.patience:
            self.anneal = self.epoch
            self.objective.model.load_state_dict(self.best)

    def _still_gains(self) -> bool:
        """Whether the last quarter of the epochs brought more than `GAIN` on held-out pairs."""
        scores = [row[SCORE] for row in self.history.rows if SCORE in row]
        last = max(len(scores) // 4, 1)
        return len(scores) > last and max(scores[-last:]) - max(scores[:-last]) > GAIN

    def pack(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Everything, as named tensors (copies on the host) and JSON."""
        tensors = {f"weight.{k}": v for k, v in copy_weights(self.objective.model).items()}
        tensors |= {f"best.{k}": v for k, v in (self.best or {}).items()}
        tensors |= {f"optimiser.{k}": v for k, v in self.objective.optimiser_state().items()}
        if self.objective.mixing is not None:
            tensors |= {f"mixing.{k}": v for k, v in self.objective.mixing.state_dict().items()}
        info = {
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "names": self.objective.names,
            "seconds": self.seconds,
            "rate": self.rate,
            "recovered": self.recovered,
            "anneal": self.anneal,
            "best_loss": self.best_loss if self.best is not None else None,
            "history": self.history.rows,
            "best_epoch": self.history.best_epoch,
            "stopped": self.history.stopped,
        }
        return tensors, copy.deepcopy(info)

    def unpack(self, packed: tuple[dict[str, torch.Tensor], dict[str, Any]]) -> None:
        """Go back to what :meth:`pack` gave."""
        tensors, info = packed
        parts: dict[str, dict[str, torch.Tensor]] = {"weight": {}, "best": {}, "optimiser": {}, "mixing": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            parts[group][rest] = tensor
        self.objective.model.load_state_dict(parts["weight"])
        self.objective.load_optimiser_state(parts["optimiser"])
        if self.objective.mixing is not None:
            self.objective.mixing.load_state_dict(parts["mixing"])
        self.best = parts["best"] or None
        self.best_loss = math.inf if info["best_loss"] is None else info["best_loss"]
        for name in ("epoch", "step", "seconds", "rate", "recovered", "anneal"):
            setattr(self, name, info[name])
        self.sums = list(info["sums"])
        self.history.rows = copy.deepcopy(info["history"])
        self.history.best_epoch, self.history.stopped = info["best_epoch"], info["stopped"]
