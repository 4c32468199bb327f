"""Planted motifs of simulated cells: do they come first, and is anything called where nothing is?

    python -m benchmarks.quality.motifs_truth [--cells 1500 --seeds 20 --first 0 --table FILE]

Five factors open the peaks that hold their motif, fifteen decoys open none. Shuffled: motifs given to other peaks, or
groups to other cells. `null_below_0.01` and `_0.05` are shares of p of 200 sets of random peaks, as large as a motif's,
whose truth is nothing. Rows go to benchmarks/results/motifs_truth.tsv; one seed calls some 35 motifs, so that its share
of decoys goes in steps of 3 %: the mean over seeds, printed at the end, is what an FDR promises.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.places import RESULTS
from benchmarks.quality.links_truth import write_row
from scipy import sparse

from multivi_nf.export.peak_genes import parse_peaks
from multivi_nf.regulation import motifs
from multivi_nf.regulation.background import peak_properties
from multivi_nf.regulation.motif_files import read_motifs
from multivi_nf.regulation.sequence import peak_sequences
from multivi_nf.simulate import Options, simulated_mosaic
from multivi_nf.simulate.regulation import FACTORS, plant, write_regulation
from multivi_nf.simulate.world import build_world

SETS = 200


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--table", type=Path, default=RESULTS / "motifs_truth.tsv")
    given = parser.parse_args()
    for seed in range(given.first, given.first + given.seeds):
        options = Options(cells=given.cells, genes=300, peaks=3000, regulation=True, atac_fragments=2500.0, seed=seed)
        world = build_world(options)
        planted = plant(world, options)
        mosaic = simulated_mosaic(options)[0]
        atac, rng = mosaic["atac"], np.random.default_rng(seed)
        with tempfile.TemporaryDirectory() as name:
            for folder in ("genome", "truth"):
                (Path(name) / folder).mkdir()
            write_regulation(Path(name), world, planted, seed)
            known = read_motifs(Path(name) / "genome" / "motifs.meme")
            sequences = peak_sequences(Path(name) / "genome" / "genome.fa", parse_peaks(atac.var_names))
        kind = planted.factors.set_index("motif")["kind"].reindex([motif.id for motif in known]).to_numpy()
        total = np.asarray(atac.layers["counts"].sum(axis=0)).ravel()
        usable = np.flatnonzero(sequences.known & (total > 0))
        counts = sparse.csr_matrix(atac.layers["counts"])[:, usable]
        background = motifs.background_sets(peak_properties(total[usable], sequences.gc()[usable])[0], seed=seed)
        matches = motifs.scan([sequences.bases[k] for k in usable], known)
        groups = mosaic.obs["type"].loc[atac.obs_names]
        mixed = pd.Series(rng.permutation(groups), index=groups.index)
        other = matches[rng.permutation(len(usable))]
        null = by_chance(counts, matches, background, groups, rng)
        for name, held, of in (("no", matches, groups), ("peaks", other, groups), ("cells", matches, mixed)):
            deviation, z = motifs.deviations(counts, held, background)
            table = motifs.by_group(counts, held, background, of, deviation)
            order = motifs.variability(z)["variability"].sort_values(ascending=False).index
            called = table[table["fdr"] <= 0.05]
            row = {"seed": seed, "shuffled": name, "cells": len(groups), "peaks": len(usable), "motifs": len(known)}
            row["planted_among_first"] = f"{(kind[order[:FACTORS]] == 'factor').sum()} of {FACTORS}"
            row |= {
                "tested": len(table),
                "called": len(called),
                "decoys_called": int((kind[called["motif"]] == "decoy").sum()),
            }
            row["planted_called"] = int((kind[called["motif"]] == "factor").sum())
            for level in (0.01, 0.05):
                row[f"null_below_{level}"] = round(float((null <= level).mean()), 4) if name == "no" else ""
            write_row(given.table, row)
    told = pd.read_csv(given.table, sep="\t").query("shuffled == 'no'")
    wrong = told["decoys_called"] / told["called"].clip(lower=1)
    print(
        f"{len(told)} seeds: {wrong.mean():.4f} of the calls of a seed are decoys "
        f"(standard error {wrong.std(ddof=1) / len(told) ** 0.5:.4f}); "
        f"{told['decoys_called'].sum()} of {told['called'].sum()} over all seeds"
    )


def by_chance(counts, matches, background, groups, rng) -> np.ndarray:
    """Give p of `SETS` sets of random peaks, each as large as a motif's."""
    share = matches.mean()
    held = sparse.csr_matrix(rng.random((matches.shape[0], SETS)) < share)
    deviation, _ = motifs.deviations(counts, held, background)
    return motifs.by_group(counts, held, background, groups, deviation)["p"].to_numpy()


if __name__ == "__main__":
    main()
