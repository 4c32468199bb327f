from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

from multivi_nf.commands import main
from multivi_nf.data.draws import BLOCK
from multivi_nf.testing.models import make_model, with_split
from multivi_nf.testing.mosaics import patterned_mosaic


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("commands")
    mosaic = patterned_mosaic(n=600, genes=20, peaks=20, proteins=4)
    with_split(make_model(mosaic, n_hidden=8), mosaic).save(where / "model")
    mosaic.write_h5mu(where / "mosaic.h5mu")
    return where


def run(*arguments: object) -> int:
    """Exit code of a step."""
    try:
        main([str(a) for a in arguments])
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


def test_calibrate_impute_gather_differential(folder, capsys):
    mosaic, model = folder / "mosaic.h5mu", folder / "model"
    assert run("calibrate", mosaic, model, "--samples", 10) == 0
    assert {"calibration.json", "support.safetensors"} <= {p.name for p in model.iterdir()}
    options = ("--modality", "rna", "--features", "all", "--samples", 40)
    names = md.read_h5mu(mosaic).obs_names
    for i, part in ((1, names[:BLOCK]), (2, names[BLOCK:])):
        assert len(part)
        (folder / f"{i}.txt").write_text("".join(f"{name}\n" for name in part))
        cells = ("--cells", folder / f"{i}.txt")
        assert run("impute", mosaic, model, *options, *cells, "--output", folder / f"{i}.zarr") == 0
    assert run("gather-imputed", folder / "2.zarr", folder / "1.zarr", "--output", folder / "rna.zarr") == 0
    assert run("impute", mosaic, model, *options, "--output", folder / "whole.zarr") == 0
    one, two = ad.read_zarr(folder / "rna.zarr"), ad.read_zarr(folder / "whole.zarr")
    np.testing.assert_array_equal(one.X, two.X)
    # never False where it was not checked
    assert (one.obs["out_of_support"].isna() == one.obs["support_p"].isna()).all() and bool(one.uns["calibrated"])
    assert one.obs.loc[one.obs["measured"], ["out_of_support", "calibrated"]].isna().all(axis=None)
    assert one.obs.loc[~one.obs["measured"], "calibrated"].notna().all()
    (folder / "c.csv").write_text("contrast,modality,groupby,target\nx,atac,cell_type,T0\n")
    chosen = ("--contrasts", folder / "c.csv", "--contrast", "x")
    assert run("differential", mosaic, model, *chosen, "--output", folder / "x.tsv.gz") == 0
    assert len(pd.read_csv(folder / "x.tsv.gz", sep="\t")) == 20
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "step",
    [
        ("impute", "--modality", "rna", "--output", "x.zarr", "--features", "nothing.txt"),
        ("impute", "--modality", "rna", "--output", "x.zarr", "--cells", "nothing.txt"),
        ("impute", "--modality", "atac", "--output", "x.zarr"),
        ("differential", "--modality", "rna", "--groupby", "none", "--target", "a", "--output", "x.tsv.gz"),
        ("differential", "--output", "x.tsv.gz"),
        ("embed", "--labels", "nothing", "--output", "x.h5mu"),
    ],
)
def test_wrong_input_leaves_with_two_and_three_parts(folder, capsys, monkeypatch, step):
    monkeypatch.chdir(folder)
    assert run(step[0], "mosaic.h5mu", "model", *step[1:]) == 2
    text = capsys.readouterr().err
    assert "ERROR" in text and "Why it matters" in text and "What to do" in text
    assert not [p for p in folder.glob("x.*") if p.suffix != ".gz"]


def test_a_contrast_nobody_asked_for_may_be_empty(folder, capsys):
    mosaic = patterned_mosaic(n=600, genes=20, peaks=20, proteins=4)
    mosaic.obs["arm"] = "0"
    mosaic.obs.loc[mosaic.obs_names.difference(mosaic["protein"].obs_names), "arm"] = "1"
    mosaic.write_h5mu(folder / "one.h5mu")
    asked = ("--modality", "protein", "--groupby", "arm", "--target", "each", "--output", folder / "e.tsv.gz")
    assert run("differential", folder / "one.h5mu", folder / "model", *asked) == 2
    assert "fewer than two groups of arm have two protein-measured cells ('0' has " in capsys.readouterr().err
    assert not (folder / "e.tsv.gz").exists()
    assert run("differential", folder / "one.h5mu", folder / "model", *asked, "--optional") == 0
    assert "WARNING: fewer than two groups" in capsys.readouterr().err
    table = pd.read_csv(folder / "e.tsv.gz", sep="\t")
    assert table.empty and ["target", "feature"] == list(table.columns[:2])


def test_a_folder_without_a_model(folder, capsys):
    assert run("impute", folder / "mosaic.h5mu", folder, "--modality", "rna", "--output", folder / "y.zarr") == 2
    assert "holds no trained model" in capsys.readouterr().err
