"""Gene activity against SnapATAC2's `make_gene_matrix` on the same fragments and genes: do the counts agree.

    PEER_PYTHON benchmarks/peers/gene_activity.py tests/data/mosaic/multiome_1 tests/data/mosaic/genome OURS.npz

OURS.npz is what `python benchmarks/peers/gene_activity.py --ours SAMPLE GENOME OURS.npz` wrote in the project's
environment; PEER_PYTHON is that of `make peers`. SnapATAC2 2.9 counts as we do: the body and 2,000 bp before it, a
fragment once where one of its cut sites lies in it (its default, paired insertions). Of a gene on the minus strand its
region ends one base earlier, at 1,999 bp: of 48 cells × 155 genes one entry differs for it, of 4,622 fragments.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import sparse


def ours(sample: Path, genome: Path, output: Path) -> None:
    """Count every barcode with 200 fragments."""
    import pandas as pd

    from multivi_nf.fragments.count import scan
    from multivi_nf.inputs.genome import load_genome
    from multivi_nf.regulation.cells import Source
    from multivi_nf.regulation.gene_activity import activity_from_fragments, gene_bodies, gene_regions

    known = load_genome(chrom_sizes=genome / "chrom.sizes")
    table = scan(sample / "fragments.tsv.gz", known).table
    cells = table.index[table["n_fragments"] >= 200]
    genes = gene_bodies(known, None, genome / "genes.gtf")
    regions = gene_regions(genes, known.chrom_sizes)
    names = pd.Index([f"s:{name}" for name in cells])
    counts = activity_from_fragments(names, [Source("s", sample / "fragments.tsv.gz")], regions, known)
    np.savez(
        output,
        cells=np.array(cells, str),
        genes=genes["id"].to_numpy(str),
        data=counts.data,
        indices=counts.indices,
        indptr=counts.indptr,
    )


def peer(sample: Path, genome: Path, stored: Path) -> None:
    """Count with SnapATAC2 and compare."""
    import snapatac2 as snap

    mine = np.load(stored)
    sizes = dict(line.split() for line in (genome / "chrom.sizes").read_text().splitlines())
    sizes = {name: int(size) for name, size in sizes.items()}
    data = snap.pp.import_fragments(
        sample / "fragments.tsv.gz",
        chrom_sizes=sizes,
        min_num_fragments=0,
        sorted_by_barcode=False,
        whitelist=mine["cells"].tolist(),
        chrM=["chrM"],
    )
    with tempfile.TemporaryDirectory() as scratch:
        gtf = Path(scratch) / "genes.gtf"  # it reads transcripts: here one a gene
        with gtf.open("w") as handle:
            for line in (genome / "genes.gtf").read_text().splitlines():
                fields = line.split("\t")
                if len(fields) == 9 and fields[0] != "chrM":
                    gene = fields[8].split('gene_id "')[1].split('"')[0]
                    names = (
                        f'gene_id "{gene}"; gene_name "{gene}"; transcript_id "t{gene}"; gene_type "protein_coding";'
                    )
                    for kind in ("gene", "transcript"):
                        handle.write("\t".join([*fields[:2], kind, *fields[3:8], names]) + "\n")
        matrix = snap.pp.make_gene_matrix(data, gtf, id_type="gene")
    theirs = sparse.csr_matrix(matrix.X[:])
    rows = {name: i for i, name in enumerate(matrix.obs_names)}
    columns = {name: i for i, name in enumerate(matrix.var_names)}
    theirs = theirs[[rows[name] for name in mine["cells"]]][:, [columns[name] for name in mine["genes"]]].toarray()
    shape = (len(mine["cells"]), len(mine["genes"]))
    counts = sparse.csr_matrix((mine["data"], mine["indices"], mine["indptr"]), shape).toarray()
    same = (counts == theirs).mean()
    print(f"{shape[0]} cells × {shape[1]} genes: {counts.sum()} fragments of ours, {theirs.sum()} of SnapATAC2's")
    print(f"entries that agree {same:.4f}, r = {np.corrcoef(counts.ravel(), theirs.ravel())[0, 1]:.5f}")
    if same < 1:
        at = np.argwhere(counts != theirs)
        print(f"{len(at)} differ, first {[(mine['genes'][j], counts[i, j], theirs[i, j]) for i, j in at[:8]]}")


if __name__ == "__main__":
    places = [Path(name) for name in sys.argv[1:] if not name.startswith("--")]
    (ours if "--ours" in sys.argv else peer)(*places)
