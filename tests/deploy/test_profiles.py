"""Profiles compose in any order: what each process gets, on every executor and engine, with and without `gpu`."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
EXECUTORS = {
    "local": "local",
    "slurm": "slurm",
    "pbspro": "pbspro",
    "lsf": "lsf",
    "awsbatch": "awsbatch",
    "googlebatch": "google-batch",
    "azurebatch": "azurebatch",
    "k8s": "k8s",
}
ENGINES = ["docker", "podman", "singularity", "apptainer", "charliecloud"]
CLOUD = {"awsbatch", "googlebatch", "azurebatch", "k8s"}
WITH_ARRAYS = {"slurm", "pbspro", "lsf", "awsbatch", "googlebatch"}
SCATTERED = {"PREFLIGHT", "RNA_QC", "PROTEIN_QC", "FRAGMENTS_QC", "COUNT_PEAKS", "ATAC_QC", "IMPUTE", "DIFFERENTIAL"}
MODEL_STEPS = {"TRAIN", "EMBED", "IMPUTE", "DIFFERENTIAL"}
DEVICE_FLAG = {
    "docker": "--gpus all",
    "podman": "--device nvidia.com/gpu=all",
    "singularity": "--nv",
    "apptainer": "--nv",
    "charliecloud": "",
}
MOUNT_FLAG = {
    "docker": "-v '{0}':'{0}'",
    "podman": "-v '{0}':'{0}'",
    "singularity": "-B '{0}'",
    "apptainer": "-B '{0}'",
    "charliecloud": "-b '{0}'",
}
OUTDIR = "/data/my results"
Nextflow = Callable[..., subprocess.CompletedProcess[str]]


def case(profiles: tuple[str, ...], **more: object) -> dict:
    return {"name": ",".join(profiles), "profiles": ",".join(profiles), **more}


@pytest.fixture(scope="module")
def resolved(resolve: Callable[[list[dict]], dict]) -> dict:
    """Every engine on three kinds of executor, every executor with docker; each with `gpu` last, first and without."""
    params = {"outdir": OUTDIR, "n_devices": 3}
    orders = []
    for engine, executor in itertools.product(ENGINES, EXECUTORS):
        if engine == "docker" or executor in {"local", "slurm", "awsbatch"}:
            orders += [(engine, executor), (engine, executor, "gpu"), ("gpu", executor, engine)]
    orders += itertools.permutations(("docker", "slurm", "gpu"))
    return resolve([case(order, params=params) for order in dict.fromkeys(orders)])


def test_order_of_profiles_does_not_matter(resolved: dict) -> None:
    by_set: dict[frozenset[str], list[str]] = {}
    for name, found in resolved.items():
        by_set.setdefault(frozenset(name.split(",")), []).append(json.dumps(found, sort_keys=True))
    assert len(by_set) == 40
    for profiles, outcomes in by_set.items():
        assert len(outcomes) >= 2 or "gpu" not in profiles
        assert len(set(outcomes)) == 1, f"the order of {sorted(profiles)} changes what processes get"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_executor_and_arrays(resolved: dict, processes: dict, executor: str) -> None:
    for gpu in ("", ",gpu"):
        found = resolved[f"docker,{executor}{gpu}"]["processes"]
        assert set(found) == set(processes)
        for name, task in found.items():
            assert task["executor"] == EXECUTORS[executor]
            wide = name in SCATTERED and executor in WITH_ARRAYS
            assert task["array"] == (100 if wide else 0), (name, executor)
            assert task["queue"] is None  # the site's to say


def test_images_by_label(resolved: dict, processes: dict, version: str) -> None:
    for found in resolved.values():
        for name, task in found["processes"].items():
            images = [label.removeprefix("image_") for label in processes[name] if label.startswith("image_")]
            assert len(images) == 1, f"{name} names {images}"
            tag = f"localhost/multivi-nf-{images[0]}:{version}"
            assert task["container"] == tag
    one = {name: task["container"] for name, task in resolved["docker,local"]["processes"].items()}
    assert {name for name in one if "-macs3:" in one[name]} == {"CALL_PEAKS", "GROUP_PEAKS"}
    assert {name for name in one if "-cuda:" in one[name]} >= MODEL_STEPS
    assert "-cpu:" in one["REPORT"] and "-cpu:" in one["MOSAIC"]


@pytest.mark.parametrize("executor", ["local", "slurm", "awsbatch"])
@pytest.mark.parametrize("engine", ENGINES)
def test_gpu_flags_and_checkpoint_mount(resolved: dict, processes: dict, engine: str, executor: str) -> None:
    mount = MOUNT_FLAG[engine].format(f"{OUTDIR}/checkpoints")
    for gpu in (False, True):
        found = resolved[f"{engine},{executor}{',gpu' if gpu else ''}"]
        assert found["engine"] == engine
        for flags in DEVICE_FLAG.values():
            assert not flags or flags not in found["scope"].get("runOptions", ""), "GPU flags are no run options"
        for name, task in found["processes"].items():
            on_gpu = "process_gpu" in processes[name]
            expected = []
            if executor not in CLOUD and on_gpu:
                expected = [DEVICE_FLAG[engine]] * (gpu and bool(DEVICE_FLAG[engine])) + [mount] * (name == "TRAIN")
            assert (task["containerOptions"] or "") == " ".join(expected), (name, executor)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_gpu_requests(resolved: dict, processes: dict, executor: str) -> None:
    kinds = {"googlebatch": "nvidia-tesla-t4", "k8s": "nvidia.com/gpu"}
    for gpu in (False, True):
        for name, task in resolved[f"docker,{executor}{',gpu' if gpu else ''}"]["processes"].items():
            count = 3 if name == "TRAIN" else 1
            asked = gpu and "process_gpu" in processes[name]
            lent = asked and executor in {"awsbatch", "googlebatch", "k8s"}
            assert task["accelerator"] == ({"request": count, "type": kinds.get(executor)} if lent else None)
            memory = task["memory"] * 1024
            options = {
                "slurm": f"--gres=gpu:{count}",
                "pbspro": f"-l select=1:ncpus={task['cpus']}:mem={memory}mb:ngpus={count}",
                "lsf": f"-gpu num={count}",
            }
            assert task["clusterOptions"] == (options.get(executor) if asked else None)


def test_checkpoints_travel_by_environment(resolve: Callable[[list[dict]], dict]) -> None:
    """Default below --outdir and absolute; the user's own; none on object storage; quotes do not break the shell."""
    wanted = {
        "default": ({"outdir": OUTDIR}, f"{OUTDIR}/checkpoints"),
        "own": (
            {"outdir": OUTDIR, "checkpoint_dir": "/scratch/it's mine; rm -r $HOME"},
            "/scratch/it's mine; rm -r $HOME",
        ),
        "bucket": ({"outdir": "s3://bucket/run"}, None),
        "bucket_and_mount": ({"outdir": "gs://bucket/run", "checkpoint_dir": "/mnt/shared"}, "/mnt/shared"),
    }
    found = resolve([{"name": name, "profiles": "docker", "params": params} for name, (params, _) in wanted.items()])
    for name, (_, folder) in wanted.items():
        script = found[name]["processes"]["TRAIN"]["beforeScript"]
        if folder is None:
            assert not script
            continue
        shell = script.replace("mkdir -p", ": ") + '; printf %s "$MULTIVI_NF_CHECKPOINT_DIR"'
        said = subprocess.run(["bash", "-eu", "-c", shell], capture_output=True, text=True, check=True).stdout
        assert said == folder
        others = [task["beforeScript"] for step, task in found[name]["processes"].items() if step != "TRAIN"]
        assert not any(others), "only TRAIN has checkpoints"


