"""A model of fragments is trained, saved, mapped onto and used by the commands as one of open peaks is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from mudata import MuData
from scipy import sparse

from multivi_nf.commands.train import command
from multivi_nf.data.source import fingerprint, source_of
from multivi_nf.errors import InputError
from multivi_nf.imputation.impute import impute
from multivi_nf.latent.embed import embed
from multivi_nf.testing.mosaics import clustered_mosaic
from multivi_nf.training import MultiVI, map_onto, train

SMALL = ["--n-hidden", "8", "--n-latent", "3", "--batch-size", "32", "--device", "cpu"]


def counted(seed: int = 0, of: int = 1, **options) -> MuData:
    """Fragments of three clusters, `of` times each; 0/1 in X."""
    mosaic = clustered_mosaic(n_cells=300, seed=seed, **options)
    atac = mosaic["atac"]
    rng = np.random.default_rng(seed)
    cluster = mosaic.obs.loc[atac.obs_names, "cluster"].astype(int).to_numpy()
    rate = np.random.default_rng(99).gamma(0.5, 1.0, (3, atac.n_vars))
    fragments = rng.poisson(rate[cluster] * rng.gamma(5, 0.2, (atac.n_obs, 1))).astype(np.int32)
    atac.X = sparse.csr_matrix((fragments > 0).astype(np.int8))
    atac.layers["counts"] = sparse.csr_matrix(of * fragments)
    mosaic.uns["multivi_nf"] = "{}"
    return mosaic


def run(*arguments: object) -> str:
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def fitted() -> tuple[MuData, MultiVI]:
    mosaic = counted()
    model = MultiVI.from_mosaic(mosaic, n_hidden=32, n_latent=5, atac_likelihood="poisson")
    train(model, mosaic, max_epochs=60, batch_size=32, quiet=True, device="cpu")
    return mosaic, model


def test_training_finds_the_fragments_that_clusters_share(fitted):
    mosaic, model = fitted
    loss = model.history.to_frame()["validation_atac"]
    assert loss.min() < loss.iloc[0] - 0.5
    atac = mosaic["atac"]
    found = impute(model, mosaic, "atac", features="all", cells=list(atac.obs_names), n_samples=40)
    cluster = mosaic.obs.loc[atac.obs_names, "cluster"].astype(int).to_numpy()
    share = np.random.default_rng(99).gamma(0.5, 1.0, (3, atac.n_vars))
    share /= share.sum(1, keepdims=True)
    mean = np.stack([found.X[cluster == k].mean(0) for k in range(3)])
    total = np.median(atac.layers["counts"].toarray().sum(1))
    for k in range(3):
        assert np.corrcoef(mean[k], total * share[k])[0, 1] > 0.9
        others = np.corrcoef(mean[k], share[(k + 1) % 3])[0, 1]
        assert others < 0.6


def test_start_is_the_mean_profile_at_the_cells_own_fragments():
    mosaic = counted()
    model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3, atac_likelihood="poisson")
    bias = model.generative["atac"].output.bias.detach().numpy()
    counts = mosaic["atac"].layers["counts"].toarray()
    share = counts.mean(0) + 1e-3 * counts.mean()
    np.testing.assert_allclose(np.exp(bias) / np.exp(bias).sum(), share / share.sum(), rtol=1e-5)
    assert "atac" not in model.size_encoders
    encoded = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3, atac_likelihood="poisson", library="encoded")
    head = encoded.size_encoders["atac"]
    assert float(head.level.detach()) == pytest.approx(np.log(counts.sum(1).mean()), rel=1e-5)


def test_insertions_train_the_model_that_their_fragments_train():
    one, two = counted(), counted(of=2)
    models = [MultiVI.from_mosaic(m, n_hidden=8, n_latent=3, atac_likelihood="poisson") for m in (one, two)]
    for mosaic, model in zip((one, two), models):
        train(model, mosaic, max_epochs=2, batch_size=64, quiet=True, device="cpu")
    states = [model.state_dict() for model in models]
    assert all(bool((states[0][k] == states[1][k]).all()) for k in states[0])
    prints = [fingerprint(source_of(mosaic, atac_counts=True)) for mosaic in (one, two)]
    assert prints[0] == prints[1] != fingerprint(source_of(one))


def test_the_command_says_what_it_did_once_and_later_steps_read_the_same(tmp_path):
    mosaic = counted(of=2)
    mosaic.write(tmp_path / "m.h5mu")
    arguments = [tmp_path / "m.h5mu", "--output", tmp_path / "model", "--max-epochs", 2, *SMALL]
    said = run(*arguments, "--atac-likelihood", "poisson")
    assert said.count("are insertions (an excess of even values)") == 1
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model"]["atac_likelihood"] == "poisson"
    model = MultiVI.load(tmp_path / "model")
    stored, memory = embed(model, tmp_path / "m.h5mu"), embed(model, mosaic)
    assert np.array_equal(stored.mean, memory.mean)
    assert np.array_equal(stored.mean, embed(model, counted()).mean)
    binary = mosaic.copy()
    del binary["atac"].layers["counts"]
    binary.write(tmp_path / "binary.h5mu")
    arguments = [str(a) for a in (tmp_path / "binary.h5mu", *arguments[1:], "--atac-likelihood", "poisson")]
    refused = CliRunner().invoke(command, arguments)
    assert isinstance(refused.exception, InputError) and "no count of ATAC is above 1" in str(refused.exception)


def test_new_batches_are_mapped_and_the_reference_stays(fitted):
    mosaic, model = fitted
    new = counted(seed=7, batches=("z",), prefix="q")
    mapped = map_onto(model, new, max_epochs=2, quiet=True, device="cpu")
    assert mapped.counts_peaks and mapped.config.batches == ("a", "b", "z")
    assert np.array_equal(embed(mapped, mosaic).mean, embed(model, mosaic).mean)
    assert np.isfinite(embed(mapped, new).mean).all()


def test_a_folder_without_the_field_is_bernoulli(tmp_path):
    mosaic = clustered_mosaic()
    model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3)
    model.save(tmp_path / "model")
    assert "atac_likelihood" not in json.loads((tmp_path / "model" / "config.json").read_text())["model"]
    loaded = MultiVI.load(tmp_path / "model")
    assert loaded.config.atac_likelihood == "bernoulli" and not loaded.counts_peaks
