"""Run SnapATAC2 on a simulated fragments file; called by `fragments_speed.py` and `fragments_compare.py`.

`PEER_PYTHON benchmarks/peers/fragments_snapatac.py DIR OUTPUT.npz [--matrices]`, in an environment of its own.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import snapatac2 as snap
from scipy import sparse

SIZES = [
    248956422, 242193529, 198295559, 190214555, 181538259, 170805979, 159345973, 145138636, 138394717, 133797422,
    135086622, 133275309, 114364328, 107043718, 101991189, 90338345, 83257441, 80373285, 58617616, 64444167,
    46709983, 50818468, 156040895, 57227415, 16569,
]  # fmt: skip


def main() -> None:
    folder, output = Path(sys.argv[1]), sys.argv[2]
    sizes = dict(zip([f"chr{n}" for n in [*range(1, 23), "X", "Y", "M"]], SIZES))
    cells = (folder / "barcodes.txt").read_text().split()
    data = snap.pp.import_fragments(
        folder / "fragments.tsv.gz", chrom_sizes=sizes, min_num_fragments=0, sorted_by_barcode=False, whitelist=cells
    )
    with tempfile.TemporaryDirectory() as scratch:
        # its TSS enrichment takes genes from a GFF: one gene a start
        gff = Path(scratch) / "genes.gtf"
        with gff.open("w") as handle:
            for i, line in enumerate((folder / "tss.bed").read_text().splitlines()):
                chrom, start, _, _, _, strand = line.split("\t")
                at = int(start) + 1
                first, last = (at, at + 5000) if strand == "+" else (max(at - 5000, 1), at)
                names = f'gene_id "g{i}"; gene_name "g{i}"; transcript_id "t{i}"; gene_type "protein_coding";'
                for kind in ("gene", "transcript"):
                    handle.write(f"{chrom}\tx\t{kind}\t{first}\t{last}\t.\t{strand}\t.\t{names}\n")
        snap.metrics.tsse(data, gff)
    snap.metrics.frag_size_distr(data)
    snap.metrics.frip(data, {"frip": str(folder / "peaks.bed")})
    found = {
        "names": np.array(data.obs_names, dtype=str),
        "n_fragment": data.obs["n_fragment"].to_numpy(),
        "frac_dup": data.obs["frac_dup"].to_numpy(),
        "tsse": data.obs["tsse"].to_numpy(),
        "frip": data.obs["frip"].to_numpy(),
    }
    strategies = {"fragment": "fragment"}
    if "--matrices" in sys.argv:
        strategies["pic"] = "paired-insertion"
    for name, strategy in strategies.items():
        matrix = snap.pp.make_peak_matrix(data, peak_file=folder / "peaks.bed", counting_strategy=strategy)
        counts = sparse.csr_matrix(matrix.X[:])
        found |= {
            f"{name}_data": counts.data,
            f"{name}_indices": counts.indices,
            f"{name}_indptr": counts.indptr,
            f"{name}_peaks": np.array(matrix.var_names, dtype=str),
        }
    np.savez(output, **found)


if __name__ == "__main__":
    main()
