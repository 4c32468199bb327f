"""The paper's five experiments on real cells: every method's row, computed once, kept in `results/paper.tsv`.

    python -m benchmarks.quality.paper --data snare-2500 --experiments 1 --methods ridge mofa multivi-nf --seeds 0
    python -m benchmarks.quality.paper --data snare-2500 --experiments 1 --rates 75 25 --list

Splits, methods and scores are those of `--workflow benchmark`: ours by the steps TRAIN, CALIBRATE, EMBED, IMPUTE and
DIFFERENTIAL as the pipeline calls them, peers by their own programs (`make peers`; R with Seurat). Rows are appended as
soon as they are there, and computed once for each split's content and method's code (`split_hash`, `code_hash`), so
that a run that was stopped goes on where it was; `--again` computes them anew, `--list` says what is missing.

Data: `snare-2500` (a fixed draw of the cortex, stratified by type), `snare` (all its cells), `myeloma` (six samples,
paired and not), `bmmc` (multiome beside CITE-seq) for experiment 2, `simulated` (experiment 5).
`benchmarks/quality/paper_tables.py` writes the tables of docs/benchmarks/paper.md from the rows.
"""

from __future__ import annotations

import argparse
import ast
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
from benchmarks import places
from benchmarks.places import DATA, PACKAGE, ROOT, SETS
from benchmarks.quality.common import snare

from multivi_nf.benchmark import plan
from multivi_nf.benchmark.collect import collect
from multivi_nf.benchmark.reference import REFERENCE
from multivi_nf.benchmark.runner import COLUMNS, collected, run, scored
from multivi_nf.benchmark.splits import Split, build_mosaic
from multivi_nf.benchmark.task import Task, write_task
from multivi_nf.simulate import PRESETS, simulated_mosaic

BIN = ROOT / ".venv" / "bin"
RESULTS = places.RESULTS / "paper.tsv"
GENES = {"snare": DATA / "annotation" / "mm10.genes.bed.gz", "": DATA / "annotation" / "hg38.genes.bed.gz"}
KEYS = ("data", "split_hash", "code_hash")
NAMED = {"myeloma": "M", "bmmc": "B"}
OURS = ("data", "model", "training", "latent", "held_out", "calibration", "imputation", "comparison")
"""Rooms of the package that decide what ours says."""


