"""Advice that leads somewhere: each message's remedy, done as it says, is accepted. One family a function."""

from __future__ import annotations

import gzip
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from multivi_nf.counts.read import read_counts
from multivi_nf.errors import InputError
from multivi_nf.fragments.count import place_peaks, scan
from multivi_nf.fragments.quality import choose_candidates
from multivi_nf.inputs.barcodes import read_barcode_map
from multivi_nf.inputs.chromosomes import SIZES, harmonise
from multivi_nf.inputs.contrasts import read_contrasts
from multivi_nf.inputs.genome import Genome, load_genome
from multivi_nf.inputs.intervals import read_bed, read_gtf_tss, read_tss
from multivi_nf.inputs.samplesheet import read_samplesheet
from multivi_nf.peaks import merge_peaks, read_groups, read_summits
from multivi_nf.qc.rules import at_least, judge
from multivi_nf.testing.files import GENES, SYMBOLS, barcodes, counts, features, write_10x, write_h5ad

GENOME = Genome({"chr1": 10_000, "chr2": 8_000, "chrM": 500}, "chrM", None, None, {})


def refused(action) -> str:
    """Do what must be refused; give the remedy."""
    with pytest.raises(InputError) as caught:
        action()
    return caught.value.remedy if "\n\n" not in str(caught.value) else str(caught.value)


def sheet(folder: Path, header: str, *rows: str) -> Path:
    for row in rows:
        for value in row.split(","):
            if value.endswith((".h5", ".gz", ".tsv", ".bed")):
                (folder / value).touch()
    path = folder / "s.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


# header, row: what is wrong with a sheet; pattern of its remedy; header, row: the remedy done
SHEETS = {
    "misspelt column": ("sample,rnaa", "a,a.h5", r"rename it to '(rna)'", "sample,{0}", "a,a.h5"),
    "missing sample": ("Sample,rna", "a,a.h5", r"rename 'Sample' to '(sample)'", "{0},rna", "a,a.h5"),
    "reserved name": ("sample,rna,cluster", "a,a.h5,1", r"e.g. to '([^']+)'", "sample,rna,{0}", "a,a.h5,1"),
    "reserved beginning": ("sample,rna,rna_kit", "a,a.h5,1", r"e.g. to '([^']+)'", "sample,rna,{0}", "a,a.h5,1"),
    "reserved with a colon": ("sample,rna,rna:kit", "a,a.h5,1", r"e.g. to '([^']+)'", "sample,rna,{0}", "a,a.h5,1"),
    "name with brackets": ("sample,rna,Dose (mg/kg)", "a,a.h5,1", r"e.g. to '([^']+)'", "sample,rna,{0}", "a,a.h5,1"),
    "name with an umlaut": ("sample,rna,Größe", "a,a.h5,1", r"e.g. to '([^']+)'", "sample,rna,{0}", "a,a.h5,1"),
    "name of a number": ("sample,rna,2nd", "a,a.h5,1", r"e.g. to '([^']+)'", "sample,rna,{0}", "a,a.h5,1"),
    "matrix as fragments": ("sample,fragments", "a,a.h5", r"matrices belong in (rna)", "sample,{0}", "a,a.h5"),
    "fragments as matrix": (
        "sample,atac",
        "a,fragments.tsv.gz",
        r"in the column (fragments)",
        "sample,{0}",
        "a,fragments.tsv.gz",
    ),
    "peaks alone": ("sample,rna,peaks", "a,a.h5,p.bed", r"or (leave peaks empty)", "sample,rna,peaks", "a,a.h5,"),
    "no file": ("sample,rna", "a,", r"(name at least one)", "sample,rna", "a,a.h5"),
    "bad sample name": ("sample,rna", "a b,a.h5", r"use letters, digits, '.', '(_)'", "sample,rna", "a{0}b,a.h5"),
}


@pytest.mark.parametrize("name", SHEETS)
def test_samplesheets(tmp_path, name):
    header, row, pattern, new_header, new_row = SHEETS[name]
    said = refused(lambda: read_samplesheet(sheet(tmp_path, header, row)))
    found = re.search(pattern, said)
    assert found, said
    [sample] = read_samplesheet(sheet(tmp_path, new_header.format(*found.groups()), new_row.format(*found.groups())))
    assert sample.modalities


def test_one_file_in_two_rows(tmp_path):
    said = refused(lambda: read_samplesheet(sheet(tmp_path, "sample,rna", "a,a.h5", "b,a.h5")))
    assert "different cell lists in the column barcodes" in said
    path = sheet(tmp_path, "sample,rna,barcodes", "a,a.h5,one.tsv", "b,a.h5,two.tsv")
    assert len(read_samplesheet(path)) == 2


