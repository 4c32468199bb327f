"""What is drawn of one result: small numbers, so that the page needs no cell by feature values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from multivi_nf.benchmark.baselines import profiles
from multivi_nf.benchmark.result import Result
from multivi_nf.benchmark.scores import FoldChanges, Truth, whole_views
from multivi_nf.benchmark.scoring import Hidden
from multivi_nf.benchmark.task import Task
from multivi_nf.benchmark.uncertainty import curve
from multivi_nf.io.records import left_out
from multivi_nf.latent.annotate import kept_compilations

MOST_POINTS = 1500


@dataclass
class Risk:
    """Mean error of the surest share of the entries (share, error), by sd and by the root of the mean; of all."""

    sd: list[tuple[float, ...]]
    mean: list[tuple[float, ...]]
    error: float


@dataclass
class Drawn:
    """Of a map the places and what cells are coloured by (2), risk against coverage (3), or fold changes (4)."""

    x: list[float] = left_out([])
    y: list[float] = left_out([])
    source: list[str] = left_out([])
    modality: list[str] = left_out([])
    label: list[str] = left_out([])
    rna: Risk | None = left_out()
    atac: Risk | None = left_out()
    truth: list[float] = left_out([])
    estimate: list[float] = left_out([])


@dataclass
class Identity:
    """Which split."""

    experiment: int
    name: str
    seed: int
    target: str | None


@dataclass
class Panel:
    """`panel.json`: method, version and settings of a result, its split, and what is drawn of it."""

    about: dict[str, object]
    split: Identity
    panel: Drawn

    @property
    def method(self) -> str:
        """Whose result it is."""
        return str(self.about["method"])


def panel(task: Task, result: Result, truth: Truth) -> Drawn:
    """Points and curves of one result: a map (experiment 2), risk against coverage (3), fold changes (4)."""
    if task.experiment == 2 and result.views is not None:
        return _map(task, result)
    if isinstance(truth, FoldChanges):
        return _folds(truth)
    return _risk(task, result, truth) if truth is not None else Drawn()


def _drawn(n: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(n)[:MOST_POINTS])


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(v), 3) for v in values]


def _map(task: Task, result: Result) -> Drawn:
    with kept_compilations():  # else 10 s of every map go into compiling
        from umap import UMAP

    joint = whole_views(task, result.views).joint
    joint = joint.iloc[_drawn(len(joint))]
    place = UMAP(random_state=task.seed, n_jobs=1).fit_transform(joint.to_numpy())
    return Drawn(
        x=_rounded(place[:, 0]),
        y=_rounded(place[:, 1]),
        source=task.split.mosaic.obs["batch"].astype(str).loc[joint.index].tolist(),
        modality=task.split.modalities.loc[joint.index].tolist(),
        label=[] if task.labels is None else task.labels.loc[joint.index].tolist(),
    )


def _risk(task: Task, result: Result, truth: dict[str, Hidden]) -> Drawn:
    found = Drawn()
    for modality, imputed in result.imputed.items():
        if imputed.sd is None:
            continue
        hidden, features = truth[modality], task.split.mosaic[modality].var_names
        values, sd = (x.loc[hidden.cells, features].to_numpy(np.float64) for x in (imputed.values, imputed.sd))
        error = np.abs(values - profiles(modality, hidden.counts).toarray())
        of_mean = curve(np.sqrt(np.maximum(values, 0)), error)
        setattr(found, modality, Risk(curve(sd, error), of_mean, float(error.mean())))
    return found


def _folds(truth: FoldChanges) -> Drawn:
    shown = _drawn(truth.truth.size)
    return Drawn(truth=_rounded(truth.truth[shown]), estimate=_rounded(truth.estimated[shown]))
