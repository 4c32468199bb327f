"""Nothing that is not a result of the same step is ever replaced, and it is said before the work."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import click
import pytest

from multivi_nf.commands import STEPS, main
from multivi_nf.commands._outputs import OutputFile, OutputFolder, OutputPlace, Step
from multivi_nf.errors import InputError
from multivi_nf.io.outputs import (
    BENCHMARK,
    CHUNKS,
    FRAGMENTS,
    MODEL,
    RESULT,
    SCORES,
    SPLITS,
    STORE,
    check_file,
    check_folder,
    marked,
    note,
)


def command_of(step: str) -> click.Command:
    return importlib.import_module(f"multivi_nf.commands.{step.replace('-', '_')}").command


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"schema": 1, "model": {}}))
    (folder / "weights.safetensors").write_bytes(b"x")
    (folder / "calibration.json").write_text("{}")
    return folder


def fragments(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "fragments.json").write_text(json.dumps({"cells_in": 1, "totals": {}}))
    (folder / "candidates.txt").write_text("A\n")
    return folder


def chunks(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "cells_0001.txt").write_text("A\n")
    note(folder, CHUNKS.step)
    return folder


def store(folder: Path) -> Path:
    (folder / "uns/multivi_nf/c").mkdir(parents=True)
    (folder / "X/c/0").mkdir(parents=True)
    for name in ("zarr.json", "uns/zarr.json", "uns/multivi_nf/zarr.json", "X/zarr.json", "X/c/0/0"):
        (folder / name).write_text("{}")
    return folder


def splits(folder: Path) -> Path:
    (folder / "1.a_b.0a1b2c.0/hidden").mkdir(parents=True)
    for name in ("task.json", "mosaic.h5mu", "cells.tsv", "hidden/rna.txt"):
        (folder / "1.a_b.0a1b2c.0" / name).write_text("x")
    (folder / "plan.tsv").write_text("experiment\tsplit\tseed\tmethod\tfolder\twhy\n")
    return folder


def result(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"method": "ridge"}')
    (folder / "imputed_rna.npz").write_text("x")
    return folder


def scores(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "panel.json").write_text('{"about": {}, "split": {}, "panel": null}')
    (folder / "scores.tsv").write_text("experiment\tmethod\tmetric\tvalue\n")
    return folder


def page(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "scores.tsv").write_text("experiment\tmethod\tmetric\tvalue\n")
    (folder / "benchmark.html").write_text("x")
    return folder


MADE = [
    (SPLITS, splits),
    (RESULT, result),
    (SCORES, scores),
    (BENCHMARK, page),
    (MODEL, model),
    (FRAGMENTS, fragments),
    (CHUNKS, chunks),
    (STORE, store),
]


@pytest.mark.parametrize(("kind", "make"), MADE)
def test_own_results_are_replaced_and_nothing_beside_them(tmp_path, kind, make):
    check_folder(make(tmp_path / "own"), kind)
    check_folder(tmp_path / "new" / "below", kind)
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty", kind)
    for extra in ("thesis.tex", "data/thesis.tex", "weights (copy).safetensors", "X/notes.txt"):
        folder = make(tmp_path / extra.replace("/", "_") / "mixed")
        (folder / extra).parent.mkdir(parents=True, exist_ok=True)
        (folder / extra).write_text("precious")
        with pytest.raises(InputError, match=r"a folder that holds .*, which `.*` did not write"):
            check_folder(folder, kind)


@pytest.mark.parametrize(("kind", "make"), MADE)
def test_results_of_other_steps_are_not_replaced(tmp_path, kind, make):
    for index, (other, build) in enumerate(MADE):
        if other is not kind:
            with pytest.raises(InputError, match="did not write"):
                check_folder(build(tmp_path / str(index)), kind)


def test_places_where_nothing_can_go(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("file").write_text("x")
    Path("link").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    Path("target").mkdir()
    Path("folder").symlink_to("target")
    for path, said in {
        ".": "the folder that this command runs in",
        "..": "the folder that this command runs in",
        "../here": "the folder that this command runs in",
        "/": "the folder that this command runs in",
        "file": "a file, and a folder is to be written",
        "file/below": "is a file, not a folder",
        "link": "a symbolic link to nowhere",
        "folder": "a symbolic link to target",
        "loop": "leads nowhere",
        "/dev/zero": "neither a file nor a folder",
        "a" * 256: "a name of 256 bytes",
        "/".join(["deep" * 50] * 25): "a path that is too long",
        "/proc/none/model": "cannot be written",
    }.items():
        with pytest.raises(InputError, match=said):
            check_folder(Path(path), MODEL)
    assert {path.name for path in Path().iterdir()} == {"file", "link", "loop", "target", "folder"}


def test_files_of_another_kind_are_not_replaced(tmp_path):
    heads = {
        "hdf5": b"\x89HDF\r\n\x1a\n0",
        "json": b'{"a": 1}',
        "gzip": b"\x1f\x8b\x08",
        "bed": b"chr1\t1\t5\n",
        "html": b"<!doctype html><title>multivi-nf report</title>",
    }
    for form in heads:
        for other, head in heads.items():
            path = tmp_path / f"{form}-{other}"
            path.write_bytes(head)
            if form == other:
                check_file(path, form)
            else:
                with pytest.raises(InputError, match="a file of another kind"):
                    check_file(path, form)
    (tmp_path / "thesis.tex").write_text(r"\documentclass{article}" + "\n")
    for form in heads:
        with pytest.raises(InputError, match="a file of another kind"):
            check_file(tmp_path / "thesis.tex", form)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_looks_at_what_it_writes(step):
    """A step whose output were a plain path would write without looking."""
    command = command_of(step)
    assert isinstance(command, Step)
    named = [p for p in command.params if p.name in ("output", "peaks_output", "qc", "chunks", "outdir")]
    written = [p for p in named if isinstance(p, click.Option)]
    assert written
    assert all(isinstance(p.type, (OutputFile, OutputFolder, OutputPlace)) for p in written), step


COMMANDS = {
    "train": "train M --output OUT",
    "impute": "impute M MODEL --modality rna --output OUT",
    "gather-imputed": "gather-imputed M --output OUT",
    "qc-fragments": "qc-fragments M --genome hg38 --output OUT",
    "embed": "embed M MODEL --output e.h5mu --chunks OUT",
    "embed file": "embed M MODEL --output OUT",
    "report": "report . --output OUT",
    "simulate": "simulate --outdir OUT",
    "mosaic": "mosaic --samples M --inputs M --output OUT",
    "differential": "differential M MODEL --modality rna --groupby a --target b --output OUT",
    "merge-peaks": "merge-peaks M --genome hg38 --output OUT",
    "benchmark-split": "benchmark-split M --labels a --output OUT",
    "benchmark-run": "benchmark-run ridge M --output OUT",
    "benchmark-collect": "benchmark-collect M --output OUT",
    "benchmark-score": "benchmark-score M MODEL --complete M --dataset d --output OUT",
    "benchmark-page": "benchmark-page M --plan M --dataset d --output OUT",
    "resources": "--resources OUT merge-peaks M --genome hg38 --output x.bed",
}


def test_every_step_that_writes_a_folder_whole_is_tried():
    folders = {step: [p.type for p in command_of(step).params if isinstance(p.type, OutputFolder)] for step in STEPS}
    assert {step for step, kinds in folders.items() if kinds} <= COMMANDS.keys()
    looked_at = {step for step, kinds in folders.items() if any(kind.kind is None for kind in kinds)}
    assert looked_at == {"simulate"}, "it alone looks itself"


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_users_folder_survives_every_step(tmp_path, monkeypatch, capsys, words):
    """Exit 2 before anything is read: the input itself does not exist as what the step would read."""
    monkeypatch.chdir(tmp_path)
    project = tmp_path / "project"
    project.mkdir()
    (project / "thesis.tex").write_text("precious")
    (project / "m.h5mu").write_text("an input")
    before = content(tmp_path)
    arguments = words.replace("M ", "project/m.h5mu ").replace("MODEL", "model").replace("OUT", "project").split()
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "What to do:" in said and "project is a folder" in said or "project exists" in said, said
    assert content(tmp_path) == before


def test_an_input_is_never_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("m.h5mu").write_bytes(b"\x89HDF\r\n\x1a\nprecious")
    model(tmp_path / "reference")
    before = content(tmp_path)
    for words in ("embed m.h5mu reference --output m.h5mu", "train m.h5mu --reference reference --output reference"):
        with pytest.raises(SystemExit) as left:
            main(words.split())
        assert left.value.code == 2 and "would take the place of the input" in capsys.readouterr().err
    assert content(tmp_path) == before


PLACES = {
    "export": ("export M --output OUT", "cells.tsv.gz", "markers/rna.tsv.gz", "h5ad/rna.h5ad", "explorer.html"),
    "links": ("links M --output OUT", "links.tsv.gz", "links.bedpe"),
    "motifs": ("motifs M --output OUT", "motifs.h5ad", "motifs.tsv.gz"),
    "tracks": ("tracks M --fragments s=M --output OUT", "T.bw"),
    "group-peaks": ("group-peaks M --fragments s=M --merged merged.bed --output OUT", "T.bed"),
    "calibrate": ("calibrate M MODEL --output OUT", "calibration.json", "support.safetensors"),
    "qc-rna": ("qc-rna M --sample s --output s.h5ad --qc OUT", "rna.tsv.gz", "rna.json"),
    "qc-atac": ("qc-atac M --sample s --output s.h5ad --qc OUT", "atac.tsv.gz"),
    "qc-protein": ("qc-protein M --sample s --output s.h5ad --qc OUT", "protein.json"),
}


def test_every_step_that_writes_beside_what_is_there_is_tried():
    beside = {step for step in STEPS if any(isinstance(p.type, OutputPlace) for p in command_of(step).params)}
    assert beside == PLACES.keys()


@pytest.mark.parametrize("step", PLACES)
def test_a_users_file_of_a_results_name_survives(tmp_path, monkeypatch, capsys, step):
    """Exit 2 before anything is read; a mark of the step, or a run's manifest, says that the file is a result."""
    monkeypatch.chdir(tmp_path)
    words, *names = PLACES[step]
    Path("m.h5mu").write_text("no mosaic")
    (kind,) = {p.type.kind for p in command_of(step).params if isinstance(p.type, OutputPlace)}

    def told(folder: str) -> str:
        arguments = words.replace("M ", "m.h5mu ").replace("=M", "=m.h5mu").replace("MODEL", "model")
        with pytest.raises(SystemExit) as left:
            main(arguments.replace("OUT", folder).split())
        assert left.value.code == 2
        return capsys.readouterr().err

    for name in names:
        place = Path("mine") / name
        place.parent.mkdir(parents=True)
        place.write_text("precious")
        (Path("mine") / "thesis.tex").write_text("precious")
        before = content(tmp_path)
        assert f"mine holds {name!r}, which `{step}` did not write" in told("mine")
        assert content(tmp_path) == before
        (Path("mine") / "manifest.tsv").write_text(f"path\tsize\tsha256\tstep\nx/{name}\t8\t0\tX\n")
        assert "did not write" in told("mine")
        (Path("mine") / "manifest.tsv").write_text(f"path\tsize\tsha256\tstep\n{name}\t8\t0\tX\n")
        assert "did not write" not in told("mine")
        with pytest.raises(KeyError), marked(Path("own"), kind):
            assert {path.name for path in Path("own").iterdir()} == {f".multivi-nf.{step}.json"}
            (Path("own") / name).parent.mkdir(exist_ok=True)
            (Path("own") / name).write_text("a half")
            raise KeyError
        assert "did not write" not in told("own"), "what a killed run left"
        shutil.rmtree("mine")
        shutil.rmtree("own")
    told("new")
    assert not Path("new").exists() or content(Path("new")) == {}, "a step that wrote nothing leaves no mark"


@pytest.mark.parametrize(
    "words",
    [
        "qc-rna m.h5 --sample s --output new/x --qc new/../new/x",
        "embed m.h5mu model --output x --chunks ./x",
        "check-inputs m.json --samples m.json --output x --peaks-output x",
    ],
)
def test_two_results_under_one_name_are_refused_before_the_work(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(words.split())
    said = capsys.readouterr().err
    assert left.value.code == 2 and "are both" in said and "What to do:" in said, said
    assert list(tmp_path.iterdir()) == []
