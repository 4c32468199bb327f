"""MultiVI with names: built from a mosaic, saved to a folder, loaded and checked by name."""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mudata import MuData
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from multivi_nf import __version__, model
from multivi_nf.data.source import Source, digest, source_of
from multivi_nf.errors import Damaged, InputError, option
from multivi_nf.io.files import written_whole
from multivi_nf.io.limits import LARGEST_JSON, read_bytes
from multivi_nf.io.outputs import MODEL, check_folder
from multivi_nf.io.records import as_json, from_json, left_out
from multivi_nf.io.seals import SEAL, file_digest, is_intact, sealed
from multivi_nf.io.tables import write_table
from multivi_nf.model import ModelConfig
from multivi_nf.training.describe import config_of
from multivi_nf.training.history import History
from multivi_nf.training.initialise import initialise
from multivi_nf.training.split import ROLES

SCHEMA = 1
"""Version of the model folder's layout."""

TABLES = ("features.tsv", "split.tsv")
"""Files whose digests config.json holds."""


@dataclass
class Content:
    """config.json, but for its seal; earlier versions knew neither digests nor, before them, settings."""

    schema: int
    model: dict[str, object]
    features: str
    multivi_nf: str = left_out("")
    training: dict[str, object] | None = left_out()
    weights: str | None = left_out()
    files: dict[str, str] | None = left_out()
    best_epoch: int | None = left_out()
    stopped: str | None = left_out()


