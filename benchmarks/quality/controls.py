"""Negative controls on SNARE-seq cortex: pairing shuffled, no pair at all, depth alone; a modality of random counts.

A model trained on shuffled pairs may not pair cells, or impute genes, better than one trained without any pair.
"""

from __future__ import annotations

import numpy as np
from benchmarks.quality.common import fit, imputed, parser, read_options, show, snare, threads

from multivi_nf.benchmark.scoring import hidden_truth, score_rna
from multivi_nf.benchmark.splits import Split, strict_unpairing
from multivi_nf.evaluation import controls, metrics
from multivi_nf.latent.embed import embed


def held_out_pairing(model, split: Split, complete, depth_out: bool) -> float:
    """FOSCTTM of the cells of which one modality is shown: the other is embedded after training."""
    import mudata
    import pandas as pd

    cells = split.origin[split.modalities != "rna+atac"].to_numpy()
    views = {}
    for modality in ("rna", "atac"):
        part = complete[modality][cells, split.mosaic[modality].var_names].copy()
        if modality == "atac":
            part.layers["counts"] = part.X.copy()
            part.X = (part.X > 0).astype(np.int32)
        alone = mudata.MuData({modality: part})
        alone.obs["batch"] = part.obs["batch"].to_numpy()
        z = embed(model, alone).by_modality[modality]
        views[modality] = controls.regress_out_depth(z, part.X) if depth_out else z
        views[modality] = pd.DataFrame(views[modality], index=cells)
    return metrics.pairing(views["rna"].to_numpy(), views["atac"].to_numpy()).foscttm


def main() -> None:
    options = parser(__doc__).parse_args()
    threads(options.threads)
    complete, labels = snare(options.cells)
    for seed in options.seeds:
        split = strict_unpairing(complete, 0.25, seed=seed, labels=labels)
        hidden = hidden_truth(split, complete, "rna", "atac")
        single = controls.without_pairs(split.mosaic)
        mosaics = {
            "pairs": split.mosaic,
            "pairs shuffled": controls.shuffle_pairs(split.mosaic, seed=seed),
            "no pair": single,
        }
        rows = {}
        for name, mosaic in mosaics.items():
            shown = Split(mosaic, split.origin, split.modalities)
            model, _ = fit(shown, seed, **read_options(options.set))
            rows[name] = {
                "foscttm": held_out_pairing(model, split, complete, False),
                "foscttm_without_depth": held_out_pairing(model, split, complete, True),
            } | score_rna(hidden, imputed(model, shown, "rna", hidden.cells))
        origin = split.origin[split.modalities != "rna+atac"].to_numpy()
        depth = controls.depth_embedding(*(complete[m][origin].X for m in ("rna", "atac")))
        rows["depth alone"] = {"foscttm": metrics.pairing(*depth).foscttm}
        noise = {"rna": complete["rna"].copy(), "atac": complete["atac"].copy()}
        noise["atac"].X = controls.random_counts(noise["atac"].X, seed=seed)
        random = strict_unpairing(noise, 0.25, seed=seed, labels=labels)
        model, _ = fit(random, seed, **read_options(options.set))
        wrong = hidden_truth(random, complete, "rna", "atac")
        rows["random ATAC"] = score_rna(wrong, imputed(model, random, "rna", wrong.cells))
        show(f"controls, SNARE, seed {seed}", rows)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
