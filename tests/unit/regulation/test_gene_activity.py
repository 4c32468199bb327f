"""Gene activity against sums taken by hand and by brute force."""

from __future__ import annotations

import gzip

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from multivi_nf.inputs.barcodes import BarcodeMap
from multivi_nf.inputs.genome import Genome
from multivi_nf.regulation.cells import Source, groups_of, matched, rows_of
from multivi_nf.regulation.gene_activity import (
    activity_from_fragments,
    activity_from_peaks,
    gene_activity,
    gene_bodies,
    gene_regions,
    overlaps,
)
from multivi_nf.regulation.possible import NotPossible, told_in

SIZES = {"chr1": 60_000, "chr2": 40_000}
TOY = Genome(SIZES, None, None, None, {})


def random_regions(rng, n, longest):
    chrom = rng.choice(list(SIZES), n)
    start = rng.integers(0, 30_000, n)
    return pd.DataFrame({"chrom": chrom, "start": start, "end": start + rng.integers(1, longest, n)})


def test_overlaps_equal_brute_force():
    rng = np.random.default_rng(0)
    peaks, regions = random_regions(rng, 300, 2_000), random_regions(rng, 80, 9_000)
    expected = np.array(
        [
            [p.chrom == r.chrom and p.start < r.end and r.start < p.end for r in regions.itertuples()]
            for p in peaks.itertuples()
        ]
    )
    assert 0 < expected.mean() < 0.5
    np.testing.assert_array_equal(overlaps(peaks, regions).toarray(), expected)
    apart = overlaps(peaks, regions.assign(chrom="chr9"))
    assert apart.shape == (300, 80) and apart.nnz == 0


def test_half_open_ends_do_not_touch():
    peaks = pd.DataFrame({"chrom": "chr1", "start": [0, 100], "end": [100, 200]})
    regions = pd.DataFrame({"chrom": "chr1", "start": [100, 99], "end": [150, 101]})
    assert overlaps(peaks, regions).toarray().tolist() == [[0, 1], [1, 1]]


def test_counts_of_peaks_add_up_over_genes():
    rng = np.random.default_rng(1)
    peaks, regions = random_regions(rng, 60, 500), random_regions(rng, 20, 8_000)
    counts = sparse.random(15, 60, 0.3, random_state=2, format="csr")
    counts.data = rng.integers(1, 5, counts.nnz).astype(np.int32)
    expected = counts.toarray() @ overlaps(peaks, regions).toarray()
    found = activity_from_peaks(counts, peaks, regions)
    np.testing.assert_array_equal(found.toarray(), expected)
    assert found.dtype == np.int32 and found.sum() > 0


def genes_of(tmp_path):
    lines = [
        'chr1\tx\tgene\t5001\t9000\t.\t+\t.\tgene_id "E1"; gene_name "A"; gene_biotype "protein_coding";',
        'chr1\tx\tgene\t20001\t25000\t.\t-\t.\tgene_id "E2"; gene_name "B"; gene_biotype "protein_coding";',
        'chr1\tx\tgene\t20001\t25000\t.\t-\t.\tgene_id "E3"; gene_name "B"; gene_biotype "protein_coding";',
        'chr1\tx\tgene\t1001\t3000\t.\t+\t.\tgene_id "E4"; gene_name "C"; gene_biotype "protein_coding";',
        'chr2\tx\tgene\t30001\t39500\t.\t-\t.\tgene_id "E5"; gene_name "D"; gene_biotype "protein_coding";',
        'chr2\tx\tgene\t101\t900\t.\t-\t.\tgene_id "E6"; gene_name "L"; gene_biotype "lncRNA";',
        'chr9\tx\tgene\t101\t900\t.\t-\t.\tgene_id "E7"; gene_name "Z"; gene_biotype "protein_coding";',
    ]
    (tmp_path / "g.gtf").write_text("\n".join(lines) + "\n")
    return gene_bodies(TOY, None, tmp_path / "g.gtf")


