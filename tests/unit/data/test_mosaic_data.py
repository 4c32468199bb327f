from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from mudata import MuData
from scipy import sparse

from multivi_nf.data import source as source_module
from multivi_nf.data.minibatch import UNKNOWN_BATCH
from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.data.mosaic_data import MosaicData as Data
from multivi_nf.data.source import fingerprint, source_of
from multivi_nf.errors import InputError
from multivi_nf.training import MultiVI


def small(mosaic: MuData, **architecture: object) -> MultiVI:
    return MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3, **architecture)


def dense_rows(mosaic: MuData, modality: str, names: list[str]) -> np.ndarray:
    part = mosaic.mod[modality]
    return part[names].X.toarray()


def test_a_minibatch_holds_the_rows_that_slicing_gives(mosaic_maker):
    mosaic = mosaic_maker(modalities=("rna", "atac", "protein"))
    data = MosaicData(mosaic, small(mosaic))
    index = np.random.default_rng(1).permutation(data.n_cells)[:40]
    minibatch = data.minibatch(index)
    names = np.asarray(data.cells)[index]
    for modality in ("rna", "atac", "protein"):
        rows = minibatch.modalities[modality]
        measured = [name for name in names if name in mosaic.mod[modality].obs_names]
        assert list(names[rows.cells.numpy()]) == measured
        np.testing.assert_array_equal(rows.counts.dense().numpy(), dense_rows(mosaic, modality, measured))
        for start, stop in zip(rows.counts.indptr[:-1], rows.counts.indptr[1:]):
            assert (rows.counts.indices[start:stop].diff() > 0).all()
    assert minibatch.modalities["atac"].counts.values is None
    code = {"a": 0, "b": 1}
    assert minibatch.batch.tolist() == [code[b] for b in mosaic.obs.loc[names, "batch"]]


def test_a_measured_cell_without_a_count_stays_measured(mosaic):
    rna = mosaic.mod["rna"]
    rna.X = sparse.csr_matrix(rna.X.toarray() * (np.arange(rna.n_obs) != 3)[:, None])
    data = MosaicData(mosaic, small(mosaic))
    at = data.cells.get_loc(rna.obs_names[3])
    rows = data.minibatch([at]).modalities["rna"]
    assert rows.cells.tolist() == [0]
    assert rows.counts.indptr.tolist() == [0, 0]


def test_atac_counts_are_read_as_presence_and_stored_zeros_vanish(mosaic):
    atac = mosaic.mod["atac"]
    counts = atac.X.copy()
    stop = counts.indptr[1]
    counts.data[:stop] = 0
    counts.data[stop - 1] = 7
    atac.X = counts
    expected = [int(counts.indices[stop - 1])]
    data = MosaicData(mosaic, small(mosaic))
    row = data.minibatch([data.cells.get_loc(atac.obs_names[0])]).modalities["atac"].counts
    assert row.indices.tolist() == expected
    assert row.values is None


def test_features_in_another_order_are_put_right_by_name(mosaic):
    model = small(mosaic)
    order = np.random.default_rng(0).permutation(mosaic.mod["rna"].n_vars)
    shuffled = MuData({"rna": mosaic.mod["rna"][:, order].copy(), "atac": mosaic.mod["atac"]})
    shuffled.obs["batch"] = mosaic.obs["batch"]
    index = np.arange(20)
    a, b = MosaicData(mosaic, model).minibatch(index), MosaicData(shuffled, model).minibatch(index)
    assert torch.equal(a.modalities["rna"].counts.dense(), b.modalities["rna"].counts.dense())


def test_other_features_are_refused_by_name(mosaic):
    model = small(mosaic)
    mosaic.mod["atac"].var_names = ["other", *mosaic.mod["atac"].var_names[1:]]
    with pytest.raises(InputError) as stop:
        MosaicData(mosaic, model)
    assert "'atac0'" in str(stop.value) and "'other'" in str(stop.value) and "60 here, 60 there" in str(stop.value)


def test_an_unknown_modality_is_refused(mosaic, mosaic_maker):
    three = mosaic_maker(modalities=("rna", "atac", "protein"))
    with pytest.raises(InputError, match="modality 'protein'"):
        MosaicData(three, small(mosaic))


def test_unseen_batches_are_unknown_and_named(mosaic, mosaic_maker):
    data = MosaicData(mosaic_maker(batches=("b", "z"), seed=5), small(mosaic))
    assert data.unknown_batches == ["z"]
    assert set(data.batch.tolist()) == {UNKNOWN_BATCH, 1}


@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan, np.inf])
def test_what_is_not_a_count_is_refused(mosaic, value):
    rna = mosaic.mod["rna"]
    rna.X = rna.X.astype(np.float32)
    rna.X.data[4] = value
    with pytest.raises(InputError, match="not a count"):
        MultiVI.from_mosaic(mosaic)


