from __future__ import annotations

import gzip
from types import SimpleNamespace

import anndata
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from multivi_nf.calibration.effects import ImputedEffects, Worth
from multivi_nf.calibration.entries import Curve, Direction
from multivi_nf.calibration.stored import Calibration
from multivi_nf.comparison import engine, spans
from multivi_nf.comparison.compare import differential
from multivi_nf.comparison.design import make_design
from multivi_nf.comparison.effects import (
    Counted,
    Restored,
    Track,
    combined_variance,
    pair_variance,
    shared_variance,
    side,
)
from multivi_nf.comparison.engine import settled_error
from multivi_nf.comparison.group_means import GroupMeans, Sampling
from multivi_nf.comparison.parts import Measured, Part, Sums
from multivi_nf.comparison.shrinkage import shrink
from multivi_nf.comparison.tables import COLUMNS
from multivi_nf.data.draws import blocks, cell_keys
from multivi_nf.data.mosaic_data import MosaicData
from multivi_nf.errors import InputError
from multivi_nf.imputation import decode
from multivi_nf.imputation.decode import Decoder
from multivi_nf.imputation.impute import impute
from multivi_nf.inputs.contrasts import Contrast
from multivi_nf.io.tables import write_table
from multivi_nf.latent.cells import Cells
from multivi_nf.latent.embed import embed
from multivi_nf.testing.models import make_model
from multivi_nf.testing.mosaics import patterned_mosaic, with_fragments

PAIR = {"groupby": "cell_type", "target": "T0", "reference": "T1"}


