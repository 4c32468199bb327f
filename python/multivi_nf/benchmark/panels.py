"""What is drawn of one result: small numbers, so that the page needs no cell by feature values."""

from __future__ import annotations

from typing import Any

import numpy as np

from multivi_nf.benchmark.baselines import profiles
from multivi_nf.benchmark.result import Result
from multivi_nf.benchmark.scores import FoldChanges, Truth, whole_views
from multivi_nf.benchmark.scoring import Hidden
from multivi_nf.benchmark.task import Task
from multivi_nf.benchmark.uncertainty import curve

MOST_POINTS = 1500


def panel(task: Task, result: Result, truth: Truth) -> dict[str, Any]:
    """Points and curves of one result: a map (experiment 2), risk against coverage (3), fold changes (4)."""
    if task.experiment == 2 and result.views is not None:
        return _map(task, result)
    if task.experiment == 3:
        return _risk(task, result, truth)
    return _folds(truth) if task.experiment == 4 else {}


def _drawn(n: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(n)[:MOST_POINTS])


def _map(task: Task, result: Result) -> dict[str, Any]:
    from umap import UMAP

    joint = whole_views(task, result.views).joint
    joint = joint.iloc[_drawn(len(joint))]
    place = UMAP(random_state=task.seed, n_jobs=1).fit_transform(joint.to_numpy())
    found = {
        "x": [round(float(v), 3) for v in place[:, 0]],
        "y": [round(float(v), 3) for v in place[:, 1]],
        "source": task.split.mosaic.obs["batch"].astype(str).loc[joint.index].tolist(),
        "modality": task.split.modalities.loc[joint.index].tolist(),
    }
    return found | ({} if task.labels is None else {"label": task.labels.loc[joint.index].tolist()})


def _risk(task: Task, result: Result, truth: dict[str, Hidden]) -> dict[str, Any]:
    found = {}
    for modality, imputed in result.imputed.items():
        if imputed.sd is None:
            continue
        hidden, features = truth[modality], task.split.mosaic[modality].var_names
        values, sd = (x.loc[hidden.cells, features].to_numpy(np.float64) for x in (imputed.values, imputed.sd))
        error = np.abs(values - profiles(modality, hidden.counts).toarray())
        of_mean = curve(np.sqrt(np.maximum(values, 0)), error)
        found[modality] = {"sd": curve(sd, error), "mean": of_mean, "error": float(error.mean())}
    return found


def _folds(truth: FoldChanges) -> dict[str, Any]:
    shown = _drawn(truth.truth.size)
    return {
        "truth": [round(float(v), 3) for v in truth.truth[shown]],
        "estimate": [round(float(v), 3) for v in truth.estimated[shown]],
    }
