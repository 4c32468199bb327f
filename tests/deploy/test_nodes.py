"""TRAIN on two nodes of a SLURM: the weights of two processes on one, and a node that is killed in the middle."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import skip_or_fail
from tests.deploy.fixtures import HERE, REPOSITORY, need, read_trace

from multivi_nf.testing.mosaics import patterned_mosaic

TRAIN = [str(REPOSITORY / ".venv/bin/python"), "-m", "multivi_nf", "train"]
SITE = f"""includeConfig '{REPOSITORY}/nextflow.config'
process.resourceLimits = [cpus: 1, memory: 1500.MB, time: 1.h]
executor {{ pollInterval = '1 sec'
    queueStatInterval = '2 sec'
    exitReadTimeout = '20 sec' }}
"""
EPOCHS = 30


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start a SLURM of two nodes; give the environment that finds it."""
    need("slurmctld", "slurmd", "munged", "sbatch", "srun")
    if os.getuid() != 0:
        skip_or_fail("SLURM's daemons are started as root")
    folder = tmp_path_factory.mktemp("nodes")
    folder.chmod(0o755)
    subprocess.run([HERE / "slurm.sh", "start", folder, "1", "2000", "2"], check=True)
    yield {"SLURM_CONF": str(folder / "slurm.conf"), "SLURM_FOLDER": str(folder)}
    subprocess.run([HERE / "slurm.sh", "stop", folder], check=True)


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mosaic of 600 cells of two types, paired and not."""
    made = patterned_mosaic(n=600, genes=200, peaks=300)
    made.uns["multivi_nf"] = "{}"
    path = tmp_path_factory.mktemp("mosaic") / "mosaic.h5mu"
    made.write_h5mu(path)
    return path


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.tsv", sep="\t").drop(columns="seconds")


def test_two_nodes_train_as_two_devices_and_as_one_process(two_nodes, mosaic, tmp_path) -> None:
    """The same global batch: bytes of two processes on one node, and losses of one process within its noise."""
    order = [*TRAIN, mosaic, "--max-epochs", 8, "--batch-size", 64, "--device", "cpu", "--n-hidden", 32]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name, more in (("one", []), ("devices", ["--n-devices", 2])):
        words = [*map(str, order), "--output", str(tmp_path / name), *map(str, more)]
        subprocess.run(words, env=environment, check=True, capture_output=True)
    script = tmp_path / "job.sh"
    words = [*map(str, order), "--output", str(tmp_path / "nodes"), "--n-nodes", "2"]
    script.write_text("#!/bin/bash\nexec " + " ".join(words) + "\n")
    job = ["sbatch", "--wait", "--nodes=2", "--ntasks-per-node=1", "--mem=1500", "--output", str(tmp_path / "log")]
    done = subprocess.run([*job, str(script)], env=environment | two_nodes, capture_output=True, text=True, timeout=400)
    said = (tmp_path / "log").read_text()
    assert done.returncode == 0, said[-3000:]
    assert said.count("epoch 1/8") == 1, "one process speaks"
    for file in ("weights.safetensors", "split.tsv", "features.tsv"):
        assert (tmp_path / "nodes" / file).read_bytes() == (tmp_path / "devices" / file).read_bytes(), file
    nodes, one = history(tmp_path / "nodes"), history(tmp_path / "one")
    pd.testing.assert_frame_equal(nodes, history(tmp_path / "devices"))
    for column in ("train_loss", "validation_loss"):
        np.testing.assert_allclose(nodes[column], one[column], rtol=0.02)


def on_node(name: str, conf: str) -> list[int]:
    """Process ids of the tasks of a node, and of the daemons that started them."""
    found, parents = [], {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = dict(word.split("=", 1) for word in (entry / "environ").read_text().split("\0") if "=" in word)
            state = (entry / "stat").read_text()
            parents[int(entry.name)] = (int(state.rsplit(")", 1)[1].split()[1]), state.split("(", 1)[1][:10])
            if words.get("SLURMD_NODENAME") == name and words.get("SLURM_CONF") == conf:
                found.append(int(entry.name))
    daemons = {parents[one][0] for one in found if one in parents}
    return found + [one for one in daemons if parents.get(one, (0, ""))[1].startswith("slurmstepd")]


def test_a_killed_node_costs_what_came_after_the_checkpoint(two_nodes, mosaic, nextflow, tmp_path) -> None:
    """Node 2 and all that runs there is killed: TRAIN is tried again, goes on, and its weights are the undisturbed."""
    weights = {}
    for name in ("calm", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "site.config").write_text(SITE)
        order = ["-C", "site.config", "run", REPOSITORY / "tests/chaos/train.nf", "-profile", "slurm"]
        order += ["--mosaic", mosaic, "--epochs", EPOCHS, "--outdir", "out", "--n_nodes", 2]
        quick = {"MULTIVI_NF_CHECKPOINT_SECONDS": "0.5", "MULTIVI_NF_STALE_SECONDS": "8", "NXF_ANSI_LOG": "false"}
        with (folder / "log").open("w") as log:
            run = subprocess.Popen(
                [str(REPOSITORY / ".venv/bin/nextflow"), *map(str, order)],
                cwd=folder,
                env=os.environ | two_nodes | quick,
                stdout=log,
                stderr=log,
            )
        try:
            if name == "killed":
                kill_node(two_nodes, lambda folder=folder: folder.glob("out/checkpoints/*/step-*/state.json"), run)
            assert run.wait(500) == 0, (folder / "log").read_text()[-3000:]
        finally:
            if run.poll() is None:
                run.terminate()
                run.wait(60)
        (path,) = {found.resolve() for found in folder.glob("work/*/*/model/weights.safetensors")}
        weights[name] = path.read_bytes()
    rows = [row for row in read_trace(tmp_path / "killed/out") if "TRAIN" in row["name"]]
    assert rows[-1]["exit"] == "0" and len(rows) > 1, rows
    said = "".join(path.read_text() for path in (tmp_path / "killed").glob("work/*/*/.command.err"))
    assert "going on at epoch" in said
    assert weights["killed"] == weights["calm"]


def kill_node(environment: dict[str, str], checkpoints: Callable[[], Iterator[Path]], run: subprocess.Popen) -> None:
    """Kill slurmd of n2 with all that it runs, once there is a checkpoint; the node is back some seconds later."""
    deadline = time.monotonic() + 300
    while not any(int(path.parent.name.removeprefix("step-")) >= 1_000_000 for path in checkpoints()):
        assert time.monotonic() < deadline and run.poll() is None, "no checkpoint"
        time.sleep(0.1)
    folder = Path(environment["SLURM_FOLDER"])
    victims = on_node("n2", environment["SLURM_CONF"])
    assert victims, "a process of the training runs on n2"
    for identifier in [int((folder / "slurmd.n2.pid").read_text()), *victims]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(identifier, signal.SIGKILL)
    time.sleep(5)
    subprocess.run([HERE / "slurm.sh", "slurmd", folder, "n2"], check=True)
