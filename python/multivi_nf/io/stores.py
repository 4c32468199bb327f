"""zarr stores of strangers: a store is a plain folder of plain files, and leads nowhere else."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multivi_nf.errors import Damaged, InputError
from multivi_nf.io.hdf5 import damaged, reading

if TYPE_CHECKING:
    import zarr

_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
_LARGEST_METADATA = 1 << 27
_LARGEST_CHUNK = 1 << 31
_BLOSC_HEAD = 16
_REFERENCES = ("refs", "templates", "gen")


def check_store(path: Path) -> None:
    """Refuse a zarr store that is no folder, holds links or special files, or whose metadata lead out of it.

    Raises
    ------
    InputError
        Names the store, the file in it and what is wrong with it.
    """
    path = Path(path)
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise InputError(
            f"{path} {what}; a zarr store is a folder",
            "a file that lists addresses of chunks would make this step read whatever they name",
            "give the folder of the store",
        )
    if not any((path / name).is_file() for name in _METADATA):
        raise Damaged(
            path,
            "is no zarr store (no zarr.json, no .zgroup)",
            "there is nothing to read",
            "give the folder of a store",
        )
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names):
            _check_entry(path, Path(folder) / name)
        for name in names:
            if name in _METADATA:
                _check_metadata(path, Path(folder) / name)


def open_store(path: Path) -> zarr.Group:
    """Open a store for reading, once :func:`check_store` has nothing against it."""
    import zarr

    check_store(path)
    with reading(path):
        return zarr.open_group(path, mode="r")


def _check_entry(store: Path, entry: Path) -> None:
    mode = entry.lstat().st_mode
    if stat.S_ISLNK(mode):
        raise _leads_out(store, f"{entry.relative_to(store)} is a link to {entry.readlink()}")
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise _leads_out(store, f"{entry.relative_to(store)} is neither a file nor a folder")


def _check_metadata(store: Path, file: Path) -> None:
    where = file.relative_to(store)
    if file.stat().st_size > _LARGEST_METADATA:
        raise InputError(
            f"{store}: {where} has {file.stat().st_size:,} bytes",
            "no description of a store is that long; reading it would only fill the memory",
            "write the store again",
        )
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _unread(store, f"{where} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise _unread(store, f"{where} is not a JSON object")
    if content.get("storage_transformers") or (file.name != ".zattrs" and set(_REFERENCES) & set(content)):
        raise _leads_out(store, f"{where} takes chunks from elsewhere")
    _check_chunks(store, where, content)
    _check_codecs(store, where, content)
    if _is_blosc(content):
        _check_lengths(store, file)
    for key, part in _consolidated(content).items():
        if key.startswith("/") or ".." in key.split("/") or "://" in key:
            raise _leads_out(store, f"{where} describes {key!r}")
        if isinstance(part, dict):
            if part.get("storage_transformers"):
                raise _leads_out(store, f"{where} takes chunks of {key!r} from elsewhere")
            _check_chunks(store, where, part)
            _check_codecs(store, where, part)


def _consolidated(content: dict[str, Any]) -> dict[str, Any]:
    held = content.get("consolidated_metadata")
    held = held if isinstance(held, dict) else content
    metadata = held.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _check_chunks(store: Path, where: Path, content: dict[str, Any]) -> None:
    """Refuse a chunk that is larger than anyone writes: it is allocated as soon as one value of it is asked for."""
    grid = content.get("chunk_grid")
    shape = grid.get("configuration", {}).get("chunk_shape") if isinstance(grid, dict) else content.get("chunks")
    if not isinstance(shape, list):
        return
    size = 1
    for n in shape:
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise _unread(store, f"{where} has the chunk shape {shape}", "it is none")
        size *= n
    if size > _LARGEST_CHUNK:
        raise InputError(
            f"{store}: {where} declares chunks of {shape} values",
            "reading one value would fill the memory",
            "write the store with smaller chunks",
        )


def _check_codecs(store: Path, where: Path, content: dict[str, Any]) -> None:
    """Refuse pickled values: to unpack them is to run what their writer chose, which numcodecs may be set to allow."""
    codecs = [content.get("compressor")]
    for name in ("filters", "codecs"):
        held = content.get(name)
        codecs += held if isinstance(held, list) else []
    for codec in codecs:
        named = str(codec.get("id") or codec.get("name")) if isinstance(codec, dict) else ""
        if named.rpartition(".")[2].lower() == "pickle":
            raise InputError(
                f"{store}: {where} says that values are pickled",
                "reading them would run whatever program their writer put there; nothing was read",
                "ask for a store of plain numbers and text, as anndata writes it",
            )


def _is_blosc(content: dict[str, Any]) -> bool:
    """Whether an array's chunks are as blosc packed them, by its metadata of zarr 2 or 3."""
    codecs = content.get("codecs")
    outermost = codecs[-1] if isinstance(codecs, list) and codecs else content.get("compressor")
    return isinstance(outermost, dict) and "blosc" in (outermost.get("id"), outermost.get("name"))


def _check_lengths(store: Path, metadata: Path) -> None:
    """Refuse a chunk that is not as long as its own head says: blosc would read on behind a cut one, and say nothing.

    Bytes 12 to 15 of a chunk are its length (blosc's README_CHUNK_FORMAT).
    """
    for chunk in sorted(metadata.parent.rglob("*")):
        if chunk.name in _METADATA or not chunk.is_file():
            continue
        with chunk.open("rb") as handle:
            head = handle.read(_BLOSC_HEAD)
        declared, size = int.from_bytes(head[12:16], "little"), chunk.stat().st_size
        if len(head) < _BLOSC_HEAD or declared != size:
            where = chunk.relative_to(store)
            raise damaged(store, ValueError(f"{where} has {size:,} bytes and should have {declared:,}"))


def _unread(store: Path, what: str, why: str = "the store cannot be read") -> InputError:
    return Damaged(store, f": {what}", why, "copy the store again")


def _leads_out(store: Path, what: str) -> InputError:
    return InputError(
        f"the zarr store {store} refers to something outside: {what}",
        "whoever made it could so bring any file that you can read into results that are shared; nothing was read",
        "ask for a store that holds its data itself; if it is your own, copy it with its links followed (cp -rL)",
    )
