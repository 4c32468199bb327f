"""`multivi-nf train`: train a model on a mosaic, or map a mosaic onto a trained one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from multivi_nf.commands._numbers import SEED, Finite, Whole
from multivi_nf.commands._outputs import OutputFolder, Step
from multivi_nf.commands._trouble import trouble_of
from multivi_nf.errors import InputError, Interrupted
from multivi_nf.io.caches import isolated_environment
from multivi_nf.io.outputs import MODEL
from multivi_nf.io.processors import number_from_environment

CHECKPOINTS = "MULTIVI_NF_CHECKPOINT_DIR"
EXIT_FILE = "MULTIVI_NF_EXIT_FILE"
PATIENCE = 30.0
"""Seconds that processes on other nodes have to end after the first one has left."""
STARTED = time.monotonic()
"""This module is imported when the step starts: the time limit includes reading the data."""

ARCHITECTURE = (
    ("--n-latent", int, "Latent dimensions [10]."),
    ("--n-hidden", int, "Width of hidden layers [256]."),
    ("--n-layers", int, "Hidden layers of each encoder and decoder [2]."),
    ("--rna-likelihood", ("nb", "zinb", "poisson"), "Count model of RNA [nb]."),
    ("--atac-likelihood", ("bernoulli", "poisson"), "ATAC as open peaks, or as counts of fragments [bernoulli]."),
    ("--dispersion", ("gene", "gene-batch"), "RNA dispersion per gene, or per gene and batch [gene]."),
    ("--fusion", ("mean", "weighted", "cell-weighted", "poe", "mopoe"), "How modalities' posteriors are joined."),
    ("--alignment", ("symmetric-kl", "mmd", "none"), "Pulls the modalities of a paired cell together [symmetric-kl]."),
    ("--alignment-weight", float, "Weight of the alignment [5]."),
    ("--adversary", ("modality", "batch", "both", "none"), "What the adversary must not be able to tell [modality]."),
    ("--adversary-weight", float, "Weight of the adversary [1]."),
    ("--cross-reconstruction", float, "Share of single-view ELBOs in the objective; 0 is the paper's [0.5]."),
    ("--batch-integration", float, "Strength with which batches are brought together; 0 leaves them as they lie [1]."),
    ("--labels-weight", float, "Weight with which --labels guide training, nats a labelled cell; 0 is not at all [0]."),
    ("--kl-warmup", int, "Epochs over which the weight of the KL rises to 1 [50, a quarter of all at most]."),
    ("--model-compat", ("none", "scvi"), "scvi: the formulas of scvi-tools 1.4.2 [none]."),
)


def architecture_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each part of the architecture; None leaves the model's default."""
    for name, kind, text in reversed(ARCHITECTURE):
        parsed = click.Choice(kind) if isinstance(kind, tuple) else Whole() if kind is int else Finite()
        command = click.option(name, type=parsed, default=None, show_default=False, help=text)(command)
    return command


