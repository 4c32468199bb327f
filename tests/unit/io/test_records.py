"""A JSON file is a dataclass: what is written is read back the same, and anything else is refused by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from multivi_nf.errors import InputError
from multivi_nf.io.records import as_json, from_json, left_out, optional, read_record, write_record


@dataclass(frozen=True)
class Part:
    name: str
    share: float


@dataclass(frozen=True)
class Whole:
    cells: int
    kind: Literal["given", "called"]
    parts: list[Part]
    by_name: dict[str, tuple[Part, ...]]
    file: Path | None
    said: bool
    size: tuple[str, int]
    free: object
    symbols: str | None = left_out()
    notes: list[str] = left_out([])


WHOLE = Whole(3, "given", [Part("a", 0.5)], {"x": (Part("b", 1.0),)}, Path("a/b"), True, ("chr1", 9), {"any": [1]})
TEXT = {
    "cells": 3,
    "kind": "given",
    "parts": [{"name": "a", "share": 0.5}],
    "by_name": {"x": [{"name": "b", "share": 1.0}]},
    "file": "a/b",
    "said": True,
    "size": ["chr1", 9],
    "free": {"any": [1]},
}


def test_a_record_comes_back_from_its_file_the_same(tmp_path: Path) -> None:
    write_record(WHOLE, tmp_path / "whole.json")
    assert (tmp_path / "whole.json").read_text() == json.dumps(TEXT, indent=1) + "\n"
    assert read_record(Whole, tmp_path / "whole.json") == WHOLE


def test_a_field_that_may_be_left_out_is_written_where_it_has_a_value() -> None:
    said = Whole(1, "called", [], {}, None, False, ("x", 0), None, "S", ["n"])
    assert list(as_json(said))[-2:] == ["symbols", "notes"]
    assert from_json(Whole, as_json(said), "here") == said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cells": "3"}, "'cells' is '3' and should be int"),
        ({"cells": True}, "'cells' is True and should be int"),
        ({"said": 1}, "'said' is 1 and should be bool"),
        ({"kind": "made"}, "'kind' is 'made' and should be one of 'given', 'called'"),
        ({"parts": {}}, "'parts' is {} and should be list"),
        ({"parts": [{"name": "a"}]}, "it lacks 'share'"),
        ({"parts": [7]}, "7 stands where an object (name, share) is meant"),
        ({"by_name": {"x": [{"name": "b", "share": None}]}}, "'share' is None and should be float"),
        ({"colour": 1}, "it has, and should not, 'colour'"),
        ({"size": ["chr1"]}, "'size' is ['chr1'] and should be tuple"),
        ({"size": [1, 1]}, "'size[0]' is 1 and should be str"),
        ({"file": 3}, "'file' is 3 and should be Path"),
    ],
)
def test_anything_else_is_refused_by_name(change: dict[str, object], told: str) -> None:
    with pytest.raises(InputError) as caught:
        from_json(Whole, TEXT | change, "whole.json")
    assert told in caught.value.what and "whole.json" in caught.value.what


def test_missing_keys_and_what_is_no_object_are_refused() -> None:
    with pytest.raises(InputError, match="it lacks 'kind', 'parts', 'by_name', 'file', 'said', 'size', 'free'"):
        from_json(Whole, {"cells": 3}, "here")
    with pytest.raises(InputError, match=r"\[\] stands where an object \(cells, kind"):
        from_json(Whole, [], "here")


@dataclass(frozen=True)
class ByHand:
    name: str
    columns: dict[str, str] = optional({})
    rows: list[int] | None = optional()


def test_what_people_may_leave_out_is_always_written() -> None:
    assert as_json(ByHand("a")) == {"name": "a", "columns": {}, "rows": None}
    for left in ({}, {"columns": None}, {"columns": {}, "rows": None}):
        assert from_json(ByHand, {"name": "a"} | left, "here") == ByHand("a", {}, None)
    with pytest.raises(InputError, match="'columns' is 3 and should be dict"):
        from_json(ByHand, {"name": "a", "columns": 3}, "here")
