"""Checkpoints: everything a run needs to go on with the same bytes, as safetensors and JSON, each written whole.

Noise, dropout and the order of cells are functions of (seed, epoch, step), see :mod:`multivi_nf.training.trainer`,
so the state of every random generator is three integers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from multivi_nf.errors import InputError, option
from multivi_nf.io.files import written_whole
from multivi_nf.io.limits import LARGEST_JSON, read_bytes

SCHEMA = 1

Identity = Mapping[str, Mapping[str, object]]
"""`{"data": ..., "model": ..., "training": ...}`: all that the weights depend on."""


class Checkpoint(NamedTuple):
    """Everything that a run needs to go on: tensors by name, and what JSON holds."""

    tensors: dict[str, torch.Tensor]
    info: dict[str, object]

    @property
    def identity(self) -> Identity:
        """Of the run that wrote it."""
        return identity_of(self.info)


def identity_of(info: Mapping[str, object]) -> Identity:
    """What a checkpoint's JSON says of its run; {} where it says nothing."""
    return cast("Identity", info.get("identity", {}))


def save(folder: Path, number: int, checkpoint: Checkpoint) -> Path:
    """Write checkpoint `number` into `folder`, then remove the older ones.

    Parameters
    ----------
    folder
        The run's checkpoint folder.
    number
        Ascending; the largest is the newest.
    checkpoint
        What to write.
    """
    final = folder / f"step-{number:012d}"
    with written_whole(final) as temporary:
        temporary.mkdir()
        data = temporary / "state.safetensors"
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in checkpoint.tensors.items()}, data)
        content = {"schema": SCHEMA, "checksum": _checksum(data), **checkpoint.info}
        (temporary / "state.json").write_text(json.dumps(content) + "\n")
        for path in (data, temporary / "state.json", temporary):
            _to_disk(path)
    _to_disk(folder)
    for path in _all(folder):
        if path.name < final.name:
            shutil.rmtree(path, ignore_errors=True)
    return final


def newest(folder: Path, say: Callable[[str], None] = print) -> Checkpoint | None:
    """Read the newest whole checkpoint; None if there is none."""
    for path in reversed(_all(folder)):
        try:
            info = _info(path)
            if info["schema"] != SCHEMA:
                msg = f"schema {info['schema']}, this version reads {SCHEMA}"
                raise ValueError(msg)
            if info["checksum"] != _checksum(path / "state.safetensors"):
                msg = "checksum differs"
                raise ValueError(msg)
            return Checkpoint(load_file(path / "state.safetensors"), info)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            say(f"checkpoint {path} cannot be used ({error}); trying an older one")
    return None


def read_info(folder: Path) -> dict[str, object] | None:
    """The JSON part of the newest checkpoint; None if there is none."""
    for path in reversed(_all(folder)):
        with contextlib.suppress(OSError, ValueError):
            return _info(path)
    return None


def _info(path: Path) -> dict[str, object]:
    """Read `state.json`; a ValueError where it is not what :func:`save` writes."""
    try:
        info = json.loads(read_bytes(path / "state.json", longest_line=None, most_bytes=LARGEST_JSON))
    except (RecursionError, InputError) as error:
        raise ValueError(str(error).splitlines()[0]) from error
    known = info.get("identity", {}) if isinstance(info, dict) else None
    if not isinstance(known, dict) or not all(isinstance(part, dict) for part in known.values()):
        msg = "state.json is not of a checkpoint"
        raise ValueError(msg)
    return info


def remove(folder: Path) -> None:
    """Remove all checkpoints of a finished run, and the folder if nothing else is in it."""
    for path in _all(folder):
        shutil.rmtree(path, ignore_errors=True)
    (folder / "history.tsv").unlink(missing_ok=True)
    sweep(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()


def sweep(folder: Path) -> None:
    """Remove half-written checkpoints that a killed owner left. Only for the owner."""
    for path in folder.glob(".*.step-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".*.history.tsv"):
        path.unlink(missing_ok=True)


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir()) if folder.is_dir() else []


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            value = zlib.crc32(block, value)
    return value


def _to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk, where the file system can tell."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def refuse_other(mine: Identity, theirs: Identity, where: Path) -> None:
    """Stop, naming every difference, if a checkpoint belongs to other data or another configuration.

    Parameters
    ----------
    mine, theirs
        `{"data": {...}, "model": {...}, "training": {...}}` of this run and of the checkpoint.
    where
        The checkpoint, for the message.

    Raises
    ------
    InputError
        With the first five differences.
    """
    found = differences(mine, theirs)
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise InputError(
            f"the checkpoint in {where} does not fit: {'; '.join(found[:5])}{more}",
            "going on from it would mix two trainings",
            f"give the data and options it was made with, or start anew without {option('resume', True)}",
        )


def differences(mine: Identity, theirs: Identity) -> list[str]:
    """Name each part of data and configuration in which two runs differ."""
    found = []
    for group in ("data", "model", "training"):
        a, b = mine.get(group, {}), theirs.get(group, {})
        for key in sorted({*a, *b}, key=lambda name: (name not in a, list(a).index(name) if name in a else 0, name)):
            if json.dumps(a.get(key), sort_keys=True) == json.dumps(b.get(key), sort_keys=True):
                continue
            if group == "data":
                found.append(f"other {key}")
            else:
                found.append(f"{key} is {_short(a.get(key))} here and {_short(b.get(key))} in the checkpoint")
    return found


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
