"""Rows of counts, in memory and from the file, are the same rows; what is damaged says so."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from scipy import sparse

from multivi_nf.errors import InputError
from multivi_nf.export.modalities import fill_modalities
from multivi_nf.mosaic import read, rows
from multivi_nf.mosaic.write import quiet
from multivi_nf.testing.mosaics import embedded_mosaic


@pytest.fixture
def path(tmp_path):
    with quiet():
        fill_modalities(embedded_mosaic()).write_h5mu(tmp_path / "m.h5mu", compression="gzip")
    return tmp_path / "m.h5mu"


def same(one: sparse.csr_matrix, other: sparse.csr_matrix) -> None:
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one.toarray(), other.toarray())


@pytest.mark.parametrize("modality", ["rna", "atac"])
def test_runs_and_chosen_rows_are_those_in_memory(path, modality, monkeypatch):
    monkeypatch.setattr(rows, "GAP", 2)
    monkeypatch.setattr(rows, "ROWS", 7)
    plain = embedded_mosaic()[modality]
    known = plain.layers["counts"] if modality == "atac" else plain.X
    with read.embedded(path) as mosaic:
        stored = rows.counts_of(mosaic[modality])
        assert not sparse.issparse(stored)
        for matrix in (stored, rows.counts_of(plain)):
            found = list(rows.runs(matrix, 7))
            assert [at.start for at, _ in found] == list(range(0, 80, 7))
            same(sparse.vstack([part for _, part in found], format="csr"), known)
            for wanted in ([3, 4, 5], [79, 0, 40, 40, 6, 7], np.arange(80), []):
                wanted = np.array(wanted, dtype=int)
                same(rows.chosen(matrix, wanted), known[wanted])
    assert not stored.group  # closed


def test_of_a_file_with_counts_nothing_but_tables_is_in_memory(path):
    mosaic, plain = read.read_tables(path, counts=True), fill_modalities(embedded_mosaic())
    stays = [m.X for m in mosaic.mod.values()] + [x for m in mosaic.mod.values() for x in m.layers.values()]
    assert len(stays) == 3
    assert not any(sparse.issparse(matrix) for matrix in [*stays, *mosaic.obsp.values()])
    for key in ("X_umap", "X_multivi", "X_multivi_rna"):
        np.testing.assert_array_equal(mosaic.obsm[key], plain.obsm[key])
    same(mosaic.obsp["distances"].to_memory(), plain.obsp["distances"])
    for left, right in ((mosaic, plain), *((mosaic[m], plain[m]) for m in plain.mod)):
        assert left.obs.astype(str).equals(right.obs.astype(str))
    read.closed(mosaic)


def test_dense_counts_are_read_whole(path):
    with h5py.File(path, "r+") as file:
        dense = embedded_mosaic()["rna"].X.toarray()
        del file["mod/rna/X"]
        written = file.create_dataset("mod/rna/X", data=dense)
        written.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    assert read.read_tables(path, counts=True) is None
    with read.embedded(path) as mosaic:
        np.testing.assert_array_equal(rows.rows_by_rows(mosaic["rna"].X).toarray(), dense)


def test_counts_that_cannot_be_unpacked_are_told_by_name(path):
    with h5py.File(path) as file:
        place = file["mod/rna/X/data"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as raw:
        raw.seek(place)
        raw.write(b"\xff" * 40)
    with read.embedded(path) as mosaic, pytest.raises(InputError, match=r"m\.h5mu"):
        list(rows.runs(rows.counts_of(mosaic["rna"])))
