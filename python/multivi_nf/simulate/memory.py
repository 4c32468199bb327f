"""A simulated mosaic in memory, for tests and benchmarks that need no files and no quality control."""

from __future__ import annotations

import anndata
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from multivi_nf.simulate.cells import draw_cells
from multivi_nf.simulate.counts import peak_hits, peak_matrix, protein_counts, rna_counts
from multivi_nf.simulate.design import ISOTYPES, Options
from multivi_nf.simulate.regulation import plant
from multivi_nf.simulate.truth import Truth
from multivi_nf.simulate.world import build_world


def simulated_mosaic(options: Options) -> tuple[mudata.MuData, Truth]:
    """The mosaic of `options` as MOSAIC would join it, unfiltered, and its truth.

    Doublets and dying cells are in it; isotype controls are not. The same cells and states as
    :func:`multivi_nf.simulate.simulate` writes.

    Examples
    --------
    >>> from multivi_nf.simulate import Options, simulated_mosaic
    >>> mosaic, truth = simulated_mosaic(Options(cells=100, genes=50, peaks=100, proteins=4))
    >>> mosaic["rna"].n_vars, mosaic["atac"].n_vars
    (50, 100)
    >>> sorted(truth.cells["cell_type"].unique())[:3]
    ['arm_a', 'arm_b', 'progenitor']
    """
    world, groups = build_world(options), draw_cells(options)
    planted = plant(world, options)
    rows: dict[str, list] = {"rna": [], "atac": [], "protein": []}
    for index, group in enumerate(groups):
        streams = [np.random.default_rng([options.seed, 3, index, k]) for k in range(2)]
        if group.sample.rna:
            rows["rna"].append((rna_counts(streams[0], world, group), group))
        if group.sample.protein:
            rows["protein"].append((protein_counts(streams[0], world, group)[:, :-ISOTYPES], group))
        if group.sample.atac:
            rows["atac"].append((peak_matrix(world, group, *peak_hits(streams[1], world, group)), group))
    peaks = world.peaks
    names = {
        "rna": pd.Index(world.genes["id"]),
        "atac": pd.Index(peaks["chrom"] + ":" + peaks["start"].astype(str) + "-" + peaks["end"].astype(str)),
        "protein": pd.Index(world.proteins["id"][:-ISOTYPES]),
    }
    parts = {}
    for modality, found in rows.items():
        counts = sp.vstack([counts for counts, _ in found], format="csr").astype(np.int32)
        obs = pd.concat([group.cells[["sample", "site"]] for _, group in found]).rename(columns={"site": "batch"})
        part = anndata.AnnData(counts, obs.astype(str), pd.DataFrame(index=names[modality].astype(str).rename(None)))
        if modality == "atac":
            part.layers["counts"] = part.X.copy()
            part.X.data[:] = 1
        if modality == "protein":
            part.uns["panel"] = pd.DataFrame(True, index=np.unique(part.obs["batch"]), columns=part.var_names)
        parts[modality] = part
    mosaic = mudata.MuData(parts)
    cells = pd.concat([group.cells for group in groups])
    known = cells.loc[mosaic.obs_names]
    for column, source in (("sample", "sample"), ("batch", "site"), ("donor", "donor"), ("type", "cell_type")):
        mosaic.obs[column] = known[source].to_numpy()
    for modality, part in parts.items():
        mosaic.obs[f"has_{modality}"] = mosaic.obs_names.isin(part.obs_names)
    shown = [[m for m in parts if mosaic.obs[f"has_{m}"].iloc[i]] for i in range(mosaic.n_obs)]
    mosaic.obs["modality"] = ["+".join(m) for m in shown]
    features = {"rna": world.rna, "atac": world.atac, "protein": world.protein}
    states = np.concatenate([group.states[: len(group.cells)] for group in groups]).astype(np.float32)
    peaks = peaks.set_axis(names["atac"])
    proteins = world.proteins.set_index("id")
    return mosaic, Truth(cells, world.genes.set_index("id"), peaks, proteins, states, features, planted)
