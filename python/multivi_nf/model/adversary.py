"""The classifier that encoders play against, and the two sides' losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from multivi_nf.model.alignment import squared_distances

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
        self.net = nn.Sequential(
            nn.Linear(n_latent, N_HIDDEN), nn.LeakyReLU(), nn.Linear(N_HIDDEN, N_HIDDEN), nn.LeakyReLU(),
            nn.Linear(N_HIDDEN, n_classes),
        )  # fmt: skip

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(n, n_classes) logits."""
        return self.net(z)

    def loss(self, contest: Contest) -> torch.Tensor:
        """Class-balanced cross-entropy of the true class: the classifier's own loss. z gets no gradient."""
        log_p = torch.log_softmax(self(contest.z.detach()), 1)
        return -(contest.weight * log_p.gather(1, contest.label.unsqueeze(1)).squeeze(1)).sum()

    def fool(self, contest: Contest, *, compat: bool = False) -> torch.Tensor:
        """Cross-entropy to the uniform distribution over classes: the encoders' loss. The classifier gets no gradient.

        With `compat` the target is uniform over the wrong classes, as in scvi-tools' ``AdversarialTrainingPlan``.
        """
        fixed = {name: value.detach() for name, value in self.named_parameters()}
        log_p = torch.log_softmax(torch.func.functional_call(self, fixed, (contest.z,)), 1)
        target = torch.full_like(log_p, 1 / self.n_classes)
        if compat:
            target = (1 - functional.one_hot(contest.label, self.n_classes)).to(log_p.dtype) / (self.n_classes - 1)
        return -(contest.weight * (target * log_p).sum(1)).sum()

    @torch.no_grad()
    def accuracy(self, contest: Contest) -> torch.Tensor:
        """Class-balanced share of samples whose class is found; chance is 1 / classes present."""
        return (contest.weight * (self(contest.z).argmax(1) == contest.label)).sum()


def balanced(z: torch.Tensor, label: torch.Tensor, n_classes: int, mass: torch.Tensor | None = None) -> Contest | None:
    """Weights by class: each class present counts the same, its samples in proportion to `mass` (default 1).

    Returns None where fewer than two classes are present.
    """
    mass = torch.ones_like(z[:, 0]) if mass is None else mass
    total = z.new_zeros(n_classes).index_add(0, label, mass)
    present = int((total > 0).sum())
    if present < 2:
        return None
    return Contest(z, label, mass / total[label] / present)


def modality_contest(z: torch.Tensor, present: torch.Tensor, cells: str) -> Contest | None:
    """Which modality's encoder did a sample come from?

    Parameters
    ----------
    z
        (n_cells, n_modalities, n_latent) one sample of each present posterior.
    present
        (n_cells, n_modalities) bool.
    cells
        ``paired``: cells with at least two modalities, so that both classes hold the same cells. ``reweighted``:
        unpaired cells too, each with the mass that the paired cells of its neighbourhood hand out: every paired
        cell's sample spreads a mass of 1 over the unpaired samples of its modality by an RBF kernel as wide as
        the median distance to the nearest, so that compositions match those of the paired cells.
    """
    paired = present.sum(1) > 1
    use = present & paired.unsqueeze(1)
    if not bool(use.any()):
        return None
    mass = use.to(z.dtype)
    if cells == "reweighted":
        for m in range(present.shape[1]):
            guests, hosts = (present[:, m] & ~paired).nonzero().squeeze(1), use[:, m].nonzero().squeeze(1)
            if guests.numel() and hosts.numel():
                square = squared_distances(z[hosts, m].detach(), z[guests, m].detach())
                share = torch.softmax(-square / square.amin(1).median().clamp(min=1e-6), 1)
                mass[guests, m] = share.sum(0)
        use = mass > 0
    label = torch.arange(present.shape[1], device=z.device).expand_as(present)
    return balanced(z[use], label[use], present.shape[1], mass[use])


def batch_contest(z: torch.Tensor, batch: torch.Tensor, n_batches: int, *, even: bool = True) -> Contest | None:
    """Which batch did a joint sample come from? Cells of unknown batch are left out.

    With `even` batches count the same, else cells do (as in scvi-tools).
    """
    known = batch >= 0
    if even:
        return balanced(z[known], batch[known], n_batches)
    n = int(known.sum())
    return Contest(z[known], batch[known], torch.full_like(z[known][:, 0], 1 / n)) if n else None
