"""The optimisers of a training: the model's, and the adversary's own."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch.optim import AdamW

from multivi_nf.model import MultiVI
from multivi_nf.training.settings import Settings

PEAK_LOADINGS = "generative.atac.output.weight"
DISPERSION = re.compile(r"generative\.\w+\.(batch_)?log_dispersion")
PROTEIN = "generative.protein."
PACE = "pace"


class Optimisers:
    """Fused AdamW of the model, and of the adversary where there is one.

    Parameters
    ----------
    model, settings
        What is trained, and how.
    trainable
        Names of the parameters that may change; None is all.

    Attributes
    ----------
    parameters, rivals
        The model's parameters and the adversary's.
    each
        "model" and "adversary" to the optimiser and the names of its parameters, in its order.
    """

    def __init__(self, model: MultiVI, settings: Settings, trainable: set[str] | None = None) -> None:
        named = [(n, p) for n, p in model.named_parameters() if trainable is None or n in trainable]
        own = [(n, p) for n, p in named if not n.startswith("adversaries.")]
        rival = [(n, p) for n, p in named if n.startswith("adversaries.")]
        self.parameters, self.rivals = [p for _, p in own], [p for _, p in rival]
        groups = _grouping(model, settings) if trainable is None else lambda *_: (0.0, 1.0)
        self.heights = {"model": settings.learning_rate, "adversary": settings.adversary_learning_rate}
        self.each: dict[str, tuple[AdamW, list[str]]] = {"model": _adamw(own, self.heights["model"], groups)}
        if rival:
            self.each["adversary"] = _adamw(rival, self.heights["adversary"], groups)

    def set_rates(self, factor: float) -> None:
        """Learning rates at this factor of their heights, each group's at its pace."""
        for name, (optimiser, _) in self.each.items():
            for group in optimiser.param_groups:
                group["lr"] = self.heights[name] * factor * group[PACE]

    def step(self) -> None:
        """Move the parameters."""
        for optimiser, _ in self.each.values():
            optimiser.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for optimiser, _ in self.each.values():
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Moments and step counts by optimiser, parameter and name; copies on the host."""
        found = {}
        for name, (optimiser, names) in self.each.items():
            for i, parameter in enumerate(_in_order(optimiser)):
                for key, value in optimiser.state.get(parameter, {}).items():
                    found[f"{name}|{names[i]}|{key}"] = value.detach().to("cpu", copy=True)
        return found

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None:
        """Set what :meth:`state_dict` gave."""
        for name, (optimiser, names) in self.each.items():
            optimiser.state.clear()
            parameters = dict(zip(names, _in_order(optimiser)))
            for key, value in tensors.items():
                owner, parameter, entry = key.split("|")
                if owner == name:
                    target = parameters[parameter]
                    optimiser.state[target][entry] = value.to(target.device, copy=True)


def _grouping(model: MultiVI, settings: Settings) -> Callable[[str, torch.nn.Parameter], tuple[float, float]]:
    """Weight decay of a parameter, and its pace: the factor on the learning rate."""
    ours = model.formulas.tuned
    codes = {name for name in model.batch_tables() if name.startswith(PROTEIN) and model.config.integrates_batches}

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
