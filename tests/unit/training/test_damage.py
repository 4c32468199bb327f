"""A model folder is one thing: what does not belong together, or can be no model, is refused with its file's name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from multivi_nf.errors import InputError
from multivi_nf.io.seals import sealed
from multivi_nf.testing.mosaics import clustered_mosaic
from multivi_nf.training import MultiVI, train
from multivi_nf.training.model_folder import weights_digest


@pytest.fixture(scope="module")
def trained(tmp_path_factory, request) -> Path:
    mosaic = clustered_mosaic()
    model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3)
    train(model, mosaic, max_epochs=1, batch_size=32, device="cpu", quiet=True)
    folder = tmp_path_factory.mktemp("trained") / "model"
    model.save(folder)
    return folder


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    import shutil

    return Path(shutil.copytree(trained, tmp_path / "model"))


def config(folder: Path, change: Callable[[dict], object], seal: bool = True) -> None:
    content = json.loads((folder / "config.json").read_text())
    content.pop("digest")
    change(content)
    (folder / "config.json").write_text(json.dumps(sealed(content) if seal else content))


def unverified(folder: Path) -> None:
    """As an earlier version wrote it: without digests."""
    config(folder, lambda c: [c.pop(name) for name in ("weights", "files")], seal=False)


def weights(folder: Path, value: float) -> None:
    path = folder / "weights.safetensors"
    tensors = load_file(path)
    tensors["encoders.rna.bias"].view(-1)[0] = value
    save_file(tensors, path)


def table(folder: Path, name: str, change: Callable[[pd.DataFrame], object]) -> None:
    rows = pd.read_csv(folder / name, sep="\t", dtype=str, keep_default_na=False)
    change(rows)
    rows.to_csv(folder / name, sep="\t", index=False)


CHANGED = {
    "another model's weights": (lambda f: weights(f, 0.123), "weights.safetensors"),
    "a symbol": (lambda f: table(f, "features.tsv", lambda t: t.__setitem__("symbol", "X")), "features.tsv"),
    "the split": (lambda f: table(f, "split.tsv", lambda t: t.__setitem__("split", "calibration")), "split.tsv"),
    "no split": (lambda f: (f / "split.tsv").unlink(), "split.tsv"),
    "the fusion": (lambda f: config(f, lambda c: c["model"].update(fusion="poe"), seal=False), "config.json"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_parts_that_were_exchanged_are_refused(folder, name):
    change, file = CHANGED[name]
    if name == "the fusion":  # the seal stays, the content changes
        content = json.loads((folder / "config.json").read_text())
        content["model"]["fusion"] = "poe"
        (folder / "config.json").write_text(json.dumps(content))
    else:
        change(folder)
    with pytest.raises(InputError, match=file):
        MultiVI.load(folder)


DAMAGED = {
    "history empty": (lambda f: (f / "history.tsv").write_text(""), "history.tsv"),
    "history binary": (lambda f: (f / "history.tsv").write_bytes(bytes(range(256)) * 3), "history.tsv"),
    "split empty": (lambda f: (f / "split.tsv").write_text(""), "split.tsv"),
    "split of nothing": (lambda f: (f / "split.tsv").write_text("cell\tsplit\n"), "split.tsv"),
    "split of another kind": (lambda f: table(f, "split.tsv", lambda t: t.__setitem__("split", "test")), "split.tsv"),
    "features empty": (lambda f: (f / "features.tsv").write_text(""), "features.tsv"),
    "features binary": (lambda f: (f / "features.tsv").write_bytes(bytes(range(256)) * 3), "features.tsv"),
    "config empty": (lambda f: (f / "config.json").write_text(""), "config.json"),
    "config {}": (lambda f: (f / "config.json").write_text("{}"), "config.json"),
    "config []": (lambda f: (f / "config.json").write_text("[]"), "config.json"),
    "latent text": (lambda f: config(f, lambda c: c["model"].update(n_latent="ten"), False), "config.json"),
    "latent none": (lambda f: config(f, lambda c: c["model"].update(n_latent=None), False), "config.json"),
    "model a list": (lambda f: config(f, lambda c: c.update(model=[]), False), "config.json"),
    "hidden huge": (lambda f: config(f, lambda c: c["model"].update(n_hidden=10**7), False), "weights.safetensors"),
    "layers huge": (lambda f: config(f, lambda c: c["model"].update(n_layers=10**7), False), "weights.safetensors"),
    "best epoch text": (lambda f: config(f, lambda c: c.update(best_epoch="x"), False), "config.json"),
    "weights empty": (lambda f: (f / "weights.safetensors").write_text(""), "weights.safetensors"),
    "weights text": (lambda f: (f / "weights.safetensors").write_text("x" * 99_999), "weights.safetensors"),
    "nan": (lambda f: weights(f, float("nan")), "encoders.rna.bias"),
    "infinite": (lambda f: weights(f, float("inf")), "encoders.rna.bias"),
}


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.filterwarnings("ignore:.*earlier version")
def test_what_can_be_no_model_is_refused_with_or_without_digests(folder, name, verified):
    if not verified:
        unverified(folder)
        content = json.loads((folder / "config.json").read_text()) | {"digest": ""}
        (folder / "config.json").write_text(json.dumps(content))
    change, file = DAMAGED[name]
    change(folder)
    if not verified and (folder / "config.json").read_text().startswith('{"'):
        content = json.loads((folder / "config.json").read_text())
        content.pop("digest", None)
        (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=file):
        MultiVI.load(folder)


def test_a_folder_of_an_earlier_version_loads_and_is_said_to_be_unverified(folder):
    whole = weights_digest(MultiVI.load(folder))
    unverified(folder)
    with pytest.warns(UserWarning, match="without digests: whether its files belong together is not verified"):
        assert weights_digest(MultiVI.load(folder)) == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):
            MultiVI.load(folder)


def test_a_model_that_is_not_finite_is_not_saved(folder, tmp_path):
    model = MultiVI.load(folder)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(InputError, match="nan"):
        model.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_saving_again_gives_the_same_bytes(folder, tmp_path):
    MultiVI.load(folder).save(tmp_path / "again")
    for name in ("config.json", "weights.safetensors", "features.tsv", "split.tsv"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name
