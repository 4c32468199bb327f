"""Differential genes and peaks against known truth: false discovery rate, recall, precision, coverage of the effect.

    python benchmarks/inference_truth.py [--seeds 0 1 2] [--peer PYTHON-WITH-SCVI]

The simulator's default world (site effects, ambient RNA, doublets), wider: counts grow with the features, so that each
is measured as deeply as by default. One type never shows RNA, another never ATAC. Rows: cells that were measured, cells
that were not, both, and the type that never was. True is what differs by more than the delta that each table states.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from quality_common import keeping, parser, read_options, show, threads
from quality_held_out import true_means
from quality_peers import CACHE, padded

from multivi_nf.evaluation.metrics import calls_against_truth
from multivi_nf.evaluation.splits import Split, build_mosaic
from multivi_nf.inference import calibrate, differential
from multivi_nf.inference.embedding import cells_of
from multivi_nf.simulate import PRESETS, Truth, simulated_mosaic

RUNNER = Path(__file__).with_name("peer_scvi_differential.py")
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


def score(table: pd.DataFrame, effect: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """One row: calls with and without the replicates' test, ranking, coverage of the true effect.

    `measured` is the effect with ambient RNA in both groups, which no method here takes away.
    """
    true = np.abs(effect) > table["delta"].to_numpy()
    found = calls_against_truth(-np.arange(len(table)), table["significant"], true)
    alone = calls_against_truth(-np.arange(len(table)), table["fdr"] <= 0.05, true)
    inside, also = ((table["effect_lower"] <= e) & (e <= table["effect_upper"]) for e in (effect, measured))
    return {
        "fdr": found["fdr"], "recall": found["recall"], "fdr_without_replicates": alone["fdr"],
        "recall_without_replicates": alone["recall"], "average_precision": found["average_precision"],
        "base_rate": found["base_rate"], "coverage": inside.mean(), "coverage_of_true": inside[true].mean(),
        "coverage_with_ambient": also.mean(),
        "slope": np.polyfit(effect, table["effect"], 1)[0], "out_of_support": table["out_of_support"].iloc[0],
    }  # fmt: skip


def peer(python: str, split: Split, seed: int, epochs: int, wanted: dict[str, dict]) -> dict[str, np.ndarray]:
    """Evidence of scvi-tools in each mode and contrast, from the cache where the same was run before."""
    names = [name for name, one in wanted.items()]
    arrays = padded(split, {})
    for i, name in enumerate(names):
        for side, members in zip(("target", "reference"), wanted[name]["members"]):
            arrays[f"{side}_{i}"] = members.to_numpy().astype("U")
    settings = {
        "seed": seed, "batch_key": "modality", "max_epochs": epochs, "learning_rate": 1e-3, "threads": 1,
        "contrasts": [wanted[name]["modality"] for name in names],
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode() + RUNNER.read_bytes())
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    kept = CACHE / f"scvi-differential-{digest.hexdigest()[:24]}.npz"
    if not kept.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            source, options, target = (Path(folder) / name for name in ("in.npz", "settings.json", "out.npz"))
            np.savez(source, **arrays)
            options.write_text(json.dumps(settings))
            subprocess.run([python, RUNNER, source, options, target], check=True)
            kept.write_bytes(target.read_bytes())
    return dict(np.load(kept))


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--genes", type=int, default=2000)
    arguments.add_argument("--peaks", type=int, default=20_000)
    arguments.add_argument("--peer", help="Python of an environment with scvi-tools")
    arguments.add_argument("--peer-epochs", type=int, default=50)
    chosen = arguments.parse_args()
    threads(chosen.threads)
    for seed in chosen.seeds:
        split, truth, types = world(chosen.cells or 2400, chosen.genes, chosen.peaks, seed)
        model = keeping(chosen.keep, f"truth{seed}", split, seed, **read_options(chosen.set))
        data = cells_of(model, split.mosaic)
        calibration = calibrate(model, data)
        wanted = contrasts(split)
        theirs = peer(chosen.peer, split, seed, chosen.peer_epochs, wanted) if chosen.peer else {}
        rows, beside = {}, {}
        for i, (name, one) in enumerate(wanted.items()):
            cells = "all" if one["cells"] == "never" else one["cells"]
            table = differential(
                model, data, one["modality"], groupby="type", target=one["pair"][0], reference=one["pair"][1],
                cells=cells, replicate="replicate", calibration=calibration, seed=seed,
            )  # fmt: skip
            effect, measured = true_effects(split, truth, one, types)
            rows[name] = score(table, effect[table["feature"]].to_numpy(), measured[table["feature"]].to_numpy())
            delta = table.set_index("feature")["delta"][effect.index]
            true = (effect.abs() > delta).to_numpy()
            beside[name] = {
                key.partition("/")[2]: calls_against_truth(evidence, true, true)["average_precision"]
                for key, evidence in theirs.items()
                if key.startswith(f"{i}/")
            }
        show(f"differential against simulated truth, seed {seed}", rows)
        if theirs:
            show(f"average precision of scvi-tools, seed {seed}", beside)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
