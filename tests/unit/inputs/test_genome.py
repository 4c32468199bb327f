from __future__ import annotations

import gzip
from importlib import resources

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multivi_nf.errors import InputError
from multivi_nf.inputs.chromosomes import SIZES, harmonise, renamed, wrong_assembly
from multivi_nf.inputs.genome import built_in_genes, load_genome
from multivi_nf.inputs.intervals import merge_intervals, read_bed, read_chrom_sizes, read_genes, read_gtf_tss

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


# what is right of files in which one line of many is odd: (lines, what is told, what is left of the odd line)
ONE_ODD_LINE = {
    "start below 0": ("chr1\t-4\t50", "1 start(s) below 0 were taken as 0", ["chr1", 0, 50, "."]),
    "without length": ("chr1\t50\t50", "1 interval(s) without length were left out", None),
    "end before start": ("chr1\t60\t50", "1 interval(s) without length were left out", None),
}


@pytest.mark.parametrize("name", ONE_ODD_LINE)
def test_one_odd_line_of_a_bed_is_told_and_many_are_refused(tmp_path, name):
    line, told, left = ONE_ODD_LINE[name]
    good = [f"chr1\t{100 * i}\t{100 * i + 60}" for i in range(1, 1200)]
    path = tmp_path / "p.bed"
    path.write_text("\n".join([*good[:700], line, *good[700:]]) + "\n")
    bed = read_bed(path)
    assert bed.attrs["note"] == f"p.bed: {told}"
    assert len(bed) == 1199 + (left is not None)
    assert left is None or bed.iloc[700].tolist() == left
    path.write_text("\n".join([*good, *[line] * 12]) + "\n")  # 1 %
    with pytest.raises(InputError, match="line 1200"):
        read_bed(path)


def test_the_verdict_on_an_assembly_rests_on_many_entries():
    """1 of 8,001 and 1 of 20 are single ones; 0.2 % of many, or half of few, is another assembly."""
    assert [wrong_assembly(*pair) for pair in ((1, 8001), (1, 20), (9, 200), (8, 8000))] == [False] * 4
    assert [wrong_assembly(*pair) for pair in ((16, 8000), (1, 2), (3, 20))] == [True] * 3


def test_single_sites_past_the_end_are_left_out_and_told(tmp_path):
    good = [f"chr1\t{1000 * i}\t{1000 * i + 1}" for i in range(1, 40)]
    (tmp_path / "tss.bed").write_text("\n".join([*good, "chr1\t248956422\t248956423"]) + "\n")
    genome = load_genome("hg38", tss=tmp_path / "tss.bed")
    assert len(genome.tss) == 39
    assert genome.notes == ("tss.bed: 1 of 40 entries lie past their chromosome's end and are left out",)


@pytest.mark.parametrize(
    ("name", "n_genes", "n_black"), [("hg38", 35936, 1362), ("hg19", 23179, 1569), ("mm10", 24367, 3791)]
)
def test_built_in_facts_are_those_of_their_source(shared_data, name, n_genes, n_black):
    folder = shared_data("annotation")
    genes = built_in_genes(name)
    assert len(genes) == n_genes
    columns = ["chrom", "start", "end", "symbol", "score", "strand"]
    source = pd.read_csv(folder / f"{name}.genes.bed.gz", sep="\t", header=None, usecols=range(6), names=columns)
    merged = genes.merge(source, on=["chrom", "start", "end", "strand", "symbol"], how="left", indicator=True)
    assert (merged["_merge"] == "both").all()
    genome = load_genome(name)
    black = load_genome(name, blacklist=folder / f"{name}.blacklist.bed.gz")
    pd.testing.assert_frame_equal(genome.blacklist, black.blacklist)
    assert abs(len(genome.blacklist) - n_black) < 20  # touching regions are merged
    assert set(genome.tss["chrom"]) <= set(SIZES[name]) and len(genome.tss) > 20_000
    for gene, (chrom, pos, strand) in {
        "hg38": {"MS4A1": ("chr11", 60455751, "+"), "CD8A": ("chr2", 86808395, "-")},
        "hg19": {"MS4A1": ("chr11", 60223281, "+"), "CD8A": ("chr2", 87035518, "-")},
        "mm10": {"Gapdh": ("chr6", 125166466, "-"), "Actb": ("chr5", 142906753, "-")},
    }[name].items():
        assert [chrom, pos, strand] in genome.tss.to_numpy().tolist(), gene


def test_package_tables_are_small():
    files = [path for path in resources.files("multivi_nf").joinpath("genomes").iterdir() if path.name.endswith(".gz")]
    sizes = [len(path.read_bytes()) for path in files]
    assert len(files) == 6 and max(sizes) <= 2**20 and sum(sizes) <= 2 * 2**20


