"""The model's loss on training and validation cells, its gradients and what is reported of it."""

from __future__ import annotations

import math

import torch

from multivi_nf.data.minibatch import Minibatch
from multivi_nf.model import MultiVI
from multivi_nf.model.local_mixing import LocalMixing
from multivi_nf.model.loss import INTEGRATION_SHARE, comparisons
from multivi_nf.training.device import World
from multivi_nf.training.held_pairs import IMPUTATION, PAIRING, SCORE
from multivi_nf.training.history import Row
from multivi_nf.training.optimisers import Optimisers
from multivi_nf.training.schedule import Place, Schedule
from multivi_nf.training.settings import Settings

GRADIENT = "gradient_norm"
LOSS = "train_loss"


class Objective:
    """Losses, gradients and updates of one model.

    Parameters
    ----------
    model, settings, device
        What is trained, how and where.
    trainable
        Names of the parameters that may change; None is all.

    Attributes
    ----------
    names
        What a step reports, in the order of :meth:`take_sums`; each is a sum over cells.
    """

    def __init__(
        self, model: MultiVI, settings: Settings, device: torch.device, trainable: set[str] | None = None
    ) -> None:
        self.model = model
        self.settings = settings
        self.device = device
        self.generator = torch.Generator(device)
        modalities = list(model.config.modalities)
        background = ["protein_background"] if "protein" in modalities else []
        compared = comparisons(model) if trainable is None else {}
        self.mixing = LocalMixing(compared, device) if compared else None
        mixed = ["batch_mixing"] if "joint" in compared else []
        mixed += ["modality_mixing"] if "measured" in compared else []
        mixed += ["integration"] if compared else []
        mixed += ["labels"] if model.classifier is not None and trainable is None else []
        self.terms = [*modalities, *background, "kl", "alignment", "adversary", *mixed, "elbo_loss"]
        self.names = [LOSS, *self.terms, GRADIENT, "cells"]
        self.plan = Schedule(settings, model.config.alignment_weight)
        self.optimisers = Optimisers(model, settings, trainable)
        encoders = model.encoders.values()
        self._blind = [(e.weight, e.blind.to(device)) for e in encoders if e.blind is not None]
        self._partial = self._zeros()
        self._sums = self._zeros()
        self._rival_losses: list[torch.Tensor] = []
        self._kl_weight = 1.0
        self._alignment_weight: float | None = None
        self._adversary_weight: float | None = None
        self._measured = _Means(self.terms)

    def _zeros(self) -> torch.Tensor:
        return torch.zeros(len(self.names), dtype=torch.float64, device=self.device)

    def number(self, value: float) -> torch.Tensor:
        """(1,) tensor beside the sums."""
        return torch.tensor([value], dtype=torch.float64, device=self.device)

    # -- a step -------------------------------------------------------------------------------------------------------

    def schedule(self, at: Place) -> None:
        """Set weights and learning rates for a step."""
        share, start = at.step / at.n_steps, self.settings.adversary_warmup
        self._kl_weight = self.plan.kl_weight(at.epoch, share)
        self._alignment_weight = self.plan.alignment_weight(at.epoch, share)
        self._adversary_weight = 0.0 if at.epoch < start or not self.optimisers.rivals else None
        self.optimisers.set_rates(at.factor * self.plan.rate(at))

    def add(self, minibatch: Minibatch, share: float, seed: int) -> None:
        """Add the gradient of some of the step's cells.

        Parameters
        ----------
        minibatch
            The cells.
        share
            Of the step's cells (over all processes); weights loss and gradient.
        seed
            Of noise and dropout.
        """
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)
        with self._autocast():
            losses = self.model.loss(
                minibatch,
                kl_weight=self._kl_weight,
                generator=self.generator,
                alignment_weight=self._alignment_weight,
                adversary_weight=self._adversary_weight,
                mixing=self.mixing,
                thinning=self.settings.thinning,
            )
            rival = self.model.adversary_loss(losses) if self.optimisers.rivals else None
        if losses.total.requires_grad:
            (losses.total * share).backward()
        if rival is not None:
            (rival * share).backward()
        self._partial[: len(self.terms) + 1] += minibatch.n_cells * self._values(losses.total.detach(), losses.terms)
        self._partial[-1] += minibatch.n_cells

    def _values(self, total: torch.Tensor, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        zero = total.new_zeros(())
        return torch.stack([total.double(), *(terms.get(name, zero).double() for name in self.terms)])

    def _autocast(self) -> torch.autocast:
        wanted = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=wanted)

    def update(self, world: World, n_cells: int) -> None:
        """Take the step: sum gradients over processes, clip, and move."""
        world.sum_gradients(self.optimisers.parameters + self.optimisers.rivals)
        for weight, rows in self._blind:
            if weight.grad is not None:
                weight.grad.index_fill_(0, rows, 0)
        if self.mixing is not None:
            self.mixing.pending = world.sum_all(self.mixing.pending)
            self.mixing.step()
        norm = self._clip()
        self._partial[-2] += norm.double() * n_cells / world.size
        self._sums += self._partial
        self.optimisers.step()
        self.forget()

    def _clip(self) -> torch.Tensor:
        """Scale the gradients down to the norm allowed; their norm before."""
        gradients = [p.grad for p in self.optimisers.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # A GPU would have to wait for the answer; the processor spares a pass over all gradients.
        if self.device.type != "cpu" or norm > self.settings.max_norm:
            torch.nn.utils.clip_grads_with_norm_(self.optimisers.parameters, self.settings.max_norm, norm)
        return norm

    def forget(self) -> None:
        """Drop gradients and reports of a step that was not taken."""
        self._partial = self._zeros()
        if self.mixing is not None:
            self.mixing.forget()
        self.optimisers.zero_grad()

    def take_sums(self) -> torch.Tensor:
        """(len(names),) float64 sums since the last call."""
        sums, self._sums = self._sums, self._zeros()
        return sums

    # -- validation ---------------------------------------------------------------------------------------------------

    def start_validation(self) -> None:
        """Forget earlier validation sums."""
        self._measured = _Means(self.terms)

    def validate(self, minibatch: Minibatch, n_cells: int, seed: int) -> None:
        """Add some validation cells, at KL weight 1."""
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)
        with self._autocast():
            losses = self.model.loss(minibatch, kl_weight=1.0, generator=self.generator, mixing=self.mixing)
        self._measured.add(losses.terms, n_cells)
        if losses.contests:
            name = next(iter(losses.contests))
            contest = losses.contests[name]
            chance = 1 / contest.label.unique().numel()
            self._measured.add_contest(self.model.adversary_accuracy(losses)[name], chance, contest.label.numel())

    def end_validation(self, world: World, n_cells: int) -> dict[str, float]:
        """Means per validation cell."""
        sums = torch.tensor(self._measured.values(), dtype=torch.float64, device=self.device)
        return self._measured.means(world.sum(sums).tolist(), n_cells)

    def excess(self, validation: dict[str, float]) -> float:
        """Nats a cell by which groups mix less than they should, from what that costs (`INTEGRATION_SHARE`)."""
        paid = sum(validation.get(m, 0.0) for m in self.model.modalities)
        return validation.get("integration", 0.0) / (INTEGRATION_SHARE * paid) if paid > 0 else 0.0

    # -- reports ------------------------------------------------------------------------------------------------------

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
        row["learning_rate"] = self.settings.learning_rate * at.factor * self.plan.rate(at)
        row["kl_weight"] = self.plan.kl_weight(at.epoch)
        row["alignment_weight"] = self.plan.alignment_weight(at.epoch)
        return row


class _Means:
    """Sums over validation cells, and over what the adversary was shown."""

    def __init__(self, terms: list[str]) -> None:
        self.terms = terms
        self.sums: torch.Tensor | None = None
        self.contest = [0.0, 0.0, 0.0]

    def add(self, terms: dict[str, torch.Tensor], n_cells: int) -> None:
        zero = terms["elbo_loss"].new_zeros(())
        values = torch.stack([terms.get(name, zero).double() for name in self.terms]) * n_cells
        self.sums = values if self.sums is None else self.sums + values

    def add_contest(self, accuracy: float, chance: float, n: int) -> None:
        self.contest = [a + b for a, b in zip(self.contest, (accuracy * n, chance * n, float(n)))]

    def values(self) -> list[float]:
        sums = [0.0] * len(self.terms) if self.sums is None else self.sums.tolist()
        return sums + self.contest

    def means(self, values: list[float], n_cells: int) -> dict[str, float]:
        if not n_cells:
            return {}
        found = {name: value / n_cells for name, value in zip(self.terms, values)}
        accuracy, chance, n = values[len(self.terms) :]
        if n:
            found |= {"adversary_accuracy": accuracy / n, "adversary_chance": chance / n}
        return found