@pytest.mark.parametrize("modality", ["rna", "atac", "protein"])
@pytest.mark.parametrize("cells", ["observed", "all"])
def test_table_is_complete_sorted_and_repeatable(model, mosaic, modality, cells):
    one, two = (differential(model, mosaic, modality, cells=cells, **PAIR) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
    assert list(one.columns) == COLUMNS
    assert set(one["feature"]) == set(mosaic[modality].var_names)
    assert (np.diff(one["probability"]) <= 0).all()
    np.testing.assert_allclose(one["fdr"], np.cumsum(1 - one["probability"]) / np.arange(1, len(one) + 1))
    assert (one["effect_lower"] <= one["effect"]).all() and (one["effect"] <= one["effect_upper"]).all()
    labels = mosaic.obs["cell_type"]
    has = np.isin(mosaic.obs_names, mosaic[modality].obs_names) if cells == "observed" else np.ones(len(labels), bool)
    assert one["n_target"][0] == ((labels == "T0") & has).sum()
    assert one["imputed"][0] == (cells == "all")


def test_effects_of_fragments_are_differences_of_their_expected_number(mosaic):
    counted = with_fragments(mosaic)
    # twice as many fragments in one peak of one type
    atac = counted["atac"]
    peak, of = atac.var_names[7], counted.obs.loc[atac.obs_names, "cell_type"].to_numpy() == "T0"
    dense = atac.layers["counts"].toarray()
    dense[of, 7] = 3 + dense[of, 7]
    atac.layers["counts"] = sparse.csr_matrix(dense)
    model = make_model(counted, atac_likelihood="poisson")
    total = dense.sum(1)
    seen = [np.median(total) * dense[rows, 7].sum() / total[rows].sum() for rows in (of, ~of)]
    table = differential(model, counted, "atac", **PAIR).set_index("feature")
    np.testing.assert_allclose(table["effect"], table["mean_target"] - table["mean_reference"], rtol=1e-9)
    assert table.loc[peak, "significant"]
    means = table.loc[peak, ["mean_target", "mean_reference"]].to_numpy(float)
    np.testing.assert_allclose(means, seen, rtol=0.05)


def test_seed_changes_draws_not_conclusions_of_means(model, mosaic):
    one, two = (differential(model, mosaic, "rna", seed=s, **PAIR).set_index("feature").sort_index() for s in (0, 1))
    assert not one["effect"].equals(two["effect"])
    np.testing.assert_allclose(one["mean_target"], two["mean_target"], rtol=0.15)


def test_imputed_group_means_equal_the_imputed_values(model, mosaic):
    # cells that were never measured: the group mean is the mean of the imputed values
    found = differential(model, mosaic, "rna", cells="imputed", n_samples=4000, **PAIR).set_index("feature")
    unmeasured = ~np.isin(mosaic.obs_names, mosaic["rna"].obs_names)
    cells = list(mosaic.obs_names[(mosaic.obs["cell_type"] == "T0") & unmeasured])
    values = impute(model, mosaic, "rna", features="all", cells=cells, n_samples=400)
    expected = values.to_df().mean()
    # effects are shrunk around the common level of both groups: the level itself is the plain mean
    other = list(mosaic.obs_names[(mosaic.obs["cell_type"] == "T1") & unmeasured])
    level = (expected + impute(model, mosaic, "rna", features="all", cells=other, n_samples=400).to_df().mean()) / 2
    found = found.loc[expected.index]
    np.testing.assert_allclose((found["mean_target"] + found["mean_reference"]) / 2, level, rtol=0.05)
    np.testing.assert_allclose(np.log2(found["mean_target"] / found["mean_reference"]), found["effect"], rtol=1e-6)
    assert found["imputed"].all() and found["replicate_p"].isna().all()


def test_one_against_rest_decodes_the_same_groups(mosaic):
    labels = np.array(["A", "B", "C"])[np.arange(mosaic.n_obs) % 3]
    mosaic = mosaic.copy()
    mosaic.obs["three"] = labels
    model = make_model(mosaic)
    every = differential(model, mosaic, "rna", groupby="three", target="each", n_samples=200)
    assert sorted(every["target"].unique()) == ["A", "B", "C"]
    assert len(every) == 3 * mosaic["rna"].n_vars
    single = differential(model, mosaic, "rna", groupby="three", target="B", n_samples=200).set_index("feature")
    among = every[every["target"] == "B"].set_index("feature").loc[single.index]
    # the rest is decoded group by group here and as one there: residuals are shrunk apart, on 20 cells each
    np.testing.assert_allclose(among["mean_reference"], single["mean_reference"], rtol=0.25)
    assert np.corrcoef(among["effect"], single["effect"])[0, 1] > 0.9
    assert (among["n_reference"] == single["n_reference"]).all()


def test_observed_counts_correct_a_model_that_knows_nothing():
    # an untrained decoder gives both types nearly the same profile; the groups' own counts must tell them apart
    mosaic = patterned_mosaic(n=800, genes=60, patterns=("rna+atac",))
    model = make_model(mosaic, n_hidden=8)
    found = differential(model, mosaic, "rna", **PAIR).set_index("feature")
    counts = mosaic["rna"].to_df()
    share = counts.div(counts.sum(1), axis=0)
    truth = np.log2(
        share[(mosaic.obs["cell_type"] == "T0").to_numpy()].mean()
        / share[(mosaic.obs["cell_type"] == "T1").to_numpy()].mean()
    )
    strong = truth.index[np.abs(truth) > 0.5]
    assert np.corrcoef(found.loc[strong, "effect"], truth[strong])[0, 1] > 0.98
    assert found.loc[strong, "significant"].mean() > 0.9
    assert (np.sign(found.loc[strong, "effect"]) == np.sign(truth[strong])).mean() > 0.98


def test_random_halves_are_not_called():
    mosaic = patterned_mosaic(n=600, genes=80, patterns=("rna+atac",))
    model = make_model(mosaic, n_hidden=8)
    rng = np.random.default_rng(0)
    called = []
    for seed in range(4):
        half = np.where(rng.random(mosaic.n_obs) < 0.5, "x", "y").astype(object)
        mosaic.obs["half"] = np.where(mosaic.obs["cell_type"] == "T0", half, None)
        for modality in ("rna", "atac"):
            table = differential(model, mosaic, modality, groupby="half", target="x", reference="y", seed=seed)
            called.append(table["significant"].mean())
    assert np.mean(called) <= 0.005 and max(called) <= 0.02


def _teachers(model, data, names, modality):
    """Weight of each measured cell: how often it is one of the 15 nearest of the named cells."""
    place = embed(model, data).mean
    near = place[np.flatnonzero(data.has[modality])]
    distance = ((place[data.cells.get_indexer(names)][:, None] - near[None]) ** 2).sum(-1)
    often = np.bincount(np.argsort(distance, axis=1)[:, :15].ravel(), minlength=len(near))
    return often / often.sum()


@pytest.mark.parametrize("modality", ["rna", "atac", "protein"])
def test_sums_of_a_group_equal_brute_force(model, mosaic, modality, monkeypatch):
    monkeypatch.setattr("multivi_nf.comparison.spans.ROWS", 7)
    for module in ("comparison.spans", "comparison.group_means", "latent.cells"):
        monkeypatch.setattr(f"multivi_nf.{module}.blocks", lambda n, size=9: blocks(n, size))
    data = MosaicData(mosaic, model)
    counts = pd.DataFrame(mosaic[modality].X.toarray().astype(float), mosaic[modality].obs_names)
    counts = (counts > 0).astype(float) if modality == "atac" else counts
    counts = counts.loc[data.cells[data.has[modality]]]
    contrast = Contrast("c", modality, "cell_type", "T0", "T1", "all")
    groups = list(make_design(data, contrast, "batch", 0).groups.values())
    decoder = Decoder(model, modality)
    n_samples = int(3.5 * len(groups[0].cells))
    with torch.inference_mode():
        means = GroupMeans(Cells(model, data), decoder, groups[:1], Calibration.none(), Sampling(n_samples, 0))
        parts = means.parts[groups[0].name]
        assert sum(p.n_samples.sum() for p in parts) == pytest.approx(n_samples, abs=2 * len(parts))
        assert all(set(p.n_samples) == {2, 4} for p in parts)
        for part in parts:
            found = means.sums(part, 0)
            values = np.full((len(part.z), part.n_cells, decoder.n_features), np.nan)
            for k, z in enumerate(part.z):
                codes = part.codes.rows(slice(len(z)))
                values[k, : len(z)] = decoder.tile(decoder.prepare(z, codes), 0).numpy()
            each, half = np.nanmean(values, axis=0), part.rows[2].astype(bool)
            np.testing.assert_allclose(found.value[0], each.mean(0), rtol=1e-5)
            np.testing.assert_allclose(found.value[2], each[half].mean(0), rtol=1e-5)
            np.testing.assert_allclose(found.value[5], each[~half].mean(0), rtol=1e-5)
            size = np.ones(part.n_cells) if part.own is None else part.own.size
            cells = groups[0].cells[groups[0].measured == (part.own is not None)]
            names = data.cells[cells[np.argsort(cell_keys(data.cells[cells], 0, "samples"), kind="stable")]]
            x = each if part.own is None else counts.loc[names].to_numpy()
            if part.own is not None:
                np.testing.assert_array_equal(part.own.observed, part.rows @ x)
            else:
                teachers = _teachers(model, data, names, modality)
                expected = teachers @ counts, teachers**2 @ counts**2
                np.testing.assert_allclose(part.teachers.weight, teachers[teachers > 0], rtol=1e-6)
                np.testing.assert_allclose((part.teachers.total, part.teachers.square), expected, rtol=1e-6)
                twos = (teachers[teachers > 0] ** 2 * part.teachers.size) @ counts[teachers > 0]
                np.testing.assert_allclose(part.teachers.product, twos, rtol=1e-6)
            squares = np.nanmean(values**2, axis=0) if part.own is None else x**2
            for name in set(part.replicate):
                mine = part.replicate == name
                np.testing.assert_allclose(found.first[name], x[mine].sum(0), rtol=1e-5)
                assert found.size[name] == pytest.approx(size[mine].sum())
            expected = [squares.sum(0), (x * size[:, None]).sum(0), np.full(x.shape[1], (size**2).sum())]
            np.testing.assert_allclose(found.second, expected, rtol=1e-5)


def of_two_panels(n: int = 1200, difference: float = 1.0) -> md.MuData:
    """Six proteins, two types, eight batches; the last four batches did not measure the last three proteins.

    Types are mixed 3 : 1 in the first four batches and 1 : 3 in the others. Protein 0 and 3 differ by a factor.
    """
    rng = np.random.default_rng(0)
    batch = np.arange(n) % 8
    one = rng.random(n) < np.where(batch < 4, 0.75, 0.25)
    mean = np.array([4.0, 60, 90, 4, 60, 90])[None] * np.ones((n, 1))
    mean[one, 0] *= difference
    mean[one, 3] *= difference
    counts = rng.poisson(mean * rng.gamma(20, 1 / 20, (n, 6)))
    panel = pd.DataFrame(True, index=[f"b{b}" for b in range(8)], columns=[f"p{j}" for j in range(6)])
    panel.iloc[4:, 3:] = False
    counts[batch >= 4, 3:] = 0
    names = [f"b{b}:c{i}" for i, b in enumerate(batch)]
    protein = anndata.AnnData(
        sparse.csr_matrix(counts.astype(np.int32)), pd.DataFrame(index=names), pd.DataFrame(index=panel.columns)
    )
    rna = anndata.AnnData(
        sparse.csr_matrix(rng.poisson(3.0, (n, 20)).astype(np.int32)),
        pd.DataFrame(index=names),
        pd.DataFrame(index=[f"g{j}" for j in range(20)]),
    )
    protein.uns["panel"] = panel
    with md.set_options(pull_on_update=False):
        mosaic = md.MuData({"rna": rna, "protein": protein})
    place = mosaic.obs_names.get_indexer(names)
    mosaic.obs["batch"] = pd.Series([f"b{b}" for b in batch], names).reindex(mosaic.obs_names)
    mosaic.obs["type"] = pd.Series(np.where(one, "A", "B"), names).reindex(mosaic.obs_names)
    assert (place >= 0).all()
    return mosaic


@pytest.mark.parametrize("difference", [1.0, 2.0])
def test_proteins_outside_a_panel_are_not_zeros_of_a_contrast(difference):
    mosaic = of_two_panels(difference=difference)
    model = make_model(mosaic, n_hidden=8)
    found = differential(model, mosaic, "protein", groupby="type", target="A", reference="B").set_index("feature")
    differ = ["p0", "p3"] if difference > 1 else []
    same = found.index.difference(differ)
    assert (found.loc[same, "log2_fold_change"].abs() < 0.25).all() and not found.loc[same, "significant"].any()
    assert not found["imputed"].any()
    np.testing.assert_allclose(found.loc[differ, "log2_fold_change"], 1.0, atol=0.15)
    assert found.loc[differ, "significant"].all() and (found.loc[differ, "replicate_p"] < 1e-4).all()
    if difference == 1.0:
        assert (found["replicate_p"] > 1e-3).all()
        mosaic["protein"].uns["panel"].loc[:] = True  # as if every batch had been stained for all
        zeros = differential(model, mosaic, "protein", groupby="type", target="A", reference="B").set_index("feature")
        assert (zeros.loc[["p3", "p4", "p5"], "log2_fold_change"] > 0.8).all(), "the panel made no difference"


def test_a_protein_that_one_side_never_measured_is_said_to_be_imputed():
    mosaic = of_two_panels()
    mosaic.obs["half"] = np.where(mosaic.obs["batch"].isin(["b0", "b1", "b2", "b3"]), "x", "y")
    model = make_model(mosaic, n_hidden=8)
    found = differential(model, mosaic, "protein", groupby="half", target="x", reference="y").set_index("feature")
    imputed = found.loc[[f"p{j}" for j in range(6)], "imputed"].tolist()
    assert imputed == [False] * 3 + [True] * 3
    assert np.isfinite(found[["effect", "effect_lower", "effect_upper", "probability", "fdr"]]).all(axis=None)
    assert found.loc[["p3", "p4", "p5"], "replicate_p"].isna().all() and not found["significant"].any()
    assert found.loc[["p0", "p1", "p2"], "replicate_p"].notna().all()


def single_part(x: np.ndarray, size: np.ndarray, replicate: np.ndarray) -> tuple[Part, Sums]:
    """A measured group of one feature, as `Means` would leave it behind."""
    names = sorted(set(replicate))
    first = {n: np.array([x[replicate == n].sum()]) for n in names}
    sums = Sums(
        np.ones((7, 1)),
        np.zeros((7, 1)),
        first,
        {n: size[replicate == n].sum() for n in names},
        np.array([[(x**2).sum()], [(x * size).sum()], [(size**2).sum()]]),
        np.zeros(1),
    )
    cells = Measured(size, None)
    part = Part("g", 1.0, [torch.zeros(len(x), 1)] * 2, None, replicate, np.ones((4, len(x))), cells, [], 0, 0)
    return part, sums


def test_error_is_that_of_the_bayesian_bootstrap_over_cells():
    rng = np.random.default_rng(0)
    n = 400
    size = rng.lognormal(0, 0.4, n)
    x = rng.negative_binomial(2, 2 / (2 + 3 * size)).astype(float)
    found = side([single_part(x, size, np.array(["r"] * n))])
    weight = rng.exponential(size=(4000, n))
    bootstrap = np.log((weight @ x) / (weight @ size)).std()
    assert np.sqrt(found.cell[0]) == pytest.approx(bootstrap, rel=0.05)
    assert found.influence["r"] == pytest.approx(0, abs=1e-9)


def test_replicates_that_differ_widen_and_blocked_ones_cancel():
    rng = np.random.default_rng(1)
    n, size = 600, np.ones(600)
    replicate = np.array([f"r{i % 4}" for i in range(n)])
    level = np.array([2.0, 4.0, 8.0, 16.0])[np.arange(n) % 4]
    sides = [side([single_part(rng.poisson(level).astype(float), size, replicate)]) for _ in range(2)]
    cell, between, freedom = pair_variance(*sides)
    assert freedom == 3 and between[0] < 3 * cell[0]
    other = side([single_part(rng.poisson(level).astype(float), size, np.char.add("q", replicate))])
    _, apart, freedom = pair_variance(sides[0], other)
    means = np.log([2.0, 4.0, 8.0, 16.0])
    assert freedom == 6
    # linear in the influences: of the order of the variance of a mean of four replicates, on either side
    assert 0.3 < apart[0] / (2 * means.var(ddof=1) / 4) < 3 and apart[0] > 20 * cell[0]


def test_variance_over_replicates_is_moderated_and_never_below_that_over_cells():
    rng = np.random.default_rng(2)
    cell = np.full(2000, 0.01)
    count = np.full(2000, 100.0)
    homogeneous = combined_variance(cell, cell * rng.chisquare(3, 2000) / 3, 3, count)
    assert (homogeneous >= cell).all() and homogeneous.mean() < 1.3 * cell.mean()
    varied = combined_variance(cell, 8 * cell * rng.chisquare(3, 2000) / 3, 3, count)
    assert varied.mean() == pytest.approx(8 * 0.01, rel=0.25)
    np.testing.assert_array_equal(combined_variance(cell, cell, 0, count), cell)
    alike = np.where(np.arange(2000) == 7, 0.0, cell)  # one feature that was decoded alike in all cells
    assert np.isfinite(combined_variance(alike, alike + 1e-10, 3, count)).all()


def test_shrunk_effects_are_calibrated_whether_few_or_many_differ():
    rng = np.random.default_rng(3)
    for share in (0.02, 0.5):
        truth = np.where(rng.random(8000) < share, rng.normal(0, 0.8, 8000), 0.0)
        error = rng.uniform(0.05, 0.3, 8000)
        found = shrink(truth + rng.normal(size=8000) * error, error)
        inside = (truth >= found.quantile(0.025) - 0.03) & (truth <= found.quantile(0.975) + 0.03)
        assert inside.mean() > 0.93
        threshold = np.full(8000, 0.15)
        probability = np.maximum(found.above(threshold), found.below(-threshold))
        order = np.argsort(-probability)
        fdr = np.cumsum(1 - probability[order]) / np.arange(1, 8001)
        called = order[fdr <= 0.05]
        assert (np.abs(truth[called]) <= 0.15).mean() < 0.07
        assert len(called) > 0.3 * (np.abs(truth) > 0.3).sum()


def test_effects_of_shares_lie_around_what_most_of_them_are():
    """Where a few frequent features rise all others fall alike: that is an effect, told only if its error allows."""
    rng = np.random.default_rng(4)
    truth = np.where(rng.random(3000) < 0.2, rng.normal(0, 0.8, 3000), -0.3)
    error = np.full(3000, 0.25)
    estimate = truth + rng.normal(size=3000) * error
    around, zero, unsure = shrink(estimate, error, 0.05), shrink(estimate, error), shrink(estimate, error, 0.2)
    most = truth == -0.3
    assert around.expectation()[most].mean() == pytest.approx(-0.3, abs=0.03)
    assert np.mean((around.expectation() - truth) ** 2) < 0.7 * np.mean((zero.expectation() - truth) ** 2)
    np.testing.assert_array_equal(unsure.expectation(), zero.expectation())
    null = np.where(truth == -0.3, 0.0, truth) + rng.normal(size=3000) * error
    np.testing.assert_array_equal(shrink(null, error, 0.02).mean, shrink(null, error).mean)
    few = shrink(estimate[most][:8], error[:8], 0.0)
    np.testing.assert_array_equal(few.mean, shrink(estimate[most][:8], error[:8]).mean)


def test_truth_that_scatters_around_its_prediction_is_covered_without_shrinking_it():
    """Predictions are expectations: their error is independent of them, not of the truth (Berkson)."""
    rng = np.random.default_rng(7)
    n = 6000
    predicted = np.where(rng.random(n) < 0.3, rng.normal(0, 0.3, n), 0.0)
    missed = np.full(n, 0.8)
    truth = predicted + rng.normal(0, missed)
    estimate = predicted + rng.normal(0, 0.05, n)
    found = shrink(estimate, np.full(n, 0.05)).widened(missed)
    inside = (truth >= found.quantile(0.025)) & (truth <= found.quantile(0.975))
    assert 0.94 < inside.mean() < 0.96
    assert np.polyfit(predicted, found.expectation(), 1)[0] > 0.9
    assert np.polyfit(found.expectation(), truth, 1)[0] == pytest.approx(1, abs=0.07)
    twice = shrink(estimate, np.hypot(0.05, missed))
    inside = (truth >= twice.quantile(0.025)) & (truth <= twice.quantile(0.975))
    assert inside.mean() < 0.5, "with all of the error shrunk by, the interval covers few"


@pytest.mark.parametrize("modality", ["rna", "atac"])
def test_error_of_imputation_widens_intervals_and_leaves_effects(model, mosaic, modality):
    tables = []
    for sd in (0.0, 0.6):
        entry = Direction(True, temperature=1.0, effect_sd=Curve([-20.0, 20.0], [sd, sd]))
        sources = ("rna", "atac", "protein", "rna+protein", "atac+protein")
        known = Calibration(calibrated=True, directions={f"{s}->{modality}": entry for s in sources}, atac_depth=0.5)
        tables.append(
            differential(model, mosaic, modality, cells="imputed", calibration=known, **PAIR).set_index("feature")
        )
    sure, unsure = tables[0].sort_index(), tables[1].sort_index()
    np.testing.assert_allclose(unsure["effect"], sure["effect"], rtol=1e-6)
    assert (unsure["effect_upper"] - unsure["effect_lower"] > sure["effect_upper"] - sure["effect_lower"]).all()
    np.testing.assert_allclose(sure["log2_fold_change"], unsure["log2_fold_change"])
    assert unsure["probability"].max() < 0.75, "nothing is sure beside an error of 0.6"


def test_a_few_differences_that_only_counts_show_stay_in_the_centre():
    """A tenth of the features is thinned twofold, which the decoder does not know: one normal spread would lose it."""
    count = np.full(400, 100.0)
    count[::10] = 50
    size, expected = np.full(8, 25.0), np.full(400, 100.0)
    own = Measured(size, None)
    part = Part("A", 1.0, torch.zeros(1, 8, 2), None, None, None, own, [], 0.0, 0.0)
    residual = np.log((count + 0.5) / (expected + 0.5))[None]
    track = Track([expected[None] / size.sum()], [residual], [1 / (count + 0.5)])
    np.testing.assert_allclose(track.centre(part), (count + 0.5) / size.sum())
    part.own = None
    np.testing.assert_array_equal(track.centre(part), expected / size.sum())


def test_errors_are_those_of_the_counts_expected_at_a_ratio():
    count = np.array([[0.0, 6.0], [6.0, np.inf]])
    counted = Counted(1 / (count + 0.5), count, np.array([[2.0, 2.0], [1.0, 1.0]]))
    # the common rate is 6 / 3: four counts are expected on the side of twice the size, two on the other
    factor = counted.factor(np.zeros(2))
    np.testing.assert_allclose(factor, [(1 / 4.5 + 1 / 2.5) / (1 / 0.5 + 1 / 6.5), 1.0])
    # at the ratio that was seen they are the counts themselves
    found = Counted(1 / (np.array([[8.0], [4.0]]) + 0.5), np.array([[8.0], [4.0]]), np.array([[2.0], [1.0]]))
    np.testing.assert_allclose(found.factor(np.zeros(1)), 1.0)
    assert (Counted(counted.cell, count, np.array([[0.0, 0.0], [1.0, 1.0]])).factor(np.zeros(2)) == 1).all()


@pytest.mark.parametrize("mean", [1.0, 4.0, 30.0])
def test_rare_features_are_ranked_by_what_they_are_expected_to_show(mean):
    """Poisson counts, a fifth of the features differ: calls are true, and the ranking is better for it."""
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    n, threshold = 4000, np.full(4000, 0.3)
    truth = np.where(rng.random(n) < 0.2, rng.normal(0, 1.5, n), 0.0)
    rate = mean * rng.lognormal(0, 0.7, n)
    count = rng.poisson(np.stack([rate * np.exp(truth / 2), rate * np.exp(-truth / 2)])).astype(float)
    own = 1 / (count + 0.5)
    estimate = np.log(count[0] + 0.5) - np.log(count[1] + 0.5)
    differs, precision = np.abs(truth) > 0.3, []
    for sd in (np.sqrt(own.sum(0)), settled_error(estimate, own.sum(0), Counted(own, count, np.ones((2, n))))):
        found = shrink(estimate, sd)
        probability = np.maximum(found.above(threshold), found.below(-threshold))
        precision.append(average_precision_score(differs, probability))
        order = np.argsort(-probability)
        called = order[np.cumsum(1 - probability[order]) / np.arange(1, n + 1) <= 0.05]
    assert (~differs[called]).mean() <= 0.07 if len(called) else True
    assert precision[1] >= precision[0] - 0.002


def test_design_counts_and_flags(mosaic, model):
    data = MosaicData(mosaic, model)
    design = make_design(data, Contrast("x", "rna", "batch", "s1", "s2", "all"), "batch", 0)
    assert design.groups["s2"].imputed and not design.groups["s1"].imputed
    table = differential(model, mosaic, "rna", groupby="batch", target="s1", reference="s2", cells="all")
    assert table["confounded"].all() and table["imputed"].all() and not table["groups_from_same_data"].any()
    clustered = mosaic.copy()
    clustered.obs["cluster"] = clustered.obs["cell_type"].astype(str)
    table = differential(model, clustered, "rna", groupby="cluster", target="T0")
    assert table["groups_from_same_data"].all() and not table["confounded"].any()


def of_donors(donors: int, genes: int = 300, cells: int = 60, seed: int = 0) -> tuple[md.MuData, np.ndarray]:
    """Two conditions of so many donors, each its own batch; a tenth of the genes is changed fourfold.

    Donors differ in every gene by a factor, and conditions in nothing else. Returns natural log fold changes.
    """
    rng = np.random.default_rng(seed)
    mean = rng.lognormal(1, 0.8, genes)
    # as many rise as fall, from the same level: libraries stay what they are
    effect = np.where(np.arange(genes) % 10 == 0, np.log(4) * np.where(np.arange(genes) % 20 == 0, 1, -1), 0.0)
    mean[effect != 0] = 3.0
    batch = np.repeat(np.arange(2 * donors), cells)
    donor = rng.lognormal(0, 0.1, (2 * donors, genes))
    rate = mean * donor[batch] * np.exp(effect * np.where(batch < donors, 0.5, -0.5)[:, None])
    names = [f"d{b}:c{i}" for i, b in enumerate(batch)]
    rna = anndata.AnnData(
        sparse.csr_matrix(rng.poisson(rate).astype(np.int32)),
        pd.DataFrame(index=names),
        pd.DataFrame(index=[f"g{j}" for j in range(genes)]),
    )
    with md.set_options(pull_on_update=False):
        mosaic = md.MuData({"rna": rna})
    mosaic.obs["batch"] = [f"d{b}" for b in batch]
    mosaic.obs["lane"] = [f"l{i % 40}" for i in range(len(batch))]
    mosaic.obs["condition"] = np.where(batch < donors, "A", "B")
    return mosaic, effect


def with_batch_codes(mosaic: md.MuData):
    """A model whose batch codes alone tell the batches apart, as strongly as they can."""
    model = make_model(mosaic, n_hidden=8)
    with torch.no_grad():
        for name in model.batch_tables():
            dict(model.named_parameters())[name].mul_(20)
    return model


@pytest.mark.parametrize("replicate", ["batch", "lane"])
def test_conditions_of_several_donors_each_are_tested_between_donors(replicate):
    mosaic, effect = of_donors(3)
    model = with_batch_codes(mosaic)
    found = (
        differential(model, mosaic, "rna", groupby="condition", target="A", reference="B", replicate=replicate)
        .set_index("feature")
        .loc[mosaic["rna"].var_names]
    )
    changed = effect != 0
    assert not found["confounded"].any() and found["replicate_p"].notna().all()
    assert np.polyfit(effect[changed] / np.log(2), found["effect"][changed], 1)[0] == pytest.approx(1, abs=0.1)
    assert found["significant"][changed].mean() > 0.9
    assert (~changed)[found["significant"]].mean() < 0.1


def test_between_batches_the_estimand_is_not_divided_out_by_batch_codes():
    mosaic, effect = of_donors(2)
    tables = [
        differential(m, mosaic, "rna", groupby="condition", target="A", reference="B").set_index("feature").sort_index()
        for m in (make_model(mosaic, n_hidden=8), with_batch_codes(mosaic))
    ]
    np.testing.assert_allclose(tables[0]["effect"], tables[1]["effect"], atol=0.08)
    changed = pd.Series(effect != 0, mosaic["rna"].var_names).sort_index()
    assert tables[1].loc[changed, "significant"].mean() > 0.5, "two donors a side can be significant"


def test_one_batch_on_a_side_gives_effects_and_calls_nothing(capsys):
    mosaic, effect = of_donors(2)
    mosaic = mosaic[mosaic.obs["batch"] != "d1"].copy()
    found = (
        differential(with_batch_codes(mosaic), mosaic, "rna", groupby="condition", target="A", reference="B")
        .set_index("feature")
        .loc[mosaic["rna"].var_names]
    )
    assert found["confounded"].all() and not found["significant"].any()
    assert np.corrcoef(found["effect"], effect)[0, 1] > 0.95
    assert found["probability"].max() > 0.99
    assert "one batch or replicate is all there is of A." in capsys.readouterr().err
    # a replicate that is finer than the batch makes no second batch of it
    again = differential(
        with_batch_codes(mosaic), mosaic, "rna", groupby="condition", target="A", reference="B", replicate="lane"
    )
    assert again["confounded"].all() and not again["significant"].any()


def test_pairs_with_and_without_shared_batches_in_one_contrast():
    mosaic, _ = of_donors(2)
    some = np.where(mosaic.obs["batch"] == "d3", "C", mosaic.obs["condition"])
    mosaic.obs["three"] = np.where((mosaic.obs["batch"] == "d2") & (np.arange(mosaic.n_obs) % 2 == 0), "C", some)
    model = with_batch_codes(mosaic)
    every = differential(model, mosaic, "rna", groupby="three", target="each")
    assert list(every["target"].unique()) == ["A", "B", "C"]
    assert not every.loc[every["target"] == "C", "confounded"].any()
    # C shares d2 with the rest, A shares no batch with it
    alone = differential(model, mosaic, "rna", groupby="three", target="A")
    mine = every[every["target"] == "A"].set_index("feature").loc[alone["feature"]]
    assert np.corrcoef(mine["effect"], alone["effect"])[0, 1] > 0.99


def test_replicates_share_a_variance_that_cells_do_not_explain():
    rng = np.random.default_rng(5)
    cell = rng.lognormal(-5, 1.5, 4000)
    between = (cell + 0.02) * rng.chisquare(4, 4000) / 4
    assert shared_variance(cell, between) == pytest.approx(0.02, rel=0.3)
    assert shared_variance(cell, cell * rng.chisquare(4, 4000) / 4) < 0.1 * np.median(cell)
    found = combined_variance(cell, between, 4, np.full(4000, 50.0))
    assert np.mean(found / (cell + 0.02)) == pytest.approx(1, abs=0.1)
    assert np.corrcoef(np.log(found), np.log(cell + 0.02))[0, 1] > 0.98


def test_large_groups_are_represented_by_some_cells(mosaic, model):
    data = MosaicData(mosaic, model)
    design = make_design(data, Contrast("x", "rna", "cell_type", "T0", "rest"), "batch", 0, max_cells=5)
    group = design.groups["T0"]
    assert len(group.cells) == 5 and group.n_cells > 5
    assert group.share == pytest.approx(group.n_cells / 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groupby": "nothing"}, "column 'nothing' is not in obs"),
        ({"target": "T9"}, "no cell has cell_type = 'T9'"),
        ({"groupby": "batch", "target": "s1", "reference": "s2"}, "'s2' has no rna-measured cells .* 0 measured"),
        ({"replicate": "donor"}, "replicate 'donor' is not a column"),
        ({"mode": "other"}, "mode is 'other'"),
        ({"target": "rest"}, "is not a comparison"),
        ({"modality": "lipids"}, "the model has no lipids"),
    ],
)
def test_wrong_comparisons_are_named(model, mosaic, options, message):
    with pytest.raises(InputError, match=message):
        differential(model, mosaic, **{"modality": "rna", **PAIR, **options})


