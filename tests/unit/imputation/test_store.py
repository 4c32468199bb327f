from __future__ import annotations

import json
import warnings

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import zarr

from multivi_nf.errors import InputError
from multivi_nf.imputation import store as stores
from multivi_nf.imputation.store import Store, gather


@pytest.fixture
def chunks(tmp_path):
    """Two chunks of 3 and 2 cells whose values are the cell's and the feature's number."""
    paths = []
    for k, cells in enumerate((["s:0", "s:1", "s:2"], ["s:3", "s:4"])):
        obs = pd.DataFrame({"measured": [True] * len(cells), "out_of_support": False}, index=cells)
        uns = {"calibrated": True, "multivi_nf": json.dumps({"modality": "rna", "first_cell": 3 * k})}
        var = pd.DataFrame({"symbol": ["A", "B"]}, index=["g0", "g1"])
        store = Store(tmp_path / f"{k}.zarr", ad.AnnData(obs=obs, var=var, uns=uns), ["X", "sd"], rows=2)
        values = np.array([[int(c[2:]), int(c[2:]) + 0.5] for c in cells], np.float32)
        store.write(slice(0, len(cells)), X=values, sd=values / 10)
        paths.append(tmp_path / f"{k}.zarr")
    return paths


@pytest.fixture
def embedding(tmp_path):
    """The same cells in another order, and one more."""
    cells = ["s:4", "s:2", "s:0", "s:1", "s:3", "s:9"]
    data = ad.AnnData(np.ones((6, 1), np.int32), pd.DataFrame(index=cells), pd.DataFrame(index=["g0"]))
    mosaic = mudata.MuData({"rna": data})
    mosaic.obs["cluster"] = pd.Categorical([c[2:] for c in cells], categories=list("012349"))
    mosaic.obs["depth"] = 1.0
    mosaic.obsm["X_umap"] = np.array([[float(c[2:]), 0] for c in cells], np.float32)
    mosaic.uns["cluster_colors"] = np.array(list("abcdef"), dtype=object)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mosaic.write_h5mu(tmp_path / "m.h5mu")
    return tmp_path / "m.h5mu"


@pytest.mark.parametrize("sizes", [(4, 2, 3), (3, 4, 2), (2, 2, 2), (1, 1, 1)])
@pytest.mark.parametrize("linkable", [True, False])
def test_chunks_are_linked_where_they_fit_and_the_parts_stay_as_they_are(tmp_path, monkeypatch, sizes, linkable):
    """Rows of two a chunk: a part that begins within a chunk, or ends within one, is written anew."""
    if not linkable:
        monkeypatch.setattr(stores, "_linked", lambda *_: False)
    paths, first, rng = [], 0, np.random.default_rng(0)
    values = rng.random((sum(sizes), 3)).astype(np.float32)
    values[1] = 0  # what is all zeros is no file
    for k, size in enumerate(sizes):
        obs = pd.DataFrame({"measured": True}, index=[f"s:{first + i}" for i in range(size)])
        uns = {"calibrated": True, "multivi_nf": json.dumps({"modality": "rna", "first_cell": first})}
        store = Store(
            tmp_path / f"{k}.zarr",
            ad.AnnData(obs=obs, var=pd.DataFrame(index=list("abc")), uns=uns),
            ["X", "sd"],
            rows=2,
        )
        store.write(slice(0, size), X=values[first : first + size], sd=values[first : first + size] / 2)
        paths.append(tmp_path / f"{k}.zarr")
        first += size
    before = {file: file.read_bytes() for path in paths for file in path.rglob("*") if file.is_file()}
    gather(paths, tmp_path / "rna.zarr")
    found = ad.read_zarr(tmp_path / "rna.zarr")
    np.testing.assert_array_equal(found.X, values)
    np.testing.assert_array_equal(found.layers["sd"], values / 2)
    assert {file: file.read_bytes() for file in before} == before
    twice = [file for file in (tmp_path / "rna.zarr/X").glob("?.?") if file.stat().st_nlink == 2]
    assert len(twice) == (0 if not linkable else {4: 5, 3: 1, 2: 3, 1: 2}[sizes[0]])


@pytest.mark.parametrize("form", [2, 3])
def test_clusters_and_map_go_along(chunks, embedding, tmp_path, form):
    gather(chunks[::-1], tmp_path / "rna.zarr", embedding, form)
    assert zarr.open_group(tmp_path / "rna.zarr", mode="r").metadata.zarr_format == form
    assert (tmp_path / "rna.zarr" / (".zmetadata" if form == 2 else "zarr.json")).is_file()
    consolidated = zarr.open_consolidated(tmp_path / "rna.zarr")
    assert {"X", "layers/sd", "obs/cluster/codes", "obsm/X_umap"} <= set(dict(consolidated.members(max_depth=None)))
    kinds = [node.attrs.get("encoding-type") for _, node in consolidated.members(max_depth=None)]
    assert "null" not in kinds and "raw" not in consolidated, "anndata 0.10 and 0.11 know no null"
    found = ad.read_zarr(tmp_path / "rna.zarr")
    assert found.obs_names.tolist() == [f"s:{k}" for k in range(5)]
    assert found.obs["cluster"].tolist() == list("01234") and "depth" not in found.obs
    np.testing.assert_array_equal(found.obsm["X_umap"][:, 0], np.arange(5))
    np.testing.assert_array_equal(np.asarray(found.X[:])[:, 1], np.arange(5) + 0.5)
    assert list(found.uns["cluster_colors"])[:2] == ["a", "b"]
    view = json.loads((tmp_path / "rna.vitessce.json").read_text())
    options = view["datasets"][0]["files"][0]["options"]
    for path in (options["obsEmbedding"][0]["path"], options["featureLabels"]["path"], options["obsSets"][0]["path"]):
        assert path in zarr.open_group(tmp_path / "rna.zarr", mode="r")
    assert options["obsSets"][0]["name"] == "cluster"


def test_an_embedding_of_other_cells_is_refused(chunks, embedding, tmp_path):
    mosaic = mudata.read_h5mu(embedding)
    mosaic[mosaic.obs_names != "s:3"].copy().write_h5mu(tmp_path / "less.h5mu")
    with pytest.raises(InputError, match="lacks 1 of the imputed cells, as s:3"):
        gather(chunks, tmp_path / "rna.zarr", tmp_path / "less.h5mu")
    assert not (tmp_path / "rna.zarr").exists()


def test_settings_in_a_home_do_not_change_the_bytes_of_a_store(tmp_path):
    """zarr reads ~/.config/zarr: another order of an array's values, here."""
    obs = pd.DataFrame(index=[f"c{i}" for i in range(6)])
    values, found = np.arange(12, dtype=np.float32).reshape(6, 2), {}
    for name, order in (("plain", "C"), ("lent", "F")):
        with zarr.config.set({"array.order": order}), stores.new_store(tmp_path / f"{name}.zarr", 0) as place:
            store = Store(place, ad.AnnData(obs=obs, var=pd.DataFrame(index=["g0", "g1"])), ["X"])
            store.write(slice(0, 6), X=values)
            assert zarr.config.get("array.order") == "C"
        folder = tmp_path / f"{name}.zarr"
        found[name] = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found["plain"] == found["lent"] and found["plain"]
