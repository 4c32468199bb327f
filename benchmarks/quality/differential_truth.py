"""Differential genes and peaks against known truth: false discovery rate, recall, precision, coverage of the effect.

    python -m benchmarks.quality.differential_truth [--seeds 0 1 2] [--peer PYTHON-WITH-SCVI]

The simulator's default world (site effects, ambient RNA, doublets), wider: counts grow with the features, so that each
is measured as deeply as by default. One type never shows RNA, another never ATAC. Rows: cells that were measured, cells
that were not, both, and the type that never was. True is what differs by more than the delta that each table states.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from benchmarks.peers.runs import padded, run_peer
from benchmarks.quality.common import keeping, parser, read_options, show, threads
from benchmarks.quality.world import contrasts, true_effects, world

from multivi_nf.benchmark.splits import Split
from multivi_nf.comparison.compare import differential
from multivi_nf.evaluation.metrics import calls_against_truth
from multivi_nf.held_out.calibrate import calibrate
from multivi_nf.latent.cells import cells_of


def score(table: pd.DataFrame, effect: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """One row: calls with and without the replicates' test, ranking, coverage of the true effect.

    `measured` is the effect with ambient RNA in both groups, which no method here takes away.
    """
    true = np.abs(effect) > table["delta"].to_numpy()
    found = calls_against_truth(-np.arange(len(table)), table["significant"], true)
    alone = calls_against_truth(-np.arange(len(table)), table["fdr"] <= 0.05, true)
    inside, also = ((table["effect_lower"] <= e) & (e <= table["effect_upper"]) for e in (effect, measured))
    return {
        "fdr": found["fdr"],
        "recall": found["recall"],
        "fdr_without_replicates": alone["fdr"],
        "recall_without_replicates": alone["recall"],
        "average_precision": found["average_precision"],
        "base_rate": found["base_rate"],
        "coverage": inside.mean(),
        "coverage_of_true": inside[true].mean(),
        "coverage_with_ambient": also.mean(),
        "slope": np.polyfit(effect, table["effect"], 1)[0],
        "truth_on_effect": np.polyfit(table["effect"], effect, 1)[0],
        "out_of_support": table["out_of_support"].iloc[0],
    }


def peer(python: str, split: Split, seed: int, epochs: int, wanted: dict[str, dict]) -> dict[str, np.ndarray]:
    """Evidence of scvi-tools in each mode and contrast, from the cache where the same was run before."""
    names = [name for name, one in wanted.items()]
    arrays = padded(split, {})
    for i, name in enumerate(names):
        for side, members in zip(("target", "reference"), wanted[name]["members"]):
            arrays[f"{side}_{i}"] = members.to_numpy().astype("U")
    settings = {
        "seed": seed,
        "batch_key": "modality",
        "max_epochs": epochs,
        "learning_rate": 1e-3,
        "threads": 1,
        "contrasts": [wanted[name]["modality"] for name in names],
    }
    return run_peer(python, "scvi_differential", arrays, settings)


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
                model,
                data,
                one["modality"],
                groupby="type",
                target=one["pair"][0],
                reference=one["pair"][1],
                cells=cells,
                replicate="replicate",
                calibration=calibration,
                seed=seed,
            )
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
