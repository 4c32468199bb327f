"""The examples in docstrings run, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import multivi_nf
import multivi_nf.regulation

PACKAGE = Path(multivi_nf.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(("multivi_nf", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert done.attempted > 0 and done.failed == 0


PUBLIC = [
    (module, name)
    for module in (multivi_nf, multivi_nf.regulation)
    for name in module.__all__
    if not name.startswith("_")
]


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[name for _, name in PUBLIC])
def test_every_public_name_has_an_example_and_a_line_in_the_reference(module, name):
    assert ">>> " in inspect.getdoc(getattr(module, name))
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    assert re.search(rf"^   {name}$", page, re.M)
