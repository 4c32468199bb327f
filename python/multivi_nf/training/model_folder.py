"""MultiVI with names: built from a mosaic, saved to a folder, loaded and checked by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mudata import MuData
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from multivi_nf import __version__, model
from multivi_nf.data.source import Source, digest, source_of
from multivi_nf.errors import InputError
from multivi_nf.io.files import written_whole
from multivi_nf.model import ModelConfig
from multivi_nf.training.describe import config_of
from multivi_nf.training.history import History
from multivi_nf.training.initialise import initialise

SCHEMA = 1
"""Version of the model folder's layout."""


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
    """

    def __init__(self, config: ModelConfig, features: pd.DataFrame) -> None:
        super().__init__(config)
        self.features = features.reset_index(drop=True)
        self.history: History | None = None
        self.split: pd.DataFrame | None = None
        self.training_settings: dict[str, Any] = {}

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
            batch's empirical one.
        """
        source = source_of(mosaic)
        config = config_of(source, **architecture)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            built = cls(config, source.features())
        initialise(built, source, seed)
        return built

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json`, `weights.safetensors`, `features.tsv` and, once trained, `history.tsv`, `split.tsv`."""
        content = {
            "schema": SCHEMA,
            "multivi_nf": __version__,
            "model": json.loads(self.config.to_json()),
            "features": _features_digest(self.features),
            "training": self.training_settings,
        }
        if self.history is not None:
            content["best_epoch"] = self.history.best_epoch
            content["stopped"] = self.history.stopped
        with written_whole(folder) as temporary:
            temporary.mkdir()
            (temporary / "config.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
            save_file(weights, temporary / "weights.safetensors")
            (temporary / "weights.safetensors").chmod((temporary / "config.json").stat().st_mode)
            _write_table(self.features, temporary / "features.tsv")
            if self.history is not None:
                self.history.write(temporary / "history.tsv")
            if self.split is not None:
                _write_table(self.split, temporary / "split.tsv")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> MultiVI:
        """Read a model folder.

        Raises
        ------
        InputError
            If a file is missing or damaged, the layout is newer than this version, or the parts do not fit.
        """
        folder = Path(folder)
        content = _read_config(folder)
        config = ModelConfig.from_json(json.dumps(content["model"]))
        features = _read_features(folder, config)
        if _features_digest(features) != content.get("features"):
            raise InputError(
                f"the names in {folder / 'features.tsv'} are not those that the model was saved with",
                "weights belong to features by position; under other names every result would be wrong",
                "restore features.tsv, or train the model again",
            )
        loaded = cls(config, features)
        try:
            weights = load_file(_present(folder, "weights.safetensors"))
        except (SafetensorError, OSError) as error:
            raise _damaged(folder / "weights.safetensors", str(error)) from error
        have = loaded.state_dict()
        wrong = [name for name in have if name not in weights or weights[name].shape != have[name].shape]
        wrong += [name for name in weights if name not in have]
        if wrong:
            raise _damaged(folder / "weights.safetensors", f"{len(wrong)} tensors do not fit, first {wrong[0]!r}")
        loaded.load_state_dict(weights)
        loaded.training_settings = content.get("training", {})
        if (folder / "history.tsv").is_file():
            rows = pd.read_csv(folder / "history.tsv", sep="\t").to_dict("records")
            for row in rows:
                row.pop("best", None)
            loaded.history = History(rows, int(content.get("best_epoch", 0)), content.get("stopped", ""))
        if (folder / "split.tsv").is_file():
            loaded.split = pd.read_csv(folder / "split.tsv", sep="\t", dtype=str, keep_default_na=False)
        loaded.eval()
        return loaded


def _features_digest(features: pd.DataFrame) -> str:
    """Ties the weights to the names and their order."""
    return digest(features["modality"].to_numpy(dtype=object), features["feature"].to_numpy(dtype=object))


def _write_table(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, sep="\t", index=False, lineterminator="\n")


def _present(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise InputError(
            f"{folder} has no file {name}",
            "a model folder holds config.json, weights.safetensors and features.tsv",
            "give the folder that `multivi-nf train --output` wrote",
        )
    return folder / name


def _damaged(path: Path, how: str) -> InputError:
    return InputError(
        f"{path} is damaged: {how}",
        "a model read in part gives wrong values without a sign",
        "copy the model folder again, or train the model again",
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = _present(folder, "config.json")
    try:
        content = json.loads(path.read_text())
        schema = int(content["schema"])
        content["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"{type(error).__name__} {error}") from error
    if schema != SCHEMA:
        raise InputError(
            f"{path} has layout version {schema}; this version of multivi-nf ({__version__}) reads version {SCHEMA}",
            "the meaning of its entries may differ",
            f"use multivi-nf {content.get('multivi_nf', 'of the version that wrote it')}, or train the model again",
        )
    return content


def _read_features(folder: Path, config: ModelConfig) -> pd.DataFrame:
    path = _present(folder, "features.tsv")
    features = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    missing = {"modality", "feature", "symbol"} - set(features.columns)
    if missing:
        raise _damaged(path, f"column {sorted(missing)[0]!r} is missing")
    for modality, n in config.n_features.items():
        found = int((features["modality"] == modality).sum())
        if found != n:
            raise _damaged(path, f"{found} {modality} features are listed, the model has {n}")
    return features


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
            "--device cuda was asked for, but no CUDA device can be used here",
            "the step would run on the CPU without saying so",
            "use --device auto or cpu, or run where a GPU is visible",
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return MultiVI.load(folder).to(device).eval()