def test_covariates_are_coded_and_standardised(mosaic):
    model = small(mosaic, categorical_covariates=("cluster",), continuous_covariates=("age",))
    data = MosaicData(mosaic, model)
    age = mosaic.obs["age"].to_numpy()
    np.testing.assert_allclose(data.continuous[:, 0], (age - age.mean()) / age.std(), rtol=1e-5)
    assert data.categorical[:, 0].tolist() == [int(c) for c in mosaic.obs["cluster"]]
    mosaic.obs.loc[mosaic.obs_names[0], "age"] = np.nan
    with pytest.raises(InputError, match="age"):
        MosaicData(mosaic, model)
    del mosaic.obs["cluster"]
    with pytest.raises(InputError, match="cluster"):
        MosaicData(mosaic, model)


def test_a_file_of_ours_is_read_like_the_mudata_it_holds(mosaic_maker, tmp_path, monkeypatch):
    mosaic = mosaic_maker(modalities=("rna", "atac", "protein"))
    mosaic.mod["protein"].uns["panel"] = pd.DataFrame(True, index=["a", "b"], columns=mosaic.mod["protein"].var_names)
    mosaic.mod["protein"].uns["panel"].iloc[0, 0] = False
    mosaic.mod["atac"].layers["counts"] = mosaic.mod["atac"].X.copy()
    mosaic.uns["multivi_nf"] = "{}"
    mosaic.write(tmp_path / "m.h5mu")
    memory = source_of(mosaic)
    monkeypatch.setattr(source_module, "CHUNK", 37)
    for limit in (None, 0):
        file = source_of(tmp_path / "m.h5mu", max_bytes=limit)
        assert fingerprint(file) == fingerprint(memory)
        assert isinstance(file.matrices["rna"].indices, np.memmap) == (limit == 0)
        model = small(mosaic)
        index = np.arange(0, 30, 3)
        one, two = MosaicData(memory, model).minibatch(index), MosaicData(file, model).minibatch(index)
        for m in ("rna", "atac", "protein"):
            assert torch.equal(one.modalities[m].counts.dense(), two.modalities[m].counts.dense())
    assert file.panel.loc["a"].tolist() == [False] + [True] * 7


def test_row_pointers_are_wide_enough_for_any_number_of_entries(mosaic):
    source = source_of(mosaic)
    for matrix in source.matrices.values():
        assert matrix.indptr.dtype == np.int64 and matrix.indices.dtype == np.int32


def test_rows_beyond_two_to_the_31_entries_are_found():
    """Row pointers past 2³¹ index a sparse file of that length, of which only the touched pages exist."""
    from multivi_nf.data.mosaic_data import _Resident
    from multivi_nf.data.source import Matrix

    far = 2**31 + 11
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        indices = np.memmap(file.name, dtype=np.int32, mode="w+", shape=(far + 2,))
        indices[far:] = [4, 9]
        matrix = Matrix(pd.Index(["x", "y"]), pd.DataFrame(index=range(10)), np.array([0, far, far + 2]), indices, None)
        rows = _Resident(matrix).rows(torch.tensor([1]), torch.device("cpu"))
    assert rows.indices.tolist() == [4, 9]


def test_the_fingerprint_names_the_part_that_differs(mosaic):
    before = fingerprint(source_of(mosaic))
    mosaic.mod["rna"].X.data[0] += 1
    after = fingerprint(source_of(mosaic))
    assert [part for part in before if before[part] != after[part]] == ["rna counts"]


def test_streaming_gives_the_same_minibatch(mosaic):
    model = small(mosaic)
    resident, streamed = Data(mosaic, model).to("cpu"), Data(mosaic, model).stream_to("cpu")
    a, b = resident.minibatch([3, 1, 2]), streamed.minibatch([3, 1, 2])
    assert torch.equal(a.modalities["rna"].counts.dense(), b.modalities["rna"].counts.dense())


@pytest.mark.parametrize(
    ("known", "asked"),
    [(["v1", "v2"], "v9"), ([1, 2], 9), ([True, False], "maybe")],
)
def test_values_of_a_covariate_that_the_model_never_saw_are_named(mosaic, known, asked):
    mosaic.obs["kit"] = [known[i % 2] for i in range(mosaic.n_obs)]
    model = small(mosaic, categorical_covariates=("kit",))
    assert MosaicData(mosaic, model).unknown_categories == {}
    values = mosaic.obs["kit"].astype(object)
    values.iloc[:5] = asked
    mosaic.obs["kit"] = values
    data = MosaicData(mosaic, model)
    assert data.unknown_categories == {"kit": [str(asked)]}
    assert data.categorical[:5, 0].tolist() == [-1] * 5


def test_whole_numbers_are_one_category_whatever_their_type(mosaic):
    mosaic.obs["kit"] = np.arange(mosaic.n_obs) % 2
    model = small(mosaic, categorical_covariates=("kit",))
    codes = MosaicData(mosaic, model).categorical
    for dtype in (float, "Int64", str):
        mosaic.obs["kit"] = mosaic.obs["kit"].astype(dtype)
        data = MosaicData(mosaic, model)
        assert data.unknown_categories == {}
        assert data.categorical.equal(codes)
        mosaic.obs["kit"] = np.arange(mosaic.n_obs) % 2