def test_genes_and_their_promoters(tmp_path):
    genes = genes_of(tmp_path)
    assert genes["symbol"].tolist() == ["C", "A", "B", "B", "D"]
    regions = gene_regions(genes, SIZES)
    expected = [(0, 3_000), (3_000, 9_000), (20_000, 27_000), (20_000, 27_000), (30_000, 40_000)]
    assert list(zip(regions["start"], regions["end"])) == expected


def fragments(path, rows):
    rows = sorted(rows)
    with gzip.open(path, "wt") as file:
        file.writelines(f"{c}\t{s}\t{e}\t{b}\t1\n" for c, s, e, b in rows)


def test_fragments_count_once_where_a_cut_site_lies_in_the_gene(tmp_path):
    genes = genes_of(tmp_path)
    regions = gene_regions(genes, SIZES)
    rng = np.random.default_rng(3)
    cells = {"one": ["AA-1", "CC-1", "GG-1"], "two": ["AA-1", "TT-1"]}
    rows = {
        sample: [
            (c, int(s), int(s) + int(n), b)
            for c, s, n, b in zip(
                rng.choice(list(SIZES), 400),
                rng.integers(0, 38_000, 400),
                rng.integers(20, 1_500, 400),
                rng.choice([*names, "NOCELL-1"], 400),
            )
        ]
        for sample, names in cells.items()
    }
    for sample in cells:
        fragments(tmp_path / f"{sample}.tsv.gz", rows[sample])
    names = pd.Index(["two:TT-1", "one:GG-1", "one:AA-1", "two:AA-1", "one:CC-1"])
    sources = [Source(sample, tmp_path / f"{sample}.tsv.gz") for sample in cells]
    found = activity_from_fragments(names, sources, regions, TOY)
    expected = np.zeros((5, 5), int)
    for i, name in enumerate(names):
        sample, barcode = name.split(":")
        for c, s, e, b in rows[sample]:
            for j, r in enumerate(regions.itertuples()):
                inside = r.start <= s < r.end or r.start <= e - 1 < r.end
                expected[i, j] += b == barcode and c == r.chrom and inside
    assert expected.min() > 0
    np.testing.assert_array_equal(found.toarray(), expected)
    table = gene_activity(ad.AnnData(obs=pd.DataFrame(index=names)), found, genes, "fragments")
    assert table.var_names.tolist() == ["C", "A", "B", "B-1", "D"]
    assert table.var["gene_id"].tolist() == ["E4", "E1", "E2", "E3", "E5"]
    share = expected / expected.sum(1, keepdims=True) * 1e4
    np.testing.assert_allclose(table.X.toarray(), np.log1p(share), rtol=1e-5)
    np.testing.assert_array_equal(table.layers["counts"].toarray(), expected)


def test_cells_are_found_through_a_barcode_map(tmp_path):
    mapping = BarcodeMap({"ATAC1": "RNA1", "ATAC2": "RNA2"})
    names = pd.Index(["s:RNA2-1", "s:OTHER-1", "s:RNA1-1", "s2:RNA1-1", "s:atac_RNA1-1"])
    rows, barcodes = rows_of(names, Source("s", tmp_path, mapping))
    assert rows.tolist() == [0, 1, 2, 4]
    # RNA1 is also the name of an ATAC barcode outside of the map, which `translate` set apart
    assert barcodes == ["ATAC2-1", "OTHER-1", "ATAC1-1", "RNA1-1"]


def test_what_is_not_possible_is_told(tmp_path):
    with pytest.raises(NotPossible, match="no annotation"):
        gene_bodies(TOY, "mm39", None)
    with pytest.raises(NotPossible, match="no sample brings fragments"):
        matched(pd.Index(["a:1"]), [])
    with pytest.raises(NotPossible, match="there is no such column"):
        groups_of(pd.DataFrame({"cluster": ["0", "1"]}), "donor")
    facts = tmp_path / "x.json"
    with told_in(facts, "x"):
        raise NotPossible("a", "b", "c")
    assert facts.read_text().split() == (
        '{ "part": "x", "done": false, "what": "a", "why": "b", "remedy": "c" }'.split()
    )
    with pytest.raises(NotPossible), told_in(None, "x"):
        raise NotPossible("a", "b", "c")
