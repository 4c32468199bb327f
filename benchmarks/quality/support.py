"""Are cells of a type that no pair has told from others, by what they show alone?

    python -m benchmarks.quality.support --keep DIR [--seeds 0 1] [--types Astro L2/3 L4/5 L6 Oligo Pvalb]

The world of `world` (type_4 never shows RNA, type_2 never ATAC; samples of one modality are batches without pairs), and
SNARE with 25 % pairs and a type whose RNA is hidden everywhere; `held_out_type.py --support` hides pairs alone, and
trains more. Models are kept in DIR as truth0, snare-S4-Astro-0, ... A row a set, modality and type goes to
`benchmarks/results/support.tsv`: AUROC of `support_p`, and the shares of supported cells and of the type that are out
of support; by the cells' counts alone, and with the model's view.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks import places

RESULTS = places.RESULTS / "support.tsv"


def row(model, data, source: str, target: str, labels: np.ndarray, kind: str) -> dict[str, object]:
    """Support of the cells that show `source` alone, by counts and by both; cells without a label are left out."""
    from sklearn.metrics import roc_auc_score

    from multivi_nf.calibration.support import Support

    role = model.split.set_index("cell")["split"].reindex(data.cells).to_numpy(str)
    held = np.flatnonzero(data.has["rna"] & data.has["atac"] & (role == "calibration"))
    lone = np.flatnonzero(data.has[source] & ~data.has[target] & (labels != ""))
    strange = labels[lone] == kind
    found = {"cells": len(lone), "of_the_type": int(strange.sum()), "held_out_pairs": len(held)}
    for name, one in (("_by_counts", None), ("", model)):
        support = Support.fit(("rna", "atac"), data, held, 0, one)
        p, _ = support.score(data, lone, source, target, one)
        found[f"auroc{name}"] = roc_auc_score(strange, -p)
        found[f"supported_flagged{name}"] = (p[~strange] <= support.level).mean()
        found[f"type_flagged{name}"] = (p[strange] <= support.level).mean()
    return found


def simulated(keep: Path | None, seeds: list[int]) -> Iterator[dict[str, object]]:
    """Two rows a seed."""
    from benchmarks.quality.common import keeping
    from benchmarks.quality.world import NEVER, world

    from multivi_nf.latent.cells import cells_of

    for seed in seeds:
        split, _, types = world(2000, 600, 3000, seed)
        model = keeping(keep, f"truth{seed}", split, seed)
        data = cells_of(model, split.mosaic)
        labels = types.reindex(data.cells).fillna("").to_numpy(str)
        for source, target in (("atac", "rna"), ("rna", "atac")):
            kind = NEVER[target][0]
            yield {"set": f"simulated {seed}", "shown": source, "type": kind} | row(
                model, data, source, target, labels, kind
            )


def snare(keep: Path | None, kinds: list[str]) -> Iterator[dict[str, object]]:
    """A row a type, seed 0."""
    from benchmarks.quality.common import keeping
    from benchmarks.quality.common import snare as cells

    from multivi_nf.benchmark.splits import random_unpairing, type_without
    from multivi_nf.latent.cells import cells_of

    complete, labels = cells()
    base = random_unpairing(complete, 0.25, seed=0, labels=labels)
    for kind in kinds:
        split = type_without(base, complete, labels, kind)
        model = keeping(keep, f"snare-S4-{kind.replace('/', '_')}-0", split, 0)
        data = cells_of(model, split.mosaic)
        of = labels[split.origin[data.cells]].to_numpy(str)
        yield {"set": "snare", "shown": "atac", "type": kind} | row(model, data, "atac", "rna", of, kind)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--keep", type=Path, help="folder of trained models")
    arguments.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    arguments.add_argument("--types", nargs="*", default=["Astro", "L2/3", "L4/5", "L6", "Oligo", "Pvalb"])
    chosen = arguments.parse_args()
    from benchmarks.quality.common import threads

    threads(1)
    rows = [*simulated(chosen.keep, chosen.seeds), *(snare(chosen.keep, chosen.types) if chosen.types else ())]
    table = pd.DataFrame(rows)
    table.to_csv(RESULTS, sep="\t", index=False, float_format="%.4g")
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3f}"))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
