"""The scores of one method on one split, by experiment: one table of metric and value for every method alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import igraph
import mudata
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import false_discovery_control, ttest_ind

from multivi_nf.benchmark.baselines import profiles
from multivi_nf.benchmark.plan import LEAST, NO_LABEL
from multivi_nf.benchmark.result import Result
from multivi_nf.benchmark.scoring import Hidden, Views, hidden_truth, score_atac, score_embedding, score_rna
from multivi_nf.benchmark.task import Task, counted, modalities_of
from multivi_nf.benchmark.uncertainty import ranked, sure_and_wrong
from multivi_nf.evaluation import metrics
from multivi_nf.evaluation.controls import cyclic_shuffle
from multivi_nf.evaluation.metrics.clustering import RESOLUTIONS
from multivi_nf.reduction import nearest

NEIGHBOURS = 15
OTHER = {"rna": "atac", "atac": "rna"}
NAMED_MARKERS = ("CD79A", "MS4A1")
"""Of the paper's Figure 4: B cells' markers that imputed RNA has to find."""

SHUFFLED = "_shuffled"
"""Ends the name of a metric's control: the same, of the same result, with pairs, cells or labels shuffled."""

SHUFFLES, SHUFFLED_CELLS = 100, 20_000
"""Controls are means over so many shuffles at most, and over so few that no more cells than these are shuffled in all:
one shuffle of 150 cells says little, one of 20,000 enough."""

FOLD_SHUFFLES = 200
"""Of experiment 4: imputed values have few directions, so one shuffle gives correlations of 0.3 either way."""

PSEUDO = 1e-5
LEAST_FOLD = 0.5


@dataclass
class FoldChanges:
    """A type against the rest (experiment 4), features in the split's order.

    Attributes
    ----------
    estimated, truth
        (n_features,) log2 fold changes of the imputed values and of the counts.
    profiles
        (n_cells, n_features) shares or 0/1 of the measured cells.
    of_type
        (n_cells,) which of them are of the type.
    shuffled
        (n_shuffles, n_features) as `estimated`, the imputed cells' types shuffled each time anew.
    """

    estimated: np.ndarray
    truth: np.ndarray
    profiles: sparse.csr_matrix
    of_type: np.ndarray
    shuffled: np.ndarray


Truth = dict[str, Hidden] | FoldChanges | None
"""What a result is compared with, by experiment; built once, and both scored and drawn."""


def truth_of(task: Task, result: Result, mosaic: mudata.MuData | None) -> Truth:
    """What was hidden of experiments 3 and 4; None for the others, which need no more than the split."""
    if task.experiment == 3:
        complete = {m: counted(mosaic, m) for m in modalities_of(task.split.mosaic)}
        return {m: hidden_truth(task.split, complete, m, OTHER[m]) for m in result.imputed}
    return fold_changes(task, result, mosaic) if task.experiment == 4 and mosaic is not None else None


def scores_of(task: Task, result: Result, truth: Truth) -> dict[str, float]:
    """Metric to value of one result; experiments differ in what they measure."""
    return EXPERIMENTS[task.experiment](task, result, truth)


def whole_views(task: Task, views: Views | None) -> Views:
    """The views with each modality's own: the joint place of the cells that show it, where a method gives no other."""
    if views is None:
        msg = "the method gave no embedding"
        raise ValueError(msg)
    joint = views.joint.loc[task.split.mosaic.obs_names]
    own = {
        m: views.by_modality.get(m, joint.loc[part.obs_names]).loc[part.obs_names]
        for m, part in task.split.mosaic.mod.items()
    }
    variance = None if views.variance is None else views.variance.loc[joint.index]
    return Views(joint, own, variance)


def known(task: Task, cells: pd.Index) -> np.ndarray:
    """(n,) whether each cell has a label."""
    return (task.types.loc[cells] != NO_LABEL).to_numpy()


def _unpaired(task: Task, result: Result, _truth: None) -> dict[str, float]:
    views = whole_views(task, result.views)
    found = score_embedding(task.split, views, None, task.seed)
    if "mutual_rank" in found:
        found["rank_distance"] = found["mutual_rank"] * found["n_cells"]  # the paper's, not over N
        found |= _mismatched(task, views)
    return found if task.labels is None else found | _of_labels(task, _carried(task, views.joint))


