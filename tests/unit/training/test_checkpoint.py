from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from multivi_nf.errors import InputError
from multivi_nf.training.checkpoint import store as checkpoint


def save(folder: Path, number: int) -> Path:
    tensors = {"weight.a": torch.full((3,), float(number)), "best.a": torch.zeros(2, dtype=torch.int64)}
    return checkpoint.save(folder, number, checkpoint.Checkpoint(tensors, {"epoch": number, "loss": 0.1 + 0.2}))


def test_what_is_saved_is_read_back_and_older_ones_go(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    tensors, info = checkpoint.newest(tmp_path)
    assert tensors["weight.a"].tolist() == [2, 2, 2] and tensors["best.a"].dtype == torch.int64
    assert info["loss"] == 0.1 + 0.2
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000000002"]


def test_only_safetensors_and_json_are_written(tmp_path):
    names = {p.name for p in save(tmp_path, 1).iterdir()}
    assert names == {"state.safetensors", "state.json"}


@pytest.mark.parametrize("how", ["cut", "flipped", "no json", "half json"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, how):
    good, bad = save(tmp_path / "old", 1), save(tmp_path, 2)
    good.rename(tmp_path / good.name)
    data = bad / "state.safetensors"
    content = bytearray(data.read_bytes())
    if how == "cut":
        data.write_bytes(content[:-4])
    elif how == "flipped":
        content[-1] ^= 1
        data.write_bytes(content)
    elif how == "no json":
        (bad / "state.json").unlink()
    else:
        (bad / "state.json").write_text((bad / "state.json").read_text()[:20])
    said: list[str] = []
    _, info = checkpoint.newest(tmp_path, said.append)
    assert info["epoch"] == 1 and bad.name in said[0]


def forged(path: Path, info: object, data: bytes | None = None) -> None:
    """A checkpoint of someone who knows the checksum."""
    if data is not None:
        (path / "state.safetensors").write_bytes(data)
    if isinstance(info, dict) and "checksum" not in info:
        info = {"schema": 1, "checksum": checkpoint._checksum(path / "state.safetensors"), **info}
    (path / "state.json").write_text(info if isinstance(info, str) else json.dumps(info))


@pytest.mark.parametrize(
    ("info", "data"),
    [
        ([], None),
        ("[" * 100_000, None),
        ("1" * 5000, None),
        ({"epoch": 1, "identity": []}, None),
        ({"epoch": 1, "identity": {"data": 7}}, None),
        ({"epoch": 1}, b"\xff" * 7 + b"\x7f" + b"x" * 64),
        ({"epoch": 1}, b"cos\nsystem\n(S'touch PWNED'\ntR."),
        ({"epoch": 1}, b""),
    ],
)
def test_a_forged_checkpoint_is_passed_over(tmp_path, info, data):
    good, bad = save(tmp_path / "old", 1), save(tmp_path, 2)
    good.rename(tmp_path / good.name)
    forged(bad, info, data)
    said: list[str] = []
    _, found = checkpoint.newest(tmp_path, said.append)
    assert found["epoch"] == 1 and bad.name in said[0]
    assert checkpoint.read_info(tmp_path)["epoch"] == 1


def test_half_written_checkpoints_are_swept(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".0123.step-000000000002").mkdir()
    (tmp_path / ".0123.step-000000000002" / "state.safetensors").write_text("half")
    assert checkpoint.newest(tmp_path)[1]["epoch"] == 1
    checkpoint.sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    checkpoint.remove(tmp_path)
    assert not tmp_path.exists()


def test_differences_are_named():
    mine = {"data": {"rna counts": "x"}, "model": {"n_latent": 20}, "training": {"seed": 0}}
    theirs = {"data": {"rna counts": "y"}, "model": {"n_latent": 10}, "training": {"seed": 0}}
    with pytest.raises(InputError, match="other rna counts; n_latent is 20 here and 10 in the checkpoint"):
        checkpoint.refuse_other(mine, theirs, Path("here"))
    checkpoint.refuse_other(mine, mine, Path("here"))
