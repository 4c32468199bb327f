"""Recall of a rare type's own peaks by `multivi-nf group-peaks`: with the true types, and with a run's own clusters.

    python -m benchmarks.quality.peaks_by_group [--seeds 0 1 2] [--clusters] [--whole] [--epochs 30]

5,000 simulated cells, 3 % of them of a rare type, as in `peaks_recall.py`. By default a tenth of the genome (chr21,
chr22, chrX, chrY) with a tenth of the peaks and fragments: as many fragments a peak, so that recall is that of the
whole, for a tenth of the time. `--clusters` counts the cells on the consensus, trains MultiVI on the counts, and takes
its Leiden clusters: with a tenth of a cell's fragments, a harder task than the whole genome's. Recall is that of the
merged set (consensus and new peaks): the share of true summits that lie in a peak, blacklist left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
from benchmarks.quality.peaks_recall import met

from multivi_nf.fragments.matrix import count_peaks
from multivi_nf.inputs.genome import load_genome, read_bed
from multivi_nf.peaks import call_peaks, merge_peaks, read_groups
from multivi_nf.regulation.cells import Source
from multivi_nf.regulation.group_peaks import Calling, peaks_by_group
from multivi_nf.testing.fragments_made import Plan, generate, read_truth

TENTH = {"fragments": 2_014_000, "peaks": 10_070, "rare_peaks": 101, "background": 10_000, "first_chrom": "chr21"}


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


def judge(name: str, peaks: pd.DataFrame, genome, true: pd.DataFrame, rare: np.ndarray) -> None:
    """Print recall of all true peaks and of the rare type's own, and precision."""
    middle = ((true["start"] + true["end"]) // 2).to_numpy()
    usable = ~met(middle, true["chrom"].to_numpy(), genome.blacklist)
    found = met(middle, true["chrom"].to_numpy(), peaks)
    right = met(((peaks["start"] + peaks["end"]) // 2).to_numpy(), peaks["chrom"].to_numpy(), true)
    own = np.isin(np.arange(len(true)), rare)
    print(
        f"{name}: {len(peaks)} peaks, recall {found[usable].mean():.3f}, precision {right.mean():.4f}, "
        f"recall of the rare type's {int((usable & own).sum())} own {found[usable & own].mean():.3f}",
        flush=True,
    )


def one(plan: Plan, options: argparse.Namespace, scratch: Path) -> None:
    """One simulation."""
    generate(plan, scratch)
    fragments, genome = scratch / "fragments.tsv.gz", load_genome("hg38", blacklist=scratch / "blacklist.bed")
    true, rare = read_bed(scratch / "peaks.bed"), read_truth(scratch)[0]["rare_own"]
    types = read_groups(scratch / "groups.tsv")
    summits = call_peaks([(fragments, dict.fromkeys(types, "all"))], genome)
    consensus = merge_peaks([summits.assign(summit=summits["start"])], genome)
    judge("all cells together", consensus, genome, true, rare)
    obs = pd.DataFrame({"type": list(types.values())}, index=[f"s:{cell}" for cell in types])
    ways = ["type"]
    if options.clusters:
        started = time.process_time()
        obs["cluster"] = clusters(fragments, consensus, list(types), genome, options.epochs, plan.seed)
        table = pd.crosstab(obs["cluster"], obs["type"])
        own = table[f"type_{plan.types - 1}"]
        best = own.idxmax()
        print(
            f"{len(table)} clusters ({time.process_time() - started:.0f} CPU s); {own[best] / own.sum():.2f} of the "
            f"rare type in one, of which it is {own[best] / table.loc[best].sum():.2f}",
            flush=True,
        )
        ways.append("cluster")
    for way in ways:
        groups = obs[way].astype(object)
        made = peaks_by_group(obs, groups, [Source("s", fragments)], genome, Calling(consensus))
        judge(f"and by {way}", made.merged, genome, true, rare)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--clusters", action="store_true")
    parser.add_argument("--whole", action="store_true", help="The whole genome: 20 M fragments.")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    for seed in options.seeds:
        print(f"seed {seed}", flush=True)
        with tempfile.TemporaryDirectory() as name:
            one(Plan(seed=seed, **({} if options.whole else TENTH)), options, Path(name))


if __name__ == "__main__":
    main()
