"""Contrasts between donors, every donor its own batch: slope, FDR and recall against a pseudobulk negative binomial.

    python -m benchmarks.quality.between_batches [--modality rna protein] [--donors 3 5] [--seeds 0 1 2] [--keep DIR]
    python -m benchmarks.quality.between_batches --tests    # the replicates' test alone, which needs no model
    python -m benchmarks.quality.between_batches --kang     # control against interferon-beta, one batch a side

Simulated: two conditions of 3 or 5 donors, two cell types, genes of log-normal means, donors that differ by a log-
normal factor a gene (s.d. 0.15) and in depth, cells negative binomial (dispersion 0.3); a tenth of the genes is
changed in one condition by a factor of s.d. 0.8 (natural logarithm). Observed FDR is the share of called genes that
were not changed; recall at equal observed FDR takes each method's largest list with an observed FDR of at most 0.05
by its own order. Proteins (100 beside 300 genes): log-normal means, one type in two stains a protein tenfold, cells
negative binomial; a fifth is changed. What differs is the amount a cell, and the pseudobulk test's offset is the
logarithm of cells. A row a modality, number of donors and seed is written to `benchmarks/results/between_batches.tsv`.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
from dataclasses import dataclass
from pathlib import Path

import mudata as md
import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.places import DATA, RESULTS
from benchmarks.quality.common import threads
from benchmarks.quality.null_power import pseudobulk_test
from scipy import io, sparse

from multivi_nf.comparison.compare import differential
from multivi_nf.comparison.pseudobulk import false_discovery_rate, replicate_test
from multivi_nf.training import MultiVI, train

TABLE = RESULTS / "between_batches.tsv"
DONOR_SD, EFFECT_SD, CHANGED, DISPERSION = 0.15, 0.8, 0.1, 0.3
GENES, PROTEINS, CHANGED_PROTEINS = 300, 100, 0.2


@dataclass
class Made:
    """A mosaic of donors and what is true of one modality of it.

    Attributes
    ----------
    effect
        (n_features,) natural log fold changes that were put in.
    bulks
        (2 donors, n_features) sums of each donor's counts, targets first.
    size
        (2 donors,) offsets of the pseudobulk test: counts, or cells.
    by_cells
        Amounts a cell are compared, not shares.
    shift
        What all log fold changes of shares have in common, since libraries are composed of all genes.
    """

    mosaic: md.MuData
    effect: np.ndarray
    bulks: np.ndarray
    size: np.ndarray
    by_cells: bool
    shift: float


def simulate(donors: int, cells: int, genes: int, seed: int, proteins: int = 0) -> Made:
    """`donors` a side, `cells` each. With proteins the truth is that of proteins, and no gene is changed."""
    rng = np.random.default_rng(seed)
    mean = rng.lognormal(0, 1.2, genes)
    types = np.stack([mean * rng.lognormal(0, 0.5, genes) for _ in range(2)])
    effect = np.where(rng.random(genes) < CHANGED, rng.normal(0, EFFECT_SD, genes), 0.0) * (proteins == 0)
    stained = rng.lognormal(1.5, 1, proteins) * 10.0 ** rng.integers(2, size=(2, proteins))
    change = np.where(rng.random(proteins) < CHANGED_PROTEINS, rng.normal(0, EFFECT_SD, proteins), 0.0)
    counts, amounts, obs = [], [], []
    for donor in range(2 * donors):
        target = donor < donors
        profile = types * rng.lognormal(0, DONOR_SD, genes) * np.exp(effect * target)
        kind = rng.integers(2, size=cells)
        rate = profile[kind] / profile[kind].sum(1, keepdims=True)
        depth = rng.lognormal(np.log(1500) + rng.normal(0, 0.3), 0.4, (cells, 1))
        counts.append(_negative_binomial(rng, rate * depth))
        if proteins:
            amount = stained[kind] * rng.lognormal(0, DONOR_SD, proteins) * np.exp(change * target)
            amounts.append(_negative_binomial(rng, amount * rng.lognormal(0, 0.3, (cells, 1))))
        obs.append(pd.DataFrame({"batch": f"d{donor}", "condition": "AB"[not target], "type": kind.astype(str)}))
    table = pd.concat(obs, ignore_index=True)
    table.index = [f"{b}:c{i}" for i, b in enumerate(table["batch"])]
    parts = {"rna": _part(np.concatenate(counts), table, "g")}
    if proteins:
        parts["protein"] = _part(np.concatenate(amounts), table, "p")
    with md.set_options(pull_on_update=False):
        mosaic = md.MuData(parts)
    for column in table:
        mosaic.obs[column] = table[column].to_numpy()
    if proteins:
        bulks = np.stack([one.sum(0) for one in amounts])
        return Made(mosaic, change, bulks, np.full(2 * donors, float(cells)), True, 0.0)
    bulks = np.stack([one.sum(0) for one in counts])
    target, reference = bulks[:donors].sum(0), bulks[donors:].sum(0)
    same = effect == 0
    shift = np.log(target[same].sum() / target.sum()) - np.log(reference[same].sum() / reference.sum())
    return Made(mosaic, effect, bulks, bulks.sum(1).astype(float), False, float(shift))


def _negative_binomial(rng: np.random.Generator, mean: np.ndarray) -> np.ndarray:
    return rng.poisson(mean * rng.gamma(1 / DISPERSION, DISPERSION, mean.shape))


def _part(values: np.ndarray, table: pd.DataFrame, letter: str) -> AnnData:
    names = pd.DataFrame(index=[f"{letter}{i}" for i in range(values.shape[1])])
    return AnnData(sparse.csr_matrix(values.astype(np.int32)), pd.DataFrame(index=table.index), names)


def at_equal_fdr(order: np.ndarray, changed: np.ndarray, level: float = 0.05) -> float:
    """Recall of the longest list, by this order, that holds at most `level` of unchanged genes."""
    true = np.cumsum(changed[order])
    fine = np.flatnonzero(1 - true / np.arange(1, len(order) + 1) <= level)
    return float(true[fine[-1]] / changed.sum()) if len(fine) else 0.0


def called(significant: np.ndarray, changed: np.ndarray) -> tuple[float, float]:
    """Observed FDR and recall."""
    return float((~changed[significant]).mean()) if significant.any() else 0.0, float(significant[changed].mean())


def tests(made: Made, donors: int) -> dict[str, object]:
    """The replicates' test and the pseudobulk NB on the same donors' sums; no model has a part in either."""
    changed, sums = made.effect != 0, made.bulks.astype(float)
    sides = [{str(i): sums[i] for i in range(2 * donors) if (i < donors) == one} for one in (True, False)]
    cells = [{name: int(made.size[int(name)]) for name in side} for side in sides] if made.by_cells else None
    p = {
        "_of_replicates": replicate_test(*sides, (cells[0], cells[1]) if cells else None),
        "_nb": pseudobulk_test(*sides, np.arange(len(changed)), blocked=False, size=made.size),
    }
    found: dict[str, object] = {}
    for name, one in p.items():
        found[f"fdr{name}"], found[f"recall{name}"] = called(false_discovery_rate(one) <= 0.05, changed)
        found[f"recall_at_equal_fdr{name}"] = at_equal_fdr(np.argsort(one, kind="stable"), changed)
        found[f"null_p_below_0.05{name}"] = (one[~changed] < 0.05).mean()
    return found


def contrast(made: Made, model: MultiVI, modality: str, seed: int) -> dict[str, object]:
    """What `differential` makes of them."""
    table = differential(model, made.mosaic, modality, groupby="condition", target="A", reference="B", seed=seed)
    rank = {name: i for i, name in enumerate(table["feature"])}
    table = table.set_index("feature").loc[made.mosaic[modality].var_names]
    truth, changed = (made.effect + made.shift) / np.log(2), made.effect != 0
    inside = (table["effect_lower"] <= truth) & (truth <= table["effect_upper"])
    fdr, recall = called(table["significant"].to_numpy(bool), changed)
    return {
        "slope": np.polyfit(truth[changed], table["effect"][changed], 1)[0],
        "coverage": inside.mean(),
        "coverage_of_changed": inside[changed].mean(),
        "confounded": bool(table["confounded"].any()),
        "fdr": fdr,
        "recall": recall,
        "recall_at_equal_fdr": at_equal_fdr(np.argsort([rank[g] for g in table.index]), changed),
    }


def kang() -> md.MuData:
    """Control and stimulated cells of the Kang set, a batch each, with lineages by markers."""
    folder = DATA / "pbmc_two_labs_kang"
    counts, obs, names = [], [], None
    for batch in ("ctrl", "stim"):
        with gzip.open(folder / batch / "matrix.mtx.gz") as handle:
            counts.append(sparse.csr_matrix(io.mmread(handle).T))
        barcodes = pd.read_csv(folder / batch / "barcodes.tsv.gz", header=None)[0]
        lineage = pd.read_csv(folder / f"{batch}.cells.tsv.gz", sep="\t", index_col=0).iloc[:, 0].reindex(barcodes)
        obs.append(pd.DataFrame({"batch": batch, "lineage": lineage.to_numpy()}, [f"{batch}:{b}" for b in barcodes]))
        names = pd.read_csv(folder / batch / "features.tsv.gz", sep="\t", header=None)[1].to_numpy(str)
    table, values = pd.concat(obs), sparse.vstack(counts).tocsr().astype(np.int32)
    seen = np.asarray((values > 0).mean(0)).ravel() >= 0.01
    rna = AnnData(values[:, seen], pd.DataFrame(index=table.index), pd.DataFrame(index=names[seen]))
    with md.set_options(pull_on_update=False):
        mosaic = md.MuData({"rna": rna})
    mosaic.obs["batch"] = table["batch"].to_numpy()
    mosaic.obs["group"] = (table["lineage"] + " " + table["batch"]).to_numpy()
    return mosaic


def show_kang(epochs: int) -> None:
    mosaic = kang()
    model = MultiVI.from_mosaic(mosaic, seed=0)
    train(model, mosaic, seed=0, quiet=True, max_epochs=epochs)
    for lineage in ("T", "B", "NK", "myeloid"):
        table = differential(
            model, mosaic, "rna", groupby="group", target=f"{lineage} stim", reference=f"{lineage} ctrl"
        )
        lead = table.sort_values("effect", ascending=False)["feature"].tolist()
        places = {g: lead.index(g) + 1 for g in ("ISG15", "IFI6", "IFIT1", "IFIT2", "IFIT3")}
        print(
            lineage,
            "leads:",
            " ".join(lead[:12]),
            "| places",
            places,
            "| significant",
            int(table["significant"].sum()),
            "| confounded",
            bool(table["confounded"].all()),
            flush=True,
        )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--donors", type=int, nargs="+", default=[3, 5])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--cells", type=int, default=200, help="cells a donor")
    arguments.add_argument("--genes", type=int, default=1000)
    arguments.add_argument("--epochs", type=int, default=30)
    arguments.add_argument("--kang", action="store_true")
    arguments.add_argument("--modality", nargs="+", choices=["rna", "protein"], default=["rna", "protein"])
    arguments.add_argument("--tests", action="store_true", help="train no model; what stands in the table stays")
    arguments.add_argument("--keep", type=Path, help="folder of trained models")
    chosen = arguments.parse_args()
    threads(1)
    if chosen.kang:
        show_kang(chosen.epochs)
        return
    for modality, donors, seed in itertools.product(chosen.modality, chosen.donors, chosen.seeds):
        protein = modality == "protein"
        made = simulate(donors, chosen.cells, GENES if protein else chosen.genes, seed, PROTEINS * protein)
        found = {"modality": modality, "donors": donors, "seed": seed} | tests(made, donors)
        if not chosen.tests:
            model = _trained(chosen.keep, f"between-{modality}-{donors}-{seed}", made.mosaic, seed, chosen.epochs)
            found |= contrast(made, model, modality, seed)
        print({k: v if isinstance(v, str) else round(float(v), 3) for k, v in found.items()}, flush=True)
        known = pd.read_csv(TABLE, sep="\t") if TABLE.is_file() else pd.DataFrame(columns=list(found))
        again = (known[["modality", "donors", "seed"]] == [modality, donors, seed]).all(axis=1)
        for former in known[again].to_dict("records"):
            found = former | found
        rows = pd.concat([known[~again].astype(object), pd.DataFrame([found], dtype=object)], ignore_index=True)
        rows = rows.sort_values(["modality", "donors", "seed"], ascending=[False, True, True])
        rows.to_csv(TABLE, sep="\t", index=False, float_format="%.4g")


def _trained(folder: Path | None, name: str, mosaic: md.MuData, seed: int, epochs: int) -> MultiVI:
    place = folder / name if folder else None
    if place is not None and (place / "config.json").is_file():
        return MultiVI.load(place)
    model = MultiVI.from_mosaic(mosaic, seed=seed, n_latent=10, n_hidden=64)
    train(model, mosaic, seed=seed, quiet=True, max_epochs=epochs)
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
        model.save(place)
    return model


if __name__ == "__main__":
    main()
