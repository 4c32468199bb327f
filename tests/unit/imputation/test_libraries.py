"""--library: a table of cells and their counts, or a refusal by name."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from multivi_nf.errors import InputError
from multivi_nf.imputation.features import read_library
from multivi_nf.mosaic.features import read_reference

STRANGE = {
    "empty": b"",
    "noise": bytes(range(256)) * 9,
    "gzip of nothing": gzip.compress(b""),
    "cut gzip": gzip.compress(b"cell\tlibrary\na\t1\n" * 100)[:-12],
    "UTF-16": "cell\tlibrary\na\t1\n".encode("utf-16"),
    "more fields": b"cell\tlibrary\na\t1\nb\t2\t3\t4\n",
    "a quote": b'cell\tlibrary\n"a\t1\n',
    "not a number": b"cell\tlibrary\na\tmany\n",
    "without end": b"cell\tlibrary\na\t1e400\n",
    "too large": b"cell\tlibrary\na\t1e300\n",
    "negative": b"cell\tlibrary\na\t-1\n",
    "nothing": b"cell\tlibrary\na\t\n",
    "twice": b"cell\tlibrary\na\t1\na\t2\n",
    "other columns": b"name\tsize\na\t1\n",
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_table_of_libraries_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "library.tsv"
    path.write_bytes(STRANGE[name])
    with pytest.raises(InputError, match=r"library\.tsv"):
        read_library(path)


def test_a_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "library.tsv"
    path.write_text("cell\tlibrary\n1\t1000\nb\t2.5\n")
    assert read_library(path).to_dict() == {"1": 1000.0, "b": 2.5}


@pytest.mark.parametrize("name", ["empty", "noise", "cut gzip", "UTF-16", "more fields", "other columns"])
def test_so_are_the_features_of_a_reference(tmp_path: Path, name: str) -> None:
    (tmp_path / "features.tsv").write_bytes(STRANGE[name])
    with pytest.raises(InputError, match=r"features\.tsv"):
        read_reference(tmp_path)
