"""calibration.json, support and rates belong together and to one set of weights, and hold what a fit can give."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from multivi_nf.calibration.entries import Direction
from multivi_nf.calibration.paired_share import PairedShare
from multivi_nf.calibration.stored import Calibration
from multivi_nf.calibration.support import Reference, Support, View
from multivi_nf.errors import InputError
from multivi_nf.io.records import from_json
from multivi_nf.io.seals import sealed
from multivi_nf.testing.models import make_model
from multivi_nf.training.model_folder import weights_digest

RNG = np.random.default_rng(0)


def made(weights: str = "w", level: float = 0.5) -> Calibration:
    """A calibration with every part."""
    levels = {"nominal": [0.0, level, 1.0], "used": [0.0, 0.6, 1.0]}
    curve = {"log_mean": [0.0, 1.0], "sd": [0.1, 0.2]}
    entry = {"calibrated": True, "temperature": 2.0, "dispersion_factor": 0.5, "levels": levels, "mean_sd": curve}
    entry |= {"effect_sd": curve, "shrinkage": 0.25}
    array = RNG.normal(size=(20, 3))
    reference = Reference(array, array, np.arange(5.0), np.arange(5.0), {"b": np.zeros(3)})
    return Calibration(
        calibrated=True,
        n_pairs=120,
        batches=["b"],
        directions={"rna->atac": from_json(Direction, entry, "made"), "atac->rna": Direction(False, 3)},
        atac_depth=0.5,
        weights=weights,
        support=Support({"rna": View("rna", array, np.ones(20))}, {"rna->atac": reference}),
        rates={"atac": np.linspace(0, 1, 14).reshape(2, 7)},
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    made().save(tmp_path)
    return tmp_path


def change(folder: Path, edit: Callable[[dict], object], seal: bool = True) -> None:
    path = folder / "calibration.json"
    content = json.loads(path.read_text())
    content.pop("digest")
    edit(content)
    path.write_text(json.dumps(sealed(content) if seal else content))


def entry(content: dict) -> dict:
    return content["directions"]["rna->atac"]


def test_it_comes_back_as_it_was(folder):
    found, given = Calibration.load(folder), made()
    assert (found.directions, found.weights, found.n_pairs) == (given.directions, "w", 120)
    assert set(found.support.references) == {"rna->atac"}
    np.testing.assert_allclose(found.rates["atac"], given.rates["atac"], rtol=1e-6)


def test_of_other_weights_it_is_refused(tmp_path, mosaic):
    one, other = make_model(mosaic), make_model(mosaic)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1
    made(weights_digest(one)).save(tmp_path)
    Calibration.load(tmp_path, one)
    with pytest.raises(InputError, match=r"calibration.json was measured on another model"):
        Calibration.load(tmp_path, other)


@pytest.mark.parametrize("name", ["support.safetensors", "rates.safetensors"])
def test_a_part_that_is_missing_or_of_another_calibration_is_refused(folder, tmp_path_factory, name):
    other = tmp_path_factory.mktemp("other")
    again = made()
    again.rates["atac"] /= 2
    again.support.references["rna->atac"].paired = RNG.normal(size=(20, 3))
    again.save(other)
    shutil.copy(other / name, folder / name)
    with pytest.raises(InputError, match=f"{name} cannot be used: it is not the one"):
        Calibration.load(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name} cannot be used: it is missing"):
        Calibration.load(folder)


def test_a_kill_between_two_files_leaves_no_mixture(folder, monkeypatch):
    """calibration.json comes last: what is there before it is that of the former calibration."""
    from multivi_nf.calibration import stored

    again = made("other weights")
    again.rates["atac"] /= 2
    whole = stored.written_whole

    def killed(path):
        if Path(path).name == "calibration.json":
            raise KeyboardInterrupt
        return whole(path)

    monkeypatch.setattr(stored, "written_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        again.save(folder)
    with pytest.raises(InputError, match="rates.safetensors cannot be used: it is not the one"):
        Calibration.load(folder)


def test_without_support_no_cell_passes_for_supported(folder):
    """Also where an earlier version wrote the folder, without digests."""
    change(folder, lambda c: [c.pop("files"), c.pop("weights")], seal=False)
    Calibration.load(folder)
    (folder / "support.safetensors").unlink()
    with pytest.raises(InputError, match=r"support.safetensors cannot be used: it is missing"):
        Calibration.load(folder)


def test_arrays_without_their_calibration_are_refused(folder):
    (folder / "calibration.json").unlink()
    with pytest.raises(InputError, match="there is no calibration.json beside it"):
        Calibration.load(folder)


def test_an_empty_folder_is_not_calibrated(tmp_path):
    assert not Calibration.load(tmp_path).calibrated


def test_of_an_earlier_version_it_is_said_to_be_unverified(folder, mosaic):
    change(folder, lambda c: [c.pop("files"), c.pop("weights")], seal=False)
    with pytest.warns(UserWarning, match="whether it belongs to this model is not verified"):
        Calibration.load(folder, make_model(mosaic))


IMPOSSIBLE = {
    "temperature text": lambda c: entry(c).update(temperature="x"),
    "temperature negative": lambda c: entry(c).update(temperature=-1),
    "temperature zero": lambda c: entry(c).update(temperature=0),
    "temperature nan": lambda c: entry(c).update(temperature=float("nan")),
    "temperature infinite": lambda c: entry(c).update(temperature=float("inf")),
    "temperature true": lambda c: entry(c).update(temperature=True),
    "temperature missing": lambda c: entry(c).pop("temperature"),
    "factor nan": lambda c: entry(c).update(dispersion_factor=float("nan")),
    "share above one": lambda c: entry(c).update(shrinkage=1.5),
    "levels fall": lambda c: entry(c)["levels"].update(used=[0.0, 1.0, 0.5]),
    "levels short": lambda c: entry(c)["levels"].update(used=[0.0]),
    "levels beyond": lambda c: entry(c)["levels"].update(used=[0.0, 0.5, 1.5]),
    "error negative": lambda c: entry(c)["mean_sd"].update(sd=[0.1, -0.2]),
    "errors few": lambda c: entry(c)["effect_sd"].update(sd=[0.1]),
    "an entry of another version": lambda c: entry(c).update(conformal={"edges": [1.0], "widths": [0.0, 2.0]}),
    "entry a list": lambda c: c["directions"].update({"rna->atac": []}),
    "directions a list": lambda c: c.update(directions=[]),
    "depth zero": lambda c: c.update(atac_depth=0),
    "pairs text": lambda c: c.update(n_pairs="many"),
    "calibrated, and nothing is": lambda c: entry(c).update(calibrated=False),
    "notes missing": lambda c: c.pop("notes"),
    "everything missing": lambda c: c.clear(),
    "weights a number": lambda c: c.update(weights=5),
    "another file": lambda c: c["files"].update({"../x": "0"}),
}


@pytest.mark.parametrize("seal", [True, False])
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_no_fit_gives_is_refused(folder, name, seal):
    change(folder, IMPOSSIBLE[name], seal)
    with pytest.raises(InputError, match="calibration.json cannot be used"):
        Calibration.load(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", "null", "5", '"x"', "\x00\x01"])
def test_what_is_no_calibration_is_refused(folder, text):
    (folder / "calibration.json").write_text(text)
    with pytest.raises(InputError, match="calibration.json cannot be used"):
        Calibration.load(folder)


def test_a_changed_number_is_noticed(folder):
    text = (folder / "calibration.json").read_text()
    (folder / "calibration.json").write_text(text.replace('"temperature": 2.0', '"temperature": 3.0'))
    with pytest.raises(InputError, match="not as they were written"):
        Calibration.load(folder)


def test_what_a_fit_gives_is_possible(folder):
    change(folder, lambda c: [entry(c).pop("shrinkage"), entry(c).update(slope_after=float("nan"))])
    (folder / "rates.safetensors").unlink()
    change(folder, lambda c: c["files"].update({"rates.safetensors": None}))
    found = Calibration.load(folder).directions["rna->atac"]
    assert found.shrinkage is None and np.isnan(found.slope_after), "a score that is only drawn"


@pytest.mark.parametrize("content", [b"123", b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_cut_support_is_refused(folder, content):
    change(folder, lambda c: c["files"].clear())
    (folder / "support.safetensors").write_bytes(content)
    if content.endswith(b"      "):
        assert not Calibration.load(folder).support.references
        return
    with pytest.raises(InputError, match="support.safetensors cannot be used"):
        Calibration.load(folder)


@pytest.mark.parametrize("name", ["paired", "held"])
def test_neighbours_that_are_not_complete_are_refused(folder, name):
    support = made().support
    share = PairedShare(RNG.normal(size=(20, 3)), np.ones(20), np.linspace(0, 1, 4))
    setattr(share, name, np.zeros(0))
    support.references["rna->atac"].share = share
    support.save(folder / "support.safetensors")
    change(folder, lambda c: c["files"].clear())
    with pytest.raises(InputError, match="the neighbours of 'rna->atac' are not complete"):
        Calibration.load(folder)
