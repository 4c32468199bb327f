"""Runs of the real Nextflow, shared by the tests: few runs, many assertions."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import skip_or_fail
from tests.pipeline.nextflow_runs import BIN, REPOSITORY, Run


@pytest.fixture(scope="session")
def nextflow() -> Callable[..., Run]:
    """Call `nextflow run` of this repository in a folder; --outdir is `out` in it. Tasks are watched if `traced`."""
    program = BIN / "nextflow"
    if not program.is_file():
        skip_or_fail("there is no .venv/bin/nextflow: type `make setup`")

    def run(
        folder: Path,
        *arguments: object,
        project: Path = REPOSITORY,
        program: Path = program,
        traced: bool = False,
        **environment: str,
    ) -> Run:
        folder.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name not in ("NXF_SYNTAX_PARSER", "NXF_WORK")}
        quiet = [] if traced else ["-c", REPOSITORY / "tests" / "untraced.config"]
        command = [program, *quiet, "run", project, "-ansi-log", "false", "--outdir", "out", *arguments]
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env=kept | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1500,
        )
        return Run(folder, done.returncode, done.stdout)

    return run


@pytest.fixture(scope="session")
def has_macs3() -> bool:
    """Whether MACS3 was built (`make macs3`)."""
    return (BIN / "macs3").exists()


@pytest.fixture(scope="session")
def finished(nextflow: Callable[..., Run], has_macs3: bool, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The simulated mosaic, for real, through every process; used by many tests, changed by none but `-resume`."""
    source = [] if has_macs3 else ["--peak_source", "samples"]
    run = nextflow(
        *(tmp_path_factory.mktemp("finished"), "-profile", "test", "--save_intermediates", "--controls", *source),
        traced=True,
    )
    assert run.code == 0, run.said
    return run
