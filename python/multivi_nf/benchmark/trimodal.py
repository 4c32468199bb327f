"""Simulated cells measured in all three modalities: experiment 5 is always run on them, real ones are rare."""

from __future__ import annotations

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd

from multivi_nf.modalities import MODALITIES
from multivi_nf.simulate import PRESETS, Options
from multivi_nf.simulate.cells import draw_cells
from multivi_nf.simulate.counts import peak_hits, peak_matrix, protein_counts, rna_counts
from multivi_nf.simulate.world import build_world


def trimodal_cells(options: Options) -> tuple[dict[str, anndata.AnnData], pd.Series]:
    """Every simulated cell in all three modalities, isotype controls included, and its type.

    Parameters
    ----------
    options
        Of the simulator. Doublets and dying cells are drawn and left out.

    Returns
    -------
    Modality to AnnData, (n_cells, n_features) counts in X and the site as `obs["batch"]`; and the cells' types.
    """
    world, groups = build_world(options), draw_cells(options)
    cells = pd.concat([group.cells for group in groups])
    good = ~(cells["doublet"] | cells["dying"]).to_numpy(bool)
    found: dict[str, list] = {m: [] for m in MODALITIES}
    for index, group in enumerate(groups):
        draw = np.random.default_rng([options.seed, 9, index])
        found["rna"].append(rna_counts(draw, world, group))
        found["atac"].append(peak_matrix(world, group, *peak_hits(draw, world, group)))
        found["protein"].append(protein_counts(draw, world, group))
    complete = {}
    for m, parts in found.items():
        data = anndata.concat([anndata.AnnData(part) for part in parts])
        data.obs_names, data.var_names = cells.index, [f"{m}{j}" for j in range(data.n_vars)]
        data.obs["batch"] = cells["site"].to_numpy()
        complete[m] = data[good].copy()
    return complete, cells.loc[good, "cell_type"]


def small_world(cells: int, seed: int) -> Options:
    """The default preset with so many cells and all barcodes called."""
    return replace(PRESETS["default"], cells=cells, seed=seed, called_depth=1.0)
