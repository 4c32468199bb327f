"""Are transferred labels' probabilities true? Cells whose label is known and hidden, by what they show.

    python -m benchmarks.quality.label_transfer DIR [DIR ...]

DIR: results of runs with pairs and labels in `cell_type` (`verdict_table.py --keep`). The labels of one sample (half of
the cells where there is one) are hidden and its cells seen through one modality alone, as lone cells would be; scored
are those of them that trained nothing. A row a run and modality goes to `benchmarks/results/label_transfer.tsv`.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks import places

RESULTS = places.RESULTS / "label_transfer.tsv"


def rows_of(folder: Path) -> list[dict[str, object]]:
    """One row a modality that the hidden cells are seen through."""
    from multivi_nf.inputs.labels import unlabelled
    from multivi_nf.latent.label_transfer import _reliability, transfer_labels
    from multivi_nf.report.gather import read_results

    results = read_results(folder)
    obs, held = results.cells.copy(), results.split.set_index("cell")["split"].reindex(results.cells.index) != "train"
    held = held.to_numpy()
    truth = obs["cell_type"].astype(object).where(~unlabelled(obs["cell_type"]), None)
    samples = sorted(obs["sample"].astype(str).unique())
    hidden = (obs["sample"].astype(str) == samples[-1]).to_numpy()
    if len(samples) == 1:
        hidden = np.random.default_rng(0).random(len(obs)) < 0.5
    found = []
    for modality, view in results.views.items():
        there = hidden & np.isfinite(view).all(axis=1)
        shown = obs.copy()
        shown["label"] = truth.where(~hidden, None)
        for other in results.features:
            shown.loc[there, f"has_{other}"] = other == modality
        latent = np.where(there[:, None], view, results.latent)
        views = {m: np.where((there & (m != modality))[:, None], np.nan, v) for m, v in results.views.items()}
        given = transfer_labels(latent, shown, "label", views, held=held)
        scored = np.flatnonzero(there & held & truth.notna().to_numpy())
        got = scored[np.isfinite(given.probability[scored])]
        if not len(got):
            found.append({"run": folder.name, "shown": modality, "scored": len(scored), "given": 0.0})
            continue
        p, hit = given.probability[got], given.label[got] == truth.to_numpy()[got]
        share = truth[~hidden].value_counts(normalize=True)
        is_top = (truth.iloc[got] == share.index[0]).to_numpy(float)
        prior = share.reindex(truth.iloc[got]).fillna(0).to_numpy()
        inside = given.record["checked"].get(modality, {})
        found.append(
            {
                "run": folder.name,
                "shown": modality,
                "scored": len(scored),
                "given": len(got) / len(scored),
                "accuracy": hit.mean(),
                "most_frequent": is_top.mean(),
                "brier_of_the_label": ((p - hit) ** 2).mean(),
                "brier_prior": ((share.iloc[0] - is_top) ** 2).mean(),
                "log_score": -np.log(np.where(hit, p, (1 - p) / max(len(share) - 1, 1)) + 1e-9).mean(),
                "log_score_prior": -np.log(prior + 1e-9).mean(),
                "ece": _reliability(p, hit)[1],
                "own_brier": inside.get("brier"),
                "own_brier_prior": inside.get("brier_prior"),
                "own_ece": inside.get("ece"),
            }
        )
    return found


def main() -> None:
    table = pd.DataFrame([row for name in sys.argv[1:] for row in rows_of(Path(name))])
    known = pd.read_csv(RESULTS, sep="\t") if RESULTS.is_file() else pd.DataFrame()
    if len(known):
        known = known[~known["run"].isin(table["run"])]
    table = pd.concat([known, table], ignore_index=True).sort_values(["run", "shown"])
    table.to_csv(RESULTS, sep="\t", index=False, float_format="%.4g")
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3f}"))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
