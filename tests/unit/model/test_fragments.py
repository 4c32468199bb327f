"""A model of fragments: what enters it, what it costs, and what its folder says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

from multivi_nf.data.minibatch import Minibatch, ModalityRows
from multivi_nf.errors import InputError
from multivi_nf.io.records import as_json, from_json
from multivi_nf.model import ModelConfig
from multivi_nf.model.encoding import Noise


def with_counts(minibatch: Minibatch, seed: int = 4) -> tuple[Minibatch, torch.Tensor]:
    """The same cells with fragments in their open peaks, and these as a dense matrix."""
    rows = minibatch.modalities["atac"]
    generator = torch.Generator().manual_seed(seed)
    values = 1 + torch.poisson(torch.full((rows.counts.indices.numel(),), 0.5), generator=generator)
    counts = dataclasses.replace(rows.counts, values=values)
    modalities = {**minibatch.modalities, "atac": ModalityRows(rows.cells, counts)}
    return dataclasses.replace(minibatch, modalities=modalities), counts.dense()


@pytest.mark.parametrize("library", ["observed", "encoded"])
@pytest.mark.parametrize("modalities", [("rna", "atac", "protein"), ("atac",)])
def test_cost_is_that_of_scipys_poissons_over_the_views(model, minibatch, modalities, library, monkeypatch):
    made = model(modalities, atac_likelihood="poisson", library=library).eval()
    n = made.config.n_features["atac"]
    present = {m: [0, 1, 2, 5] for m in modalities} | {"atac": [0, 1, 3, 4]}
    batch, x = with_counts(minibatch(present, 6 if len(modalities) > 1 else 5))
    if len(modalities) == 1:
        batch, x = with_counts(minibatch({"atac": [0, 1, 2, 3]}, 4))
    # samples of z at the posterior mean
    monkeypatch.setattr("multivi_nf.model.loss._noise", lambda like, generator: torch.zeros_like(like))
    with torch.no_grad():
        found = made.loss(batch, generator=torch.Generator().manual_seed(0)).terms["atac"]
        encoded = made.encode(batch)
        cells = batch.modalities["atac"].cells
        codes = batch.batch[cells]
        library_size = made.level("atac", encoded["atac"]).numpy()
        if library == "observed":
            np.testing.assert_allclose(library_size, x.sum(1), rtol=1e-6)

        def cost(z: torch.Tensor) -> np.ndarray:
            logits = made.tile("atac", made.hidden("atac", z, codes), 0, n, codes)["logits"]
            mean = library_size[:, None] * torch.softmax(logits, 1).numpy()
            return -stats.poisson.logpmf(x.numpy(), mean).sum(1)

        joint, own = cost(made.fuse(batch, encoded).mean[cells]), []
        for m in modalities:
            z = torch.full((batch.n_cells, 3), torch.nan)
            if m in encoded:
                z[batch.modalities[m].cells] = encoded[m].mean
            own.append(cost(torch.nan_to_num(z[cells])) + np.where(torch.isnan(z[cells, 0]), np.nan, 0))
        expected = 0.5 * joint + 0.5 * np.nanmean(own, axis=0) if len(modalities) > 1 else joint
    assert float(found) == pytest.approx(expected.sum() / batch.n_cells, rel=1e-5)


def test_encoders_see_log_counts_and_the_likelihood_sees_counts(model, minibatch):
    made = model(atac_likelihood="poisson").eval()
    batch, x = with_counts(minibatch({"atac": [0, 1, 2]}, 3))
    noise = Noise()
    mean = made.encode(batch, noise)["atac"].mean
    np.testing.assert_array_equal(noise.tiles["atac"].dense(0, torch.float32), x)
    twice, _ = with_counts(batch, seed=5)
    assert not torch.equal(made.encode(twice)["atac"].mean, mean)
    open_only = model().eval()
    ones = minibatch({"atac": [0, 1, 2]}, 3)
    assert torch.equal(open_only.encode(batch)["atac"].mean, open_only.encode(ones)["atac"].mean)


def test_a_step_moves_every_parameter_of_the_fragments(model, minibatch):
    made = model(atac_likelihood="poisson", library="encoded").train()
    batch, _ = with_counts(minibatch({"rna": [0, 1, 2], "atac": [0, 1, 2, 3]}, 4))
    made.loss(batch, generator=torch.Generator().manual_seed(0)).total.backward()
    names = [n for n, p in made.named_parameters() if n.startswith(("generative.atac", "size_encoders.atac"))]
    named = {n: made.get_parameter(n) for n in names}
    still = [n for n, p in named.items() if p.numel() and (p.grad is None or not p.grad.abs().sum() > 0)]
    assert names and still == [] and not any("region" in n for n in names)


def test_folders_of_before_are_bernoulli_and_defaults_read_as_before(config):
    plain = config()
    assert "atac_likelihood" not in as_json(plain)
    assert from_json(ModelConfig, as_json(plain), "it") == plain and plain.atac_likelihood == "bernoulli"
    fragments = config(atac_likelihood="poisson")
    assert from_json(ModelConfig, as_json(fragments), "it") == fragments and fragments != plain
    assert plain.counted == ("rna", "protein") and fragments.counted == ("rna", "atac", "protein")


def test_what_scvi_does_not_have_is_refused(config):
    with pytest.raises(InputError, match="ERROR: atac_likelihood is 'poisson'"):
        config(atac_likelihood="poisson", compat="scvi")
    with pytest.raises(InputError, match="choose one of bernoulli, poisson"):
        config(atac_likelihood="nb")
