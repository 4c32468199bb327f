"""Which splits an experiment asks for, and which methods run on each (Ashuach et al. 2023, Figures 2 to 5)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import mudata
import pandas as pd

from multivi_nf.benchmark.splits import (
    Cells,
    Split,
    build_mosaic,
    presence_patterns,
    random_unpairing,
    strict_unpairing,
    type_without,
)
from multivi_nf.benchmark.task import (
    SHUFFLED_PAIRS,
    Task,
    common_cells,
    complete_cells,
    counted,
    modalities_of,
    write_task,
)
from multivi_nf.benchmark.trimodal import small_world, trimodal_cells
from multivi_nf.errors import InputError
from multivi_nf.evaluation.controls import shuffle_pairs
from multivi_nf.inputs.labels import label_text, unlabelled
from multivi_nf.io.files import written_whole
from multivi_nf.io.hdf5 import reading
from multivi_nf.io.limits import read_tsv
from multivi_nf.io.tables import write_table
from multivi_nf.modalities import MODALITIES

METHODS = {
    "multivi-nf": (1, 2, 3, 4, 5),
    "scvi-multivi": (1, 2, 3, 4),
    "totalvi": (5,),
    "cobolt": (1, 2, 4, 5),
    "seurat-activity": (1, 2, 4),
    "seurat-imputed": (1, 2, 4),
    "seurat-wnn": (1, 2),
    "mofa": (1, 2, 5),
    "wnn": (5,),
    "midas": (1, 2, 3, 4, 5),
    "ridge": (1, 3, 4),
    "pca-knn": (1, 3, 4),
    "depth": (1, 3),
    "ceiling": (3,),
    "ablation": (1,),
    "shuffled": (1,),
}
"""Every method, and the experiments that it can take part in. `ablation` stands for the variants of ours, `shuffled`
for every method once more, on pairs that were shuffled."""

SETS_OF_RUNS = ("ablation", "shuffled")

OPTIONAL = ("midas",)
"""Not meant by `all`: its package holds older torch than the peers' environment, and 1,000 epochs want a GPU."""

CONTROLS = ("depth", "ceiling")
"""Not compared for the best: they look, or know nothing but depth."""

ABLATION = {
    "multivi-nf: weighted": {"fusion": "weighted"},
    "multivi-nf: cell-weighted": {"fusion": "cell-weighted"},
    "multivi-nf: poe": {"fusion": "poe"},
    "multivi-nf: mopoe": {"fusion": "mopoe"},
    "multivi-nf: mmd": {"alignment": "mmd"},
    "multivi-nf: no alignment": {"alignment": "none"},
    "multivi-nf: no adversary": {"adversary": "none"},
}
"""Variants of ours in experiment 1; the defaults are the mean."""

ABLATION_RATE = 75
PAIRED = 0.25
"""Share of pairs in experiments 3 and 4."""

LEAST = 30
"""Cells of a type below which its log fold changes say little."""

NO_LABEL = "unlabelled"
SCVI_DEFAULTS = "scvi-multivi: defaults"
FEWEST_SIMULATED, MOST_SIMULATED = 400, 1500
"""Cells with all three modalities that experiment 5 simulates; between them as many as the run has."""

PATTERNS: dict[str, list[tuple[str, ...]]] = {
    "complete": [MODALITIES],
    "7 patterns": [p for n in (1, 2, 3) for p in combinations(MODALITIES, n)],
    "no trimodal cell": [p for n in (1, 2) for p in combinations(MODALITIES, n)],
    "pairs only": list(combinations(MODALITIES, 2)),
    "rna+atac, atac+protein": [("rna", "atac"), ("atac", "protein")],
    "one modality each": [(m,) for m in MODALITIES],
}


@dataclass(frozen=True)
class Wanted:
    """What the parameters ask for: experiments, methods, unpaired rates (percent), seeds, types of experiment 4."""

    experiments: tuple[int, ...] = (1, 2, 3, 4, 5)
    methods: tuple[str, ...] = tuple(METHODS)
    rates: tuple[float, ...] = (0, 25, 50, 75, 90, 99)
    seeds: tuple[int, ...] = (0, 1, 2)
    most_types: int = 0


def chosen_methods(names: tuple[str, ...]) -> tuple[str, ...]:
    """The methods of these names, in the tables' order; `all` is every one but `OPTIONAL`.

    Raises
    ------
    InputError
        A name is none of them.
    """
    unknown = [name for name in names if name not in METHODS and name != "all"]
    if unknown:
        raise InputError(
            f"--methods names {', '.join(unknown)}",
            "there is no such method",
            f"name some of {', '.join(METHODS)}, or all",
        )
    return tuple(name for name in METHODS if name in names or ("all" in names and name not in OPTIONAL))


