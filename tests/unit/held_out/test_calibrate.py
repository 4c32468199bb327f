from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from multivi_nf.calibration.entries import Curve, Direction, Levels
from multivi_nf.calibration.stored import Calibration
from multivi_nf.calibration.support import Support
from multivi_nf.comparison.compare import differential
from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.errors import InputError
from multivi_nf.held_out.calibrate import calibrate
from multivi_nf.held_out.compared import NotFitted
from multivi_nf.held_out.fit import Fit
from multivi_nf.held_out.pairs import drawn_to
from multivi_nf.held_out.prediction import Shown
from multivi_nf.imputation.impute import impute
from multivi_nf.imputation.mixtures import Mixture
from multivi_nf.testing.models import make_model, with_split
from multivi_nf.testing.mosaics import patterned_mosaic, with_fragments


@pytest.fixture(scope="module")
def paired():
    mosaic = patterned_mosaic(n=800, genes=30, peaks=40, patterns=("rna+atac", "rna", "atac", "rna+atac"))
    return mosaic, with_split(make_model(mosaic, n_hidden=8), mosaic)


@pytest.fixture(scope="module")
def calibrated(paired):
    mosaic, model = paired
    return calibrate(model, mosaic, n_samples=20)


def test_calibration_improves_the_held_out_score(calibrated):
    assert calibrated.calibrated and calibrated.n_pairs == 200
    assert set(calibrated.directions) == {"atac->rna", "rna->atac"}
    for entry in calibrated.directions.values():
        assert entry.log_score_after >= entry.log_score_before - 1e-9
    counts = calibrated.directions["atac->rna"]
    before, after = (dict(pairs) for pairs in (counts.coverage_before, counts.coverage_after))
    assert abs(after[0.95] - 0.95) <= abs(before[0.95] - 0.95) + 0.02
    peaks = calibrated.directions["rna->atac"]
    assert None not in (peaks.slope_before, peaks.slope_after, peaks.reliability_after)


@pytest.fixture(scope="module")
def fragments():
    patterns = ("rna+atac", "rna", "atac", "rna+atac")
    mosaic = with_fragments(patterned_mosaic(n=800, genes=30, peaks=40, patterns=patterns), share=0.3)
    model = with_split(make_model(mosaic, n_hidden=8, atac_likelihood="poisson"), mosaic)
    return mosaic, model, calibrate(model, mosaic, n_samples=20)


def test_fragments_are_drawn_to_their_peaks_rates_by_the_log_score_of_counts(fragments, tmp_path):
    mosaic, model, found = fragments
    entry = found.directions["rna->atac"]
    assert entry.calibrated and entry.log_score_after > entry.log_score_before and entry.shrinkage > 0
    counts = mosaic["atac"].layers["counts"].toarray()
    assert found.atac_depth == pytest.approx(np.median(counts.sum(1)))
    held = set(model.split.loc[model.split["split"] == "calibration", "cell"])
    free, batch = ~mosaic["atac"].obs_names.isin(held), mosaic.obs.loc[mosaic["atac"].obs_names, "batch"].to_numpy()
    rates = 0
    for i, weight in model.config.reference_mixture("atac"):
        own = counts[free & (batch == model.config.batches[i])]
        rates = rates + weight * found.atac_depth * (own.sum(0) + 0.5) / own.sum()
    assert set(found.rates) == {"atac"}
    np.testing.assert_allclose(found.rates["atac"][-1], rates, rtol=1e-4)
    assert (found.rates["atac"] > 1).any()
    found.save(tmp_path)
    again = Calibration.load(tmp_path)
    np.testing.assert_allclose(again.rates["atac"], found.rates["atac"], rtol=1e-6)
    at = impute(model, mosaic, "atac", features="all", calibration=found)
    free = impute(model, mosaic, "atac", features="all")
    hidden, share = ~at.obs["measured"].to_numpy(), entry.shrinkage
    assert entry.temperature == 1.0  # or draws would be others
    np.testing.assert_allclose(at.X[hidden], (1 - share) * free.X[hidden] + share * found.rates["atac"][-1], rtol=2e-3)
    assert (at.layers["upper"][hidden] > 1).any()


