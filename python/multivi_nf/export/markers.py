"""The features that mark each cluster, as measured and as imputed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
from scipy import sparse, stats

from multivi_nf.export.normalise import add_up, normalised_runs
from multivi_nf.io.hdf5 import reading
from multivi_nf.io.stores import open_store
from multivi_nf.io.tables import write_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    import zarr
    from mudata import MuData

TOP = 25
"""Features a cluster."""
LEVEL = 0.95
ENOUGH = 3
"""Cells on both sides below which a cluster has no markers."""
COLUMNS = (
    *("cluster", "rank", "feature", "symbol", "effect", "effect_lower", "effect_upper", "p", "fdr", "mean"),
    *("mean_rest", "fraction_expressing", "fraction_expressing_rest", "cells", "cells_rest"),
    *("imputed_effect", "imputed_effect_lower", "imputed_effect_upper", "imputed_mean"),
    *("imputed_mean_rest", "cells_imputed", "cells_imputed_rest"),
)


@dataclass
class Moments:
    """Of each group of cells and feature: number of cells, sum, sum of squares, cells above 0."""

    cells: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    above: np.ndarray

    @classmethod
    def empty(cls, groups: int, features: int) -> Moments:
        """Moments of no cells."""
        return cls(np.zeros(groups), *(np.zeros((groups, features)) for _ in range(3)))

    def add(self, values: sparse.csr_matrix | np.ndarray, groups: np.ndarray) -> None:
        """Add cells: (n, n_features) values and the number of each cell's group; -1 is in none."""
        own = groups >= 0
        values = sparse.csr_matrix(values[own], dtype=np.float64)
        self.cells += np.bincount(groups[own], minlength=len(self.cells))
        add_up(self.total, groups[own], values)
        values.data, positive = values.data**2, (values.data > 0).astype(float)
        add_up(self.squares, groups[own], values)
        values.data = positive
        add_up(self.above, groups[own], values)


def against_rest(moments: Moments, k: int) -> pd.DataFrame:
    """Welch's test of group k against all others, one row a feature.

    Returns
    -------
    `effect`, its interval, `p` (two-sided), `t`, `mean`, `mean_rest`, `fraction_expressing` (share of cells above 0),
    `fraction_expressing_rest`, `cells`, `cells_rest`; on the scale of the values. NaN with fewer than 3 cells.
    """
    n = np.array([moments.cells[k], moments.cells.sum() - moments.cells[k]])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, variance, above = [], [], []
        for count, part in zip(n, (lambda x: x[k], lambda x: x.sum(axis=0) - x[k])):
            mean.append(part(moments.total) / count)
            variance.append(np.maximum(part(moments.squares) / count - mean[-1] ** 2, 0) * count / (count - 1) / count)
            above.append(part(moments.above) / count)
        effect, error = mean[0] - mean[1], np.sqrt(variance[0] + variance[1])
        freedom = (variance[0] + variance[1]) ** 2 / (variance[0] ** 2 / (n[0] - 1) + variance[1] ** 2 / (n[1] - 1))
        t = np.where(error > 0, effect / error, 0.0)
        p = np.where(error > 0, 2 * stats.t.sf(np.abs(t), freedom), 1.0)
        reach = np.where(error > 0, stats.t.ppf(0.5 + LEVEL / 2, freedom) * error, 0.0)
    found = {"effect": effect, "effect_lower": effect - reach, "effect_upper": effect + reach, "p": p, "t": t}
    found |= {"mean": mean[0], "mean_rest": mean[1]}
    found |= {"fraction_expressing": above[0], "fraction_expressing_rest": above[1]}
    table = pd.DataFrame(found | {"cells": int(n[0]), "cells_rest": int(n[1])})
    if min(n) < ENOUGH:
        table[[c for c in table if not c.startswith("cells")]] = np.nan
    return table


def fdr(p: np.ndarray) -> np.ndarray:
    """False discovery rates of Benjamini & Hochberg (1995); NaN stays."""
    known = np.isfinite(p)
    result = np.full(len(p), np.nan)
    if known.any():
        result[known] = stats.false_discovery_control(p[known])
    return result


