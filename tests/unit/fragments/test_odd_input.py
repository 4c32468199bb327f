"""Bad and odd fragments files: each row of the tables is taken with the right result, or refused by name."""

from __future__ import annotations

import gzip

import pandas as pd
import pytest
from click.testing import CliRunner

from multivi_nf.commands.count_peaks import command as count_command
from multivi_nf.commands.qc_fragments import command as qc_command
from multivi_nf.errors import InputError
from multivi_nf.fragments import checks
from multivi_nf.fragments.checks import preflight
from multivi_nf.fragments.count import scan
from multivi_nf.fragments.matrix import count_peaks
from multivi_nf.inputs.genome import Genome, load_genome
from multivi_nf.testing.fragments_fuzz import bgzf

SIZES = {"chr1": 10000, "chr2": 8000, "chrM": 500}
GENOME = Genome(SIZES, "chrM", None, None, {})
LINES = [
    b"chr1\t10\t200\tAAAC-1\t1",
    b"chr1\t50\t300\tCCCG-1\t3",
    b"chr1\t400\t600\tAAAC-1\t1",
    b"chr2\t5\t100\tAAAC-1\t2",
    b"chr2\t700\t900\tCCCG-1\t1",
    b"chrM\t1\t90\tCCCG-1\t1",
]
TEXT = b"\n".join(LINES) + b"\n"
PEAKS = pd.DataFrame([("chr1", 0, 250), ("chr2", 0, 8000)], columns=["chrom", "start", "end"])
CELLS = ["AAAC-1", "CCCG-1"]
EXPECTED = [[1, 1], [1, 1]]


def replaced(number, line):
    return b"\n".join([*LINES[:number], line, *LINES[number + 1 :]]) + b"\n"


TAKEN = {
    "plain text": TEXT,
    "gzip": gzip.compress(TEXT),
    "BGZF": bgzf(TEXT, 64),
    "gzip of two members": gzip.compress(TEXT[:60]) + gzip.compress(TEXT[60:]),
    "BGZF, then gzip": bgzf(TEXT[:60], 30)[:-28] + gzip.compress(TEXT[60:]) + bgzf(b"", 9),
    "BGZF with empty blocks": bgzf(TEXT[:60], 30)[:-28] + 5 * bgzf(b"", 9) + bgzf(TEXT[60:], 64),
    "two BGZF files joined": bgzf(TEXT[:60], 64) + bgzf(TEXT[60:], 64),
    "CRLF": TEXT.replace(b"\n", b"\r\n"),
    "header lines": b"# id=x\n# primary_contig=chr1\n" + TEXT,
    "blank lines at the end": TEXT + b"\n\n",
    "last line without newline": TEXT[:-1],
    "4 columns": b"".join(line.rpartition(b"\t")[0] + b"\n" for line in LINES),
    "6 columns": b"".join(line + b"\t+\n" for line in LINES),
    "unsorted within a chromosome": b"\n".join([LINES[2], LINES[0], LINES[1], *LINES[3:]]) + b"\n",
    "1 for chr1": TEXT.replace(b"chr", b"").replace(b"\nM\t", b"\nMT\t"),
    "scaffolds besides": TEXT + b"KI270728.1\t5\t90\tAAAC-1\t1\n",
    "chromosomes in another order": b"\n".join([*LINES[3:], *LINES[:3]]) + b"\n",
}

_FIRST = bgzf(TEXT, 64).index(b"\x1f\x8b", 1)  # where the second block begins: a block's last 4 bytes are its length
WRONG_LENGTH = bgzf(TEXT, 64)[: _FIRST - 4] + (60).to_bytes(4, "little") + bgzf(TEXT, 64)[_FIRST:]

