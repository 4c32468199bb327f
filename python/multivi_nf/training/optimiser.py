"""The model's loss and the two optimisers: the model's, and the adversary's own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW

from multivi_nf.data.minibatch import Minibatch
from multivi_nf.model import MultiVI
from multivi_nf.model.local_mixing import LocalMixing
from multivi_nf.model.loss import INTEGRATION_SHARE, comparisons
from multivi_nf.training.device import World
from multivi_nf.training.held_pairs import IMPUTATION, PAIRING, SCORE
from multivi_nf.training.settings import Settings

FLOOR = 0.01
"""The learning rate ends at this share of its height."""

PEAK_LOADINGS = "generative.atac.output.weight"
DISPERSION = re.compile(r"generative\.\w+\.(batch_)?log_dispersion")
PROTEIN = "generative.protein."
PACE = "pace"

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
        named = [(n, p) for n, p in model.named_parameters() if trainable is None or n in trainable]
        own = [(n, p) for n, p in named if not n.startswith("adversaries.")]
        rival = [(n, p) for n, p in named if n.startswith("adversaries.")]
        self.parameters = [p for _, p in own]
        self.rival_parameters = [p for _, p in rival]
        groups = _grouping(model, settings) if trainable is None else lambda *_: (0.0, 1.0)
        self._optimisers: dict[str, tuple[AdamW, list[str]]] = {"model": _adamw(own, settings.learning_rate, groups)}
        if rival:
            self._optimisers["adversary"] = _adamw(rival, settings.adversary_learning_rate, groups)
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

    def kl_weight(self, epoch: int, share: float = 0.0) -> float:
        """Weight of the KL after `share` of an epoch: a straight line from 0 to 1."""
        return min(1.0, (epoch + share) / self.settings.kl_warmup) if self.settings.kl_warmup else 1.0

    def alignment_weight(self, epoch: int, share: float = 0.0) -> float:
        """Weight of the alignment: 0 in the KL warm-up, then a straight line to the model's."""
        done, length = epoch + share - self.settings.kl_warmup, self.settings.alignment_warmup
        return self.model.config.alignment_weight * (min(max(done / length, 0.0), 1.0) if length else 1.0)

    def rate(self, epoch: int, step: int, n_steps: int, anneal: int | None = None) -> float:
        """Factor on the learning rate.

        Linear warm-up over 2 % of the steps (100 at most), then a half cosine to the last epoch; from epoch `anneal`
        a half cosine over the epochs of annealing instead.
        """
        if anneal is not None:
            progress = (epoch - anneal + step / n_steps) / self.settings.anneal_epochs
            return self.rate(anneal, 0, n_steps) * _fall(progress)
        total = self.settings.max_epochs * n_steps
        done = epoch * n_steps + step
        warmup = min(100, max(1, total // 50))
        if done < warmup:
            return (done + 1) / warmup
        progress = (done - warmup) / max(total - warmup, 1)
        return _fall(progress)

    def schedule(self, epoch: int, step: int, n_steps: int, factor: float, anneal: int | None = None) -> None:
        """Set weights and learning rates for a step."""
        self._kl_weight = self.kl_weight(epoch, step / n_steps)
        self._alignment_weight = self.alignment_weight(epoch, step / n_steps)
        self._adversary_weight = 0.0 if epoch < self.settings.adversary_warmup or not self.rival_parameters else None
        rate = factor * self.rate(epoch, step, n_steps, anneal)
        for name, (optimiser, _) in self._optimisers.items():
            height = self.settings.learning_rate if name == "model" else self.settings.adversary_learning_rate
            for group in optimiser.param_groups:
                group["lr"] = height * rate * group[PACE]

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
            rival = self.model.adversary_loss(losses) if self.rival_parameters else None
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
        world.sum_gradients(self.parameters + self.rival_parameters)
        for weight, rows in self._blind:
            if weight.grad is not None:
                weight.grad.index_fill_(0, rows, 0)
        if self.mixing is not None:
            self._share_mixing(world)
            self.mixing.step()
        norm = self._clip()
        self._partial[-2] += norm.double() * n_cells / world.size
        self._sums += self._partial
        for optimiser, _ in self._optimisers.values():
            optimiser.step()
        self.forget()

    def _share_mixing(self, world: World) -> None:
        """Sum what the processes saw of each other's groups, so that all of them find the same sides."""
        names = list(self.mixing.pending)
        parts = [self.mixing.pending[name] for name in names]
        flat = world.sum(torch.cat([part.reshape(-1) for part in parts]))
        split = flat.split([part.numel() for part in parts])
        self.mixing.pending = {name: one.view_as(part) for name, one, part in zip(names, split, parts)}

    def _clip(self) -> torch.Tensor:
        """Scale the gradients down to the norm allowed; their norm before."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # A GPU would have to wait for the answer; the processor spares a pass over all gradients.
        if self.device.type != "cpu" or norm > self.settings.max_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.settings.max_norm, norm)
        return norm

    def forget(self) -> None:
        """Drop gradients and reports of a step that was not taken."""
        self._partial = self._zeros()
        if self.mixing is not None:
            self.mixing.forget()
        for optimiser, _ in self._optimisers.values():
            optimiser.zero_grad(set_to_none=True)

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

    # -- reports and state --------------------------------------------------------------------------------------------

    def row(
        self,
        sums: list[float],
        validation: dict[str, float],
        epoch: int,
        n_steps: int,
        factor: float,
        anneal: int | None = None,
    ) -> dict[str, Any]:
        """One row of `history.tsv`, without its seconds."""
        mean = {name: value / max(sums[-1], 1) for name, value in zip(self.names, sums)}
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "train_loss": mean[LOSS],
            "validation_loss": validation.get("elbo_loss", math.nan),
        }
        row |= {name: mean[name] for name in self.terms if name != "elbo_loss"}
        row |= {f"validation_{name}": validation.get(name, math.nan) for name in self.terms if name != "elbo_loss"}
        others = ("adversary_accuracy", "adversary_chance", PAIRING, IMPUTATION, SCORE)
        row |= {name: validation[name] for name in others if name in validation}
        row[GRADIENT] = mean[GRADIENT]
        row["learning_rate"] = self.settings.learning_rate * factor * self.rate(epoch, n_steps - 1, n_steps, anneal)
        row["kl_weight"], row["alignment_weight"] = self.kl_weight(epoch), self.alignment_weight(epoch)
        return row

    def optimiser_state(self) -> dict[str, torch.Tensor]:
        """Moments and step counts by optimiser, parameter and name; copies on the host."""
        found = {}
        for name, (optimiser, names) in self._optimisers.items():
            for i, parameter in enumerate(_in_order(optimiser)):
                for key, value in optimiser.state.get(parameter, {}).items():
                    found[f"{name}|{names[i]}|{key}"] = value.detach().to("cpu", copy=True)
        return found

    def load_optimiser_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Set what :meth:`optimiser_state` gave."""
        for name, (optimiser, names) in self._optimisers.items():
            optimiser.state.clear()
            parameters = dict(zip(names, _in_order(optimiser)))
            for key, value in tensors.items():
                owner, parameter, entry = key.split("|")
                if owner == name:
                    target = parameters[parameter]
                    optimiser.state[target][entry] = value.to(target.device, copy=True)


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


def _fall(progress: float) -> float:
    """Half a cosine from 1 to `FLOOR`."""
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _grouping(model: MultiVI, settings: Settings) -> Callable[[str, torch.nn.Parameter], tuple[float, float]]:
    """Weight decay of a parameter, and its pace: the factor on the learning rate."""
    ours = model.formulas.tuned
    codes = {name for name in model.batch_tables() if name.startswith(PROTEIN) and model.integrates_batches}

    def group(name: str, parameter: torch.nn.Parameter) -> tuple[float, float]:
        if DISPERSION.match(name):
            return 0.0, settings.dispersion_pace if ours else 1.0
        if name == PEAK_LOADINGS and ours:
            return settings.peak_decay, 1.0
        if name in codes:
            return 0.0, settings.protein_code_pace
        return settings.weight_decay if parameter.dim() >= 2 else 0.0, 1.0

    return group


def _adamw(
    named: list[tuple[str, torch.nn.Parameter]],
    rate: float,
    group_of: Callable[[str, torch.nn.Parameter], tuple[float, float]],
) -> tuple[AdamW, list[str]]:
    """Fused AdamW, and the names of its parameters in its order."""
    groups: dict[tuple[float, float], list[tuple[str, torch.nn.Parameter]]] = {}
    for name, parameter in named:
        groups.setdefault(group_of(name, parameter), []).append((name, parameter))
    parts = [
        {"params": [p for _, p in part], "weight_decay": decay, PACE: pace} for (decay, pace), part in groups.items()
    ]
    return AdamW(parts, lr=rate, fused=True), [n for part in groups.values() for n, _ in part]


def _in_order(optimiser: AdamW) -> list[torch.nn.Parameter]:
    return [p for group in optimiser.param_groups for p in group["params"]]