def draws_of(task: Task, kind: int, n: int) -> Iterator[np.random.Generator]:
    """Generators of the shuffles that a control is the mean of; fewer where each has many (`n`) cells or entries."""
    for draw in range(int(np.clip(SHUFFLED_CELLS // max(n, 1), 1, SHUFFLES))):
        yield np.random.default_rng([task.seed, kind, draw])


def control(found: Iterable[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over shuffles, under its control's name."""
    return {f"{name}{SHUFFLED}": float(value) for name, value in pd.DataFrame(list(found)).mean().items()}


def _mismatched(task: Task, views: Views) -> dict[str, float]:
    """Pairing where each cell's RNA is held against another cell's ATAC."""
    rna, atac = task.split.both_views()
    a, b = (views.by_modality[m].loc[cells].to_numpy() for m, cells in (("rna", rna), ("atac", atac)))
    pairs = (metrics.pairing(a, b[cyclic_shuffle(len(b), draw)]) for draw in draws_of(task, 41, len(b)))
    return control({"foscttm": pair.foscttm, "rank_distance": pair.mutual_rank * pair.n_cells} for pair in pairs)


Measure = Callable[[pd.Series], dict[str, float]]
"""Scores of a result by the label of each cell or view: the true ones, or shuffled."""


def _carried(task: Task, joint: pd.DataFrame) -> Measure:
    """Purity of types, and the share of ATAC views that get their own type from their RNA neighbours."""
    use = joint.index[known(task, joint.index)]
    near = neighbours_of(joint.loc[use])
    rna, atac = (cells[known(task, cells)] for cells in map(task.split.views, ("rna", "atac")))
    across, _ = nearest(joint.loc[atac].to_numpy(), joint.loc[rna].to_numpy(), NEIGHBOURS)

    def measure(labels: pd.Series) -> dict[str, float]:
        found = {"purity": metrics.shared_label(near, labels.loc[use].to_numpy())}
        if across.size:
            carried = metrics.carried_label(across, labels.loc[rna].to_numpy())
            found["transfer"] = float((carried == labels.loc[atac].to_numpy()).mean())
        return found

    return measure


def neighbours_of(joint: pd.DataFrame) -> np.ndarray:
    """(n_cells, 15) nearest other cells of each."""
    return nearest(joint.to_numpy(), joint.to_numpy(), NEIGHBOURS, same=True)[0]


def _of_labels(task: Task, measure: Measure) -> dict[str, float]:
    """What is measured by the cells' types, and its mean by types dealt out anew."""
    draws = draws_of(task, 42, int(known(task, task.types.index).sum()))
    return measure(task.types) | control(measure(dealt_anew(task, draw)) for draw in draws)


def dealt_anew(task: Task, draw: np.random.Generator) -> pd.Series:
    """Label of each cell or view, the labelled cells' labels permuted over them; both views of a cell get the same."""
    own = task.types[known(task, task.types.index)]
    origin = task.split.origin.loc[own.index]
    first = own[~origin.duplicated().to_numpy()].set_axis(origin[~origin.duplicated()])
    anew = pd.Series(draw.permutation(first.to_numpy()), index=first.index)
    out = task.types.copy()
    out.loc[own.index] = anew.loc[origin].to_numpy()
    return out


def _sources(task: Task, result: Result, _truth: None) -> dict[str, float]:
    joint = whole_views(task, result.views).joint
    batch = task.split.mosaic.obs["batch"].astype(str).to_numpy()
    kind = task.split.modalities[joint.index].to_numpy()
    found = {}
    for name, groups in (("batch", batch), ("modality", kind)):
        if np.unique(groups).size < 2:
            continue
        found[f"lisi_{name}"] = metrics.lisi_ratio(joint.to_numpy(), groups, seed=task.seed)["ratio"]
        if task.labels is not None:
            use = known(task, joint.index)
            labels = task.labels.loc[joint.index].to_numpy()[use]
            within = metrics.lisi_ratio_within(joint.to_numpy()[use], groups[use], labels, seed=task.seed)
            found[f"lisi_{name}_within"] = within
    return found if task.labels is None else found | _of_labels(task, _types(task, joint))


def _types(task: Task, joint: pd.DataFrame) -> Measure:
    """Whether clusters and neighbours are types: ARI, NMI, purity, micro-F1."""
    use = joint.index[known(task, joint.index)]
    space = joint.loc[use].to_numpy()
    near, clusters = neighbours_of(joint.loc[use]), metrics.leiden_clusters(space, RESOLUTIONS, seed=task.seed)

    def measure(labels: pd.Series) -> dict[str, float]:
        own = labels.loc[use].to_numpy()
        best = metrics.best_clusters(clusters, own)
        kept = float(keeps_label(near, own).mean())
        return {"ari": best["ari"], "nmi": best["nmi"], "purity": metrics.shared_label(near, own), "micro_f1": kept}

    return measure


def _imputation(task: Task, result: Result, truth: dict[str, Hidden]) -> dict[str, float]:
    found: dict[str, float] = {}
    for modality, imputed in result.imputed.items():
        hidden, features = truth[modality], task.split.mosaic[modality].var_names
        values = imputed.values.loc[hidden.cells, features].to_numpy(np.float64)
        row = {"rna": score_rna, "atac": score_atac}[modality](hidden, values)
        measured = profiles(modality, hidden.counts).toarray()
        row["spearman_raw"] = metrics.flat_spearman(values, measured)  # the paper's two headline figures
        row["spearman_smooth"] = metrics.flat_spearman(values, hidden.smooth)
        fewer = values.size // 500  # ranking many features takes long, and they are as good as more cells
        others = (cyclic_shuffle(len(values), draw) for draw in draws_of(task, 43, fewer))
        row |= control(_by_feature(modality, hidden, values[other]) for other in others)
        row |= _within_batches(modality, hidden, values, task.split.mosaic.obs["batch"].loc[hidden.cells].to_numpy())
        if imputed.sd is not None:
            sd = imputed.sd.loc[hidden.cells, features].to_numpy(np.float64)
            row |= ranked(sd, values, measured) | sure_and_wrong(sd, values, measured, hidden.smooth, task.seed)
        found |= {f"{modality}_{name}": value for name, value in row.items()}
    return found


def _by_feature(modality: str, hidden: Hidden, values: np.ndarray) -> dict[str, float]:
    """What tells cells apart: the mean profile of all is at chance in it."""
    if modality == "rna":
        return {"gene_spearman": float(np.nanmean(metrics.feature_spearman(values, hidden.smooth)))}
    return {"peak_auroc": float(np.nanmean(metrics.feature_auroc(values, hidden.counts > 0)))}


def _within_batches(modality: str, hidden: Hidden, values: np.ndarray, batch: np.ndarray) -> dict[str, float]:
    """Scores by feature among the cells of one batch, mean over cells: a batch's mean profile is at chance in them."""
    found, weights = [], []
    names, sizes = np.unique(batch.astype(str), return_counts=True)
    for name, size in zip(names[sizes >= LEAST], sizes[sizes >= LEAST]):
        own = np.flatnonzero(batch.astype(str) == name)
        part = Hidden(hidden.cells[own], hidden.counts[own], hidden.smooth[own], hidden.reference)
        found.append(_by_feature(modality, part, values[own]))
        weights.append(size)
    table = pd.DataFrame(found)
    return {f"{metric}_within": float(np.average(table[metric], weights=weights)) for metric in table}


def log_fold_change(target: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """(n_features,) log2 ratio of mean profiles, each made to sum to 1, floored at 1e-5."""
    target, rest = (
        m / max(m.sum(), 1e-12) for m in (np.asarray(target.mean(0)).ravel(), np.asarray(rest.mean(0)).ravel())
    )
    return np.log2(target + PSEUDO) - np.log2(rest + PSEUDO)


def fold_changes(task: Task, result: Result, mosaic: mudata.MuData) -> FoldChanges:
    """Log fold changes of the type that lacks a modality, as imputed and as measured."""
    (modality,) = task.hidden
    features = task.split.mosaic[modality].var_names
    values = result.imputed[modality].values[features]
    imputed = (task.types.loc[values.index] == task.target).to_numpy()
    origins = pd.Index(task.split.origin).unique()
    measured = profiles(modality, counted(mosaic, modality, origins)[:, features].X)
    own = (task.types.groupby(task.split.origin).first().loc[origins] == task.target).to_numpy()
    return FoldChanges(
        log_fold_change(values.to_numpy()[imputed], values.to_numpy()[~imputed]),
        log_fold_change(measured[own], measured[~own]),
        measured,
        own,
        shuffled_fold_changes(values.to_numpy(np.float64), imputed, np.random.default_rng([task.seed, 44])),
    )


def shuffled_fold_changes(values: np.ndarray, of_type: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """(n_shuffles, n_features) log fold changes of as many random cells as the type has against the rest."""
    chosen = np.stack([draw.permutation(of_type) for _ in range(FOLD_SHUFFLES)]).astype(np.float64)
    sums, rest = chosen @ values, (1 - chosen) @ values
    return np.stack([log_fold_change(one[None], other[None]) for one, other in zip(sums, rest)])


def _without_type(task: Task, result: Result, truth: FoldChanges) -> dict[str, float]:
    (modality,) = task.hidden
    features = task.split.mosaic[modality].var_names
    found = metrics.fold_change_agreement(truth.estimated, truth.truth)
    found |= _named(truth.estimated, truth.truth, list(features))
    by_chance = (metrics.fold_change_agreement(one, truth.truth) for one in truth.shuffled)
    found |= control({name: one[name] for name in ("pearson", "auroc")} for one in by_chance)
    if result.effects is not None:
        table = result.effects.set_index("feature").reindex(features)
        differential = _differential(truth.profiles, truth.of_type, modality) & (np.abs(truth.truth) >= LEAST_FOLD)
        called = table["significant"].fillna(False).astype(bool).to_numpy()
        calls = metrics.calls_against_truth(table["lfc"].abs().fillna(0).to_numpy(), called, differential)
        found |= {f"calls_{name}": value for name, value in calls.items()}
    return found


def _named(estimated: np.ndarray, truth: np.ndarray, features: list[str]) -> dict[str, float]:
    """Percentile, from the top, of the paper's named markers, where they are markers of this type in the counts."""
    top = set(np.argsort(-truth, kind="stable")[:50])
    order = np.argsort(np.argsort(-estimated, kind="stable"))
    places = {name: features.index(name) for name in NAMED_MARKERS if name in features}
    return {f"percentile_{name}": float(order[k] / len(features)) for name, k in places.items() if k in top}


def _differential(values: sparse.csr_matrix, own: np.ndarray, modality: str) -> np.ndarray:
    """(n_features,) whether Welch's test on log(1 + 10,000 share), or on 0/1, calls a feature at an FDR of 0.05."""
    dense = np.log1p(1e4 * values.toarray()) if modality == "rna" else values.toarray()
    with np.errstate(all="ignore"):
        p = ttest_ind(dense[own], dense[~own], equal_var=False).pvalue
    return false_discovery_control(np.nan_to_num(p, nan=1.0)) <= 0.05


def _trimodal(task: Task, result: Result, _truth: None) -> dict[str, float]:
    if result.edges is not None and result.views is None:
        return _of_labels(task, _of_graph(task, result.edges))
    joint = whole_views(task, result.views).joint
    found = _of_labels(task, _types(task, joint))
    kind = task.split.modalities[joint.index].to_numpy()
    if np.unique(kind).size > 1:
        found["lisi_modality"] = metrics.lisi_ratio(joint.to_numpy(), kind, seed=task.seed)["ratio"]
    return found


def keeps_label(near: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n_cells,) whether the majority of a cell's nearest other cells has its label.

    With one label a cell, the mean is micro-F1 (as MIDAS reports it).

    Parameters
    ----------
    near
        (n_cells, k) neighbours of each cell.
    labels
        (n_cells,)
    """
    names, codes = np.unique(labels, return_inverse=True)
    votes = (codes[near][:, :, None] == np.arange(len(names))).sum(1)
    return votes.argmax(1) == codes


def graph_clusters(n_cells: int, edges: np.ndarray, weights: np.ndarray, seed: int) -> list[np.ndarray]:
    """Leiden clusters of a weighted graph, for each of the resolutions that every embedding is given."""
    graph = igraph.Graph(n=n_cells, edges=edges)
    igraph.set_random_number_generator(random.Random(seed))
    options = {"objective_function": "modularity", "n_iterations": 3, "weights": weights}
    return [np.array(graph.community_leiden(resolution=r, **options).membership) for r in RESOLUTIONS]


def _of_graph(task: Task, edges: pd.DataFrame) -> Measure:
    """ARI and NMI of Leiden on the method's own graph, and micro-F1 by its edges' weights."""
    cells = task.split.mosaic.obs_names
    place = pd.Series(np.arange(len(cells)), index=cells)
    pairs = np.stack([place.loc[edges["cell"]].to_numpy(), place.loc[edges["other"]].to_numpy()], 1)
    use = known(task, cells)
    clusters = [part[use] for part in graph_clusters(len(cells), pairs, edges["weight"].to_numpy(), task.seed)]
    weights = sparse.coo_matrix((edges["weight"], pairs.T), shape=(len(cells), len(cells)))
    weights = (weights + weights.T).tocsr()

    def measure(types: pd.Series) -> dict[str, float]:
        labels = types.loc[cells].to_numpy()
        names, codes = np.unique(labels, return_inverse=True)
        at = (np.arange(len(cells)), codes)
        inside = sparse.csr_matrix((np.ones(len(cells)), at), shape=(len(cells), len(names)))
        votes = np.asarray((weights @ inside).todense())
        best = metrics.best_clusters(clusters, labels[use])
        return {"ari": best["ari"], "nmi": best["nmi"], "micro_f1": float((votes.argmax(1) == codes)[use].mean())}

    return measure


EXPERIMENTS: dict[int, Callable[[Task, Result, Any], dict[str, float]]] = {
    1: _unpaired,
    2: _sources,
    3: _imputation,
    4: _without_type,
    5: _trimodal,
}
"""Experiment to what scores it."""