def main() -> None:
    """Compute what is missing."""
    given = _given()
    for task, mosaic in tasks(given):
        missing = [method for method in _methods(task, given.methods) if given.again or not known(given, task, method)]
        for method in missing:
            print(f"{given.data}: {task.experiment} {task.name}, seed {task.seed}, {method}", flush=True)
            if not given.list:
                append(given, task, method, computed(task, method, mosaic, given.data, given.keep))


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="snare-2500")
    parser.add_argument("--experiments", type=int, nargs="+", default=[1])
    parser.add_argument("--rates", type=float, nargs="+", default=[75])
    parser.add_argument("--methods", nargs="+", default=["all"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--types", type=int, default=0, help="of experiment 4: only so many, the largest")
    parser.add_argument("--splits", nargs="+", default=[], help="of these names only")
    parser.add_argument("--keep", type=Path, help="folder of what `benchmark-score` wrote, for `benchmark-page`")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--again", action="store_true")
    return parser.parse_args()


def cells(name: str) -> tuple[mudata.MuData, pd.Series | None]:
    """The mosaic of a data set, as the pipeline would hand it on, and the cells' types."""
    if name == "simulated":
        mosaic, truth = simulated_mosaic(PRESETS["default"])
        return mosaic, truth.cells["cell_type"].reindex(mosaic.obs_names)
    if name in NAMED:
        mosaic = mudata.read_h5mu(SETS / f"{NAMED[name]}.h5mu")
        labels = mosaic.obs["label"].astype(str).replace("", plan.NO_LABEL)
        for m in mosaic.mod:
            mosaic.mod[m].obs["batch"] = mosaic.obs["batch"].astype(str).reindex(mosaic.mod[m].obs_names)
        shown = [(c, c, tuple(m for m in mosaic.mod if c in mosaic.mod[m].obs_names)) for c in mosaic.obs_names]
        return build_mosaic(dict(mosaic.mod), shown).mosaic, labels
    complete, labels = snare()
    chosen = labels.index if name == "snare" else stratified(labels, int(name.removeprefix("snare-")))
    shown = [(cell, cell, ("rna", "atac")) for cell in chosen]
    return build_mosaic(complete, shown).mosaic, labels.loc[chosen]


def stratified(labels: pd.Series, size: int) -> pd.Index:
    """So many cells in the order of the data, of each type its share (largest remainders), drawn once."""
    draw = np.random.default_rng(0)
    wanted = labels.value_counts().sort_index() * size / len(labels)
    take = np.floor(wanted).astype(int)
    take[(wanted - take).sort_values(ascending=False, kind="stable").index[: size - take.sum()]] += 1
    rows = [draw.permutation(np.flatnonzero(labels == name))[:n] for name, n in take.items()]
    return labels.index[np.sort(np.concatenate(rows))]


def tasks(given: argparse.Namespace) -> Iterator[tuple[Task, mudata.MuData]]:
    """The splits asked for, each with the whole mosaic."""
    mosaic, labels = cells(given.data)
    wanted = plan.Wanted(
        tuple(given.experiments), tuple(plan.METHODS), tuple(given.rates), tuple(given.seeds), given.types
    )
    for task in plan.tasks(mosaic, labels, wanted):
        if not given.splits or task.name in given.splits:
            yield task, mosaic


def _methods(task: Task, names: Sequence[str]) -> list[str]:
    """The task's methods and variants among the named, or all but the variants of ours."""
    possible = plan.runs_of(task)
    return [m for m in possible if m in names or ("all" in names and m not in (*task.variants, *plan.OPTIONAL))]


def split_hash(task: Task) -> str:
    """Of all that a method may see, and of the seed."""
    digest = hashlib.sha256(f"{task.experiment} {task.name} {task.seed}".encode())
    split: Split = task.split
    for m, part in split.mosaic.mod.items():
        digest.update("\0".join([m, *part.obs_names, *part.var_names]).encode())
        counts = part.layers["counts"] if "counts" in part.layers else part.X
        for array, kind in ((counts.indptr, np.int64), (counts.indices, np.int64), (counts.data, np.float64)):
            digest.update(np.ascontiguousarray(array, kind).tobytes())
    return digest.hexdigest()[:12]


def code_hash(method: str) -> str:
    """Of the code that decides what a method says."""
    digest = hashlib.sha256()
    if method.startswith("multivi-nf"):
        digest.update(json.dumps(plan.ABLATION.get(method, {}), sort_keys=True).encode())
        for path in sorted(p for room in OURS for p in (PACKAGE / room).rglob("*.py")):
            digest.update(path.read_bytes())
    elif method in REFERENCE:
        own = ["cobolt.py"] if method == "cobolt" else []
        for name in ("baselines.py", "reference.py", *own):
            digest.update((PACKAGE / "benchmark" / name).read_bytes())
    elif method.startswith("seurat"):
        digest.update((PACKAGE / "benchmark" / "peers" / "seurat.R").read_bytes())
    else:
        digest.update(_peer_code(method.split(":")[0]).encode() + method.encode())
    return digest.hexdigest()[:12]


def _peer_code(method: str) -> str:
    """The peers' program without the other methods' parts, and without what only calls them."""
    tree = ast.parse((PACKAGE / "benchmark" / "peers" / "run.py").read_text())
    own = method.replace("-", "_")
    others = tuple(name for name in ("scvi_multivi", "totalvi", "mofa", "wnn", "midas") if name != own)
    calls = {"METHODS", "PACKAGES", "version", "main"}
    tree.body = [node for node in tree.body if not (_name(node).lower().startswith(others) or _name(node) in calls)]
    return ast.dump(tree)


def _name(node: ast.stmt) -> str:
    """Of what a statement of a module defines; empty where it defines nothing, or more than one thing."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return node.name
    return node.targets[0].id if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) else ""


def known(given: argparse.Namespace, task: Task, method: str) -> bool:
    """Whether there is a row of this split by this code."""
    if not RESULTS.is_file():
        return False
    rows = pd.read_csv(RESULTS, sep="\t", dtype=str, keep_default_na=False)
    same = (given.data, split_hash(task), code_hash(method), method)
    return bool((rows[[*KEYS, "method"]] == same).all(axis=1).any())


def append(given: argparse.Namespace, task: Task, method: str, rows: pd.DataFrame) -> None:
    """Add rows, one process at a time; those of another code on the same split are replaced."""
    keys = {"data": given.data, "split_hash": split_hash(task), "code_hash": code_hash(method)}
    rows = rows.assign(**keys, method=method)[[*KEYS, *COLUMNS]]
    rows["value"] = [f"{value:.5g}" for value in rows["value"]]
    rows["cpu_seconds"] = [f"{value:.1f}" for value in rows["cpu_seconds"].astype(float)]
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = rows.to_csv(sep="\t", index=False, lineterminator="\n")
        found = pd.read_csv(pd.io.common.StringIO(text), sep="\t", dtype=str, keep_default_na=False)
        if RESULTS.is_file():
            old = pd.read_csv(RESULTS, sep="\t", dtype=str, keep_default_na=False)
            of = ["data", "split_hash", "method"]
            old = old[~(old[of] == found.loc[0, of]).all(axis=1)]
            found = pd.concat([old, found])
        partial = RESULTS.with_suffix(".part")
        found.to_csv(partial, sep="\t", index=False, lineterminator="\n")
        partial.replace(RESULTS)


def computed(task: Task, method: str, mosaic: mudata.MuData, data: str, keep: Path | None = None) -> pd.DataFrame:
    """Rows of one method on one split."""
    with tempfile.TemporaryDirectory(prefix="multivi_nf_paper_") as name:
        place = Path(name)
        write_task(task, place / "task")
        mosaic.write_h5mu(place / "whole.h5mu")
        try:
            _run(task, method, place, data)
        except RuntimeError as error:
            (place / "result").mkdir(exist_ok=True)
            told = {"method": method, "failed": str(error), "cpu_seconds": 0}
            (place / "result" / "run.json").write_text(json.dumps(told))
        scored(place / "task", place / "result", place / "whole.h5mu", data, place / "scores")
        if keep:
            folder = keep / f"{data}.{task.folder}.{re.sub('[^a-z0-9]+', '_', method)}"
            shutil.copytree(place / "scores", folder, dirs_exist_ok=True)
        return pd.read_csv(place / "scores" / "scores.tsv", sep="\t", keep_default_na=True).fillna({"note": ""})


def _run(task: Task, method: str, place: Path, data: str) -> None:
    """Write one method's result to `place`/result."""
    if method.startswith("multivi-nf"):
        ours(task, method, place)
    elif method in REFERENCE:
        run(method, place / "task", place / "whole.h5mu", place / "result")
    elif method.startswith("seurat"):
        genes = GENES[data.split("-")[0] if data.startswith("snare") else ""]
        program = PACKAGE / "benchmark" / "peers" / "seurat.R"
        _call("Rscript", "--vanilla", program, method, place / "task", place / "result", genes)
    else:
        program, (plain, _, variant) = PACKAGE / "benchmark" / "peers" / "run.py", method.partition(": ")
        _call(BIN / "peers-python", "-I", program, plain, place / "task", place / "result", variant)


def ours(task: Task, method: str, place: Path) -> None:
    """The steps of a run, as the pipeline's modules call them, and what they cost."""
    mosaic, seed = place / "task" / "mosaic.h5mu", f"--seed={task.seed}"
    step = _steps(place)
    variant = [f"--{name}={value}" for name, value in task.variants.get(method, {}).items()]
    step("train", mosaic, f"--output={place / 'model'}", seed, "--device=cpu", *variant)
    shutil.rmtree(place / "model.checkpoints", ignore_errors=True)
    step("calibrate", mosaic, place / "model", seed)
    step("embed", mosaic, place / "model", f"--output={place / 'multivi.h5mu'}", seed)
    stores = []
    for modality in task.hidden:
        stores.append(place / f"{modality}.zarr")
        listed = place / "task" / "hidden" / f"{modality}.txt"
        step(
            "impute",
            mosaic,
            place / "model",
            f"--modality={modality}",
            f"--cells={listed}",
            "--features=all",
            "--batch=own",
            seed,
            f"--output={stores[-1]}",
        )
    table = None
    if task.target is not None:
        table = place / "held_out.tsv.gz"
        step(
            "differential",
            place / "multivi.h5mu",
            place / "model",
            f"--modality={next(iter(task.hidden))}",
            "--groupby=label",
            f"--target={task.target}",
            "--reference=rest",
            "--cells=imputed",
            seed,
            f"--output={table}",
        )
    found = collect(place / "multivi.h5mu", stores, table)
    collected(found, sorted(place.glob("*.resources.json")), method, place / "result")


def _steps(place: Path):
    def step(name: str, *words: object) -> None:
        cost = place / f"{len(list(place.glob('*.resources.json')))}.{name}.resources.json"
        _call(BIN / "multivi-nf", "--resources", cost, name, *words)

    return step


def _call(*command: object) -> None:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    words = [str(word) for word in command]
    done = subprocess.run(words, env=os.environ | threads, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr, flush=True)
        last = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise RuntimeError(" ".join(["the step ended with code", str(done.returncode), *last[:1]]))


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=FutureWarning)
    main()
