"""The training loop: one pass over the cells an epoch, validation, early stopping, recovery, checkpoints.

Everything random is a function of (seed, epoch, step, process, part), not of what was drawn before. A run that goes on
from a checkpoint therefore draws what the uninterrupted run would have drawn, and the state of all generators is where
in the run one is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.errors import InputError, Interrupted, option
from multivi_nf.io.records import as_json, from_json
from multivi_nf.model import MultiVI
from multivi_nf.training.checkpoint.run import Vault
from multivi_nf.training.checkpoint.store import Checkpoint
from multivi_nf.training.device import World, is_out_of_memory
from multivi_nf.training.held_pairs import HeldPairs
from multivi_nf.training.history import History
from multivi_nf.training.objective import Objective
from multivi_nf.training.progress import Reporter
from multivi_nf.training.settings import Settings
from multivi_nf.training.state import State, Stored

SNAPSHOT_EPOCHS = 10
"""Epochs between two copies in memory to which a non-finite loss goes back."""

VALIDATED = 2000
"""Validation cells whose loss is looked at, of more: in every epoch each costs half of what a training cell costs."""

_ORDER, _STEP, _VALIDATION = 1, 2, 3


def looked_at(cells: np.ndarray, seed: int) -> np.ndarray:
    """At most `VALIDATED` of some cells, the same in every epoch, in their order."""
    if len(cells) <= VALIDATED:
        return cells
    return np.sort(np.random.default_rng([seed, VALIDATED]).choice(cells, VALIDATED, replace=False))


def stream(*key: int) -> int:
    """A 63-bit seed for a place in the run."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def nobody(_: int) -> None:
    """Nobody asks when epochs begin."""


@dataclass
class Surroundings:
    """What a training runs among.

    Attributes
    ----------
    world
        The processes that train together.
    reporter
        Tells the user.
    vault
        Where checkpoints go; None keeps none.
    stop
        Asked after each step; a reason ends the run with a checkpoint and :class:`Interrupted`.
    on_epoch
        Told the epochs done whenever an epoch begins or goes on.
    trainable
        Parameters that may change; None is all.
    """

    world: World
    reporter: Reporter
    vault: Vault | None = None
    stop: Callable[[], str] = lambda: ""
    on_epoch: Callable[[int], None] = nobody
    trainable: set[str] | None = None


