"""Groups of cells of simulated mosaics whose true effects are known, one type never measured in each modality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from benchmarks.quality.held_out import true_means

from multivi_nf.benchmark.splits import Split, build_mosaic
from multivi_nf.simulate import PRESETS, Truth, simulated_mosaic

PAIR = ("type_1", "type_3")
NEVER = {"rna": ("type_4", "type_1"), "atac": ("type_2", "type_3")}
"""Modality to the type that never shows it, and what that is compared with; the sister of each type is measured."""


def world(cells: int, genes: int, peaks: int, seed: int) -> tuple[Split, Truth, pd.Series]:
    """The mosaic, its truth, and the types of cells that are neither doublets nor dying."""
    base = PRESETS["default"]
    size = {
        "rna_counts": base.rna_counts * genes / base.genes,
        "atac_fragments": base.atac_fragments * peaks / base.peaks,
    }
    mosaic, truth = simulated_mosaic(replace(base, cells=cells, genes=genes, peaks=peaks, seed=seed, **size))
    complete = {m: mosaic[m].copy() for m in ("rna", "atac")}
    complete["atac"].X = complete["atac"].layers["counts"]
    types = truth.cells["cell_type"]
    shown = []
    for cell in mosaic.obs_names:
        modalities = tuple(
            m for m, (never, _) in NEVER.items() if cell in complete[m].obs_names and types[cell] != never
        )
        if modalities:
            shown.append((cell, cell, modalities))
    split = build_mosaic(complete, shown, min_fraction={"rna": 0.01, "atac": 0.01})
    good = ~(truth.cells["doublet"] | truth.cells["dying"])
    split.mosaic.obs["type"] = types.where(good).reindex(split.mosaic.obs_names).to_numpy()
    split.mosaic.obs["replicate"] = truth.cells["sample"].reindex(split.mosaic.obs_names).to_numpy()
    return split, truth, split.mosaic.obs["type"].dropna()


def contrasts(split: Split) -> dict[str, dict]:
    """Name to modality, groups, cells, and who is in the groups."""
    types = split.mosaic.obs["type"]
    out = {}
    for modality in ("rna", "atac"):
        has = split.mosaic.obs[f"has_{modality}"].to_numpy()
        for cells, use in (("observed", has), ("imputed", ~has), ("all", has | ~has), ("never", has | ~has)):
            pair = NEVER[modality] if cells == "never" else PAIR
            members = [types.index[(types == one).to_numpy() & use] for one in pair]
            out[f"{modality} {cells}"] = {"modality": modality, "pair": pair, "cells": cells, "members": members}
    return out


def true_effects(split: Split, truth: Truth, contrast: dict, types: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Effects of all features as `differential` means them; and the same with ambient RNA in both groups."""
    part, rna = split.mosaic[contrast["modality"]], contrast["modality"] == "rna"
    depth = 1.0 if rna else float(np.median(np.asarray(part.layers["counts"].sum(1))))  # fragments in peaks
    groups = [types.index[types == side] for side in contrast["pair"]]
    a, b = (true_means(truth, split, contrast["modality"], cells, depth).mean(0) for cells in groups)
    if not rna:
        return (pd.Series(a - b, part.var_names),) * 2
    soup = true_means(truth, split, "rna", split.mosaic.obs_names).mean(0)
    share = truth.cells["ambient"].mean()
    diluted = np.log2(((1 - share) * a + share * soup) / ((1 - share) * b + share * soup))
    return pd.Series(np.log2(a / b), part.var_names), pd.Series(diluted, part.var_names)
