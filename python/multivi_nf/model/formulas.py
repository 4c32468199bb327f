"""The formulas of a model: the mathematics, or scvi-tools' where they depart from it (``--model_compat scvi``).

One object per choice, which everything that differs asks. Where they differ, and how scvi-tools' weights are read, is
listed in `multivi_nf.model.compat`.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from multivi_nf.data.minibatch import ModalityRows
from multivi_nf.model.sparse import row_sums


class Formulas:
    """The mathematics.

    Attributes
    ----------
    alignment_weight, batch_integration, modality_integration
        What the configuration's are where none is given. Of the alignment only paired cells pay and every cell gains
        from what it forbids, so the paper's 1 is too little where few cells are paired (docs/explanation/model.md).
    atac_likelihoods
        Those that there are.
    single_views
        Views of one modality are part of the objective, and embeddings are compared on held-out pairs by them.
    background_prior
        Proteins' backgrounds have a prior, and panels are respected.
    tuned
        Training has this package's own starts, paces, weight decay and thinning.
    whole_size_encoders
        Library and depth have encoders of full input width.
    even_batches
        Batches count the same in the adversary on batch, however many cells they have.
    """

    alignment_weight = 5.0
    batch_integration = 1.0
    modality_integration = 0.2
    atac_likelihoods: tuple[str, ...] = ("bernoulli", "poisson")
    single_views = background_prior = tuned = even_batches = True
    whole_size_encoders = False

    def adversaries(self, asked: str) -> tuple[str, ...]:
        """What the adversaries tell apart."""
        return tuple(name for name in ("modality", "batch") if asked in (name, "both"))

    def measured(self, rows: ModalityRows) -> ModalityRows:
        """The rows that were measured: what the minibatch says, never what counts say."""
        return rows

    def joint_variance(self, weight: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        """Variance of sum w z of independent z: sum w^2 v over the modalities (dimension 1)."""
        return (weight.square() * variance).sum(1)

    def aligned_variance(self, variance: torch.Tensor) -> torch.Tensor:
        """Variances as the symmetric KL takes them."""
        return variance

    def discrepancy(self, means: tuple[torch.Tensor, torch.Tensor], n_cells: int) -> torch.Tensor | None:
        """What stands in the place of the MMD between the (n, n_latent) posterior means of pairs; None: nothing."""
        return None

    def fooled(self, label: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """(n, n_classes) distribution that encoders want a classifier to give: uniform."""
        return torch.full_like(like, 1 / like.shape[1])


class Scvi(Formulas):
    """scvi-tools 1.4.2."""

    alignment_weight = 1.0
    batch_integration = modality_integration = 0.0
    atac_likelihoods = ("bernoulli",)
    single_views = background_prior = tuned = even_batches = False
    whole_size_encoders = True

    def adversaries(self, asked: str) -> tuple[str, ...]:
        """Batches, whatever was asked for."""
        return () if asked == "none" else ("batch",)

    def measured(self, rows: ModalityRows) -> ModalityRows:
        """A row without a count passes for not measured."""
        keep = (row_sums(rows.counts) > 0).nonzero().squeeze(1)
        return rows if keep.numel() == rows.cells.numel() else rows.take(keep)

    def joint_variance(self, weight: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        """Sum of sqrt(w) v."""
        return (weight.sqrt() * variance).sum(1)

    def aligned_variance(self, variance: torch.Tensor) -> torch.Tensor:
        """Standard deviations are v^(1/4): the square root is taken twice."""
        return variance.sqrt()

    def discrepancy(self, means: tuple[torch.Tensor, torch.Tensor], n_cells: int) -> torch.Tensor | None:
        """Length of the difference of means, summed over the minibatch and then charged to every cell of it."""
        return n_cells * torch.linalg.norm(means[0] - means[1], dim=1).sum()

    def fooled(self, label: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Uniform over the wrong classes, as in ``AdversarialTrainingPlan``."""
        n_classes = like.shape[1]
        return (1 - functional.one_hot(label, n_classes)).to(like.dtype) / (n_classes - 1)


OURS = Formulas()
FORMULAS = {"none": OURS, "scvi": Scvi()}
"""By the configuration's ``compat``."""
