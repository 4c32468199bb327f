"""Fixtures of tests/deploy and tests/chaos: Nextflow, profiles as it resolves them, images, SLURM, a reference run."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import skip_or_fail

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def need(*programs: str) -> None:
    """Skip or fail unless all programs are on PATH."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        skip_or_fail(f"not on PATH: {', '.join(missing)}; tests/deploy/provision.sh installs them")


@pytest.fixture(scope="session")
def version() -> str:
    text = (REPOSITORY / "python/multivi_nf/_version.py").read_text()
    return re.search(r'"(.+)"', text).group(1)


@pytest.fixture(scope="session")
def container_environment() -> dict[str, str]:
    """Give the environment in which podman works in a sandbox of a CI machine too."""
    return {"USER": os.environ.get("USER", "root"), "CONTAINERS_CONF": str(HERE / "containers.conf")}


@pytest.fixture(scope="session")
def nextflow(container_environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Nextflow to its end; the caller says what exit status is right."""
    launcher = REPOSITORY / ".venv/bin/nextflow"
    if not launcher.exists():
        skip_or_fail("there is no .venv/bin/nextflow; `make setup` makes it")

    def run(
        *arguments: object, cwd: Path, status: int | None = 0, timeout: float = 900, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        cwd.mkdir(parents=True, exist_ok=True)
        # These choose kernels of linear algebra, which round differently; containers do not see them
        kept = {
            name: value for name, value in os.environ.items() if name not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
        }
        done = subprocess.run(
            [launcher, *map(str, arguments)],
            cwd=cwd,
            env=kept | container_environment | {"NXF_ANSI_LOG": "false"} | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert status is None or done.returncode == status, f"{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def processes() -> dict[str, list[str]]:
    """Give every process of the pipeline with its labels, as the modules declare them."""
    found = {}
    for module in sorted((REPOSITORY / "modules").glob("*/main.nf")):
        text = module.read_text()
        for name, body in re.findall(r"^process (\w+) \{(.*?)^\}", text, re.DOTALL | re.MULTILINE):
            found[name] = re.findall(r"^    label '(\w+)'", body, re.MULTILINE)
    assert len(found) >= 15, found
    return found


@pytest.fixture(scope="session")
def resolve(
    nextflow: Callable[..., subprocess.CompletedProcess[str]],
    processes: dict[str, list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[list[dict]], dict]:
    """Resolve directives of every process for many cases (see resolve.nf) in one start of Nextflow."""

    def run(cases: list[dict]) -> dict:
        folder = tmp_path_factory.mktemp("resolve")
        plan, resolved = folder / "plan.json", folder / "resolved.json"
        plan.write_text(json.dumps({"repository": str(REPOSITORY), "processes": processes, "cases": cases}))
        nextflow("run", HERE / "resolve.nf", "--plan", plan, "--resolved", resolved, cwd=folder)
        return json.loads(resolved.read_text())

    return run


@pytest.fixture(scope="session")
def images(
    version: str, container_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Build the images of the pipeline, and Seurat's (seconds where nothing changed), and give their names."""
    need("podman")
    names = ("cpu", "macs3", "cuda", "seurat")
    # One worker of xdist builds, the other waits and finds them there
    with (tmp_path_factory.getbasetemp().parent / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = subprocess.run(
            [REPOSITORY / "tools/images.sh", "build", *names],
            env=os.environ | container_environment | {"CONTAINER_ENGINE": "podman"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert started.returncode == 0, started.stderr[-4000:]
    return {image: f"localhost/multivi-nf-{image}:{version}" for image in names}


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start a SLURM of one node in a folder of its own; give the environment that finds it."""
    need("slurmctld", "slurmd", "munged", "sbatch")
    if os.getuid() != 0:
        skip_or_fail("SLURM's daemons are started as root")
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    subprocess.run([HERE / "slurm.sh", "start", folder], check=True)
    yield {"SLURM_CONF": str(folder / "slurm.conf"), "SLURM_FOLDER": str(folder)}
    subprocess.run([HERE / "slurm.sh", "stop", folder], check=True)


@dataclass(frozen=True)
class Run:
    """A finished run: where it was started, and what it was told."""

    folder: Path
    outdir: Path
    arguments: list[str]


# Small enough for CI, large enough for epochs to be interrupted between.
SMALL = ["--max_epochs", "12"]


@pytest.fixture(scope="session")
def local_run(
    nextflow: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """The undisturbed run of `-profile test` on this machine, without containers: what others are compared with."""
    folder = tmp_path_factory.mktemp("local")
    arguments = ["run", str(REPOSITORY), "-profile", "test", "--save_intermediates", *SMALL]
    nextflow(*arguments, "--outdir", "results", cwd=folder)
    return Run(folder, folder / "results", arguments)


def read_trace(outdir: Path) -> list[dict[str, str]]:
    """Rows of the newest trace of a run."""
    newest = max(outdir.glob("pipeline_info/execution_trace_*.txt"))
    header, *rows = (line.split("\t") for line in newest.read_text().splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.fixture(scope="session")
def trace() -> Callable[[Path], list[dict[str, str]]]:
    return read_trace


@pytest.fixture(scope="session")
def same_results() -> Callable[[Path, Path], str]:
    """Compare two result folders by values; gives what `compare.py` says."""

    def compare(one: Path, other: Path) -> str:
        command = [sys.executable, HERE / "compare.py", one, other]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return compare


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """Mount a tmpfs of a size."""
    mounted = []

    def make(name: str, size: str) -> Path:
        place = tmp_path / name
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            skip_or_fail("a tmpfs can be mounted by root only")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)
