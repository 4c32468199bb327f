"""Hold one pass against SnapATAC2 in its own environment and against the simulation's exact truth.

    python -m benchmarks.peers.fragments_compare --peer PYTHON [--fragments 2000000] [--data DIR]

Says how many of the cells and entries differ: fragments, duplicates, FRiP and the `fragment` and `pic` matrices should
be equal; SnapATAC2's TSS enrichment is computed from our raw numbers by its formula, and the correlation is given.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from benchmarks.speed.fragments_speed import SNAPATAC, simulated
from scipy import sparse

from multivi_nf.fragments.count import scan
from multivi_nf.inputs.genome import load_genome
from multivi_nf.inputs.intervals import read_bed
from multivi_nf.testing.fragments_made import read_truth


def against_truth(folder: Path, found, matrices: dict) -> None:
    """Print the differences from the truth."""
    truth, exact = read_truth(folder)
    table = found.table.reindex(truth["names"]).fillna(0)
    for name, column in (("fragments", "n_fragments"), ("reads", "n_reads"), ("mito", "n_mito")):
        wrong = int((table[column].to_numpy() != truth[name]).sum())
        print(f"truth: {name} differ in {wrong} of {len(table)} barcodes")
    for name, matrix in matrices.items():
        print(f"truth: {name} matrix differs in {(matrix != exact[name]).nnz} of {exact[name].nnz} entries")


def against_peer(peer, table, matrices: dict, peaks) -> None:
    """Print the differences from SnapATAC2."""
    own = table.loc[peer["names"]]
    n = len(own)
    print(f"SnapATAC2: {n} cells")
    print(f"  n_fragment differs in {int((own['n_fragments'].to_numpy() != peer['n_fragment']).sum())}")
    # SnapATAC2's FRiP is the share of all fragments, mitochondrial ones included; ours that of the nuclear ones
    frip = own["n_in_peaks"] / (own["n_fragments"] + own["n_mito"])
    for name, values in (("frac_dup", own["duplicate_fraction"]), ("frip by its formula", frip)):
        print(f"  {name}: largest difference {np.abs(values.to_numpy() - peer[name.split()[0]]).max():.2g}")
    tsse = (own["n_tss_core"] / 11) / (own["n_flank"] / 200 + 0.1)
    print(
        f"  tsse by its formula: correlation {np.corrcoef(tsse, peer['tsse'])[0, 1]:.4f}, "
        f"largest difference {np.abs(tsse - peer['tsse']).max():.3g}"
    )
    print(f"  tsse, ours against its: correlation {np.corrcoef(own['tsse'], peer['tsse'])[0, 1]:.4f}")
    names = [f"{c}:{s}-{e}" for c, s, e in zip(peaks["chrom"], peaks["start"], peaks["end"])]
    column = {name: i for i, name in enumerate(names)}
    row = {name: i for i, name in enumerate(table.index)}
    rows = np.array([row[name] for name in peer["names"]])
    for name in ("fragment", "pic"):
        columns = np.array([column[peak] for peak in peer[f"{name}_peaks"]])
        parts = tuple(peer[f"{name}_{part}"] for part in ("data", "indices", "indptr"))
        theirs = sparse.csr_matrix(parts, shape=(n, len(columns)))
        ours = matrices[name][rows][:, columns]
        print(f"  {name} matrix: {(ours != theirs).nnz} of {theirs.nnz} entries differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fragments", type=int, default=2_000_000)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "multivi_nf_fragments")
    parser.add_argument("--peer", help="python of an environment with snapatac2")
    options = parser.parse_args()
    folder = simulated(options.data, options, "10x")
    genome = load_genome("hg38", tss=folder / "tss.bed", blacklist=folder / "blacklist.bed")
    cells = (folder / "barcodes.txt").read_text().split()
    peaks = read_bed(folder / "peaks.bed")
    path = folder / "fragments.tsv.gz"
    found = scan(path, genome, barcodes=cells, peaks=peaks)
    matrices = {"fragment": found.matrix}
    for name in ("insertion", "pic"):
        only = scan(path, genome, barcodes=cells, only_these=True, peaks=peaks, strategy=name, quality=False)
        matrices[name] = only.matrix
    against_truth(folder, found, matrices)
    if options.peer:
        with tempfile.TemporaryDirectory() as scratch:
            output = f"{scratch}/peer.npz"
            subprocess.run([options.peer, "-m", SNAPATAC, str(folder), output, "--matrices"], check=True)
            against_peer(dict(np.load(output)), found.table, matrices, peaks)


if __name__ == "__main__":
    main()
