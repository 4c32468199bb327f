"""What stands where a result will go: looked at before the work, so that nothing is lost and no hour is wasted.

A folder is replaced only if it is empty or a result of the same step, known by its own content, with nothing else in
it. A file is replaced only by one of its own kind. Links, devices and the folder one stands in are never replaced.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multivi_nf.errors import InputError
from multivi_nf.errors import option as named
from multivi_nf.io.files import LONGEST_NAME, is_half, not_replaceable, try_to_write, written_whole

LONGEST_PATH = 4095
"""Bytes of a path (Linux)."""

_HEAD = 4096


@dataclass(frozen=True)
class Kind:
    """A folder that a step writes.

    Attributes
    ----------
    step
        The step's name, for the message.
    proof
        Whether a folder is such a result, asked of one that is not empty.
    names
        Matches the relative path of everything that such a folder may hold.
    """

    step: str
    proof: Callable[[Path], bool]
    names: re.Pattern[str]

    def foreign(self, folder: Path) -> str:
        """Relative path of the first thing in `folder` that is not of this step; empty if there is none."""
        for inside in _inside(folder):
            name = str(inside.relative_to(folder))
            if not is_half(inside.name) and not self.names.fullmatch(name):
                return name
        return ""


def check_folder(path: Path, kind: Kind | None, option: str = "") -> None:
    """Refuse a folder that cannot be written, or whose content is not this step's own.

    Parameters
    ----------
    path
        The folder to write.
    kind
        What may be replaced; None where the caller looks at the content himself.
    option
        For the message.

    Raises
    ------
    InputError
        Names the path and what is in the way.
    """
    option = option or named("output")
    _check_place(path, option, folder=True)
    if kind is None or not path.is_dir():
        return
    first = next(_inside(path), None)
    if first is None:
        return
    foreign = "" if kind.proof(path) else str(first.relative_to(path))
    foreign = foreign or kind.foreign(path)
    if foreign:
        raise InputError(
            f"{option} {path} is a folder that holds {foreign!r}, which `{kind.step}` did not write",
            "a result takes the place of the whole folder, and what is in it would be lost",
            f"give a folder that does not exist yet, for instance {option} {path / 'result'}",
        )


def check_file(path: Path, form: str = "", option: str = "") -> None:
    """Refuse a file that cannot be written, or a file of another kind that stands there.

    Parameters
    ----------
    path
        The file to write.
    form
        What is written: hdf5, json, gzip, bed, html, kept; empty: anything may be replaced.
    option
        For the message.

    Raises
    ------
    InputError
        Names the path and what is in the way.
    """
    option = option or named("output")
    _check_place(path, option, folder=False)
    if form and path.is_file() and not _has_form(path, form):
        raise InputError(
            f"{option} {path} is a file of another kind: this step writes {_FORMS[form]}",
            "the file that is there would be lost",
            f"give another name with {option}, or remove the file if it is not needed",
        )


def check_place(path: Path, kind: Kind, option: str = "") -> None:
    """Refuse a folder to write some files into where one of their names is held by what the step did not write.

    Raises
    ------
    InputError
        Names the path and what is in the way.
    """
    option = option or named("output")
    check_file(path / ".probe", "", option)
    for inside in [] if not path.is_dir() or kind.proof(path) else _named(path, kind):
        if not _listed(inside):
            raise InputError(
                f"{option} {path} holds {str(inside.relative_to(path))!r}, which `{kind.step}` did not write",
                "the step writes a file of this name, and the one that is there would be lost",
                f"give a folder of its own, for instance {option} {path / kind.step}",
            )


def _named(path: Path, kind: Kind) -> list[Path]:
    """What a folder, or one in it, holds under the names of a step's files."""
    inside = sorted([*path.glob("*"), *path.glob("*/*")])
    return [one for one in inside if kind.names.fullmatch(str(one.relative_to(path)))]


def _listed(path: Path) -> bool:
    """Whether the manifest of a run of the pipeline has a file as its own."""
    for above in list(path.absolute().parents)[:3]:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            start = f"{path.absolute().relative_to(above)}\t"
            if any(line.startswith(start) for line in (above / "manifest.tsv").read_text().splitlines()):
                return True
    return False


