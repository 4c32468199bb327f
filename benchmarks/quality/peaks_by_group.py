"""Recall of a rare type's own peaks by `multivi-nf group-peaks`: with the true types, and with a run's own clusters.

    python -m benchmarks.quality.peaks_by_group [--seeds 0 1 2] [--clusters] [--donors 3] [--first-chrom chr21]

5,000 simulated cells, 3 % of them of a rare type, as in `peaks_recall.py`. By default a tenth of the genome (chr21,
chr22, chrX, chrY) with a tenth of the peaks and fragments: as many fragments a peak, so that recall is that of the
whole, for a tenth of the time; `--first-chrom chr1` is the whole, 20 M fragments. `--clusters` counts the cells on the
consensus, trains MultiVI on the counts, and takes its Leiden clusters: with a tenth of a cell's fragments, a harder
task than the whole genome's. Cells are dealt to `--donors` at random (three: 50 of the rare type each, so that the rule
of replicates acts); 0: no donor is known. Recall is that of the merged set (consensus and new peaks): the share of true
summits that lie in a peak, blacklist left out. Rows go to benchmarks/results/peaks_by_group.tsv.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
from benchmarks.places import RESULTS
from benchmarks.quality.links_truth import write_row
from benchmarks.quality.peaks_recall import met

from multivi_nf.fragments.matrix import count_peaks
from multivi_nf.inputs.chromosomes import SIZES
from multivi_nf.inputs.genome import load_genome
from multivi_nf.inputs.intervals import read_bed
from multivi_nf.peaks import call_peaks, merge_peaks, read_groups
from multivi_nf.regulation.cells import Source
from multivi_nf.regulation.group_peaks import Calling, peaks_by_group
from multivi_nf.testing.fragments_made import Plan, generate, read_truth


def part_of_genome(first_chrom: str, seed: int) -> tuple[Plan, float]:
    """The plan of the chromosomes from this one on, with their share of everything; and that share."""
    sizes = {name: size for name, size in SIZES["hg38"].items() if name != "chrM"}
    names = list(sizes)
    share = sum(sizes[name] for name in names[names.index(first_chrom) :]) / sum(sizes.values())
    whole = Plan()
    numbers = {name: round(share * getattr(whole, name)) for name in ("fragments", "peaks", "rare_peaks", "background")}
    return Plan(seed=seed, first_chrom=first_chrom, **numbers), share


def clusters(fragments: Path, consensus: pd.DataFrame, cells: list[str], genome, epochs: int, seed: int) -> list[str]:
    """Leiden clusters of MultiVI's latent space, trained on the counts alone."""
    import multivi_nf as mv
    from multivi_nf.latent.annotate import umap_and_clusters

    counts = count_peaks(fragments, consensus, cells, genome)
    open_in = np.asarray((counts.X > 0).sum(axis=0)).ravel()
    counts = counts[:, open_in >= 0.01 * len(cells)].copy()
    mosaic = mv.read_mosaic(mudata.MuData({"atac": ad.AnnData(counts.X, obs=counts.obs[[]], var=counts.var[[]])}))
    model = mv.MultiVI.from_mosaic(mosaic)
    mv.train(model, mosaic, max_epochs=epochs, seed=seed)
    return umap_and_clusters(mv.embed(model, mosaic).mean, 1.0, seed)[1]


def judge(peaks: pd.DataFrame, genome, true: pd.DataFrame, rare: np.ndarray) -> dict[str, object]:
    """Recall of all true peaks and of the rare type's own, and precision."""
    middle = ((true["start"] + true["end"]) // 2).to_numpy()
    usable = ~met(middle, true["chrom"].to_numpy(), genome.blacklist)
    found = met(middle, true["chrom"].to_numpy(), peaks)
    right = met(((peaks["start"] + peaks["end"]) // 2).to_numpy(), peaks["chrom"].to_numpy(), true)
    own = np.isin(np.arange(len(true)), rare)
    return {
        "peaks": len(peaks),
        "recall": round(float(found[usable].mean()), 3),
        "precision": round(float(right.mean()), 4),
        "rare_own": int((usable & own).sum()),
        "rare_recall": round(float(found[usable & own].mean()), 3),
    }


def spent() -> float:
    """CPU seconds of this process and of MACS3."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def one(plan: Plan, share: float, options: argparse.Namespace, scratch: Path) -> None:
    """One simulation."""
    generate(plan, scratch)
    started = spent()
    fragments, genome = scratch / "fragments.tsv.gz", load_genome("hg38", blacklist=scratch / "blacklist.bed")
    true, rare = read_bed(scratch / "peaks.bed"), read_truth(scratch)[0]["rare_own"]
    types = read_groups(scratch / "groups.tsv")
    row = {"seed": plan.seed, "genome_share": round(share, 3), "cells": plan.cells, "fragments": plan.fragments}

    def tell(way: str, peaks: pd.DataFrame, donors: int, note: str = "") -> None:
        found = judge(peaks, genome, true, rare)
        last = {"cpu_s": round(spent() - started), "note": note}
        write_row(options.table, row | {"groups": way, "donors": donors} | found | last)

    summits = call_peaks([(fragments, dict.fromkeys(types, "all"))], genome)
    consensus = merge_peaks([summits.assign(summit=summits["start"])], genome)
    tell("none", consensus, 0)
    obs = pd.DataFrame({"type": list(types.values())}, index=[f"s:{cell}" for cell in types])
    if options.donors:
        drawn = np.random.default_rng(plan.seed).integers(0, options.donors, len(obs))
        obs["donor"] = [f"donor_{k}" for k in drawn]
    ways = {"type": ""}
    if options.clusters:
        obs["cluster"] = clusters(fragments, consensus, list(types), genome, options.epochs, plan.seed)
        table = pd.crosstab(obs["cluster"], obs["type"])
        own = table[f"type_{plan.types - 1}"]
        best = own.idxmax()
        ways["cluster"] = (
            f"{len(table)} clusters; {own[best] / own.sum():.2f} of the rare type in one, "
            f"of which it is {own[best] / table.loc[best].sum():.2f}"
        )
    for way, note in ways.items():
        made = peaks_by_group(obs, obs[way].astype(object), [Source("s", fragments)], genome, Calling(consensus))
        tell(way, made.merged, options.donors, note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--clusters", action="store_true")
    parser.add_argument("--donors", type=int, default=3)
    parser.add_argument("--first-chrom", default="chr21", choices=list(SIZES["hg38"]))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--table", type=Path, default=RESULTS / "peaks_by_group.tsv")
    options = parser.parse_args()
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as name:
            one(*part_of_genome(options.first_chrom, seed), options, Path(name))


if __name__ == "__main__":
    main()
