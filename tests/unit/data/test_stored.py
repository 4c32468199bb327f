"""Rows read from a file are the rows of the mosaic in memory, whatever is asked for, and what was damaged is named."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from multivi_nf.data import mosaic_data, stored
from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.data.source import source_of
from multivi_nf.data.stored import StoredMatrix, stored_source
from multivi_nf.errors import InputError
from multivi_nf.testing.mosaics import clustered_mosaic
from multivi_nf.training import MultiVI

MODALITIES = ("rna", "atac", "protein")


@pytest.fixture
def file(tmp_path):
    mosaic = clustered_mosaic(modalities=MODALITIES)
    mosaic.uns["multivi_nf"] = "{}"
    mosaic.write_h5mu(tmp_path / "mosaic.h5mu")
    return tmp_path / "mosaic.h5mu"


@pytest.mark.parametrize(("gap", "run"), [(0, 1 << 20), (3, 1 << 20), (1000, 1 << 20), (1000, 50)])
@pytest.mark.parametrize("order", ["in order", "shuffled", "repeated", "one", "none"])
def test_rows_are_those_of_the_mosaic_in_memory(file, monkeypatch, gap, run, order):
    monkeypatch.setattr(stored, "GAP", gap)
    monkeypatch.setattr(stored, "RUN", run)
    model = MultiVI.from_mosaic(str(file), n_hidden=8, n_latent=3)
    there, here = MosaicData(stored_source(file), model), MosaicData(str(file), model)
    assert all(isinstance(counts, StoredMatrix) for counts in there._counts.values())
    n = here.n_cells
    index = {
        "in order": np.arange(n),
        "shuffled": np.random.default_rng(0).permutation(n)[: n // 2],
        "repeated": np.array([7, 3, 7, 149, 0, 3]),
        "one": np.array([5]),
        "none": np.zeros(0, np.int64),
    }[order]
    one, other = there.minibatch(index), here.minibatch(index)
    assert list(one.modalities) == list(other.modalities)
    for modality, rows in other.modalities.items():
        read = one.modalities[modality]
        assert torch.equal(read.cells, rows.cells)
        assert torch.equal(read.counts.indptr, rows.counts.indptr)
        assert torch.equal(read.counts.indices, rows.counts.indices) and read.counts.indices.dtype == torch.int32
        assert (read.counts.values is None) == (rows.counts.values is None)
        if rows.counts.values is not None:
            assert torch.equal(read.counts.values, rows.counts.values)
    assert there.n_bytes < here.n_bytes / 2


def test_staged_rows_are_the_same_and_each_is_unpacked_once(file, monkeypatch):
    monkeypatch.setattr(stored, "STAGED", 16)
    monkeypatch.setattr(mosaic_data, "BLOCK", 8)
    model = MultiVI.from_mosaic(str(file), n_hidden=8, n_latent=3)
    there = MosaicData(stored_source(file), model)
    index = np.random.default_rng(0).permutation(there.n_cells)[:90]
    wanted, unpacked = there.minibatch(index), []
    whole = StoredMatrix.rows
    monkeypatch.setattr(
        StoredMatrix,
        "rows",
        lambda self, rows, device: (
            unpacked.extend((self.modality, row) for row in rows.tolist()) or whole(self, rows, device)
        ),
    )
    staged = there.staged(index)
    assert unpacked == sorted(set(unpacked), key=lambda one: (list(staged._counts).index(one[0]), one[1]))
    n = len(unpacked)
    for cells in (index, index[:7], index[[3, 3, 0]]):
        found, whole_rows = staged.minibatch(cells), there.minibatch(cells)
        del unpacked[n:]
        for modality, rows in whole_rows.modalities.items():
            read = found.modalities[modality]
            assert torch.equal(read.cells, rows.cells)
            for name in ("indptr", "indices", "values"):
                one, other = getattr(read.counts, name), getattr(rows.counts, name)
                assert (one is None) == (other is None) == (name == "values" and modality == "atac")
                assert one is None or (torch.equal(one, other) and one.dtype == other.dtype)
    staged.minibatch(index)
    assert len(unpacked) == n
    # a cell that was not staged is read from the file, and what is staged can be staged anew
    other = np.setdiff1d(np.arange(there.n_cells), index)[:20]
    assert torch.equal(
        staged.minibatch(other).modalities["rna"].counts.indices,
        there.minibatch(other).modalities["rna"].counts.indices,
    )
    assert staged.staged(other)._counts["rna"].stored is there._counts["rna"]
    assert set(wanted.modalities) == set(MODALITIES)


def test_a_run_of_rows_that_lie_far_apart_does_not_span_the_file(file, monkeypatch):
    model = MultiVI.from_mosaic(str(file), n_hidden=8, n_latent=3)
    there = MosaicData(stored_source(file), model)
    matrix = there._counts["rna"]
    monkeypatch.setattr(stored, "RUN", 100)
    runs, run = [], StoredMatrix._run
    monkeypatch.setattr(StoredMatrix, "_run", lambda self, rows: runs.append((rows[0], rows[-1])) or run(self, rows))
    matrix.rows(torch.arange(0, len(matrix.cells), 3), torch.device("cpu"))
    longest = np.diff(matrix.indptr).max()
    assert len(runs) > 3 and max(matrix.indptr[b + 1] - matrix.indptr[a] for a, b in runs) <= 100 + longest


def test_features_in_another_order_are_put_in_the_models(file, tmp_path):
    model = MultiVI.from_mosaic(str(file), n_hidden=8, n_latent=3)
    mosaic = clustered_mosaic(modalities=MODALITIES)
    for m in MODALITIES:
        mosaic.mod[m] = mosaic.mod[m][:, ::-1].copy()
    mosaic.uns["multivi_nf"] = "{}"
    mosaic.write_h5mu(tmp_path / "other.h5mu")
    one = MosaicData(stored_source(tmp_path / "other.h5mu"), model)
    other = MosaicData(str(file), model)
    for modality, rows in other.minibatch(np.arange(20)).modalities.items():
        read = one.minibatch(np.arange(20)).modalities[modality].counts
        assert torch.equal(read.indices, rows.counts.indices) and torch.equal(read.indptr, rows.counts.indptr)


def test_a_value_that_is_no_count_is_named_where_it_is_read(file):
    with h5py.File(file, "r+") as opened:
        opened["mod/rna/X/data"][0] = -3
    matrix = stored_source(file).matrices["rna"]
    with pytest.raises(InputError, match="holds the value -3"):
        matrix.rows(torch.arange(3), torch.device("cpu"))
    assert matrix.rows(torch.arange(60, 63), torch.device("cpu")).indptr[-1] > 0


@pytest.mark.parametrize("modality", ["rna", "atac"])
def test_unsorted_rows_and_stored_zeros_are_read_as_they_are_in_memory(file, modality):
    with h5py.File(file, "r+") as opened:
        counts = opened[f"mod/{modality}/X"]
        indices, data = counts["indices"][:2], counts["data"][:2]
        data[0] = 0
        counts["indices"][:2], counts["data"][:2] = indices[::-1], data[::-1]
    there = stored_source(file).matrices[modality].rows(torch.arange(2), torch.device("cpu"))
    here = source_of(str(file)).matrices[modality]
    assert there.indices.tolist() == here.indices[: here.indptr[2]].tolist() and indices[0] not in there.indices[:1]
    assert there.indptr.tolist() == here.indptr[:3].tolist()


def test_a_file_of_another_tool_is_read_as_before(tmp_path):
    clustered_mosaic().write_h5mu(tmp_path / "foreign.h5mu")
    source = stored_source(tmp_path / "foreign.h5mu")
    assert not isinstance(source.matrices["rna"], StoredMatrix) and source.matrices["rna"].n_features == 30
    with pytest.raises(InputError, match="does not exist"):
        stored_source(tmp_path / "gone.h5mu")


def test_of_the_table_of_cells_only_what_is_asked_for_is_read(file):
    whole = source_of(str(file)).obs
    some = stored_source(file, columns={"cluster"}).obs
    assert list(some) == [name for name in whole if name in ("batch", "cluster")] and len(whole.columns) > 2
    assert some.equals(whole[list(some)]) and some.index.equals(whole.index)
    # a column that is not there is told by whoever asks for it, who names those that are
    assert list(stored_source(file, columns={"cluster", "donor"}).obs) == list(whole)
    assert list(stored_source(file).obs) == list(whole)