def test_file_is_plain_json_and_read_back(calibrated, tmp_path):
    calibrated.save(tmp_path)
    content = json.loads((tmp_path / "calibration.json").read_text())
    assert content["batches"] == ["s0", "s3"]
    assert any("extrapolation" in note for note in content["notes"])
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "calibration.json").stat().st_mode}
    again = Calibration.load(tmp_path)
    assert again.directions == calibrated.directions
    assert again.support.references.keys() == calibrated.support.references.keys()
    first = (tmp_path / "calibration.json").read_bytes(), (tmp_path / "support.safetensors").read_bytes()
    calibrated.save(tmp_path)
    assert first == ((tmp_path / "calibration.json").read_bytes(), (tmp_path / "support.safetensors").read_bytes())
    assert not Calibration.load(tmp_path / "elsewhere").calibrated


def test_temperature_acts_on_imputed_cells_only(paired, calibrated):
    mosaic, model = paired
    cool = Calibration(calibrated=True, directions={"atac->rna": Direction(True, temperature=0.1)})
    plain, other = (impute(model, mosaic, "rna", features="all", calibration=c) for c in (None, cool))
    measured = plain.obs["measured"].to_numpy()
    np.testing.assert_array_equal(other[measured].X, plain[measured].X)
    ratio = other[~measured].layers["sd"].mean() / plain[~measured].layers["sd"].mean()
    assert 0.2 < ratio < 0.7
    assert other.uns["calibrated"] and not plain.uns["calibrated"]


def test_dispersion_factor_widens_predicted_counts(paired):
    mosaic, model = paired
    entry = Direction(True, temperature=1.0, dispersion_factor=6.0)
    wide = Calibration(calibrated=True, directions={"atac->rna": entry})
    plain, other = (impute(model, mosaic, "rna", features="all", predictive=True, calibration=c) for c in (None, wide))
    rows = ~plain.obs["measured"].to_numpy()
    np.testing.assert_array_equal(plain.X, other.X)
    assert other[rows].layers["predicted_upper"].mean() > plain[rows].layers["predicted_upper"].mean()
    np.testing.assert_array_equal(other[~rows].layers["predicted_upper"], plain[~rows].layers["predicted_upper"])


def test_proteins_outside_the_panel_are_not_zeros():
    rng = np.random.default_rng(0)
    n, mean, theta = 400, np.array([5.0, 20, 50, 100, 300, 20, 50, 100]), 8.0
    shape = (n, len(mean))
    known = np.ones(shape, bool)
    known[1::2, 4:] = False
    drawn = rng.negative_binomial(theta, theta / (theta + mean), shape).astype(float)
    mixture = Mixture(
        np.broadcast_to(mean, (1, *shape)).astype(np.float32).copy(),
        np.ones((1, 1, 1), np.float32),
        np.zeros(shape),
        np.full(shape, theta),
    )
    uniform, latent, fold = rng.random(shape), rng.normal(size=(n, 3)), np.arange(n) % 2
    found = {}
    for name, used in (("masked", known), ("as zeros", np.ones(shape, bool))):
        counts = np.where(known, drawn, 0.0)
        shown = Shown("protein", np.arange(len(mean)), counts, np.ones(n), used, latent, fold, uniform)
        found[name] = Fit(shown, lambda _: (mixture.mean, mixture)).fitted(n)
    masked = found["masked"]
    assert 0.8 < masked.dispersion_factor < 1.25
    assert np.interp([0.5, 0.8, 0.95], masked.levels.nominal, masked.levels.used) == pytest.approx(
        [0.5, 0.8, 0.95], abs=0.05
    )
    assert dict(masked.coverage_after)[0.8] == pytest.approx(0.8, abs=0.03)
    assert max(masked.mean_sd.sd) < 0.15
    assert len(masked.mean_sd.sd) == 8, "fewer features than deciles"
    assert found["as zeros"].dispersion_factor > 5 and max(found["as zeros"].mean_sd.sd) > 0.5


def test_levels_move_predicted_bounds_of_imputed_cells_only(paired, calibrated):
    mosaic, model = paired
    assert calibrated.directions["atac->rna"].levels is not None and calibrated.directions["rna->atac"].levels is None
    entry = Direction(True, temperature=1.0, levels=Levels([0.0, 0.95, 1.0], [0.0, 0.6, 1.0]))
    narrow = Calibration(calibrated=True, directions={"atac->rna": entry})
    plain, other, asked = (
        impute(model, mosaic, "rna", features="all", predictive=True, calibration=c, interval=p)
        for c, p in ((None, 0.95), (narrow, 0.95), (None, 0.6))
    )
    rows = ~plain.obs["measured"].to_numpy()
    for bound in ("predicted_lower", "predicted_upper"):
        np.testing.assert_array_equal(other[rows].layers[bound], asked[rows].layers[bound])
        np.testing.assert_array_equal(other[~rows].layers[bound], plain[~rows].layers[bound])
    assert (other[rows].layers["predicted_upper"] < plain[rows].layers["predicted_upper"]).any()