def markers(mosaic: MuData, modality: str, imputed: Path | None = None, top: int = TOP) -> pd.DataFrame:
    """Rank the features that are higher in a cluster than in the other cells.

    Effects are differences of mean log2(1 + x), x being the normalised value of
    :data:`multivi_nf.export.normalise.SCALES`, or what was imputed. Cells are the units: clusters were made from the
    same data and cells of a sample are alike, so intervals and FDR rank features and prove nothing; `differential/`
    tests with replicates.

    Parameters
    ----------
    mosaic
        With `obs["cluster"]`.
    modality
        "rna", "atac" or "protein".
    imputed
        Store of `impute`; its values of cells without this modality make the columns `imputed_*` (NaN without).
    top
        Features a cluster.

    Returns
    -------
    :data:`COLUMNS`; clusters in their order, by t within, only features that are higher in the cluster.
    """
    data = mosaic.mod[modality]
    clusters = mosaic.obs["cluster"].cat.categories
    codes = pd.Series(mosaic.obs["cluster"].cat.codes.to_numpy(), index=mosaic.obs_names)
    observed, own = Moments.empty(len(clusters), data.n_vars), codes.reindex(data.obs_names).to_numpy()
    for at, values in normalised_runs(data, modality):
        observed.add(values / np.float32(np.log(2)), own[at])
    guessed = _imputed(imputed, data.var_names, codes, len(clusters)) if imputed is not None else None
    symbol = (data.var["symbol"] if "symbol" in data.var else data.var_names.to_series()).astype(str).to_numpy()
    tables = []
    for k, cluster in enumerate(clusters):
        table = against_rest(observed, k)
        table["fdr"] = fdr(table["p"].to_numpy())
        table.insert(0, "cluster", cluster)
        table.insert(1, "feature", data.var_names.astype(str))
        table.insert(2, "symbol", symbol)
        best = table[table["effect"] > 0].sort_values(["t", "effect"], ascending=False, kind="stable").head(top).copy()
        best.insert(1, "rank", np.arange(1, len(best) + 1))
        other = against_rest(guessed, k) if guessed is not None else None
        for column in ("effect", "effect_lower", "effect_upper", "mean", "mean_rest"):
            best[f"imputed_{column}"] = np.nan if other is None else other[column].to_numpy()[best.index]
        for column in ("cells", "cells_rest"):
            best[column.replace("cells", "cells_imputed")] = 0 if other is None else int(other[column].iloc[0])
        tables.append(best)
    result = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))
    return result[list(COLUMNS)]


def _imputed(path: Path, features: pd.Index, codes: pd.Series, groups: int) -> Moments | None:
    """Moments of log2(1 + imputed) over the cells that lack the modality; NaN where a feature was not imputed."""
    columns, runs = imputed_runs(path, features)
    found = Moments.empty(groups, len(features))
    for cells, measured, values in runs():
        own = codes.reindex(cells).fillna(-1).to_numpy(int)
        own[measured] = -1
        part = Moments.empty(groups, len(columns))
        part.add(np.log2(1 + values), own)
        found.cells += part.cells
        found.total[:, columns] += part.total
        found.squares[:, columns] += part.squares
    absent = np.setdiff1d(np.arange(len(features)), columns)
    found.total[:, absent] = found.squares[:, absent] = np.nan
    return found if found.cells.any() else None


def array_of(store: Path) -> zarr.Array[Any]:
    """`X` of a store of `impute`: (n_cells, n_features) posterior means."""
    return cast("zarr.Array[Any]", open_store(store)["X"])


def imputed_runs(
    path: Path, features: pd.Index
) -> tuple[np.ndarray, Callable[[], Iterator[tuple[pd.Index, np.ndarray, np.ndarray]]]]:
    """Read an imputed store run by run of cells.

    Returns
    -------
    Places of its features in `features`, and a function whose iterator gives cells, which of them were measured, and
    posterior means (n, n_features of the store that are in `features`).
    """
    import anndata as ad

    group = open_store(path)
    with reading(path):
        obs, names = ad.io.read_elem(group["obs"]), ad.io.read_elem(group["var"]).index
    at = features.get_indexer(names)
    own = np.flatnonzero(at >= 0)

    def runs() -> Iterator[tuple[pd.Index, np.ndarray, np.ndarray]]:
        with reading(path):
            stored = array_of(path)
        rows = stored.chunks[0]
        for start in range(0, len(obs), rows):
            part = obs.iloc[start : start + rows]
            with reading(path):
                values = np.asarray(stored[start : start + rows], dtype=np.float64)[:, own]
            yield part.index, part["measured"].to_numpy(bool), values

    return at[own], runs


def write_markers(mosaic: MuData, imputed: dict[str, Path], folder: Path) -> dict[str, pd.DataFrame]:
    """Write `<modality>.tsv.gz` of :func:`markers` for every modality of the mosaic, and give the tables."""
    tables = {modality: markers(mosaic, modality, imputed.get(modality)) for modality in mosaic.mod}
    for modality, table in tables.items():
        write_table(table, folder / f"{modality}.tsv.gz")
    return tables
