"""How well doublets are told from cells, against total counts: the simulator's doublets, RNA and ATAC.

    python -m benchmarks.quality.doublets

For each depth and seed the two multiome samples of `multivi-nf simulate` are drawn (4 % of their barcodes hold two
nuclei; doublets of two alike nuclei are among them), scored, and compared with the total counts of a cell. Prints the
area under the ROC curve of all doublets, and of those of two different types.
"""

from __future__ import annotations

import time
import warnings

import numpy as np
from sklearn.metrics import roc_auc_score

from multivi_nf.qc.doublets import score_atac, score_rna
from multivi_nf.simulate.cells import draw_cells
from multivi_nf.simulate.counts import peak_hits, peak_matrix, rna_counts
from multivi_nf.simulate.design import Options
from multivi_nf.simulate.world import build_world

DEPTHS = (("shallow (the default mosaic)", 1000, 540), ("medium", 2000, 1500), ("10x-like", 3000, 3000))


def main() -> None:
    warnings.simplefilter("ignore")
    for label, counts, fragments in DEPTHS:
        rows: dict[str, list[list[float]]] = {"rna": [], "atac": []}
        for seed in (0, 1):
            options = Options(cells=8000, genes=2000, rna_counts=counts, atac_fragments=fragments, seed=seed)
            world = build_world(options)
            for group in draw_cells(options)[:2]:
                rng = np.random.default_rng(seed)
                doublet = group.cells["doublet"].to_numpy(bool)
                partner = group.cells["doublet_partner"].to_numpy()
                unlike = ~doublet | (partner != group.cells["cell_type"].to_numpy())
                at, peaks = peak_hits(rng, world, group)
                for name, matrix, score in (
                    ("rna", rna_counts(rng, world, group), score_rna),
                    ("atac", peak_matrix(world, group, at, peaks), score_atac),
                ):
                    matrix = matrix.tocsr()
                    matrix.sum_duplicates()
                    started = time.process_time()
                    found = score(matrix, seed).score
                    seconds = time.process_time() - started
                    total = np.asarray(matrix.sum(axis=1)).ravel()
                    rows[name].append(
                        [
                            roc_auc_score(doublet, found),
                            roc_auc_score(doublet, total),
                            roc_auc_score(doublet[unlike], found[unlike]),
                            roc_auc_score(doublet[unlike], total[unlike]),
                            seconds,
                        ]
                    )
        for name, values in rows.items():
            ours, total, unlike, unlike_total, seconds = np.mean(values, axis=0)
            print(
                f"{label:30s} {name:5s} AUROC {ours:.3f}, total counts {total:.3f} ({ours - total:+.3f}); unlike types "
                f"{unlike:.3f}, total counts {unlike_total:.3f} ({unlike - unlike_total:+.3f}); {seconds:.1f} CPU s"
            )


if __name__ == "__main__":
    main()
