from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pytest
import torch

from multivi_nf.data.draws import BLOCK, cell_keys, normals
from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.errors import InputError
from multivi_nf.imputation import store as gathering_module
from multivi_nf.imputation.impute import Imputer, Options, impute, impute_to_zarr
from multivi_nf.imputation.store import gather
from multivi_nf.latent.cells import Cells
from multivi_nf.latent.embed import embed
from multivi_nf.testing.models import make_model
from multivi_nf.testing.mosaics import patterned_mosaic, with_fragments


def written(model, mosaic, path, modality="rna", dtype="float32", **options):
    """Impute into a store."""
    impute_to_zarr(Imputer(Cells(model, mosaic), modality, Options(**options)), path, dtype)


@torch.inference_mode()
def brute_force(model, mosaic, modality: str, n_samples: int, seed: int) -> np.ndarray:
    """(n_draws, n_cells, n_features): every batch of the mixture, every draw, dense, from the formulas."""
    data = MosaicData(mosaic, model)
    minibatch = data.minibatch(np.arange(data.n_cells))
    encoded = model.encode(minibatch)
    joint = model.fuse(minibatch, encoded)
    noise = torch.from_numpy(normals(cell_keys(data.cells, seed, "posterior"), range(n_samples), model.config.n_latent))
    batches, weights = model.config.reference_weights(modality)
    n = model.config.n_features[modality]
    draws = []
    for eps in noise:
        z = joint.mean + joint.variance.sqrt() * eps
        value = 0
        for b, w in zip(batches.tolist(), weights):
            index = torch.full((data.n_cells,), b)
            raw = model.tile(modality, model.hidden(modality, z, index), 0, n, index)
            if modality == "rna":
                one = 1e4 * torch.softmax(raw["logits"], 1)
            elif modality == "atac" and model.counts_peaks:
                one = float(np.median(encoded["atac"].size.exp())) * torch.softmax(raw["logits"], 1)
            elif modality == "atac":
                depth = np.median(encoded["atac"].size.sigmoid())
                one = raw["probability"] * raw["region"] * float(depth)
            else:
                background = torch.exp(raw["log_background_mean"] + raw["log_background_sd"] ** 2 / 2)
                one = (1 - raw["mixing"]) * raw["foreground"] * background
            value = value + w * one
        draws.append(value.numpy())
    return np.stack(draws)


@pytest.mark.parametrize("library", ["observed", "encoded"])
def test_fragments_equal_dense_brute_force_and_their_scale_is_named(mosaic, library):
    counted = with_fragments(mosaic)
    model = make_model(counted, atac_likelihood="poisson", library=library)
    found = impute(model, counted, "atac", features="all", n_samples=40, seed=5)
    draws = brute_force(model, counted, "atac", 40, 5)
    np.testing.assert_allclose(found.X, draws.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.layers["sd"], draws.std(0, ddof=1), rtol=1e-3, atol=1e-5)
    # the fragments of a cell of median depth, shared out over its peaks
    total = np.median(counted["atac"].layers["counts"].toarray().sum(1))
    if library == "observed":
        np.testing.assert_allclose(found.X.sum(1), total, rtol=1e-5)
        scale = json.loads(found.uns["multivi_nf"])["scale"]
        assert scale == f"expected fragments at the median depth, {total:.6g} in peaks"
    few = impute(model, counted, "atac", features=list(found.var_names[[3, 40]]), n_samples=40, seed=5)
    np.testing.assert_allclose(few.X, found.X[:, [3, 40]], rtol=1e-6)
    with pytest.raises(InputError, match="^ERROR: predictive was asked for atac"):
        impute(model, counted, "atac", features="all", predictive=True)


@pytest.mark.parametrize("modality", ["rna", "atac", "protein"])
def test_moments_equal_dense_brute_force(model, mosaic, modality):
    found = impute(model, mosaic, modality, features="all", n_samples=40, seed=5)
    draws = brute_force(model, mosaic, modality, 40, 5)
    np.testing.assert_allclose(found.X, draws.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.layers["sd"], draws.std(0, ddof=1), rtol=1e-3, atol=1e-5)
    ordered = np.sort(draws, axis=0)
    expected = ordered[0] + (0.025 * 41 - 1) * (ordered[1] - ordered[0])
    np.testing.assert_allclose(found.layers["lower"], expected, rtol=1e-4, atol=1e-5)
    assert list(found.obs_names) == list(mosaic.obs_names)
    measured = np.isin(mosaic.obs_names, mosaic[modality].obs_names)
    np.testing.assert_array_equal(found.obs["measured"], measured)
    assert not found.uns["calibrated"]


