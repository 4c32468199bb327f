"""What is drawn of one result: small numbers, so that the page needs no cell by feature values."""

from __future__ import annotations

from typing import Any

import mudata
import numpy as np
import pandas as pd

from multivi_nf.benchmark.baselines import profiles
from multivi_nf.benchmark.result import Result
from multivi_nf.benchmark.scores import OTHER, log_fold_change, whole_views
from multivi_nf.benchmark.scoring import hidden_truth
from multivi_nf.benchmark.task import Task, counted, modalities_of
from multivi_nf.benchmark.uncertainty import curve

MOST_POINTS = 1500


def panel(task: Task, result: Result, mosaic: mudata.MuData) -> dict[str, Any]:
    """Points and curves of one result: a map (experiment 2), risk against coverage (3), fold changes (4)."""
    if task.experiment == 2 and result.views is not None:
        return _map(task, result)
    if task.experiment == 3:
        return _risk(task, result, mosaic)
    if task.experiment == 4:
        return _folds(task, result, mosaic)
    return {}


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


def _risk(task: Task, result: Result, mosaic: mudata.MuData) -> dict[str, Any]:
    complete = {m: counted(mosaic, m) for m in modalities_of(task.split.mosaic)}
    found = {}
    for modality, imputed in result.imputed.items():
        if imputed.sd is None:
            continue
        hidden = hidden_truth(task.split, complete, modality, OTHER[modality])
        values = imputed.values.loc[hidden.cells].to_numpy(np.float64)
        error = np.abs(values - profiles(modality, hidden.counts).toarray())
        sd = imputed.sd.loc[hidden.cells].to_numpy(np.float64)
        of_mean = curve(np.sqrt(np.maximum(values, 0)), error)
        found[modality] = {"sd": curve(sd, error), "mean": of_mean, "error": float(error.mean())}
    return found


def _folds(task: Task, result: Result, mosaic: mudata.MuData) -> dict[str, Any]:
    ((modality, imputed),) = result.imputed.items()
    values = imputed.values
    target = (task.labels.loc[values.index] == task.target).to_numpy()
    estimated = log_fold_change(values.to_numpy()[target], values.to_numpy()[~target])
    origins = pd.Index(task.split.origin).unique()
    share = profiles(modality, counted(mosaic, modality, origins)[:, values.columns].X)
    own = task.labels.groupby(task.split.origin).first().loc[origins].to_numpy() == task.target
    truth = log_fold_change(share[own], share[~own])
    shown = _drawn(truth.size)
    return {
        "truth": [round(float(v), 3) for v in truth[shown]],
        "estimate": [round(float(v), 3) for v in estimated[shown]],
    }
