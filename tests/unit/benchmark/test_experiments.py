"""What each experiment hides, which rows it gives, and that a score is what hand-made results force it to be."""

from __future__ import annotations

import dataclasses
import itertools
import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from multivi_nf.benchmark import plan, runner, scores
from multivi_nf.benchmark.cobolt import Settings, fit_cobolt
from multivi_nf.benchmark.page import write_page
from multivi_nf.benchmark.result import Imputed, Result, read_result, write_result
from multivi_nf.benchmark.scoring import Views
from multivi_nf.benchmark.splits import strict_unpairing
from multivi_nf.benchmark.task import Task, complete_cells, counted, read_task, write_task
from multivi_nf.errors import InputError
from multivi_nf.evaluation.metrics import pairing
from multivi_nf.simulate import PRESETS, simulated_mosaic


@pytest.fixture(scope="module")
def mosaic():
    """700 cells, a third of them paired, and their true types."""
    found, truth = simulated_mosaic(PRESETS["default"].resized(cells=700, genes=300, peaks=1500))
    found.obs["cell_type"] = truth.cells["cell_type"].reindex(found.obs_names).to_numpy()
    return found


WANTED = plan.Wanted(rates=(75,), seeds=(0,), most_types=1)


def scored(task, result, mosaic):
    return scores.scores_of(task, result, scores.truth_of(task, result, mosaic))


@pytest.fixture(scope="module")
def tasks(mosaic):
    labels = plan.labels_of(mosaic, "cell_type")
    return {f"{task.experiment} {task.name}": task for task in plan.tasks(mosaic, labels, WANTED)}


def test_a_hidden_modality_is_nowhere_in_the_split(tasks, mosaic):
    task = tasks["3 75% unpaired"]
    for modality, cells in task.hidden.items():
        assert len(cells)
        assert not set(cells) & set(task.split.mosaic[modality].obs_names)
        assert set(task.split.origin[cells]) <= set(mosaic[modality].obs_names)  # so that it can be scored


def test_no_cell_of_the_type_shows_the_modality(tasks):
    found = [task for name, task in tasks.items() if name.startswith("4 ")]
    assert {next(iter(task.hidden)) for task in found} == {"rna", "atac"}
    for task in found:
        (modality,) = task.hidden
        shown = task.split.mosaic[modality].obs_names
        assert (task.labels.loc[shown] != task.target).all()
        assert (task.labels.loc[task.hidden[modality]] == task.target).sum() >= plan.LEAST


def test_methods_run_where_they_can(tasks):
    assert "wnn" in tasks["5 simulated complete"].methods
    assert "wnn" not in tasks["5 simulated 7 patterns"].methods
    assert tasks["1 75% unpaired"].variants == plan.ABLATION
    assert "ablation" not in tasks["1 75% unpaired"].methods


def test_a_task_survives_the_disk(tasks, tmp_path):
    task = tasks["3 75% unpaired"]
    write_task(task, tmp_path / "task")
    found = read_task(tmp_path / "task")
    for field in dataclasses.fields(Task):
        if field.name not in ("split", "labels", "hidden"):
            assert getattr(found, field.name) == getattr(task, field.name)
    assert (found.labels == task.labels).all()
    assert {m: list(cells) for m, cells in found.hidden.items()} == {m: list(c) for m, c in task.hidden.items()}
    assert (found.split.mosaic["rna"].X != task.split.mosaic["rna"].X).nnz == 0


def program():
    """The peers' program, which is no module of the package."""
    place = Path(runner.__file__).parent / "peers" / "run.py"
    return SimpleNamespace(**runpy.run_path(str(place), run_name="peers_program"))


def test_midas_sees_batches_that_show_the_same_and_peaks_by_chromosome(tasks, tmp_path):
    task = tasks["3 75% unpaired"]
    write_task(task, tmp_path / "task")
    data, chunks = program().midas_data(program().Task(tmp_path / "task"))
    given = task.split.mosaic
    shows = {m: set(given[m].obs_names) for m in given.mod}
    for m, part in data.mod.items():
        counts = counted(given, m)[part.obs_names, part.var_names]
        assert (part.X != counts.X).nnz == 0
        for cell, batch in part.obs["batch"].items():
            real = given[m].obs.at[cell, "batch"]
            assert batch == f"{real} {'+'.join(other for other in ('rna', 'atac') if cell in shows[other])}"
    chromosomes = [name.split(":")[0] for name in data["atac"].var_names]
    assert chunks == {"atac": [len(list(run)) for _, run in itertools.groupby(chromosomes)]}
    assert len(chunks["atac"]) == len(set(chromosomes)) > 1


