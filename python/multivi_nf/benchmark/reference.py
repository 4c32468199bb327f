"""Methods that live here: what needs no model, and Cobolt. Each takes a task and gives a result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from multivi_nf.benchmark.baselines import Bridge, mean_profile, own_modality_ceiling
from multivi_nf.benchmark.result import Imputed, Result
from multivi_nf.benchmark.scoring import Views
from multivi_nf.benchmark.splits import Cells
from multivi_nf.benchmark.task import Task
from multivi_nf.evaluation.spaces import neighbour_mean

NEIGHBOURS = 50
OTHER = {"rna": "atac", "atac": "rna"}


def run_reference(method: str, task: Task, complete: Cells | None = None) -> Result:
    """Run a method of this package on a task.

    Parameters
    ----------
    method
        A key of `REFERENCE`.
    task
        The split.
    complete
        Modality to the complete cells; only the ceiling looks at them.

    Raises
    ------
    ValueError
        The task cannot be done by the method, for example without pairs: the reason becomes its row.
    """
    return REFERENCE[method](task, complete)


def _bridge(task: Task) -> Bridge:
    bridge = Bridge(task.split)
    if len(bridge.paired) < 10:
        msg = f"it learns from pairs, and there are {len(bridge.paired)}"
        raise ValueError(msg)
    return bridge


def _joint(bridge: Bridge, predicted: np.ndarray, lone: pd.Index, task: Task) -> Views:
    """RNA's own space, into which the cells that show ATAC alone were predicted."""
    width = predicted.shape[1]
    own = bridge.spaces["rna"]
    placed = pd.DataFrame(predicted, index=lone, columns=own.columns[:width])
    joint = pd.concat([own.loc[own.index.difference(lone, sort=False)], placed])
    return Views(joint.loc[task.split.mosaic.obs_names], {})


def _ridge(task: Task, _complete: Cells | None) -> Result:
    bridge = _bridge(task)
    lone = task.split.views("atac")
    if not task.hidden:
        predicted = bridge.ridge("atac", "rna", lone) if len(lone) else np.empty((0, bridge.spaces["rna"].shape[1]))
        return Result(_joint(bridge, predicted, lone, task), about={"settings": "LSI to PCA, 30 each, penalty by LOO"})
    makers = {"rna": bridge.ridge_rna, "atac": bridge.ridge_atac}
    found = {m: _frame(makers[m](cells), cells, task, m) for m, cells in task.hidden.items()}
    return Result(imputed=found, about={"settings": "LSI to PCA, 30 each, penalty by LOO"})


def _pca_knn(task: Task, _complete: Cells | None) -> Result:
    bridge = _bridge(task)
    lone = task.split.views("atac")
    about: dict[str, object] = {"settings": f"{NEIGHBOURS} nearest paired cells in the shown modality's own space"}
    if not task.hidden:
        points, to = bridge.spaces["atac"].loc[bridge.paired], bridge.spaces["rna"].loc[bridge.paired]
        if not len(lone):
            return Result(Views(bridge.spaces["rna"].loc[task.split.mosaic.obs_names], {}), about=about)
        queries = bridge.spaces["atac"].loc[lone].to_numpy()
        placed = neighbour_mean(to.to_numpy(), points.to_numpy(), NEIGHBOURS, queries)
        return Result(_joint(bridge, placed, lone, task), about=about)
    found = {
        m: _frame(bridge.neighbours(OTHER[m], m, cells, NEIGHBOURS), cells, task, m) for m, cells in task.hidden.items()
    }
    return Result(imputed=found, about=about)


def _depth(task: Task, _complete: Cells | None) -> Result:
    if task.hidden:
        found = {
            m: _frame(np.tile(mean_profile(task.split, m), (len(cells), 1)), cells, task, m)
            for m, cells in task.hidden.items()
        }
        return Result(imputed=found, about={"settings": "mean profile of the cells that show the modality"})
    ranks = pd.Series(dtype=float)
    for m in ("atac", "rna"):  # RNA's depth where there is RNA
        part = task.split.mosaic[m]
        depth = pd.Series(np.asarray(part.X.sum(1)).ravel(), index=part.obs_names).rank(method="first") / part.n_obs
        ranks = depth.combine_first(ranks)
    joint = ranks.loc[task.split.mosaic.obs_names].to_frame()
    return Result(Views(joint, {}), about={"settings": "rank of a cell's depth, and nothing else"})


def _ceiling(task: Task, complete: Cells | None) -> Result:
    if complete is None:
        msg = "it looks at the whole mosaic (--complete), and none was given"
        raise ValueError(msg)
    found = {}
    for m, cells in task.hidden.items():
        features = task.split.mosaic[m].var_names
        origin = pd.Index(task.split.origin[cells])
        found[m] = _frame(own_modality_ceiling(complete, m, origin, features, NEIGHBOURS), cells, task, m)
    return Result(imputed=found, about={"settings": f"{NEIGHBOURS} nearest cells in the hidden modality itself"})


def _cobolt(task: Task, _complete: Cells | None) -> Result:
    from multivi_nf.benchmark.cobolt import Settings, fit_cobolt

    settings = Settings()
    latent = fit_cobolt(task.split.mosaic, settings, task.seed)
    result = Result(Views(latent, {}), about={"settings": repr(settings)})
    if task.hidden:
        result.imputed = neighbours_in(latent, task)
        result.about["imputation"] = f"{NEIGHBOURS} nearest cells that show the modality, in its latent space"
    return result


def neighbours_in(latent: pd.DataFrame, task: Task, k: int = NEIGHBOURS) -> dict[str, Imputed]:
    """Hidden values as the mean of the nearest cells that show them: for methods that have a space and no decoder."""
    from multivi_nf.benchmark.baselines import profiles

    found = {}
    for m, cells in task.hidden.items():
        shown = task.split.mosaic[m]
        values = profiles(m, shown.X)
        mean = neighbour_mean(values, latent.loc[shown.obs_names].to_numpy(), k, latent.loc[cells].to_numpy())
        found[m] = _frame(mean, cells, task, m)
    return found


def _frame(values: np.ndarray, cells: pd.Index, task: Task, modality: str) -> Imputed:
    return Imputed(pd.DataFrame(np.asarray(values), index=cells, columns=task.split.mosaic[modality].var_names))


REFERENCE: dict[str, Callable[[Task, Cells | None], Result]] = {
    "ridge": _ridge,
    "pca-knn": _pca_knn,
    "depth": _depth,
    "ceiling": _ceiling,
    "cobolt": _cobolt,
}
"""Method to what runs it."""
