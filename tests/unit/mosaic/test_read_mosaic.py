"""Files that someone else wrote."""

from __future__ import annotations

import warnings

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from multivi_nf.errors import InputError
from multivi_nf.mosaic.read import read_mosaic


def modality(cells, n, mean=2.0, seed=0, kind=sparse.csr_matrix, dtype=np.float32):
    x = np.random.default_rng(seed).poisson(mean, (len(cells), n)).astype(dtype)
    data = ad.AnnData(kind(x))
    data.obs_names, data.var_names = list(cells), [f"f{seed}_{i}" for i in range(n)]
    return data, x


CELLS = [f"c{i}" for i in range(30)]


def made(**mods):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mudata.MuData(mods)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
@pytest.mark.parametrize("names", [("rna", "atac", "protein"), ("gex", "peaks", "ADT")])
def test_counts_in_x_are_all_that_is_needed(tmp_path, kind, dtype, names):
    rna, x = modality(CELLS[:20], 8, kind=kind, dtype=dtype)
    atac, y = modality(CELLS[10:], 6, seed=1, kind=kind, dtype=dtype)
    protein, _ = modality(CELLS[:5], 3, seed=2, kind=kind, dtype=dtype)
    made(**dict(zip(names[::-1], (protein, atac, rna)))).write(tmp_path / "m.h5mu")
    mosaic = read_mosaic(tmp_path / "m.h5mu")
    assert list(mosaic.mod) == ["rna", "atac", "protein"]
    np.testing.assert_array_equal(mosaic.mod["rna"].X.toarray(), x)
    np.testing.assert_array_equal(mosaic.mod["atac"].X.toarray(), y > 0)
    np.testing.assert_array_equal(mosaic.mod["atac"].layers["counts"].toarray(), y)
    assert mosaic.obs.loc["c0", "modality"] == "rna+protein"
    assert mosaic.obs.loc["c15", "modality"] == "rna+atac"
    assert mosaic.obs.loc["c25", "modality"] == "atac"
    assert mosaic.obs["has_protein"].sum() == 5
    assert set(mosaic.obs["batch"]) == {"all"}
    assert mosaic.mod["protein"].uns["panel"].loc["all"].all()


@pytest.mark.parametrize("place", ["whole", "modality"])
def test_batch_is_taken_from_obs(tmp_path, place):
    rna, _ = modality(CELLS[:20], 8)
    atac, _ = modality(CELLS[10:], 6, seed=1)
    batch = {cell: "x" if i % 2 else "y" for i, cell in enumerate(CELLS)}
    if place == "modality":
        for data in (rna, atac):
            data.obs["batch"] = [batch[cell] for cell in data.obs_names]
    mosaic = made(rna=rna, atac=atac)
    if place == "whole":
        mosaic.obs["batch"] = [batch[cell] for cell in mosaic.obs_names]
    mosaic.write(tmp_path / "m.h5mu")
    found = read_mosaic(tmp_path / "m.h5mu")
    assert {cell: found.obs.loc[cell, "batch"] for cell in CELLS} == batch


def test_layers_counts_win_over_normalised_x(tmp_path):
    rna, x = modality(CELLS, 8)
    rna.layers["counts"] = rna.X.copy()
    rna.X = rna.X.log1p()
    np.testing.assert_array_equal(read_mosaic(made(rna=rna)).mod["rna"].X.toarray(), x)


def test_padding_with_zeros_is_said_and_not_guessed():
    rna, x = modality(CELLS, 8)
    x[:20] = 0
    rna.X = sparse.csr_matrix(x)
    with pytest.warns(UserWarning, match="67% of its 30 cells have no count"):
        mosaic = read_mosaic(made(rna=rna))
    assert mosaic.mod["rna"].n_obs == 30
    assert mosaic.obs["has_rna"].all()


def test_the_input_in_memory_is_not_changed():
    rna, x = modality(CELLS, 8)
    given = made(rna=rna)
    read_mosaic(given)
    assert given.mod["rna"].X.dtype == np.float32
    assert "has_rna" not in given.obs


@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan, np.inf])
def test_values_that_are_no_counts_are_refused(value):
    rna, _ = modality(CELLS, 8)
    rna.X.data[3] = value
    with pytest.raises(InputError, match="modality 'rna', X"):
        read_mosaic(made(rna=rna))


def test_what_is_no_mosaic_is_refused(tmp_path):
    rna, _ = modality(CELLS, 8)
    with pytest.raises(InputError, match="spatial"):
        read_mosaic(made(spatial=rna))
    with pytest.raises(InputError, match="both mean 'rna'"):
        read_mosaic(made(rna=rna, gex=modality(CELLS, 4, seed=3)[0]))
    with pytest.raises(InputError, match="does not exist"):
        read_mosaic(tmp_path / "gone.h5mu")
    (tmp_path / "x.h5mu").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is not an HDF5 file"):
        read_mosaic(tmp_path / "x.h5mu")
    made(rna=rna).write(tmp_path / "cut.h5mu")
    (tmp_path / "cut.h5mu").write_bytes((tmp_path / "cut.h5mu").read_bytes()[:6000])
    with pytest.raises(InputError, match="cannot be opened as HDF5"):
        read_mosaic(tmp_path / "cut.h5mu")


def test_repeated_names_are_refused():
    rna, _ = modality(CELLS, 8)
    rna.var_names = ["a", "a", *map(str, range(6))]
    with pytest.raises(InputError, match="feature 'a' more than once"):
        read_mosaic(made(rna=rna))


@pytest.mark.parametrize("name", ["barcode", "cell_id", None])
def test_a_named_index_as_other_tools_write_it_is_read(tmp_path, name):
    """mudata 0.3 alone cannot: "cannot join with no overlapping index names"."""
    obs = {
        m: pd.DataFrame({"kind": ["a", "b", "c"]}, index=pd.Index(names, name=name)) for m, names in CELLS_OF.items()
    }
    parts = {m: ad.AnnData(sparse.csr_matrix(np.eye(3, dtype=np.int32)), obs=obs[m]) for m in obs}
    with mudata.set_options(pull_on_update=False):
        mosaic = mudata.MuData(parts)
    mosaic.write(tmp_path / "foreign.h5mu")
    read = read_mosaic(tmp_path / "foreign.h5mu")
    assert sorted(read.obs_names) == ["x1", "x2", "x3", "x4"]
    assert read.obs.loc["x4", "modality"] == "atac" and read.obs.loc["x2", "kind"] == "b"
    assert not [column for column in read.obs if ":" in column]


CELLS_OF = {"rna": ["x1", "x2", "x3"], "atac": ["x1", "x2", "x4"]}
