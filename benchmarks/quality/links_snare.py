"""Peak-gene links of SNARE-seq cells (mouse cortex): do called peaks lie at promoters, and at the gene named nearest?

    python -m benchmarks.quality.links_snare FOLDER       rna.h5ad, atac.h5ad (README of the data set)

Over 6,968 cells as 1,000 metacells of PCA of RNA and LSI of ATAC (a run uses the joint latent space), within batches.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anndata as ad
import numpy as np
from scipy import sparse
from scipy.stats import fisher_exact
from sklearn.decomposition import TruncatedSVD

from multivi_nf.export.normalise import log_normalised
from multivi_nf.export.peak_genes import DOWNSTREAM, UPSTREAM, parse_peaks
from multivi_nf.regulation import links
from multivi_nf.regulation.background import peak_properties
from multivi_nf.regulation.find_links import gene_places
from multivi_nf.regulation.pairs import Surroundings, match_genes, near_pairs
from multivi_nf.regulation.units import make_units


def main() -> None:
    folder = Path(sys.argv[1])
    rna, atac = (ad.read_h5ad(folder / f"{name}.h5ad") for name in ("rna", "atac"))
    atac = atac[rna.obs_names]
    counts = [sparse.csr_matrix(data.X).astype(np.int32) for data in (rna, atac)]
    parts = []
    for values, name in zip(counts, ("rna", "atac")):
        found = TruncatedSVD(16, random_state=0).fit_transform(log_normalised(values, name))[:, 1:]
        parts.append(found / found[:, 0].std())
    units = make_units(rna.obs_names, np.hstack(parts), rna.obs["batch"])
    peaks = parse_peaks(atac.var_names)
    sites = match_genes(rna.var, gene_places("mm10", None, None))
    pairs = near_pairs(sites, peaks)
    properties = peak_properties(
        np.asarray(counts[1].sum(axis=0)).ravel(), None, (peaks["end"] - peaks["start"]).to_numpy()
    )[0]
    table = links.peak_gene_links(
        links.expressed(counts[0], units), counts[1], units, Surroundings(pairs, sites, peaks, properties)
    )
    seen = np.isfinite(table["z"].to_numpy())
    nearest = atac.var["nearest_gene"].astype(str).to_numpy()[pairs.peak] == rna.var_names.to_numpy()[pairs.gene]
    kinds = {
        "promoter of the gene": (pairs.distance >= -UPSTREAM) & (pairs.distance <= DOWNSTREAM),
        "nearest_gene": nearest,
    }
    print(f"{len(units.stratum)} metacells of {len(rna)} cells, {len(sites)} start sites, {seen.sum()} pairs")
    chosen = {f"FDR {level}": np.asarray(table["fdr"] <= level) for level in (0.05, 0.1)}
    chosen["the 500 highest z"] = np.asarray(table["z"].rank(ascending=False) <= 500)
    for kind, there in kinds.items():
        for name, called in chosen.items():
            inside = [
                [(called & there & seen).sum(), (called & ~there & seen).sum()],
                [(~called & there & seen).sum(), (~called & ~there & seen).sum()],
            ]
            odds, p = fisher_exact(inside)
            share = inside[0][0] / max(sum(inside[0]), 1)
            said = f"{share:.3f} of {sum(inside[0])}, {there[seen].mean():.3f} of all"
            print(f"{kind}: {name}: {said}; odds ratio {odds:.1f}, p {p:.1g}")


if __name__ == "__main__":
    main()
