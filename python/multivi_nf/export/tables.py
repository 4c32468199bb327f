"""Cells and clusters as tables that any program reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from multivi_nf.counts.given import SUFFIX

if TYPE_CHECKING:
    from mudata import MuData


def cells_table(mosaic: MuData) -> pd.DataFrame:
    """One row a cell: `cell`, all of obs, `umap_1`, `umap_2`, `latent_1`... of the joint latent space.

    A column of obs that has one of these names already is called `<name>_given`.
    """
    cell = pd.DataFrame({"cell": mosaic.obs_names.astype(str)})
    places: list[pd.DataFrame] = []
    for key, prefix in (("X_umap", "umap"), ("X_multivi", "latent")):
        if key in mosaic.obsm:
            values = np.asarray(mosaic.obsm[key])
            places.append(pd.DataFrame(values, columns=[f"{prefix}_{k + 1}" for k in range(values.shape[1])]))
    own = {name for part in (cell, *places) for name in part}
    obs = mosaic.obs.rename(columns={name: f"{name}{SUFFIX}" for name in own})
    return pd.concat([cell, obs.reset_index(drop=True), *places], axis=1)


def clusters_table(obs: pd.DataFrame) -> pd.DataFrame:
    """Cells of each cluster by sample and by what was measured in them.

    Returns
    -------
    `cluster`, `sample`, `modality`, `cells`, `share_of_sample` (of that sample's cells with that modality), and with
    marker sets `cell_type_by_markers`; combinations that do not occur have no row.
    """
    columns = ["cluster", "sample", "modality"]
    counts = obs.groupby(columns, observed=True).size().rename("cells").reset_index()
    total = obs.groupby(["sample", "modality"], observed=True).size()
    keys = pd.MultiIndex.from_frame(counts[["sample", "modality"]])
    counts["share_of_sample"] = counts["cells"].to_numpy() / total.reindex(keys).to_numpy()
    if "cell_type_by_markers" in obs:
        types = obs.groupby("cluster", observed=True)["cell_type_by_markers"].first()
        counts["cell_type_by_markers"] = counts["cluster"].map(types).astype(object)
    return counts
