from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from multivi_nf.commands import train as train_command
from multivi_nf.commands.train import _with_torchrun, command
from multivi_nf.data.source import source_of
from multivi_nf.errors import InputError
from multivi_nf.training import MultiVI

SMALL = ["--n-hidden", "8", "--n-latent", "3", "--batch-size", "32", "--device", "cpu"]


@pytest.fixture
def file(mosaic_maker, tmp_path) -> Path:
    mosaic = mosaic_maker()
    mosaic.uns["multivi_nf"] = "{}"
    mosaic.write(tmp_path / "mosaic.h5mu")
    return tmp_path / "mosaic.h5mu"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def shell(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "multivi_nf", "train", *map(str, arguments)]


def test_options_reach_the_model(file, tmp_path):
    options = ["--fusion", "poe", "--dispersion", "gene-batch", "--rna-likelihood", "zinb", "--alignment", "mmd"]
    options += ["--adversary", "both", "--cross-reconstruction", "0", "--kl-warmup", "1", "--alignment-weight", "2"]
    options += ["--categorical-covariates", "cluster", "--continuous-covariates", "age", "--n-layers", "1"]
    run(file, "--output", tmp_path / "model", "--max-epochs", 1, *SMALL, *options)
    config = MultiVI.load(tmp_path / "model").config
    assert (config.fusion, config.dispersion, config.rna_likelihood, config.alignment) == (
        "poe",
        "gene-batch",
        "zinb",
        "mmd",
    )
    assert (config.adversary, config.cross_reconstruction, config.kl_warmup, config.alignment_weight) == (
        "both",
        0,
        1,
        2,
    )
    assert (config.n_layers, config.n_latent) == (1, 3)
    assert list(config.categorical) == ["cluster"] and list(config.continuous) == ["age"]
    assert {p.name for p in tmp_path.iterdir()} == {"mosaic.h5mu", "model"}, "no checkpoints are left"


def test_a_reference_is_mapped_onto(file, mosaic_maker, tmp_path):
    run(file, "--output", tmp_path / "model", "--max-epochs", 2, *SMALL)
    query = mosaic_maker(modalities=("rna",), batches=("new",), prefix="q", n_cells=40)
    query.uns["multivi_nf"] = "{}"
    query.write(tmp_path / "query.h5mu")
    run(tmp_path / "query.h5mu", "--output", tmp_path / "mapped", "--reference", tmp_path / "model", "--max-epochs", 2)
    assert MultiVI.load(tmp_path / "mapped").config.batches == ("a", "b", "new")
    with pytest.raises(InputError, match="--n-latent cannot be given with --reference"):
        run(file, "--output", tmp_path / "x", "--reference", tmp_path / "model", "--n-latent", 3)


def test_the_environment_names_the_checkpoint_folder(file, tmp_path, monkeypatch):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("MULTIVI_NF_CHECKPOINT_DIR", str(blocked))
    with pytest.raises(InputError, match="blocked"):
        run(file, "--output", tmp_path / "model", "--max-epochs", 1, *SMALL)
    run(file, "--output", tmp_path / "model", "--max-epochs", 1, "--checkpoint-dir", tmp_path / "k", *SMALL)


