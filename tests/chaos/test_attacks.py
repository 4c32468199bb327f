"""Eighteen faults that an attack on the product found, each as it was shown, and what is right instead.

The eighteenth, a result cut in the work folder, is `test_chaos.py::test_a_result_cut_in_the_work_folder`.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from scipy import sparse

from multivi_nf.commands import exit_code

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / "tests/data/mosaic"
PARTS = ("ERROR: ", "Why it matters: ", "What to do: ")
PROGRAM = REPOSITORY / ".venv/bin/multivi-nf"


def write_mosaic(path: Path, n: int = 240, genes: int = 30, peaks: int = 40, proteins: list[str] | None = None) -> Path:
    """Cells of two types in two batches: pairs, RNA or ATAC alone, RNA with protein."""
    rng = np.random.default_rng(0)
    proteins = [f"P{i}" for i in range(5)] if proteins is None else proteins
    kinds = ("rna+atac", "rna", "atac", "rna+protein") if peaks else ("rna", "rna+protein")
    kind, types = np.array(kinds)[np.arange(n) % len(kinds)], rng.integers(2, size=n)
    names = np.array([f"s{i % 2}:c{i}" for i in range(n)])
    features = {
        "rna": ([f"G{i}" for i in range(genes)], 2.0),
        "atac": ([f"chr1:{1000 * i}-{1000 * i + 500}" for i in range(peaks)], 0.4),
        "protein": (proteins, 15.0),
    }
    parts = {}
    for modality, (index, scale) in features.items():
        rows = np.array([modality in one.split("+") for one in kind])
        if not rows.any():
            continue
        rates = rng.gamma(1, 1, (2, len(index))) * scale
        counts = sparse.csr_matrix(rng.poisson(rates[types[rows]]).astype(np.int32))
        obs = pd.DataFrame(index=names[rows])
        parts[modality] = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=pd.Index(index)))
    with mudata.set_options(pull_on_update=False):
        mosaic = mudata.MuData(parts)
    where = pd.Index(names).get_indexer(mosaic.obs_names)
    mosaic.obs["batch"], mosaic.obs["type"] = [f"b{i % 2}" for i in where], [f"t{types[i]}" for i in where]
    mosaic.write(path)
    return path


@dataclass
class Told:
    """Code and words of a step."""

    code: int
    said: str


@pytest.fixture
def step(capfd, tmp_path, monkeypatch) -> Callable[..., Told]:
    """Run a step in `tmp_path`, in this process; what is refused has three parts and no traceback."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, code: int | None = None) -> Told:
        capfd.readouterr()
        found = exit_code([str(word) for word in words])
        out, err = capfd.readouterr()
        assert code is None or found == code, out + err
        if found:
            assert all(part in err for part in PARTS) and "Traceback" not in err, err
        return Told(found, out + err)

    return run


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A folder of m.h5mu, model (calibrated), other (another model of it, calibrated) and e.h5mu."""
    folder = tmp_path_factory.mktemp("base")
    write_mosaic(folder / "m.h5mu", n=1400)
    small = ["--max-epochs", "2", "--n-hidden", "16", "--n-latent", "4", "--device", "cpu"]
    with contextlib.chdir(folder):
        for name, seed in (("model", "0"), ("other", "5")):
            assert exit_code(["train", "m.h5mu", "--output", name, "--seed", seed, *small]) == 0
            assert exit_code(["calibrate", "m.h5mu", name, "--samples", "8"]) == 0
        assert exit_code(["embed", "m.h5mu", "model", "--output", "e.h5mu"]) == 0
    return folder


@pytest.fixture
def base(kept: Path, tmp_path: Path) -> Path:
    """A copy of it, where the test works."""
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return tmp_path


IMPUTE = ("impute", "e.h5mu", "model", "--modality", "rna", "--samples", "40", "--output", "o.zarr")


def test_calibrate_threads(base: Path) -> None:
    """The same bytes with 1, 2 and 4 threads, set as a task of Nextflow sets them."""
    digests = []
    for n in (1, 2, 4):
        shutil.copytree(base / "other", base / f"c{n}")
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        threads = dict.fromkeys(names, str(n))
        command = [PROGRAM, "calibrate", "m.h5mu", f"c{n}", "--samples", "8"]
        subprocess.run(command, cwd=base, env=os.environ | threads, check=True, capture_output=True)
        digests.append({path.name: path.read_bytes() for path in (base / f"c{n}").iterdir()})
    assert "support.safetensors" in digests[0]
    assert digests[0] == digests[1] == digests[2]


def test_calibration_of_another_model(base: Path, step) -> None:
    told = step(*IMPUTE, "--calibration", "other", code=2)
    assert "calibration.json" in told.said and not (base / "o.zarr").exists()
    step(*IMPUTE, "--calibration", "model", code=0)


def test_checkpoint_disk_full(step, small_disk, tmp_path, monkeypatch) -> None:
    """A full disk of checkpoints is said and does not end a healthy training."""
    write_mosaic(tmp_path / "m.h5mu")
    monkeypatch.setenv("MULTIVI_NF_CHECKPOINT_SECONDS", "0.05")
    place = small_disk("ck", "300k")
    told = step("train", "m.h5mu", "--output", "model", "--max-epochs", 4, "--checkpoint-dir", place, code=0)
    assert "checkpoint" in told.said and (tmp_path / "model/weights.safetensors").is_file()


@pytest.mark.parametrize(
    "words",
    [
        "embed m.h5mu model --output a.h5mu --seed -1",
        "embed m.h5mu model --output a.h5mu --seed 4294967296",
        "impute e.h5mu model --modality rna --output b.zarr --interval nan",
        "impute e.h5mu model --modality rna --output c.zarr --seed 99999999999999999999999",
    ],
)
def test_cli_numbers(tmp_path, monkeypatch, capsys, words: str) -> None:
    """Before any work: no file of these exists."""
    monkeypatch.chdir(tmp_path)
    assert exit_code(words.split()) == 2
    said = capsys.readouterr().err
    assert words.split()[-1] in said and "Traceback" not in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        "embed m.h5mu model --output full/e.h5mu",
        "differential e.h5mu model --modality rna --groupby type --target each --samples 8 --output full/d.tsv.gz",
        "calibrate m.h5mu model --samples 8 --output full/cal",
        "train m.h5mu --output full/model --checkpoint-dir ck --max-epochs 1",
        f"check-samplesheet {DATA}/samplesheet.csv --output full/s.json",
        f"qc-rna {DATA}/rna_1/filtered_feature_bc_matrix.h5 --sample s --output full/s.h5ad --qc full/qc",
        *("report results --output full/r.html", "export e.h5mu --output full/tables"),
    ],
)
def test_disk_full(base: Path, step, small_disk, words: str) -> None:
    """Three parts and a code that is not 1; nothing half under a final name."""
    place = small_disk("full", "40k")
    (place / "filler").write_bytes(bytes(40_960))
    (base / "results").mkdir()
    shutil.copy(base / "e.h5mu", base / "results/multivi.h5mu")
    told = step(*words.split(), code=2)
    assert re.search("is full|no space|No space", told.said) and str(place) in told.said, told.said
    assert {path.name for path in place.rglob("*") if path.is_file()} == {"filler"}


def test_empty_protein_name(step, tmp_path) -> None:
    write_mosaic(tmp_path / "m.h5mu", peaks=0, proteins=["", "P0", "P1", "P2"])
    told = step("train", "m.h5mu", "--output", "model", "--max-epochs", 1, code=2)
    assert "protein" in told.said and not (tmp_path / "model").exists()


@pytest.mark.parametrize("bomb", ["matrix.mtx.gz", "barcodes.tsv.gz", "features.tsv.gz"])
def test_gzip_bombs_mtx(step, tmp_path, bomb: str) -> None:
    """A line without end: refused before the memory is full."""
    import resource

    folder = tmp_path / "m"
    folder.mkdir()
    head = "%%MatrixMarket matrix coordinate integer general\n"
    whole = {
        "matrix.mtx.gz": head + "30 60 3\n1 1 2\n2 2 1\n3 3 5\n",
        "barcodes.tsv.gz": "".join(f"A{i}-1\n" for i in range(60)),
        "features.tsv.gz": "".join(f"ENSG{i:011d}\tG{i}\tGene Expression\n" for i in range(30)),
    }
    for name, text in whole.items():
        (folder / name).write_bytes(gzip.compress(text.encode()))
    with gzip.open(folder / bomb, "wb", 1) as file:
        file.write(head.encode() if bomb == "matrix.mtx.gz" else b"")
        for _ in range(64):
            file.write(b" " * (1 << 24))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = step("qc-rna", "m", "--sample", "s", "--output", "s.h5ad", "--qc", "qc", code=2)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert bomb in told.said and "line of more than" in told.said
    assert grown < 300, f"{grown:.0f} MB for a line of 1 GB"


@pytest.mark.parametrize("kind", ["h5", "h5ad", "h5mu"])
def test_hdf5_external_storage_leak(step, tmp_path, kind: str) -> None:
    (tmp_path / "secret").write_text("a key of mine\n" * 100)
    rna = sparse.csc_matrix(np.random.default_rng(0).poisson(3, (30, 60)).astype(np.int32))
    if kind == "h5":
        with h5py.File(tmp_path / "x.h5", "w") as file:
            matrix = file.create_group("matrix")
            matrix["data"], matrix["indices"] = rna.data, rna.indices.astype(np.int64)
            matrix["indptr"], matrix["shape"] = rna.indptr.astype(np.int64), np.array([30, 60], np.int32)
            matrix["barcodes"] = np.array([f"AAAC{i:06d}-1" for i in range(60)], "S")
            table = matrix.create_group("features")
            table["id"] = np.array([f"ENSG{i:011d}" for i in range(30)], "S")
            table["feature_type"] = np.array(["Gene Expression"] * 30, "S")
            table.create_dataset("name", shape=(30,), dtype="S20", external=[(str(tmp_path / "secret"), 0, 600)])
    else:
        data = ad.AnnData(rna.T.tocsr(), var=pd.DataFrame({"symbol": ["x"] * 30}, index=[f"G{i}" for i in range(30)]))
        path = tmp_path / f"x.{kind}"
        data.write(path) if kind == "h5ad" else mudata.MuData({"rna": data}).write(path)
        with h5py.File(path, "r+") as file:
            place = file["var"] if kind == "h5ad" else file["mod/rna/var"]
            del place["symbol"]
            place.create_dataset("symbol", shape=(30,), dtype="S20", external=[(str(tmp_path / "secret"), 0, 600)])
    words = (
        ("train", "x.h5mu", "--output", "model", "--max-epochs", 1)
        if kind == "h5mu"
        else ("qc-rna", f"x.{kind}", "--sample", "s", "--output", "s.h5ad", "--qc", "qc")
    )
    told = step(*words, code=2)
    assert "refers to another file" in told.said and "a key of mine" not in told.said
    assert not (tmp_path / "s.h5ad").exists() and not (tmp_path / "model").exists()


def killed_at(folder: Path, patch: str, words: list[str]) -> None:
    """Run a step that kills itself where `patch` says."""
    code = f"{patch}\nfrom multivi_nf.commands import main\nmain({words!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


RENAMES = """import os, pathlib
def killing(real):
    def rename(*given, **named):
        result = real(*given, **named)
        if any(str(name).rstrip('/').endswith('model') for name in given): os.kill(os.getpid(), 9)
        return result
    return rename
