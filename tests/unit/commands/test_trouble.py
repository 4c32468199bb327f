"""What the machine does to a step is told in three parts, with a code that the executor understands."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
import torch

import multivi_nf.commands as steps
from multivi_nf.commands._trouble import trouble_of
from multivi_nf.errors import Damaged, InputError

REPOSITORY = Path(__file__).resolve().parents[3]


def caused_by(cause: BaseException) -> InputError:
    error = InputError("x is damaged", "y", "z")
    error.__cause__ = cause
    return error


CASES = {
    "memory": (MemoryError(), 137, "ran out of memory"),
    "numpy": (np._core._exceptions._ArrayMemoryError((10,), np.dtype("f8")), 137, "ran out of memory"),
    "gpu": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 137, "GPU has too little memory"),
    "cublas": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), 137, "GPU has too little memory"),
    "torch": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 137, "ran out of memory"),
    "c++": (RuntimeError("std::bad_alloc"), 137, "ran out of memory"),
    "fork": (OSError(errno.ENOMEM, "Cannot allocate memory"), 137, "ran out of memory"),
    "taken for damage": (caused_by(MemoryError()), 137, "ran out of memory"),
    "full": (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 2, "is full: /x/y"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded", "/x/y"), 2, "is full: /x/y"),
    "rights": (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "permission is denied: /x/y"),
    "read-only": (OSError(errno.EROFS, "Read-only file system", "/x/y"), 2, "read-only: /x/y"),
    "vanished": (FileNotFoundError(errno.ENOENT, "No such file", "/x/y"), 2, "is not there (any more): /x/y"),
    "stale": (OSError(errno.ESTALE, "Stale file handle", "/x/y"), 2, "vanished from its server"),
    "i/o": (OSError(errno.EIO, "Input/output error", "/x/y"), 2, "cannot be read or written"),
    "fuse": (OSError(errno.ENOTCONN, "Transport endpoint is not connected", "/x/y"), 2, "does not answer: /x/y"),
    "ticket": (OSError(errno.EKEYEXPIRED, "Key has expired", "/x/y"), 2, "log in again"),
    "busy": (OSError(errno.EBUSY, "Device or resource busy", "/x/y"), 2, "is in use and cannot be replaced: /x/y"),
    "open files": (OSError(errno.EMFILE, "Too many open files", "/x/y"), 2, "too many files are open"),
    "threads": (RuntimeError("can't start new thread"), 2, "no further thread"),
    "ctrl-c": (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
}


@pytest.fixture
def failing(monkeypatch):
    """A step that raises what it is given."""

    def make(error: BaseException) -> None:
        @click.command()
        def command() -> None:
            raise error

        monkeypatch.setattr(steps.Steps, "get_command", lambda self, ctx, name: command)

    return make


@pytest.mark.parametrize("name", CASES)
def test_trouble_has_three_parts_and_a_code(failing, capsys, name):
    error, code, said = CASES[name]
    failing(error)
    with pytest.raises(SystemExit) as left:
        steps.main(["merge-peaks"])
    printed = capsys.readouterr().err
    assert left.value.code == code and said in printed
    assert "Traceback" not in printed
    assert code == 130 or all(part in printed for part in ("ERROR: ", "Why it matters: ", "What to do: "))


def test_the_folder_of_the_task_that_wrote_a_damaged_file_is_named(failing, capsys, tmp_path, monkeypatch):
    """And only in a task of Nextflow, and only where the message is of a file that another task wrote."""
    writer, task = tmp_path / "work/ab/cd", tmp_path / "work/ef/01"
    for folder in (writer / "model", task):
        folder.mkdir(parents=True)
    (task / "model").symlink_to(writer / "model")
    monkeypatch.chdir(task)
    weights = Path("model/weights.safetensors")
    for error, there, named in (
        (Damaged(weights, "is damaged: cut"), True, True),
        (InputError.all_of([InputError("a", "b", "c"), Damaged(weights, "is damaged: cut")]), True, True),
        (Damaged(weights, "is damaged: cut"), False, False),
        (Damaged(task / "own.h5ad", "is damaged"), True, False),
        (InputError("model/weights.safetensors is missing", "b", "name another"), True, False),
    ):
        for folder in (writer, task):
            (folder / ".command.sh").touch() if there else (folder / ".command.sh").unlink(missing_ok=True)
        failing(error)
        with pytest.raises(SystemExit) as left:
            steps.main(["merge-peaks"])
        assert left.value.code == 2
        assert (f"delete the work folder {writer} and run with -resume" in capsys.readouterr().err) == named


@pytest.mark.parametrize(("limit", "code"), [("ulimit -v 400000; ", 137), ("", 2)])
def test_a_library_that_cannot_be_mapped(tmp_path, limit, code):
    """Under `ulimit -v`, as schedulers set it, torch cannot be loaded; without a limit its disk forbids programs."""
    held = "import torch" if limit else "raise ImportError('libx.so: failed to map segment from shared object')"
    code_text = (
        "import sys\nimport multivi_nf.commands as steps\n"
        f"def get(self, ctx, name):\n    {held}\n"
        "steps.Steps.get_command = get\nsys.exit(steps.exit_code(['train']))"
    )
    command = f"{limit}exec '{sys.executable}' -c \"$1\""
    done = subprocess.run(["bash", "-c", command, "bash", code_text], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code and "failed to map segment" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and ("ulimit -v" in done.stderr) == bool(limit)
    assert all(part in done.stderr for part in ("ERROR: ", "Why it matters: ", "What to do: "))


WORDED = {
    "hdf5": RuntimeError(
        "Can't read data (file read failed: time = Mon, errno = 5, error message = 'Input/output error')"
    ),
    "rust": RuntimeError("I/O error: Input/output error (os error 5)"),
    "htslib": OSError("Error closing BGZFile object"),
    "htslib's index": OSError("building of index for x.tsv.gz failed"),
    "htslib's opening": OSError("Could not open file 'x.tsv.gz': Input/output error"),
    "anndata": caused_by(OSError("Can't synchronously read data (errno = 5)")),
    "a reader": caused_by(OSError(errno.EIO, "Input/output error")),
}


@pytest.mark.parametrize("name", WORDED)
def test_an_i_o_error_is_known_by_its_words(failing, capsys, name):
    """And not as damage to the file that a reader thought it saw."""
    failing(WORDED[name])
    with pytest.raises(SystemExit) as left:
        steps.main(["merge-peaks"])
    said = capsys.readouterr().err
    assert left.value.code == 2 and "cannot be read or written (I/O error)" in said
    assert ("x is damaged" in said) == isinstance(WORDED[name], InputError), "the reader's words stay"


def test_a_disk_that_fails_is_no_problem_of_a_sample():
    """PREFLIGHT writes problems down, and `-resume` takes what it wrote from the cache: only what stays counts."""
    from multivi_nf.preflight.checked import CheckedSample

    found = CheckedSample("s")

    def fail(error: Exception) -> None:
        raise error

    assert found.attempt("rna", lambda: fail(InputError("a", "b", "c"))) is None
    with pytest.raises(InputError, match="x is damaged"):
        found.attempt("rna", lambda: fail(caused_by(OSError(errno.EIO, "Input/output error"))))


@pytest.mark.parametrize("error", [ZeroDivisionError("1 / 0"), KeyError("x"), RuntimeError("shape mismatch")])
def test_a_bug_is_no_trouble(failing, error):
    assert trouble_of(error) is None
    failing(error)
    with pytest.raises(type(error)):
        steps.main(["merge-peaks"])


@pytest.mark.parametrize("text", ["Connection closed by peer [10.0.0.1]:5", "Timed out waiting 7200000ms for recv"])
def test_a_lost_process_is_tried_again_and_only_of_several(failing, capsys, monkeypatch, text):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert trouble_of(RuntimeError(text)) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert trouble_of(ValueError(text)) is None and trouble_of(RuntimeError("a bug")) is None
    failing(RuntimeError(text))
    with pytest.raises(SystemExit) as left:
        steps.main(["merge-peaks"])
    printed = capsys.readouterr().err
    assert left.value.code == 104 and text in printed and "--resume" in printed and "Traceback" not in printed
    assert " 104," in (REPOSITORY / "conf/base.config").read_text()


def test_what_is_retried_is_what_more_memory_mends():
    """conf/base.config tries 137 again and not 2."""
    rule = re.search(r"in \[([\d, ]+)\] \+ \((\d+)\.\.(\d+)\)", (REPOSITORY / "conf/base.config").read_text())
    assert rule
    retried = {int(code) for code in rule[1].split(",")} | set(range(int(rule[2]), int(rule[3]) + 1))
    assert {104, 137, 140, 143} <= retried and retried.isdisjoint({0, 1, 2})


SHEET = "sample,rna\ns1,x.h5\n"


def step(folder: Path, redirections: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Check a samplesheet, by the launcher of the pipeline."""
    (folder / "s.csv").write_text(SHEET)
    (folder / "x.h5").write_text("x")
    (folder / "exec.sh").write_text(
        f'exec "{REPOSITORY}/bin/multivi-nf-check-samplesheet" s.csv --output s.json {" ".join(words)} {redirections}\n'
    )
    environment = os.environ | {"PATH": f"{REPOSITORY}/.venv/bin:{os.environ['PATH']}"}
    return subprocess.run(["bash", "exec.sh"], cwd=folder, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("redirections", [">&-", "2>&-", "<&- >&- 2>&-", "> /dev/full 2>&1", "2> /dev/full"])
def test_closed_and_full_streams_do_not_cost_the_result(tmp_path, redirections):
    done = step(tmp_path, redirections)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s.json").read_text().startswith("{")
    again = step(tmp_path, "")
    assert again.returncode == 0


def test_a_pipe_that_nobody_reads_does_not_cost_the_result(tmp_path):
    """`multivi-nf ... | head -0`: what is said is lost, the code and the result are not."""
    code = (
        "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1); os.dup2(w, 2)\n"
        "from multivi_nf.io.streams import forgiven\n"
        "with forgiven():\n"
        "    print('x' * 100_000); print('y', file=sys.stderr); sys.stdout.flush()\n"
        "open('done', 'w').write('whole')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert done.returncode == 0 and (tmp_path / "done").read_text() == "whole"


def test_no_other_code_is_run(tmp_path):
    """Neither PYTHONPATH nor the current folder nor PYTHONHOME lends a module; both launchers."""
    (tmp_path / "click.py").write_text("raise SystemExit('another click was used')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('another numpy was used')")
    for name, words in (
        ("bin/multivi-nf", ["merge-peaks", "--help"]),
        (".venv/bin/multivi-nf", ["merge-peaks", "--help"]),
    ):
        for lent in ({"PYTHONPATH": str(tmp_path)}, {"PYTHONHOME": str(tmp_path)}, {}):
            environment = os.environ | {"PATH": f"{REPOSITORY}/.venv/bin:{os.environ['PATH']}"} | lent
            done = subprocess.run(
                [REPOSITORY / name, *words], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
            )
            assert done.returncode == 0, (name, lent, done.stderr)
    plain = subprocess.run(
        [REPOSITORY / ".venv/bin/python", "-c", "import click"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert "another click was used" in plain.stderr, "the negative control"


def test_images_start_python_isolated():
    """containers/install adds -I to the first line of every program of an image, MACS3's too."""
    text = (REPOSITORY / "containers/install").read_text()
    assert text.count('isolate "$2"') == 2 and "s|$| -I|" in text


def test_caches_are_ones_own(tmp_path, monkeypatch):
    from multivi_nf.io.caches import own, writable_caches

    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert not own(tmp_path / "open"), "another user could put code there"
    assert not own(Path("relative")) and not own(Path("/proc/none"))
    monkeypatch.setenv("HOME", "/proc")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "open"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "mine"))
    writable_caches()
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / "mine")
    assert own(Path(os.environ["NUMBA_CACHE_DIR"])) and os.environ["NUMBA_CACHE_DIR"] != str(tmp_path / "open")


def test_sigterm_leaves_nothing_half_written(tmp_path):
    code = (
        "import time, sys\nfrom pathlib import Path\nimport click\nimport multivi_nf.commands as steps\n"
        "from multivi_nf.io.files import written_whole\n"
        "@click.command()\ndef command():\n"
        "    with written_whole(Path('x.json')) as temporary:\n"
        "        temporary.write_text('half'); Path('started').touch()\n"
        "        while True: time.sleep(0.05)  # a signal just before one long sleep would be seen only after it\n"
        "steps.Steps.get_command = lambda self, ctx, name: command\nsteps.main(['merge-peaks'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    while not (tmp_path / "started").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143
    assert [path.name for path in tmp_path.iterdir()] == ["started"]


def test_a_notebooks_plotting_backend_does_not_reach_the_steps(tmp_path):
    """Jupyter sets MPLBACKEND to a module of its own; Nextflow started there hands it to every task."""
    environment = os.environ | {"MPLBACKEND": "module://matplotlib_inline.not_here"}
    step = [sys.executable, "-I", "-m", "multivi_nf", "qc-rna", "--help"]
    code = "import sys; from multivi_nf.commands import main\ntry: main(['--version'])\nexcept SystemExit: pass\n"
    code += "import scanpy, matplotlib; print(matplotlib.get_backend())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split()[-1].lower() == "agg", done.stderr
    assert subprocess.run(step, env=environment, capture_output=True).returncode == 0


def test_an_input_that_may_not_be_read_is_told_in_three_parts(tmp_path, monkeypatch, capsys):
    """The command line looks at it before any step does, and would show its usage."""
    (tmp_path / "x.h5").touch()
    monkeypatch.setattr(os, "access", lambda path, mode, **_: False)
    assert steps.exit_code(["qc-rna", str(tmp_path / "x.h5"), "--sample", "s", "--output", "o", "--qc", "q"]) == 2
    printed = capsys.readouterr().err
    assert "x.h5' is not readable" in printed and "Usage" not in printed
    assert all(part in printed for part in ("ERROR: ", "Why it matters: ", "What to do: "))


SETTINGS = """
from multivi_nf.commands import main
try: main(['--version'])
except SystemExit: pass
import anndata, numba, zarr
print(zarr.config.get('codecs.bytes').partition('.')[0], anndata.settings.zarr_write_format)
"""


@pytest.mark.parametrize("threads", ["x", "0"])
def test_settings_of_zarr_anndata_and_numba_do_not_reach_the_steps(threads):
    """Of the environment: a store's bytes, and the code that packs it, hang on the step alone."""
    lent = {"ZARR_CODECS__BYTES": "os.evil", "ANNDATA_ZARR_WRITE_FORMAT": "3", "NUMBA_NUM_THREADS": threads}

    def said(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code], env=os.environ | lent, capture_output=True, text=True)

    assert said("import zarr; print(zarr.config.get('codecs.bytes'))").stdout.split() == ["os.evil"], "the control"
    done = said(SETTINGS)
    assert done.stdout.splitlines()[-1].split() == ["zarr", "2"], done.stdout + done.stderr
    assert "Traceback" not in done.stderr
