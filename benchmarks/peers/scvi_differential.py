"""Run by the peers' Python: differential expression and accessibility by scvi-tools' MULTIVI on a padded mosaic.

python scvi_differential.py INPUT.npz SETTINGS.json OUTPUT.npz

OUTPUT has for contrast I `I/MODE`: evidence of each feature, higher is stronger; how to rank is part of the setting.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import scvi
import torch
from benchmarks.peers.scvi_multivi import load

MODES = {
    "vanilla": {"mode": "vanilla"},
    "change": {"mode": "change"},
    "vanilla, decoded as paired": {"mode": "vanilla", "batch_correction": True},
    "change, decoded as paired": {"mode": "change", "batch_correction": True},
}
SAMPLES = 2000
"""Cells drawn for each group; a group has a few hundred."""


def evidence(model, mosaic, modality: str, sides: list[np.ndarray], options: dict) -> dict[str, np.ndarray]:
    """The orders that a user could put features in."""
    asked = {"idx1": sides[0], "idx2": sides[1], "silent": True, "n_samples_overall": SAMPLES}
    if options.get("batch_correction"):
        asked |= {"batchid1": ["rna+atac"], "batchid2": ["rna+atac"]}
    if modality == "rna":
        table = model.differential_expression(mosaic, **options, **asked)
        table = table.loc[mosaic["rna"].var_names]
        effect = np.log2(table["scale1"] + 1e-6) - np.log2(table["scale2"] + 1e-6)
        probability = table["proba_de"] if options["mode"] == "change" else table["proba_m1"]
    else:
        table = model.differential_accessibility(mosaic, **options, **asked)
        table = table.loc[mosaic["atac"].var_names]
        effect, probability = table["effect_size"], table["prob_da"]
    if options["mode"] == "vanilla":
        probability = np.maximum(probability, 1 - probability)
    effect = np.abs(effect.to_numpy())
    # most probabilities are 1: the effect decides among equals
    return {"probability": probability.to_numpy() + 1e-6 * effect / effect.max(), "effect": effect}


def main() -> None:
    source, settings, target = sys.argv[1], json.loads(open(sys.argv[2]).read()), sys.argv[3]  # noqa: PTH123
    torch.set_num_threads(settings["threads"])
    scvi.settings.seed = settings["seed"]
    scvi.settings.verbosity = 40
    mosaic, raw = load(source)
    scvi.model.MULTIVI.setup_mudata(
        mosaic,
        batch_key=settings["batch_key"],
        categorical_covariate_keys=["batch"],
        modalities={"rna_layer": "rna", "atac_layer": "atac"},
    )
    model = scvi.model.MULTIVI(mosaic, n_genes=mosaic["rna"].n_vars, n_regions=mosaic["atac"].n_vars)
    model.train(
        max_epochs=settings["max_epochs"],
        lr=settings["learning_rate"],
        accelerator="cpu",
        enable_progress_bar=False,
        n_epochs_kl_warmup=min(50, settings["max_epochs"] // 2),
    )
    out = {}
    cells = raw["cells"].astype(str)
    for i, modality in enumerate(settings["contrasts"]):
        sides = [np.flatnonzero(np.isin(cells, raw[f"{side}_{i}"].astype(str))) for side in ("target", "reference")]
        for name, options in MODES.items():
            for order, values in evidence(model, mosaic, modality, sides, options).items():
                out[f"{i}/{name} by {order}"] = values.astype(np.float64)
    np.savez(target, **out)


if __name__ == "__main__":
    main()