def test_resources_grow_on_retry_within_limits(resolve: Callable[[list[dict]], dict], tmp_path: Path) -> None:
    limits = tmp_path / "limits.config"
    limits.write_text("process.resourceLimits = [cpus: 4, memory: 40.GB, time: 30.h]\n")
    found = resolve(
        [case(("slurm",), attempt=attempt) | {"name": f"free{attempt}"} for attempt in (1, 2, 3)]
        + [
            case(("slurm",), attempt=attempt, configs=[str(limits)]) | {"name": f"small{attempt}"}
            for attempt in (1, 2, 3)
        ]
    )
    for name, first in found["free1"]["processes"].items():
        second, third = (found[f"free{attempt}"]["processes"][name] for attempt in (2, 3))
        assert first["memory"] < second["memory"] < third["memory"], name
        assert first["hours"] < second["hours"] < third["hours"], name
        for attempt in (1, 2, 3):
            small = found[f"small{attempt}"]["processes"][name]
            free = found[f"free{attempt}"]["processes"][name]
            assert small["memory"] == min(free["memory"], 40)
            assert small["cpus"] == min(free["cpus"], 4)
            assert small["hours"] == min(free["hours"], 30)


def test_only_what_mends_itself_is_retried(resolve: Callable[[list[dict]], dict]) -> None:
    statuses = [0, 1, 2, 75, 104, 125, 127, 129, 130, 137, 143, 145, 146, 174, 175, 177, 178, 255, 2147483647]
    found = resolve([case(("local",), statuses=statuses)])["local"]["processes"]
    for name, task in found.items():
        assert task["retried"] == [75, 104, 130, 137, 143, 145, 175, 177, 2147483647], name