def test_a_group_of_one_cell(model, mosaic):
    lonely = mosaic.copy()
    lonely.obs["kind"] = np.where(np.arange(lonely.n_obs) == 0, "one", "many")
    with pytest.raises(InputError, match="'one' has 1 rna-measured cell "):
        differential(model, lonely, "rna", groupby="kind", target="one")


def test_vanilla_mode(model, mosaic):
    table = differential(model, mosaic, "rna", mode="vanilla", **PAIR)
    assert list(table.columns) == [*COLUMNS, "bayes_factor"]
    odds = np.exp(np.abs(table["bayes_factor"]))
    np.testing.assert_allclose(table["probability"], odds / (1 + odds), rtol=1e-4)


def test_untrained_batches_change_nothing(mosaic):
    clean, poisoned = make_model(mosaic), make_model(mosaic)
    with torch.no_grad():
        for name, modality in poisoned.batch_tables().items():
            untrained = [i for i, n in enumerate(poisoned.config.batch_cells[modality]) if n == 0]
            dict(poisoned.named_parameters())[name][untrained] = torch.nan
    for modality in ("rna", "atac", "protein"):
        one, two = (differential(m, mosaic, modality, cells="all", **PAIR) for m in (clean, poisoned))
        pd.testing.assert_frame_equal(one, two)