def labels_of(mosaic: mudata.MuData, column: str) -> pd.Series:
    """Cell type of each cell as text; `NO_LABEL` where it has none.

    Raises
    ------
    InputError
        There is no such column.
    """
    if column not in mosaic.obs:
        raise InputError(
            f"--labels {column}: the mosaic's cells have no such column",
            "experiments 4 and 5 and the purity of types need the cells' types",
            f"name one of {', '.join(sorted(map(str, mosaic.obs.columns)))}, or leave --labels out",
        )
    return label_text(mosaic.obs[column]).mask(unlabelled(mosaic.obs[column]), NO_LABEL).astype(str)


def not_possible(mosaic: mudata.MuData, labels: pd.Series | None, wanted: Wanted) -> dict[int, str]:
    """Experiment to the reason why these data cannot repeat it."""
    reasons: dict[int, str] = {}
    pairs = common_cells(mosaic, ("rna", "atac"))
    for experiment in wanted.experiments:
        if experiment in (1, 3, 4) and len(pairs) < 2 * LEAST:
            reasons[experiment] = f"it hides parts of cells measured in RNA and ATAC; there are {len(pairs)}"
        elif experiment == 4 and not _types(labels, pairs):
            reasons[experiment] = f"it needs --labels with two types of at least {LEAST} paired cells"
    return reasons


def tasks(mosaic: mudata.MuData, labels: pd.Series | None, wanted: Wanted) -> Iterator[Task]:
    """Every split that can be made, in the order of experiments; see :func:`not_possible` for the others."""
    impossible = not_possible(mosaic, labels, wanted)
    data = _Data(mosaic, labels, wanted)
    makers = {1: _unpaired, 2: _sources, 3: _imputation, 4: _without_type, 5: _trimodal}
    for experiment in wanted.experiments:
        if experiment in impossible:
            continue
        # what does not depend on the draw is run once
        for seed in wanted.seeds if experiment != 2 else wanted.seeds[:1]:
            for task in makers[experiment](data, seed):
                task.methods = tuple(m for m in wanted.methods if experiment in METHODS[m] and _fits(m, task))
                if task.labels is None and labels is not None:
                    task.labels = labels.reindex(task.split.origin).set_axis(task.split.origin.index)
                yield task


def _fits(method: str, task: Task) -> bool:
    """WNN and totalVI with PeakVI take complete cells only."""
    return method not in SETS_OF_RUNS and (method not in ("wnn", "totalvi") or task.name.endswith("complete"))


def _types(labels: pd.Series | None, cells: pd.Index) -> list[str]:
    if labels is None:
        return []
    sizes = labels.reindex(cells).value_counts()
    found = [str(name) for name in sizes.index[sizes >= LEAST] if name != NO_LABEL]
    return found if len(found) > 1 else []


@dataclass(frozen=True)
class _Data:
    """What splits are made of."""

    mosaic: mudata.MuData
    labels: pd.Series | None
    wanted: Wanted

    @functools.cached_property
    def pairs(self) -> Cells:
        """Cells measured in RNA and ATAC."""
        return complete_cells(self.mosaic, ("rna", "atac"))


def _unpaired(data: _Data, seed: int) -> Iterator[Task]:
    for rate in data.wanted.rates:
        split = random_unpairing(data.pairs, 1 - rate / 100, seed=seed, labels=data.labels)
        variants = ABLATION if rate == ABLATION_RATE and "ablation" in data.wanted.methods else {}
        yield Task(1, f"{rate:g}% unpaired", seed, split, variants=variants)
        if rate == ABLATION_RATE and "shuffled" in data.wanted.methods:
            wrong = Split(shuffle_pairs(split.mosaic, seed=seed), split.origin, split.modalities)
            yield Task(1, f"{rate:g}% unpaired, {SHUFFLED_PAIRS}", seed, wrong)


def _sources(data: _Data, seed: int) -> Iterator[Task]:
    mosaic, held = data.mosaic, modalities_of(data.mosaic)
    shown = [(cell, cell, tuple(m for m in held if mosaic.obs.at[cell, f"has_{m}"])) for cell in mosaic.obs_names]
    yield Task(2, "all sources", seed, build_mosaic({m: counted(mosaic, m) for m in held}, shown))


def _imputation(data: _Data, seed: int) -> Iterator[Task]:
    split = strict_unpairing(data.pairs, PAIRED, seed=seed, labels=data.labels)
    hidden = {"rna": split.views("atac"), "atac": split.views("rna")}
    yield Task(3, f"{100 * (1 - PAIRED):g}% unpaired", seed, split, hidden=hidden)