def test_site_config_wins_and_keeps_the_gpu(
    resolve: Callable[[list[dict]], dict], processes: dict, version: str
) -> None:
    site = str(REPOSITORY / "conf/site_example.config")
    params = {"n_devices": 2}
    found = resolve(
        [case(("slurm", "singularity", *gpu), configs=[site], params=params) for gpu in [(), ("gpu",)]]
        + [case(("charliecloud", "slurm"), configs=[site], params=params)]
    )
    folder = "/shared/containers/multivi-nf"
    for name, task in found["slurm,singularity,gpu"]["processes"].items():
        on_gpu = "process_gpu" in processes[name]
        assert task["queue"] == ("gpu" if on_gpu else "normal")
        count = 2 if name == "TRAIN" else 1
        assert task["clusterOptions"] == (f"--gres=gpu:a100:{count}" if on_gpu else None)
        assert ("--nv" in (task["containerOptions"] or "")) == on_gpu
        assert task["container"].startswith(f"{folder}/multivi-nf-") and task["container"].endswith(f"-{version}.sif")
        plain = found["slurm,singularity"]["processes"][name]
        assert plain["queue"] == "normal" and plain["clusterOptions"] is None
        unpacked = found["charliecloud,slurm"]["processes"][name]["container"]
        assert unpacked == task["container"].removesuffix(".sif")


@pytest.mark.parametrize(
    ("registry", "start", "end"),
    [
        ("registry.example.org/lab/", "registry.example.org/lab/multivi-nf-cpu:", ""),
        ("/images", "/images/multivi-nf-cpu-", ".sif"),
        ("./images", "{cwd}/images/multivi-nf-cpu-", ".sif"),
    ],
)
def test_inspect_lists_the_images(
    nextflow: Nextflow, tmp_path: Path, version: str, registry: str, start: str, end: str
) -> None:
    done = nextflow(
        "inspect",
        REPOSITORY,
        "-profile",
        "test,apptainer",
        "--outdir",
        "out",
        "--container_registry",
        registry,
        cwd=tmp_path,
    )
    listed = {item["name"].split(":")[-1]: item["container"] for item in json.loads(done.stdout)["processes"]}
    assert listed["MOSAIC"] == start.format(cwd=tmp_path) + version + end
    assert listed["TRAIN"] == listed["MOSAIC"].replace("-cpu", "-cuda")
    assert listed["CALL_PEAKS"] == listed["MOSAIC"].replace("-cpu", "-macs3")


def test_nextflow_config_resolves_everywhere(nextflow: Nextflow, tmp_path: Path) -> None:
    """`nextflow config -o json` on every executor and engine, without `gpu` and with it on either side."""

    def config(profiles: list[str]) -> dict:
        done = nextflow(
            "config",
            "-o",
            "json",
            "-profile",
            ",".join(profiles),
            REPOSITORY,
            cwd=tmp_path,
            NXF_PLUGINS_DEFAULT="false",
        )
        return json.loads(done.stdout)

    pairs = list(zip(EXECUTORS, itertools.cycle(ENGINES), strict=False))
    orders = [order for pair in pairs for order in (list(pair), [*pair, "gpu"], ["gpu", *pair[::-1]])]
    with ThreadPoolExecutor(max_workers=2) as pool:
        found = list(pool.map(config, orders))
    for index, (executor, engine) in enumerate(pairs):
        plain, last, first = found[3 * index : 3 * index + 3]
        for value in (plain, last, first):
            for scope in ("timeline", "report", "trace", "dag"):  # they carry the time of the start
                value.pop(scope)
            value["params"].pop("trace_report_suffix", None)
            assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", value["env"].pop("MULTIVI_NF_STARTED"))
            assert value["process"]["executor"] == EXECUTORS[executor]
            assert value[engine]["enabled"] is True
        assert last == first
        assert last == plain


