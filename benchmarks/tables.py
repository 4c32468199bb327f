"""Figures of pages come from files: `python -m benchmarks.tables` writes each page's tables, `--check` compares them.

A page names the file of a table, and what stands between its marks is written from it:

    <!-- table: cost-1.tsv -->
    <!-- end of table -->
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

from benchmarks.places import RESULTS, ROOT

PAGES = RESULTS / "pages"
TABLE = re.compile(r"<!-- table: (?P<file>[\w-]+\.tsv) -->\n.*?<!-- end of table -->", re.S)


def rendered(path: Path) -> str:
    """Give a file's rows as a Markdown table; lines that start with # say where they come from."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    text = [re.sub(r" +", " ", "| " + " | ".join(row) + " |") for row in rows]
    return "\n".join([text[0], "|---" * len(rows[0]) + "|", *text[1:]])


def written(text: str) -> str:
    """Give a page's text with all its tables as their files have them."""
    return TABLE.sub(
        lambda found: f"<!-- table: {found['file']} -->\n\n{rendered(PAGES / found['file'])}\n\n<!-- end of table -->",
        text,
    )


def pages() -> list[Path]:
    """All pages that may hold tables of figures."""
    return sorted(page for room in ("benchmarks", "decisions") for page in (ROOT / "docs" / room).glob("*.md"))


def main() -> int:
    """Write all pages, or tell which differ from their files."""
    differing = [page for page in pages() if written(text := page.read_text(encoding="utf-8")) != text]
    if "--check" not in sys.argv:
        for page in differing:
            page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
    for page in differing:
        print(page.relative_to(ROOT))
    return int(bool(differing) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