# a row of contrasts that is wrong, and the row as its remedy says
CONTRASTS = {
    "modality": ("c,rnna,arm,x,y,", r"one of (rna)", "c,{0},arm,x,y,"),
    "cells": ("c,rna,arm,x,y,seen", r"one of (all), observed", "c,rna,arm,x,y,{0}"),
    "each against one": ("c,rna,arm,each,y,", r"leave it empty or write (rest)", "c,rna,arm,each,{0},"),
    "no target": ("c,rna,arm,,y,", r"a value of the column, or (each)", "c,rna,arm,{0},,"),
    "itself": ("c,rna,arm,x,x,", r"name another value, or (rest)", "c,rna,arm,x,{0},"),
    "no such value": ("c,rna,arm,x,z,", r"one of x, (y)", "c,rna,arm,x,{0},"),
    "no such column": ("c,rna,amr,x,y,", r"did you mean '(arm)'", "c,rna,{0},x,y,"),
    "name": ("a b,rna,arm,x,y,", r"use letters, digits, '.', '(_)'", "a{0}b,rna,arm,x,y,"),
}


@pytest.mark.parametrize("name", CONTRASTS)
def test_contrasts(tmp_path, name):
    wrong, pattern, right = CONTRASTS[name]
    samples = read_samplesheet(sheet(tmp_path, "sample,rna,arm", "a,a.h5,x", "b,b.h5,y"))
    header = "contrast,modality,groupby,target,reference,cells\n"
    (tmp_path / "c.csv").write_text(header + wrong + "\n")
    said = refused(lambda: read_contrasts(tmp_path / "c.csv", samples))
    found = re.search(pattern, said)
    assert found, said
    (tmp_path / "c.csv").write_text(header + right.format(*found.groups()) + "\n")
    assert len(read_contrasts(tmp_path / "c.csv", samples)) == 1


def test_genomes(tmp_path):
    assert "--chrom_sizes FILE" in refused(load_genome)
    said = refused(lambda: load_genome("hg39"))
    assert all(load_genome(name).chrom_sizes for name in re.findall(r"hg\d+|mm\d+", said))
    (tmp_path / "sizes").write_text("chr1\t1000\n")
    assert load_genome(None, tmp_path / "sizes").chrom_sizes == {"chr1": 1000}
    assert "set --chrom_style exact" in refused(lambda: harmonise(["chr1", "1"], ["chr1"]))
    assert harmonise(["chr1", "1"], ["chr1"], "exact") == {"chr1": "chr1"}
    (tmp_path / "wide.bed").write_text("chr1\t10\t50\n")
    assert "BED6 genes with + or - in column 6" in refused(lambda: read_tss(tmp_path / "wide.bed"))
    (tmp_path / "wide.bed").write_text("chr1\t10\t50\tG\t0\t-\n")
    assert read_tss(tmp_path / "wide.bed")["pos"].tolist() == [49]
    (tmp_path / "e.gtf").write_text('chr1\tx\texon\t1\t5\t.\t+\t.\tgene_id "a";\n')
    assert "TSS as BED by --tss" in refused(lambda: read_gtf_tss(tmp_path / "e.gtf"))
    (tmp_path / "e.bed").write_text("chr1\t0\t1\n")
    assert load_genome(None, tmp_path / "sizes", tss=tmp_path / "e.bed").tss["pos"].tolist() == [0]
    (tmp_path / "one.bed").write_text("chr1\t50\t50\n")
    assert "subtract 1 from the start" in refused(lambda: read_bed(tmp_path / "one.bed"))
    (tmp_path / "one.bed").write_text("chr1\t49\t50\n")
    assert len(read_bed(tmp_path / "one.bed")) == 1


def test_fragments_are_sorted_by_the_command_that_is_named(tmp_path):
    lines = [b"chr1\t10\t90\tA\t1", b"chr2\t5\t80\tA\t1", b"chr1\t5\t70\tB\t1"]
    path = tmp_path / "f.tsv.gz"
    path.write_bytes(gzip.compress(b"# head\n" + b"\n".join(lines) + b"\n"))
    command = re.search("`(.*)`", refused(lambda: scan(path, GENOME))).group(1)
    command = command.replace("bgzip", "gzip -c").replace("SORTED", str(tmp_path / "sorted.tsv.gz"))
    subprocess.run(["bash", "-c", command.replace("FILE", str(path))], check=True)
    assert scan(tmp_path / "sorted.tsv.gz", GENOME).table["n_fragments"].to_dict() == {"B": 1, "A": 2}


def test_peaks_that_occur_twice_by_the_command_that_is_named(tmp_path):
    (tmp_path / "p.bed").write_text("chr1\t10\t50\nchr1\t10\t50\nchr2\t5\t9\n")
    command = re.search("`(.*)`", refused(lambda: place_peaks(read_bed(tmp_path / "p.bed"), GENOME))).group(1)
    done = subprocess.run([*command.split(), str(tmp_path / "p.bed")], check=True, stdout=subprocess.PIPE, text=True)
    (tmp_path / "q.bed").write_text(done.stdout)
    assert len(place_peaks(read_bed(tmp_path / "q.bed"), GENOME)[0]) == 2


