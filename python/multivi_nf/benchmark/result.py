"""What a method says of a split, the same files from every method: `run.json`, `latent.npz`, `imputed_<modality>.npz`.

The peers' programs write these without this package, so they are plain arrays: names as text, values as float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from multivi_nf.benchmark.scoring import Views
from multivi_nf.io.limits import read_object
from multivi_nf.io.tables import write_table


@dataclass
class Imputed:
    """Values of hidden cells.

    Attributes
    ----------
    values
        (n_cells, n_features) frame: shares of expression, probabilities of peaks, counts of proteins.
    sd
        The same of the posterior standard deviation; None where a method has none.
    """

    values: pd.DataFrame
    sd: pd.DataFrame | None = None


@dataclass
class Result:
    """What one method made of one split.

    Attributes
    ----------
    views
        Its embedding; None where it has none, as a mean profile.
    imputed
        Modality to values of the hidden cells.
    effects
        Table `feature`, `lfc`, `significant` of the contrast of experiment 4; None where it has no test.
    edges
        Table `cell`, `other`, `weight` of its neighbour graph, where that is what the method gives (WNN).
    about
        Settings and versions.
    """

    views: Views | None = None
    imputed: dict[str, Imputed] = field(default_factory=dict)
    effects: pd.DataFrame | None = None
    edges: pd.DataFrame | None = None
    about: dict[str, object] = field(default_factory=dict)


def write_result(result: Result, folder: Path) -> None:
    """Write a result to an existing folder."""
    if result.views is not None:
        arrays = {"joint": result.views.joint, **result.views.by_modality}
        if result.views.variance is not None:
            arrays["variance"] = result.views.variance
        stored: dict[str, Any] = {name: frame.to_numpy(np.float32) for name, frame in arrays.items()}
        stored |= {f"{name}_cells": _names(frame.index) for name, frame in arrays.items()}
        np.savez(folder / "latent.npz", **stored)
    for modality, imputed in result.imputed.items():
        values = imputed.values
        stored = {"values": values.to_numpy(np.float32), "cells": _names(values.index), "features": _names(values)}
        if imputed.sd is not None:
            stored["sd"] = imputed.sd.to_numpy(np.float32)
        np.savez_compressed(folder / f"imputed_{modality}.npz", **stored)
    for name, table in (("effects", result.effects), ("edges", result.edges)):
        if table is not None:
            write_table(table, folder / f"{name}.tsv", gaps="", digits=None)
    (folder / "run.json").write_text(json.dumps(result.about, indent=1, sort_keys=True) + "\n")


def read_result(folder: Path) -> Result:
    """Read what a method wrote; the settings hold `failed` where it could not."""
    result = Result(about=read_object(folder / "run.json"))
    if not isinstance(result.about.get("method"), str):
        raise ValueError("run.json names no method")
    if (folder / "latent.npz").is_file():
        with np.load(folder / "latent.npz", allow_pickle=False) as held:
            frames = {
                name: pd.DataFrame(held[name], index=held[f"{name}_cells"].astype(str))
                for name in held.files
                if not name.endswith("_cells")
            }
        joint, variance = frames.pop("joint"), frames.pop("variance", None)
        result.views = Views(joint, frames, variance)
    if (folder / "latent.tsv").is_file():  # R writes tables
        result.views = Views(pd.read_csv(folder / "latent.tsv", sep="\t", index_col="name"), {})
    if (folder / "imputed.tsv.gz").is_file():
        result.imputed["rna"] = Imputed(pd.read_csv(folder / "imputed.tsv.gz", sep="\t", index_col="name"))
    for path in sorted(folder.glob("imputed_*.npz")):
        with np.load(path, allow_pickle=False) as held:
            shape = {"index": held["cells"].astype(str), "columns": held["features"].astype(str)}
            sd = pd.DataFrame(held["sd"], **shape) if "sd" in held else None
            result.imputed[path.stem.removeprefix("imputed_")] = Imputed(pd.DataFrame(held["values"], **shape), sd)
    for name in ("effects", "edges"):
        if (folder / f"{name}.tsv").is_file():
            setattr(result, name, pd.read_csv(folder / f"{name}.tsv", sep="\t"))
    return result


def _names(index: Iterable[object]) -> np.ndarray:
    return np.array(list(index), dtype="U")