@pytest.mark.parametrize("executor", ["local", "slurm", "pbspro", "lsf"])
def test_preview(nextflow: Nextflow, tmp_path: Path, executor: str) -> None:
    """The whole workflow is built for the executors whose code is in Nextflow's core."""
    done = nextflow("run", REPOSITORY, "-profile", f"test,{executor}", "-preview", "--outdir", "out", cwd=tmp_path)
    assert "WARN" not in done.stdout, done.stdout


@pytest.mark.parametrize("more", [[], ["--checkpoint_dir", "/mnt/shared"]])
def test_training_without_checkpoints_is_told(nextflow: Nextflow, tmp_path: Path, more: list[str]) -> None:
    """On object storage without --checkpoint_dir the log says so (then the run ends: the bucket needs a plugin)."""
    quiet = tmp_path / "quiet.config"
    quiet.write_text("".join(f"{scope}.enabled = false\n" for scope in ("timeline", "report", "trace", "dag")))
    arguments = ["-profile", "test", "-c", quiet, "-preview", "--outdir", "s3://bucket/run", *more]
    done = nextflow("run", REPOSITORY, *arguments, cwd=tmp_path, status=None, NXF_PLUGINS_DEFAULT="false")
    assert ("a training that is retried starts from the beginning" in done.stdout) == (not more), done.stdout


HEADERS = {
    "pbspro": {
        "FRAGMENTS_QC": ["#PBS -J 0-3", "#PBS -q normal", "#PBS -l select=1:ncpus=1:mem=", "#PBS -P lab"],
        "MOSAIC": ["#PBS -q normal", "#PBS -l select=1:ncpus=1:mem=", "#PBS -l walltime="],
        "TRAIN": ["#PBS -q gpu", "mb:ngpus=2"],
        "EMBED": ["#PBS -q gpu", "mb:ngpus=1"],
        "IMPUTE": ["#PBS -J 0-", "#PBS -q gpu", "mb:ngpus=1"],
    },
    "lsf": {
        "FRAGMENTS_QC": ["[1-4]", "#BSUB -q normal", "#BSUB -M ", "#BSUB -G lab"],
        "MOSAIC": ["#BSUB -q normal", "#BSUB -W "],
        "TRAIN": ["#BSUB -q gpu", "#BSUB -gpu num=2"],
        "EMBED": ["#BSUB -q gpu", "#BSUB -gpu num=1"],
        "IMPUTE": ["#BSUB -q gpu", "[1-", "#BSUB -gpu num=1"],
    },
}


@pytest.mark.parametrize("executor", HEADERS)
def test_job_scripts_for_schedulers_that_cannot_be_had(nextflow: Nextflow, tmp_path: Path, executor: str) -> None:
    """A recording `qsub` or `bsub` takes what Nextflow submits; the whole pipeline (stubs) runs through it."""
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    site = tmp_path / "site.config"
    site.write_text(
        "process.queue = 'normal'\nprocess { withLabel: process_gpu { queue = 'gpu' } }\n"
        "executor { account = 'lab'\n pollInterval = '1 sec' }\n"
    )
    arguments = ["-profile", f"test,{executor},gpu", "--n_devices", 2, "--outdir", "out", "-c", site, "-stub-run"]
    path = f"{Path(__file__).parent / 'schedulers'}:{os.environ['PATH']}"
    untraced = REPOSITORY / "tests/untraced.config"
    nextflow("-c", untraced, "run", REPOSITORY, *arguments, cwd=tmp_path, PATH=path, RECORDED=str(recorded))
    scripts = [script.read_text() for script in recorded.iterdir()]
    for process, wanted in HEADERS[executor].items():
        jobs = [script for script in scripts if re.search(rf"^### name: '\w+:{process}\b", script, re.MULTILINE)]
        assert jobs, f"no job of {process}"
        for job in jobs:
            header = "\n".join(re.findall(r"^#(?:PBS|BSUB) .*", job, re.MULTILINE))
            assert all(line in header for line in wanted), f"{process}:\n{header}"