@contextlib.contextmanager
def marked(path: Path, kind: Kind) -> Iterator[None]:
    """Leave in a folder the mark by which :func:`check_place` knows a step's files again, if the block writes any."""
    if kind.proof(path):
        yield
        return
    made = not path.is_dir()
    path.mkdir(parents=True, exist_ok=True)
    mark = path / _mark(kind.step)
    try:
        with written_whole(mark) as temporary:
            temporary.write_text(json.dumps({"step": kind.step}) + "\n")
        yield
    finally:
        if not _named(path, kind):
            mark.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.rmdir() if made else None


def _mark(step: str) -> str:
    return f".multivi-nf.{step}.json"


def files_of(step: str, names: str) -> Kind:
    """Files that a step writes into a folder, beside what is there: its name, and what matches theirs."""
    return Kind(step, lambda folder: (folder / _mark(step)).is_file(), re.compile(names))


def check_apart(output: Path, inputs: Iterable[Path], option: str = "") -> None:
    """Refuse an output that is an input, or a folder that holds one."""
    option = option or named("output")
    for given in inputs:
        try:
            inside = given.resolve() == output.resolve() or output.resolve() in given.resolve().parents
        except (OSError, RuntimeError):
            continue
        if inside and given.exists() and output.exists():
            raise InputError(
                f"{option} {output} would take the place of the input {given}",
                "the step reads it, and it would be lost",
                f"give another name with {option}",
            )


def _check_place(path: Path, option: str, *, folder: bool) -> None:
    _check_length(path, option)
    try:
        where, here = path.resolve(), Path.cwd()
        if path.is_symlink() and where.is_symlink():  # from Python 3.13 on, a loop of links is its own end
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{option} {path} leads nowhere ({error})", "nothing can be written there", "give another path"
        ) from error
    if folder and (where == here or where in here.parents):
        raise InputError(
            f"{option} {path} is the folder that this command runs in, or holds it",
            "a result takes the place of its whole folder",
            f"name a folder below it, for instance {option} {path / 'result'}",
        )
    wrong = not_replaceable(path, folder)
    if wrong:
        raise InputError(
            f"{option} {path} is {wrong}",
            "what stands there would be lost",
            f"give another name with {option}" + _instead(path, wrong),
        )
    _check_parent(where.parent, path, option)


def _instead(path: Path, wrong: str) -> str:
    if "link" in wrong:
        return ", or the link's target itself"
    return f", for instance one below it: {path / 'result'}" if "mount" in wrong and path.is_dir() else ""


def _check_length(path: Path, option: str) -> None:
    names = [name for name in path.parts if len(os.fsencode(name)) > LONGEST_NAME]
    if names or len(os.fsencode(path.absolute())) > LONGEST_PATH:
        what = (
            f"a name of {len(os.fsencode(names[0]))} bytes ({names[0][:40]}...)" if names else "a path that is too long"
        )
        raise InputError(
            f"{option} has {what}",
            f"a name has at most {LONGEST_NAME} bytes and a path {LONGEST_PATH}",
            "give a shorter one",
        )


def _check_parent(parent: Path, path: Path, option: str) -> None:
    """Try to write into the folder that the result goes to, or the nearest one above it that is there."""
    while not os.path.lexists(parent) and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(
            f"{option} {path}: {parent} is a file, not a folder", "nothing can be written below it", "give another path"
        )
    try:
        try_to_write(parent)
    except OSError as error:
        raise InputError(
            f"{option} {path}: {parent} cannot be written ({error.strerror})",
            "the result of the whole step would be lost at its end",
            f"give a place where you may write with {option}, or change the folder's permissions",
        ) from error


def _inside(folder: Path) -> Iterator[Path]:
    """Everything below a folder but its folders; empty folders and links to folders count as files."""
    for where, folders, names in os.walk(folder):
        for name in sorted(names):
            yield Path(where) / name
        for name in sorted(folders):
            below = Path(where) / name
            if below.is_symlink() or not any(os.scandir(below)):
                yield below


_FORMS = {
    "hdf5": "HDF5 (.h5mu, .h5ad)",
    "json": "JSON",
    "gzip": "a gzipped table (.tsv.gz)",
    "bed": "a BED table",
    "tsv": "a table of tab-separated columns (.tsv)",
    "html": "the report of a run (.html)",
    "kept": "the kept fragments of `qc-fragments --kept`",
}


