"""Files of strangers: nothing outside of them is read, and nothing in them fills the memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numcodecs
import numpy as np
import pandas as pd
import pytest
import zarr

from multivi_nf.counts.read import read_counts
from multivi_nf.data.source import source_of
from multivi_nf.errors import InputError
from multivi_nf.io import hdf5
from multivi_nf.io.hdf5 import check_hdf5, open_hdf5
from multivi_nf.io.limits import Guarded, opened, read_json, read_tsv
from multivi_nf.io.stores import check_store
from multivi_nf.mosaic.read import read_mosaic

SECRET = "PRIVATE-KEY-"


@pytest.fixture
def secret(tmp_path) -> Path:
    """What must never be read: an HDF5 file, and the same bytes for external storage."""
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["names"] = np.array([f"{SECRET}{i}" for i in range(30)], "S20")
    return path


def tenx(path: Path) -> Path:
    """A 10x file without the names of its features."""
    counts = np.random.default_rng(0).poisson(3, (60, 30))
    rows, columns = np.nonzero(counts)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"] = counts[rows, columns].astype("i4"), columns.astype("i8")
        group["indptr"] = np.concatenate([[0], np.cumsum((counts > 0).sum(axis=1))])
        group["shape"] = np.array([30, 60], "i4")
        group["barcodes"] = np.array([f"AAAC{i:06d}-1" for i in range(60)], "S")
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(30)], "S")
        features["feature_type"] = np.array(["Gene Expression"] * 30, "S")
        features["genome"] = np.array(["GRCh38"] * 30, "S")
    return path


def external_storage(group: h5py.Group, secret: Path) -> None:
    group.create_dataset("name", shape=(30,), dtype="S20", external=[(str(secret), 0, 600)])


def external_link(group: h5py.Group, secret: Path) -> None:
    group["name"] = h5py.ExternalLink(str(secret), "/names")


def virtual(group: h5py.Group, secret: Path) -> None:
    layout = h5py.VirtualLayout(shape=(30,), dtype="S20")
    layout[:] = h5py.VirtualSource(str(secret), "names", shape=(30,))
    group.create_virtual_dataset("name", layout)


def link_through_a_link(group: h5py.Group, secret: Path) -> None:
    group.file["away"] = h5py.ExternalLink(str(secret), "/")
    group["name"] = h5py.SoftLink("/away/names")


def deep(group: h5py.Group, secret: Path) -> None:
    """Far from what a reader asks for."""
    group["name"] = np.array(["G"] * 30, "S")
    external_link(group.file.create_group("uns/a/b/c"), secret)


WAYS = [external_storage, external_link, virtual, link_through_a_link, deep]


@pytest.mark.parametrize("way", WAYS)
def test_a_matrix_that_leads_out_of_its_file_is_refused(tmp_path, secret, way):
    path = tenx(tmp_path / "public.h5")
    with h5py.File(path, "r+") as file:
        way(file["matrix/features"], secret)
    with pytest.raises(InputError, match=r"refers to another file") as refused:
        read_counts(path, "rna")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("way", WAYS)
def test_so_is_a_mosaic_by_every_reader(tmp_path, secret, way):
    path = tenx(tmp_path / "public.h5mu")
    with h5py.File(path, "r+") as file:
        way(file["matrix/features"], secret)
    for read in (read_mosaic, source_of, check_hdf5):
        with pytest.raises(InputError, match="refers to another file"):
            read(path)


def test_links_within_a_file_are_no_harm(tmp_path):
    path = tenx(tmp_path / "own.h5")
    with h5py.File(path, "r+") as file:
        file["matrix/features/name"] = h5py.SoftLink("/matrix/features/id")
        file["again"] = h5py.SoftLink("/matrix/features/name")
        file["matrix/up"] = file["/"]
    assert read_counts(path, "rna").n_vars == 30


@pytest.mark.parametrize("target", ["/nowhere", "/loop", "/matrix/data/x"])
def test_a_link_that_ends_nowhere_is_refused(tmp_path, target):
    path = tenx(tmp_path / "own.h5")
    with h5py.File(path, "r+") as file:
        file["loop"] = h5py.SoftLink(target)
    with pytest.raises(InputError, match="refers to another file"):
        check_hdf5(path)


def test_what_cannot_be_stored_is_not_allocated(tmp_path):
    path = tenx(tmp_path / "own.h5mu")
    with h5py.File(path, "r+") as file:
        file.create_dataset("big", shape=(10**12,), dtype="i4", chunks=(1000,))
    for read in (read_mosaic, source_of):
        with pytest.raises(InputError, match="declares"):
            read(path)


# -- zarr -------------------------------------------------------------------------------------------------------------


def a_store(path: Path) -> Path:
    group = zarr.open_group(path, mode="w")
    group.create_array("X", shape=(4, 4), dtype="f4", chunks=(2, 2))[:] = np.ones((4, 4))
    return path


def test_a_plain_store_passes(tmp_path):
    check_store(a_store(tmp_path / "x.zarr"))
    (tmp_path / "staged.zarr").symlink_to("x.zarr")  # as Nextflow stages it
    check_store(tmp_path / "staged.zarr")


def edited(path: Path, name: str, **entries: object) -> None:
    content = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps(content | entries))


def chunk_link(path: Path, secret: Path) -> None:
    (path / "X/c/0/0").unlink()
    (path / "X/c/0/0").symlink_to(secret)


def folder_link(path: Path, secret: Path) -> None:
    (path / "away").symlink_to(secret.parent)


def pipe(path: Path, secret: Path) -> None:
    os.mkfifo(path / "X/c/0/9")


def transformer(path: Path, secret: Path) -> None:
    edited(path, "X/zarr.json", storage_transformers=[{"name": "http"}])


def references(path: Path, secret: Path) -> None:
    (path / ".zmetadata").write_text(json.dumps({"version": 1, "refs": {"X/0.0": ["http://host/x", 0, 64]}}))


def consolidated(path: Path, secret: Path) -> None:
    edited(path, "zarr.json", consolidated_metadata={"metadata": {"../secret": {}}})


def bomb(path: Path, secret: Path) -> None:
    grid = {"name": "regular", "configuration": {"chunk_shape": [10**6, 10**6]}}
    edited(path, "X/zarr.json", chunk_grid=grid)


@pytest.mark.parametrize(
    "way", [chunk_link, folder_link, pipe, transformer, references, consolidated, bomb], ids=lambda way: way.__name__
)
def test_a_store_that_leads_out_is_refused(tmp_path, secret, way):
    path = a_store(tmp_path / "x.zarr")
    way(path, secret)
    with pytest.raises(InputError, match=r"something outside|declares chunks"):
        check_store(path)


@pytest.mark.parametrize("codec", [{"id": "pickle", "protocol": 4}, {"name": "numcodecs.Pickle"}])
@pytest.mark.parametrize("place", ["filters", "codecs", "compressor", "consolidated"])
def test_pickled_values_are_refused_before_they_are_read(tmp_path, codec, place):
    """numcodecs refuses them by itself unless a variable of the environment allows them."""
    path = a_store(tmp_path / "x.zarr")
    check_store(path)
    if place == "consolidated":
        edited(path, "zarr.json", consolidated_metadata={"metadata": {"X": {"filters": [{"id": "delta"}, codec]}}})
    else:
        edited(path, "X/zarr.json", **{place: codec if place == "compressor" else [{"id": "vlen-utf8"}, codec]})
    with pytest.raises(InputError, match="values are pickled"):
        check_store(path)


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("kept", [0, 7, 20])
def test_a_cut_chunk_of_blosc_is_refused(tmp_path, form, kept):
    """blosc itself takes one: it reads on behind the bytes, and gives whatever lies there."""
    group = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=form)
    packed = zarr.codecs.BloscCodec() if form == 3 else numcodecs.Blosc()
    group.create_array("X", shape=(2, 1), dtype="f4", compressors=packed)[:] = 1
    check_store(tmp_path / "x.zarr")
    chunk = tmp_path / "x.zarr/X" / ("0.0" if form == 2 else "c/0/0")
    os.truncate(chunk, kept)
    with pytest.raises(InputError, match=rf"{'0.0' if form == 2 else 'c/0/0'} has {kept} bytes and should have"):
        check_store(tmp_path / "x.zarr")


def test_every_store_is_looked_at_before_it_is_opened():
    """zarr follows links: a store of a stranger would bring any file into tables and the explorer."""
    code = Path(__file__).resolve().parents[3] / "python/multivi_nf"
    opens = re.compile(r"zarr\.open|read_zarr")
    found = {str(path.relative_to(code)) for path in code.rglob("*.py") if opens.search(path.read_text())}
    looked = {name for name in found if "check_store(" in (code / name).read_text()}
    writers = {"imputation/impute.py", "imputation/store.py"}  # one names it in words, one opens what it made itself
    assert found - looked == writers and looked >= {"io/stores.py", "counts/h5ad.py"}


@pytest.mark.parametrize("use", ["markers", "explorer", "gather"])
def test_imputed_stores_that_lead_out_are_refused(tmp_path, use):
    from multivi_nf.export.markers import array_of, imputed_runs
    from multivi_nf.imputation.store import _chunk
    from multivi_nf.report.explorer import imputed_unit

    path = a_store(tmp_path / "x.zarr")
    (tmp_path / "secret").mkdir()
    (path / "obs").symlink_to(tmp_path / "secret")
    uses = {
        "markers": lambda: (imputed_runs(path, pd.Index(["a"])), array_of(path)),
        "gather": lambda: _chunk(path),
        "explorer": lambda: imputed_unit("atac", path),
    }
    with pytest.raises(InputError, match="refers to something outside: obs is a link"):
        uses[use]()


def test_a_file_of_references_is_no_store(tmp_path):
    (tmp_path / "x.zarr").write_text(json.dumps({"refs": {}}))
    with pytest.raises(InputError, match="is a file"):
        check_store(tmp_path / "x.zarr")


# -- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(300))
def test_a_line_is_measured_across_blocks(seed):
    """By the plain definition: the longest piece between two line ends."""
    chance = random.Random(seed)
    data = bytes(chance.choice(b"aaaaaab\n") for _ in range(chance.randint(1, 60)))
    limit = chance.randint(1, 12)
    stream = Guarded(io.BytesIO(data), "x", longest_line=limit)
    too_long = max(map(len, data.split(b"\n"))) > limit
    read = b""
    try:
        while block := stream.read(chance.randint(1, 25)):
            read += block
    except InputError:
        assert too_long
    else:
        assert not too_long and read == data


def test_limits_of_bytes_and_lines(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"1 1 1\n" * 1000))
    with opened(path, most_lines=1000, most_bytes=6000) as handle:
        assert len(pd.read_csv(handle, sep=" ", header=None)) == 1000
    for limit in ({"most_lines": 999}, {"most_bytes": 5999}):
        with pytest.raises(InputError, match="more than"), opened(path, **limit) as handle:
            pd.read_csv(handle, sep=" ", header=None)


BOMBS = {
    "line in the matrix": ("matrix.mtx.gz", b"%%MatrixMarket matrix coordinate integer general\n", b" " * (1 << 22)),
    "line in its head": ("matrix.mtx.gz", b"", b"%" * (1 << 22)),
    "lines": ("matrix.mtx.gz", b"%%MatrixMarket matrix coordinate integer general\n30 60 9\n", b"1 1 1\n" * (1 << 19)),
    "empty lines": ("matrix.mtx.gz", b"%%MatrixMarket matrix coordinate integer general\n30 60 9\n", b"\n" * (1 << 22)),
    "barcode": ("barcodes.tsv.gz", b"", b"A" * (1 << 22)),
    "barcodes": ("barcodes.tsv.gz", b"", b"AAAC-1\n" * (1 << 19)),
    "features": ("features.tsv.gz", b"", b"ENSG0\tG\tGene Expression\n" * (1 << 17)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_an_mtx_folder_that_unpacks_without_end_is_refused(tmp_path, name):
    """A gigabyte or more in a few megabytes, read under 2 GB of memory."""
    folder = tmp_path / "m"
    folder.mkdir()
    parts = {
        "matrix.mtx.gz": b"%%MatrixMarket matrix coordinate integer general\n30 60 1\n1 1 1\n",
        "barcodes.tsv.gz": "".join(f"A{i}-1\n" for i in range(60)).encode(),
        "features.tsv.gz": "".join(f"ENSG{i:011d}\tG{i}\tGene Expression\n" for i in range(30)).encode(),
    }
    for part, text in parts.items():
        (folder / part).write_bytes(gzip.compress(text))
    part, head, block = BOMBS[name]
    with gzip.open(folder / part, "wb", 6) as file:
        file.write(head)
        for _ in range(300):
            file.write(block)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "from multivi_nf.commands import main\n"
        "main(['qc-rna', 'm', '--sample', 's', '--output', 's.h5ad', '--qc', 'qc'])"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "no list or table of this kind does" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "s.h5ad").exists()


@pytest.mark.parametrize("read", [read_json, read_tsv], ids=lambda read: read.__name__)
@pytest.mark.parametrize("packed", [False, True])
def test_json_and_tables_of_steps_are_held_to_limits_too(tmp_path, read, packed):
    pack = gzip.compress if packed else bytes
    content = {read_json: b'{"a": [1, 2]}', read_tsv: b"a\tb\n1\t2\n"}[read]
    path = tmp_path / "x"
    path.write_bytes(pack(content))
    assert list(read(path)["a"])[0] == 1
    damaged = [pack(b"\xff\xfe\0"), pack(b""), pack(b"[" * 100_000)]
    damaged += [pack(content * 100)[:-9]] if packed else []
    for raw in damaged:
        path.write_bytes(raw)
        with pytest.raises(InputError, match=r"is no (JSON|table)|has a line of more") as refused:
            read(path)
        assert refused.value.remedy


def test_no_text_is_read_without_limits():
    """Whoever reads a file of a stranger does it by `io.limits`; what is left reads its own state or the machine's."""
    own = {
        "io/limits.py",
        "io/processors.py",
        "io/packages.py",
        "io/processes.py",
        "io/outputs.py",
        "io/stores.py",
        "data/source.py",
        "training/device.py",
    }
    own |= {
        "training/checkpoint/store.py",
        "training/checkpoint/lease.py",
        "commands/train.py",
        "report/environment.py",
    }
    package = Path(__file__).resolve().parents[3] / "python/multivi_nf"
    plain = re.compile(
        r"\.read_text\(|json\.load\(|pd\.read_(csv|table)\((?!io\.(Bytes|String)IO|handle|narrow_peak|$)"
    )
    found = {
        f"{path.relative_to(package)}: {line.strip()}"
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if plain.search(line) and str(path.relative_to(package)) not in own
        # the one reads the folders of its own tasks, the other makes inputs for tests
        if not {"benchmark", "testing"} & {*path.parts}
    }
    assert found == set()


