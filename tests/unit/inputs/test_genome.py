from __future__ import annotations

import gzip

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multivi_nf.errors import InputError
from multivi_nf.inputs.genome import SIZES, harmonise, load_genome, merge_intervals, read_bed, read_chrom_sizes, renamed

CHROMS = ["chr1", "chr2", "chrX", "chrM"]


def test_built_in_sizes_are_those_of_ucsc(shared_data):
    for name in ("hg38", "hg19", "mm10"):
        known = read_chrom_sizes(shared_data("annotation") / f"{name}.chrom.sizes")
        assert {chrom: SIZES[name][chrom] for chrom in known} == known
        assert set(SIZES[name]) - set(known) == {"chrM"}


def test_real_annotation_loads(shared_data):
    folder = shared_data("annotation")
    genome = load_genome("mm10", tss=folder / "mm10.gene_tss.bed.gz", blacklist=folder / "mm10.blacklist.bed.gz")
    genes = load_genome("mm10", tss=folder / "mm10.genes.bed.gz")
    assert genome.mito == "chrM"
    assert len(genome.blacklist) == 3791
    pd.testing.assert_frame_equal(genome.tss, genes.tss)  # 5' ends of the genes are the same sites


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["1", "2", "X", "MT"], {"1": "chr1", "2": "chr2", "X": "chrX", "MT": "chrM"}),
        (CHROMS, {c: c for c in CHROMS}),
        (["chr1", "GL000009.2"], {"chr1": "chr1"}),
        (["M", "Chr2"], {"M": "chrM", "Chr2": "chr2"}),
        (["scaffold_1"], {}),
    ],
)
def test_names_are_mapped(names, expected):
    assert harmonise(names, CHROMS) == expected
    assert renamed(harmonise(names, CHROMS)) == {a: b for a, b in expected.items() if a != b}
    assert harmonise(names, CHROMS, "exact") == {name: name for name in names if name in CHROMS}


def test_mixed_naming_is_refused():
    with pytest.raises(InputError, match="'chr1' and '1'"):
        harmonise(["chr1", "1"], CHROMS)
    assert harmonise(["chr1", "1"], CHROMS, "exact") == {"chr1": "chr1"}


@given(st.lists(st.sampled_from(["1", "2", "X", "MT"]), unique=True))
def test_mapping_back_and_forth_is_identity(names):
    there = harmonise(names, CHROMS)
    assert harmonise(there.values(), names) == {b: a for a, b in there.items()}


def test_tss_of_bed_and_gtf_agree(tmp_path):
    (tmp_path / "sizes").write_text("chr1\t10000\nchrM\t500\n")
    (tmp_path / "genes.bed").write_text("1\t99\t200\tA\t0\t+\n1\t299\t400\tB\t0\t-\nscaffold\t5\t6\tC\t0\t+\n")
    gtf = "#!x\n" + "".join(
        f'1\ts\t{kind}\t{start}\t{end}\t.\t{strand}\t.\tgene_id "{g}"; gene_biotype "{bio}";\n'
        for kind, start, end, strand, g, bio in [
            ("gene", 100, 200, "+", "A", "protein_coding"),
            ("exon", 150, 160, "+", "A", "protein_coding"),
            ("gene", 300, 400, "-", "B", "protein_coding"),
            ("gene", 500, 600, "+", "P", "pseudogene"),
        ]
    )
    (tmp_path / "genes.gtf.gz").write_bytes(gzip.compress(gtf.encode()))
    bed = load_genome(None, tmp_path / "sizes", tss=tmp_path / "genes.bed")
    annotation = load_genome(None, tmp_path / "sizes", gtf=tmp_path / "genes.gtf.gz")
    assert bed.tss.to_numpy().tolist() == [["chr1", 99, "+"], ["chr1", 399, "-"]]
    pd.testing.assert_frame_equal(bed.tss, annotation.tss)
    assert bed.renamed == {"tss": {"1": "chr1"}}
    assert bed.mito == "chrM"


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), min_size=1, max_size=20))
def test_merged_intervals_cover_the_same_bases(spans):
    bed = pd.DataFrame([("chr1", s, s + n) for s, n in spans], columns=["chrom", "start", "end"])
    merged = merge_intervals(bed)
    covered = {base for s, n in spans for base in range(s, s + n)}
    assert {b for s, e in zip(merged["start"], merged["end"]) for b in range(s, e)} == covered
    assert (merged["start"].to_numpy()[1:] > merged["end"].to_numpy()[:-1]).all()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("hg99",), "'hg99' is not built in"),
        ((None,), "no genome was given"),
        ((None, "gone"), "does not exist"),
        ((None, "one_column"), "no second column"),
        ((None, "words"), "not a whole number"),
        ((None, "twice"), "occurs twice"),
        ((None, "empty"), "holds no chromosome"),
        (("hg38", None, "far.bed"), "past the end of chr1"),
        (("hg38", None, "alien.bed"), "none of its chromosomes"),
        (("hg38", None, "wide.bed"), "wider than 1 bp"),
        (("hg38", None, "backward.bed"), "not after start"),
        (("hg38", None, "cut.bed.gz"), "cannot be read"),
        (("hg38", None, None, "notgtf.gtf"), "9"),
        (("hg38", None, None, "nogenes.gtf"), "no line of type gene"),
    ],
)
def test_bad_genomes(tmp_path, options, word):
    texts = {
        "one_column": "chr1\n",
        "words": "chr1\tlong\n",
        "twice": "chr1\t5\nchr1\t6\n",
        "empty": "\n",
        "far.bed": "chr1\t999999999\t1000000000\tA\t0\t+\n",
        "alien.bed": "zebra\t1\t2\tA\t0\t+\n",
        "wide.bed": "chr1\t1\t50\n",
        "backward.bed": "chr1\t50\t50\n",
        "notgtf.gtf": "chr1\t1\t2\n",
        "nogenes.gtf": "chr1\ts\texon\t1\t2\t.\t+\t.\tx\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "cut.bed.gz").write_bytes(gzip.compress(b"chr1\t1\t2\n" * 500)[:-20])
    name, sizes, tss, gtf = [*options, None, None, None][:4]
    with pytest.raises(InputError, match=word):
        load_genome(name, *(None if o is None else tmp_path / o for o in (sizes, tss, gtf)))


def test_bed_lines_are_named(tmp_path):
    (tmp_path / "p.bed").write_text("track x\n# y\nchr1\t1\t5\nchr1\t-4\t5\n")
    with pytest.raises(InputError, match="line 4"):
        read_bed(tmp_path / "p.bed")