def test_error_of_the_mean_widens_imputed_cells_only(paired):
    mosaic, model = paired
    entry = Direction(True, temperature=1.0, mean_sd=Curve([0.0, 9.0], [0.3, 0.3]))
    noisy = Calibration(calibrated=True, directions={"atac->rna": entry})
    plain, wide = (impute(model, mosaic, "rna", features="all", calibration=c) for c in (None, noisy))
    rows = ~plain.obs["measured"].to_numpy()
    np.testing.assert_array_equal(plain.X, wide.X)
    expected = np.hypot(plain[rows].layers["sd"], 0.3 * plain[rows].X)
    np.testing.assert_allclose(wide[rows].layers["sd"], expected, rtol=1e-5)
    assert (wide[rows].layers["lower"] < plain[rows].layers["lower"]).all()
    np.testing.assert_array_equal(plain[~rows].layers["upper"], wide[~rows].layers["upper"])


def test_imputed_accessibility_is_drawn_towards_the_rates_of_its_peaks(paired, calibrated, tmp_path):
    mosaic, model = paired
    share = calibrated.directions["rna->atac"].shrinkage
    assert 0 <= share < 1 and calibrated.directions["rna->atac"].temperature >= 1
    rates = np.linspace(0.1, 0.9, mosaic["atac"].n_vars)
    entry = Direction(True, temperature=1.0, shrinkage=0.25)
    drawn = Calibration(calibrated=True, directions={"rna->atac": entry}, rates={"atac": rates}, atac_depth=0.5)
    plain = impute(model, mosaic, "atac", features="all", calibration=Calibration(atac_depth=0.5))
    drawn.save(tmp_path)
    found = impute(model, mosaic, "atac", features="all", calibration=Calibration.load(tmp_path))
    rows = ~plain.obs["measured"].to_numpy()
    np.testing.assert_allclose(found[rows].X, 0.75 * plain[rows].X + 0.25 * rates, rtol=1e-5)
    np.testing.assert_allclose(found[rows].layers["sd"], 0.75 * plain[rows].layers["sd"], rtol=1e-5)
    np.testing.assert_array_equal(found[~rows].X, plain[~rows].X)
    some = impute(
        model, mosaic, "atac", features=list(mosaic["atac"].var_names[[7, 3]]), calibration=Calibration.load(tmp_path)
    )
    np.testing.assert_allclose(some.X, found[:, some.var_names].X, rtol=1e-6)
    (tmp_path / "rates.safetensors").unlink()
    with pytest.raises(InputError, match="rates"):
        Calibration.load(tmp_path)


def test_noise_within_peaks_is_not_believed():
    """A decoder that knows each peak's rate but varies at random within it: most of the rate is put in its place."""
    rng = np.random.default_rng(0)
    n, m = 200, 100
    rates = rng.uniform(0.05, 0.5, m)

    def fit(truth: np.ndarray, predicted: np.ndarray) -> Fit:
        shape = (n, m)
        counts = (rng.random(shape) < truth).astype(float)
        nothing = np.zeros((n, 1))
        shown = Shown(
            "atac", np.arange(m), counts, np.ones(n), np.ones(shape, bool), nothing, np.zeros(n), counts, rates
        )
        shown.is_probability = True
        return Fit(shown, lambda _: (predicted, None))

    bold = 1 / (1 + np.exp(-(np.log(rates / (1 - rates)) + rng.normal(0, 1, (n, m)))))
    assert fit(rates, bold[None]).best_factor(1.0)[1] > 0.8
    assert fit(rates, np.broadcast_to(rates, (1, n, m))).best_factor(1.0)[0] > -0.7
    truth = rng.uniform(0.02, 0.98, (n, m))
    assert fit(truth, truth[None]).best_factor(1.0)[1] < 0.1


