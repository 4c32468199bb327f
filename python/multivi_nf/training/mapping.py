"""Mapping new samples onto a trained model: only what belongs to their batches is learnt.

A new batch gets a code in every encoder and decoder of the modalities it measured (as scArches does: Lotfollahi et
al., Nat Biotechnol 2022), its own dispersion where dispersion is per batch, and its own protein background. All other
weights stay, and so does the latent position of every reference cell, bit for bit.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from mudata import MuData

from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.data.source import Source
from multivi_nf.model import ModelConfig
from multivi_nf.training.checkpoint.run import INTERVAL, Keeping
from multivi_nf.training.describe import panel_of
from multivi_nf.training.device import choose_device
from multivi_nf.training.fit import Training, chosen_roles
from multivi_nf.training.initialise import protein_background
from multivi_nf.training.model_folder import MultiVI
from multivi_nf.training.progress import Reporter
from multivi_nf.training.settings import settings_for

MAPPING_RATE = 5e-3
"""Learning rate of codes: few parameters, each a plain shift, in a model that is otherwise still."""

MAPPED_CELLS = 1
"""Cells that a mapped batch counts as in the reference mixture: results are still decoded under the reference."""


def map_onto(
    reference: MultiVI,
    mosaic: MuData | str | os.PathLike[str] | Source,
    *,
    max_epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
    split: pd.DataFrame | None = None,
    quiet: bool = False,
    output: str | os.PathLike[str] | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    time_limit: float | None = None,
) -> MultiVI:
    """Map the cells of a mosaic onto a trained model.

    Parameters
    ----------
    reference
        The trained model; unchanged.
    mosaic
        New cells with the reference's features, in any of its modalities.
    max_epochs, batch_size, learning_rate, seed, device, precision, split, quiet
        As :func:`multivi_nf.training.train`.
    output, checkpoint_dir, resume, time_limit
        As there.

    Returns
    -------
    A model that knows the reference's batches and the new ones.
    """
    reporter = Reporter(quiet=quiet or os.environ.get("RANK", "0") != "0")
    place, keep = choose_device(device, reporter.say), Keeping(output, checkpoint_dir, INTERVAL, resume, time_limit)
    source = MosaicData(mosaic, reference).source
    model, rows = extended(reference, source)
    data = MosaicData(source, model)
    data.labels = None  # the reference's space stays; labels of new cells do not pull at their batches' codes
    roles = chosen_roles(source, split, seed)
    settings = settings_for(
        int((roles == "train").sum()),
        kl_warmup=0,
        max_epochs=max_epochs,
        batch_size=batch_size,
        learning_rate=MAPPING_RATE if learning_rate is None else learning_rate,
        seed=seed,
        precision=precision,
    )
    settings = dataclasses.replace(settings, patience=settings.max_epochs)
    new = sorted(set(model.config.batches) - set(reference.config.batches))
    for name, values in data.unknown_categories.items():
        reporter.say(
            f"WARNING: {name} has values that the reference never saw, mapped as unknown: {', '.join(values[:5])}"
        )
    if not rows:
        reporter.say("all batches of these cells are known to the reference: nothing is learnt")
        model.history, model.split = reference.history, reference.split
        model.training_settings = reference.training_settings
        if keep.output is not None:
            model.save(keep.output)
        return model
    reporter.say(f"mapping onto the reference: codes are learnt for {len(new)} new batches ({', '.join(new[:5])})")
    parameters = dict(model.named_parameters())
    before = {name: parameter.requires_grad for name, parameter in parameters.items()}
    hooks = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in rows)
    turn = _Turn(settings.max_epochs)
    for name in rows:
        hooks.append(parameters[name].register_hook(turn.hook(name, rows[name].to(place))))
    try:
        Training(model, data, roles, settings, place, reporter, keep, set(rows), turn.begin).run()
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])
    return model


class _Turn:
    """Whose turn it is to learn: the decoders' codes in the first half of the epochs, the encoders' in the second.

    Learnt together they have a freedom that the likelihood does not see: the encoder's code can shift all of a batch
    and the decoder's take the shift back. While the encoders stand still, cells keep the place that the reference
    gives them and the decoders learn the batch's effect; then the encoders learn to look through it.
    """

    def __init__(self, max_epochs: int) -> None:
        self.decoders_until = max_epochs // 2
        self.epoch = 0

    def begin(self, epoch: int) -> None:
        """Told by the loop at the start of each epoch, also of one that goes on from a checkpoint."""
        self.epoch = epoch

    def hook(self, name: str, rows: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """A hook that leaves gradients in the marked rows only, and none when it is the others' turn."""
        encoder = name.startswith("encoders.")

        def hook(gradient: torch.Tensor) -> torch.Tensor:
            if encoder == (self.epoch < self.decoders_until):
                return torch.zeros_like(gradient)
            shaped = rows.view(-1, *[1] * (gradient.dim() - 1))
            return torch.where(shaped, gradient, torch.zeros_like(gradient))

        return hook