REFUSED = {
    "empty file": (b"", "is empty \\(0 bytes\\)"),
    "only a header": (b"# nothing\n", "holds no fragment"),
    "gzip of nothing": (gzip.compress(b""), "holds no fragment"),
    "gzip cut in a block": (gzip.compress(TEXT)[:-30], "middle of its compressed data|damaged"),
    "BGZF cut in a block": (bgzf(TEXT, 64)[:-60], "do not end with the BGZF end marker"),
    "BGZF cut at a block": (bgzf(TEXT, 64)[:-28], "do not end with the BGZF end marker"),
    "BGZF with a flipped bit": (bgzf(TEXT, 64)[:40] + b"\0\0" + bgzf(TEXT, 64)[42:], "damaged"),
    "BGZF of a wrong length": (WRONG_LENGTH, "damaged"),
    "gzip with a flipped bit": (gzip.compress(TEXT)[:-6] + b"\0\0" + gzip.compress(TEXT)[-4:], "damaged"),
    "last line cut": (TEXT[:-12], "line 6.*has 3 column.*may be cut"),
    "3 columns": (b"chr1\t1\t5\n", "line 1.*has 3 column"),
    "7 columns": (b"chr1\t1\t5\tA\t1\t+\tx\n", "line 1.*has 7 column"),
    "spaces for tabs": (TEXT.replace(b"\t", b" "), "line 1.*has 1 column"),
    "columns change": (TEXT + b"chrM\t5\t9\tAAAC-1\n", "line 7.*4 columns where the lines before have 5"),
    "end before start": (replaced(2, b"chr1\t600\t400\tAAAC-1\t1"), "line 3.*end is not after start"),
    "no length": (replaced(2, b"chr1\t600\t600\tAAAC-1\t1"), "line 3.*end is not after start"),
    "start is no number": (replaced(2, b"chr1\t4e2\t600\tAAAC-1\t1"), "line 3.*start \\(column 2\\)"),
    "negative start": (replaced(0, b"chr1\t-4\t600\tAAAC-1\t1"), "line 1.*before the start of the chromosome"),
    "count is a strand": (replaced(2, b"chr1\t400\t600\tAAAC-1\t+"), "line 3.*count \\(column 5\\)"),
    "count zero": (replaced(2, b"chr1\t400\t600\tAAAC-1\t0"), "line 3.*count \\(column 5\\)"),
    "no barcode": (replaced(2, b"chr1\t400\t600\t\t1"), "line 3.*barcode \\(column 4\\)"),
    "barcode of bytes": (replaced(2, b"chr1\t400\t600\t\xff\xfe\t1"), "line 3.*barcode \\(column 4\\)"),
    "another assembly": (replaced(4, b"chr2\t700\t8001\tAAAC-1\t1"), "line 5.*past the end.*8000 bp"),
    "chromosomes interleaved": (TEXT + LINES[0] + b"\n", "line 7: chromosome 'chr1' comes back after 'chrM'"),
    "no chromosome in common": (TEXT.replace(b"chr", b"scaffold"), "none of the chromosomes.*scaffold1"),
    "two namings in one file": (TEXT + b"1\t5\t90\tAAAC-1\t1\n", "'chr1' and '1'"),
    "a BAM file": (bgzf(b"BAM\1" + bytes(range(256)) * 4, 2000), "line 1"),
    "a line without end": (b"chr1" * 40000, "line of more than"),
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", TAKEN)
def test_taken(tmp_path, name, threads):
    path = tmp_path / "f.tsv.gz"
    path.write_bytes(TAKEN[name])
    found = scan(path, GENOME, barcodes=CELLS, peaks=PEAKS, threads=threads)
    assert found.matrix.toarray().tolist() == EXPECTED
    assert found.table["n_mito"].tolist() == [0, 1]
    problems, warnings, facts = preflight(path, GENOME, PEAKS, barcodes=CELLS)
    assert problems == []
    if name == "unsorted within a chromosome":
        assert "not sorted" in warnings[0] and found.table["n_overlap_loci"].isna().all()
    if name == "1 for chr1":
        assert facts.renamed == {"1": "chr1", "2": "chr2", "MT": "chrM"} and "mapped" in warnings[0]
    if name == "last line without newline":
        assert any("last line has no end" in warning for warning in warnings)
    if name == "scaffolds besides":
        assert facts.other_chroms == {"KI270728.1": 1}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, name, threads):
    data, message = REFUSED[name]
    path = tmp_path / "f.tsv.gz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        scan(path, GENOME, threads=threads)
    assert caught.value.why and caught.value.remedy
    problems, _, _ = preflight(path, GENOME)
    assert any(message_part in str(problem) for problem in problems for message_part in [caught.value.what[:20]])


def test_a_file_that_is_not_there(tmp_path):
    problems, _, _ = preflight(tmp_path / "absent.tsv.gz", GENOME)
    assert "does not exist" in str(problems[0])