def mean_error(counts, latent, value, mixture=None):
    """Errors of means by decile, of RNA counts predicted by `value`."""
    known, fold = np.ones(counts.shape, bool), np.zeros(len(counts))
    shown = Shown("rna", np.arange(counts.shape[1]), counts, np.ones(len(counts)), known, latent, fold, counts)
    return Fit(shown, lambda _: (value[None], mixture)).mean_error(value[None], mixture).sd


def test_error_that_neighbours_share_is_found_from_their_residuals():
    """Overdispersed counts of cells whose predicted means are wrong by 0.4, alike in all cells of a group."""
    rng = np.random.default_rng(0)
    n, m, groups = 300, 200, 30
    group = np.arange(n) % groups
    value = np.broadcast_to(rng.lognormal(0, 1, m), (n, m))
    wrong = np.exp(rng.normal(0, 0.4, (groups, m)) - 0.08)[group]
    counts = rng.poisson(value * wrong * rng.gamma(2.0, 0.5, (n, m))).astype(float)
    found = []
    for latent in (rng.normal(size=(groups, 5))[group] + rng.normal(0, 0.01, (n, 5)), rng.normal(size=(n, 5))):
        found.append(np.mean(mean_error(counts, latent, value)))
    # a factor exp(N(0, 0.4) - 0.08) has mean 1 and a standard deviation of 0.417
    assert abs(found[0] - 0.417) < 0.06
    assert found[1] < 0.2


def test_error_of_means_is_pooled_by_precision_over_features_of_very_different_means():
    """Counts without any error of the mean but for noise: rare features say little, and none of it may decide."""
    n, m = 300, 400
    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        level = np.concatenate([np.geomspace(0.003, 0.02, m - 40), np.full(20, 2.0), np.full(20, 50.0)])
        value = np.broadcast_to(level, (n, m))
        theta = np.where(level > 10, 1e6, 2.0)
        counts = rng.poisson(value * rng.gamma(theta, 1 / theta, (n, m))).astype(float)
        latent = rng.normal(size=(n, 5))
        mixture = Mixture(
            value[None].astype(np.float32),
            np.ones((1, 1, 1), np.float32),
            np.zeros((n, m)),
            np.broadcast_to(theta, (n, m)),
        )
        found.append(mean_error(counts, latent, value, mixture))
    # the floor of every decile is what frequent features say: no error
    assert np.min(found, axis=1).max() < 0.05
    # and an error of the frequent ones alone is found beside rare ones that say nothing
    wrong = np.where(level > 10, np.exp(rng.normal(0, 0.3, (30, m)))[np.arange(n) % 30], 1.0)
    counts = rng.poisson(value * wrong).astype(float)
    latent = rng.normal(size=(30, 5))[np.arange(n) % 30] + rng.normal(0, 0.01, (n, 5))
    assert mean_error(counts, latent, value, mixture)[-1] == pytest.approx(0.31, abs=0.06)


def test_few_pairs_are_said(paired):
    mosaic, model = paired
    few = make_model(mosaic, n_hidden=8)
    few.split = model.split.copy()
    calibration_cells = few.split.index[few.split["split"] == "calibration"]
    few.split.loc[calibration_cells[99:], "split"] = "train"
    found = calibrate(few, mosaic, n_samples=10)
    assert not found.calibrated and found.n_pairs == 99
    assert "99 held-out pairs are too few" in found.notes[0]
    assert not impute(few, mosaic, "rna", features="all", calibration=found, n_samples=40).uns["calibrated"]


def test_a_model_without_split_or_of_other_cells(paired):
    mosaic, model = paired
    with pytest.raises(InputError, match=r"no split\.tsv"):
        calibrate(make_model(mosaic, n_hidden=8), mosaic)
    other = make_model(mosaic, n_hidden=8)
    other.split = pd.DataFrame({"cell": ["x:1", "x:2"], "split": "calibration"})
    with pytest.raises(InputError, match="2 of the 2 calibration cells"):
        calibrate(other, mosaic)