def _has_form(path: Path, form: str) -> bool:
    """Whether a file's first bytes are those of what a step writes; an empty one is of every kind."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head.strip():
        return True
    if form == "hdf5":
        return any(head[place : place + 8] == b"\x89HDF\r\n\x1a\n" for place in (0, 512, 1024))
    if form == "gzip":
        return head[:2] == b"\x1f\x8b"
    if form == "kept":
        return head.startswith(b"MVNFKF")
    if form == "json":
        return head.lstrip()[:1] in (b"{", b"[")
    if form == "tsv":
        return b"\t" in head.split(b"\n", 1)[0] and b"\0" not in head
    if form == "html":
        return head.lstrip()[:15].lower() == b"<!doctype html>" and b"multivi-nf" in head
    whole = head.split(b"\n")[: -1 if len(head) == _HEAD else None]
    fields = [line.split(b"\t") for line in whole if line.strip() and not line.startswith((b"#", b"track", b"browser"))]
    return all(len(row) >= 3 and row[1].isdigit() and row[2].strip().isdigit() for row in fields)


# ---------------------------------------------------------------------------------------------------------------------
# The folders that steps write
# ---------------------------------------------------------------------------------------------------------------------

NOTE = ".multivi-nf.json"
"""Manifest of a folder whose files do not say themselves what they are."""


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def note(folder: Path, step: str) -> None:
    """Write the manifest of a folder, by which its step knows it again."""
    names = sorted(str(path.relative_to(folder)) for path in _inside(folder))
    (folder / NOTE).write_text(json.dumps({"step": step, "files": names}, indent=1) + "\n")


MODEL = Kind(
    "train",
    lambda folder: {"schema", "model"} <= _json(folder / "config.json").keys(),
    re.compile(
        r"config\.json|weights\.safetensors|(features|history|split)\.tsv|calibration\.json|(support|rates)\.safetensors"
    ),
)
CALIBRATION = Kind(
    "calibrate",
    lambda folder: MODEL.proof(folder) or (folder / _mark("calibrate")).is_file(),
    re.compile(r"calibration\.json|(support|rates)\.safetensors"),
)
FRAGMENTS = Kind(
    "qc-fragments",
    lambda folder: {"cells_in", "totals"} <= _json(folder / "fragments.json").keys(),
    re.compile(r"fragments\.(tsv\.gz|json)|candidates\.txt"),
)
CHUNKS = Kind(
    "embed --chunks",
    lambda folder: _json(folder / NOTE).get("step") == "embed --chunks",
    re.compile(rf"cells_\d+\.txt|{re.escape(NOTE)}"),
)
STORE = Kind(
    "impute",
    lambda folder: (
        any((folder / name).is_file() for name in ("zarr.json", ".zgroup")) and (folder / "uns" / "multivi_nf").is_dir()
    ),
    re.compile(r"(.*/)?(zarr\.json|\.zgroup|\.zarray|\.zattrs|\.zmetadata)|.*/c(/\d+)*|.*/\d+([./]\d+)*"),
)


def _first_words(path: Path) -> list[str]:
    """Names of a table's columns; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.readline(_HEAD).decode(errors="replace").strip().split("\t")
    except OSError:
        return []


SPLITS = Kind(
    "benchmark-split",
    lambda folder: {"experiment", "split", "method", "why"} <= {*_first_words(folder / "plan.tsv")},
    re.compile(r"plan\.tsv|\d\.\w+\.[0-9a-f]{6}\.\d+/(task\.json|mosaic\.h5mu|cells\.tsv|hidden(/\w+\.txt)?)"),
)
RESULT = Kind(
    "benchmark-run",
    lambda folder: "method" in _json(folder / "run.json"),
    re.compile(r"run\.json|latent\.(npz|tsv)|imputed_\w+\.npz|imputed\.tsv\.gz|(effects|edges)\.tsv"),
)
SCORES = Kind(
    "benchmark-score",
    lambda folder: {"about", "split", "panel"} <= _json(folder / "panel.json").keys(),
    re.compile(r"scores\.tsv|panel\.json"),
)
BENCHMARK = Kind(
    "benchmark-page",
    lambda folder: {"method", "metric", "value"} <= {*_first_words(folder / "scores.tsv")},
    re.compile(r"scores\.tsv|benchmark\.html"),
)
