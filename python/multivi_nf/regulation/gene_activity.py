"""Accessibility over genes: a first guess at expression where only ATAC was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.errors import option
from multivi_nf.export.normalise import log_normalised
from multivi_nf.fragments.matrix import count_peaks
from multivi_nf.inputs.chromosomes import harmonise
from multivi_nf.inputs.genome import BUILT_IN, Genome, known_genes
from multivi_nf.regulation.cells import Source, matched
from multivi_nf.regulation.possible import NotPossible

PROMOTER = 2_000
"""bp before a gene's start that count as the gene, as in ArchR's, Signac's and SnapATAC2's gene scores."""

SCALE = "ln(1 + per 10,000 of the cell's total over all genes)"


def gene_bodies(genome: Genome, name: str | None, gtf: Path | None) -> pd.DataFrame:
    """Read where genes begin and end, in the genome's names of chromosomes.

    Parameters
    ----------
    genome
        Chromosome sizes.
    name
        A built-in assembly whose genes serve where no file is given.
    gtf
        GTF or GFF3; protein-coding genes where it tells them.

    Returns
    -------
    `chrom`, `start`, `end` (0-based half-open), `strand`, `id`, `symbol`; nuclear genes in the genome's order.

    Raises
    ------
    NotPossible
        No annotation, or none of its genes lies on a chromosome of the genome.
    """
    genes = known_genes(name, gtf)
    if genes is None:
        raise NotPossible(
            f"there is no annotation of genes (start sites, {option('tss')}, do not say where genes end)",
            "accessibility is added up over a gene's body and promoter",
            f"give {option('gtf')} GTF, or {option('genome')} {', '.join(BUILT_IN)}",
        )
    mapping = harmonise(genes["chrom"].unique(), genome.chrom_sizes, genome.style)
    genes = genes[genes["chrom"].isin(mapping)].assign(chrom=lambda frame: frame["chrom"].map(mapping))
    genes = genes[~genes["chrom"].map(genome.mitochondrial).to_numpy(bool)]
    genes = genes[genes["start"].to_numpy() < genes["chrom"].map(genome.chrom_sizes).to_numpy()]
    if genes.empty:
        raise NotPossible(
            "none of the annotation's genes lies on a chromosome of the genome",
            "no gene would have any fragment",
            f"give an annotation ({option('gtf')}) of the assembly that the fragments were aligned to",
        )
    order = {chrom: i for i, chrom in enumerate(genome.chrom_sizes)}
    columns = ["chrom", "start", "end", "strand", "id", "symbol"]
    genes = genes.assign(rank=genes["chrom"].map(order)).sort_values(["rank", "start", "end", "symbol"], kind="stable")
    return genes[columns].drop_duplicates().reset_index(drop=True)


def gene_regions(genes: pd.DataFrame, chrom_sizes: dict[str, int], promoter: int = PROMOTER) -> pd.DataFrame:
    """Give each gene's body with the bp before its start, cut at the chromosome's ends.

    Returns
    -------
    `chrom`, `start`, `end`, in the order of `genes`.

    Examples
    --------
    >>> import pandas as pd
    >>> genes = pd.DataFrame({"chrom": "chr1", "start": [5000, 5000], "end": [8000, 8000], "strand": ["+", "-"]})
    >>> gene_regions(genes, {"chr1": 9000})
      chrom  start   end
    0  chr1   3000  8000
    1  chr1   5000  9000
    """
    minus = genes["strand"].to_numpy() == "-"
    start = np.where(minus, genes["start"], genes["start"] - promoter)
    end = np.where(minus, genes["end"] + promoter, genes["end"])
    size = genes["chrom"].map(chrom_sizes).to_numpy()
    return pd.DataFrame(
        {"chrom": genes["chrom"].to_numpy(), "start": np.maximum(start, 0), "end": np.minimum(end, size)}
    )


def overlaps(peaks: pd.DataFrame, regions: pd.DataFrame) -> sparse.csr_matrix:
    """Tell which peaks overlap which regions.

    Parameters
    ----------
    peaks, regions
        `chrom`, `start`, `end`, 0-based half-open; in any order, overlapping or not, of one naming.

    Returns
    -------
    CSR int32 (n_peaks, n_regions), 1 where they share a base.
    """
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    of_chrom = regions.groupby("chrom", sort=False).indices
    for chrom, rows in peaks.groupby("chrom", sort=False).indices.items():
        there = of_chrom.get(chrom)
        if there is None:
            continue
        rows = rows[np.argsort(peaks["start"].to_numpy()[rows], kind="stable")]
        start, end = peaks["start"].to_numpy()[rows], peaks["end"].to_numpy()[rows]
        # ends of peaks may not be sorted: the largest so far is, and what it lets in is looked at again
        first = np.searchsorted(np.maximum.accumulate(end), regions["start"].to_numpy()[there], side="right")
        last = np.searchsorted(start, regions["end"].to_numpy()[there], side="left")
        n = np.maximum(last - first, 0)
        region = np.repeat(there, n)
        peak = np.repeat(first - np.concatenate([[0], np.cumsum(n)[:-1]]), n) + np.arange(n.sum())
        real = end[peak] > regions["start"].to_numpy()[region]
        pairs.append((rows[peak[real]], region[real]))
    row, column = (np.concatenate([pair[i] for pair in pairs] or [np.empty(0, np.int64)]) for i in (0, 1))
    ones = np.ones(len(row), np.int32)
    return sparse.csr_matrix((ones, (row, column)), shape=(len(peaks), len(regions)))


def activity_from_peaks(counts: sparse.csr_matrix, peaks: pd.DataFrame, regions: pd.DataFrame) -> sparse.csr_matrix:
    """Add up each cell's counts over the peaks that overlap a gene: (n_cells, n_peaks) → (n_cells, n_genes).

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> peaks = pd.DataFrame({"chrom": "chr1", "start": [0, 600, 3000], "end": [500, 900, 3500]})
    >>> gene = pd.DataFrame({"chrom": ["chr1"], "start": [400], "end": [1000]})
    >>> counts = sparse.csr_matrix(np.array([[1, 2, 5], [0, 0, 7]]))
    >>> activity_from_peaks(counts, peaks, gene).toarray().tolist()
    [[3], [0]]
    """
    return sparse.csr_matrix(counts).astype(np.int32) @ overlaps(peaks, regions)


def activity_from_fragments(
    names: pd.Index, sources: Sequence[Source], regions: pd.DataFrame, genome: Genome
) -> sparse.csr_matrix:
    r"""Count each cell's fragments with a cut site in a gene's region, once a fragment (paired insertions).

    Parameters
    ----------
    names
        Cells, `sample:barcode`.
    sources
        Their samples' fragments; see :func:`multivi_nf.regulation.cells.matched`.
    regions
        Of :func:`gene_regions`.

    Returns
    -------
    CSR int32 (n_cells, n_genes).

    Examples
    --------
    >>> import gzip
    >>> from multivi_nf.inputs.genome import load_genome
    >>> lines = b"chr1\t150\t420\tAC-1\t1\nchr1\t5000\t5200\tAC-1\t2\n"
    >>> _ = Path("sizes.tsv").write_text("chr1\t9000\n"), Path("f.tsv.gz").write_bytes(gzip.compress(lines))
    >>> genes = pd.DataFrame({"chrom": "chr1", "start": [100, 400], "end": [300, 500]})
    >>> cells, genome = pd.Index(["s1:AC-1"]), load_genome(None, chrom_sizes=Path("sizes.tsv"))
    >>> activity_from_fragments(cells, [Source("s1", Path("f.tsv.gz"))], genes, genome).toarray().tolist()
    [[1, 1]]
    """
    apart = regions.drop_duplicates().reset_index(drop=True)  # genes with one region are counted once, then repeated
    place = regions.merge(apart.assign(place=apart.index), how="left", on=list(regions))["place"].to_numpy()
    blocks, order = [], []
    for source, rows, barcodes in matched(names, sources):
        counted = count_peaks(source.fragments, apart, barcodes, genome, strategy="pic")
        blocks.append(counted.X)
        order.append(rows)
    found = sparse.vstack(blocks, format="csr")[np.argsort(np.concatenate(order), kind="stable")]
    return found[:, place].sorted_indices()


def gene_activity(cells: ad.AnnData, counts: sparse.csr_matrix, genes: pd.DataFrame, source: str) -> ad.AnnData:
    """Make the AnnData of `gene_activity.h5ad`.

    Parameters
    ----------
    cells
        Of :func:`multivi_nf.regulation.cells.read_cells`.
    counts
        (n_cells, n_genes).
    genes
        Of :func:`gene_bodies`.
    source
        `fragments` or `peaks`.

    Returns
    -------
    `X` log-normalised (:data:`SCALE`), `layers["counts"]`; `var_names` the symbol made unique, `gene_id`, `chrom`,
    `start`, `end`, `strand`; `obs`, UMAP and colours of the cells; `uns["source"]`, `uns["X_scale"]`.
    """
    names = np.where(genes["symbol"] == "", genes["id"], genes["symbol"])
    var = genes.rename(columns={"id": "gene_id"}).drop(columns="symbol")[["gene_id", "chrom", "start", "end", "strand"]]
    var.index = ad.utils.make_index_unique(pd.Index(names.astype(str)))
    result = ad.AnnData(log_normalised(counts, "atac"), obs=cells.obs, var=var, layers={"counts": counts})
    for key in cells.obsm:
        result.obsm[key] = np.asarray(cells.obsm[key], dtype=np.float32)
    result.uns.update(cells.uns)
    result.uns["source"], result.uns["X_scale"] = source, SCALE
    return result