def test_errors_of_imputed_effects_widen_their_intervals(paired):
    mosaic, model = paired
    entry = Direction(True, temperature=1.0, effect_sd=Curve([0.0, 10.0], [0.5, 0.5]))
    noisy = Calibration(calibrated=True, directions={"atac->rna": entry})
    options = {"groupby": "cell_type", "target": "T0", "cells": "imputed"}
    plain, wide = (differential(model, mosaic, "rna", calibration=c, **options) for c in (None, noisy))
    plain, wide = (table.set_index("feature").sort_index() for table in (plain, wide))
    # what imputation misses moves no effect, and leaves less of it sure
    np.testing.assert_allclose(wide["effect"], plain["effect"], rtol=1e-4, atol=1e-6)
    assert (wide["effect_upper"] - wide["effect_lower"] > 1.5).all() and wide["probability"].max() < 0.9


def test_support_flags_a_type_that_has_no_pairs(tmp_path):
    """Three types with marked peaks; the third is never paired, and its cells' own view must show it."""
    import mudata as md
    from anndata import AnnData
    from scipy import sparse

    rng = np.random.default_rng(0)
    n = 1000
    kind = np.array([0, 1, 0, 1, 2])[np.arange(n) % 5]
    paired = (kind < 2) & (rng.random(n) < 0.5)
    names = np.array([f"{'p' if p else 'a'}:{i}" for i, p in enumerate(paired)])
    peaks = np.where(np.arange(120)[None, :] // 40 == kind[:, None], 0.5, 0.05)
    atac = (rng.random((n, 120)) < peaks).astype(np.int32)
    genes = rng.poisson(np.where(np.arange(60)[None, :] // 20 == kind[:, None], 5.0, 0.5))
    parts = {
        "rna": AnnData(sparse.csr_matrix(genes[paired].astype(np.int32)), obs=pd.DataFrame(index=names[paired])),
        "atac": AnnData(sparse.csr_matrix(atac), obs=pd.DataFrame(index=names)),
    }
    parts["rna"].var_names = [f"g{i}" for i in range(60)]
    with md.set_options(pull_on_update=False):
        mosaic = md.MuData(parts)
    kind = pd.Series(kind, index=names)[mosaic.obs_names].to_numpy()
    mosaic.obs["batch"] = [name[0] for name in mosaic.obs_names]
    model = with_split(make_model(mosaic, n_hidden=8), mosaic)
    data = MosaicData(mosaic, model)
    held = data.cells.get_indexer(model.split.loc[model.split["split"] == "calibration", "cell"])
    support = Support.fit(model.modalities, data, np.sort(held), 0)
    unpaired = np.flatnonzero(~data.has["rna"])
    p, widening = support.score(data, unpaired, "atac", "rna")
    strange = kind[unpaired] == 2
    assert (p[strange] <= support.level).mean() > 0.9
    assert (p[~strange] <= support.level).mean() < 0.12
    assert np.median(widening[strange]) > 1.2 and np.median(widening[~strange]) == 1
    # the model's view is asked where it is given, comes back from a file, and flags no more of those that have pairs
    support = Support.fit(model.modalities, data, np.sort(held), 0, model)
    found, wide = support.score(data, unpaired, "atac", "rna", model)
    assert (found[strange] <= support.level).mean() > 0.9 and (found[~strange] <= support.level).mean() < 0.12
    support.save(tmp_path / "support.safetensors")
    again = Support.load(tmp_path / "support.safetensors").score(data, unpaired, "atac", "rna", model)
    np.testing.assert_allclose(again[0], found, atol=0.05)
    np.testing.assert_allclose(again[1], wide, rtol=1e-3)


def test_the_bytes_do_not_depend_on_the_number_of_threads(paired, tmp_path):
    """calibration.json, support and rates with 1, 2 and 4 threads of torch and of the linear algebra."""
    from threadpoolctl import threadpool_limits

    mosaic, model = paired
    for n in (1, 2, 4):
        torch.set_num_threads(n)
        with threadpool_limits(n):
            calibrate(model, mosaic, n_samples=8).save(tmp_path / str(n))
        assert torch.get_num_threads() == n, "the caller's number is given back"
    torch.set_num_threads(1)
    names = {path.name for path in (tmp_path / "1").iterdir()}
    assert "support.safetensors" in names and "calibration.json" in names
    for n in (2, 4):
        for name in names:
            assert (tmp_path / str(n) / name).read_bytes() == (tmp_path / "1" / name).read_bytes(), (n, name)


def test_effects_whose_fit_does_not_end_are_not_known_and_said(paired, monkeypatch):
    def fails(*_):
        raise NotFitted("no slope", "why", "remedy")

    monkeypatch.setattr("multivi_nf.held_out.group_effects.fit_effects", fails)
    mosaic, model = paired
    found = calibrate(model, mosaic, n_samples=20)
    assert found.directions["atac->rna"].calibrated and found.directions["atac->rna"].effects is None
    assert "atac->rna: no slope; contrasts of cells imputed so have no measured error" in found.notes


@pytest.fixture(scope="module")
def few():
    """40 pairs, and a decoder that is bold and wrong: its loadings are noise."""
    mosaic = patterned_mosaic(n=160, genes=30, peaks=40, patterns=("rna+atac", "rna", "atac", "rna"))
    model = with_split(make_model(mosaic, n_hidden=8), mosaic)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for m in ("rna", "atac"):
            weight = model.generative[m].output.weight
            weight.copy_(2 * torch.randn(weight.shape, generator=draw))
    return mosaic, model, calibrate(model, mosaic)


def test_of_few_pairs_imputed_values_are_drawn_to_their_own_batches_means(few, tmp_path):
    mosaic, model, found = few
    assert not found.calibrated and set(found.rates) == {"rna", "atac"}
    found.save(tmp_path)
    found = Calibration.load(tmp_path, model)
    held = model.split.loc[model.split["split"] == "calibration", "cell"]
    for direction, target in (("atac->rna", "rna"), ("rna->atac", "atac")):
        share = found.directions[direction].shrinkage
        assert share >= 0.3 and not found.directions[direction].calibrated
        rates = found.rates[target]
        plain, drawn = (
            impute(model, mosaic, target, features="all", batch="own", calibration=c)
            for c in (Calibration(atac_depth=found.atac_depth), found)
        )
        hidden = ~plain.obs["measured"].to_numpy()
        rows = [model.config.batches.index(b) for b in mosaic.obs["batch"][hidden]]
        assert hidden.any()
        np.testing.assert_allclose(drawn.X[hidden], (1 - share) * plain.X[hidden] + share * rates[rows], rtol=1e-4)
        np.testing.assert_array_equal(drawn.X[plain.obs["measured"]], plain.X[plain.obs["measured"]])
    shown = mosaic["rna"][~mosaic["rna"].obs_names.isin(held)]
    profile = shown.X.toarray().sum(0)
    expected = 1e4 * (profile + 0.5) / profile.sum()
    assert np.corrcoef(found.rates["rna"][-1], expected)[0, 1] > 0.99


def test_of_few_pairs_bounds_of_counts_are_of_the_values_that_are_shown(few):
    mosaic, model, found = few
    entry = Direction(False, 8, shrinkage=0.95)
    nearly = Calibration(directions={"atac->rna": entry}, rates=found.rates)
    rows = ~impute(model, mosaic, "rna", features="all").obs["measured"].to_numpy()
    bounds = impute(model, mosaic, "rna", features="all", predictive=True, calibration=nearly).layers
    spread = bounds["predicted_upper"][rows].std(0).mean()
    plain = impute(model, mosaic, "rna", features="all", predictive=True).layers
    assert spread < 0.5 * plain["predicted_upper"][rows].std(0).mean(), "means are nearly the same for all cells"


def test_a_batchs_own_means_are_drawn_to_the_mixtures_by_their_noise():
    rng = np.random.default_rng(0)
    mean = rng.gamma(2.0, 1.0, 2000)
    alike, apart = mean, mean * rng.gamma(1 / 0.2, 0.2, 2000)
    for truth, nearer in ((alike, mean), (apart, apart)):
        seen = rng.poisson(20 * truth)
        found = drawn_to(mean, seen, 20.0)
        assert np.abs(found - truth).mean() < np.abs(seen / 20 - truth).mean()
        assert np.abs(found - nearer).mean() < 0.25
    np.testing.assert_allclose(drawn_to(mean, np.zeros(2000), 0.0), mean)


def test_a_share_is_found_from_five_pairs_on(few):
    mosaic, model, _ = few
    held = model.split.copy()
    calibration = held.index[held["split"] == "calibration"]
    held.loc[held["split"] == "validation", "split"] = "train"
    held.loc[calibration[4:], "split"] = "train"
    model, former = model, model.split
    try:
        model.split = held
        found = calibrate(model, mosaic)
    finally:
        model.split = former
    assert found.n_pairs == 4 and found.directions["atac->rna"].shrinkage is None and not found.rates
