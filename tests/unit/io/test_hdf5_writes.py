"""A disk that fails while HDF5 writes: one error that names the file, nothing printed, no crash; else the same file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from mudata import MuData
from scipy import sparse

from multivi_nf.io.files import DiskFull, written_whole
from multivi_nf.io.hdf5_writes import errors_kept


@pytest.fixture
def data() -> ad.AnnData:
    counts = sparse.random(400, 300, 0.3, format="csr", dtype="f4", random_state=0)
    return ad.AnnData(counts)


def test_what_is_written_is_read_back(tmp_path, data):
    """By anndata, mudata (with its block before the file) and h5py, in modes w and r+."""
    with written_whole(tmp_path / "x.h5ad") as temporary:
        data.write_h5ad(temporary, compression="gzip")
    with written_whole(tmp_path / "x.h5mu") as temporary:
        MuData({"rna": data}).write(temporary)
        with h5py.File(temporary, "r+") as file:
            assert isinstance(file.kept.tell(), int), "the guarded file, else this test shows nothing"
            file["mod/rna/uns/note"] = np.arange(10)
    from multivi_nf.io.h5mu import read_h5mu

    assert (ad.read_h5ad(tmp_path / "x.h5ad").X != data.X).nnz == 0
    assert (read_h5mu(tmp_path / "x.h5mu")["rna"].X != data.X).nnz == 0
    with h5py.File(tmp_path / "x.h5mu") as file:
        assert file["mod/rna/uns/note"][:].tolist() == list(range(10)) and not hasattr(file, "kept")
    assert (tmp_path / "x.h5mu").read_bytes()[:6] == b"MuData"


def test_same_data_same_bytes(tmp_path, data):
    for name in ("a.h5ad", "b.h5ad"):
        with written_whole(tmp_path / name) as temporary:
            data.write_h5ad(temporary, compression="gzip")
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()


CODE = """
import errno, os, sys
from pathlib import Path
import numpy as np, h5py
from multivi_nf.io.files import written_whole
allowed, code = int(sys.argv[1]), getattr(errno, sys.argv[2])
write, done = os.pwrite, 0
def failing(handle, content, at):
    global done
    done += 1
    if done > allowed:
        raise OSError(code, os.strerror(code))
    return write(handle, content, at)
os.pwrite = failing
try:
    with written_whole(Path("x.h5")) as temporary, h5py.File(temporary, "w") as file:
        for i in range(20):
            file.create_dataset(f"a/{i}", data=np.random.default_rng(i).normal(size=3000), compression="gzip")
except Exception as error:
    print(type(error).__name__, error)
print("calls", done)
"""


def failing_writer(folder: Path, allowed: int, code: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", CODE, str(allowed), code]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("code", "said"), [("ENOSPC", "DiskFull"), ("EIO", "OSError [Errno 5]")])
def test_no_write_that_fails_crashes_hdf5(tmp_path, code, said):
    calls = int(failing_writer(tmp_path, 10**9, code).stdout.split()[-1])
    assert calls > 5
    (tmp_path / "x.h5").unlink()
    for allowed in sorted({0, 1, 2, calls // 2, calls - 2, calls - 1}):
        done = failing_writer(tmp_path, allowed, code)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(said) and "x.h5" in done.stdout
        assert list(tmp_path.iterdir()) == []


def test_a_body_that_stumbles_over_what_was_lost_is_told_as_the_full_disk(tmp_path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull), written_whole(tmp_path / "x.h5") as temporary, h5py.File(temporary, "w") as file:
        file["a"] = np.arange(1000)
        file.flush()
        msg = "what was read back is wrong"
        raise ValueError(msg)


def test_other_files_are_h5pys_own(tmp_path):
    with errors_kept(tmp_path / "x.h5"), h5py.File(tmp_path / "y.h5", "w") as file:
        assert not hasattr(file, "kept")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        assert not hasattr(file, "kept")
