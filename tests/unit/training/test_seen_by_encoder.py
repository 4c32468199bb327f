"""Genes that the RNA encoder does not see: modelled and imputed as all others, without a say in the embedding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from multivi_nf.imputation.impute import impute
from multivi_nf.latent.embed import embed
from multivi_nf.modalities import SEEN
from multivi_nf.testing.mosaics import clustered_mosaic
from multivi_nf.training import MultiVI, train
from multivi_nf.training.directions import first_layer
from multivi_nf.training.initialise import seen_by_encoder

HIDDEN = slice(0, 10)


@pytest.fixture(scope="module")
def fitted():
    mosaic = clustered_mosaic(n_cells=300)
    seen = np.ones(mosaic["rna"].n_vars, dtype=bool)
    seen[HIDDEN] = False
    mosaic["rna"].var[SEEN] = seen
    model = MultiVI.from_mosaic(mosaic, n_hidden=16, n_latent=4)
    start = model.generative["rna"].output.weight.detach().clone()
    train(model, mosaic, max_epochs=10, batch_size=64, quiet=True, device="cpu")
    return mosaic, model, start


def test_their_weights_stay_nothing_and_their_decoder_learns(fitted, tmp_path):
    mosaic, model, start = fitted
    weight = model.encoders["rna"].weight
    assert not bool(weight[HIDDEN].any()) and bool((weight[10:] != 0).any(1).all())
    moved = (model.generative["rna"].output.weight.detach() - start).abs().amax(1)
    assert bool((moved[HIDDEN] > 0).all())
    model.save(tmp_path / "model")
    again = MultiVI.load(tmp_path / "model")
    assert np.array_equal(embed(again, mosaic).mean, embed(model, mosaic).mean)


def test_their_counts_do_not_move_cells_and_others_do(fitted):
    mosaic, model, _ = fitted
    before = embed(model, mosaic).mean
    changed = mosaic.copy()
    counts = changed["rna"].X.toarray()
    counts[:, HIDDEN] = 7 * counts[:, HIDDEN] + 3
    changed["rna"].X = sparse.csr_matrix(counts)
    np.testing.assert_allclose(embed(model, changed).mean, before, atol=1e-6)
    counts[:, 12] += 9
    changed["rna"].X = sparse.csr_matrix(counts)
    assert np.abs(embed(model, changed).mean - before).max() > 1e-3


def test_they_are_imputed(fitted):
    mosaic, model, _ = fitted
    lone = mosaic.obs_names[~mosaic.obs_names.isin(mosaic["rna"].obs_names)]
    found = impute(model, mosaic, "rna", features="all", cells=list(lone), n_samples=40)
    assert found.n_vars == mosaic["rna"].n_vars and float(np.asarray(found.X)[:, HIDDEN].min()) > 0


def test_directions_are_those_of_the_genes_seen():
    from multivi_nf.data.source import source_of

    mosaic = clustered_mosaic(n_cells=300)
    seen = np.arange(mosaic["rna"].n_vars) >= 10
    of_all = source_of(mosaic).matrices["rna"]
    of_some = source_of(make_without(mosaic, seen)).matrices["rna"]
    weight, bias = first_layer(of_all, 16, seen=seen)
    alone, alone_bias = first_layer(of_some, 16)
    np.testing.assert_allclose(weight[seen], alone, atol=1e-6)
    np.testing.assert_allclose(bias, alone_bias, atol=1e-6)
    assert not weight[~seen].any()
    assert seen_by_encoder(of_all) is None


def make_without(mosaic, seen):
    import mudata

    parts = {m: data.copy() for m, data in mosaic.mod.items()}
    parts["rna"] = parts["rna"][:, seen].copy()
    made = mudata.MuData(parts)
    made.obs = mosaic.obs.loc[made.obs_names].copy()
    return made


def test_without_the_column_nothing_changes():
    plain, marked = clustered_mosaic(n_cells=150), clustered_mosaic(n_cells=150)
    marked["rna"].var[SEEN] = True
    one, two = (MultiVI.from_mosaic(m, n_hidden=8, n_latent=3) for m in (plain, marked))
    for m, model in ((plain, one), (marked, two)):
        train(model, m, max_epochs=3, batch_size=64, quiet=True, device="cpu")
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
