"""Held-out pairs tell which weights serve users."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.errors import Interrupted
from multivi_nf.model.loss import INTEGRATION_SHARE
from multivi_nf.testing.mosaics import clustered_mosaic
from multivi_nf.training import MultiVI, fit, held_pairs, settings, train
from multivi_nf.training.held_pairs import HeldPairs
from multivi_nf.training.objective import Objective
from multivi_nf.training.settings import PASSES, Settings, settings_for
from multivi_nf.training.state import STILL, State, what_counts


def test_foscttm_of_hand_made_points():
    # match 0 is nearest both ways; of pair 1 one cell of b is closer to a[1], none of a to b[1]; of pair 2 none, one
    a, b = torch.tensor([[0.0], [2.0], [10.0]]), torch.tensor([[0.1], [5.0], [3.0]])
    # a[1]=2: |5-2|=3, |0.1-2|=1.9, |3-2|=1 -> two closer; a[2]=10: own 7, 5 -> one closer (5); b[1]=5: own 3, 10 -> 5,
    # 0 -> 5: none; b[2]=3: own 7, 2 -> 1, 0 -> 3: two
    assert held_pairs.foscttm(a, b) == pytest.approx((2 + 1 + 0 + 2) / (2 * 3 * 2))
    assert held_pairs.foscttm(a, a) == 0.0


def test_told_is_one_for_the_truth_and_near_zero_for_noise():
    rng = torch.Generator().manual_seed(0)
    rate = torch.rand(200, 300, generator=rng) * 30 + 1
    x = torch.poisson(rate, generator=rng)
    right = float(held_pairs.told({"logits": x.clamp(min=1e-6).log()}, x))
    near, noise = (float(held_pairs.told({"logits": v.log()}, x)) for v in (rate, rate[torch.randperm(200)]))
    assert right > 0.999 and 0.7 < near < right and abs(noise) < 0.05
    # a mean profile, the same for all cells, tells nothing
    assert abs(float(held_pairs.told({"logits": rate.mean(0).log().expand(200, -1)}, x))) < 1e-3
    peaks = {"probability": rate / 31, "region": torch.ones(300)}
    assert float(held_pairs.told(peaks, torch.bernoulli(rate / 31, generator=rng))) > 0.3


def test_proteins_outside_the_panel_do_not_count():
    rng = torch.Generator().manual_seed(1)
    mean = torch.rand(50, 10, generator=rng) * 100 + 5
    x, panel = torch.poisson(mean, generator=rng), torch.ones(50, 10, dtype=torch.bool)
    panel[:25, 6:] = False
    decoded = {
        "log_background_mean": mean.log(),
        "foreground": torch.ones(50, 10),
        "mixing": torch.full((50, 10), 0.5),
        "panel": panel,
    }
    first = float(held_pairs.told(decoded, x))
    x[:25, 6:] = 1e6
    assert float(held_pairs.told(decoded, x)) == pytest.approx(first) and first > 0.8


@pytest.fixture(scope="module")
def mosaic():
    return clustered_mosaic(n_cells=600, n_peaks=60, paired=0.8)


def test_few_pairs_say_nothing(mosaic):
    model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3)
    data = MosaicData(mosaic, model)
    both = np.flatnonzero(data.has["rna"] & data.has["atac"])
    assert HeldPairs(model, data, both[: held_pairs.LEAST - 1], 0).score(0.0) == {}
    found = HeldPairs(model.eval(), data, both, 0).score(0.0)
    assert found["held_out_score"] == pytest.approx(HeldPairs(model, data, both, 0).score(0.5)["held_out_score"] + 0.5)
    assert 0 < found["held_out_foscttm"] < 1 and -1 <= found["held_out_correlation"] <= 1


def test_training_pairs_better_and_keeps_the_epoch_that_does(mosaic):
    model = MultiVI.from_mosaic(mosaic, n_hidden=16, n_latent=4)
    history = train(model, mosaic, max_epochs=40, batch_size=64, quiet=True, device="cpu")
    scores = np.array(history["held_out_score"])
    assert np.isfinite(scores).all()
    after = history.rows[0]["epoch"] - 1 + np.flatnonzero(np.array(history["alignment_weight"]) == 5.0)
    assert scores[history.best_epoch - 1] == scores[after].max()
    shares = history["held_out_foscttm"]
    assert shares[history.best_epoch - 1] < 0.3 < shares[0]
    assert model.training_settings["thinning"] == 0.5


def test_a_thinned_run_that_is_interrupted_goes_on_to_the_same_bytes(mosaic, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "PASSES", 3)
    how = {"max_epochs": 5, "batch_size": 64, "quiet": True, "device": "cpu"}

    def fitted(**more) -> MultiVI:
        model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3)
        train(model, mosaic, **how, **more)
        return model

    undisturbed = fitted()
    assert undisturbed.training_settings["thinning"] == 0.5
    left = iter([""] * 11 + ["the test says so"])
    with monkeypatch.context() as patched:
        patched.setattr(fit, "_stopper", lambda *_: lambda: next(left))
        with pytest.raises(Interrupted):
            fitted(checkpoint_dir=tmp_path, resume=True)
    again = fitted(checkpoint_dir=tmp_path, resume=True)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in undisturbed.state_dict().items())
    a, b = (model.history.to_frame().drop(columns="seconds") for model in (again, undisturbed))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    plain = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3)
    monkeypatch.setattr(settings, "PASSES", 300)
    train(plain, mosaic, **how)
    assert not torch.equal(plain.encoders["rna"].weight, undisturbed.encoders["rna"].weight)


def test_of_rna_and_protein_the_loss_keeps_the_epoch_and_nothing_is_thinned():
    mosaic = clustered_mosaic(n_cells=600, modalities=("rna", "protein"), paired=0.8)
    model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3)
    history = train(model, mosaic, max_epochs=PASSES, batch_size=256, quiet=True, device="cpu")
    assert model.training_settings["thinning"] == 0.0 and "held_out_score" not in history.rows[0]


def test_weights_are_compared_by_pairs_and_without_them_by_the_loss():
    row = {"validation_loss": 5.0, "alignment_weight": 2.0, "validation_alignment": 0.5, "validation_integration": 0.25}
    assert what_counts(row) == 6.25
    assert what_counts(row | {"held_out_score": 1.5}) == -1.5


def test_excess_is_in_nats_of_a_penalty(mosaic):
    model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3)
    objective = Objective(model, settings_for(300, kl_warmup=5), torch.device("cpu"))
    paid = {"rna": 300.0, "atac": 100.0, "integration": 400 * INTEGRATION_SHARE * 0.2}
    assert objective.tally.excess(paid) == pytest.approx(0.2)
    assert objective.tally.excess({}) == 0.0


@pytest.mark.parametrize(("gain", "said"), [(0.3, True), (0.05, False)])
def test_a_run_that_still_gains_at_its_cap_says_so(gain, said):
    state = State(Settings(8, 32, 1e-3, 8, 5, 0, 0, 0), [])
    for epoch in range(8):
        score = 1.0 if epoch < 6 else 1.0 + gain
        state.record({"held_out_score": score, "alignment_weight": 1.0}, validated=True)
    assert state.finished and state.history.stopped.endswith(STILL) is said
    assert state.history.best_epoch == 7


def test_many_passes_are_thinned_and_few_are_not():
    assert settings_for(5_000, kl_warmup=50, thins=True).thinning == 0.5
    many = settings_for(20_000, kl_warmup=50, thins=True)
    assert many.max_epochs < PASSES and many.thinning == 0.0
    assert settings_for(5_000, kl_warmup=50).thinning == 0.0
    assert settings_for(5_000, kl_warmup=50, max_epochs=PASSES - 1, thins=True).thinning == 0.0


def test_the_score_costs_little(mosaic, monkeypatch):
    """At most `MOST` pairs are looked at, the same for a seed."""
    monkeypatch.setattr(held_pairs, "MOST", 30)
    model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3)
    data = MosaicData(mosaic, model)
    some = [HeldPairs(model, data, np.arange(data.n_cells), seed).cells for seed in (0, 0, 1)]
    assert len(some[0]) == 30 and np.array_equal(some[0], some[1]) and not np.array_equal(some[0], some[2])
    assert math.isfinite(HeldPairs(model.eval(), data, np.arange(data.n_cells), 0).score(0.0)["held_out_score"])


def test_mapping_and_scvi_are_left_as_they_are(mosaic):
    model = MultiVI.from_mosaic(mosaic, n_hidden=8, n_latent=3, compat="scvi")
    history = train(model, mosaic, max_epochs=PASSES, batch_size=256, quiet=True, device="cpu")
    assert model.training_settings["thinning"] == 0.0 and "held_out_score" not in history.rows[0]
