"""Failure is normal: TRAIN, Nextflow and slurmd are killed, memory runs out, a result is cut short.

One of each here; `MULTIVI_NF_KILLS=10 pytest -m deploy tests/chaos` repeats the kills at other random moments.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("MULTIVI_NF_KILLS", "1"))
EPOCHS = 30
Nextflow = Callable[..., subprocess.CompletedProcess[str]]
# The pipeline's own config, which train.nf has none of, and a site's (`-C` would leave a `-c` unread).
SITE = (
    f"includeConfig '{REPOSITORY}/nextflow.config'\n"
    + """
process.resourceLimits = [cpus: 2, memory: 4.GB, time: 1.h]
executor { pollInterval = '1 sec'
    queueStatInterval = '2 sec'
    exitReadTimeout = '20 sec' }
"""
)


def tasks(folder: Path, command: str) -> list[int]:
    """Process ids of a step's Python that work below `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            inside = (entry / "cwd").resolve().is_relative_to(folder)
            if inside and words[0].rsplit(b"/")[-1].startswith(b"python") and command.encode() in b" ".join(words):
                found.append(int(entry.name))
    return found


def wait_for(what: Callable[[], object], seconds: float, name: str) -> object:
    """Wait until `what()` is true and give its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.1)
    return pytest.fail(f"{name} did not happen within {seconds:.0f} s")


@dataclass
class Training:
    """One run of tests/chaos/train.nf, in the background."""

    folder: Path
    arguments: list[str]
    environment: dict[str, str]
    process: subprocess.Popen | None = field(default=None)

    def start(self, *more: str) -> None:
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [*self.arguments, *more],
                cwd=self.folder,
                env=os.environ | self.environment | {"NXF_ANSI_LOG": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self, seconds: float = 600) -> None:
        assert self.process.wait(seconds) == 0, (self.folder / "log").read_text()[-3000:]

    def checkpoints(self) -> list[Path]:
        return list(self.folder.glob("out/checkpoints/*/step-*/state.json"))

    def past_epoch(self, epoch: int) -> bool:
        """Whether there is a checkpoint from which training goes on in a later epoch."""
        return any(int(path.parent.name.removeprefix("step-")) >= epoch * 1_000_000 for path in self.checkpoints())

    def running(self) -> list[int]:
        return tasks(self.folder, "multivi-nf-train")

    def weights(self) -> bytes:
        (path,) = {weights.resolve() for weights in self.folder.glob("work/*/*/model/weights.safetensors")}
        return path.read_bytes()

    def said(self) -> str:
        logs = sorted(self.folder.glob("work/*/*/.command.err"), key=lambda path: path.stat().st_mtime)
        return "\n".join(path.read_text() for path in logs)


@pytest.fixture
def training(local_run, container_environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Training]]:
    """Make a TRAIN of the reference run's mosaic, with checkpoints every half second."""
    made = []

    def make(profiles: str = "local", site: str = SITE, **environment: str) -> Training:
        folder = tmp_path / f"training {len(made)}"
        folder.mkdir()
        (folder / "site.config").write_text(site)
        arguments = [
            *(str(REPOSITORY / ".venv/bin/nextflow"), "-C", "site.config"),
            *("run", str(REPOSITORY / "tests/chaos/train.nf"), "-profile", profiles),
            *("--mosaic", str(local_run.outdir / "mosaic/mosaic.h5mu"), "--epochs", str(EPOCHS), "--outdir", "out"),
        ]
        quick = {"MULTIVI_NF_CHECKPOINT_SECONDS": "0.5", "MULTIVI_NF_STALE_SECONDS": "8"}
        made.append(Training(folder, arguments, container_environment | quick | environment))
        return made[-1]

    yield make
    for one in made:  # whatever a failed test left running, by id
        for identifier in [*one.running(), *([one.process.pid] if one.process and one.process.poll() is None else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(identifier, signal.SIGKILL)


@pytest.fixture(scope="session")
def undisturbed(local_run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Training], bytes]:
    """Weights of the same training, left alone; kept for all tests."""
    kept: list[bytes] = []

    def weights(like: Training) -> bytes:
        if not kept:
            folder = tmp_path_factory.mktemp("undisturbed")
            (folder / "site.config").write_text(SITE)
            local = ["local" if argument in ("podman", "slurm") else argument for argument in like.arguments]
            calm = Training(folder, local, {k: v for k, v in like.environment.items() if "SECONDS" not in k})
            calm.start()
            calm.finish()
            kept.append(calm.weights())
        return kept[0]

    return weights


def first_epochs(said: str) -> list[int]:
    """First epoch of every attempt that went on from a checkpoint."""
    return [int(epoch) for epoch in re.findall(r"going on at epoch (\d+)", said)]


@pytest.mark.parametrize("kill", range(KILLS))
def test_train_killed(training, undisturbed, trace, kill: int) -> None:
    """SIGKILL at a random moment after a checkpoint: retried, goes on, same weights to the bit."""
    run = training()
    calm = undisturbed(run)
    run.start()
    chance = random.Random(kill)
    epoch = chance.randint(1, EPOCHS // 2)  # counted in epochs, not seconds: machines differ
    wait_for(lambda: run.past_epoch(epoch), 400, f"a checkpoint after epoch {epoch}")
    time.sleep(chance.uniform(0, 0.3))
    for identifier in run.running():
        os.kill(identifier, signal.SIGKILL)
    run.finish()
    rows = [row for row in trace(run.folder / "out") if "TRAIN" in row["name"]]
    assert [row["exit"] for row in rows] == ["137", "0"]
    assert run.weights() == calm
    assert first_epochs(run.said()) and first_epochs(run.said())[-1] > 1
    assert run.checkpoints() == [], "a finished run removes its checkpoints"


@pytest.mark.parametrize("kill", range(KILLS))
def test_nextflow_killed_orphan_waited_for(training, undisturbed, kill: int) -> None:
    """SIGKILL of Nextflow leaves TRAIN alive; -resume starts a second one, which waits for it; same weights."""
    run = training()
    calm = undisturbed(run)
    run.start()
    wait_for(run.checkpoints, 400, "a checkpoint")
    time.sleep(random.Random(100 + kill).uniform(0, 1))
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    orphans = run.running()
    run.start("-resume")
    run.finish()
    assert not set(orphans) & set(run.running()), "two owners would mix two histories"
    newest = max(run.folder.glob("work/*/*/model/weights.safetensors"), key=lambda path: path.stat().st_mtime)
    assert newest.read_bytes() == calm
    assert run.checkpoints() == []


def test_retry_during_a_slow_save(training, undisturbed) -> None:
    """A TRAIN that stands still past its time is taken over; when it wakes it stops and harms nothing."""
    run = training()
    calm = undisturbed(run)
    run.start()
    wait_for(run.checkpoints, 400, "a checkpoint")
    slow = run.running()
    for identifier in slow:
        os.kill(identifier, signal.SIGSTOP)
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    run.start("-resume")
    wait_for(lambda: "showed no life for 8 s" in run.said(), 400, "the second TRAIN's turn")
    for identifier in slow:
        os.kill(identifier, signal.SIGCONT)
    run.finish()
    wait_for(lambda: not set(slow) & set(run.running()), 60, "the end of the first TRAIN")
    assert "stopped: another run took over the checkpoints" in run.said()
    assert run.weights() == calm, "one model was written, by the second"
    assert first_epochs(run.said())


def test_cut_result_is_repaired(local_run, nextflow: Nextflow, trace) -> None:
    """A published file cut short equals the original after -resume, and no task runs again."""
    victims = [local_run.outdir / "mosaic/mosaic.h5mu", local_run.outdir / "model/weights.safetensors"]
    whole = [path.read_bytes() for path in victims]
    for path, content in zip(victims, whole, strict=True):
        path.write_bytes(content[: len(content) // 2])
    nextflow(*local_run.arguments, "--outdir", "results", "-resume", cwd=local_run.folder)
    assert [path.read_bytes() for path in victims] == whole
    assert {row["status"] for row in trace(local_run.outdir)} == {"CACHED"}


def test_a_result_cut_in_the_work_folder(local_run, nextflow: Nextflow, trace) -> None:
    """A machine went down: CALIBRATE's marker is on disk, its weights are not. The message names what to delete."""
    task = {row["name"].partition(" ")[0].rpartition(":")[2]: row["hash"] for row in trace(local_run.outdir)}
    (work,) = local_run.folder.glob(f"work/{task['CALIBRATE']}*")
    (embed,) = local_run.folder.glob(f"work/{task['EMBED']}*")
    weights = work / "model/weights.safetensors"
    whole = weights.read_bytes()
    os.truncate(weights, 5000)
    (embed / ".exitcode").unlink()
    arguments = [*local_run.arguments, "--outdir", "cut", "-resume"]
    for _ in range(2):
        done = nextflow(*arguments, cwd=local_run.folder, status=None)
        assert done.returncode != 0
        assert f"delete the work folder {work} and run with -resume" in done.stdout + done.stderr, done.stdout
    subprocess.run(["rm", "-r", "--", work], check=True)  # the remedy
    nextflow(*arguments, cwd=local_run.folder)
    assert (local_run.folder / "cut/model/weights.safetensors").read_bytes() == whole
    manifest = (local_run.folder / "cut/manifest.tsv").read_text().splitlines()[1:]
    for name, _, digest, _ in (line.split("\t") for line in manifest):
        if digest:
            assert hashlib.sha256((local_run.folder / "cut" / name).read_bytes()).hexdigest() == digest


def test_nextflow_killed_finished_tasks_stay_finished(local_run, nextflow: Nextflow, trace, same_results) -> None:
    """The whole pipeline: killed while TRAIN runs, resumed: nothing that was finished runs again, same results."""
    weights = (local_run.outdir / "model/weights.safetensors").read_bytes()
    (train,) = [row for row in trace(local_run.outdir) if row["name"].partition(" ")[0].endswith(":TRAIN")]
    (work,) = local_run.folder.glob(f"work/{train['hash']}*")
    subprocess.run(["rm", "-r", "--", work], check=True)
    arguments = [*local_run.arguments, "--outdir", "resumed", "-resume"]
    with (local_run.folder / "killed.log").open("w") as log:
        process = subprocess.Popen(
            [REPOSITORY / ".venv/bin/nextflow", *arguments],
            cwd=local_run.folder,
            env=os.environ | {"NXF_ANSI_LOG": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    wait_for(lambda: tasks(local_run.folder, "multivi-nf-train"), 400, "TRAIN")
    time.sleep(random.uniform(0, 1))
    process.kill()
    process.wait()
    for orphan in tasks(local_run.folder, "multivi-nf-train"):  # as if the machine had gone down
        os.kill(orphan, signal.SIGKILL)
    nextflow(*arguments, cwd=local_run.folder)
    before = [row["name"] for row in trace(local_run.outdir)]
    after = {row["name"]: row["status"] for row in trace(local_run.folder / "resumed")}
    until = [name for name in before if before.index(name) < before.index(train["name"])]
    assert {after[name] for name in until} == {"CACHED"}
    assert after[train["name"]] == "COMPLETED"
    print(same_results(local_run.outdir, local_run.folder / "resumed"))
    assert (local_run.folder / "resumed/model/weights.safetensors").read_bytes() == weights


def test_slurmd_killed(training, undisturbed, slurm: dict[str, str]) -> None:
    """slurmd dies under a running TRAIN and comes back after 30 s; the run completes with the same weights."""
    run = training("slurm", **slurm)
    calm = undisturbed(run)
    run.start()
    wait_for(run.running, 400, "TRAIN")
    identifier = int(next(Path(slurm["SLURM_FOLDER"]).glob("slurmd.*.pid")).read_text())
    os.kill(identifier, signal.SIGKILL)
    for train in run.running():  # the node is gone, and what ran on it
        os.kill(train, signal.SIGKILL)
    time.sleep(30)
    subprocess.run([REPOSITORY / "tests/deploy/slurm.sh", "slurmd", slurm["SLURM_FOLDER"]], check=True)
    run.finish()
    newest = max(run.folder.glob("work/*/*/model/weights.safetensors"), key=lambda path: path.stat().st_mtime)
    assert newest.read_bytes() == calm


def test_memory_runs_out_in_a_container(training, undisturbed, images, trace, container_environment) -> None:
    """Over its `--memory` TRAIN is killed with 137; attempt 2 has more and goes on at a later epoch."""
    # What is set by `env` reaches a container.
    site = SITE + "process { withName: TRAIN { memory = { 1.GB * task.attempt } } }\n"
    site += "env { MULTIVI_NF_CHECKPOINT_SECONDS = '0.5'\n MULTIVI_NF_STALE_SECONDS = '8' }\n"
    run = training("podman", site=site)
    calm = undisturbed(run)
    run.start()
    wait_for(lambda: run.past_epoch(1), 400, "a checkpoint after epoch 1")
    environment = os.environ | container_environment
    listed = ["podman", "ps", "--quiet", "--filter", "name=nxf-"]
    (name,) = subprocess.run(listed, env=environment, capture_output=True, text=True, check=True).stdout.split()
    # Small neighbours fill the container's memory: the kernel ends its largest process, TRAIN.
    hog = "import os, time; [os.fork() for _ in range(4)]; x = b'1' * 80_000_000; time.sleep(20)"
    subprocess.run(["podman", "exec", name, "python3", "-c", hog], env=environment, capture_output=True, check=False)
    run.finish()
    rows = [row for row in trace(run.folder / "out") if "TRAIN" in row["name"]]
    assert [row["exit"] for row in rows] == ["137", "0"]
    limits = [re.search(r"--memory (\w+)", path.read_text())[1] for path in run.folder.glob("work/*/*/.command.run")]
    assert sorted(limits) == ["1024m", "2048m"]
    assert first_epochs(run.said())[-1] > 1
    assert run.weights() == calm