def _without_type(data: _Data, seed: int) -> Iterator[Task]:
    if data.labels is None:
        return
    base = random_unpairing(data.pairs, PAIRED, seed=seed, labels=data.labels)
    types = _types(data.labels, data.pairs["rna"].obs_names)
    for target in types[: data.wanted.most_types or None]:
        for modality, source in (("rna", "atac"), ("atac", "rna")):
            split = type_without(base, data.pairs, data.labels, target, modality)
            hidden = {modality: split.views(source)}
            yield Task(4, f"{target} without {modality}", seed, split, hidden=hidden, target=target)


def _trimodal(data: _Data, seed: int) -> Iterator[Task]:
    mosaic, labels = data.mosaic, data.labels
    size = int(min(max(mosaic.n_obs, FEWEST_SIMULATED), MOST_SIMULATED))
    sources = [("simulated", *trimodal_cells(small_world(size, seed)))]
    if modalities_of(mosaic) == MODALITIES and labels is not None:
        real = complete_cells(mosaic, MODALITIES)
        sources += [("", real, labels)] if len(real["rna"]) >= 2 * LEAST else []
    for dataset, complete, types in sources:
        for name, patterns in PATTERNS.items():
            split = presence_patterns(complete, patterns, seed=seed)
            own = types.reindex(split.origin).set_axis(split.origin.index).astype(str)
            prefix = f"{dataset} " if dataset else ""
            yield Task(5, prefix + name, seed, split, own, dataset=dataset)


COLUMNS = ("experiment", "split", "seed", "method", "folder", "why")


def write_plan(mosaic: mudata.MuData, column: str | None, wanted: Wanted, folder: Path) -> pd.DataFrame:
    """Write a folder for each split, and `plan.tsv`: a row for each method on each split, or why there is none.

    Returns
    -------
    The plan: `experiment`, `split`, `seed`, `method`, `folder`, `why` (empty where it runs).
    """
    labels = None if column is None else labels_of(mosaic, column)
    rows: list[tuple[int, str, int | str, str, str, str]] = []
    with written_whole(folder) as place:
        place.mkdir()
        for task in tasks(mosaic, labels, wanted):
            write_task(task, place / task.folder)
            rows += [(task.experiment, task.name, task.seed, name, task.folder, "") for name in runs_of(task)]
        for experiment, why in not_possible(mosaic, labels, wanted).items():
            lacking = [m for m in wanted.methods if experiment in METHODS[m] and m not in SETS_OF_RUNS]
            rows += [(experiment, "", "", m, "", why) for m in lacking]
        plan = pd.DataFrame(rows, columns=COLUMNS)
        write_table(plan, place / "plan.tsv", gaps="", digits=None)
    return plan


def runs_of(task: Task) -> list[str]:
    """Methods of a split, and their variants."""
    users = [SCVI_DEFAULTS] if task.defaults and "scvi-multivi" in task.methods else []
    return [*task.methods, *task.variants, *users]


def planned(plans: Sequence[Path], methods: tuple[str, ...]) -> pd.DataFrame:
    """The rows of several plans that are of these methods.

    Raises
    ------
    InputError
        None of the experiments can be done.
    """
    rows = pd.concat([_read_plan(plan) for plan in plans])
    rows = rows.drop_duplicates(ignore_index=True)
    if (rows["why"] != "").all():
        reasons = "; ".join(f"experiment {k}: {why}" for k, why in dict(zip(rows["experiment"], rows["why"])).items())
        raise InputError(
            f"none of the experiments can be done on these cells ({reasons})",
            "there would be no result",
            "give paired cells, and the column of their types with --labels",
        )
    asked = rows["method"].map(lambda run: _asked(run, methods))
    control = rows["split"].str.endswith(SHUFFLED_PAIRS)
    return rows[asked & (~control | ("shuffled" in methods))]


def _read_plan(path: Path) -> pd.DataFrame:
    with reading(path):
        kinds = dict.fromkeys(("split", "seed", "method", "folder", "why"), str)
        rows = read_tsv(path, keep_default_na=False, dtype=kinds)[list(COLUMNS)]
        if rows["experiment"].dtype.kind != "i" or not rows.loc[rows["why"] == "", "seed"].str.isdecimal().all():
            raise ValueError("numbers of experiments or seeds are none")
        return rows


def _asked(run: str, methods: tuple[str, ...]) -> bool:
    return ("ablation" if run in ABLATION else run.split(":")[0]) in methods