def extended(reference: MultiVI, source: Source) -> tuple[MultiVI, dict[str, torch.Tensor]]:
    """The reference with rows for new batches.

    A new row of an encoder starts at the code of unknown batches, of a decoder at the average of the reference's.

    Returns
    -------
    The model, and for each parameter with new rows a mask of them.
    """
    old = reference.config
    config = _extended_config(old, source)
    model = MultiVI(config, reference.features)
    state, start = reference.state_dict(), model.state_dict()
    fresh: dict[str, torch.Tensor] = {}
    tables = model.batch_tables()
    for name in start:
        if state[name].shape == start[name].shape:
            start[name] = state[name].clone()
        else:
            start[name] = _with_rows(state[name], start[name], old.batch_cells[tables[name]])
    for name, modality in tables.items():
        mask = torch.zeros(start[name].shape[0], dtype=torch.bool)
        before = (*old.batch_cells[modality], *[0] * (len(config.batches) - len(old.batches)))
        mask[: len(config.batches)] = torch.tensor(
            [now > 0 and was == 0 for now, was in zip(config.batch_cells[modality], before)]
        )
        if mask.any():
            fresh[name] = mask
    model.load_state_dict(start)
    if "protein" in source.matrices:
        _background(model, source, fresh)
    model.eval()
    return model, fresh


def _extended_config(old: ModelConfig, source: Source) -> ModelConfig:
    names = source.batch
    new = tuple(sorted(set(names) - set(old.batches)))
    batches = old.batches + new
    cells = {}
    for modality, counts in old.batch_cells.items():
        present = set(names[source.has(modality)])
        padded = (*counts, *[0] * len(new))
        cells[modality] = tuple(
            n if n else (MAPPED_CELLS if batch in present else 0) for n, batch in zip(padded, batches)
        )
    panel = None
    added = panel_of(source, new)
    if "protein" in old.n_features and (old.panel is not None or added is not None):
        everything = (True,) * old.n_features["protein"]
        before = old.panel if old.panel is not None else (everything,) * len(old.batches)
        panel = (*before, *(added if added is not None else (everything,) * len(new)))
    return dataclasses.replace(old, batches=batches, batch_cells=cells, panel=panel, adversary="none")


def _with_rows(old: torch.Tensor, new: torch.Tensor, batch_cells: tuple[int, ...]) -> torch.Tensor:
    """A table with rows for new batches between the known ones and, where there is one, the unknown one."""
    n = len(batch_cells)
    out = torch.empty_like(new)
    out[:n] = old[:n]
    if old.shape[0] > n:
        out[n:] = old[-1]
        return out
    cells = torch.tensor(batch_cells, dtype=old.dtype)
    trained = cells.nonzero().squeeze(1)
    out[n:] = (cells[trained] / cells.sum()) @ old[trained]
    return out


def _background(model: MultiVI, source: Source, fresh: dict[str, torch.Tensor]) -> None:
    """Start the protein background of new batches at their empirical one."""
    parameters = dict(model.named_parameters())
    mean, sd = protein_background(source, model.config.batches)
    with torch.no_grad():
        for ending, value in (("background_mean.rows", mean), ("background_log_sd.rows", np.log(sd))):
            for name, mask in fresh.items():
                if name.endswith(ending):
                    parameters[name][mask] = torch.from_numpy(value).to(parameters[name])[mask]