def test_peaks_of_another_assembly_or_twice(tmp_path):
    path = tmp_path / "f.tsv"
    path.write_bytes(TEXT)
    for peaks, message in (
        ([("chr1", 0, 10001)], "ends past the end"),
        ([("chr7", 0, 10)], "none of the peaks' chromosomes"),
        ([("chr1", 0, 10), ("chr1", 0, 10)], "more than once"),
    ):
        frame = pd.DataFrame(peaks, columns=["chrom", "start", "end"])
        with pytest.raises(InputError, match=message):
            scan(path, GENOME, peaks=frame)
        assert message in str(preflight(path, GENOME, frame)[0][0])
    (tmp_path / "one.tsv").write_bytes(LINES[0] + b"\n")
    elsewhere = pd.DataFrame([("chr2", 0, 10)], columns=["chrom", "start", "end"])
    with pytest.raises(InputError, match="fragments on chr1 only, the peaks lie on chr2 only"):
        scan(tmp_path / "one.tsv", GENOME, peaks=elsewhere)


def test_all_problems_at_once(tmp_path):
    path = tmp_path / "f.tsv.gz"
    path.write_bytes(bgzf(replaced(4, b"chr2\t700\t8001\tAAAC-1\t1"), 64)[:-28])
    peaks = pd.DataFrame([("chr7", 0, 10)], columns=["chrom", "start", "end"])
    problems, _, facts = preflight(path, GENOME, peaks)
    told = " ".join(map(str, problems))
    assert len(problems) == 3
    assert "end marker" in told and "peaks' chromosomes" in told and "past the end" in told
    assert facts.read == "sample"


def test_header_names_another_reference(tmp_path):
    path = tmp_path / "f.tsv.gz"
    path.write_bytes(bgzf(b"# reference_path=/refs/refdata-cellranger-arc-GRCh38-2020-A-2.0.0\n" + TEXT, 64))
    problems, _, facts = preflight(path, load_genome("hg19"))
    assert facts.reference == "hg38"
    assert "names the reference hg38, the chromosome sizes are those of hg19" in str(problems[0])
    assert preflight(path, load_genome("hg38"))[0] == []


def test_contigs_of_the_header_without_fragments(tmp_path):
    path = tmp_path / "f.tsv"
    path.write_bytes(b"# primary_contig=chr1\n# primary_contig=chr2\n# primary_contig=chr3\n" + TEXT)
    _, warnings, _ = preflight(path, GENOME)
    assert any("chr3, which have no fragment" in warning for warning in warnings)