def test_many_tiles_equal_brute_force(monkeypatch):
    # several tiles of features, several runs of cells, several batches
    import multivi_nf.imputation.decode as decode
    import multivi_nf.imputation.impute as imputation
    import multivi_nf.imputation.intervals as intervals

    wide = patterned_mosaic(n=30, peaks=70)
    big = make_model(wide)
    for module in (decode, imputation, intervals):
        monkeypatch.setattr(module, "TILE", 16)
    monkeypatch.setattr(imputation, "_ELEMENTS", 40 * 16 * 4)
    found = impute(big, wide, "atac", features="all", n_samples=40)
    np.testing.assert_allclose(found.X, brute_force(big, wide, "atac", 40, 0).mean(0), rtol=1e-5, atol=1e-7)


def test_values_do_not_depend_on_features_order_or_cells(model, mosaic):
    names = list(mosaic.obs_names)
    for modality in ("rna", "atac", "protein"):
        every = impute(model, mosaic, modality, features="all", n_samples=40)
        chosen = [every.var_names[i] for i in (7 % every.n_vars, 0, 3)]
        some = impute(model, mosaic, modality, features=chosen, n_samples=40)
        np.testing.assert_array_equal(some.X, every[:, chosen].X)
        few = impute(model, mosaic, modality, features="all", n_samples=40, cells=[names[40], names[3]])
        np.testing.assert_allclose(few.X, every[[names[40], names[3]]].X, rtol=1e-5, atol=1e-6)


def test_scattered_and_gathered_is_the_same_bytes(tmp_path):
    large = patterned_mosaic(n=2 * BLOCK + 30, genes=12, peaks=10, proteins=3)
    model = make_model(large, n_hidden=8)
    whole = tmp_path / "whole.zarr"
    written(model, large, whole, modality="rna", n_samples=40, features="all")
    parts = []
    for i in (2, 0, 1):
        path = tmp_path / f"part{i}.zarr"
        cells = large.obs_names[i * BLOCK : (i + 1) * BLOCK]
        written(model, large, path, modality="rna", n_samples=40, features="all", cells=cells)
        parts.append(path)
    gather(parts, tmp_path / "gathered.zarr")
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file() and p.name[0].isdigit())  # chunks
    assert files
    for file in files:
        assert (whole / file).read_bytes() == (tmp_path / "gathered.zarr" / file).read_bytes(), file
    one, two = ad.read_zarr(whole), ad.read_zarr(tmp_path / "gathered.zarr")
    assert one.obs.equals(two.obs)
    assert list(one.layers) == list(two.layers)
    again = tmp_path / "again.zarr"
    written(model, large, again, modality="rna", n_samples=40, features="all")
    for file in sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file()):
        assert (whole / file).read_bytes() == (again / file).read_bytes(), file


def test_gather_refuses_what_does_not_belong_together(model, mosaic, tmp_path):
    names = list(mosaic.obs_names)
    options = {"modality": "rna", "n_samples": 40, "features": "all"}
    written(model, mosaic, tmp_path / "a.zarr", cells=names[:10], **options)
    written(model, mosaic, tmp_path / "b.zarr", cells=names[5:15], **options)
    written(model, mosaic, tmp_path / "c.zarr", cells=names[20:30], seed=1, **options)
    with pytest.raises(InputError, match="several chunks"):
        gather([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "out.zarr")
    with pytest.raises(InputError, match="differ in seed"):
        gather([tmp_path / "a.zarr", tmp_path / "c.zarr"], tmp_path / "out.zarr")
    with pytest.raises(InputError, match="nothing.zarr does not exist"):
        gather([tmp_path / "nothing.zarr"], tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_untrained_batch_parameters_reach_no_output(mosaic):
    clean, poisoned = make_model(mosaic, dispersion="gene-batch"), make_model(mosaic, dispersion="gene-batch")
    with torch.no_grad():
        for name, modality in poisoned.batch_tables().items():
            untrained = [i for i, n in enumerate(poisoned.config.batch_cells[modality]) if n == 0]
            dict(poisoned.named_parameters())[name][untrained] = torch.nan
    z, y = embed(clean, mosaic), embed(poisoned, mosaic)
    np.testing.assert_array_equal(z.mean, y.mean)
    for modality in ("rna", "atac", "protein"):
        options = {"features": "all", "n_samples": 40, "predictive": modality != "atac"}
        one, two = (impute(m, mosaic, modality, **options) for m in (clean, poisoned))
        np.testing.assert_array_equal(one.X, two.X)
        for layer in one.layers:
            np.testing.assert_array_equal(one.layers[layer], two.layers[layer])


def test_batch_named_and_own(model, mosaic):
    named = impute(model, mosaic, "rna", batch="s1", n_samples=40, features="all")
    assert not np.allclose(named.X, impute(model, mosaic, "rna", n_samples=40, features="all").X)
    measured = list(mosaic.obs_names[mosaic.obs["batch"] == "s1"])
    own = impute(model, mosaic, "rna", batch="own", n_samples=40, features="all", cells=measured)
    np.testing.assert_allclose(own.X, named[measured].X, rtol=1e-5)
    every, mixture = (impute(model, mosaic, "rna", batch=b, n_samples=40, features="all") for b in ("own", None))
    foreign = (mosaic.obs["batch"] == "s2").to_numpy()
    np.testing.assert_array_equal(every.X[foreign], mixture.X[foreign])
    np.testing.assert_allclose(every[measured].X, named[measured].X, rtol=1e-5)
    told = [json.loads(found.uns["multivi_nf"])["not_own"] for found in (every, own, mixture)]
    assert told == [["s2"], [], []]
    with pytest.raises(InputError, match="'s2' never measured rna"):
        impute(model, mosaic, "rna", batch="s2", n_samples=40)
    with pytest.raises(InputError, match="'nobody' is not known"):
        impute(model, mosaic, "rna", batch="nobody", n_samples=40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "atac"}, "no features were named for atac"),
        ({"modality": "rna", "features": ["g1", "nothing"]}, "unknown to the model: nothing"),
        ({"modality": "rna", "features": ["g1", "g1"]}, "named twice"),
        ({"modality": "rna", "features": []}, "empty"),
        ({"modality": "rna", "n_samples": 20}, "from 20 posterior draws"),
        ({"modality": "atac", "features": "all", "predictive": True}, "^ERROR: predictive was asked for atac"),
        ({"modality": "rna", "cells": ["nobody"]}, "not in the mosaic: nobody"),
    ],
)
def test_wrong_requests_are_named(model, mosaic, options, message):
    with pytest.raises(InputError, match=message):
        impute(model, mosaic, **options)


