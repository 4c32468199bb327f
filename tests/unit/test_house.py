"""Tests are where the package's rooms are, and find what they import without turns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import multivi_nf

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = Path(multivi_nf.__file__).parent
FILES = [path for path in (REPOSITORY / "tests").rglob("*.py") if path != Path(__file__)]
TURNS = r"sys\.path|\.__new__\(|spec_from_file_location|^\s*(?:from|import) benchmarks?\b"


def test_folders_are_rooms_of_the_package():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    folders = {path.parent.name for path in (REPOSITORY / "tests/unit").glob("*/test_*.py")}
    assert folders and folders <= rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_imports_are_plain(path):
    assert re.findall(TURNS, path.read_text(encoding="utf-8"), re.M) == []