def test_files_win_over_built_in_facts_and_other_sizes_switch_them_off(tmp_path):
    (tmp_path / "tss.bed").write_text("1\t5000\t5001\n")
    genome = load_genome("mm10", tss=tmp_path / "tss.bed")
    assert genome.tss.to_numpy().tolist() == [["chr1", 5000, "+"]] and len(genome.blacklist) > 3000
    (tmp_path / "sizes").write_text("".join(f"{n.removeprefix('chr')}\t{s}\n" for n, s in SIZES["mm10"].items()))
    ensembl = load_genome("mm10", tmp_path / "sizes")
    assert set(ensembl.tss["chrom"]) <= {*map(str, range(1, 20)), "X", "Y"} and ensembl.renamed == {}
    (tmp_path / "sizes").write_text("chr1\t1000000\n")
    other = load_genome("mm10", tmp_path / "sizes")
    assert other.tss is None and other.blacklist is None and "are not those of mm10" in other.notes[0]
    assert load_genome("mm39").tss is None


GENE_LINES = {
    "GTF": 'chr1\tx\tgene\t101\t200\t.\t{s}\t.\tgene_id "G1.2"; gene_type "protein_coding"; gene_name "ABC";',
    "GTF without quotes": "chr1\tx\tgene\t101\t200\t.\t{s}\t.\tgene_id G1.2; gene_type protein_coding; gene_name ABC",
    "GFF3 of Ensembl": "chr1\tx\tgene\t101\t200\t.\t{s}\t.\tID=gene:G1.2;Name=ABC;biotype=protein_coding;gene_id=G1.2",
    "GFF3 of GENCODE": "chr1\tx\tgene\t101\t200\t.\t{s}\t.\tID=G1.2;gene_type=protein_coding;gene_name=ABC",
    "GFF3 of NCBI": "chr1\tx\tgene\t101\t200\t.\t{s}\t.\tID=gene-ABC;Name=ABC;gene_biotype=protein_coding;gene=ABC",
    "transcripts only": 'chr1\tx\tmRNA\t101\t200\t.\t{s}\t.\tgene_id "G1.2"; gene_name "ABC";',
}


@pytest.mark.parametrize("strand", ["+", "-"])
@pytest.mark.parametrize("kind", GENE_LINES)
def test_annotations_of_every_kind(tmp_path, kind, strand):
    path = tmp_path / "genes.gz"
    end = "##FASTA\n>chr1\nACGTACGT\n" if "GFF3" in kind else ""
    path.write_bytes(gzip.compress(f"##x\n{GENE_LINES[kind].format(s=strand)}\n{end}".encode()))
    genes = read_genes(path)
    assert genes[["chrom", "start", "end", "strand", "symbol"]].to_numpy().tolist() == [
        ["chr1", 100, 200, strand, "ABC"]
    ]
    assert genes["id"].tolist() == ["gene-ABC" if "NCBI" in kind else "G1.2"]
    assert genes["coding"].tolist() == [kind != "transcripts only"]
    assert read_gtf_tss(path)["pos"].tolist() == [100 if strand == "+" else 199]


def test_one_short_line_of_an_annotation_is_left_out(tmp_path):
    path = tmp_path / "genes.gtf"
    lines = [f'chr1\tx\tgene\t{n}\t{n + 9}\t.\t+\t.\tgene_id "G{n}";' for n in range(1, 1500)]
    path.write_text("\n".join([*lines[:9], "chr1\tbroken", *lines[9:]]) + "\n")
    genes = read_genes(path)
    assert len(genes) == 1499 and genes.attrs["note"] == "genes.gtf: 1 line(s) with fewer than 9 columns were left out"


@pytest.mark.parametrize("read", [read_bed, read_chrom_sizes])
def test_a_line_without_end_is_refused_before_the_memory_is_full(tmp_path, read):
    with gzip.open(tmp_path / "bomb.gz", "wb", 1) as handle:
        for _ in range(40):
            handle.write(b"chr1" + b"0" * (1 << 20))
    with pytest.raises(InputError, match="line of more than"):
        read(tmp_path / "bomb.gz")


def test_a_gzip_file_that_is_damaged_inside_is_named(tmp_path):
    whole = gzip.compress(b"chr1\t1\t2\n" * 50_000)
    (tmp_path / "bad.bed.gz").write_bytes(whole[:10] + b"\xff" * 40 + whole[50:])
    with pytest.raises(InputError, match="cannot be read as text"):
        read_bed(tmp_path / "bad.bed.gz")