def test_a_hole_in_a_packed_file_is_not_skipped_for_ever(tmp_path):
    """gzip takes zeros behind its members for padding: a terabyte of them, in a file that takes no room."""
    path = tmp_path / "x.tsv.gz"
    path.write_bytes(gzip.compress(b"a\tb\n1\t2\n"))
    os.truncate(path, path.stat().st_size + 1000)
    assert read_tsv(path)["b"].tolist() == [2]
    os.truncate(path, 1 << 40)
    with pytest.raises(InputError, match="zeros one after the other"):
        read_tsv(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path, monkeypatch, capsys):
    from multivi_nf.commands import exit_code

    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    os.mkfifo("m/matrix.mtx.gz")
    os.mkfifo("x.h5")
    for name in ("m", "x.h5"):
        assert exit_code(["qc-rna", name, "--sample", "s", "--output", "s.h5ad", "--qc", "qc"]) == 2
        assert "but a pipe, a socket or a device" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_file_on_which_hdf5_crashes_is_refused_and_the_process_lives(tmp_path, monkeypatch, number):
    """A crash cannot be made on purpose for every version of HDF5: the child that tries the file dies as in one."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["names"] = ["a", "b"]
    with open_hdf5(path) as file:
        assert file["names"].asstr()[:].tolist() == ["a", "b"]
    os.utime(path, ns=(1, 1))  # another file, by its time
    with monkeypatch.context() as patch:
        patch.setattr(hdf5, "_read_words", lambda path: os.kill(os.getpid(), number))
        with pytest.raises(InputError, match=rf"x\.h5 cannot be read to its end: HDF5 crashes on it \({number.name}\)"):
            open_hdf5(path)
    tried = []
    monkeypatch.setattr(hdf5, "_read_words", lambda path: tried.append(1) or 1 / 0)
    for _ in range(2):
        open_hdf5(path).close()
    assert tried == [], "it is tried in a child, whose exceptions are the reader's to tell"