def test_sigterm_saves_and_leaves_with_75_and_resume_gives_the_same_bytes(file, tmp_path):
    arguments = [file, "--max-epochs", 40, *SMALL]
    run(*arguments, "--output", tmp_path / "undisturbed")
    child = subprocess.Popen(
        shell(*arguments, "--output", tmp_path / "model"), stderr=subprocess.PIPE, text=True, env=environment()
    )
    for line in child.stderr:
        if line.startswith("epoch 2/"):
            child.send_signal(signal.SIGTERM)
            break
    rest = child.stderr.read()
    child.stderr.close()
    assert child.wait() == 75, rest
    assert "--resume" in rest and not (tmp_path / "model").exists()
    assert "going on at epoch" in run(*arguments, "--output", tmp_path / "model", "--resume")
    for name in ("weights.safetensors", "features.tsv", "split.tsv", "config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name
    a, b = (pd.read_csv(tmp_path / m / "history.tsv", sep="\t") for m in ("model", "undisturbed"))
    pd.testing.assert_frame_equal(a.drop(columns="seconds"), b.drop(columns="seconds"))
    assert not (tmp_path / "model.checkpoints").exists()


def test_two_processes_train_as_one(file, tmp_path):
    """Same global batch; noise, thinning and dropout differ by process: the loss curves agree."""
    # of 131 cells: at 32 a step the last would have three, whose noise is not of interest
    arguments = [file, "--max-epochs", 8, *SMALL, "--batch-size", 33]
    run(*arguments, "--output", tmp_path / "one")
    both = shell(*arguments, "--output", tmp_path / "two", "--n-devices", 2)
    done = subprocess.run(both, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    a, b = (pd.read_csv(tmp_path / m / "history.tsv", sep="\t") for m in ("one", "two"))
    assert len(a) == len(b)
    np.testing.assert_allclose(a["validation_loss"], b["validation_loss"], rtol=0.02)
    np.testing.assert_allclose(a["train_loss"], b["train_loss"], rtol=0.02)
    assert done.stderr.count("epoch 1/8") == 1, "one process speaks"


def test_two_processes_keep_strangers_apart_as_one(tmp_path):
    """Of two sisters each batch has one: they pay, as soon as batches are mixed, in both processes' cells alike."""
    from tests.unit.training.test_counterparts import world

    from multivi_nf.training.counterparts import looked_at

    common = {f"t{i}": 60 + 10 * i for i in range(5)}
    mosaic, kind, batch = world({"a": {"shared": 100, **common}, "b": {"sister": 80, **common}})
    mosaic.uns["multivi_nf"] = "{}"
    mosaic.write(tmp_path / "mosaic.h5mu")
    arguments = [tmp_path / "mosaic.h5mu", "--max-epochs", 4, *SMALL, "--batch-size", 140, "--batch-integration", 4]
    run(*arguments, "--output", tmp_path / "one")
    done = subprocess.run(
        shell(*arguments, "--output", tmp_path / "two", "--n-devices", 2),
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    split = MultiVI.load(tmp_path / "one").split.set_index("cell")["split"].loc[mosaic.obs_names]
    _, told_apart = looked_at(source_of(mosaic), ("a", "b"), among=(split == "train").to_numpy(), seed=0)
    lone = np.isin(kind, ("shared", "sister"))
    assert told_apart[lone].any(1).mean() > 0.8 and told_apart[~lone].any(1).mean() < 0.1
    a, b = (pd.read_csv(tmp_path / m / "history.tsv", sep="\t") for m in ("one", "two"))
    assert len(a) == len(b)
    for column in ("train_loss", "validation_loss"):
        np.testing.assert_allclose(a[column], b[column], rtol=0.02)
    # neighbours are sought among a process's own cells, which are half as many
    np.testing.assert_allclose(a["integration"], b["integration"], rtol=0.5)
    for table in (a, b):
        assert table["integration"][0] > 0.2, "without strangers it is 0.04: the strength has only begun to rise"


@pytest.mark.parametrize("code", [0, 1, 2, 75])
def test_the_exit_code_comes_through_torchrun(monkeypatch, code):
    """torchrun itself only tells success and failure; the first process leaves its code in a file."""
    monkeypatch.setenv("PYTHONPATH", "/lent")

    class Child:
        def __init__(self, launch: list[str], env: dict[str, str], start_new_session: bool) -> None:
            assert launch[1:4] == ["-I", "-m", "torch.distributed.run"] and start_new_session
            assert launch[launch.index("--no-python") + 1 :][1:4] == ["-I", "-m", "multivi_nf"]
            assert "PYTHONPATH" not in env
            if code in (2, 75):
                Path(env["MULTIVI_NF_EXIT_FILE"]).write_text(str(code))

        def wait(self) -> int:
            return int(code > 0)

    monkeypatch.setattr(subprocess, "Popen", Child)
    if code == 0:
        run("m.h5mu", "--output", "x", "--n-devices", 2)
        return
    with pytest.raises(SystemExit) as left:
        _with_torchrun(2)
    assert left.value.code == code


@pytest.mark.parametrize("option", ["--n-devices", "--n-nodes"])
def test_a_wrong_number_of_devices_or_nodes_is_named(tmp_path, option):
    with pytest.raises(InputError, match=f"{option} is 0"):
        run("m.h5mu", "--output", tmp_path / "x", option, 0)


def test_srun_that_waits_for_a_node_that_died_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(train_command, "PATIENCE", 0.5)
    child = subprocess.Popen(["sleep", "60"])
    (tmp_path / "told").write_text("104")
    assert train_command._ended(child, tmp_path / "told") == -signal.SIGKILL
    child = subprocess.Popen(["sleep", "2.5"])
    assert train_command._ended(child, tmp_path / "untold") == 0, "without a word of the first process it has its time"


def test_nodes_are_started_by_srun_where_the_job_has_them(monkeypatch, tmp_path):
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    order = ["m.h5mu", "--output", tmp_path / "x", "--n-nodes", 2]
    with pytest.raises(InputError, match="this is no job of SLURM"):
        run(*order)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="srun is not on PATH"):
        run(*order)
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    with pytest.raises(InputError, match="--n-nodes is 3, and this job of SLURM has 2"):
        run(*order[:-1], 3)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    launched = []

    class Child:
        def __init__(self, launch: list[str], **_: object) -> None:
            launched.extend(launch)

        def wait(self, _: float) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Child)
    run(*order, "--n-devices", 3)
    step, own = launched[: launched.index("sh")], launched[launched.index("sh") :]
    assert step[0] == str(tmp_path / "srun") and {"--nodes=2", "--ntasks=2", "--cpus-per-task=4"} <= set(step)
    assert own[:2] == ["sh", "-c"] and "PET_NODE_RANK=$SLURM_NODEID" in own[2]
    values = dict(zip(own, own[1:]))
    assert (values["--nnodes"], values["--nproc-per-node"], values["--master-addr"]) == ("2", "3", socket.gethostname())
