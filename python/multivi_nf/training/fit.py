"""Train a model on a mosaic."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from mudata import MuData

from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.data.source import Source, digest, fingerprint, source_of
from multivi_nf.errors import InputError
from multivi_nf.io.processors import number_from_environment
from multivi_nf.io.records import as_json
from multivi_nf.training.checkpoint.run import INTERVAL, Keeping, Vault
from multivi_nf.training.checkpoint.store import Identity
from multivi_nf.training.counterparts import looked_at
from multivi_nf.training.device import World, allocations_within_limits, choose_device
from multivi_nf.training.history import History
from multivi_nf.training.model_folder import MultiVI
from multivi_nf.training.progress import NOTICE, Reporter
from multivi_nf.training.settings import Settings, settings_for
from multivi_nf.training.split import ROLES, split_cells, split_table
from multivi_nf.training.trainer import Surroundings, Trainer, nobody

DEVICE_SHARE = 0.6
"""Counts live on the GPU if they take no more than this share of its free memory; else they are streamed."""


def train(
    model: MultiVI,
    mosaic: MuData | str | os.PathLike[str] | Source,
    *,
    max_epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
    split: pd.DataFrame | None = None,
    output: str | os.PathLike[str] | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_interval: float = INTERVAL,
    resume: bool = False,
    time_limit: float | None = None,
    quiet: bool = False,
) -> History:
    """Train a model; its weights become those of the best epoch.

    Parameters
    ----------
    model
        From :meth:`MultiVI.from_mosaic`; changed in place, and given `history` and `split`.
    mosaic
        MuData or path of an h5mu with the model's features.
    max_epochs, batch_size, learning_rate
        None: from the number of cells, see :func:`multivi_nf.training.settings.settings_for`.
    seed
        Of split, order, noise and dropout. Same seed, data, settings and threads: same bytes (on the processor).
    device
        auto, cpu or cuda.
    precision
        float32, or bfloat16 by autocast.
    split
        Columns cell and split (train, validation, calibration) to use instead of a random one.
    output
        Save the model here before checkpoints are removed.
    checkpoint_dir
        Keep checkpoints in a subfolder of this; None keeps none.
    checkpoint_interval
        Seconds between them.
    resume
        Go on from a checkpoint of the same data and configuration, if there is one.
    time_limit
        Seconds from now after which to save a checkpoint and stop.
    quiet
        Say nothing.

    Raises
    ------
    InputError
        If features differ, a value is out of range, or the loss is not finite twice.
    Interrupted
        After SIGTERM or the time limit, once the checkpoint is saved.

    Examples
    --------
    One epoch, to be quick; left out, `max_epochs` comes from the number of cells.

    >>> import multivi_nf as mv
    >>> from multivi_nf.simulate import Options, simulated_mosaic
    >>> cells, _ = simulated_mosaic(Options(cells=100, genes=50, peaks=100, proteins=4))
    >>> model = mv.MultiVI.from_mosaic(cells, n_latent=5, n_hidden=16)
    >>> history = mv.train(model, cells, max_epochs=1, seed=0, quiet=True)
    >>> len(history), history.best_epoch
    (1, 1)
    >>> list(history.to_frame().columns[:3])
    ['epoch', 'train_loss', 'validation_loss']
    >>> sorted(model.split["split"].unique())
    ['calibration', 'train', 'validation']
    """
    source = source_of(mosaic, atac_counts="atac" in model.config.counted)
    first = number_from_environment("RANK", 0) == 0
    reporter = Reporter(
        quiet=quiet or not first, notice=None if checkpoint_dir is None else Path(checkpoint_dir) / NOTICE
    )
    place = choose_device(device, reporter.say)
    data = MosaicData(source, model)
    roles = chosen_roles(source, split, seed)
    if model.config.integrates_batches:
        found, told_apart = looked_at(data.source, model.config.batches, among=roles == "train", seed=seed)
        data.counterparts = torch.from_numpy(found)
        data.told_apart = torch.from_numpy(told_apart) if told_apart.any() else None
    settings = settings_for(
        int((roles == "train").sum()),
        kl_warmup=int(model.config.kl_warmup),
        max_epochs=max_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        precision=precision,
        # what is learnt by heart is ATAC: of RNA and protein alone, thinning gains nothing and mixes labs less
        thins="atac" in model.modalities and model.formulas.tuned,
    )
    keep = Keeping(output, checkpoint_dir, checkpoint_interval, resume, time_limit)
    return Training(model, data, roles, settings, place, reporter, keep).run()


@dataclass
class Training:
    """A training with everything decided; see :func:`train`.

    Attributes
    ----------
    trainable, on_epoch
        As :class:`~multivi_nf.training.trainer.Surroundings` has them.
    """

    model: MultiVI
    data: MosaicData
    roles: np.ndarray
    settings: Settings
    device: torch.device
    reporter: Reporter
    keep: Keeping
    trainable: set[str] | None = None
    on_epoch: Callable[[int], None] = nobody

    def run(self) -> History:
        """Train; the model is given its history, split and settings, and saved where this is asked for."""
        model, keep = self.model, self.keep
        _describe(self)
        deadline = None if keep.time_limit is None else time.monotonic() + keep.time_limit
        world, vault = World.join(self.device), None
        with _stop_signal() as signalled, _own_generators(self.device), allocations_within_limits(self.device):
            stop = _stopper(deadline, signalled)
            try:
                if keep.folder is not None:
                    vault = Vault(keep, self.identity(), world, self.reporter.say, stop)
                model.to(self.device)
                _place(self.data, self.device, self.reporter)
                among = Surroundings(world, self.reporter, vault, stop, self.on_epoch, self.trainable)
                trainer = Trainer(model, self.data, self.roles, self.settings, among)
                history = trainer.run()
                model.to("cpu").eval()
                model.history = history
                model.split = split_table(self.data.cells, self.roles)
                own = {"device": self.device.type, "processes": world.size}
                model.training_settings = self.settings.to_dict() | own
                if keep.output is not None and world.first:
                    model.save(keep.output)
                if vault is not None:
                    vault.finish(trainer.state_dict)
                world.barrier()
            finally:
                if vault is not None:
                    vault.close()
                world.leave()
        return history

    def identity(self) -> Identity:
        """All that the weights depend on, in parts that can be named."""
        config = self.model.config
        covariates = (*config.categorical, *config.continuous)
        covariates += (config.labels,) if config.labels is not None and config.guided else ()
        parts = fingerprint(self.data.source, covariates)
        parts["split"] = digest(self.roles)
        # who has counterparts follows from the data by a rule, which another version may have changed
        looked_at = (self.data.counterparts, self.data.told_apart)
        parts["counterparts"] = digest(*(t.numpy() for t in looked_at if t is not None))
        parts["initial weights"] = digest(*(t.detach().cpu().numpy() for t in self.model.state_dict().values()))
        return {"data": parts, "model": as_json(config), "training": self.settings.to_dict()}


def chosen_roles(source: Source, split: pd.DataFrame | None, seed: int) -> np.ndarray:
    """Train, validation or calibration for each cell: given, or drawn."""
    if split is None:
        return split_cells({m: source.has(m) for m in source.matrices}, source.batch, seed)
    table = split.set_index("cell")["split"]
    missing = source.obs.index.difference(table.index)
    unknown = set(table.unique()) - set(ROLES)
    if len(missing) or unknown:
        what = f"has no row for cell {missing[0]!r}" if len(missing) else f"holds {sorted(unknown)[0]!r}"
        raise InputError(
            f"the split {what}",
            "each cell must train, validate or calibrate",
            f"give a table with columns cell and split, of {', '.join(ROLES)}",
        )
    return table.loc[source.obs.index].to_numpy(dtype=object)


def _describe(training: Training) -> None:
    data, roles, settings, say = training.data, training.roles, training.settings, training.reporter.say
    cells = ", ".join(f"{int(data.has[m].sum()):,} with {m}" for m in data.modalities)
    counts = ", ".join(f"{int((roles == role).sum()):,} {role}" for role in ROLES)
    say(f"{data.n_cells:,} cells ({cells}) in {len(training.model.config.batches)} batches: {counts}")
    say(
        f"at most {settings.max_epochs} epochs, {settings.batch_size} cells a step, learning rate "
        f"{settings.learning_rate:g}, warm-up {settings.full_from} epochs, patience {settings.patience}, "
        f"seed {settings.seed}"
    )
    for note in (*training.model.config.notes, *data.source.notes):
        say(note)


def _place(data: MosaicData, device: torch.device, reporter: Reporter) -> None:
    """Put the counts on the GPU if they fit, else stream them."""
    if device.type == "cpu":
        return
    free, _ = torch.cuda.mem_get_info(device)
    if data.n_bytes <= DEVICE_SHARE * free:
        data.to(device)
        return
    data.stream_to(device)
    reporter.say(
        f"the counts take {data.n_bytes / 2**30:.1f} GiB, the GPU has {free / 2**30:.1f} GiB free: minibatches are "
        "streamed from the host"
    )


def _stopper(deadline: float | None, signalled: Callable[[], str]) -> Callable[[], str]:
    def stop() -> str:
        if signalled():
            return f"{signalled()} was received"
        if deadline is not None and time.monotonic() >= deadline:
            return "the time limit is reached"
        return ""

    return stop


@contextmanager
def _stop_signal() -> Iterator[Callable[[], str]]:
    """Note SIGTERM and Ctrl-C instead of dying by them; only the main thread of a process can.

    A second Ctrl-C ends the process as usual.
    """
    seen: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: ""
        return

    def note(number: int, _: object) -> None:
        if number == signal.SIGINT and "SIGINT" in seen:
            raise KeyboardInterrupt
        seen.append(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: seen[0] if seen else ""
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _own_generators(device: torch.device) -> Iterator[None]:
    """Leave the caller's random generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
