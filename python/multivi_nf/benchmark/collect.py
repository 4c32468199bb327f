"""What the pipeline's own steps made of a split, in the form that every method's result has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anndata
import pandas as pd

from multivi_nf.benchmark.result import Imputed, Result
from multivi_nf.benchmark.scoring import Views
from multivi_nf.io.h5mu import read_h5mu
from multivi_nf.io.stores import check_store

PER_CELL = 1e4
"""Counts per cell of imputed expression."""


def collect(embedding: Path, stores: Sequence[Path] = (), contrast: Path | None = None) -> Result:
    """Read a run of the modules on one split.

    Parameters
    ----------
    embedding
        EMBED's `multivi.h5mu`.
    stores
        IMPUTE's zarr stores, one a modality.
    contrast
        DIFFERENTIAL's table.
    """
    mosaic = read_h5mu(embedding)
    frames = {
        key.removeprefix("X_multivi_"): pd.DataFrame(mosaic.obsm[key], index=mosaic.obs_names).dropna()
        for key in mosaic.obsm
        if key.startswith("X_multivi_")
    }
    variance = frames.pop("variance", None)
    by_modality = {m: frame for m, frame in frames.items() if m in mosaic.mod}
    views = Views(pd.DataFrame(mosaic.obsm["X_multivi"], index=mosaic.obs_names), by_modality, variance)
    result = Result(views)
    for store in stores:
        check_store(store)
        data = anndata.read_zarr(store)
        modality = store.name.split(".")[0]
        scale = PER_CELL if modality == "rna" else 1.0
        shape = {"index": data.obs_names, "columns": data.var_names}
        values, sd = (pd.DataFrame(found, **shape) / scale for found in (data.X, data.layers["sd"]))
        result.imputed[modality] = Imputed(values, sd)
    if contrast is not None:
        table = pd.read_csv(contrast, sep="\t", comment="#")
        result.effects = table[["feature", "log2_fold_change", "significant"]].rename(
            columns={"log2_fold_change": "lfc"}
        )
    return result