pathlib.Path.rename, os.rename, os.replace = map(killing, (pathlib.Path.rename, os.rename, os.replace))"""


@pytest.mark.parametrize("exchanges", [True, False])
def test_kill_between_renames(base: Path, step, exchanges: bool) -> None:
    """A new model takes the place of an old one, and a kill at the first rename leaves the old or the new there."""
    small = ["--n-hidden", "16", "--n-latent", "4", "--device", "cpu"]
    words = ["train", "m.h5mu", "--output", "model", "--max-epochs", "1", "--seed", "3", *small]
    before = (base / "model/weights.safetensors").read_bytes()
    body = "killing(files.exchanged)" if exchanges else "lambda *given: False"
    patch = f"import multivi_nf.io.files as files\n{RENAMES}\nfiles.exchanged = {body}"
    killed_at(base, patch, words)
    step("embed", "m.h5mu", "model", "--output", "again.h5mu", code=0 if exchanges else None)
    step(*words, code=0)
    whole = (base / "model/weights.safetensors").read_bytes()
    assert whole != before
    left = [path.name for path in base.iterdir() if path.name.startswith(".")]
    assert left == [], "what the killed one left is swept"


def test_killed_impute_leaves_halves(base: Path, step) -> None:
    for _ in range(2):
        words = [PROGRAM, *IMPUTE, "--samples", "20000"]
        process = subprocess.Popen(words, cwd=base, stderr=subprocess.DEVNULL)
        while not [path for path in base.iterdir() if path.name.startswith(".")]:
            assert process.poll() is None, "it ended before it wrote"
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert [path for path in base.iterdir() if path.name.startswith(".")], "a half was left"
    step(*IMPUTE, code=0)
    assert [path.name for path in base.iterdir() if path.name.startswith(".")] == []
    assert ad.read_zarr(base / "o.zarr").n_obs == 1400


def test_long_sample_name(step, tmp_path) -> None:
    (tmp_path / "x.h5ad").write_text("x")
    (tmp_path / "s.csv").write_text(f"sample,rna\n{'a' * 240},x.h5ad\n")
    assert "100" in step("check-samplesheet", "s.csv", "--output", "s.json", code=2).said
    (tmp_path / "t.csv").write_text(f"sample,rna\ns1,{'x' * 5000}\n")
    step("check-samplesheet", "t.csv", "--output", "t.json", code=2)
    long, matrix = "a" * 240, DATA / "rna_1/filtered_feature_bc_matrix.h5"
    step("qc-rna", matrix, "--sample", long, "--output", f"{long}.rna.h5ad", "--qc", "qc", code=0)
    assert ad.read_h5ad(tmp_path / f"{long}.rna.h5ad").n_obs > 0


def other_text(path: Path, pattern: str, value: str) -> None:
    changed, n = re.subn(pattern, value, path.read_text())
    assert n, pattern
    path.write_text(changed)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "history.tsv empty": lambda m: (m / "history.tsv").write_bytes(b""),
    "split.tsv empty": lambda m: (m / "split.tsv").write_bytes(b""),
    "features.tsv empty": lambda m: (m / "features.tsv").write_bytes(b""),
    "features.tsv binary": lambda m: (m / "features.tsv").write_bytes(bytes(range(256)) * 2),
    "n_latent text": lambda m: other_text(m / "config.json", r'"n_latent": \d+', '"n_latent": "ten"'),
    "n_hidden 1e7": lambda m: other_text(m / "config.json", r'"n_hidden": \d+', '"n_hidden": 10000000'),
    "best_epoch text": lambda m: other_text(m / "config.json", r'"best_epoch": \d+', '"best_epoch": "x"'),
    "support cut": lambda m: (m / "support.safetensors").write_text("123"),
    "temperature text": lambda m: other_text(
        m / "calibration.json", r'"temperature": [-+.e0-9]+', '"temperature": "x"'
    ),
    "temperature -1": lambda m: other_text(m / "calibration.json", r'"temperature": [-+.e0-9]+', '"temperature": -1'),
    "temperature NaN": lambda m: other_text(m / "calibration.json", r'"temperature": [-+.e0-9]+', '"temperature": NaN'),
    "calibration {}": lambda m: (m / "calibration.json").write_text("{}"),
    "calibration []": lambda m: (m / "calibration.json").write_text("[]"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_model_folder_damage(base: Path, step, name: str) -> None:
    """Refused by the name of the file."""
    DAMAGE[name](base / "model")
    told = step(*IMPUTE, code=2)
    file = {"support cut": "support.safetensors"}.get(name, "calibration.json" if "cal" in name else name.split()[0])
    wanted = {
        "n_latent": "config.json",
        "n_hidden": "config.json",
        "best_epoch": "config.json",
        "temperature": "calibration.json",
    }.get(file, file)
    assert wanted in told.said and not (base / "o.zarr").exists()


@pytest.mark.parametrize(
    "words",
    [
        " ".join(IMPUTE),
        "embed m.h5mu model --output y.h5mu",
        "train m.h5mu --reference model --output z --max-epochs 1",
        "calibrate m.h5mu model --samples 8",
        "differential e.h5mu model --modality rna --groupby type --target t0 --reference t1 --output d.tsv.gz",
    ],
)
def test_nan_weights(base: Path, step, words: str) -> None:
    """Also where the digest agrees, as whoever trained such a model would write it."""
    weights = load_file(base / "model/weights.safetensors")
    weights["encoders.rna.bias"].view(-1)[0] = float("nan")
    save_file(weights, base / "model/weights.safetensors")
    config = json.loads((base / "model/config.json").read_text())
    for place in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in [key for key in place if "digest" in key or "sha256" in key or key == "seal"]:
            del place[key]
    (base / "model/config.json").write_text(json.dumps(config))
    told = step(*words.split(), code=2)
    assert "weights.safetensors" in told.said
    assert not [name for name in ("o.zarr", "y.h5mu", "z", "d.tsv.gz") if (base / name).exists()]


def test_preflight_seconds(step, tmp_path) -> None:
    for name in ("1", "2"):
        words = ("--fragments", DATA / "atac_1/fragments.tsv.gz", "--chrom-sizes", DATA / "genome/chrom.sizes")
        step("preflight", "--sample", "s", *words, "--output", f"{name}.json", code=0)
        time.sleep(0.2)
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_protein_slash_unreadable(step, tmp_path) -> None:
    write_mosaic(tmp_path / "m.h5mu", peaks=0, proteins=["CD16/32", "CD16", "P0", "P1", "P2"])
    step("train", "m.h5mu", "--output", "model", "--max-epochs", 1, code=0)
    step("embed", "m.h5mu", "model", "--output", "e.h5mu", code=0)
    step("impute", "e.h5mu", "model", "--modality", "protein", "--samples", 40, "--output", "p.zarr", code=0)
    assert mudata.read_h5mu(tmp_path / "e.h5mu")["protein"].n_vars == 5
    assert ad.read_zarr(tmp_path / "p.zarr").n_vars == 5


@pytest.mark.parametrize("launcher", [".venv/bin/multivi-nf", "bin/multivi-nf-simulate"])
def test_pythonpath_shadows(tmp_path, launcher: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/numpy.py").write_text('raise SystemExit("numpy of PYTHONPATH used")')
    shutil.copy(tmp_path / "site/numpy.py", tmp_path / "numpy.py")
    lent = {"PYTHONPATH": str(tmp_path / "site"), "PATH": f"{REPOSITORY}/.venv/bin:{os.environ['PATH']}"}
    words = [*(["simulate"] if launcher.startswith(".venv") else []), "--outdir", "sim", "--cells", "70"]
    words += ["--genes", "50", "--peaks", "100", "--proteins", "4"]
    command = [REPOSITORY / launcher, *words]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | lent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sim/samplesheet.csv").is_file()


def test_train_output_deletes_folder(step, tmp_path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "thesis.tex").write_text("precious")
    write_mosaic(project / "m.h5mu")
    whole = (project / "m.h5mu").read_bytes()
    told = step("train", "project/m.h5mu", "--output", "project", "--max-epochs", 1, code=2)
    assert "epoch 1/" not in told.said, "before the work"
    assert (project / "thesis.tex").read_text() == "precious" and (project / "m.h5mu").read_bytes() == whole
    assert len(list(project.iterdir())) == 2


def test_output_is_a_mounted_volume(step, small_disk, tmp_path) -> None:
    """Told before the work, a folder (docker -v DIR:/out, --output /out) as well as a file: a rename onto it fails."""
    write_mosaic(tmp_path / "m.h5mu")
    volume, file = small_disk("out", "20m"), tmp_path / "s.h5ad"
    told = step("train", "m.h5mu", "--output", volume, "--max-epochs", 1, code=2)
    assert "a mount point" in told.said and "epoch" not in told.said and list(volume.iterdir()) == []
    step("train", "m.h5mu", "--output", volume / "result", "--max-epochs", 1, code=0)
    (volume / "empty").touch()
    file.touch()
    subprocess.run(["mount", "--bind", volume / "empty", file], check=True)
    try:
        words = ("qc-rna", DATA / "rna_1/filtered_feature_bc_matrix.h5", "--sample", "s", "--qc", "qc")
        told = step(*words, "--output", file, code=2)
        assert "a mount point" in told.said and not (tmp_path / "qc").exists()
        step(*words, "--output", tmp_path / "other.h5ad", code=0)
    finally:
        subprocess.run(["umount", file], check=True)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("WORLD_SIZE", "abc"), ("RANK", "x"), ("LOCAL_WORLD_SIZE", "-1"), ("WORLD_SIZE", "2")],
)
def test_a_place_among_processes_that_is_none(base: Path, step, monkeypatch, variable: str, value: str) -> None:
    """What a scheduler or another program left in the environment."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("multivi_nf.training.device.memory_left", lambda: 1 << 40)
    told = step("train", "m.h5mu", "--output", "new", "--max-epochs", 1, "--device", "cpu", code=2)
    assert variable in told.said and "unset" in told.said and not (base / "new").exists()