def test_fragments_of_another_assembly(tmp_path):
    lines = [f"chr1\t{248_900_000 + 100 * i}\t{248_900_050 + 100 * i}\tA\t1" for i in range(2000)]
    (tmp_path / "f.tsv").write_text("\n".join(lines) + "\n")
    said = refused(lambda: scan(tmp_path / "f.tsv", load_genome("hg38")))
    assert "by --genome" in said
    assert scan(tmp_path / "f.tsv", load_genome("hg19")).facts.left_out == {}


def test_cells_called_from_fragments_and_their_floors():
    table = pd.DataFrame({"n_fragments": [400, 300, 2], "n_mito": 0, "tsse": np.nan}, index=list("ABC"))
    assert "lower the threshold (--atac_min_fragments" in refused(lambda: choose_candidates(table))
    assert choose_candidates(table, min_fragments=100).mask.sum() == 2
    assert "column `barcodes`" in refused(lambda: choose_candidates(table))
    assert choose_candidates(table, n_listed=3).mask.sum() == 3
    said = refused(lambda: choose_candidates(table, n_listed=3, min_tsse=4))
    assert "--genome hg38" in said and load_genome("hg38").tss is not None


def test_rules_that_remove_every_cell():
    values = np.array([3.0, 5.0, 8.0])
    said = refused(lambda: judge([at_least("rna_min_genes", "rna_n_genes", values, 100)], "s", "rna"))
    assert "set --rna_min_genes to a value that fits this median" in said
    assert judge([at_least("rna_min_genes", "rna_n_genes", values, 5)], "s", "rna").kept.sum() == 2


def test_peak_widths_and_groups(tmp_path):
    (tmp_path / "p.bed").write_text("chr1\t5000\t5300\n")
    summits = [read_summits(tmp_path / "p.bed")]
    said = refused(lambda: merge_peaks(summits, GENOME, width=500))
    assert len(merge_peaks(summits, GENOME, width=int(re.search(r"such as (\d+)", said).group(1)))) == 1
    (tmp_path / "g.tsv").write_text("A x\n")
    assert "two columns: barcode, group" in refused(lambda: read_groups(tmp_path / "g.tsv"))
    (tmp_path / "g.tsv").write_text("A\tx\n")
    assert read_groups(tmp_path / "g.tsv") == {"A": "x"}


def test_barcode_maps(tmp_path):
    (tmp_path / "m.tsv").write_text("AAAC\n")
    said = refused(lambda: read_barcode_map(tmp_path / "m.tsv"))
    assert "the whitelists atac.txt.gz and rna.txt.gz" in said
    (tmp_path / "m").mkdir()
    for name, text in (("atac.txt.gz", "AAAC\n"), ("rna.txt.gz", "CCCG\n")):
        (tmp_path / "m" / name).write_bytes(gzip.compress(text.encode()))
    assert read_barcode_map(tmp_path / "m").rna("AAAC-1") == "CCCG-1"
    (tmp_path / "m.tsv").write_text("AAAC\tCCCG\n")
    assert read_barcode_map(tmp_path / "m.tsv").rna("AAAC-1") == "CCCG-1"


def test_matrices(tmp_path):
    cells = barcodes(30)
    write_10x(tmp_path / "x.h5", counts(30, 54), cells, features())
    write_10x(tmp_path / "rna.h5", counts(30, 30), cells, features("rna"))
    assert "column rna" in refused(lambda: read_counts(tmp_path / "rna.h5", "atac"))
    assert read_counts(tmp_path / "rna.h5", "rna").n_vars == 30
    raw = sparse.vstack([counts(30, 30), sparse.csr_matrix((2000, 30), dtype=np.int32)], format="csr")
    write_10x(tmp_path / "raw_feature_bc_matrix.h5", raw, barcodes(2030), features("rna"))
    said = refused(lambda: read_counts(tmp_path / "raw_feature_bc_matrix.h5", "rna"))
    assert "name the cells in the column barcodes" in said
    assert read_counts(tmp_path / "raw_feature_bc_matrix.h5", "rna", cells).n_obs == 30
    x = counts(30, 30).astype(np.float32)
    normal = x.copy()
    normal.data = np.log1p(normal.data)
    write_h5ad(tmp_path / "n.h5ad", normal, cells, GENES)
    assert "layers['counts']" in refused(lambda: read_counts(tmp_path / "n.h5ad", "rna"))
    write_h5ad(tmp_path / "l.h5ad", normal, cells, SYMBOLS, layers={"counts": x})
    assert (read_counts(tmp_path / "l.h5ad", "rna").X != x).nnz == 0


def test_every_built_in_assembly_that_advice_names_is_there():
    assert set(SIZES) == {"hg38", "hg19", "mm10", "mm39"}
