"""Are transferred labels' probabilities true? Cells whose label is known and hidden, by what they show.

    python -m benchmarks.quality.label_transfer DIR [DIR ...]
    python -m benchmarks.quality.label_transfer --snare MODEL    # trained on 25 % pairs; a type may lack RNA

DIR: results of runs with pairs and labels in `cell_type` (`verdict_table.py --keep`). The labels of each sample in turn
(of half of the cells where there is one) are hidden and its cells seen through one modality alone, as lone cells would
be; scored are those of them that trained nothing, of all turns together. SNARE: labels of four libraries or of one are
known; scored are all cells of the others that show one modality. A row a run and modality goes to
`benchmarks/results/label_transfer.tsv`; `ece_by_chance` is what probabilities that are true would have, with as many
cells.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks import places

RESULTS = places.RESULTS / "label_transfer.tsv"


def rows_of(folder: Path) -> list[dict[str, object]]:
    """One row a modality that the hidden cells are seen through."""
    from multivi_nf.inputs.labels import unlabelled
    from multivi_nf.latent.label_transfer import transfer_labels
    from multivi_nf.report.gather import read_results

    results = read_results(folder)
    obs, held = results.cells.copy(), results.split.set_index("cell")["split"].reindex(results.cells.index) != "train"
    held = held.to_numpy()
    truth = obs["cell_type"].astype(object).where(~unlabelled(obs["cell_type"]), None)
    sample = obs["sample"].astype(str).to_numpy()
    turns = [sample == name for name in sorted(set(sample))]
    if len(turns) == 1:
        turns = [np.random.default_rng(0).random(len(obs)) < 0.5]
    found = []
    for modality, view in results.views.items():
        scored = []
        for hidden in turns:
            there = hidden & np.isfinite(view).all(axis=1)
            shown = obs.copy()
            shown["label"] = truth.where(~hidden, None)
            for other in results.features:
                shown.loc[there, f"has_{other}"] = other == modality
            latent = np.where(there[:, None], view, results.latent)
            views = {m: np.where((there & (m != modality))[:, None], np.nan, v) for m, v in results.views.items()}
            given = transfer_labels(latent, shown, "label", views, held=held)
            cells = np.flatnonzero(there & held & truth.notna().to_numpy())
            scored.append(scores_of(given, truth.to_numpy(), cells, ~hidden, modality))
        found.append({"run": folder.name, "shown": modality} | summary(scored))
    return found


def snare_rows(folder: Path) -> list[dict[str, object]]:
    """Four libraries' labels, and one library's, on all SNARE cells."""
    from benchmarks.quality.common import snare

    from multivi_nf.benchmark.splits import random_unpairing, type_without
    from multivi_nf.latent.embed import embed
    from multivi_nf.latent.label_transfer import transfer_labels
    from multivi_nf.training import MultiVI

    complete, labels = snare()
    split = random_unpairing(complete, 0.25, seed=0, labels=labels)
    if "S4-" in folder.name:
        name = folder.name.split("S4-")[1].rsplit("-", 1)[0].replace("_", "/")
        split = type_without(split, complete, labels, name)
    model = MultiVI.load(folder)
    embedding, obs = embed(model, split.mosaic), split.mosaic.obs.copy()
    truth = labels[split.origin[obs.index]].to_numpy(object)
    held = (model.split.set_index("cell")["split"].reindex(obs.index) != "train").to_numpy()
    batch = obs["batch"].astype(str).to_numpy()
    names = sorted(set(batch))
    found = []
    for run, turns in (("snare, four libraries known", (names[:4],)), ("snare, one known", (names[:1], names[4:5]))):
        scored: dict[str, list[Scored]] = {"rna": [], "atac": []}
        for libraries in turns:
            known = np.isin(batch, libraries)
            obs["label"] = np.where(known, truth, None)
            given = transfer_labels(embedding.mean, obs, "label", embedding.by_modality, held=held)
            for modality, rows in scored.items():
                alone = obs[[f"has_{m}" for m in scored]].sum(axis=1).to_numpy() == 1
                cells = np.flatnonzero(~known & alone & obs[f"has_{modality}"].to_numpy(bool))
                rows.append(scores_of(given, truth, cells, known, modality))
        found += [{"run": run, "shown": modality} | summary(rows) for modality, rows in scored.items()]
    return found


@dataclass
class Scored:
    """One turn: probability of the label, whether it is right, the label's frequency, of (n,) cells that got one."""

    cells: int
    p: np.ndarray
    hit: np.ndarray
    share: np.ndarray
    record: dict[str, float]


def scores_of(given, truth: np.ndarray, cells: np.ndarray, known: np.ndarray, modality: str) -> Scored:
    """Scores of cells under labels transferred from `known` ones."""
    got = cells[np.isfinite(given.probability[cells])]
    shares = pd.Series(truth[known]).value_counts(normalize=True)
    inside = given.record["checked"].get(modality, {})
    share = shares.reindex(given.label[got]).to_numpy(float)
    return Scored(len(cells), given.probability[got], given.label[got] == truth[got], share, inside)


def summary(turns: list[Scored]) -> dict[str, object]:
    """All turns together."""
    from multivi_nf.latent.label_probabilities import reliability_of

    p, hit, share = (np.concatenate([getattr(one, name) for one in turns]) for name in ("p", "hit", "share"))
    n = sum(one.cells for one in turns)
    if not len(p):
        return {"scored": n, "given": 0.0}
    rng = np.random.default_rng(0)
    return {
        "scored": n,
        "given": len(p) / n,
        "accuracy": hit.mean(),
        "mean_probability": p.mean(),
        "brier_of_the_label": ((p - hit) ** 2).mean(),
        "brier_prior": ((share - hit) ** 2).mean(),
        "ece": reliability_of(p, hit)[1],
        "ece_by_chance": np.mean([reliability_of(p, rng.random(len(p)) < p)[1] for _ in range(100)]),
        "ece_of_worst_turn": max(reliability_of(one.p, one.hit)[1] for one in turns if len(one.p)),
        "own_ece": np.mean([one.record.get("ece", np.nan) for one in turns]),
    }


def main() -> None:
    folders = [Path(name) for name in sys.argv[1:] if not name.startswith("-")]
    of = snare_rows if "--snare" in sys.argv else rows_of
    table = pd.DataFrame([row for folder in folders for row in of(folder)])
    known = pd.read_csv(RESULTS, sep="\t") if RESULTS.is_file() else pd.DataFrame()
    if len(known):
        known = known[~known["run"].isin(table["run"])]
    table = pd.concat([known, table], ignore_index=True).sort_values(["run", "shown"])
    table.to_csv(RESULTS, sep="\t", index=False, float_format="%.4g")
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3f}"))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
