"""Unequal composition: one type only in RNA cells, another only in ATAC cells; purity with and without the adversary.

An adversary that matched whole marginals would mix the two types with others. Simulated, and SNARE-seq cortex.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from quality_common import fit, parser, read_options, show, snare, threads, views_of

from multivi_nf.benchmark.splits import build_mosaic, random_unpairing
from multivi_nf.evaluation.metrics import lisi_ratio_within
from multivi_nf.evaluation.metrics.neighbours import nearest
from multivi_nf.simulate import PRESETS, simulated_mosaic


def simulated(seed: int):
    """Paired cells of a larger simulated mosaic, types known."""
    mosaic, truth = simulated_mosaic(replace(PRESETS["default"], cells=4000, seed=seed))
    both = mosaic["rna"].obs_names.intersection(mosaic["atac"].obs_names)
    both = both[~truth.cells.loc[both, "doublet"].astype(bool)]
    complete = {m: mosaic[m][both].copy() for m in ("rna", "atac")}
    complete["atac"].X = complete["atac"].layers["counts"]
    return complete, truth.cells.loc[both, "cell_type"]


def unequal(complete, labels, only_rna: str, only_atac: str, seed: int):
    """A quarter paired, without the two types; the rest as views, each of the two types in one modality only."""
    base = random_unpairing(complete, 0.25, seed=seed, labels=labels)
    shown = []
    for name, origin in base.origin.items():
        modalities = tuple(base.modalities[name].split("+"))
        if labels[origin] == only_rna:
            modalities = ("rna",) if "rna" in modalities else ()
        elif labels[origin] == only_atac:
            modalities = ("atac",) if "atac" in modalities else ()
        if modalities:
            shown.append((name, origin, modalities))
    return build_mosaic(complete, shown)


def purity_of(split, views, labels, target: str) -> float:
    """Mean share of the 15 nearest cells (all modalities) of the type's cells that are of the type."""
    kinds = labels[split.origin[views.joint.index]].to_numpy()
    found, _ = nearest(views.joint.to_numpy(), views.joint.to_numpy(), 15, same=True)
    return float((kinds[found[kinds == target]] == target).mean())


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data", choices=["simulated", "snare"], nargs="+", default=["simulated", "snare"])
    options = arguments.parse_args()
    threads(options.threads)
    for data in options.data:
        for seed in options.seeds:
            complete, labels = simulated(seed) if data == "simulated" else snare(options.cells)
            only_rna, only_atac = ("type_5", "type_3") if data == "simulated" else ("Astro", "L6")
            split = unequal(complete, labels, only_rna, only_atac, seed)
            rows = {}
            for name, extra in (("with adversary", {}), ("without", {"adversary": "none"})):
                model, _ = fit(split, seed, **read_options(options.set), **extra)
                views = views_of(model, split)
                groups = split.modalities[views.joint.index].to_numpy()
                kinds = labels[split.origin[views.joint.index]].to_numpy()
                rows[name] = {
                    f"purity {only_rna} (RNA only)": purity_of(split, views, labels, only_rna),
                    f"purity {only_atac} (ATAC only)": purity_of(split, views, labels, only_atac),
                    "lisi_ratio_within": lisi_ratio_within(views.joint.to_numpy(), groups, kinds),
                }
            with_it, without = rows.values()
            rows["ratio"] = {key: with_it[key] / without[key] for key in with_it}
            show(f"unequal composition, {data}, seed {seed}", rows)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
