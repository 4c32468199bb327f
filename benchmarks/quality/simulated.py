"""Quality on the simulated mosaic: ours, beside the same model without alignment and adversary, against known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from benchmarks.quality.common import parser, read_options, show, threads

from multivi_nf.evaluation.runs import evaluate_run
from multivi_nf.imputation.impute import impute
from multivi_nf.latent.embed import embed
from multivi_nf.simulate import PRESETS, simulated_mosaic
from multivi_nf.training import MultiVI, train

APART = {"alignment": "none", "adversary": "none", "cross_reconstruction": 0.0}
VARIANTS = {"defaults": {}, "nothing that aligns": APART}


def scores_of(options: dict, seed: int) -> dict[str, float]:
    """Train on the default mosaic without doublets; every line of `multivi-nf evaluate`."""
    mosaic, truth = simulated_mosaic(replace(PRESETS["default"], seed=seed))
    training = {k: options.pop(k) for k in ("max_epochs", "batch_size", "learning_rate") if k in options}
    model = MultiVI.from_mosaic(mosaic, seed=seed, **options)
    train(model, mosaic, seed=seed, quiet=True, **training)
    found = embed(model, mosaic)
    mosaic.obsm["X_multivi"], mosaic.obsm["X_multivi_variance"] = found.mean, found.variance
    for modality, z in found.by_modality.items():
        mosaic.obsm[f"X_multivi_{modality}"] = z
    good = ~truth.cells["doublet"] & ~truth.cells["dying"]
    labels = truth.cells.loc[good, "cell_type"].reindex(mosaic.obs_names).dropna()
    lone = mosaic.obs_names[mosaic.obs["modality"] == "atac"]
    rna = impute(model, mosaic, modality="rna", features="all", cells=list(lone), n_samples=40)
    held = pd.Index(model.split.loc[model.split["split"] != "train", "cell"])
    scores = evaluate_run(mosaic, labels, truth=truth, held_out=held, imputed={"rna": rna})
    out = {"epochs": len(model.history.rows)}
    for score in scores:
        out[score.name] = score.value
        out |= {f"{score.name}: {name}": value for name, value in score.beside.items()}
    return out


def main() -> None:
    options = parser(__doc__).parse_args()
    threads(options.threads)
    for seed in options.seeds:
        rows = {name: scores_of(read_options(options.set) | extra, seed) for name, extra in VARIANTS.items()}
        show(f"simulated mosaic, seed {seed}", pd.DataFrame(rows).T.to_dict("index"))
        print(pd.DataFrame(rows).to_string(float_format=lambda v: f"{v:.3f}"))


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
