"""README names every script and every result, and nothing that is not there."""

from __future__ import annotations

import re

import pytest
from benchmarks.places import RESULTS, ROOT

README = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", ["speed", "quality", "peers"])
def test_scripts(folder):
    section = README.partition(f"\n## {folder}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = re.findall(r"`(\w+\.(?:py|sh))`", " ".join(rows))
    assert sorted(named) == sorted(p.name for p in (ROOT / "benchmarks" / folder).iterdir() if p.is_file())


def test_results():
    assert set(re.findall(r"`(\w+\.tsv)`", README)) == {path.name for path in RESULTS.glob("*.tsv")}


def test_pages():
    pages = {path.name for room in ("benchmarks", "decisions") for path in (ROOT / "docs" / room).glob("*.md")}
    assert set(re.findall(r"`([\w-]+\.md)`", README)) <= pages
