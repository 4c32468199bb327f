"""Every command and block of code in README and docs is run by a test, by the site, or says why not."""

from __future__ import annotations

import ast
import builtins
import json
import re
import shlex
import subprocess

import pytest
from tests.pipeline.doc_blocks import BLOCKS, FENCE, PAGES, TUTORIALS, visible_cells
from tests.pipeline.nextflow_runs import BIN, REPOSITORY

MOST_NOT_RUN = 10


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


def test_every_exit_code_is_explained():
    """Those that steps give, and those that Nextflow tries again."""
    page = (REPOSITORY / "docs/reference/exit-codes.md").read_text(encoding="utf-8")
    rows = " ".join(
        line.split("|")[1] for line in page.splitlines() if line.startswith("| ") and "code" not in line[:8]
    )
    told = {int(number) for number in re.findall(r"\d+", rows)}
    for first, last in re.findall(r"(\d+) to (\d+)", rows):
        told.update(range(int(first), int(last) + 1))
    config = (REPOSITORY / "conf/base.config").read_text(encoding="utf-8")
    retried = re.search(r"exitStatus in \[([\d, ]+)\] \+ \((\d+)\.\.(\d+)\)", config)
    given = {int(number) for number in retried[1].split(",")} | set(range(int(retried[2]), int(retried[3]) + 1))
    for path in (REPOSITORY / "python/multivi_nf/commands").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        given |= {int(code) for code in re.findall(r"(?:sys\.exit|SystemExit)\((\d+)\)", text)}
        given |= {
            int(code)
            for code in re.findall(r"^[A-Z_]+ = (\d{2,3})\n\"\"\".*(?:emory|ECONNRESET|ended|lost)", text, re.M)
        }
    assert len(given) > 15 and given <= told


def test_every_family_of_errors_has_its_remedies():
    """A room that refuses something is in a section of the page; each row of the page has a remedy."""
    page = (REPOSITORY / "docs/reference/errors.md").read_text(encoding="utf-8")
    package = REPOSITORY / "python/multivi_nf"
    refusing = {
        path.relative_to(package).parts[0]
        for path in package.rglob("*.py")
        if path.parent != package
        and re.search(r"\b(InputError|NotPossible|Trouble)\(", path.read_text(encoding="utf-8"))
    }
    named = set(" ".join(re.findall(r"<!-- rooms: ([^>]+) -->", page)).split())
    assert len(refusing) > 15 and refusing - {"testing"} <= named
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    assert all(len(row) == 2 and row[1].strip() for row in rows)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_can_be_typed(page):
    """What is run but not shown makes no name and no folder that a shown cell needs."""
    cells = visible_cells(page)
    python = ast.parse("\n".join(text for text in cells if not text.startswith("%%")))
    names = [node for node in ast.walk(python) if isinstance(node, ast.Name)]
    made = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | set(dir(builtins))
    for node in ast.walk(python):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            made |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef):
            made |= {node.name, *(argument.arg for argument in node.args.args)}
        elif isinstance(node, ast.Lambda):
            made |= {argument.arg for argument in node.args.args}
    assert {node.id for node in names} - made == set()
    writes = [text for text in cells if "tutorial/" in text]
    made_here = not writes or any("mkdir -p tutorial" in text for text in cells[: cells.index(writes[0]) + 1])
    assert made_here or page.stem == "mapping"  # which goes on from another page


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_each_picture_of_a_tutorial_says_in_words_what_it_shows(page):
    cells = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```\s*$", page.read_text(encoding="utf-8"), re.M | re.S)
    drawing = [cell for cell in cells if re.search(r"sc\.pl\.|\bplt\.|\.plot\(", cell)]
    assert drawing, "a tutorial shows something"
    assert [cell for cell in drawing if not re.match(r':mystnb: \{image: \{alt: "[^"]{20,}"\}\}\n', cell)] == []


def test_scripts_and_tables_that_pages_name_are_there():
    named = {
        (page.name, path)
        for page in PAGES
        if page.name != "results.md"  # written by the site
        for path in re.findall(r"benchmarks/[\w/]+\.(?:py|tsv|sh)", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert [f"{page}: {path}" for page, path in sorted(named) if not (REPOSITORY / path).exists()] == []


def test_figures_of_single_trials_stay_in_their_rooms():
    """Seeds and scripts of trials belong to benchmarks/ and decisions/: what users read does not age with them."""
    told = [
        f"{page.relative_to(REPOSITORY)}: {line.strip()}"
        for page in PAGES
        if not {"benchmarks", "decisions"} & set(page.parts) and page.name not in ("chaos.md", "changelog.md")
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.search(r"`benchmarks/\w+|\bseeds? \d|\bthree seeds\b|SNARE[^|]*\d ?%", line)
    ]
    assert told == []
    package = REPOSITORY / "python" / "multivi_nf"
    told = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in package.rglob("*.py")
        if "testing" not in path.parts
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\bSNARE|\bBMMC|bmmc_|pbmc_citeseq|myeloma|\bkang\b|(#|\"\"\").*\bseeds? \d", line)
    ]
    assert told == []
