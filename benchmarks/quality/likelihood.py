"""ATAC as open peaks (Bernoulli) or as fragments (Poisson): SNARE, and simulated cells at several depths, 25 % paired.

Every other cell enters twice, once as its RNA and once as its ATAC. Pairing, purity, and what is imputed for the views
without the modality. Both are scored on the hidden 0/1: a Poisson's mean m is read as 1 - exp(-m).
"""

from __future__ import annotations

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
from benchmarks.quality.common import fit, imputed, parser, read_options, show, snare, threads, views_of

from multivi_nf.benchmark.scoring import hidden_truth, score_atac, score_embedding, score_rna
from multivi_nf.benchmark.splits import Split, random_unpairing
from multivi_nf.simulate import PRESETS, simulated_mosaic

LIKELIHOODS = ("bernoulli", "poisson")


def simulated(cells: int, depth: float, seed: int) -> tuple[dict[str, anndata.AnnData], pd.Series]:
    """Those of the simulated cells that have RNA and ATAC, at so many times the fragments that the default has."""
    options = PRESETS["default"]
    options = replace(options, cells=cells, atac_fragments=depth * options.atac_fragments, seed=seed)
    mosaic, truth = simulated_mosaic(options)
    good = truth.cells.index[~truth.cells["doublet"] & ~truth.cells["dying"]]
    both = mosaic["rna"].obs_names.intersection(mosaic["atac"].obs_names).intersection(good)
    rna, atac = (mosaic[m][both].copy() for m in ("rna", "atac"))
    atac.X = atac.layers["counts"].copy()
    return {"rna": rna, "atac": atac}, truth.cells.loc[both, "cell_type"].astype(str)


def scores(
    split: Split, complete: dict[str, anndata.AnnData], labels: pd.Series, likelihood: str, seed: int, **options
) -> dict[str, float]:
    """Train one model and score it."""
    model, seconds = fit(split, seed, atac_likelihood=likelihood, **options)
    found = score_embedding(split, views_of(model, split), labels)
    rna, atac = (hidden_truth(split, complete, m, other) for m, other in (("rna", "atac"), ("atac", "rna")))
    found |= {f"rna {k}": v for k, v in score_rna(rna, imputed(model, split, "rna", rna.cells)).items()}
    values = imputed(model, split, "atac", atac.cells)
    seen = values if likelihood == "bernoulli" else -np.expm1(-values)
    found |= {f"atac {k}": v for k, v in score_atac(atac, seen).items()}
    return found | {"cpu_seconds": seconds, "epochs": len(model.history.rows)}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--depths", type=float, nargs="*", default=[0.25, 1.0, 4.0], help="of simulated cells")
    arguments.add_argument(
        "--simulated", type=int, default=4000, help="simulated cells, of which two in five have both"
    )
    arguments.add_argument("--without-snare", action="store_true")
    options = arguments.parse_args()
    threads(options.threads)
    for seed in options.seeds:
        sets = {} if options.without_snare else {"SNARE": lambda: snare(options.cells)}
        sets |= {
            f"simulated, {d:g} x depth": lambda d=d, seed=seed: simulated(options.simulated, d, seed)
            for d in options.depths
        }
        for name, make in sets.items():
            complete, labels = make()
            split = random_unpairing(complete, 0.25, seed=seed, labels=labels)
            share = float((complete["atac"].X.data > 1).mean())
            rows = {one: scores(split, complete, labels, one, seed, **read_options(options.set)) for one in LIKELIHOODS}
            show(f"{name}, seed {seed}: {share:.1%} of stored counts above 1", rows)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
