from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from multivi_nf import __version__
from multivi_nf.errors import InputError
from multivi_nf.io.seals import sealed
from multivi_nf.latent.embed import embed
from multivi_nf.testing.mosaics import patterned_mosaic
from multivi_nf.training import MultiVI, map_onto, train

EARLIER = Path(__file__).parents[2] / "data" / "model_0.1.0"
"""Written by multivi-nf 0.1.0dev, before there were digests: `patterned_mosaic(60, 12, 16, 3)`, two epochs."""


@pytest.fixture
def folder(mosaic, tmp_path) -> Path:
    model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3)
    train(model, mosaic, max_epochs=2, batch_size=32, device="cpu", quiet=True)
    model.save(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_folder_holds_what_the_interface_says_and_nothing_pickled(folder, mosaic):
    names = {"config.json", "weights.safetensors", "features.tsv", "history.tsv", "split.tsv"}
    assert {p.name for p in folder.iterdir()} == names
    features = pd.read_csv(folder / "features.tsv", sep="\t")
    assert list(features.columns) == ["modality", "feature", "symbol"]
    assert list(features["feature"]) == [*mosaic.mod["rna"].var_names, *mosaic.mod["atac"].var_names]
    split = pd.read_csv(folder / "split.tsv", sep="\t")
    assert list(split["cell"]) == list(mosaic.obs_names)
    assert set(split["split"]) == {"train", "validation", "calibration"}
    modes = {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()}
    assert len(modes) == 1, "all files can be read by whom one of them can"


def test_loading_gives_the_model_back(folder):
    a, b = MultiVI.load(folder), MultiVI.load(folder)
    assert a.config == b.config and not a.training
    assert a.history.best_epoch >= 1 and len(a.history) == 2
    for (name, one), two in zip(a.state_dict().items(), b.state_dict().values()):
        assert torch.equal(one, two), name


def test_saving_again_gives_the_same_bytes(folder, tmp_path):
    MultiVI.load(folder).save(tmp_path / "again")
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_weights_of_the_same_seed_do_not_depend_on_the_callers_generator(mosaic):
    torch.manual_seed(1)
    a = MultiVI.from_mosaic(mosaic, n_hidden=8)
    torch.manual_seed(2)
    b = MultiVI.from_mosaic(mosaic, n_hidden=8)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_decoders_start_at_the_data(mosaic):
    model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3)
    model.eval()
    h = model.hidden("rna", torch.zeros(1, 3), torch.tensor([0]))
    profile = model.tile("rna", h, 0, 30, torch.tensor([0]))["logits"].softmax(1)[0].detach().numpy()
    mean = mosaic.mod["rna"].X.toarray().mean(0)
    bias = model.state_dict()[next(n for n in model.state_dict() if n.endswith("rna.output.bias"))]
    np.testing.assert_allclose(bias.exp() / bias.exp().sum(), mean / mean.sum(), atol=1e-3)
    assert np.corrcoef(profile, mean)[0, 1] > 0.6


def test_shuffled_feature_names_are_refused(folder):
    features = pd.read_csv(folder / "features.tsv", sep="\t")
    features.iloc[:30] = features.iloc[:30].sample(frac=1, random_state=0).to_numpy()
    features.to_csv(folder / "features.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match="not those that the model was saved with"):
        MultiVI.load(folder)


def test_what_cannot_be_read_is_refused_by_name(folder):
    content = json.loads((folder / "config.json").read_text())
    content.pop("digest")
    for change, message in (
        ({"schema": 7}, "layout version 7"),
        ({"model": {**content["model"], "sparkle": 1}}, "sparkle"),
        ({"model": {**content["model"], "n_hidden": 9}}, "do not fit"),
    ):
        (folder / "config.json").write_text(json.dumps(sealed(content | change)))
        with pytest.raises(InputError, match=message):
            MultiVI.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        MultiVI.load(folder)
    (folder / "config.json").write_text(json.dumps(sealed(content)))
    (folder / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:-8])
    with pytest.raises(InputError, match="weights.safetensors is damaged"):
        MultiVI.load(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(InputError, match="no file weights.safetensors"):
        MultiVI.load(folder)


def test_a_missing_mosaic_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.h5mu does not exist"):
        MultiVI.from_mosaic(tmp_path / "nowhere.h5mu")


def test_a_folder_of_an_earlier_version_is_read_and_mapped_onto():
    with pytest.warns(UserWarning, match="was written by an earlier version, without digests"):
        model = MultiVI.load(EARLIER)
    mosaic = patterned_mosaic(60, 12, 16, 3)
    before = embed(model, mosaic).mean
    np.testing.assert_allclose(before[0], [-0.3323366, -0.12516749, -0.16086015], rtol=1e-4)  # what that version gave
    new = patterned_mosaic(60, 12, 16, 3, seed=1)
    new.obs["batch"] = "new " + new.obs["batch"].astype(str)
    mapped = map_onto(model, new, max_epochs=2, device="cpu", quiet=True)
    assert set(mapped.config.batches) - set(model.config.batches) == {f"new s{i}" for i in range(4)}
    np.testing.assert_array_equal(embed(mapped, mosaic).mean, before)


def test_a_folder_of_another_layout_is_refused_with_both_versions(tmp_path):
    shutil.copytree(EARLIER, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 2}))
    with pytest.raises(InputError, match=f"layout version 2; this version .*{__version__}.* reads version 1"):
        MultiVI.load(tmp_path / "model")
