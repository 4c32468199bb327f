"""Every line of the verdict, on inputs made to be good, to be looked at, and poor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from multivi_nf.report import facts, gather, kinds, measures
from multivi_nf.report import verdict as lines
from multivi_nf.report.gather import Results, SampleQC
from multivi_nf.report.told_apart import agreement_of_features
from multivi_nf.report.verdict import Finding, verdict, verdict_table

N = 900


def types(n: int = N, k: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(k, size=n)


def places(kind: np.ndarray, seed: int = 0, apart: float = 6.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(10, 6))[kind] * apart + rng.normal(size=(len(kind), 6))


def made(latent: np.ndarray, features=("rna",), views=None, **columns) -> Results:
    """Results of cells that all have RNA, unless told otherwise."""
    n = len(latent)
    obs = pd.DataFrame(
        {"sample": "s", "batch": "b", "cluster": "0", "has_rna": True}, index=[f"c{i}" for i in range(n)]
    )
    for name, values in columns.items():
        obs[name] = values
    if "modality" not in obs:
        obs["modality"] = "rna"
    return Results(
        outdir=Path("nowhere"),
        cells=obs,
        umap=latent[:, :2],
        latent=latent,
        latent_variance=np.full_like(latent, 0.1),
        features=dict.fromkeys(features, 100),
        mosaic_notes=facts.Mosaic(),
        views=views or {},
    )


def counts_of(kind: np.ndarray, batch: np.ndarray, seed: int = 0, genes: int = 300) -> sp.csr_matrix:
    """Counts whose profile a type and a batch make, factor by factor."""
    rng = np.random.default_rng(seed)
    profile = rng.gamma(0.7, 1, (10, genes))
    effect = rng.lognormal(0, 0.7, (10, genes))
    rate = profile[kind] * effect[batch]
    return sp.csr_matrix(rng.poisson(2000 * rate / rate.sum(1, keepdims=True)))


# -------------------------------------------------------------------------------------------------- batches


def of_batches(shift: float, absent: bool, monkeypatch) -> Finding | None:
    """Two batches of the same types, or of others, whose places differ by a shift."""
    kind, batch = types(), np.arange(N) % 2
    if absent:
        kind = np.where(batch == 1, kind + 3, kind)
    latent = places(kind, apart=6.0) + shift * batch[:, None]
    counts = counts_of(kind, batch)
    monkeypatch.setattr(gather, "read_counts", lambda path, modality, cells: counts)
    return lines.batches(made(latent, batch=np.array(["x", "y"])[batch], cluster=(kind + 10 * batch).astype(str)))


def test_batches_that_meet_are_good_and_two_labs_of_the_same_types_apart_are_poor(monkeypatch):
    good, look, poor = (of_batches(shift, False, monkeypatch) for shift in (0.0, 1.1, 8.0))
    assert (good.level, look.level, poor.level) == ("good", "look", "poor")
    assert good.value > 0.9 and poor.value < 0.05 and poor.remedy
    assert "may be biology" not in poor.answer
    assert "stands most apart" in poor.answer


def test_batches_of_other_types_may_be_biology(monkeypatch):
    found = of_batches(8.0, True, monkeypatch)
    assert found.level == "look" and "may be biology" in found.answer


@pytest.mark.parametrize(("swapped", "level"), [(0.0, "good"), (0.5, "look"), (1.0, "poor")])
def test_features_swapped_in_a_batch(swapped, level, monkeypatch):
    kind, batch = types(), np.arange(N) % 2
    counts = counts_of(kind, batch).tolil()
    rng, genes = np.random.default_rng(3), np.arange(300)
    moved = rng.permutation(300)[: int(300 * swapped)]
    genes[moved] = rng.permutation(moved)
    counts[batch == 1] = counts[batch == 1][:, genes]
    monkeypatch.setattr(gather, "read_counts", lambda path, modality, cells: counts.tocsr())
    found = lines.features(made(places(kind), batch=np.array(["x", "y"])[batch]))
    assert found.level == level, found.answer
    assert lines.features(made(places(kind))) is None


def test_noise_of_a_shallow_batch_is_no_disagreement():
    kind = types()
    counts = counts_of(kind, np.zeros(N, int)).astype(np.int64)
    batch = np.where(np.arange(N) < 60, "shallow", "deep")
    shallow = counts[batch == "shallow"]
    shallow.data = np.random.default_rng(0).binomial(shallow.data, 0.01)
    both = sp.vstack([shallow, counts[batch == "deep"]]).tocsr()
    assert agreement_of_features(both, batch)["shallow"] > 0.8


@pytest.mark.parametrize(("effect", "depth", "level"), [(1.0, 300, "good"), (0.11, 300, "look"), (0.0, 300, "poor")])
def test_counts_that_tell_cells_apart_or_do_not(effect, depth, level, monkeypatch):
    rng = np.random.default_rng(4)
    kind = types()
    rate = rng.gamma(0.7, 1, 300) * np.exp(effect * rng.normal(size=(3, 300)))[kind]
    library = depth * rng.lognormal(0, 0.7, (N, 1))  # depth alone tells nothing
    counts = sp.csr_matrix(rng.poisson(library * rate / rate.sum(1, keepdims=True)))
    monkeypatch.setattr(gather, "read_counts", lambda path, modality, cells: counts)
    found = lines.counts(made(places(kind)))
    assert found.level == level, found.answer


def test_cells_of_a_few_counts_are_not_told_apart_though_all_of_them_show_an_axis(monkeypatch):
    rng, kind = np.random.default_rng(4), types()
    rate = rng.gamma(0.7, 1, 300) * np.exp(1.15 * rng.normal(size=(3, 300)))[kind]
    found = {}
    for depth in (4, 25):
        counts = sp.csr_matrix(rng.poisson(depth * rate / rate.sum(1, keepdims=True)))
        monkeypatch.setattr(gather, "read_counts", lambda path, modality, cells, counts=counts: counts)
        found[depth] = lines.counts(made(places(kind)))
    assert found[4].value > 0.15 and found[4].level == "poor", found[4].answer
    assert found[25].value > found[4].value and found[25].level != "poor", found[25].answer


def test_a_sample_of_empty_droplets_is_named(monkeypatch):
    rng, kind = np.random.default_rng(5), types()
    counts = counts_of(kind, np.zeros(N, int))
    soup = np.asarray(counts.sum(axis=0)).ravel() / counts.sum()
    sample = np.where(np.arange(N) < 200, "empty", "full")
    both = sp.vstack([sp.csr_matrix(rng.multinomial(200, soup, 200)), counts[200:]]).tocsr()
    results = made(places(kind), sample=sample)
    monkeypatch.setattr(
        gather, "read_counts", lambda path, modality, cells: both[results.cells.index.get_indexer(cells)]
    )
    found = lines.counts(results)
    assert found.level == "poor" and "rna of 'empty'" in found.answer and found.value < 0.1


def test_one_type_that_a_batch_lacks_is_no_fault_of_the_others(monkeypatch):
    kind, batch = types(), np.arange(N) % 2
    keep = ~((kind == 2) & (batch == 1))
    kind, batch = kind[keep], batch[keep]
    counts = counts_of(kind, batch)
    monkeypatch.setattr(gather, "read_counts", lambda path, modality, cells: counts)
    labels = np.array(["x", "y"])[batch]
    assert lines.batches(made(places(kind), batch=labels, cluster=kind.astype(str))).level == "good"
    # the batch is named that stands apart
    three = np.where(batch == 1, np.where(np.arange(len(batch)) % 4 < 2, 1, 2), 0)
    counts = counts_of(kind, three)
    latent = places(kind) + 9.0 * (three == 2)[:, None]
    found = lines.batches(made(latent, batch=np.array(["x", "y", "far"])[three], cluster=kind.astype(str)))
    assert found.level == "poor" and "'far' stands most apart" in found.answer


def test_batches_without_a_common_modality_are_unknown(monkeypatch):
    batch = np.arange(N) % 2
    latent = places(types()) + 9.0 * batch[:, None]
    found = lines.batches(
        made(latent, ("rna", "atac"), batch=np.array(["x", "y"])[batch], has_rna=batch == 0, has_atac=batch == 1)
    )
    assert found.level == "unknown" and "share no modality" in found.answer
    assert lines.batches(made(latent)) is None


def test_kinds_are_found_without_the_model():
    kind, batch = types(), np.arange(N) % 2
    keep = ~((kind == 2) & (batch == 1))
    kind, batch = kind[keep], batch[keep].astype(str)
    counts = counts_of(kind, batch.astype(int))
    share = kinds.elsewhere(kinds.centred(counts, batch), batch)
    assert share[kind == 2].mean() < 0.05
    assert share[kind < 2].mean() == pytest.approx(0.5, abs=0.12)


# -------------------------------------------------------------------------------------------------- modalities


@pytest.mark.parametrize(("noise", "level"), [(0.3, "good"), (3.5, "look"), (30.0, "poor")])
def test_views_of_pairs(noise, level):
    rng = np.random.default_rng(0)
    one = places(types(), apart=1.0)
    views = {"rna": one, "atac": one + rng.normal(0, noise, one.shape)}
    found = lines.views(made(one, ("rna", "atac"), views, has_atac=True))
    assert found.level == level, found.answer
    if level == "poor":
        assert found.value == pytest.approx(0.5, abs=0.06)


def test_views_are_judged_on_pairs_kept_from_training():
    rng = np.random.default_rng(1)
    one = places(types(), apart=1.0)
    held = np.arange(N) % 3 == 0
    other = np.where(held[:, None], one[rng.permutation(N)], one)
    results = made(one, ("rna", "atac"), {"rna": one, "atac": other}, has_atac=True)
    assert lines.views(results).level == "good"
    results.split = pd.DataFrame({"cell": results.cells.index, "split": np.where(held, "calibration", "train")})
    found = lines.views(results)
    assert found.level == "poor" and "300 pairs kept from training" in found.answer
    results.views = {"rna": one}
    assert lines.views(results) is None


def test_pairs_shuffled_within_samples_are_found_though_samples_differ_and_the_sample_is_named():
    rng = np.random.default_rng(2)
    sample = np.arange(N) % 3
    one = places(types(), apart=1.0) + 20.0 * sample[:, None]
    order = np.arange(N)
    order[sample == 2] = rng.permutation(order[sample == 2])
    results = made(one, ("rna", "atac"), {"rna": one, "atac": one[order]}, has_atac=True)
    assert measures.foscttm(one, one[order]) < 0.2  # which sample a cell is of pairs it well enough
    results.cells["sample"] = np.array(["fine", "also", "u"])[sample]
    found = lines.views(results)
    assert found.level == "poor" and "of 'u', the worst" in found.answer
    results.views["atac"] = one + rng.normal(0, 0.1, one.shape)
    assert lines.views(results).level == "good"


@pytest.mark.parametrize(("shift", "level"), [(0.0, "good"), (1.1, "look"), (9.0, "poor")])
def test_unpaired_cells_of_different_modalities(shift, level):
    group = np.arange(N) % 2
    latent = places(types()) + shift * group[:, None]
    found = lines.unpaired(
        made(
            latent, ("rna", "atac"), has_rna=group == 0, has_atac=group == 1, modality=np.array(["rna", "atac"])[group]
        )
    )
    assert found.level == level, found.answer


def test_foscttm_by_hand():
    one = np.array([[0.0], [1.0], [3.0]])
    assert measures.foscttm(one, one) == 0
    # 0 -> 3: both others are closer; 1 -> 1: none; 3 -> 0: both
    assert measures.foscttm(one, one[::-1]) == pytest.approx(4 / 6)


# -------------------------------------------------------------------------------------------------- the others


@pytest.mark.parametrize(("pairs", "level"), [(1000, "good"), (400, "look"), (30, "poor")])
def test_pairs(pairs, level):
    n = 1200
    both = np.arange(n) < pairs
    results = made(np.zeros((n, 2)), ("rna", "atac"), has_atac=both)
    found = lines.pairs(results)
    assert (found.level, found.value) == (level, pairs)


@pytest.mark.parametrize(("weight", "level"), [(0.0, "good"), (0.55, "look"), (4.0, "poor")])
def test_depth_as_a_driver(weight, level):
    rng = np.random.default_rng(2)
    depth = rng.lognormal(7, 0.6, N)
    latent = rng.normal(size=(N, 4))
    latent[:, 0] = latent[:, 0] + weight * 2 * (np.log(depth) - 7) / 0.6
    found = lines.depth(made(latent, rna_n_counts=depth))
    assert found.level == level, found.answer


@pytest.mark.parametrize(("noise", "level"), [(0.02, "poor"), (0.8, "look")])
def test_a_dimension_that_is_depth_is_too_much_at_a_smaller_share(noise, level):
    """Three dimensions of equal spread; one of them is depth, or follows it from afar."""
    rng = np.random.default_rng(3)
    depth = rng.lognormal(7, 0.6, N)
    latent = rng.normal(size=(N, 3)) * [1.0, 0.9, 0.9]
    latent[:, 0] = (np.log(depth) - 7) / 0.6 + rng.normal(0, noise, N)
    found = lines.depth(made(latent, rna_n_counts=depth))
    assert 0.25 < found.value and found.level == level, found.answer


def history(values, **columns) -> pd.DataFrame:
    return pd.DataFrame({"epoch": np.arange(1, len(values) + 1), "validation_loss": values} | columns)


def test_a_run_whose_pairs_still_gained_is_told_to_go_on():
    results = made(places(types()))
    results.history = history(np.full(40, 5.0), held_out_score=np.linspace(1, 2, 40), best=np.arange(40) == 39)
    assert lines.training(results).level == "good"
    results.model = facts.Model(
        stopped="trained for 40 epochs, and held-out pairs still gained in the last quarter: more"
    )
    found = lines.training(results)
    assert found.level == "look" and found.remedy == "raise --max_epochs" and "still gained" in found.answer


def test_training():
    results = made(places(types()))
    results.history = history([*np.linspace(9, 5, 30), *[5.0] * 10])
    assert lines.training(results).level == "good"
    epochs = np.arange(40)
    results.history = history(5 + 4 * np.exp(-epochs / 7.5))  # e^-20/7.5 = 7 % of what is gained comes after half
    found = lines.training(results)
    assert found.level == "look" and "still falling at the last" in found.answer
    assert found.value == pytest.approx(np.exp(-20 / 7.5), abs=0.01)
    results.history = history(np.linspace(9, 5, 40))
    found = lines.training(results)
    assert found.level == "poor" and "% of what was gained came in the second half" in found.answer
    # of next to nothing, half is nothing
    results.history = history(np.linspace(5.001, 5.0, 40))
    assert lines.training(results).level == "good"
    results.history = history(np.linspace(9, 5, 40))
    # stopped before the cap: falling or not, it was not the cap
    results.parameters = {"max_epochs": 200}
    assert lines.training(results).level == "good"
    results.history = history([9.0, 8.0])
    found = lines.training(results)
    assert found.level == "poor" and "2 epochs" in found.answer
    # which epoch was kept is what history.tsv says
    results.history = history([*np.linspace(9, 5, 20), 5.5, 5.6], best=[0] * 21 + [1])
    found = lines.training(results)
    assert "the weights of epoch 22 were kept, with a validation loss of 5.6" in found.answer
    assert "the lowest of all was 5, at epoch 20" in found.answer


def calibrated(direction: str, **entry) -> facts.Calibration:
    return facts.Calibration(True, 300, directions={direction: facts.Direction(**entry)})


@pytest.mark.parametrize(
    ("covered", "level"), [(0.95, "good"), (0.9, "look"), (0.99, "look"), (0.7, "poor"), (None, "unknown")]
)
def test_error_bars(covered, level):
    results = made(places(types()))
    if covered is not None:
        results.calibration = calibrated("atac->rna", coverage_after=[[0.95, covered]])
    found = lines.calibration(results)
    assert found.level == level
    results.calibration = facts.Calibration(calibrated=False, n_pairs=30)
    assert lines.calibration(results).level == "unknown"


@pytest.mark.parametrize(("slope", "level"), [(1.05, "good"), (0.6, "look"), (0.3, "poor"), (2.5, "poor")])
def test_error_bars_of_accessibility_alone(slope, level):
    results = made(places(types()))
    results.calibration = calibrated("rna->atac", slope_after=slope)
    assert lines.calibration(results).level == level


@pytest.mark.parametrize(("share", "level"), [(0.02, "good"), (0.15, "look"), (0.6, "poor"), (None, "unknown")])
def test_support(share, level):
    p = np.full(N, np.nan) if share is None else np.where(np.arange(N) < N * share, 0.01, 0.5)
    outside = pd.array([None] * N if share is None else list(p < 0.05), dtype="boolean")
    found = lines.support(made(places(types()), ("rna", "atac"), has_atac=False, support_p=p, out_of_support=outside))
    assert found.level == level, found.answer
    if share is None:
        assert "not checked" in found.answer
    assert lines.support(made(places(types()))) is None


def test_a_cluster_without_a_pair_is_poor_however_small_its_share():
    p = np.where(np.arange(N) < 60, 0.01, 0.5)
    cluster = np.where(np.arange(N) < 60, "7", "0")
    results = made(
        places(types()),
        ("rna", "atac"),
        has_atac=False,
        support_p=p,
        cluster=cluster,
        out_of_support=pd.array(list(p < 0.05), dtype="boolean"),
    )
    found = lines.support(results)
    assert found.level == "poor" and "cluster 7 (rna)" in found.answer and found.value == pytest.approx(60 / N)


def record(brier: float, ece: float = 0.01, batches=None, **changed) -> facts.Mosaic:
    checked = {"n": 500, "brier": brier, "brier_prior": 0.7, "accuracy": 0.8, "ece": ece, "batches": batches or {}}
    given = {"column": "type", "n_transferred": 100, "n_unknown": {}, "checked": {"atac": checked}, "notes": []}
    return facts.shown(facts.Mosaic, {"labels": given | changed})


def test_label_transfer():
    results = made(places(types()))
    assert lines.labels(results) is None
    for brier, level in ((0.1, "good"), (0.5, "look"), (0.69, "poor")):
        results.mosaic_notes = record(brier)
        assert lines.labels(results).level == level
    results.mosaic_notes = record(0.1, ece=0.12)
    assert lines.labels(results).level == "look"
    results.mosaic_notes = record(0.1, checked={}, n_unknown={"not checked": 9}, notes=["pairs"])
    assert lines.labels(results).level == "unknown"
    results.mosaic_notes = record(0.1, checked={}, n_unknown={"one label only": 9}, notes=["x"])
    assert lines.labels(results).level == "poor"


def quality(**summary) -> list[SampleQC]:
    return [
        SampleQC(name, "rna", facts.shown(facts.Summary, {"cells_out": 1000} | one), pd.DataFrame())
        for name, one in summary.items()
    ]


def test_labels_of_one_batch_that_contradict_the_others_are_named():
    results = made(places(types()))
    results.mosaic_notes = record(0.2)
    assert lines.labels(results).level == "good"
    scores = {"fine": {"brier": 0.1, "brier_prior": 0.7}, "odd": {"brier": 0.71, "brier_prior": 0.7}}
    results.mosaic_notes = record(0.2, batches=scores)
    found = lines.labels(results)
    assert found.level == "poor" and "the labels of 'odd'" in found.answer


def test_doublets_beyond_what_flags_may_be():
    results = made(places(types()))
    results.qc = quality(a={"doublets": {"flagged": 20, "share": 0.4}})
    found = lines.doublets(results)
    assert found.level == "poor" and found.value == 0.4 and "depth and place" in found.answer


@pytest.mark.parametrize(("flagged", "level"), [(80, "good"), (200, "look"), (400, "poor")])
def test_doublets(flagged, level):
    results = made(places(types()))
    assert lines.doublets(results) is None
    results.qc = quality(a={"doublets": {"flagged": 20}}, b={"doublets": {"flagged": flagged}})
    found = lines.doublets(results)
    assert found.level == level and "of b (rna)" in found.answer


@pytest.mark.parametrize(
    ("share", "kind", "level"),
    [(0.1, "estimate", "good"), (0.3, "estimate", "look"), (0.5, "estimate", "poor"), (0.5, "at most", "unknown")],
)
def test_ambient(share, kind, level):
    results = made(places(types()))
    results.qc = quality(a={"ambient": {"share": share, "kind": kind}})
    assert lines.ambient(results).level == level
    results.qc = quality(a={"ambient": {"share": None, "kind": ""}})
    assert lines.ambient(results) is None


def test_contrasts():
    results = made(places(types()))
    one = pd.DataFrame({"feature": ["g"], "confounded": [False]})
    for tables, level in (
        ([one, one], "good"),
        ([one, one.head(0)], "look"),
        ([one, one.assign(confounded=True)], "look"),
        ([one.head(0), one.assign(confounded=True)], "poor"),
    ):
        results.contrasts = {f"c{i}": t for i, t in enumerate(tables)}
        assert lines.contrasts(results).level == level


def test_a_good_run_has_no_poor_line_and_its_table_every_column(monkeypatch):
    rng = np.random.default_rng(5)
    kind = types(2400)
    latent = places(kind, apart=3.0)
    views = {m: latent + rng.normal(0, 0.3, latent.shape) for m in ("rna", "atac")}
    results = made(
        latent,
        ("rna", "atac"),
        views,
        has_atac=True,
        batch=np.array(["x", "y"])[np.arange(2400) % 2],
        cluster=kind.astype(str),
        rna_n_counts=rng.lognormal(7, 0.5, 2400),
        modality="rna+atac",
    )
    results.history = history([*np.linspace(9, 5, 30), *[5.0] * 10])
    results.calibration = calibrated("atac->rna", coverage_after=[[0.95, 0.951]])
    counts = counts_of(kind, np.zeros(2400, int))
    monkeypatch.setattr(
        gather, "read_counts", lambda path, modality, cells: counts[results.cells.index.get_indexer(cells)]
    )
    found = verdict(results)
    assert {f.level for f in found} == {"good"}, [(f.question, f.level, f.answer) for f in found if f.level != "good"]
    told = verdict_table(found)
    assert list(told.columns) == ["question", "level", "value", "expected", "answer", "remedy"]
    assert np.isfinite(told["value"]).all() and (told["expected"] != "").all()
    assert not told["question"].str.contains("GPU").any()
