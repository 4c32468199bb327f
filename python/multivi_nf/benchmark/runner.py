"""The steps of the benchmark workflow: run a method, bring ours into the same form, score a result."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from multivi_nf import __version__
from multivi_nf.benchmark.panels import Drawn, Identity, Panel, panel
from multivi_nf.benchmark.reference import REFERENCE, run_reference
from multivi_nf.benchmark.result import Result, read_result, write_result
from multivi_nf.benchmark.scores import scores_of, truth_of
from multivi_nf.benchmark.task import counted, modalities_of, read_task
from multivi_nf.errors import InputError
from multivi_nf.io.files import written_whole
from multivi_nf.io.hdf5 import reading
from multivi_nf.io.limits import read_object
from multivi_nf.io.records import as_json
from multivi_nf.io.tables import write_table
from multivi_nf.mosaic.read import read_mosaic

COLUMNS = (
    *("experiment", "dataset", "method", "split", "seed", "metric", "value", "cpu_seconds", "peak_memory", "note"),
)


def run(method: str, folder: Path, complete: Path | None, output: Path) -> str:
    """Run a method of this package on a task's folder and write its result; a failure becomes its row.

    Returns
    -------
    Why it failed, or nothing.
    """
    if method not in REFERENCE:
        raise InputError(
            f"there is no method {method!r} in this package",
            "peers run in environments of their own",
            f"name one of {', '.join(REFERENCE)}",
        )
    with reading(folder):
        task = read_task(folder)
    whole = None
    if method == "ceiling" and complete is not None:
        mosaic = read_mosaic(complete)
        whole = {m: counted(mosaic, m) for m in modalities_of(mosaic)}
    failed = ""
    started = time.process_time()
    try:
        result = run_reference(method, task, whole)
    except (ValueError, ArithmeticError) as error:
        result, failed = Result(about={"failed": str(error)}), str(error)
    cost: dict[str, object] = {"cpu_seconds": round(time.process_time() - started, 2), "peak_memory": _peak_memory()}
    result.about |= {"method": method, "version": f"multivi-nf {__version__}", **cost}
    _write(result, output)
    return failed


def collected(result: Result, costs: Sequence[Path], method: str, output: Path) -> None:
    """Write ours (:func:`collect`) as a result; it cost the sum of its steps' CPU seconds, the largest memory."""
    used = [read_object(path) for path in costs]
    result.about = {
        "method": method,
        "version": f"multivi-nf {__version__}",
        "settings": "those of the run" if method == "multivi-nf" else method.partition(": ")[2],
        "cpu_seconds": round(sum(one.get("cpu_seconds", 0.0) for one in used), 2),
        "peak_memory": max((one.get("peak_memory", 0) for one in used), default=0),
        "steps": sorted(one.get("step", "") for one in used),
    }
    _write(result, output)


def scored(folder: Path, result_folder: Path, complete: Path, dataset: str, output: Path) -> None:
    """Write `scores.tsv`, a row a metric, and `panel.json`, what is drawn."""
    with reading(folder):
        task = read_task(folder)
    with reading(result_folder):
        result = read_result(result_folder)
    about = result.about
    failed = str(about.get("failed", ""))
    lacking = set(task.hidden) - set(result.imputed) if task.target else set()
    if lacking and not failed:
        failed = f"nothing was imputed of {' and '.join(sorted(lacking))}: its step failed"
    values, drawn = {"failed": float("nan")}, Drawn()
    if not failed:
        truth = truth_of(task, result, read_mosaic(complete) if task.hidden else None)
        values, drawn = scores_of(task, result, truth), panel(task, result, truth)
    table = pd.DataFrame({"metric": list(values), "value": [float(value) for value in values.values()]})
    same = {
        "experiment": task.experiment,
        "dataset": task.dataset or dataset,
        "method": about["method"],
        "split": task.name,
        "seed": task.seed,
        "cpu_seconds": about.get("cpu_seconds"),
        "peak_memory": about.get("peak_memory"),
        "note": " ".join(f"failed: {failed}".split()) if failed else "",
    }
    told = Panel(about, Identity(task.experiment, task.name, task.seed, task.target), drawn)
    with written_whole(output) as place:
        place.mkdir()
        write_table(table.assign(**same)[list(COLUMNS)], place / "scores.tsv", gaps="", digits=None)
        (place / "panel.json").write_text(json.dumps(as_json(told), default=str) + "\n")


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _write(result: Result, output: Path) -> None:
    with written_whole(output) as place:
        place.mkdir()
        write_result(result, place)
