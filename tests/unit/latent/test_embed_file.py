"""EMBED of a mosaic of ours reads tables, and takes the counts over as they are stored."""

from __future__ import annotations

import json

import h5py
import mudata
import numpy as np
import pandas as pd
import pytest

from multivi_nf.commands import main
from multivi_nf.inputs.samplesheet import read_samples_json
from multivi_nf.io.h5mu import read_h5mu
from multivi_nf.mosaic import read
from multivi_nf.mosaic.build import MosaicRules, build_mosaic
from multivi_nf.testing import parts
from multivi_nf.testing.files import barcodes
from multivi_nf.training import MultiVI

SHARED = "indices", "indptr"


def run(*arguments: object) -> int:
    try:
        main([str(a) for a in arguments])
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


@pytest.fixture
def folder(tmp_path):
    """Two samples, paired and RNA alone, and an untrained model of them."""
    cells = barcodes(60)
    features = {"rna": [f"ENSG{n:011d}" for n in range(40)], "atac": [f"chr1:{n}000-{n}500" for n in range(1, 3001)]}
    which = (("s0", "rna"), ("s0", "atac"), ("s1", "rna"))
    paths = [parts.part(tmp_path, sample, m, cells, features[m], mean=0.2)[0] for sample, m in which]
    rows = [
        {"sample": s, "batch": s, "rna": "x", "atac": "x" if s == "s0" else None, "metadata": {}} for s in ("s0", "s1")
    ]
    (tmp_path / "samples.json").write_text(json.dumps({"samples": rows}))
    sheet = read_samples_json(tmp_path / "samples.json")
    build_mosaic(list(map(str, paths)), sheet, str(tmp_path / "mosaic.h5mu"), MosaicRules(min_cells_fraction=0))
    MultiVI.from_mosaic(tmp_path / "mosaic.h5mu", n_hidden=8).save(tmp_path / "model")
    return tmp_path


def same(one: object, other: object) -> None:
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other)
    elif hasattr(one, "toarray"):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one.toarray(), other.toarray())
    else:
        np.testing.assert_equal(one, other)


def test_columns_of_atac_stand_once_in_the_file(folder):
    with h5py.File(folder / "mosaic.h5mu") as file:
        atac = file["mod/atac"]
        assert all(atac["X"][name] == atac["layers/counts"][name] for name in SHARED)
        stored = sum(atac[f"layers/counts/{name}"].id.get_storage_size() for name in ("data", *SHARED))
        assert atac["X/data"].id.get_storage_size() < stored / 20
    found = mudata.read_h5mu(folder / "mosaic.h5mu")["atac"]
    np.testing.assert_array_equal(found.X.toarray(), (found.layers["counts"].toarray() > 0).astype(np.int8))
    assert found.layers["counts"].max() > 1


def test_the_same_result_without_the_counts_in_memory(folder, monkeypatch):
    mosaic, model = folder / "mosaic.h5mu", folder / "model"
    assert run("embed", mosaic, model, "--output", folder / "one.h5mu") == 0
    monkeypatch.setattr(read, "read_tables", lambda path: None)
    assert run("embed", mosaic, model, "--output", folder / "two.h5mu") == 0
    one, two = read_h5mu(folder / "one.h5mu"), read_h5mu(folder / "two.h5mu")
    assert list(one.mod) == list(two.mod) == ["rna", "atac"]
    for left, right in ((one, two), *((one[m], two[m]) for m in one.mod)):
        for table in ("obs", "var"):
            same(getattr(left, table), getattr(right, table))
        for part in ("obsm", "obsp", "varm", "uns"):
            assert sorted(getattr(left, part)) == sorted(getattr(right, part))
            for key in getattr(left, part):
                same(getattr(left, part)[key], getattr(right, part)[key])
    for m in one.mod:
        same(one[m].X, two[m].X)
        assert list(one[m].layers) == list(two[m].layers)
        for key in one[m].layers:
            same(one[m].layers[key], two[m].layers[key])
    with h5py.File(folder / "one.h5mu") as file:
        assert all(file[f"mod/atac/X/{name}"] == file[f"mod/atac/layers/counts/{name}"] for name in SHARED)
    assert run("embed", mosaic, model, "--output", folder / "three.h5mu") == 0
    assert (folder / "three.h5mu").read_bytes() == (folder / "two.h5mu").read_bytes()


def test_a_mosaic_of_someone_else_is_read_whole(folder):
    found = mudata.read_h5mu(folder / "mosaic.h5mu")
    assert read.read_tables(folder / "mosaic.h5mu").obs_names.equals(found.obs_names)
    del found.uns["multivi_nf"]
    found.write_h5mu(folder / "other.h5mu")
    assert read.read_tables(folder / "other.h5mu") is None
    assert read.read_tables(folder / "absent.h5mu") is None
