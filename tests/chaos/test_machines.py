"""Machines as sites have them: all that is narrow at once, and the same bytes as on an ordinary one.

Scratch and results where no program may be started (noexec), no /dev/shm, a home that cannot be written or none, 64
open files, umask 077; each in mounts of its own (`unshare -m`, root).
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from tests.chaos.sweep import PARTS, content
from tests.chaos.test_attacks import write_mosaic
from tests.conftest import skip_or_fail
from tests.pipeline.nextflow_runs import small_sheet

REPOSITORY = Path(__file__).resolve().parents[2]
MOUNTS = """set -eu
mount --bind "$PWD" "$PWD" && mount -o remount,bind,noexec "$PWD" && cd "$PWD"
mount --bind "$HELD" "$HELD" && mount -o remount,bind,ro "$HELD"
mkdir dev && mount -t tmpfs tmpfs dev
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
ln -s /proc/self/fd dev/fd
for name in stdin stdout stderr; do ln -s "$(readlink /dev/$name)" dev/$name; done
mount --rbind dev /dev
! [ -e /dev/shm ] && ! ( echo x > "$HELD/x" ) 2> denied
printf '#!/bin/sh\\n' > program; chmod 777 program; ! ./program 2> denied && grep -q denied denied
rm program denied; mkdir tmp; export TMPDIR="$PWD/tmp"; umask 077
"""
"""`$HELD` is the home; each condition is shown to hold before anything is tried."""


@pytest.fixture
def narrow(tmp_path):
    """Run a shell line in such mounts; gives what it said."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        skip_or_fail("mounts of its own are made by root, with `unshare`")

    def run(line: str, folder: Path, home: Path | None = None) -> subprocess.CompletedProcess[str]:
        held = home or tmp_path / "home"
        held.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "NUMBA_", "MPL"))}
        kept |= {"HELD": str(held), "PATH": f"{REPOSITORY}/.venv/bin:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        kept |= {"HOME": str(held)} if home is None else {}
        command = ["unshare", "-m", "bash", "-c", MOUNTS + line]
        return subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, check=False, timeout=900)

    return run


STEPS = (
    "train m.h5mu --output model --max-epochs 2 --n-hidden 16 --n-latent 4 --device cpu",
    "calibrate m.h5mu model --samples 8",
    "embed m.h5mu model --output e.h5mu --chunks chunks",
    "impute e.h5mu model --modality rna --samples 40 --output 1.zarr",
    "gather-imputed 1.zarr --embedding e.h5mu --output rna.zarr",
    "differential e.h5mu model --modality rna --groupby type --target t0 --reference t1 --samples 8 --output d.tsv.gz",
    "export e.h5mu rna.zarr --output tables",
)
SEVERAL = (
    "import sys; from multivi_nf.commands import exit_code\nsys.exit(max(exit_code(a.split()) for a in sys.argv[1:]))"
)


def test_steps_on_a_narrow_machine(narrow, tmp_path) -> None:
    """From the mosaic to the tables: the bytes of an ordinary machine, for nobody else's eyes."""
    calm, odd = tmp_path / "calm", tmp_path / "odd"
    for folder in (calm, odd):
        folder.mkdir()
        write_mosaic(folder / "m.h5mu")
    ordinary = [REPOSITORY / ".venv/bin/python", "-I", "-c", SEVERAL, *STEPS]
    subprocess.run(ordinary, cwd=calm, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    words = " ".join(f"'{line}'" for line in STEPS)
    done = narrow(f"ulimit -n 64; unset HOME; exec python -I -c '{SEVERAL}' {words}", odd)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    left = [path for path in (odd / "tmp").rglob("*") if path.is_file()]
    assert all("multivi-nf" in str(path) for path in left), "caches only"
    for name in ("tmp", "dev"):
        shutil.rmtree(odd / name)
    assert content(odd) == content(calm)
    for path in odd.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert path.name == "m.h5mu" or mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


def test_two_processes_train_on_a_narrow_machine(narrow, tmp_path) -> None:
    """They know each other by a port, not by /dev/shm."""
    write_mosaic(tmp_path / "m.h5mu")
    done = narrow("exec multivi-nf train m.h5mu --output model --max-epochs 1 --device cpu --n-devices 2", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "model/weights.safetensors").is_file()


def test_the_pipeline_on_a_narrow_machine(narrow, tmp_path) -> None:
    """Nextflow and the tasks' scripts (stubs) in a folder where no program may be started, with a read-only home."""
    sheet, folder = small_sheet(tmp_path), tmp_path / "run"
    folder.mkdir()
    line = f"exec nextflow run '{REPOSITORY}' -ansi-log false -stub-run --input '{sheet}' --outdir out"
    done = narrow(line, folder)
    assert done.returncode == 0 and "Look first at out/report.html" in done.stdout, done.stdout + done.stderr
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (folder / "out").rglob("*")}
    assert modes == {0} and (folder / "out/manifest.tsv").is_file()


def test_a_full_disk_of_results(small_disk, nextflow, tmp_path) -> None:
    """--outdir on a disk without a byte: before any task, in three parts; nothing is left; with room it goes on."""
    place = small_disk("full", "16k")
    (tmp_path / "bad.csv").write_text("sample,rna\n")
    (place / "filler").write_bytes(bytes(16_384))
    words = ("run", REPOSITORY, "--outdir", "full", "--input", "bad.csv", "-stub-run")
    done = nextflow("-c", REPOSITORY / "tests/untraced.config", *words, cwd=tmp_path, status=1)
    said = done.stdout + done.stderr
    assert "No space left on device" in said and all(part in said for part in PARTS), said
    assert "outdir.nf" not in said and "bad.csv" not in said
    assert [path.name for path in place.rglob("*") if path.is_file()] == ["filler"]
