"""What the steps of an epoch and its validation report of the loss, and the row of the history that they make."""

from __future__ import annotations

import math

import torch

from multivi_nf.model.loss import INTEGRATION_SHARE, LossTerms
from multivi_nf.training.device import World
from multivi_nf.training.held_pairs import IMPUTATION, PAIRING, SCORE
from multivi_nf.training.history import Row
from multivi_nf.training.schedule import Place, Schedule

GRADIENT = "gradient_norm"
LOSS = "train_loss"


class Tally:
    """Sums over cells, on the device until they are asked for.

    Parameters
    ----------
    terms, modalities
        Of the loss; those that are modalities.
    plan
        Weights and learning rates, which a row tells.
    device
        Where losses are.

    Attributes
    ----------
    names
        What a step reports, in the order of :meth:`take_sums`.
    partial
        (len(names),) of the step that is not taken yet.
    """

    def __init__(self, terms: list[str], modalities: list[str], plan: Schedule, device: torch.device) -> None:
        self.terms, self.modalities, self.plan, self.device = terms, modalities, plan, device
        self.names = [LOSS, *terms, GRADIENT, "cells"]
        self.partial, self._sums = self._zeros(), self._zeros()
        self.start_validation()

    def _zeros(self) -> torch.Tensor:
        return torch.zeros(len(self.names), dtype=torch.float64, device=self.device)

    def _of(self, losses: LossTerms) -> torch.Tensor:
        zero = losses.terms["elbo_loss"].new_zeros(())
        return torch.stack([losses.terms.get(name, zero).double() for name in self.terms])

    # -- steps --------------------------------------------------------------------------------------------------------

    def add(self, losses: LossTerms, n_cells: int) -> None:
        """Add some of the step's cells."""
        total = losses.total.detach().double().unsqueeze(0)
        self.partial[: len(self.terms) + 1] += n_cells * torch.cat([total, self._of(losses)])
        self.partial[-1] += n_cells

    def take(self, norm: torch.Tensor) -> None:
        """The step was taken, with this norm of its gradient times cells."""
        self.partial[-2] += norm
        self._sums += self.partial

    def forget(self) -> None:
        """Drop what a step reported that was not taken, or is counted."""
        self.partial = self._zeros()

    def take_sums(self, beside: float) -> torch.Tensor:
        """(len(names) + 1,) float64 sums since the last call, and a number beside them."""
        sums, self._sums = self._sums, self._zeros()
        return torch.cat([sums, sums.new_tensor([beside])])

    # -- validation ---------------------------------------------------------------------------------------------------

    def start_validation(self) -> None:
        """Forget earlier validation sums."""
        self._measured: torch.Tensor | None = None
        self._contest = [0.0, 0.0, 0.0]

    def measure(self, losses: LossTerms, n_cells: int, accuracy: float | None) -> None:
        """Add some validation cells, and the accuracy of the first adversary on them."""
        values = self._of(losses) * n_cells
        self._measured = values if self._measured is None else self._measured + values
        if accuracy is not None:
            label = next(iter(losses.contests.values())).label
            n, chance = label.numel(), 1 / label.unique().numel()
            self._contest = [a + b for a, b in zip(self._contest, (accuracy * n, chance * n, float(n)))]

    def end_validation(self, world: World, n_cells: int) -> dict[str, float]:
        """Means per validation cell."""
        own = [0.0] * len(self.terms) if self._measured is None else self._measured.tolist()
        sums = torch.tensor(own + self._contest, dtype=torch.float64, device=self.device)
        values = world.sum(sums).tolist()
        if not n_cells:
            return {}
        found = {name: value / n_cells for name, value in zip(self.terms, values)}
        accuracy, chance, n = values[len(self.terms) :]
        if n:
            found |= {"adversary_accuracy": accuracy / n, "adversary_chance": chance / n}
        return found

    def excess(self, validation: dict[str, float]) -> float:
        """Nats a cell by which groups mix less than they should, from what that costs (`INTEGRATION_SHARE`)."""
        paid = sum(validation.get(m, 0.0) for m in self.modalities)
        return validation.get("integration", 0.0) / (INTEGRATION_SHARE * paid) if paid > 0 else 0.0

    def row(self, sums: list[float], validation: dict[str, float], at: Place) -> Row:
        """One row of `history.tsv`, without its seconds; `at` is the epoch's last step."""
        mean = {name: value / max(sums[-1], 1) for name, value in zip(self.names, sums)}
        row: Row = {
            "epoch": at.epoch + 1,
            "train_loss": mean[LOSS],
            "validation_loss": validation.get("elbo_loss", math.nan),
        }
        row |= {name: mean[name] for name in self.terms if name != "elbo_loss"}
        row |= {f"validation_{name}": validation.get(name, math.nan) for name in self.terms if name != "elbo_loss"}
        others = ("adversary_accuracy", "adversary_chance", PAIRING, IMPUTATION, SCORE)
        row |= {name: validation[name] for name in others if name in validation}
        row[GRADIENT] = mean[GRADIENT]
        row["learning_rate"] = self.plan.settings.learning_rate * at.factor * self.plan.rate(at)
        row["kl_weight"] = self.plan.kl_weight(at.epoch)
        row["alignment_weight"] = self.plan.alignment_weight(at.epoch)
        return row