class Trainer:
    """Trains a model on some cells of a mosaic.

    Parameters
    ----------
    model
        The model, on its device; changed in place.
    data
        Cells, on the same device.
    roles
        (n_cells,) train, validation or calibration.
    settings
        How.
    among
        Processes, checkpoints, and who is told.
    """

    def __init__(
        self, model: MultiVI, data: MosaicData, roles: np.ndarray, settings: Settings, among: Surroundings
    ) -> None:
        self.model, self.data, self.settings = model, data, settings
        self.among, self.world, self.reporter, self.vault = among, among.world, among.reporter, among.vault
        self.device = data.device
        self.train_cells = np.flatnonzero(roles == "train")
        held = np.flatnonzero(roles == "validation")
        self.validation_cells = looked_at(held, settings.seed)
        if not self.train_cells.size:
            raise InputError("no cell is left to train on", "all are held out", "give more cells")
        self.objective = Objective(model, settings, self.device, among.trainable)
        self.tally = self.objective.tally
        # of RNA and protein alone -ELBO keeps as good an epoch, and an earlier one (docs/decisions/thinning.md)
        asked = among.trainable is None and "atac" in model.modalities
        some = held if asked else held[:0]
        self.pairs = HeldPairs(model, data, some, settings.seed)
        self.n_steps = math.ceil(self.train_cells.size / settings.batch_size)
        self.parts = 1
        self.state = State(settings, self.tally.names)
        self._snapshot: Checkpoint | None = None
        # Reading a result from a GPU waits for it; on the processor it is free.
        self._settle_every = 1 if self.device.type == "cpu" else 20

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> History:
        """Train until done; leaves the best weights in the model."""
        state = self.state
        found = None if self.vault is None else self.vault.newest()
        if self.vault is not None and found is not None:
            with self.vault.holding_together():
                self.load_state_dict(found)
        if state.position:
            self.reporter.say(f"going on at epoch {state.epoch + 1}, step {state.step + 1} of {self.n_steps}")
        self.reporter.start(self.settings.max_epochs, state.epoch)
        try:
            while not state.finished:
                self._epoch()
        finally:
            self.reporter.stop()
        if state.best is not None:
            self.model.load_state_dict(state.best)
        elif state.history.rows:
            state.history.best_epoch = len(state.history.rows)
        self.reporter.say(f"{state.history.stopped}; kept the weights of epoch {state.history.best_epoch}")
        return state.history

    def state_dict(self) -> Checkpoint:
        """All that the run needs to go on: its parts' states, as named tensors (copies on the host) and JSON."""
        parts = {"weight": self._weights(), "best": self.state.best or {}}
        parts["optimiser"] = self.objective.optimisers.state_dict()
        if self.objective.mixing is not None:
            parts["mixing"] = self.objective.mixing.state_dict()
        tensors = {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        return Checkpoint(tensors, as_json(self.state.state_dict()))

    def _weights(self) -> dict[str, torch.Tensor]:
        """The model's weights, copied to the host."""
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.model.state_dict().items()}

    def load_state_dict(self, checkpoint: Checkpoint) -> None:
        """Go back to what :meth:`state_dict` gave."""
        parts: dict[str, dict[str, torch.Tensor]] = {"weight": {}, "best": {}, "optimiser": {}, "mixing": {}}
        for name, tensor in checkpoint.tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        known = {field.name for field in fields(Stored)}
        told = {name: value for name, value in checkpoint.info.items() if name in known}
        stored = from_json(Stored, told, "the checkpoint")
        self.model.load_state_dict(parts["weight"])
        self.objective.optimisers.load_state_dict(parts["optimiser"])
        if self.objective.mixing is not None:
            self.objective.mixing.load_state_dict(parts["mixing"])
        self.state.load_state_dict(stored, parts["best"])

    def _epoch(self) -> None:
        state = self.state
        self._clock = time.monotonic()
        if self._snapshot is None or (state.epoch % SNAPSHOT_EPOCHS == 0 and state.step == 0):
            self._snapshot = self.state_dict()
        order = np.random.default_rng([self.settings.seed, _ORDER, state.epoch]).permutation(self.train_cells)
        steps = np.array_split(order, self.n_steps)
        self.model.train()
        self.among.on_epoch(state.epoch)
        try:
            while state.step < self.n_steps:
                self._step(steps[state.step])
                state.step += 1
                if state.step % self._settle_every == 0 or state.step == self.n_steps:
                    self._settle()
            self._validate_and_record()
        except FloatingPointError as error:
            self._recover(str(error))

    def _settle(self) -> None:
        """Add up what the last steps reported, see that it is finite, save or stop if it is time."""
        state = self.state
        reason = self.among.stop()
        *sums, stops = self.world.sum(self.tally.take_sums(float(bool(reason)))).tolist()
        bad = [name for name, value in zip(self.tally.names, sums) if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(bad[0])
        state.sums = [a + b for a, b in zip(state.sums, sums)]
        if stops:
            self._leave(reason or "another process was told to stop")
        if self.vault is not None and self.vault.due():
            self._save()

    def _save(self) -> bool:
        """Write a checkpoint here and now; false where that was not possible."""
        state = self.state
        now = time.monotonic()
        state.seconds += now - self._clock
        self._clock = now
        return self.vault is None or self.vault.save(self.state_dict)

    def _leave(self, reason: str) -> None:
        saved = self._save()
        self.world.barrier()
        if self.vault is None:
            msg = f"stopped in epoch {self.state.epoch + 1}: {reason}; no checkpoint folder was given, nothing is saved"
        else:
            msg = f"stopped in epoch {self.state.epoch + 1}, step {self.state.step} of {self.n_steps}: {reason}. " + (
                f"A checkpoint is saved; run the same with {option('resume', True)} to go on"
                if saved
                else f"No checkpoint could be written (see above): {option('resume', True)} goes on from the last"
            )
        raise Interrupted(msg, 130 if reason.startswith("SIGINT") else 75)

    # -- one step -----------------------------------------------------------------------------------------------------

    def _step(self, cells: np.ndarray) -> None:
        """One optimiser step on `cells` (over all processes), in as many parts as the memory needs."""
        state = self.state
        mine = cells[self.world.rank :: self.world.size]
        self.objective.schedule(state.place(self.n_steps))
        while True:
            try:
                for number, part in enumerate(_parts(mine, self.parts)):
                    key = (self.settings.seed, _STEP, state.epoch, state.step, self.world.rank, number)
                    minibatch = self.data.minibatch(part)
                    self.objective.add(minibatch, part.size / cells.size, stream(*key))
                break
            except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is one of the latter
                if not is_out_of_memory(error):
                    raise
                self._smaller_parts(mine.size, error)
        self.objective.update(self.world, cells.size)

    def _smaller_parts(self, n_cells: int, error: Exception) -> None:
        self.objective.forget()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.parts >= n_cells:
            raise InputError(
                f"the device has too little memory for a step of one cell ({str(error).splitlines()[0]})",
                "training cannot go on",
                f"give fewer features, a smaller {option('n_hidden')}, or a device with more memory",
            ) from error
        self.parts *= 2
        self.reporter.say(
            f"out of memory: each step of {n_cells} cells now runs in {self.parts} parts whose gradients are "
            "added; the effective batch stays the same"
        )

    def _recover(self, term: str) -> None:
        """Go back to the last good state with half the learning rate; the second time, give up."""
        state = self.state
        where = f"epoch {state.epoch + 1}, step {max(state.step, 1)}"
        if state.recovered:
            raise InputError(
                f"the loss term {term!r} is not finite in {where}, again after going back once with half the learning "
                "rate",
                "weights made from such a loss are without meaning",
                f"look at the input of {term!r} (extreme counts, a covariate on a huge scale), or give a "
                f"{option('learning_rate')} below {self.settings.learning_rate * state.rate:g}",
            )
        assert self._snapshot is not None  # an epoch begins with one
        self.objective.forget()
        self.load_state_dict(self._snapshot)
        state.recovered = True
        state.rate /= 2
        self._snapshot = None
        self.reporter.say(
            f"the loss term {term!r} is not finite in {where}: going back to epoch {state.epoch + 1} with half the "
            f"learning rate ({self.settings.learning_rate * state.rate:g})"
        )

    # -- validation ---------------------------------------------------------------------------------------------------

    def _validate_and_record(self) -> None:
        state = self.state
        validation = self._validate()
        validation |= self._score_pairs(validation)
        last = replace(state.place(self.n_steps), step=self.n_steps - 1)
        row = self.tally.row(state.sums, validation, last)
        if not math.isfinite(row["validation_loss"]) and self.validation_cells.size:
            raise FloatingPointError("validation_loss")
        now = time.monotonic()
        row["seconds"] = state.seconds + now - self._clock
        self._clock = now
        anneals = state.record(row, validated=bool(self.validation_cells.size))
        if state.history.best_epoch == state.epoch:
            state.best = self._weights()
        if anneals:
            self.model.load_state_dict(state.best or {})
        self.reporter.epoch(row, self.settings.max_epochs)
        if self.vault is not None:
            self.vault.history(state.history)

    def _validate(self) -> dict[str, float]:
        """−ELBO at KL weight 1, with the same noise in every epoch, per cell."""
        self.model.eval()
        while True:
            try:
                self._validation_losses()
                return self.tally.end_validation(self.world, self.validation_cells.size)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._smaller_parts(self.settings.batch_size, error)

    def _score_pairs(self, validation: dict[str, float]) -> dict[str, float]:
        """What held-out pairs tell; the first process's answer in all, so that all of them stop together."""
        found = self.pairs.score(self.tally.excess(validation))
        if not found:
            return {}
        mine = float(self.world.first)
        values = torch.tensor([mine * v for v in found.values()], dtype=torch.float64, device=self.device)
        return dict(zip(found, self.world.sum(values).tolist()))

    @torch.no_grad()
    def _validation_losses(self) -> None:
        self.tally.start_validation()
        pieces = math.ceil(self.validation_cells.size / self.settings.batch_size)
        for number, cells in enumerate(np.array_split(self.validation_cells, pieces) if pieces else []):
            if number % self.world.size == self.world.rank:
                seed = stream(self.settings.seed, _VALIDATION, number)
                for part in _parts(cells, self.parts):
                    self.objective.validate(self.data.minibatch(part), part.size, seed)


def _parts(cells: np.ndarray, n: int) -> Iterator[np.ndarray]:
    return (part for part in np.array_split(cells, n) if part.size)
