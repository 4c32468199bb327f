from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from multivi_nf.export.peak_genes import annotate_peaks, gene_starts, nearest_genes, parse_peaks


def brute(peaks, sites):
    """Nearest site and promoter by looking at all pairs."""
    rows = []
    for peak in peaks.itertuples():
        best, promoter = ("", np.nan), False
        for site in sites[sites["chrom"] == peak.chrom].itertuples():
            gap = max(0, peak.start - site.pos, site.pos - (peak.end - 1))
            first, last = (site.pos - 2000, site.pos + 500) if site.strand == "+" else (site.pos - 500, site.pos + 2000)
            promoter |= first < peak.end and last >= peak.start
            if not gap >= abs(best[1]):  # NaN: the first
                before = peak.end - 1 < site.pos if site.strand == "+" else peak.start > site.pos
                best = (site.symbol, -gap if before else gap)
        rows.append((*best, promoter))
    return pd.DataFrame(rows, columns=["nearest_gene", "distance_to_tss", "in_promoter"], index=peaks.index)


def test_against_all_pairs():
    rng = np.random.default_rng(0)
    starts = rng.integers(0, 200_000, 300)
    peaks = pd.DataFrame({"chrom": rng.choice(["chr1", "chr2", "chr3"], 300), "start": starts, "end": starts + 501})
    sites = pd.DataFrame(
        {
            "chrom": rng.choice(["chr1", "chr2"], 40),
            "pos": rng.integers(0, 200_000, 40),
            "strand": rng.choice(["+", "-"], 40),
            "symbol": [f"g{k}" for k in range(40)],
        }
    ).sort_values(["chrom", "pos", "symbol"])
    found, expected = nearest_genes(peaks, sites), brute(peaks, sites)
    np.testing.assert_array_equal(found["in_promoter"], expected["in_promoter"])
    np.testing.assert_array_equal(np.abs(found["distance_to_tss"]), np.abs(expected["distance_to_tss"]))
    untied = found["nearest_gene"] == expected["nearest_gene"]
    assert untied.mean() > 0.98
    np.testing.assert_array_equal(found["distance_to_tss"][untied], expected["distance_to_tss"][untied])
    assert (found["nearest_gene"][peaks["chrom"] == "chr3"] == "").all()


def test_genes_from_bed_and_gtf(embedded, tmp_path):
    (tmp_path / "tss.bed").write_text("1\t1200\t1201\tA\t0\t+\n1\t9000\t9001\tB\t0\t-\n1\t20000\t20001\t.\t0\t+\n")
    sites = gene_starts(tss=tmp_path / "tss.bed")
    assert sites["symbol"].tolist() == ["A", "B"]
    assert annotate_peaks(embedded, sites) == 20
    var = embedded["atac"].var
    assert var.loc["chr1:1000-1500", ["nearest_gene", "distance_to_tss", "in_promoter"]].tolist() == ["A", 0, True]
    assert var.loc["chr1:12000-12500", ["nearest_gene", "distance_to_tss", "in_promoter"]].tolist() == [
        "B",
        -3000,
        False,
    ]
    assert var.loc["chr1:8000-8500", "distance_to_tss"] == 501, "behind the start of a gene on the other strand"
    gtf = 'chr1\tx\tgene\t1201\t5000\t.\t+\t.\tgene_id "E1"; gene_name "A"; gene_type "protein_coding";\n'
    (tmp_path / "g.gtf").write_text(gtf)
    assert gene_starts(gtf=tmp_path / "g.gtf")[["pos", "symbol"]].to_numpy().tolist() == [[1200, "A"]]
    assert gene_starts() is None and annotate_peaks(embedded, None) == 0


@pytest.mark.parametrize("name", ["hg38", "hg19", "mm10"])
def test_built_in_genes(name):
    sites = gene_starts(name)
    assert len(sites) > 15_000 and (sites["symbol"] != "").all()


def test_names_of_peaks():
    found = parse_peaks(pd.Index(["chr1:5-9", "chr1_KI270706v1_random:1-2", "chrX-3-7", "odd"]))
    assert found["chrom"].tolist() == ["chr1", "chr1_KI270706v1_random", "chrX", ""]
    assert found["start"].tolist() == [5, 1, 3, -1]