def test_other_features_are_refused(model):
    with pytest.raises(InputError, match="rna features of the mosaic"):
        embed(model, patterned_mosaic(genes=39))


def test_existing_store_and_full_disk(model, mosaic, tmp_path, monkeypatch):
    (tmp_path / "there.zarr").mkdir()
    (tmp_path / "there.zarr/thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"holds 'thesis.tex', which `impute` did not write"):
        written(model, mosaic, tmp_path / "there.zarr", modality="rna")
    usage = gathering_module.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(gathering_module.shutil, "disk_usage", lambda _: usage._replace(free=10))
        with pytest.raises(InputError, match="float16"):
            written(model, mosaic, tmp_path / "large.zarr", modality="rna")
    calls = []

    def fails(self, rows, **values):
        calls.append(rows)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gathering_module.Store, "write", fails)
    with pytest.raises(InputError, match="filled up"):
        written(model, mosaic, tmp_path / "large.zarr", modality="rna", features="all")
    assert calls
    assert [p.name for p in tmp_path.iterdir()] == ["there.zarr"]


def test_float16_halves_and_stays_close(model, mosaic, tmp_path):
    written(model, mosaic, tmp_path / "a.zarr", modality="rna", features="all", dtype="float16")
    found = ad.read_zarr(tmp_path / "a.zarr")
    assert found.X.dtype == np.float16
    np.testing.assert_allclose(found.X, impute(model, mosaic, "rna", features="all").X, rtol=2e-3, atol=1e-3)


def test_default_features_are_the_variable_ones(monkeypatch, mosaic, model):
    import multivi_nf.imputation.features as selection

    monkeypatch.setattr(selection, "N_VARIABLE", 10)
    found = impute(model, mosaic, "rna", n_samples=40)
    counts = mosaic["rna"].X.toarray().astype(float)
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    residual = (counts - expected) / np.sqrt(expected + expected**2 / 100)
    best = np.sort(np.argsort(-np.clip(residual, -np.sqrt(len(counts)), np.sqrt(len(counts))).var(0))[:10])
    assert list(found.var_names) == list(mosaic["rna"].var_names[best])


def test_support_is_missing_where_it_was_not_checked(model, mosaic, tmp_path):
    """Without references no cell is "not out of support"; the store keeps that, chunks joined too."""
    found = impute(model, mosaic, "rna", features="all", n_samples=40)
    assert found.obs["out_of_support"].isna().all() and found.obs["support_p"].isna().all()
    measured = found.obs["measured"]
    assert found.obs.loc[measured, "calibrated"].isna().all()
    assert not found.obs.loc[~measured, "calibrated"].any()
    written(model, mosaic, tmp_path / "x.zarr", modality="rna", features="all", n_samples=40)
    gather([tmp_path / "x.zarr"], tmp_path / "y.zarr")
    for name in ("x", "y"):
        again = ad.read_zarr(tmp_path / f"{name}.zarr").obs
        assert again["out_of_support"].isna().all() and str(again["out_of_support"].dtype) == "boolean"
        assert again["calibrated"].isna().sum() == measured.sum()
