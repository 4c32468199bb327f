"""The whole pipeline in containers through a scheduler gives what it gives on this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.deploy.fixtures import need

REPOSITORY = Path(__file__).resolve().parents[2]
Nextflow = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def podman_slurm_run(
    nextflow: Nextflow,
    images: dict[str, str],
    slurm: dict[str, str],
    local_run,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("podman_slurm")
    site = folder / "site.config"
    site.write_text("process.queue = 'normal'\nexecutor { pollInterval = '1 sec'\n queueStatInterval = '5 sec' }\n")
    arguments = [argument if argument != "test" else "test,podman,slurm" for argument in local_run.arguments]
    nextflow(*arguments, "--outdir", "my results", "-c", site, cwd=folder, **slurm)
    return folder / "my results"


def test_podman_and_slurm_give_the_local_values(podman_slurm_run: Path, local_run, same_results) -> None:
    print(same_results(local_run.outdir, podman_slurm_run))


def test_every_task_ran_once_in_its_container(podman_slurm_run: Path, local_run, trace) -> None:
    rows = trace(podman_slurm_run)
    assert {row["status"] for row in rows} == {"COMPLETED"}
    assert sorted(row["name"] for row in rows) == sorted(row["name"] for row in trace(local_run.outdir))
    work = [Path(line) for line in podman_slurm_run.parent.glob("work/*/*/.command.run")]
    scripts = {path.parent: path.read_text() for path in work}
    assert sum("podman run -i" in text for text in scripts.values()) == len(rows)
    assert sum("#SBATCH --array" in text for text in scripts.values()) >= 3
    # The trace inside containers has figures: `ps` is there.
    assert all(row["peak_rss"] != "-" for row in rows if row["name"].partition(" ")[0].endswith((":TRAIN", ":MOSAIC")))


def test_results_belong_to_the_caller_and_checkpoints_are_gone(podman_slurm_run: Path) -> None:
    owners = {path.stat().st_uid for path in podman_slurm_run.rglob("*")}
    assert owners == {os.getuid()}
    left = [path for path in (podman_slurm_run / "checkpoints").rglob("*") if path.is_file()]
    assert left == [], "a finished run removes its checkpoints"


def test_charliecloud_gives_the_local_values(
    nextflow: Nextflow,
    images: dict[str, str],
    container_environment: dict[str, str],
    local_run,
    same_results,
    tmp_path: Path,
) -> None:
    """Unpacked images in a folder; the scheduler is the local one."""
    need("ch-run")
    folder = tmp_path / "images"
    subprocess.run(
        [REPOSITORY / "tools/images.sh", "unpack", folder, "cpu", "macs3", "cuda"],
        env=os.environ | container_environment | {"CONTAINER_ENGINE": "podman"},
        check=True,
    )
    site = tmp_path / "site.config"
    site.write_text("charliecloud.writeFake = false // Debian's Charliecloud 0.31 does not know --write-fake\n")
    arguments = [argument if argument != "test" else "test,charliecloud" for argument in local_run.arguments]
    nextflow(*arguments, "--outdir", "results", "--container_registry", folder, "-c", site, cwd=tmp_path)
    print(same_results(local_run.outdir, tmp_path / "results"))
    subprocess.Popen(["rm", "-rf", "--", folder])  # nine gigabytes in small files: beside the next test
