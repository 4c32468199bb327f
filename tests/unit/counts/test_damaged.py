"""Files with flipped, inserted or missing bytes: read, or refused by name; never a crash of compiled code."""

from __future__ import annotations

import gzip
import random

import h5py
import numpy as np
import pytest

from multivi_nf.counts.read import read_counts
from multivi_nf.errors import InputError
from multivi_nf.testing.files import GENES, barcodes, counts, features, write_10x, write_h5ad, write_mtx

CELLS = barcodes(60)


def mutated(raw: bytes, rng: random.Random) -> bytes:
    data = bytearray(raw)
    for _ in range(rng.choice([1, 1, 3, 20])):
        at, kind = rng.randrange(len(data)), rng.random()
        if kind < 0.7:
            data[at] = rng.randrange(256)
        elif kind < 0.85:
            data = data[: at + 1]
        else:
            data[at:at] = rng.randbytes(rng.randrange(8))
    return bytes(data)


@pytest.mark.parametrize("kind", ["h5", "h5ad", "mtx"])
def test_mutated_files(tmp_path, kind):
    rng = random.Random(kind)
    if kind == "mtx":
        path = write_mtx(tmp_path / "m", counts(60, 30), CELLS, features("rna"))
        originals = {file: file.read_bytes() for file in sorted(path.iterdir())}
    elif kind == "h5":
        path = write_10x(tmp_path / "m.h5", counts(60, 54), CELLS, features())
        originals = {path: path.read_bytes()}
    else:
        path = write_h5ad(tmp_path / "m.h5ad", counts(60, 30), CELLS, GENES)
        originals = {path: path.read_bytes()}
    outcome = {"read": 0, "refused": 0}
    for _ in range(150):
        file = rng.choice(list(originals))
        whole = originals[file]
        if kind == "mtx":  # the text is mutated, not the gzip around it, whose checksum would tell at once
            file.write_bytes(gzip.compress(mutated(gzip.decompress(whole), rng)))
        else:
            file.write_bytes(mutated(whole, rng))
        try:
            read = read_counts(path, "rna")
        except InputError as error:
            assert "What to do" in str(error)
            outcome["refused"] += 1
        else:
            assert read.X.data.min() >= 1
            outcome["read"] += 1
        file.write_bytes(whole)
    assert min(outcome.values()) > 0, outcome


@pytest.mark.parametrize("damage", ["index past the end", "pointers back", "pointer past the end"])
def test_sparse_h5ad_that_leads_outside_itself(tmp_path, damage):
    path = write_h5ad(tmp_path / "m.h5ad", counts(60, 30), CELLS, GENES)
    with h5py.File(path, "r+") as file:
        if damage == "index past the end":
            file["X/indices"][5] = 10**6
        elif damage == "pointers back":
            file["X/indptr"][...] = np.sort(file["X/indptr"][...])[::-1]
        else:
            file["X/indptr"][-1] = 10**8
    with pytest.raises(InputError) as error:
        read_counts(path, "rna")
    assert "m.h5ad" in str(error.value)


@pytest.mark.parametrize(
    "line", ["0 1 5", "31 1 5", "1 61 5", "1 1", "1 1 5 5", "1 x 5", "1 1 -5", "1 1 1.5", "1 1 nan"]
)
def test_bad_lines_of_an_mtx(tmp_path, line):
    folder = write_mtx(tmp_path / "m", counts(60, 30), CELLS, features("rna"), packed=False)
    file = folder / "matrix.mtx"
    lines = file.read_text().splitlines()
    lines[-1] = line
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="matrix.mtx"):
        read_counts(folder, "rna")


def test_a_zero_byte_in_a_name_is_refused(tmp_path):
    path = write_mtx(tmp_path / "m", counts(60, 30), CELLS, features("rna"))
    listed = next(path.glob("features.tsv*"))
    text = gzip.decompress(listed.read_bytes())
    listed.write_bytes(gzip.compress(text[:2] + b"\0" + text[3:]))
    with pytest.raises(InputError, match="feature 1, .*zero byte"):
        read_counts(path, "rna")
