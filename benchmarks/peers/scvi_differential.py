"""Run by the peers' Python: differential expression and accessibility by scvi-tools' MULTIVI on a padded mosaic.

python scvi_differential.py INPUT.npz SETTINGS.json OUTPUT.npz

OUTPUT has for contrast I `I/MODE`: evidence of each feature, higher is stronger; how to rank is part of the setting.
"""

from __future__ import annotations

import numpy as np
from benchmarks.peers.scvi_multivi import begun, fit, prepared

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
    settings, mosaic, raw, target = begun()
    model = prepared(mosaic, settings, ["batch"])
    fit(model, settings)
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
