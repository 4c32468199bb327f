"""Twenty hostile names and paths: nothing a user writes reaches a shell, and what is allowed gives right results."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import mudata
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / "tests/data/mosaic"
UNTRACED = REPOSITORY / "tests/untraced.config"
Nextflow = Callable[..., subprocess.CompletedProcess[str]]

REFUSED_NAMES = [
    "a b",
    "$(touch PWNED)",
    "`touch PWNED`",
    "x; touch PWNED",
    "x' && touch PWNED #",
    'x" | touch PWNED',
    "../../etc",
    "a\tb",
    "<script>alert(1)</script>",
    "é",
]
ALLOWED_PATHS = [
    "with space",
    "it's",
    'double"quote',
    "`touch PWNED`",
    "semi; touch PWNED",
    "$(touch PWNED)",
    "cost$",
    "star *",
    "what?",
    "-rf",
    "[brackets] {braces}",
    "&& touch PWNED #",
    "été ünïcode %s \\n",
]
REFUSED_PATHS = {"$HOME x": "holds a $", "many *": "and so means", "o?e": "and so means"}
"""Nextflow's own staging leaves these unquoted; a * or ? that fits nothing but itself stays what it is."""
ALSO_THERE = ["many 1", "one"]


def write_samplesheet(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def nothing_was_run(*folders: Path) -> None:
    found = [hit for folder in folders for hit in folder.rglob("PWNED*")]
    assert found == [], "text of the user was run by a shell"


@pytest.fixture
def matrix() -> Path:
    with (DATA / "samplesheet.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["sample"] == "rna_1"]
    return DATA / row["rna"]


def test_hostile_sample_names_are_refused_in_one_go(nextflow: Nextflow, tmp_path: Path, matrix: Path) -> None:
    sheet = tmp_path / "samples.csv"
    write_samplesheet(sheet, [{"sample": name, "rna": str(matrix)} for name in REFUSED_NAMES])
    done = nextflow("run", REPOSITORY, "--input", sheet, "--outdir", "out", cwd=tmp_path, status=1)
    said = done.stdout + done.stderr
    for line in range(2, 2 + len(REFUSED_NAMES)):
        assert f"samples.csv, line {line}, column 'sample':" in said, said
    nothing_was_run(tmp_path, REPOSITORY / "bin")
    left = [path.name for path in (tmp_path / "out").iterdir()] if (tmp_path / "out").exists() else []
    assert left in ([], ["pipeline_info"]), left


def test_paths_that_would_be_expanded_are_refused_by_name(nextflow: Nextflow, tmp_path: Path, matrix: Path) -> None:
    sheet = tmp_path / "samples.csv"
    for name in [*REFUSED_PATHS, *ALSO_THERE]:
        (tmp_path / name).mkdir()
        shutil.copy(matrix, tmp_path / name / matrix.name)
    rows = [{"sample": f"s{i}", "rna": f"{name}/{matrix.name}"} for i, name in enumerate(REFUSED_PATHS)]
    write_samplesheet(sheet, rows)
    done = nextflow("run", REPOSITORY, "--input", sheet, "--outdir", "out", cwd=tmp_path, status=1)
    said = done.stdout + done.stderr
    assert all(name in said for name in REFUSED_PATHS) and said.count("and so means") == 2, said
    assert "holds a $ that a shell takes for a variable" in said, said
    nothing_was_run(tmp_path, REPOSITORY / "bin")


def test_hostile_paths_and_metadata_are_only_text(nextflow: Nextflow, tmp_path: Path, matrix: Path) -> None:
    rows = []
    for index, name in enumerate(ALLOWED_PATHS):
        folder = tmp_path / "inputs" / name
        folder.mkdir(parents=True)
        copy = shutil.copytree if matrix.is_dir() else shutil.copy
        copy(matrix, folder / matrix.name)
        place = (
            f"{name}/{matrix.name}" if index % 2 else str(folder / matrix.name)
        )  # relative to the samplesheet, or not
        rows.append({"sample": f"s{index}", "rna": place, "batch": f"b{index % 2}", "note": f'<b>"{name}"</b>'})
    write_samplesheet(tmp_path / "inputs/samples.csv", rows)
    launch, outdir = tmp_path / "launch `touch PWNED` $(touch PWNED) *?", "out 'of' `touch PWNED` $(touch PWNED) *"
    nextflow(
        *("-c", UNTRACED, "run", REPOSITORY, "--input", tmp_path / "inputs/samples.csv", "--outdir", outdir),
        *("--max_epochs", 1, "--impute", "none", "-profile", "local"),
        cwd=launch,
    )
    nothing_was_run(tmp_path, REPOSITORY / "bin")
    result = mudata.read_h5mu(launch / outdir / "multivi.h5mu")
    cells = result.obs["sample"].astype(str).value_counts()
    assert set(cells.index) == {row["sample"] for row in rows}
    assert cells.nunique() == 1, "the same matrix gives the same cells, whatever its path is called"
    notes = result.obs.groupby("sample", observed=True)["note"].first()
    assert [notes[row["sample"]] for row in rows] == [row["note"] for row in rows]
    page = (launch / outdir / "report.html").read_text()
    assert '<b>"' not in page
