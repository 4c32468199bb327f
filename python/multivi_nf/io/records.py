"""JSON that passes between steps: each file is a dataclass of its owner, written and read by the same fields.

::

    @dataclass(frozen=True)
    class Plan:
        samples: list[str]
        peak_set: Literal["given", "called"]
        reference: str | None = left_out()  # not in the file unless it has a value
        columns: dict[str, str] = optional({})  # always in the file; missing or null when read is the default

    write_record(Plan(...), path)  # the keys are the fields, in their order
    plan = read_record(Plan, path)  # checked: unknown and missing keys, and values of another type, are refused by name

Fields are str, int, float, bool, Path, Literal, `list[...]`, `tuple[...]`, `dict[str, ...]`, another dataclass,
`... | None` of these, or `object` for what is not looked into. :func:`as_json` and :func:`from_json` do the same for
an object that is a part of another file. A class with methods `to_json()` and `from_json(content, place)` of its own
speaks for itself.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from multivi_nf.errors import InputError
from multivi_nf.io.files import written_whole
from multivi_nf.io.limits import read_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Record = TypeVar("Record", bound=DataclassInstance)

_LEFT_OUT, _OPTIONAL = "left_out", "optional"
_PLAIN: dict[object, set[type]] = {str: {str}, int: {int}, float: {int, float}, bool: {bool}}


def _with_default(default: Any, said: str) -> Any:
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=default.copy, metadata={said: True})
    return dataclasses.field(default=default, metadata={said: True})


def left_out(default: Any = None) -> Any:
    """A field that stands in the file only where its value is not the default, and may be missing when read."""
    return _with_default(default, _LEFT_OUT)


def optional(default: Any = None) -> Any:
    """A field that always stands in the file, but may be missing or null when read: people write the file by hand."""
    return _with_default(default, _OPTIONAL)


def as_json(record: DataclassInstance) -> dict[str, object]:
    """The object that JSON writes: fields by name, in their order; dataclasses in it likewise."""
    return {
        field.name: _plain(getattr(record, field.name))
        for field in dataclasses.fields(record)
        if not (_LEFT_OUT in field.metadata and getattr(record, field.name) == _default(field))
    }


def _default(field: dataclasses.Field[Any]) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _plain(value: object) -> object:
    if hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_json(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def from_json(kind: type[Record], content: object, place: str | Path) -> Record:
    """Make a dataclass of what :func:`as_json` gave.

    Parameters
    ----------
    kind
        The dataclass.
    content
        A JSON object.
    place
        Where it stands (the file), for the message.

    Raises
    ------
    InputError
        A key is missing or not known, or a value is of another type: named with its place in the object.
    """
    fields = {field.name: field.metadata for field in dataclasses.fields(kind)}
    known = check_keys(
        content, {name: not said.keys() & {_LEFT_OUT, _OPTIONAL} for name, said in fields.items()}, place
    )
    hints = _hints(kind)
    given = {name: value for name, value in known.items() if not (value is None and _OPTIONAL in fields[name])}
    return kind(**{name: _value(hints[name], value, place, name) for name, value in given.items()})


def check_keys(content: object, known: Mapping[str, bool], place: str | Path) -> dict[str, object]:
    """Refuse what is no object, lacks a key that must be there (True in `known`) or has one that is not known."""
    if not isinstance(content, dict):
        raise _refused(place, f"{_told(content)} stands where an object ({', '.join(known)}) is meant")
    missing = [name for name, needed in known.items() if needed and name not in content]
    unknown = [name for name in content if name not in known]
    if missing or unknown:
        told = [("lacks", missing), ("has, and should not,", unknown)]
        raise _refused(place, " and ".join(f"it {verb} {', '.join(map(repr, names))}" for verb, names in told if names))
    return content


@functools.cache
def _hints(kind: type) -> dict[str, object]:
    return typing.get_type_hints(kind)


def _value(hint: object, value: object, place: str | Path, key: str) -> object:
    """A value of JSON as the type that a field has."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        others = [one for one in inner if one is not type(None)]
        alike = [one for one in others if (typing.get_origin(one) in (list, tuple)) == isinstance(value, list)]
        return _value((alike or others)[0], value, place, key)
    kinds = _kinds(origin, inner, value)
    if kinds is not None and isinstance(value, list):
        items = _items(kinds, value, place, key)
        return items if origin is list else tuple(items)
    if origin is dict and isinstance(value, dict):
        return {name: _value(inner[1], item, place, f"{key}.{name}") for name, item in value.items()}
    if origin is Literal and value in inner:
        return value
    if isinstance(hint, type) and hasattr(hint, "from_json"):
        return hint.from_json(value, f"{place}, {key}")
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_json(hint, value, f"{place}, {key}")
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is object or (hint in _PLAIN and type(value) in _PLAIN[hint]):
        return value
    wanted = "one of " + ", ".join(map(repr, inner)) if origin is Literal else getattr(hint, "__name__", str(hint))
    raise _refused(place, f"{key!r} is {_told(value)} and should be {wanted}")


def _kinds(origin: object, inner: tuple[object, ...], value: object) -> tuple[object, ...] | None:
    """Types of a JSON list's items where a list, or a tuple of so many, is meant; else None."""
    if origin not in (list, tuple) or not isinstance(value, list):
        return None
    if origin is list or inner[-1] is ...:
        return inner[:1] * len(value)
    return inner if len(inner) == len(value) else None


def _items(kinds: tuple[object, ...], values: list[object], place: str | Path, key: str) -> list[object]:
    if kinds and kinds[0] in _PLAIN and len(set(kinds)) == 1 and set(map(type, values)) <= _PLAIN[kinds[0]]:
        return values  # names by the million
    return [_value(kind, item, place, f"{key}[{i}]") for i, (kind, item) in enumerate(zip(kinds, values))]


def _told(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refused(place: str | Path, what: str) -> InputError:
    return InputError(
        f"{place} is not what its step writes: {what}",
        "it was cut, changed, or written by another version; what it tells cannot be used",
        "run the step that writes it again, with this version",
    )


def write_record(record: DataclassInstance, path: Path) -> None:
    """Write a dataclass as a JSON file, the same bytes for the same values."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(as_json(record), indent=1) + "\n")


def read_record(kind: type[Record], path: Path) -> Record:
    """Read a file of :func:`write_record`.

    Raises
    ------
    InputError
        There is no such file, it is no JSON, or see :func:`from_json`.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist", "it was named as an input", "give what the step before wrote")
    return from_json(kind, read_json(path), path)
