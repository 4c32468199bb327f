"""Contrasts between donors, every donor its own batch: slope, FDR and recall against a pseudobulk negative binomial.

    python -m benchmarks.quality.between_batches [--donors 3 5] [--seeds 0 1 2] [--output TABLE]
    python -m benchmarks.quality.between_batches --kang     # control against interferon-beta, one batch a side

Simulated: two conditions of 3 or 5 donors, two cell types, genes of log-normal means, donors that differ by a log-
normal factor a gene (s.d. 0.15) and in depth, cells negative binomial (dispersion 0.3); a tenth of the genes is
changed in one condition by a factor of s.d. 0.8 (natural logarithm). Observed FDR is the share of called genes that
were not changed; recall at equal observed FDR takes each method's largest list with an observed FDR of at most 0.05
by its own order.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import mudata as md
import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.places import DATA
from benchmarks.quality.common import threads
from benchmarks.quality.null_power import pseudobulk_test
from scipy import io, sparse

from multivi_nf.comparison.compare import differential
from multivi_nf.comparison.pseudobulk import false_discovery_rate
from multivi_nf.training import MultiVI, train

DONOR_SD, EFFECT_SD, CHANGED, DISPERSION = 0.15, 0.8, 0.1, 0.3


def simulate(donors: int, cells: int, genes: int, seed: int) -> tuple[md.MuData, np.ndarray, np.ndarray]:
    """Mosaic of `donors` a side, `cells` each; natural log fold changes that were put in; donors' sums (rows)."""
    rng = np.random.default_rng(seed)
    mean = rng.lognormal(0, 1.2, genes)
    types = np.stack([mean * rng.lognormal(0, 0.5, genes) for _ in range(2)])
    effect = np.where(rng.random(genes) < CHANGED, rng.normal(0, EFFECT_SD, genes), 0.0)
    counts, obs = [], []
    for donor in range(2 * donors):
        target = donor < donors
        profile = types * rng.lognormal(0, DONOR_SD, genes) * np.exp(effect * target)
        kind = rng.integers(2, size=cells)
        rate = profile[kind] / profile[kind].sum(1, keepdims=True)
        depth = rng.lognormal(np.log(1500) + rng.normal(0, 0.3), 0.4, (cells, 1))
        counts.append(rng.poisson(rate * depth * rng.gamma(1 / DISPERSION, DISPERSION, (cells, genes))))
        obs.append(pd.DataFrame({"batch": f"d{donor}", "condition": "AB"[not target], "type": kind.astype(str)}))
    values, table = np.concatenate(counts), pd.concat(obs, ignore_index=True)
    table.index = [f"{b}:c{i}" for i, b in enumerate(table["batch"])]
    rna = AnnData(
        sparse.csr_matrix(values.astype(np.int32)),
        pd.DataFrame(index=table.index),
        pd.DataFrame(index=[f"g{i}" for i in range(genes)]),
    )
    with md.set_options(pull_on_update=False):
        mosaic = md.MuData({"rna": rna})
    for column in table:
        mosaic.obs[column] = table[column].to_numpy()
    return mosaic, effect, np.stack([one.sum(0) for one in counts])


def at_equal_fdr(order: np.ndarray, changed: np.ndarray, level: float = 0.05) -> float:
    """Recall of the longest list, by this order, that holds at most `level` of unchanged genes."""
    true = np.cumsum(changed[order])
    fine = np.flatnonzero(1 - true / np.arange(1, len(order) + 1) <= level)
    return float(true[fine[-1]] / changed.sum()) if len(fine) else 0.0


def called(significant: np.ndarray, changed: np.ndarray) -> tuple[float, float]:
    """Observed FDR and recall."""
    return float((~changed[significant]).mean()) if significant.any() else 0.0, float(significant[changed].mean())


def row(donors: int, cells: int, genes: int, seed: int, epochs: int) -> dict[str, float]:
    mosaic, effect, bulks = simulate(donors, cells, genes, seed)
    model = MultiVI.from_mosaic(mosaic, seed=seed, n_latent=10, n_hidden=64)
    train(model, mosaic, seed=seed, quiet=True, max_epochs=epochs)
    table = differential(model, mosaic, "rna", groupby="condition", target="A", reference="B", seed=seed)
    rank = {name: i for i, name in enumerate(table["feature"])}
    table = table.set_index("feature").loc[[f"g{i}" for i in range(genes)]]
    # libraries are composed of all genes: the truth is that of shares
    shift = np.log(bulks[:donors].sum(0)[effect == 0].sum() / bulks[:donors].sum()) - np.log(
        bulks[donors:].sum(0)[effect == 0].sum() / bulks[donors:].sum()
    )
    truth, changed = (effect + shift) / np.log(2), effect != 0
    sides = [{str(i): bulks[i] for i in range(2 * donors) if (i < donors) == one} for one in (True, False)]
    p = pseudobulk_test(*sides, np.arange(genes), blocked=False)
    ours = called(table["significant"].to_numpy(bool), changed)
    theirs = called(false_discovery_rate(p) <= 0.05, changed)
    inside = (table["effect_lower"] <= truth) & (truth <= table["effect_upper"])
    return {
        "donors": donors,
        "seed": seed,
        "slope": np.polyfit(truth[changed], table["effect"][changed], 1)[0],
        "coverage": inside.mean(),
        "coverage_of_changed": inside[changed].mean(),
        "confounded": bool(table["confounded"].any()),
        "fdr": ours[0],
        "recall": ours[1],
        "fdr_nb": theirs[0],
        "recall_nb": theirs[1],
        "recall_at_equal_fdr": at_equal_fdr(np.argsort([rank[g] for g in table.index]), changed),
        "recall_at_equal_fdr_nb": at_equal_fdr(np.argsort(p, kind="stable"), changed),
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
    arguments.add_argument("--output", type=Path, help="table to write")
    chosen = arguments.parse_args()
    threads(1)
    if chosen.kang:
        show_kang(chosen.epochs)
        return
    rows = []
    for donors in chosen.donors:
        for seed in chosen.seeds:
            rows.append(row(donors, chosen.cells, chosen.genes, seed, chosen.epochs))
            print({k: round(float(v), 3) for k, v in rows[-1].items()}, flush=True)
    if chosen.output:
        pd.DataFrame(rows).to_csv(chosen.output, sep="\t", index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
