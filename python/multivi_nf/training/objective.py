"""The model's loss on training and validation cells, and its gradients."""

from __future__ import annotations

import torch

from multivi_nf.data.minibatch import Minibatch
from multivi_nf.model import MultiVI
from multivi_nf.model.adversary import own_loss
from multivi_nf.model.local_mixing import LocalMixing
from multivi_nf.model.loss import comparisons
from multivi_nf.training.device import World
from multivi_nf.training.optimisers import Optimisers
from multivi_nf.training.schedule import Place, Schedule
from multivi_nf.training.settings import Settings
from multivi_nf.training.tally import Tally


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
    tally
        What steps and validation report.
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
        compared = comparisons(model.config) if trainable is None else {}
        self.mixing = LocalMixing(compared, device) if compared else None
        mixed = ["batch_mixing"] if "joint" in compared else []
        mixed += ["modality_mixing"] if "measured" in compared else []
        mixed += ["integration"] if compared else []
        mixed += ["labels"] if model.classifier is not None and trainable is None else []
        terms = [*modalities, *background, "kl", "alignment", "adversary", *mixed, "elbo_loss"]
        self.plan = Schedule(settings, model.config.alignment_weight)
        self.tally = Tally(terms, modalities, self.plan, device)
        self.optimisers = Optimisers(model, settings, trainable)
        encoders = model.encoders.values()
        self._blind = [(e.weight, e.blind.to(device)) for e in encoders if e.blind is not None]
        self._kl_weight = 1.0
        self._alignment_weight: float | None = None
        self._adversary_weight: float | None = None

    # -- a step -------------------------------------------------------------------------------------------------------

    def schedule(self, at: Place) -> None:
        """Set weights and learning rates for a step."""
        share, start = at.step / at.n_steps, self.settings.adversary_warmup
        self._kl_weight = self.plan.kl_weight(at.epoch, share)
        self._alignment_weight = self.plan.alignment_weight(at.epoch, share)
        if self.mixing is not None:
            self.mixing.asked = self.plan.types_there(at.epoch, share)
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
            rival = own_loss(self.model.adversaries, losses.contests) if self.optimisers.rivals else None
        if losses.total.requires_grad:
            (losses.total * share).backward()
        if rival is not None:
            (rival * share).backward()
        self.tally.add(losses, minibatch.n_cells)

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
        self.tally.take(norm.double() * n_cells / world.size)
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
        self.tally.forget()
        if self.mixing is not None:
            self.mixing.forget()
        self.optimisers.zero_grad()

    # -- validation ---------------------------------------------------------------------------------------------------

    def validate(self, minibatch: Minibatch, n_cells: int, seed: int) -> None:
        """Add some validation cells, at KL weight 1."""
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)
        with self._autocast():
            losses = self.model.loss(minibatch, kl_weight=1.0, generator=self.generator, mixing=self.mixing)
        accuracy = None
        if losses.contests:
            name, contest = next(iter(losses.contests.items()))
            accuracy = float(self.model.adversaries[name].accuracy(contest))
        self.tally.measure(losses, n_cells, accuracy)
