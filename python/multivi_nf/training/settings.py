"""Settings that a user never has to touch, from the number of cells. Evidence: docs/decisions/training-rule.md."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from multivi_nf.errors import InputError

PRECISIONS = ("float32", "bfloat16")
STEPS = 600
"""A training's length where neither few nor many cells ask for another."""
PEAK_DECAY = 5.0

THINNING = 0.5
"""Share of a cell's RNA and ATAC counts that its encoders do not see and that its likelihood scores."""

PASSES = 40
"""Passes over the cells from which training is thinned: the more often a cell is met, the better its noise is known by
heart, and the slower half of its counts teach."""


@dataclass(frozen=True)
class Settings:
    """How a model is trained.

    Attributes
    ----------
    max_epochs
        Epochs at most.
    batch_size
        Cells per step, over all devices.
    learning_rate
        Of AdamW, for the model; reached after a linear warm-up and lowered to a hundredth along a half cosine.
    adversary_learning_rate
        Of the adversary's own AdamW.
    weight_decay
        Of AdamW, for matrices (not for biases and other vectors).
    peak_decay
        The same for the peaks' loadings, the last matrix of the ATAC decoder. Adam's steps are of one size however
        few cells show a peak: without it the loadings of rare peaks follow noise. 5 at 600 steps and falling with
        their number, so that more cells are believed more.
    dispersion_pace
        Factor on the learning rate of the dispersions of RNA and protein. Adam moves a parameter by about its learning
        rate a step: in 600 steps a logarithm gets no further than 0.6, and dispersions of 10 stay near the 1 that
        they start from. Not with ``compat="scvi"``, nor in mapping.
    protein_code_pace
        The same for the codes of batches in the protein decoder, which then do not decay, where there are batches to
        bring together: panels and stainings differ by more than a code comes in 600 steps, and what codes do not say
        the latent space has to.
    max_norm
        Gradients are scaled down to this norm.
    thinning
        Share of a cell's RNA and ATAC counts that is hidden from its encoders in a step; the likelihood scores these
        alone (`multivi_nf.model.thinning`). 0 is not at all.
    patience
        Epochs without a better validation loss after which training goes back to the best weights and anneals.
    anneal_epochs
        Epochs over which the learning rate then falls to a hundredth, and training ends.
    kl_warmup
        Epochs over which the weight of the KL term rises from 0 to 1.
    alignment_warmup
        Epochs after the KL warm-up over which the weight of the alignment rises from 0. At full weight from the
        start it is met by posteriors that say nothing, and the model never leaves them.
    adversary_warmup
        Epochs in which the adversary learns but does not yet act on the encoders.
    seed
        Of weights, noise, dropout, order and split.
    precision
        float32, or bfloat16 by autocast (GPU).
    """

    max_epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    anneal_epochs: int
    kl_warmup: int
    alignment_warmup: int
    adversary_warmup: int
    seed: int = 0
    precision: str = "float32"
    adversary_learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    peak_decay: float = PEAK_DECAY
    dispersion_pace: float = 10.0
    protein_code_pace: float = 10.0
    max_norm: float = 50.0
    thinning: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        for name in ("max_epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                problems.append(_wrong(name, getattr(self, name), "a whole number of at least 1"))
        if not (0 < self.learning_rate < math.inf):
            problems.append(_wrong("learning_rate", self.learning_rate, "a number above 0"))
        if self.precision not in PRECISIONS:
            problems.append(_wrong("precision", self.precision, " or ".join(PRECISIONS)))
        if self.seed < 0:
            problems.append(_wrong("seed", self.seed, "a whole number of at least 0"))
        if problems:
            raise InputError.all_of(problems)

    @property
    def full_from(self) -> int:
        """Epochs done when the objective is at full weight: only later weights may be kept."""
        return self.kl_warmup + self.alignment_warmup

    def to_dict(self) -> dict[str, object]:
        """All settings by name."""
        return dataclasses.asdict(self)


def _wrong(name: str, value: object, choices: str) -> InputError:
    option = "--" + name.replace("_", "-")
    return InputError(f"{option} is {value!r}", "training cannot run with it", f"give {choices}")


def settings_for(
    n_train: int,
    *,
    kl_warmup: int,
    max_epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    precision: str = "float32",
    thins: bool = False,
) -> Settings:
    """Fill in what the user left open.

    Parameters
    ----------
    n_train
        Cells that train the model.
    kl_warmup
        Epochs of KL warm-up the model asks for; a quarter of all epochs at most, and the alignment's after it is
        as long.
    max_epochs, batch_size, learning_rate
        Given values win; None takes the rule.
    thins
        Whether training may be thinned: it is, where it makes `PASSES` passes or more.

    Notes
    -----
    Batch size: 128 up to 1,280 cells (10 steps an epoch), growing with the cells to 512, where a step's cost is no
    longer dominated by the optimiser. Learning rate: 2e-3 at 128 cells a step, times the square root of the
    batch's growth, 4e-3 at most. Epochs: about 600 steps where that is 20 epochs or more and no more than 200; longer
    runs fit the training cells, not the others.
    """
    if batch_size is None:
        batch_size = min(max(128, 2 ** round(math.log2(max(n_train, 1) / 10))), 512)
    if learning_rate is None:
        learning_rate = round(2e-3 * min(math.sqrt(max(batch_size, 128) / 128), 2.0), 6)
    steps = max(math.ceil(n_train / max(batch_size, 1)), 1)
    if max_epochs is None:
        max_epochs = min(max(math.ceil(STEPS / steps), 20), 200)
    warmup = min(kl_warmup, max_epochs // 4)
    return Settings(
        max_epochs=max_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=max(10, max_epochs // 5),
        anneal_epochs=max(5, max_epochs // 20),
        kl_warmup=warmup,
        alignment_warmup=warmup,
        adversary_warmup=max(1, max_epochs // 20) if max_epochs > 1 else 0,
        seed=seed,
        precision=precision,
        thinning=THINNING if thins and max_epochs >= PASSES else 0.0,
        peak_decay=PEAK_DECAY * min(1.0, STEPS / max(steps * max_epochs, 1)),
    )
