"""Time and memory of links and motifs on counts of a given size.

    python -m benchmarks.speed.regulation_cost links  [--cells 10000 --peaks 150000 --genes 20000]
    python -m benchmarks.speed.regulation_cost motifs [--cells 10000 --peaks 150000 --motifs 1019]

Counts are random (3 % of peaks, 8 % of genes seen in a cell), genes and peaks lie evenly on 2.7 Gb. Peak memory is the
process's, with the counts. Costs of links grow with genes x peaks (metacells: 1,000), those of deviations with entries
of counts x motifs a peak x 51 sets, those of the scan with bases x motifs.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.regulation import links, motifs
from multivi_nf.regulation.background import peak_properties
from multivi_nf.regulation.motif_files import Motif
from multivi_nf.regulation.pairs import Surroundings, near_pairs
from multivi_nf.regulation.units import make_units

LENGTH = 2_700_000_000


def random_counts(rng: np.random.Generator, cells: int, n: int, share: float) -> sparse.csr_matrix:
    """(cells, n) counts of one, `share` of each row, drawn by popularity."""
    each = int(share * n)
    popular = np.cumsum(rng.gamma(0.5, 1.0, n))
    columns = np.searchsorted(popular, rng.random((cells, each)) * popular[-1]).astype(np.int32)
    columns.sort(axis=1)
    data, indptr = np.ones(cells * each, np.int32), np.arange(cells + 1, dtype=np.int64) * each
    return sparse.csr_matrix((data, columns.ravel(), indptr), shape=(cells, n))


class Clock:
    """CPU seconds of each part, and peak memory so far."""

    def __init__(self) -> None:
        self.last = time.process_time()

    def tell(self, what: str) -> None:
        """Print what was done since the last call."""
        now = time.process_time()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{what}: {now - self.last:.1f} CPU s; peak memory so far {memory:.2f} GB", flush=True)
        self.last = now


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["links", "motifs"])
    for name, default in (("cells", 10_000), ("peaks", 150_000), ("genes", 20_000), ("motifs", 1019)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    rng, clock = np.random.default_rng(0), Clock()
    atac = random_counts(rng, given.cells, given.peaks, 0.03)
    start = np.sort(rng.integers(0, LENGTH - 500, given.peaks))
    peaks = pd.DataFrame(
        {"chrom": [f"chr{1 + k}" for k in start // (LENGTH // 20)], "start": start, "end": start + 500}
    )
    properties = peak_properties(np.asarray(atac.sum(axis=0)).ravel(), rng.uniform(0.3, 0.7, given.peaks))[0]
    clock.tell(f"counts of {given.cells} cells x {given.peaks} peaks, {atac.nnz / 1e6:.0f} M entries")
    if given.part == "links":
        rna = random_counts(rng, given.cells, given.genes, 0.08)
        at = rng.integers(0, LENGTH, given.genes)
        sites = pd.DataFrame(
            {
                "gene": np.arange(given.genes),
                "chrom": [f"chr{1 + k}" for k in at // (LENGTH // 20)],
                "pos": at,
                "strand": "+",
            }
        )
        names = pd.Index([f"s:{k}" for k in range(given.cells)])
        units = make_units(names, rng.normal(size=(given.cells, 10)), pd.Series("d", index=names))
        clock.tell(f"{len(units.stratum)} units")
        pairs = near_pairs(sites, peaks)
        clock.tell(f"{len(pairs.gene)} pairs of {given.genes} genes")
        table = links.peak_gene_links(
            links.expressed(rna, units), atac, units, Surroundings(pairs, sites, peaks, properties)
        )
        clock.tell(f"links ({int((table['fdr'] <= 0.05).sum())} called)")
        return
    bases = [rng.integers(0, 4, 500).astype(np.uint8) for _ in range(given.peaks)]
    words = [Motif(f"M{k}", f"M{k}", rng.dirichlet(np.full(4, 0.2), 11).T) for k in range(given.motifs)]
    clock.last = time.process_time()
    matches = motifs.scan(bases, words)
    clock.tell(
        f"scan of {given.peaks} x 500 bp for {given.motifs} motifs, {matches.nnz / given.peaks:.1f} motifs a peak"
    )
    background = motifs.background_sets(properties)
    clock.tell("background sets")
    found = motifs.deviations(atac, matches, background)
    clock.tell(f"deviations {found[0].shape}")


if __name__ == "__main__":
    main()