def test_table_bytes_do_not_hold_the_time(tmp_path, model, mosaic):
    table = differential(model, mosaic, "protein", **PAIR)
    for name in ("a.tsv.gz", "b.tsv.gz"):
        write_table(table, tmp_path / name)
    assert (tmp_path / "a.tsv.gz").read_bytes() == (tmp_path / "b.tsv.gz").read_bytes()
    read = pd.read_csv(gzip.open(tmp_path / "a.tsv.gz"), sep="\t")
    assert list(read.columns) == COLUMNS
    np.testing.assert_allclose(read["effect"], table["effect"], rtol=1e-5)


EFFECTS = {
    "log_mean": [-20.0, 20.0], "spread": [0.5, 0.5], "squared": [0.9, 0.9], "sd": [0.0, 0.0], "unshrunk": 1.5,
    "lost": 0.2, "lag": 0.0,
}  # fmt: skip


def with_effects(modality: str, **changes: object) -> Calibration:
    effects = ImputedEffects(**EFFECTS | changes)
    entry = Direction(True, temperature=1.0, effects={"labels": effects, "clusters": effects})
    sources = ("rna", "atac", "protein", "rna+protein", "atac+protein", "rna+atac")
    return Calibration(calibrated=True, directions={f"{s}->{modality}": entry for s in sources}, atac_depth=0.5)


