"""One split of an experiment, on disk: what a method may see, and what the scores need besides."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import mudata
import pandas as pd

from multivi_nf.benchmark.splits import Split
from multivi_nf.io.files import written_whole
from multivi_nf.io.h5mu import read_h5mu
from multivi_nf.io.limits import read_object, read_tsv
from multivi_nf.io.tables import write_table
from multivi_nf.modalities import in_order

LABEL = "label"
"""Column of obs of the cells' types, where the samplesheet's column was named; no method but a contrast looks at it."""

SHUFFLED_PAIRS = "shuffled pairs"
"""Ends the name of a split whose pairs are no pairs: a control, which no method can tell."""


@dataclass
class Task:
    """A split and what is asked of a method on it.

    Attributes
    ----------
    experiment
        1 to 5, as the MultiVI paper numbers them.
    name
        Of the split, such as `75% unpaired`.
    seed
        Of the split and of the methods.
    split
        What is shown.
    labels
        Cell type of each cell or view; None where no column was named.
    hidden
        Modality to the cells whose values a method has to fill in.
    target
        The label that lacks a modality (experiment 4).
    methods
        Which run on it.
    variants
        Name of a variant of ours to the options that it is trained with (experiment 1, the fusion ablation).
    dataset
        `simulated` where the cells are not the run's own.
    """

    experiment: int
    name: str
    seed: int
    split: Split
    labels: pd.Series | None = None
    hidden: dict[str, pd.Index] = field(default_factory=dict)
    target: str | None = None
    methods: tuple[str, ...] = ()
    variants: dict[str, dict[str, str]] = field(default_factory=dict)
    dataset: str = ""

    @property
    def types(self) -> pd.Series:
        """The labels, asked for only where there are some."""
        if self.labels is None:
            msg = f"{self.name} has no labels"
            raise ValueError(msg)
        return self.labels

    @property
    def defaults(self) -> bool:
        """Whether scvi-tools also runs as users run it: where pairing and mixing are scored."""
        return self.experiment == 1 and not self.name.endswith(SHUFFLED_PAIRS)

    @property
    def folder(self) -> str:
        """Name of its folder: letters, digits, dots, dashes and underscores."""
        plain = re.sub(r"[^A-Za-z0-9]+", "_", self.name)
        # two types may differ in signs only
        return f"{self.experiment}.{plain}.{hashlib.sha256(self.name.encode()).hexdigest()[:6]}.{self.seed}"


def write_task(task: Task, folder: Path) -> None:
    """Write `task.json`, `mosaic.h5mu`, `cells.tsv` (name, origin, modalities, label) and `hidden/<modality>.txt`."""
    folder.mkdir(parents=True)
    about = {"experiment": task.experiment, "name": task.name, "seed": task.seed, "target": task.target}
    about |= {"methods": list(task.methods), "variants": task.variants, "hidden": sorted(task.hidden)}
    about |= {"dataset": task.dataset, "defaults": task.defaults}
    (folder / "task.json").write_text(json.dumps(about, indent=1) + "\n")
    table = pd.DataFrame({"origin": task.split.origin, "modalities": task.split.modalities})
    if task.labels is not None:
        table[LABEL] = task.labels
        if task.target is not None:
            task.split.mosaic.obs[LABEL] = task.labels.reindex(task.split.mosaic.obs_names).to_numpy()
    write_table(table.rename_axis("name"), folder / "cells.tsv", index=True, gaps="", digits=None)
    for modality, cells in task.hidden.items():
        (folder / "hidden").mkdir(exist_ok=True)
        (folder / "hidden" / f"{modality}.txt").write_text("".join(f"{cell}\n" for cell in cells))
    with written_whole(folder / "mosaic.h5mu") as temporary:  # a full disk is told, not HDF5's last words
        task.split.mosaic.write_h5mu(temporary)


def read_task(folder: Path) -> Task:
    """Read what :func:`write_task` wrote."""
    about = read_object(folder / "task.json")
    table = read_tsv(folder / "cells.tsv", index_col="name", dtype=str, keep_default_na=False)
    hidden = {
        modality: pd.Index((folder / "hidden" / f"{modality}.txt").read_text().splitlines())
        for modality in about["hidden"]
    }
    split = Split(read_h5mu(folder / "mosaic.h5mu"), table["origin"], table["modalities"])
    labels = table[LABEL] if LABEL in table else None
    named = {key: about[key] for key in ("experiment", "name", "seed", "target", "variants", "dataset")}
    return Task(split=split, labels=labels, hidden=hidden, methods=tuple(about["methods"]), **named)


def complete_cells(mosaic: mudata.MuData, shown: tuple[str, ...]) -> dict[str, anndata.AnnData]:
    """Modality to the cells that were measured in all of `shown`, counts in X, in the mosaic's order."""
    common = common_cells(mosaic, shown)
    return {modality: counted(mosaic, modality, common) for modality in shown}


def common_cells(mosaic: mudata.MuData, shown: tuple[str, ...]) -> pd.Index:
    """Names of the cells that were measured in all of `shown`, in the mosaic's order; none where one is not held."""
    if not set(shown) <= set(mosaic.mod):
        return mosaic.obs_names[:0]
    common = mosaic.obs_names
    for modality in shown:
        common = common.intersection(mosaic[modality].obs_names, sort=False)
    return common


def counted(mosaic: mudata.MuData, modality: str, cells: pd.Index | None = None) -> anndata.AnnData:
    """One modality with counts in X (of ATAC the fragments, where the mosaic has them), and `batch`."""
    part = mosaic[modality] if cells is None else mosaic[modality][cells]
    counts = part.layers["counts"] if "counts" in part.layers else part.X
    batch = mosaic.obs["batch"].reindex(part.obs_names).astype(str)
    return anndata.AnnData(counts.copy(), batch.to_frame(), part.var.copy())


def modalities_of(mosaic: mudata.MuData) -> tuple[str, ...]:
    """Those that the mosaic holds, in the one order."""
    return tuple(in_order(mosaic.mod))
