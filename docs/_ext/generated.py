"""Pages that are written from what they describe: parameters, terms, figures; where tutorials' outputs are kept."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from multivi_nf.report.glossary import glossary as words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
CLONE = DOCS.parent
MADE_FROM = ("python/multivi_nf", "main.nf", "modules", "workflows", "conf", "nextflow.config", "bin", "tools/run.py",
             "locks/cpu.lock")  # fmt: skip
"""What a tutorial's outputs depend on beside its own code."""
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
ROWS = 400
"""Rows of a results table that a page shows; the file holds all."""


@functools.cache
def code_hash() -> str:
    """Give 12 hexadecimal digits of all code that tutorials run."""
    total = hashlib.sha256()
    for part in MADE_FROM:
        place = CLONE / part
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and not {"__pycache__", "testing"} & set(path.parts):
                total.update(f"{path.relative_to(CLONE)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:12]


def outputs_folder() -> Path:
    """Give the folder that keeps outputs of tutorials: outputs of other code are never shown, theirs is another folder.

    `MULTIVI_NF_DOCS_OUTPUTS` is its place: set-up names one in the cache that clones share, so that one clone's
    `make docs-full` serves the others and CI.
    """
    root = os.environ.get("MULTIVI_NF_DOCS_OUTPUTS") or DOCS / "_build" / "outputs"
    return Path(root).absolute() / code_hash()


def execution_mode() -> str:
    """Tell myst-nb what to execute, by `MULTIVI_NF_DOCS_EXECUTE`.

    `cache` (default): tutorials whose outputs of this code are not kept. `force`: all, in an empty folder.
    `off`: none. `kept`: none, but outputs are shown where those of all tutorials, as they stand, are kept.
    """
    asked = os.environ.get("MULTIVI_NF_DOCS_EXECUTE", "cache")
    if asked == "force":  # myst-nb's own does not keep what it executed
        shutil.rmtree(outputs_folder(), ignore_errors=True)
        shutil.rmtree(DOCS / "_build" / "clone", ignore_errors=True)
    return {"force": "cache", "kept": "cache" if kept() else "off"}.get(asked, asked)


def tutorials_hash() -> str:
    """Give 12 hexadecimal digits of the tutorials' pages."""
    pages = sorted((DOCS / "tutorials").glob("*.md"))
    return hashlib.sha256(b"".join(page.read_bytes() for page in pages)).hexdigest()[:12]


def kept() -> bool:
    """Tell whether outputs of all tutorials are there, of this code and these pages."""
    return (outputs_folder() / f"complete-{tutorials_hash()}").is_file()


def note_complete(app: Sphinx, error: Exception | None) -> None:
    """Note that every tutorial ran, after a build that executed those whose outputs were not kept."""
    if error is None and app.config.nb_execution_mode == "cache":
        (outputs_folder() / f"complete-{tutorials_hash()}").touch()


def make_clone() -> None:
    """Make the folder that tutorials run in: the clone's files by links, and results of its own.

    `results/` of the clone is its user's. Results of other code are removed, so that no page reads what an older one
    left.
    """
    folder = DOCS / "_build" / "clone"
    stamp = folder / "code_hash"
    if not stamp.is_file() or stamp.read_text() != code_hash():
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("work", ".nextflow"):  # simulated samples, and what `-resume` goes on from
        (CLONE / name).mkdir(exist_ok=True)
    for path in CLONE.iterdir():
        link = folder / path.name
        if not path.name.startswith((".git", ".nextflow.log", "results", "tutorial", "docs")) and not link.is_symlink():
            link.symlink_to(path)
    stamp.write_text(code_hash())


def write_pages(_app: Sphinx | None = None) -> None:
    """Write all generated pages, each only where it changed (sphinx reads what is newer anew).

    That of the parameters is committed, to be read without the site; a test compares it.
    """
    for name, lines in {
        "reference/parameters.md": parameters(),
        "reference/glossary.md": glossary(),
        "benchmarks/results.md": results(),
    }.items():
        path, text = DOCS / name, "\n".join(lines) + "\n"
        path.parent.mkdir(exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def cell(text: object) -> str:
    """Give a text as it may stand in a cell of a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def parameters() -> Iterator[str]:
    """Every parameter of the pipeline, as `nextflow_schema.json` has it."""
    schema = json.loads((CLONE / "nextflow_schema.json").read_text(encoding="utf-8"))
    yield "# Parameters\n"
    yield "<!-- written by docs/_ext/generated.py from nextflow_schema.json -->\n"
    yield "Of `nextflow run`: what each does, and why its default is what it is."
    yield "A dash: no value, or the step's own default, which is said."
    for group in schema["$defs"].values():
        yield f"\n## {group['title']}\n\n{group.get('description', '')}\n"
        yield "| parameter | default | what, and why |\n|---|---|---|"
        for name, what in group["properties"].items():
            default = what.get("default")
            shown = "–" if default is None else f"`{json.dumps(default)}`".replace('"', "")
            text = f"{what['description']} {what.get('help_text', '')}".strip()
            if "enum" in what:
                text += " One of " + ", ".join(f"`{choice}`" for choice in what["enum"]) + "."
            for bound, sign in BOUNDS.items():
                text += f" {sign} {what[bound]}." if bound in what else ""
            yield f"| `--{name}` | {shown} | {cell(text)} |"


def glossary() -> Iterator[str]:
    """Every word of the report and of the results that is not everyday English."""
    yield "# Glossary\n"
    yield "Words of the report and of the results. The report shows its own where the mouse rests on a word.\n"
    yield "| word | meaning |\n|---|---|"
    for name, meaning in sorted(words().items(), key=lambda item: item[0].lower()):
        yield f"| {cell(name)} | {cell(meaning)} |"


def results() -> Iterator[str]:
    """The tables under `benchmarks/results`, as they were written by their scripts."""
    yield "# All committed results\n"
    yield "As the scripts under `benchmarks/` wrote them; lines that start with # say how.\n"
    for path in sorted((CLONE / "benchmarks" / "results").glob("*.tsv")):
        lines = path.read_text(encoding="utf-8").splitlines()
        remarks = [line.lstrip("# ") for line in lines if line.startswith("#")]
        table = list(csv.reader([line for line in lines if not line.startswith("#")], delimiter="\t"))
        yield f"\n## {path.name}\n\n" + "\n".join(remarks) + "\n"
        if not table:
            continue
        if len(table) > ROWS:
            yield f"The first {ROWS} of {len(table) - 1} rows.\n"
        yield ":::{dropdown} Table\n"
        yield "| " + " | ".join(map(cell, table[0])) + " |\n" + "|---" * len(table[0]) + "|"
        for row in table[1 : ROWS + 1]:
            yield "| " + " | ".join(map(cell, row + [""] * (len(table[0]) - len(row)))) + " |"
        yield "\n:::"


if __name__ == "__main__":
    write_pages()