def test_enrichment_at_random_level_is_warned(tmp_path):
    path = tmp_path / "f.tsv"
    path.write_bytes(b"".join(b"chr1\t%d\t%d\tA\t1\n" % (i, i + 100) for i in range(0, 9900, 3)))
    sites = pd.DataFrame({"chrom": ["chr1"], "pos": [5000], "strand": ["+"]})
    genome = Genome(SIZES, "chrM", sites, None, {})
    peaks = pd.DataFrame([("chr1", 4000, 4500)], columns=["chrom", "start", "end"])
    _, warnings, facts = preflight(path, genome, peaks)
    assert facts.tsse == pytest.approx(1, abs=0.1) and facts.frip == pytest.approx(0.06, abs=0.01)
    assert sum("by chance" in warning for warning in warnings) == 2
    path.write_bytes(b"".join(b"chr1\t%d\t%d\tA\t1\n" % (4000 + i // 10, 4100 + i // 10) for i in range(4000)))
    _, warnings, facts = preflight(path, genome, peaks)
    assert not any("in peaks" in warning for warning in warnings) and facts.frip > 0.9


def test_large_file_is_sampled(tmp_path, monkeypatch):
    lines = [b"chr1\t%d\t%d\tA%d-1\t1\n" % (i, i + 5, i % 7) for i in range(9000)]
    path = tmp_path / "f.tsv.gz"
    path.write_bytes(bgzf(b"".join(lines), 500))
    monkeypatch.setattr(checks, "WHOLE_BGZF", 0)
    monkeypatch.setattr(checks.SampledBlocks.__init__, "__defaults__", (10, 3, 1 << 20))
    problems, warnings, facts = preflight(path, GENOME)
    assert (problems, warnings) == ([], [])
    assert facts.read == "sample" and 100 < facts.fragments < 3000 and facts.barcodes == 7


@pytest.mark.parametrize(
    ("listed", "advice"), [(["AAAC", "CCCG"], "suffix"), (["s1#AAACAAAC-1", "s1#CCCGCCCG-1"], "prefix")]
)
def test_barcodes_that_do_not_match_name_the_cure(tmp_path, listed, advice):
    path = tmp_path / "f.tsv"
    long = TEXT.replace(b"AAAC", b"AAACAAAC").replace(b"CCCG", b"CCCGCCCG")
    path.write_bytes(long if "#" in listed[0] else TEXT)
    problems, _, facts = preflight(path, GENOME, barcodes=listed)
    assert facts.listed_found == 0
    assert "0 of the 2 listed barcodes" in str(problems[0]) and advice in str(problems[0])
    with pytest.raises(InputError, match="none of the 2 barcodes"):
        count_peaks(path, PEAKS, listed, GENOME)


def test_list_with_duplicates_or_odd_names(tmp_path):
    path = tmp_path / "f.tsv"
    path.write_bytes(TEXT)
    with pytest.raises(InputError, match="more than once, first 'AAAC-1'"):
        scan(path, GENOME, barcodes=["AAAC-1", "AAAC-1"])
    with pytest.raises(InputError, match="barcode 'a b'"):
        scan(path, GENOME, barcodes=["a b"])


@pytest.mark.parametrize("kind", ["tsv", "whitelists", "none"])
def test_commands_with_a_barcode_map(tmp_path, kind):
    """RNA cells are found in the fragments through the map; listed cells without fragments keep their rows."""
    (tmp_path / "f.tsv").write_bytes(TEXT)
    (tmp_path / "sizes").write_text("".join(f"{name}\t{size}\n" for name, size in SIZES.items()))
    (tmp_path / "peaks.bed").write_text("chr2\t0\t8000\nchr1\t0\t250\n")
    names = {"AAAC": "GGGG", "CCCG": "TTTT", "ACAC": "GTGT"}
    cells = [f"{rna}-1" for rna in names.values()] if kind != "none" else ["AAAC-1", "CCCG-1", "ACAC-1"]
    (tmp_path / "cells").write_text("\n".join(cells) + "\n")
    given = {"--chrom-sizes": "sizes", "--barcodes": "cells"}
    arguments = [str(tmp_path / "f.tsv"), *(str(tmp_path / v) if i else k for k, v in given.items() for i in (0, 1))]
    if kind == "tsv":
        (tmp_path / "map").write_text("".join(f"{atac}-1\t{rna}-1\n" for atac, rna in names.items()))
    elif kind == "whitelists":
        (tmp_path / "map").mkdir()
        (tmp_path / "map" / "atac.txt").write_text("\n".join(names))
        (tmp_path / "map" / "rna.txt").write_text("\n".join(names.values()))
    if kind != "none":
        arguments += ["--barcode-map", str(tmp_path / "map")]
    done = CliRunner().invoke(qc_command, [*arguments, "--output", str(tmp_path / "qc")], catch_exceptions=False)
    assert "1 listed barcodes have no fragment" in done.output
    assert (tmp_path / "qc" / "candidates.txt").read_text().split() == ["AAAC-1", "CCCG-1", "ACAC-1"]
    output = tmp_path / "x.h5ad"
    counted = [*arguments, "--peaks", str(tmp_path / "peaks.bed"), "--output", str(output)]
    CliRunner().invoke(count_command, counted, catch_exceptions=False)
    import anndata as ad

    matrix = ad.read_h5ad(output)
    assert matrix.obs_names.tolist() == ["AAAC-1", "CCCG-1", "ACAC-1"]
    assert matrix.var_names.tolist() == ["chr2:0-8000", "chr1:0-250"]
    assert matrix.X.toarray().tolist() == [[1, 1], [1, 1], [0, 0]]
    assert matrix.obs["atac_frip"].tolist() == [2 / 3, 1.0, 0.0]
    assert matrix.uns["counting_strategy"] == "fragment"
    first = output.read_bytes()
    CliRunner().invoke(count_command, counted, catch_exceptions=False)
    assert output.read_bytes() == first


def test_the_first_pass_says_what_a_sample_cannot_show(tmp_path):
    """Preflight reads large files in part, so what only the whole file shows is looked for by qc-fragments."""
    (tmp_path / "f.tsv").write_bytes(b"# primary_contig=chr7\n" + TEXT[:-1])
    (tmp_path / "sizes").write_text("".join(f"{name}\t{size}\n" for name, size in SIZES.items()))
    arguments = [str(tmp_path / "f.tsv"), "--chrom-sizes", str(tmp_path / "sizes"), "--min-fragments", "1"]
    done = CliRunner().invoke(qc_command, [*arguments, "--output", str(tmp_path / "qc")], catch_exceptions=False)
    assert "the last line has no end" in done.output and "names chr7, which have no fragment" in done.output