@click.command(cls=Step)
@click.argument("mosaic", type=click.Path(path_type=Path))
@click.option("--output", type=OutputFolder(MODEL), required=True, help="Folder of the trained model.")
@architecture_options
@click.option("--categorical-covariates", default="", help="Columns of obs, separated by commas.")
@click.option("--continuous-covariates", default="", help="Columns of obs, separated by commas.")
@click.option("--labels", help="Column of obs with known cell types; used with --labels-weight above 0.")
@click.option("--max-epochs", type=Whole(), help="Epochs at most [from the number of cells].")
@click.option("--batch-size", type=Whole(), help="Cells per step over all devices [from the number of cells].")
@click.option("--learning-rate", type=Finite(), help="[from the batch size]")
@click.option("--precision", type=click.Choice(("float32", "bfloat16")), default="float32")
@click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto")
@click.option("--n-devices", type=Whole(), default=1, help="Processes that train together, one a device (torchrun).")
@click.option("--n-nodes", type=Whole(), default=1, help="Machines of a SLURM job, with as many processes on each.")
@click.option("--seed", type=SEED, default=0)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="Map the mosaic onto this trained model: codes of new batches are learnt, all else stays.",
)
@click.option(
    "--checkpoint-dir",
    type=click.Path(path_type=Path),
    help=f"Where checkpoints are kept [environment {CHECKPOINTS}, else OUTPUT.checkpoints].",
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of the same data and options.")
@click.option("--time-limit", type=Finite(), help="Minutes after which to save a checkpoint and leave with code 75.")
def command(mosaic: Path, output: Path, n_devices: int, n_nodes: int, **options: Any) -> None:
    """Train a model on MOSAIC (.h5mu)."""
    for name, number in (("--n-devices", n_devices), ("--n-nodes", n_nodes)):
        if number < 1:
            raise InputError(f"{name} is {number}", "at least one device of one machine must train", "give 1 or more")
    if n_devices * n_nodes > 1 and "WORLD_SIZE" not in os.environ:
        _with_torchrun(n_devices, n_nodes)
        return
    try:
        _train(mosaic, output, **options)
    except (InputError, Interrupted) as error:
        _leave_with(error.code)
        raise
    except Exception as error:
        trouble = trouble_of(error)
        if trouble is not None:
            _leave_with(trouble.code)
        raise


def _train(
    mosaic: Path,
    output: Path,
    *,
    reference: Path | None,
    checkpoint_dir: Path | None,
    time_limit: float | None,
    categorical_covariates: str,
    continuous_covariates: str,
    seed: int,
    model_compat: str | None,
    labels: str | None,
    **options: Any,
) -> None:
    from multivi_nf.data.source import source_of
    from multivi_nf.training import MultiVI, map_onto, train

    training_names = ("max_epochs", "batch_size", "learning_rate", "precision", "device", "resume")
    training = {name: options.pop(name) for name in training_names}
    own = output.absolute().with_name(output.name + ".checkpoints")
    folder = checkpoint_dir or os.environ.get(CHECKPOINTS) or own
    training |= {
        "seed": seed,
        "output": output,
        "checkpoint_dir": Path(folder).absolute(),
    }
    weight = options["labels_weight"]
    if weight and labels is None:
        raise InputError(
            f"--labels-weight is {weight:g} without --labels",
            "no column says which labels guide training",
            "name the column with --labels, or leave --labels-weight out",
        )
    onto = None if reference is None else MultiVI.load(reference)
    poisson = options["atac_likelihood"] == "poisson" if onto is None else "atac" in onto.config.counted
    source = source_of(mosaic, atac_counts=poisson)
    if time_limit is not None:
        training["time_limit"] = 60 * time_limit - (time.monotonic() - STARTED)
    if onto is not None:
        given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
        given += ["--model-compat"] if model_compat else []
        given += ["--categorical-covariates"] if categorical_covariates else []
        given += ["--continuous-covariates"] if continuous_covariates else []
        if given:
            raise InputError(
                f"{', '.join(given)} cannot be given with --reference",
                "the architecture is the reference's",
                "leave these options out, or train a new model without --reference",
            )
        map_onto(onto, source, **training)
    else:
        model = MultiVI.from_mosaic(
            source,
            seed=seed,
            categorical_covariates=_names(categorical_covariates),
            continuous_covariates=_names(continuous_covariates),
            compat=model_compat,
            **(options if labels is None or not weight else options | {"labels": labels}),
        )
        train(model, source, **training)
    if Path(folder) == own and own.is_dir() and not any(own.iterdir()) and _first():
        own.rmdir()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _first() -> bool:
    rank = os.environ.get("RANK", "")
    return not rank.isdecimal() or int(rank) == 0  # one that is no number is told by this very process


def _leave_with(code: int) -> None:
    """Tell the process that started torchrun, which itself only knows success and failure."""
    path = os.environ.get(EXIT_FILE)
    if path and _first():
        Path(path).write_text(str(code))
    if not _first():
        time.sleep(5)  # torchrun ends all when one ends: let the first process say why and leave its code
        sys.exit(code)


def _on_nodes(n_nodes: int) -> list[str]:
    """What starts a command on each node of this SLURM job: a step of one task a node, which knows its rank.

    SLURM's batch script, and with it this process, runs on the first node, whose rank is 0: its first process writes,
    speaks and leaves the exit code.
    """
    allocated, srun = number_from_environment("SLURM_JOB_NUM_NODES", 0), shutil.which("srun")
    if not allocated or srun is None:
        raise InputError(
            f"--n-nodes is {n_nodes}, "
            + ("but this is no job of SLURM" if not allocated else "but srun is not on PATH in this job"),
            "only the scheduler can start processes on its other nodes",
            "run the pipeline with -profile slurm, srun being visible in the container where one is used; elsewhere "
            "start `torchrun --nnodes N --node-rank I --master-addr HOST --master-port PORT ... --no-python multivi-nf "
            "train ...` on each node yourself",
        )
    if allocated < n_nodes:
        raise InputError(
            f"--n-nodes is {n_nodes}, and this job of SLURM has {allocated}",
            "no process can be started on nodes that the job does not have",
            f"ask for them (sbatch --nodes={n_nodes} --ntasks-per-node=1), or give --n-nodes {allocated}",
        )
    # of SLURM 22.05 on, steps do not take this over from their job
    processors = os.environ.get("SLURM_CPUS_PER_TASK")
    step = [srun, f"--nodes={n_nodes}", f"--ntasks={n_nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    step += [f"--cpus-per-task={processors}"] if processors else []
    return [*step, "sh", "-c", 'PET_NODE_RANK=$SLURM_NODEID exec "$@"', "sh"]


def _ended(child: subprocess.Popen, told: Path) -> int:
    """Exit status of srun, which waits for good for the processes of a node that died, if the node comes back soon."""
    since = None
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(1)
        since = time.monotonic() if since is None and told.exists() else since
        if since is not None and time.monotonic() - since > PATIENCE:
            child.kill()


def _with_torchrun(n_devices: int, n_nodes: int = 1) -> None:
    """Run this same command once a device under torchrun, and leave with the first process's exit code."""
    on_nodes = _on_nodes(n_nodes) if n_nodes > 1 else []
    host = socket.gethostname() if on_nodes else "127.0.0.1"
    with tempfile.TemporaryDirectory(prefix="multivi_nf_") as folder:
        told = Path(folder) / "exit_code"
        with socket.socket() as free:
            free.bind(("" if on_nodes else "127.0.0.1", 0))
            port = free.getsockname()[1]
        own = [sys.executable, "-I", "-m"]  # isolated, as the launchers start Python
        launch = [*own, "torch.distributed.run", "--nnodes", str(n_nodes), "--nproc-per-node", str(n_devices)]
        launch += ["--master-addr", host, "--master-port", str(port)]
        launch += ["--no-python", *own, "multivi_nf", *sys.argv[1:]]
        threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_devices)))
        environment = isolated_environment() | {EXIT_FILE: str(told), "OMP_NUM_THREADS": threads}
        # a session of its own, or Ctrl-C would reach torchrun, which ends its processes before they have saved
        child = subprocess.Popen(on_nodes + launch, env=environment, start_new_session=True)
        seen: list[int] = []

        def forward(number: int, _: object) -> None:
            seen.append(number)
            child.send_signal(signal.SIGTERM)

        before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        try:
            code = _ended(child, told) if on_nodes else child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if told.exists():
            code = int(told.read_text())
            sys.exit(130 if code == 75 and signal.SIGINT in seen else code)
        if code:
            sys.exit(1)
