"""The folder of results: one run at a time, nothing of the user's replaced, a manifest of what this run made."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from tests.pipeline.nextflow_runs import BIN, REPOSITORY, small_sheet

STUB = ("-stub-run", "-profile", "test")


def rows(outdir: Path) -> dict[str, dict[str, str]]:
    with (outdir / "manifest.tsv").open(newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file, delimiter="\t")}


def test_a_used_folder_is_told_apart_locked_and_taken_over(nextflow, tmp_path):
    """Three runs: one is killed while it works, one stops at the door, one goes on in the killed one's place."""
    outdir = tmp_path / "out"
    for name in ("differential/old.tsv.gz", "qc/old/rna.json"):
        (outdir / name).parent.mkdir(parents=True)
        (outdir / name).touch()
    (outdir / "thesis.tex").write_text("precious")
    (tmp_path / "slow.config").write_text(
        "process.beforeScript = 'sleep 5'\n"
    )  # so that it works while the second tries
    small = ("-stub-run", "--input", small_sheet(tmp_path))
    command = [
        BIN / "nextflow",
        "-c",
        "slow.config",
        "run",
        REPOSITORY,
        "-ansi-log",
        "false",
        "--outdir",
        "out",
        *small,
    ]
    with (tmp_path / "first.log").open("w") as log:
        first = subprocess.Popen(
            [str(part) for part in command], cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    lock = outdir / "pipeline_info/.run.lock"
    deadline = time.monotonic() + 300
    while not (lock.exists() and lock.read_text().endswith("\n")):
        assert first.poll() is None and time.monotonic() < deadline, (tmp_path / "first.log").read_text()
        time.sleep(0.2)
    holder = json.loads(lock.read_text())
    second = nextflow(tmp_path / "other", "--outdir", outdir, *small)
    assert second.code == 1 and f"is in use by the run '{holder['run']}'" in second.said, second.said
    assert first.poll() is None, "else nothing was shown"
    later = json.loads(lock.read_text())
    assert later["token"] == holder["token"] and later["beat"] > holder["beat"], "it shows life"
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert lock.exists()
    third = nextflow(tmp_path, *small)
    assert third.code == 0 and "waiting up to" not in third.said, third.said
    assert not lock.exists() and "Look first at out/report.html" in third.said

    table = rows(outdir)
    assert {name: table[name]["step"] for name in ("differential/old.tsv.gz", "qc/old/rna.json")} == {
        "differential/old.tsv.gz": "stale",
        "qc/old/rna.json": "stale",
    }
    own = {name: row for name, row in table.items() if row["step"] not in ("stale", "Nextflow")}
    assert {"report.html", "multivi.h5mu", "model/weights.safetensors", "pipeline_info/params.json"} <= set(own)
    for name, row in own.items():
        content = (outdir / name).read_bytes()
        assert (row["size"], row["sha256"]) == (str(len(content)), hashlib.sha256(content).hexdigest()), name
    named = {str(path.relative_to(outdir)) for path in outdir.rglob("*") if path.is_file()}
    assert named - set(table) == {"manifest.tsv", "thesis.tex"}
    assert (outdir / "thesis.tex").read_text() == "precious"


DOOR = """
include { outdir_problem ; release_outdir ; take_outdir } from '%s/modules/outdir'

workflow {
    params.outdirs.toString().tokenize(',').each { outdir ->
        def settings = [outdir: outdir]
        System.out.println("[${outdir}] " + (outdir_problem(settings) ?: take_outdir(settings) ?: 'taken'))
        release_outdir(settings)
    }
}
"""


@pytest.fixture
def door(nextflow, tmp_path):
    """What is said of folders before anything else, by name: a run stops with it, or takes the folder."""

    def ask(*outdirs: str, **environment: str) -> dict[str, str]:
        (tmp_path / "door.nf").write_text(DOOR % REPOSITORY)
        run = nextflow(tmp_path, "--outdirs", ",".join(outdirs), project=tmp_path / "door.nf", **environment)
        assert run.code == 0 and "java.nio" not in run.said, run.said
        return {part.partition("] ")[0]: part.partition("] ")[2] for part in run.said.split("\n[")[1:]}

    return ask


def test_what_no_run_can_use_is_refused_in_three_parts(nextflow, door, tmp_path):
    (tmp_path / "afile").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/multivi.h5mu").write_text("my thesis")
    said = door("afile", "afile/below", "/proc/none", "mine", "new")
    assert said.pop("new").strip() == "taken" and len(said) == 4
    for name, text in said.items():
        assert ("cannot be written" in text) == (name != "mine") and "What to do:" in text, (name, text)
    run = nextflow(tmp_path, "--outdir", "mine", *STUB)
    assert run.code == 1 and "holds multivi.h5mu, which no run of this pipeline wrote" in run.said
    assert "What to do:" in run.said and not run.submitted()
    assert (tmp_path / "mine/multivi.h5mu").read_text() == "my thesis" and (tmp_path / "afile").read_text() == "x"


def holder(**other: object) -> str:
    """A lock of this machine."""
    return json.dumps(
        {
            "host": Path("/proc/sys/kernel/hostname").read_text().strip(),
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "space": str(Path("/proc/self/ns/pid").readlink()),
            "pid": 1,
            "started": 1,
            "run": "r",
        }
        | other
    )


STRANGE = {
    "a loop and a link to the root and a lock that is a number": lambda out: (
        (out / "qc").mkdir(),
        (out / "qc/loop").symlink_to(".."),
        (out / "disk").symlink_to("/"),
        (out / "model").symlink_to("model"),
        (out / "pipeline_info/.run.lock").write_text("5"),
    ),
    "a lock of words": lambda out: (out / "pipeline_info/.run.lock").write_text(holder(pid="abc", started="x")),
    "a lock of a machine that lost its power": lambda out: (out / "pipeline_info/.run.lock").write_bytes(b""),
    "a lock of noise": lambda out: (out / "pipeline_info/.run.lock").write_bytes(bytes(range(128, 256)) * 9),
}


def test_what_stands_in_the_folder_of_results_is_no_obstacle(nextflow, door, tmp_path):
    """Each is taken, after a silence where it could be another's; a run comes as far as its samplesheet."""
    for name, make in STRANGE.items():
        (tmp_path / name / "pipeline_info").mkdir(parents=True)
        make(tmp_path / name)
    said = door(*(f"./{name}" for name in STRANGE), MULTIVI_NF_STALE_SECONDS="2")
    first = {name.removeprefix("./"): text.splitlines()[0] for name, text in said.items()}
    assert first == dict.fromkeys(STRANGE, "taken"), said
    assert not [name for name in STRANGE if (tmp_path / name / "pipeline_info/.run.lock").exists()]
    (tmp_path / "out/pipeline_info").mkdir(parents=True)
    (tmp_path / "out/pipeline_info/.run.lock").write_bytes(b"")
    (tmp_path / "bad.csv").write_text("sample,rna\n")
    run = nextflow(tmp_path, "--input", "bad.csv", "-stub-run", MULTIVI_NF_STALE_SECONDS="2")
    assert run.code == 1 and "bad.csv" in run.said and "What to do:" in run.said, run.said
    assert "outdir.nf" not in run.said and "java.nio" not in run.said, run.said


def test_a_lock_of_another_host_counts_as_long_as_it_shows_life(nextflow, tmp_path):
    """Refused with its name while it changes; taken over once it has been silent for its time."""
    lock = tmp_path / "out/pipeline_info/.run.lock"
    lock.parent.mkdir(parents=True)
    (tmp_path / "bad.csv").write_text("sample,rna\n")
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(1):
            (tmp_path / "sign").write_text(holder(host="node17", boot="b", pid=4711, run="r1", beat=time.time_ns()))
            (tmp_path / "sign").replace(lock)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        refused = nextflow(tmp_path, "--input", "bad.csv", "-stub-run")
    finally:
        ended.set()
        thread.join()
    assert refused.code == 1 and "is in use by the run 'r1' (process 4711 on node17)" in refused.said, refused.said
    assert "waiting up to 60 s for a sign of life" in refused.said and "bad.csv" not in refused.said
    assert json.loads(lock.read_text())["host"] == "node17", "the first's lock is left alone"
    taken = nextflow(tmp_path, "--input", "bad.csv", "-stub-run", MULTIVI_NF_STALE_SECONDS="2")
    assert "waiting up to 2 s" in taken.said and "bad.csv" in taken.said and "in use" not in taken.said, taken.said
    assert not lock.exists(), "it was taken over, and given back"


TAKEN = {
    "cells.tsv.gz": gzip.compress(b"id\tx\n"),
    "clusters.tsv": b"gene\tmodule\n",
    "controls.tsv": b"mouse\tdose\n",
    "manifest.tsv": b"sample\tpath\n",
    "peaks/mine.bed": b"my notes\n",
}


def test_tables_of_the_user_are_not_replaced(door, tmp_path):
    """A result's name alone makes no result: what no run could have written is named and left."""
    halves = {"a": ("cells.tsv.gz", "clusters.tsv", "controls.tsv"), "b": ("manifest.tsv", "peaks/mine.bed")}
    for folder, names in halves.items():
        for name in names:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_bytes(TAKEN[name])
    said = door(*halves)
    for folder, names in halves.items():
        assert f"holds {', '.join(names)}, which no run of this pipeline wrote" in said[folder], said
        assert {name: (tmp_path / folder / name).read_bytes() for name in names} == {
            name: TAKEN[name] for name in names
        }


def test_a_lock_that_is_no_file_and_a_time_that_is_none(door, tmp_path):
    (tmp_path / "out/pipeline_info/.run.lock").mkdir(parents=True)
    said = door("out")["out"]
    assert "pipeline_info/.run.lock, which is no file" in said and "What to do:" in said, said
    said = door("new", MULTIVI_NF_STALE_SECONDS="abc")["new"]
    assert "MULTIVI_NF_STALE_SECONDS is 'abc'" in said and "What to do:" in said, said


CLOSING = """
include { write_manifest } from '%s/modules/outdir'
include { write_info     } from '%s/modules/record'

workflow {
    System.setProperty('multivi_nf.published report.html', '')
    def settings = [outdir: 'out', trace_report_suffix: 'x']
    System.out.println(write_manifest(settings))
    write_info(settings, 'params.json', '{}')
}
"""


@pytest.mark.parametrize("failing", ["", ".manifest.tsv.part", "pipeline_info/params.json"])
def test_what_is_written_of_a_run_fails_in_three_parts(nextflow, tmp_path, failing):
    """A folder stands for a disk that fails. An older manifest stays: it is told that it knows nothing of this run."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.tsv").write_text("path\tsize\tsha256\tstep\n")
    (tmp_path / "out/report.html").write_text("x")
    if failing:
        (tmp_path / "out" / failing / "x").mkdir(parents=True)
    (tmp_path / "closing.nf").write_text(CLOSING % (REPOSITORY, REPOSITORY))
    run = nextflow(tmp_path, project=tmp_path / "closing.nf")
    name = failing.replace(".part", "").removeprefix(".")
    told = f"ERROR: out/{name} cannot be written" in run.said and "What to do: free space there" in run.said
    assert told == bool(failing) and (run.code == 0) == ("params" not in failing), run.said
    assert ("report.html\t1\t" in (tmp_path / "out/manifest.tsv").read_text()) == ("manifest" not in failing)


def test_a_samplesheet_that_cannot_be_read_is_told_in_three_parts(nextflow, tmp_path):
    (tmp_path / "folder").mkdir()
    run = nextflow(tmp_path, "--input", "folder", "-stub-run")
    assert run.code == 1 and "folder cannot be read" in run.said and "What to do:" in run.said


def test_a_preview_does_not_say_done(nextflow, tmp_path):
    run = nextflow(tmp_path, "-preview", "-profile", "test")
    assert run.code == 0 and "Nothing was run: -preview" in run.said and "Done" not in run.said
    assert run.results() == []
