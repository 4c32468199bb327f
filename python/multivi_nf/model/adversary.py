"""The classifier that encoders play against, and the two sides' losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from multivi_nf.model.formulas import OURS, Formulas
from multivi_nf.model.fusion import added
from multivi_nf.model.networks import Modules

N_HIDDEN = 32


@dataclass
class Contest:
    """What a classifier is shown in one step.

    Attributes
    ----------
    z
        (n, n_latent) samples, with gradient to the encoders.
    label
        (n,) true class.
    weight
        (n,) weights that sum to 1 within each class present, over the number of classes present.
    """

    z: torch.Tensor
    label: torch.Tensor
    weight: torch.Tensor


class Classifier(nn.Module):
    """Two hidden layers of 32, as the reference's; no batch norm, so that any number of cells will do."""

    def __init__(self, n_latent: int, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        hidden = nn.Linear(n_latent, N_HIDDEN), nn.LeakyReLU(), nn.Linear(N_HIDDEN, N_HIDDEN), nn.LeakyReLU()
        self.net = nn.Sequential(*hidden, nn.Linear(N_HIDDEN, n_classes))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(n, n_classes) logits."""
        return self.net(z)

    def loss(self, contest: Contest) -> torch.Tensor:
        """Class-balanced cross-entropy of the true class: the classifier's own loss. z gets no gradient."""
        log_p = torch.log_softmax(self(contest.z.detach()), 1)
        return -(contest.weight * log_p.gather(1, contest.label.unsqueeze(1)).squeeze(1)).sum()

    def fool(self, contest: Contest, formulas: Formulas = OURS) -> torch.Tensor:
        """Cross-entropy to what `formulas` want (uniform): the encoders' loss. The classifier gets no gradient."""
        fixed = {name: value.detach() for name, value in self.named_parameters()}
        log_p = torch.log_softmax(torch.func.functional_call(self, fixed, (contest.z,)), 1)
        target = formulas.fooled(contest.label, log_p)
        return -(contest.weight * (target * log_p).sum(1)).sum()

    @torch.no_grad()
    def accuracy(self, contest: Contest) -> torch.Tensor:
        """Class-balanced share of samples whose class is found; chance is 1 / classes present."""
        return (contest.weight * (self(contest.z).argmax(1) == contest.label)).sum()


def own_loss(adversaries: Modules[Classifier], contests: dict[str, Contest]) -> torch.Tensor | None:
    """The classifiers' own loss on what a loss showed them; None where there is nothing to tell apart.

    Call it after the model's backward pass; only adversary parameters get gradients.
    """
    found = [adversaries[name].loss(contest) for name, contest in contests.items()]
    return added(found) if found else None


def balanced(z: torch.Tensor, label: torch.Tensor, n_classes: int) -> Contest | None:
    """Weights by class: each class present counts the same.

    Returns None where fewer than two classes are present.
    """
    mass = torch.ones_like(z[:, 0])
    total = z.new_zeros(n_classes).index_add(0, label, mass)
    present = int((total > 0).sum())
    if present < 2:
        return None
    return Contest(z, label, mass / total[label] / present)


def modality_contest(z: torch.Tensor, present: torch.Tensor) -> Contest | None:
    """Which modality's encoder did a sample of a paired cell come from? So both classes hold the same cells.

    Parameters
    ----------
    z
        (n_cells, n_modalities, n_latent) one sample of each present posterior.
    present
        (n_cells, n_modalities) bool.
    """
    use = present & (present.sum(1) > 1).unsqueeze(1)
    if not bool(use.any()):
        return None
    label = torch.arange(present.shape[1], device=z.device).expand_as(present)
    return balanced(z[use], label[use], present.shape[1])


def batch_contest(z: torch.Tensor, batch: torch.Tensor, n_batches: int, *, even: bool = True) -> Contest | None:
    """Which batch did a joint sample come from? Cells of unknown batch are left out.

    With `even` batches count the same, else cells do (as in scvi-tools).
    """
    known = batch >= 0
    if even:
        return balanced(z[known], batch[known], n_batches)
    n = int(known.sum())
    return Contest(z[known], batch[known], torch.full_like(z[known][:, 0], 1 / n)) if n else None
