"""The examples in docstrings run, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import multivi_nf

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


@pytest.mark.parametrize("name", [name for name in multivi_nf.__all__ if not name.startswith("_")])
def test_every_public_name_has_an_example(name):
    assert ">>> " in inspect.getdoc(getattr(multivi_nf, name))
