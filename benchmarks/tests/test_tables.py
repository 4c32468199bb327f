"""Tables of figures on pages are what their files say."""

from __future__ import annotations

import csv
import re

import pytest
from benchmarks.places import RESULTS
from benchmarks.tables import PAGES, TABLE, pages, rendered, written

TYPED = re.compile(r"(?:^\|.*\n)+", re.M)
ROOMS = [page for page in pages() if page.stem not in ("chaos", "paper", "results")]
"""paper.md has a script of its own, results.md is written whole, chaos.md tells what is done."""


@pytest.mark.parametrize("page", ROOMS, ids=lambda page: page.stem)
def test_a_page_is_what_its_files_say(page):
    text = page.read_text(encoding="utf-8")
    assert written(text) == text, "run: python -m benchmarks.tables"
    typed = [table for table in TYPED.findall(TABLE.sub("", text)) if re.search(r"\|[^|\n]*\d", table)]
    assert typed == [], "figures belong into benchmarks/results/pages"


def test_every_file_stands_on_a_page():
    named = [found["file"] for page in ROOMS for found in TABLE.finditer(page.read_text(encoding="utf-8"))]
    assert sorted(named) == sorted(path.name for path in PAGES.glob("*.tsv"))


def test_a_changed_figure_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "x-1.tsv").write_text("# by hand\na\tb\n1\t\n")
    assert rendered(tmp_path / "x-1.tsv") == "| a | b |\n|---|---|\n| 1 | |"
    monkeypatch.setattr("benchmarks.tables.PAGES", tmp_path)
    page = "x\n<!-- table: x-1.tsv -->\n| a |\n<!-- end of table -->\n"
    assert "| 1 | |" in written(page) and written(written(page)) == written(page)


def test_memory_by_cells_is_that_of_the_script():
    with (RESULTS / "reader_memory.tsv").open() as lines:
        measured = [float(row["peak_GB"]) for row in csv.DictReader(lines, delimiter="\t")]
    table = next(path for path in PAGES.glob("cost-*.tsv") if "tables of cells" in path.read_text())
    shown = re.findall(r"(?<=\t)\d\.\d\d\b", table.read_text())
    assert len(shown) > 10
    assert all(min(abs(float(value) - there) for there in measured) < 0.0051 for value in shown)


def test_growth_by_step_is_that_of_the_script():
    with (RESULTS / "growth.tsv").open() as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["genes"] == "10000"]
    measured = {f"{float(row['cpu_s']):.1f}; {float(row['peak_GB']):.2f}" for row in rows}
    table = next(path for path in PAGES.glob("cost-*.tsv") if "growth.tsv" in path.read_text())
    shown = re.findall(r"(?<=\t)\d+\.\d; \d\.\d\d(?=\t)", table.read_text())
    assert len(shown) > 20
    assert set(shown) <= measured