@pytest.mark.parametrize("modality", ["rna", "atac"])
def test_imputed_effects_are_stretched_by_what_they_are_worth(model, mosaic, modality):
    one, other = (
        differential(model, mosaic, modality, cells="imputed", calibration=c, **PAIR).set_index("feature").sort_index()
        for c in (with_effects(modality, unshrunk=1.0), with_effects(modality))
    )
    np.testing.assert_allclose(other["log2_fold_change"], 1.5 * one["log2_fold_change"], rtol=0.02, atol=1e-3)
    noisy = differential(
        model, mosaic, modality, cells="imputed", calibration=with_effects(modality, squared=[0.1, 0.1]), **PAIR
    )
    assert noisy["effect"].abs().mean() < 0.5 * other["effect"].abs().mean(), "noise is shrunk"


def test_imputed_accessibility_of_groups_has_one_sum():
    """A factor on all peaks of a group is no difference between peaks at one depth."""
    middle = np.log(np.array([0.2, 0.1, 0.05, 0.4]))
    value = np.exp(middle + np.array([0.3, -0.2, 0.1, 0.0]))
    part = SimpleNamespace(own=None, taught=None, worth=[1], worth_at=lambda level, away: Worth(*np.ones((4, 4))))
    one, other = (Restored.of(part, Track([v[None]], [], []), middle, levelled=True) for v in (value, 1.4 * value))
    np.testing.assert_allclose(other.centre, one.centre)
    assert one.centre.sum() == pytest.approx(np.exp(middle).sum())