def test_midas_has_one_network_for_peaks_that_name_no_chromosome(tasks, tmp_path):
    write_task(tasks["5 simulated 7 patterns"], tmp_path / "task")
    data, chunks = program().midas_data(program().Task(tmp_path / "task"))
    assert chunks == {"atac": [data["atac"].n_vars]}  # not one each: 20 GB


def test_a_peer_that_is_not_installed_says_so(tasks, tmp_path):
    write_task(tasks["3 75% unpaired"], tmp_path / "task")
    words = ["-I", program().__file__, "midas", tmp_path / "task", tmp_path / "result"]
    subprocess.run([sys.executable, *map(str, words)], check=True, capture_output=True)
    told = json.loads((tmp_path / "result" / "run.json").read_text())
    assert told["version"] == "scmidas" and "scmidas" in told["failed"]


def test_all_leaves_out_what_has_to_be_installed_by_hand():
    assert "midas" not in plan.chosen_methods(("all",)) and "mofa" in plan.chosen_methods(("all",))
    assert plan.chosen_methods(("all", "midas")) == tuple(plan.METHODS)


def test_data_without_pairs_are_told(mosaic):
    lone = mosaic[mosaic.obs["modality"].isin(["rna", "atac"])].copy()
    reasons = plan.not_possible(lone, None, plan.Wanted())
    assert set(reasons) == {1, 3, 4}
    assert "there are 0" in reasons[1]


def test_unknown_names_are_refused(mosaic):
    with pytest.raises(InputError, match="no such column"):
        plan.labels_of(mosaic, "celltype")
    with pytest.raises(InputError, match="seurat"):
        plan.chosen_methods(("seurat",))
    assert plan.chosen_methods(("cobolt", "multivi-nf")) == ("multivi-nf", "cobolt")


def test_the_truth_scores_best_and_noise_scores_chance(tasks, mosaic):
    task = tasks["3 75% unpaired"]
    draw = np.random.default_rng(0)
    perfect, noise = Result(), Result()
    for modality, cells in task.hidden.items():
        features = task.split.mosaic[modality].var_names
        counts = counted(mosaic, modality)[task.split.origin[cells].to_numpy(), features].X.toarray().astype(float)
        shown = counts / np.maximum(counts.sum(1, keepdims=True), 1) if modality == "rna" else (counts > 0) * 1.0
        frame = {"index": cells, "columns": features}
        perfect.imputed[modality] = Imputed(pd.DataFrame(shown + 1e-9, **frame))
        noise.imputed[modality] = Imputed(pd.DataFrame(draw.random(shown.shape), **frame))
    best, chance = (scored(task, result, mosaic) for result in (perfect, noise))
    assert best["atac_peak_auroc"] == pytest.approx(1)
    assert best["rna_spearman_raw"] > 0.9
    assert chance["atac_peak_auroc"] == pytest.approx(0.5, abs=0.03)
    assert abs(chance["rna_gene_spearman"]) < 0.05


def test_a_batchs_mean_profile_is_at_chance_within_batches(mosaic):
    labels = plan.labels_of(mosaic, "cell_type")
    (task,) = plan.tasks(mosaic, labels, dataclasses.replace(WANTED, experiments=(3,)))
    cells, genes = task.hidden["rna"], task.split.mosaic["rna"].var_names
    batch = task.split.mosaic.obs["batch"].loc[cells].to_numpy()
    truth = scores.truth_of(task, Result(imputed={"rna": Imputed(pd.DataFrame(0.0, cells, genes))}), mosaic)
    smooth = truth["rna"].smooth
    assert pd.Series(batch).value_counts().min() >= plan.LEAST
    means = np.stack([smooth[batch == name].mean(0) for name in batch])
    noise = np.random.default_rng(0).normal(size=means.shape) * 1e-9
    found = scored(task, Result(imputed={"rna": Imputed(pd.DataFrame(means + noise, cells, genes))}), mosaic)
    assert found["rna_gene_spearman"] > 0.2
    assert abs(found["rna_gene_spearman_within"]) < 0.05
    own = scored(task, Result(imputed={"rna": Imputed(pd.DataFrame(smooth, cells, genes))}), mosaic)
    assert own["rna_gene_spearman_within"] == pytest.approx(1)


