"""Planted peak-gene links of simulated cells: found or not, and how many of the calls are wrong.

    python -m benchmarks.quality.links_truth [--cells 4000 --seeds 3 --fragments 4000 --counts 3000 --table FILE]

Rows go to benchmarks/results/links_truth.tsv.

Cells with both modalities are 38 % of --cells. AUROC: planted links against pairs that are none. Observed FDR: called
pairs that are neither planted nor otherwise true (peaks that follow their nearest gene, targets of a factor). Shuffled:
peaks of other cells of the same donor. Metacells (over 2,000 paired cells) are of true states with noise, no model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.places import RESULTS
from scipy import sparse, stats
from sklearn.metrics import roc_auc_score

from multivi_nf.export.peak_genes import parse_peaks
from multivi_nf.regulation import links
from multivi_nf.regulation.background import peak_properties
from multivi_nf.regulation.pairs import Surroundings, match_genes, near_pairs
from multivi_nf.regulation.units import make_units
from multivi_nf.simulate import Options, simulated_mosaic


def keys(gene: np.ndarray, peak: np.ndarray) -> np.ndarray:
    return np.asarray(gene) * 1_000_000 + np.asarray(peak)


def write_row(path: Path, row: dict[str, object]) -> None:
    """Append a row to the table, and print it."""
    table = pd.DataFrame([row])
    table.to_csv(path, sep="\t", index=False, mode="a", header=not path.exists())
    print(table.to_string(index=False), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fragments", type=float, default=4000)
    parser.add_argument("--counts", type=float, default=3000)
    parser.add_argument("--table", type=Path, default=RESULTS / "links_truth.tsv")
    given = parser.parse_args()
    for seed in range(given.seeds):
        options = Options(
            cells=given.cells, regulation=True, atac_fragments=given.fragments, rna_counts=given.counts, seed=seed
        )
        mosaic, truth = simulated_mosaic(options)
        rna, atac = mosaic["rna"], mosaic["atac"]
        cells = rna.obs_names.intersection(atac.obs_names)
        rng = np.random.default_rng(seed)
        states = truth.states[truth.rows(cells)]
        units = make_units(cells, states + rng.normal(0, 0.2, states.shape), mosaic.obs["donor"])
        genes = truth.genes[truth.genes["chrom"] != "chrM"]
        places = pd.DataFrame(
            {
                "chrom": genes["chrom"],
                "pos": genes["position"],
                "strand": genes["strand"],
                "symbol": genes["symbol"],
                "id": genes.index,
            }
        )
        sites, peaks = match_genes(rna.var, places), parse_peaks(atac.var_names)
        pairs = near_pairs(sites, peaks)
        counts = sparse.csr_matrix(atac[cells].layers["counts"])
        properties = peak_properties(np.asarray(counts.sum(axis=0)).ravel())[0]
        known, pair = truth.planted.links, keys(pairs.gene, pairs.peak)
        true = np.isin(pair, keys(known["gene"], known["peak"]))
        planted = np.isin(pair, keys(*known.loc[known["kind"] == "planted", ["gene", "peak"]].to_numpy().T))
        order = rng.permutation(len(cells))
        donor = pd.factorize(mosaic.obs.loc[cells, "donor"])[0]
        mixed = np.empty(len(cells), int)
        mixed[np.argsort(donor, kind="stable")] = order[np.argsort(donor[order], kind="stable")]
        for name, rows in (("paired", np.arange(len(cells))), ("shuffled", mixed)):
            expressed = links.expressed(sparse.csr_matrix(rna[cells].X), units)
            around = Surroundings(pairs, sites, peaks, properties)
            table = links.peak_gene_links(expressed, counts[rows], units, around, seed=seed)
            z = table["z"].to_numpy()
            seen = np.isfinite(z)
            row = {"seed": seed, "pairs_of_cells": name, "cells": len(cells), "units": len(units.stratum)}
            row |= {"pairs": int(seen.sum()), "planted": int(planted.sum()), "true": int(true.sum())}
            for kind, chosen in (("planted", planted), ("true", true)):
                rows_of = seen & (chosen | ~true)
                row[f"auroc_{kind}"] = round(roc_auc_score(chosen[rows_of], z[rows_of]), 4)
            normal = np.ones(len(z))
            normal[seen] = stats.false_discovery_control(2 * stats.norm.sf(np.abs(z[seen])))
            for name_of, fdr, level in (
                ("", table["fdr"], 0.05),
                ("", table["fdr"], 0.1),
                ("_by_the_normal", normal, 0.05),
            ):
                called = np.asarray(fdr <= level)
                wrong, found = (~true)[called].sum() / max(called.sum(), 1), planted[called].sum() / planted.sum()
                row |= {f"called_{level}{name_of}": int(called.sum()), f"wrong_{level}{name_of}": round(wrong, 4)}
                row[f"found_{level}{name_of}"] = round(found, 4)
            write_row(given.table, row)


if __name__ == "__main__":
    main()
