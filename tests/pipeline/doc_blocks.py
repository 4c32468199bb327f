"""The blocks of code of README and docs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.pipeline.nextflow_runs import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
PAGES = [
    page
    for page in PAGES
    if "_build" not in page.parts and not page.is_relative_to(REPOSITORY / "docs" / "reference" / "api")
]
CODE = {"bash", "sh", "console", "shell", "python", "r", "groovy", "nextflow"}
"""Languages that somebody may copy and run; other fences show files and output."""
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```\s*$",
    re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    mark: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}: {self.text.strip().splitlines()[0] if self.text.strip() else ''}"


def blocks() -> list[Block]:
    """All fenced blocks that are code."""
    found = []
    for page in PAGES:
        for match in FENCE.finditer(page.read_text(encoding="utf-8")):
            language = match["language"].strip()
            if language in CODE:
                found.append(Block(page, match["mark"] or "", language, match["text"]))
    return found


def visible_cells(page: Path) -> list[str]:
    """What a reader of a tutorial sees and types: its cells without their options, in order."""
    cell = re.compile(r"^```\{code-cell\}[^\n]*\n(?P<options>(?::[^\n]*\n)*)(?P<text>.*?)^```\s*$", re.M | re.S)
    found = cell.finditer(page.read_text(encoding="utf-8"))
    return [match["text"].lstrip("\n") for match in found if "remove-cell" not in match["options"]]


TUTORIALS = [page for page in PAGES if page.parent.name == "tutorials" and page.name != "index.md"]
BLOCKS = blocks()
