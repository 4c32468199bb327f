"""A type without RNA, and a type without pairs, on SNARE-seq cortex.

Log fold changes of the type's imputed RNA against the rest, beside ridge regression (S4); and the out-of-support
score of a type that no pair has (S5): AUROC, and the share of supported cells that are flagged.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from benchmarks.quality.common import fit, imputed, parser, read_options, show, snare, threads
from sklearn.metrics import roc_auc_score

from multivi_nf.benchmark.baselines import Bridge, shares
from multivi_nf.benchmark.scores import log_fold_change
from multivi_nf.benchmark.splits import random_unpairing, type_without, type_without_pairs
from multivi_nf.evaluation.metrics import fold_change_agreement
from multivi_nf.held_out.calibrate import calibrate
from multivi_nf.imputation.impute import impute

GATE = ("L2/3", "L4/5", "L6")
MOST = 2000
"""Features whose intervals are looked at."""


def type_without_rna(complete, labels, target, seed, options) -> dict[str, dict[str, float]]:
    """S4 on top of 25 % paired: every cell of the type shows ATAC only."""
    base = random_unpairing(complete, 0.25, seed=seed, labels=labels)
    split = type_without(base, complete, labels, target)
    genes = split.mosaic["rna"].var_names
    is_type = (labels == target).to_numpy()
    counts = complete["rna"][:, genes].X
    truth = log_fold_change(shares(counts[is_type]), shares(counts[~is_type]))
    lone = split.views("atac")
    kinds = labels[split.origin[lone]].to_numpy()
    model, _ = fit(split, seed, **options)
    ours = imputed(model, split, "rna", lone)
    ridge = Bridge(split).ridge_rna(lone)
    found = {
        name: fold_change_agreement(log_fold_change(values[kinds == target], values[kinds != target]), truth)
        for name, values in (("multivi-nf", ours), ("ridge", ridge))
    }
    return found | {"thinning ceiling": thinning_ceiling(counts.tocsr(), is_type, seed)}


def thinning_ceiling(counts, is_type: np.ndarray, seed: int) -> dict[str, float]:
    """Agreement of the fold changes of two halves of all counts: what the type's own counts can tell."""
    half = counts.copy()
    half.data = np.random.default_rng([seed, 17]).binomial(counts.data.astype(np.int64), 0.5).astype(np.float64)
    one, other = (
        log_fold_change(shares(part[is_type]), shares(part[~is_type])) for part in (half, (counts - half).tocsr())
    )
    return fold_change_agreement(one, other)


def out_of_support(complete, labels, target, seed, options) -> dict[str, dict[str, float]]:
    """S5: the type is seen in both modalities, never in a pair; by what a cell shows, ATAC or RNA."""
    base = random_unpairing(complete, 0.25, seed=seed, labels=labels)
    split = type_without_pairs(base, complete, labels, target)
    model, _ = fit(split, seed, **options)
    calibration = calibrate(model, split.mosaic)
    rows = {}
    for source, hidden in (("atac", "rna"), ("rna", "atac")):
        names = split.mosaic[hidden].var_names
        names = list(names[np.unique(np.linspace(0, len(names) - 1, MOST).astype(int))])
        found = impute(
            model,
            split.mosaic,
            modality=hidden,
            cells=list(split.views(source)),
            features=names,
            n_samples=40,
            calibration=calibration,
        )
        kinds = labels[split.origin[found.obs_names]].to_numpy() == target
        score, flagged = (found.obs[column].to_numpy(dtype=float) for column in ("support_p", "out_of_support"))
        width = np.asarray(found.layers["upper"] - found.layers["lower"]).mean(1)
        rows[f"{target} from {source}"] = {
            "auroc": float(roc_auc_score(kinds, 1 - score)),
            "supported_flagged": float(flagged[~kinds].mean()),
            "type_flagged": float(flagged[kinds].mean()),
            "width_ratio": float(width[kinds].mean() / width[~kinds].mean()),
        }
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--types", nargs="+", default=list(GATE), help="or `all`: each with 80 cells or more")
    arguments.add_argument("--support", action="store_true", help="also the out-of-support score of each type")
    options = arguments.parse_args()
    threads(options.threads)
    complete, labels = snare(options.cells)
    if options.types == ["all"]:
        sizes = labels.value_counts()
        options.types = [str(name) for name in sizes.index[sizes >= 80]]
        print("cells: " + ", ".join(f"{name} {sizes[name]:,}" for name in options.types), flush=True)
    for seed in options.seeds:
        rows, support = {}, {}
        for target in options.types:
            for name, scores in type_without_rna(complete, labels, target, seed, read_options(options.set)).items():
                rows[f"{target}, {name}"] = scores
            if options.support:
                support |= out_of_support(complete, labels, target, seed, read_options(options.set))
        gates = [one for one in GATE if one in options.types]
        for name in ("multivi-nf", "ridge", "thinning ceiling") if gates else ():
            of = [rows[f"{one}, {name}"] for one in gates]
            rows[f"mean of {', '.join(gates)}, {name}"] = pd.DataFrame(of).mean().to_dict()
        show(f"a type without RNA, SNARE, seed {seed}", rows)
        if support:
            for source in ("atac", "rna"):
                of = [row for name, row in support.items() if name.endswith(f"from {source}")]
                support[f"mean from {source}"] = pd.DataFrame(of).mean().to_dict()
            show(f"a type without pairs, SNARE, seed {seed}", support)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