def test_a_true_map_pairs_and_a_random_one_does_not(tasks):
    task = tasks["1 75% unpaired"]
    names = task.split.mosaic.obs_names
    draw = np.random.default_rng(0)
    place = pd.Series(range(task.split.origin.nunique()), index=task.split.origin.unique())
    same = pd.DataFrame({"x": place[task.split.origin[names]].to_numpy(float)}, index=names)
    random = pd.DataFrame(draw.normal(size=(len(names), 3)), index=names)
    perfect, chance = (scored(task, Result(Views(joint, {})), None) for joint in (same, random))
    assert perfect["foscttm"] == 0
    assert perfect["rank_distance"] == pytest.approx(1)
    assert chance["foscttm"] == pytest.approx(0.5, abs=0.04)


def test_log_fold_changes_of_the_truth_agree(tasks, mosaic):
    task = next(task for name, task in tasks.items() if name.startswith("4 ") and "without rna" in name)
    cells, genes = task.hidden["rna"], task.split.mosaic["rna"].var_names
    counts = counted(mosaic, "rna")[task.split.origin[cells].to_numpy(), genes].X.toarray().astype(float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    table = pd.DataFrame({"feature": genes, "lfc": 0.0, "significant": False})
    result = Result(imputed={"rna": Imputed(pd.DataFrame(shares, cells, genes))}, effects=table)
    found = scored(task, result, mosaic)
    assert found["pearson"] > 0.9
    assert found["auroc"] > 0.95
    assert found["calls_recall"] == 0
    flat = Result(
        imputed={"rna": Imputed(pd.DataFrame(shares[np.random.default_rng(0).permutation(len(cells))], cells, genes))}
    )
    assert abs(scored(task, flat, mosaic)["pearson"]) < 0.35


def test_controls_are_means_of_many_shuffles(tasks, mosaic):
    task = next(task for name, task in tasks.items() if name.startswith("4 ") and "without rna" in name)
    cells, genes = task.hidden["rna"], task.split.mosaic["rna"].var_names
    draw = np.random.default_rng(1)

    def of(values):
        result = Result(imputed={"rna": Imputed(pd.DataFrame(values, cells, genes))})
        return result, scores.truth_of(task, result, mosaic)

    _, truth = of(np.ones((len(cells), len(genes))))
    # all cells differ in the type's direction: a shuffle's fold changes agree with the truth, or with its opposite
    result, truth = of(np.exp(draw.normal(size=(len(cells), 1)) * truth.truth / 2))
    each = [np.corrcoef(one, truth.truth)[0, 1] for one in truth.shuffled]
    assert len(each) == scores.FOLD_SHUFFLES and np.abs(each).mean() > 0.5
    found = scores.scores_of(task, result, truth)
    assert found["pearson_shuffled"] == pytest.approx(np.mean(each))
    assert abs(found["pearson_shuffled"]) < 0.15
    by_hand = scores.shuffled_fold_changes(np.array([[1.0, 3.0], [1.0, 3.0]]), np.array([True, False]), draw)
    assert by_hand.shape == (scores.FOLD_SHUFFLES, 2) and np.allclose(by_hand, 0)


def test_more_shuffles_where_cells_are_few(tasks):
    task = tasks["1 75% unpaired"]
    assert [len(list(scores.draws_of(task, 1, n))) for n in (1, 1000, 4000, 10**6)] == [100, 20, 5, 1]
    one, other = (draw.random() for draw in list(scores.draws_of(task, 1, 1000))[:2])
    assert one != other == list(scores.draws_of(task, 1, 1000))[1].random()
    assert scores.control([{"ari": 1.0}, {"ari": 0.5}]) == {"ari_shuffled": 0.75}


def test_shuffled_labels_score_what_their_frequencies_give(tasks):
    task = tasks["1 75% unpaired"]
    names = task.split.mosaic.obs_names
    codes = pd.Series(pd.factorize(task.types.loc[names])[0], index=names)
    joint = pd.DataFrame(np.random.default_rng(0).normal(size=(len(names), 3)) / 50, names).add(codes * 10.0, axis=0)
    found = scored(task, Result(Views(joint, {})), None)
    share = task.types.value_counts(normalize=True)
    assert found["purity"] > 0.99
    assert found["purity_shuffled"] == pytest.approx((share**2).sum(), abs=0.03)
    assert found["transfer"] > 0.95 and found["transfer_shuffled"] < share.max() + 0.05


def test_cobolt_pairs_cells_and_repeats_itself(mosaic):
    complete = complete_cells(mosaic, ("rna", "atac"))
    split = strict_unpairing(complete, 0.5)
    settings = Settings(n_latent=5, epochs=15, annealing=5, trees=20)
    one, two = (fit_cobolt(split.mosaic, settings, seed=1) for _ in range(2))
    assert np.array_equal(one, two)
    assert one.shape == (split.mosaic.n_obs, 5)
    np.testing.assert_allclose(one.sum(1), 0, atol=1e-9)
    types = mosaic.obs["cell_type"].loc[split.origin].to_numpy()
    pairs = [np.flatnonzero(types == name) for name in pd.unique(types)]
    centres = np.stack([one.to_numpy()[rows].mean(0) for rows in pairs])
    within = np.mean([((one.to_numpy()[rows] - centre) ** 2).sum(1).mean() for rows, centre in zip(pairs, centres)])
    assert within < ((one - one.mean()) ** 2).sum(1).mean()


def test_cobolt_prior_is_the_dirichlets():
    from multivi_nf.benchmark.cobolt import Cobolt

    k, total = 10, 50.0
    alpha = np.full(k, total / k)
    by_paper = (1 / alpha[0]) * (1 - 2 / k) + (1 / alpha).sum() / k**2
    model = Cobolt({"rna": 4}, {"rna": 1}, Settings(n_latent=k, concentration=total))
    assert model.prior_variance == pytest.approx(by_paper)


def test_ours_without_the_hidden_modality_is_a_row_that_says_so(tasks, mosaic, tmp_path):
    """IMPUTE ends where a batch shows nothing of it; the other methods' rows are not lost for that."""
    mosaic.write_h5mu(tmp_path / "mosaic.h5mu")
    task = next(task for name, task in tasks.items() if name.startswith("4 "))
    write_task(task, tmp_path / "task")
    runner.collected(Result(), [], "multivi-nf", tmp_path / "ours")
    runner.scored(tmp_path / "task", tmp_path / "ours", tmp_path / "mosaic.h5mu", "toy", tmp_path / "scores")
    (row,) = pd.read_csv(tmp_path / "scores" / "scores.tsv", sep="\t").to_dict("records")
    assert row["metric"] == "failed"
    assert row["note"] == f"failed: nothing was imputed of {next(iter(task.hidden))}: its step failed"


def test_steps_write_rows_and_a_failure_is_a_row(tasks, mosaic, tmp_path):
    mosaic.write_h5mu(tmp_path / "mosaic.h5mu")
    table = plan.write_plan(
        mosaic,
        "cell_type",
        dataclasses.replace(WANTED, experiments=(1,), methods=("ridge", "depth", "mofa")),
        tmp_path / "splits",
    )
    (folder,) = set(table["folder"])
    done = []
    for method in ("ridge", "depth"):
        runner.run(method, tmp_path / "splits" / folder, None, tmp_path / method)
        runner.scored(
            tmp_path / "splits" / folder, tmp_path / method, tmp_path / "mosaic.h5mu", "toy", tmp_path / f"{method}.s"
        )
        done.append(tmp_path / f"{method}.s")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text(json.dumps({"method": "cobolt", "failed": "it did\nnot fit"}))
    runner.scored(
        tmp_path / "splits" / folder, tmp_path / "broken", tmp_path / "mosaic.h5mu", "toy", tmp_path / "broken.s"
    )
    plans = [tmp_path / "splits" / "plan.tsv"]
    write_page([*done, tmp_path / "broken.s"], plans, tuple(plan.METHODS), "toy", tmp_path / "out")
    found = pd.read_csv(tmp_path / "out" / "scores.tsv", sep="\t")
    assert list(found.columns) == list(runner.COLUMNS)
    ridge, depth = (
        found[(found["method"] == m) & (found["metric"] == "foscttm")]["value"].item() for m in ("ridge", "depth")
    )
    assert ridge < depth
    notes = found.set_index("method")["note"].dropna().to_dict()
    assert notes["cobolt"] == "failed: it did not fit"
    assert notes["mofa"].startswith("failed: no result")
    page = (tmp_path / "out" / "benchmark.html").read_text()
    assert "it did not fit" in page
    assert "<svg" in page


def test_a_result_survives_the_disk(tmp_path):
    cells = pd.Index(["a:1", "b:2"])
    joint = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], cells)
    values = pd.DataFrame([[0.5, 0.25]], ["b:2"], ["g1", "g2"])
    given = Result(
        Views(joint, {"rna": joint.iloc[:1]}, joint), {"rna": Imputed(values, values)}, about={"method": "x"}
    )
    write_result(given, tmp_path)
    found = read_result(tmp_path)
    assert np.array_equal(found.views.joint, joint)
    assert list(found.views.by_modality["rna"].index) == ["a:1"]
    assert found.imputed["rna"].sd.loc["b:2", "g2"] == 0.25
    assert pairing(found.views.joint, found.views.joint).foscttm == 0