@pytest.mark.parametrize("modality", ["rna", "atac"])
@pytest.mark.parametrize("cells", ["imputed", "all"])
def test_effects_do_not_depend_on_how_many_features_are_decoded_at_a_time(monkeypatch, model, mosaic, modality, cells):
    """What imputed effects are worth is asked of how far all features lie from the middle, not those of one pass."""
    known = with_effects(modality, spread=[0.05, 0.05], squared=[0.6, 0.6])
    whole = differential(model, mosaic, modality, cells=cells, calibration=known, **PAIR)
    for module, name, n in ((decode, "TILE", 7), (spans, "TILE", 7), (spans, "SPAN", 14), (engine, "SPAN", 14)):
        monkeypatch.setattr(module, name, n)
    narrow = differential(model, mosaic, modality, cells=cells, calibration=known, **PAIR)
    narrow = narrow.set_index("feature").loc[whole["feature"]].reset_index()
    for column in ("effect", "effect_lower", "effect_upper", "log2_fold_change"):
        np.testing.assert_allclose(narrow[column], whole[column], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("modality", ["rna", "atac"])
def test_counts_of_measured_neighbours_correct_imputed_means(model, mosaic, modality):
    """A feature that measured cells show twice as often as is decoded of them is imputed higher, where it is asked."""
    found = {
        lag: differential(
            model, mosaic, modality, cells="imputed", calibration=with_effects(modality, lag=lag), **PAIR
        ).set_index("feature")
        for lag in (0.0, 5.0)
    }
    moved = (found[5.0]["log2_fold_change"] - found[0.0]["log2_fold_change"]).abs()
    assert moved.max() > 0.1
    again = differential(model, mosaic, modality, cells="imputed", calibration=with_effects(modality, lag=5.0), **PAIR)
    pd.testing.assert_frame_equal(again.set_index("feature"), found[5.0])


def test_measured_effects_are_not_stretched(model, mosaic):
    one, other = (
        differential(model, mosaic, "rna", cells="observed", calibration=c, **PAIR) for c in (None, with_effects("rna"))
    )
    pd.testing.assert_frame_equal(one, other)


def test_a_group_that_never_shows_the_modality_is_extrapolated(model, mosaic):
    """Its error is that of groups left out, it is marked, and called only where that error is known."""
    mosaic = mosaic.copy()
    hidden = ~np.isin(mosaic.obs_names, mosaic["rna"].obs_names)
    mosaic.obs["kind"] = np.where(hidden, "never", "shown")
    options = {"groupby": "kind", "target": "never", "cells": "all"}
    found = {
        name: differential(model, mosaic, "rna", calibration=c, **options)
        for name, c in (("known", with_effects("rna")), ("unknown", None))
    }
    assert found["known"]["extrapolated"].all() and found["unknown"]["extrapolated"].all()
    assert not found["unknown"]["significant"].any()
    width = (found["known"]["effect_upper"] - found["known"]["effect_lower"]).median()
    plain = differential(model, mosaic, "rna", calibration=with_effects("rna"), cells="imputed", **PAIR)
    assert not plain["extrapolated"].any(), "cells of both names were measured elsewhere"
    assert (plain["effect_upper"] - plain["effect_lower"]).median() < width / 2
