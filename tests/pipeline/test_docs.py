"""Every command and block of code in README and docs is run by a test, by the site, or says why not."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from nextflow_runs import BIN, REPOSITORY

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
MOST_NOT_RUN = 10


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


BLOCKS = blocks()


def test_every_fence_says_what_it_holds():
    """A fence without a language escapes the rules below."""
    bare = [
        f"{page.relative_to(REPOSITORY)}: {match['text'].splitlines()[0]}"
        for page in PAGES
        for match in FENCE.finditer(page.read_text(encoding="utf-8"))
        if not match["language"].strip()
    ]
    assert bare == []


def test_every_block_of_code_is_run_or_says_why_not():
    unmarked = [str(block) for block in BLOCKS if not re.match(r"(run|no-run): \S", block.mark)]
    assert unmarked == []
    assert sum(block.mark.startswith("no-run") for block in BLOCKS) <= MOST_NOT_RUN


@pytest.mark.parametrize("block", [b for b in BLOCKS if re.match(r"run: \S+\.py", b.mark)], ids=str)
def test_the_test_that_runs_a_block_exists(block):
    path, _, name = block.mark.removeprefix("run: ").partition("::")
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    assert not name or f"def {name.partition('[')[0]}(" in text


def commands(text: str) -> list[list[str]]:
    """The commands of a block of shell, each as its words."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [
        words
        for line in joined.splitlines()
        if (words := shlex.split(re.sub(r"\[(.*?)\]", r"\1", line), comments=True))
    ]


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.mark == "run: config"], ids=str)
def test_commands_of_the_pipeline_name_what_there_is(block):
    schema = json.loads((REPOSITORY / "nextflow_schema.json").read_text())
    known = {name: what for group in schema["$defs"].values() for name, what in group["properties"].items()}
    for words in commands(block.text):
        assert words[0].endswith("nextflow") and words[1] == "run"
        for name, value in zip(words, [*words[1:], "--"]):
            if name.startswith("--"):
                assert name[2:] in known, f"{name} is no parameter"
                choices = known[name[2:]].get("enum")
                assert not choices or value in map(str, choices), f"{name} {value}"
        if "-profile" in words:
            profile = words[words.index("-profile") + 1]
            done = subprocess.run(
                [BIN / "nextflow", "config", REPOSITORY, "-profile", profile, "-flat"], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr


PYTHON_PAGES = sorted({b.page for b in BLOCKS if b.mark == "run: docs"})


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.stem)
def test_python_on_a_page_runs_on_finished_results(page, finished, tmp_path):
    """All its blocks in their order, in one process, beside the results of a run."""
    (tmp_path / "results").symlink_to(finished.folder / "out")
    code = "\n".join(block.text for block in BLOCKS if block.page == page and block.mark == "run: docs")
    program = "import matplotlib; matplotlib.use('Agg')\n" + code
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_figures_of_single_trials_stay_in_their_rooms():
    """Seeds and scripts of trials belong to benchmarks/ and decisions/: what users read does not age with them."""
    told = [
        f"{page.relative_to(REPOSITORY)}: {line.strip()}"
        for page in PAGES
        if not {"benchmarks", "decisions"} & set(page.parts) and page.name not in ("chaos.md", "changelog.md")
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.search(r"`benchmarks/\w+|\bseeds? \d|\bthree seeds\b", line)
    ]
    assert told == []
