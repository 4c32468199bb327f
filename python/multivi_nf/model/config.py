"""What a MultiVI model is made of: everything needed to build it again, in numbers and names, without data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from multivi_nf.errors import InputError, option
from multivi_nf.modalities import MODALITIES
from multivi_nf.model.formulas import FORMULAS, OURS, Formulas

CHOICES: dict[str, tuple[str, ...]] = {
    "rna_likelihood": ("nb", "zinb", "poisson"),
    "atac_likelihood": ("bernoulli", "poisson"),
    "dispersion": ("gene", "gene-batch"),
    "library": ("observed", "encoded"),
    "fusion": ("mean", "weighted", "cell-weighted", "poe", "mopoe"),
    "alignment": ("symmetric-kl", "mmd", "none"),
    "adversary": ("modality", "batch", "both", "none"),
    "adversary_cells": ("paired",),
    "compat": ("none", "scvi"),
}
"""Every option that is a choice, with its choices."""

N_REFERENCE_BATCHES = 8
"""At most so many batches make up the mixture that a modality is decoded under."""

_WEIGHTS = ("alignment_weight", "adversary_weight", "batch_integration", "modality_integration")
_RANGES: tuple[tuple[tuple[str, ...], float, float, str], ...] = (
    (("n_hidden", "n_latent", "n_layers"), 1, math.inf, "give a whole number of at least 1"),
    (("dropout", "batch_dropout"), 0, 1, "give a rate from 0 to below 1"),
    (("input_dropout",), 0, 1, "give rates from 0 to below 1"),
    (("cross_reconstruction",), 0, math.nextafter(1, 2), "give a weight from 0 to 1"),
    ((*_WEIGHTS, "kl_warmup", "labels_weight"), 0, math.inf, "give a number of at least 0"),
)
"""Names, least value, what it must be below, and what to do."""

_BY_FORMULAS: Any = None
"""Where nothing is given the formulas say how much."""

_LATER = {"left_out": True}
"""Not in a file unless it is set (`multivi_nf.io.records`): folders of earlier versions do not have it."""


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a MultiVI model.

    Attributes
    ----------
    n_features
        Modality to number of features; the modalities of the model.
    batches
        Names of the batches, in the order of their index.
    batch_cells
        Modality to the number of cells of each batch that measured it. A batch with 0 cells never trains that
        modality's batch parameters, so nothing is ever decoded under it.
    categorical
        Further categorical covariates: name to category names.
    categorical_cells
        Name to modality to cells per category; where it is not given every category counts as trained.
    continuous
        Continuous covariates: name to (mean, standard deviation), with which they were standardised.
    panel
        (n_batches, n_proteins) whether the protein is in the batch's panel; None is every protein everywhere.
    n_hidden, n_latent, n_layers
        Width and number of hidden layers of every encoder and decoder, and the latent dimensions.
    dropout
        Dropout rate of the encoders and of the protein decoder.
    input_dropout
        Modality to the share of a cell's non-zero counts hidden from its encoder in training, which keeps encoders
        from learning cells by heart; the likelihood sees all counts. {} is the paper's.
    rna_likelihood, dispersion, library
        Count model of RNA, whether its dispersion is per gene or per gene and batch, and whether a cell's library
        is its observed total over the modelled genes or encoded.
    atac_likelihood
        ``bernoulli``: a peak is open or not; ``poisson``: fragments are counted, at the library of `library`.
    labels, label_names, labels_weight
        Column of known cell types that guide training, its values, and the weight of the cross-entropy of a classifier
        on z, nats a labelled cell; 0 is no guidance.
    fusion, alignment, alignment_weight, cross_reconstruction
        How single posteriors are joined, how they are pulled together, and the share of the objective that is the
        mean of the single views' ELBOs (0: the paper's objective). A weight of None is 5, and 1, the reference's, with
        ``compat="scvi"``.
    adversary, adversary_cells, adversary_weight
        What the adversary tells apart, in which cells (paired ones: these are the same of both modalities), and its
        weight.
    batch_integration
        Strength with which batches are brought together where they have counterparts (`multivi_nf.model.local_mixing`):
        at 1 a nat of the penalty is worth a twentieth of the reconstruction. 0 leaves batches as they lie; None is 1,
        and 0 with ``compat="scvi"``.
    modality_integration
        The same between cells by the modalities measured.
    kl_warmup
        Epochs over which the weight of the KL rises from 0 to 1 (used by training).
    deep_injection
        Covariates enter every hidden layer, not only the first.
    batch_dropout
        Rate at which a cell's batch code is hidden from the encoders in training.
    compat
        ``scvi``: the formulas of scvi-tools 1.4.2 where they differ (`multivi_nf.model.formulas`).
    """

    n_features: dict[str, int]
    batches: tuple[str, ...]
    batch_cells: dict[str, tuple[int, ...]]
    categorical: dict[str, tuple[str, ...]] = field(default_factory=dict)
    categorical_cells: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    continuous: dict[str, tuple[float, float]] = field(default_factory=dict)
    panel: tuple[tuple[bool, ...], ...] | None = None
    n_hidden: int = 256
    n_latent: int = 10
    n_layers: int = 2
    dropout: float = 0.1
    input_dropout: dict[str, float] = field(default_factory=lambda: {"atac": 0.5})
    rna_likelihood: str = "nb"
    dispersion: str = "gene"
    library: str = "observed"
    fusion: str = "mean"
    alignment: str = "symmetric-kl"
    alignment_weight: float = _BY_FORMULAS
    adversary: str = "modality"
    adversary_cells: str = "paired"
    adversary_weight: float = 1.0
    cross_reconstruction: float = 0.5
    batch_integration: float = _BY_FORMULAS
    modality_integration: float = _BY_FORMULAS
    kl_warmup: float = 50
    deep_injection: bool = False
    batch_dropout: float = 0.1
    compat: str = "none"
    atac_likelihood: str = field(default="bernoulli", metadata=_LATER)
    labels: str | None = field(default=None, metadata=_LATER)
    label_names: tuple[str, ...] = field(default=(), metadata=_LATER)
    labels_weight: float = field(default=0.0, metadata=_LATER)

    def __post_init__(self) -> None:
        freeze = object.__setattr__
        for name in ("alignment_weight", "batch_integration", "modality_integration"):
            if getattr(self, name) is None:
                freeze(self, name, getattr(self.formulas, name))
        freeze(self, "n_features", {m: int(self.n_features[m]) for m in MODALITIES if m in self.n_features})
        freeze(self, "batches", tuple(str(name) for name in self.batches))
        freeze(self, "batch_cells", {m: tuple(int(n) for n in cells) for m, cells in self.batch_cells.items()})
        freeze(self, "categorical", {k: tuple(str(v) for v in names) for k, names in self.categorical.items()})
        cells = {
            k: {m: tuple(int(n) for n in counts) for m, counts in by_modality.items()}
            for k, by_modality in self.categorical_cells.items()
        }
        freeze(self, "categorical_cells", cells)
        continuous = {k: (float(mean), float(sd)) for k, (mean, sd) in self.continuous.items()}
        freeze(self, "continuous", continuous)
        freeze(self, "label_names", tuple(str(name) for name in self.label_names))
        freeze(self, "input_dropout", {m: float(rate) for m, rate in self.input_dropout.items()})
        if self.panel is not None:
            freeze(self, "panel", tuple(tuple(bool(v) for v in row) for row in self.panel))
        problems = self._problems()
        if problems:
            raise InputError.all_of(problems)

    @property
    def formulas(self) -> Formulas:
        """What ``compat`` chose."""
        return FORMULAS.get(self.compat, OURS)

    @property
    def adversaries(self) -> dict[str, int]:
        """What the adversaries that were asked for tell apart, and among how many classes."""
        classes = {"modality": len(self.modalities), "batch": len(self.batches)}
        return {name: classes[name] for name in self.formulas.adversaries(self.adversary)}

    @property
    def modalities(self) -> tuple[str, ...]:
        """The model's modalities, in the order of `MODALITIES`."""
        return tuple(self.n_features)

    def _problems(self) -> list[InputError]:
        problems = [
            _problem(name, getattr(self, name), f"choose one of {', '.join(choices)}")
            for name, choices in CHOICES.items()
            if getattr(self, name) not in choices
        ]
        for names, least, below, remedy in _RANGES:
            for name in names:
                value = getattr(self, name)
                if any(not least <= one < below for one in (value.values() if isinstance(value, dict) else [value])):
                    problems.append(_problem(name, value, remedy))
        return problems + self._conflicts()

    def _conflicts(self) -> list[InputError]:
        """Options that do not go together, or with the data."""
        problems = []
        if self.labels_weight > 0 and self.labels is None:
            problems.append(
                _problem("labels_weight", self.labels_weight, "name the labels' column too, or leave it out")
            )
        likelihood = self.atac_likelihood
        if likelihood in CHOICES["atac_likelihood"] and likelihood not in self.formulas.atac_likelihoods:
            remedy = f"leave {option('atac_likelihood')} out, or train without {_named('compat', self.compat)}"
            problems.append(_problem("atac_likelihood", self.atac_likelihood, remedy))
        if not self.n_features or min(self.n_features.values()) < 1:
            problems.append(_problem("n_features", self.n_features, "give at least one modality with a feature"))
        if not self.batches:
            problems.append(_problem("batches", self.batches, "name at least one batch"))
        for modality in self.n_features:
            cells = self.batch_cells.get(modality, ())
            if len(cells) != len(self.batches) or sum(cells) < 1:
                remedy = f"give the number of cells of {modality} for each of the {len(self.batches)} batches, some > 0"
                problems.append(_problem(f"batch_cells[{modality}]", cells, remedy))
        shape = (len(self.batches), self.n_features.get("protein", 0))
        if self.panel is not None and (len(self.panel), len(self.panel[0]) if self.panel else 0) != shape:
            problems.append(_problem("panel", "of another shape", f"give {shape[0]} batches x {shape[1]} proteins"))
        return problems

    @property
    def guided(self) -> bool:
        """Whether known labels guide training."""
        return self.labels is not None and self.labels_weight > 0

    @property
    def counted(self) -> tuple[str, ...]:
        """Modalities of which counts are read; of the others only what is open (0/1)."""
        return tuple(m for m in self.modalities if m != "atac" or self.atac_likelihood != "bernoulli")

    @property
    def notes(self) -> list[str]:
        """What was asked for and is not done, in sentences for the user."""
        return [
            f"the adversary on {name} is off: the data have one {name}" for name, n in self.adversaries.items() if n < 2
        ]

    @property
    def integrates_batches(self) -> bool:
        """Whether there are batches to bring together, and this is asked for."""
        return self.batch_integration > 0 and len(self.batches) > 1

    @property
    def leading(self) -> int:
        """Index of the modality that most batches measured, the first of them on ties."""
        measured = [sum(n > 0 for n in self.batch_cells[m]) for m in self.modalities]
        return measured.index(max(measured))

    @property
    def leader(self) -> int | None:
        """The modality that the others are aligned to: `leading` where batches are brought together, else None.

        What batches share must not be dragged towards what each has of its own.
        """
        return self.leading if self.integrates_batches and len(self.modalities) > 1 else None

    def reference_mixture(self, modality: str) -> list[tuple[int, float]]:
        """The batches to decode a modality under: the 8 largest that measured it, weighted by their cells."""
        cells = self.batch_cells[modality]
        order = sorted((i for i, n in enumerate(cells) if n), key=lambda i: (-cells[i], i))[:N_REFERENCE_BATCHES]
        total = sum(cells[i] for i in order)
        return [(i, cells[i] / total) for i in order]

    def reference_weights(self, modality: str) -> tuple[torch.Tensor, torch.Tensor]:
        """`reference_mixture` by feature: (n_ref,) batches and (n_ref, n_features) weights that sum to 1 over batches.

        A protein counts only the batches that have it in their panel; where none of the 8 largest has, the largest
        that has is added (its weight is 0 for the others). Of a protein in no panel all weights are 0.
        """
        chosen = [i for i, _ in self.reference_mixture(modality)]
        cells = torch.tensor(self.batch_cells[modality], dtype=torch.get_default_dtype())
        use = torch.ones(len(cells), self.n_features[modality])
        if modality == "protein" and self.panel is not None:
            n_large, panel = len(chosen), torch.tensor(self.panel, dtype=use.dtype)
            use = panel.clone()
            for protein in (panel[chosen].sum(0) == 0).nonzero().squeeze(1).tolist():
                largest = int((cells * panel[:, protein]).argmax())
                if cells[largest] * panel[largest, protein] > 0 and largest not in chosen:
                    chosen.append(largest)
            served = panel[chosen[:n_large]].sum(0) > 0
            use[chosen[n_large:]] *= (~served).to(use.dtype)
        mass = cells[chosen].unsqueeze(1) * use[chosen]
        return torch.tensor(chosen), mass / mass.sum(0).clamp(min=1e-12)


def _problem(name: str, value: Any, remedy: str) -> InputError:
    options = {"n_hidden", "n_latent", "n_layers", "batch_integration", *CHOICES}
    named = _named(name) if name in options else name
    return InputError(f"{named} is {value!r}", "no model can be built from it", remedy)


def _named(name: str, value: str | None = None) -> str:
    return option(name, value, shell="--model-compat" if name == "compat" else "")