class MultiVI(model.MultiVI):
    """A :class:`multivi_nf.model.MultiVI` that knows the names of its features.

    Attributes
    ----------
    features
        Columns modality, feature, symbol; the order of inputs and outputs.
    history
        The training, None before it.
    split
        Columns cell, split (train, validation, calibration); None before training.
    training_settings
        How it was trained; empty before.

    Examples
    --------
    >>> import multivi_nf as mv
    >>> from multivi_nf.simulate import Options, simulated_mosaic
    >>> cells, _ = simulated_mosaic(Options(cells=100, genes=50, peaks=100, proteins=4))
    >>> mosaic = mv.read_mosaic(cells)
    >>> model = mv.MultiVI.from_mosaic(mosaic, n_latent=5, n_hidden=16)
    >>> model.modalities
    ('rna', 'atac', 'protein')
    >>> model.features["modality"].value_counts().to_dict()
    {'atac': 100, 'rna': 50, 'protein': 2}

    A saved folder is what `--reference` and every step of the command line take.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(f"{folder}/model")
    ...     again = mv.MultiVI.load(f"{folder}/model")
    >>> again.config == model.config
    True
    """

    def __init__(self, config: ModelConfig, features: pd.DataFrame) -> None:
        super().__init__(config)
        self.features = features.reset_index(drop=True)
        self.history: History | None = None
        self.split: pd.DataFrame | None = None
        self.training_settings: dict[str, object] = {}

    def __repr__(self) -> str:
        config = self.config
        sizes = ", ".join(f"{n:,} {modality}" for modality, n in config.n_features.items())
        trained = f"trained, {self.history!r}" if self.history is not None else "not trained"
        weights = sum(parameter.numel() for parameter in self.parameters())
        return (
            f"MultiVI({sizes} features; {len(config.batches):,} batches)\n"
            f"  latent {config.n_latent}, hidden {config.n_layers} x {config.n_hidden}, {weights:,} weights\n"
            f"  {trained}"
        )

    @classmethod
    def from_mosaic(
        cls, mosaic: MuData | str | os.PathLike[str] | Source, *, seed: int = 0, **architecture: Any
    ) -> MultiVI:
        """Build an untrained model for a mosaic.

        Parameters
        ----------
        mosaic
            MuData or path of an h5mu.
        seed
            Of the random initial weights.
        **architecture
            `n_latent`, `n_hidden`, `fusion` and all other options of :class:`~multivi_nf.model.ModelConfig`;
            `categorical_covariates` and `continuous_covariates` name columns of `obs`. Encoders of RNA and ATAC start
            at the data's leading directions, decoder biases at the features' means, the protein background at each
            batch's empirical one. With `atac_likelihood="poisson"` fragments are read, see
            :func:`~multivi_nf.data.source.source_of`.
        """
        source = source_of(mosaic, atac_counts=architecture.get("atac_likelihood") == "poisson")
        config = config_of(source, **architecture)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            built = cls(config, source.features())
        initialise(built, source, seed)
        return built

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json`, `weights.safetensors`, `features.tsv` and, once trained, `history.tsv`, `split.tsv`.

        `config.json` holds digests of the weights, the features, the split and itself, so that a folder whose parts
        were exchanged or changed is refused when it is read.

        Raises
        ------
        InputError
            The folder exists and holds anything but a model; a weight is not finite.
        """
        check_folder(Path(folder), MODEL)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        _check_finite(weights, "the model in memory")
        content = Content(
            schema=SCHEMA,
            multivi_nf=__version__,
            model=as_json(self.config),
            features=_features_digest(self.features),
            training=self.training_settings,
            weights=weights_digest(self),
        )
        if self.history is not None:
            content.best_epoch, content.stopped = self.history.best_epoch, self.history.stopped
        with written_whole(folder) as temporary:
            temporary.mkdir()
            # not save_file, which makes files that only their owner reads
            (temporary / "weights.safetensors").write_bytes(save(weights))
            write_table(self.features, temporary / "features.tsv", gaps="", digits=None)
            if self.history is not None:
                self.history.write(temporary / "history.tsv")
            if self.split is not None:
                write_table(self.split, temporary / "split.tsv", gaps="", digits=None)
            # not of history.tsv: its seconds are no result
            content.files = {name: file_digest(temporary / name) for name in TABLES if (temporary / name).is_file()}
            text = json.dumps(sealed(as_json(content)), indent=1, sort_keys=True)
            (temporary / "config.json").write_text(text + "\n")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> MultiVI:
        """Read a model folder.

        A folder without digests, as earlier versions wrote it, is read with a warning that says so.

        Raises
        ------
        InputError
            If a file is missing, damaged or not the one that the model was saved with, a weight is not finite, the
            layout is newer than this version, or the parts do not fit.
        """
        folder = Path(folder)
        content = _read_config(folder)
        config = _model_config(folder, content)
        features = _read_features(folder, config)
        if _features_digest(features) != content.features:
            raise InputError(
                f"the names in {folder / 'features.tsv'} are not those that the model was saved with",
                "weights belong to features by position; under other names every result would be wrong",
                "restore features.tsv, or train the model again",
            )
        _check_files(folder, content)
        weights = _read_weights(folder, config)
        loaded = cls(config, features)
        have = loaded.state_dict()
        wrong = [name for name in have if name not in weights or weights[name].shape != have[name].shape]
        wrong += [name for name in weights if name not in have or weights[name].dtype != have[name].dtype]
        if wrong:
            raise _damaged(folder / "weights.safetensors", f"{len(wrong)} tensors do not fit, first {wrong[0]!r}")
        loaded.load_state_dict(weights)
        if content.weights is not None and content.weights != weights_digest(loaded):
            raise _damaged(folder / "weights.safetensors", "it is not the one that config.json was written with")
        loaded.training_settings = content.training or {}
        loaded.history = _read_history(folder, content)
        loaded.split = _read_split(folder)
        loaded.eval()
        return loaded


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of the names, types, shapes and bytes of all weights: what calibration and support belong to."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        total.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        total.update(values.reshape(-1).view(torch.uint8).numpy().data if values.numel() else b"")
    return total.hexdigest()


def _features_digest(features: pd.DataFrame) -> str:
    """Ties the weights to the names and their order."""
    return digest(features["modality"].to_numpy(dtype=object), features["feature"].to_numpy(dtype=object))


def _present(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise InputError(
            f"{folder} has no file {name}",
            "a model folder holds config.json, weights.safetensors and features.tsv",
            "give the folder that `multivi-nf train --output` wrote",
        )
    return folder / name


def _damaged(path: Path, how: str) -> InputError:
    return Damaged(
        path,
        f"is damaged: {how}",
        "a model read in part, or put together from several, gives wrong values without a sign",
        "copy the model folder again, or train the model again",
    )


def _read_config(folder: Path) -> Content:
    path = _present(folder, "config.json")
    try:
        content = json.loads(read_bytes(path, longest_line=None, most_bytes=LARGEST_JSON))
        schema = int(content["schema"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__} {error}") from error
    if schema != SCHEMA:
        raise InputError(
            f"{path} has layout version {schema}; this version of multivi-nf ({__version__}) reads version {SCHEMA}",
            "the meaning of its entries may differ",
            f"use multivi-nf {content.get('multivi_nf', 'of the version that wrote it')}, or train the model again",
        )
    intact = is_intact(content)
    if intact is False:
        raise _damaged(path, "its entries are not those that it was written with")
    if intact is None:
        warnings.warn(
            f"{folder} was written by an earlier version, without digests: whether its files belong together is not "
            "verified",
            stacklevel=3,
        )
    try:
        return from_json(Content, {name: value for name, value in content.items() if name != SEAL}, "it")
    except InputError as error:
        raise _damaged(path, error.what) from error


def _model_config(folder: Path, content: Content) -> ModelConfig:
    path = folder / "config.json"
    try:
        return from_json(ModelConfig, content.model, "the model")
    except InputError as error:
        raise Damaged(path, f": {error.what}", error.why, error.remedy) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise _damaged(path, f"the model's entries cannot be used ({error})") from error


def _check_files(folder: Path, content: Content) -> None:
    """Compare the tables with the digests in config.json."""
    for name in TABLES if content.files is not None else ():
        known, present = (content.files or {}).get(name), (folder / name).is_file()
        if known is not None and not present:
            raise _damaged(folder / name, "it is missing")
        if present and known != file_digest(folder / name):
            raise _damaged(folder / name, "it is not the one that config.json was written with")


def _read_weights(folder: Path, config: ModelConfig) -> dict[str, torch.Tensor]:
    path = _present(folder, "weights.safetensors")
    # every first and last layer has a weight for each feature and hidden unit: a larger model was not written here
    hidden, size = config.n_hidden, path.stat().st_size
    least = hidden * (2 * sum(config.n_features.values()) + config.n_latent + (config.n_layers - 1) * hidden)
    if 4 * least > size:
        raise _damaged(path, f"its {size} bytes cannot hold a model of the size that config.json describes")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, str(error)) from error
    _check_finite(weights, str(path))
    return weights


def _check_finite(weights: dict[str, torch.Tensor], where: str) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = tensor[~torch.isfinite(tensor)]
            raise InputError(
                f"{where}: {bad.numel()} value(s) of the tensor {name!r} are {bad.flatten()[0].item()}",
                "every value made with them would be without meaning",
                "copy the model folder again, or train the model again (perhaps with a lower "
                f"{option('learning_rate')})",
            )


def _table(path: Path, columns: tuple[str, ...], *, text: bool = True) -> pd.DataFrame:
    """Read a table of the folder that must have some columns."""
    try:
        table = pd.read_csv(
            io.BytesIO(read_bytes(path)), sep="\t", dtype=str if text else None, keep_default_na=not text
        )
    except (OSError, ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors
        raise _damaged(
            path, str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        ) from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise _damaged(path, f"column {missing[0]!r} is missing")
    return table


def _read_features(folder: Path, config: ModelConfig) -> pd.DataFrame:
    path = _present(folder, "features.tsv")
    features = _table(path, ("modality", "feature", "symbol"))
    for modality, n in config.n_features.items():
        named = features.loc[features["modality"] == modality, "feature"]
        if len(named) != n:
            raise _damaged(path, f"{len(named)} {modality} features are listed, the model has {n}")
        if (named == "").any() or named.duplicated().any():
            raise _damaged(path, f"a {modality} feature has no name, or the name of another")
    return features


def _read_history(folder: Path, content: Content) -> History | None:
    path = folder / "history.tsv"
    if not path.is_file():
        return None
    table = _table(path, ("epoch", "train_loss", "validation_loss"), text=False)
    best = content.best_epoch or 0
    if best < 0:
        raise _damaged(folder / "config.json", f"best_epoch is {best!r}")
    text = [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    if text:
        raise _damaged(path, f"column {text[0]!r} does not hold numbers")
    rows = table.drop(columns="best", errors="ignore").to_dict("records")
    return History(rows, best, content.stopped or "")


def _read_split(folder: Path) -> pd.DataFrame | None:
    path = folder / "split.tsv"
    if not path.is_file():
        return None
    split = _table(path, ("cell", "split"))
    unknown = sorted(set(split["split"]) - set(ROLES))
    if unknown or split["cell"].duplicated().any() or not len(split):
        how = f"it holds {unknown[0]!r}" if unknown else "a cell is named twice" if len(split) else "it names no cell"
        raise _damaged(path, how)
    return split


def load_model(folder: Path, device: str = "auto") -> MultiVI:
    """Read a trained model and put it on `device` ("auto": cuda where there is one)."""
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no trained model (no config.json)",
            "latent space, imputation and differential analysis are read from a trained model",
            "give the folder that `multivi-nf train --output` wrote",
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"{option('device', 'cuda')} was asked for, but no CUDA device can be used here",
            "the step would run on the CPU without saying so",
            f"use {option('device', 'auto')} or cpu, or run where a GPU is visible",
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return MultiVI.load(folder).to(device).eval()
