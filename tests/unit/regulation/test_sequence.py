import gzip

import numpy as np
import pandas as pd
import pysam
import pytest

from multivi_nf.errors import InputError
from multivi_nf.regulation import sequence
from multivi_nf.regulation.sequence import peak_sequences

TEXT = ">chr1 first of all\nACGTA\nCGTNN\nacg\n>chr2\r\nGGGCC\r\nGGAAT\r\n>scaffold\nNNNN"
PEAKS = pd.DataFrame([("chr1", 0, 4), ("chr2", 3, 10), ("chr1", 6, 12)], columns=["chrom", "start", "end"])
EXPECTED = ["ACGT", "CCGGAAT", "GTNNac"]


def words(found):
    return ["".join("ACGTN"[b] for b in one) if one is not None else None for one in found.bases]


def write(path, text=TEXT):
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
def test_bases_are_those_at_the_peaks_whatever_the_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(sequence, "BLOCK", block)
    found = peak_sequences(write(tmp_path / "g.fa"), PEAKS)
    assert words(found) == [word.upper() for word in EXPECTED]
    assert found.missing == () and found.renamed == {}


def test_plain_gzip_bgzip_with_and_without_index_are_the_same(tmp_path):
    plain = write(tmp_path / "g.fa", TEXT.replace("\r", ""))
    (tmp_path / "z.fa.gz").write_bytes(gzip.compress(TEXT.encode()))
    pysam.tabix_compress(str(plain), str(tmp_path / "b.fa.gz"))
    for name in ("g.fa", "z.fa.gz", "b.fa.gz"):
        assert words(peak_sequences(tmp_path / name, PEAKS)) == [word.upper() for word in EXPECTED]
    pysam.faidx(str(tmp_path / "b.fa.gz"))
    assert words(peak_sequences(tmp_path / "b.fa.gz", PEAKS))[1] == EXPECTED[1]


def test_gc_is_of_the_bases_known(tmp_path):
    found = peak_sequences(write(tmp_path / "g.fa"), PEAKS)
    assert found.gc() == pytest.approx([0.5, 4 / 7, 2 / 4])
    nothing = pd.DataFrame([("scaffold", 0, 4)], columns=["chrom", "start", "end"])
    assert np.isnan(peak_sequences(tmp_path / "g.fa", nothing).gc()).all()


def test_other_names_of_chromosomes_are_mapped_unless_exact(tmp_path):
    fasta = write(tmp_path / "g.fa", TEXT.replace(">chr", ">"))
    found = peak_sequences(fasta, PEAKS)
    assert words(found)[0] == "ACGT" and found.renamed == {"1": "chr1", "2": "chr2"}
    with pytest.raises(InputError, match="none of the peaks' chromosomes"):
        peak_sequences(fasta, PEAKS, "exact")


def test_peaks_of_a_missing_chromosome_have_no_bases(tmp_path):
    found = peak_sequences(write(tmp_path / "g.fa", TEXT.partition(">chr2")[0]), PEAKS)
    assert words(found) == ["ACGT", None, "GTNNAC"] and found.missing == ("chr2",)
    assert found.known.tolist() == [True, False, True] and np.isnan(found.gc()[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"ACGT\n", "begins with b'ACGT' where a FASTA begins with >"),
        (b"MEME version 4\n", "where a FASTA begins with >"),
        (b">chr1\nMKVLAT\n>chr2\nACGT\n", "which are no nucleotides"),
        (b">chr1\nACGT\n>chr1\nACGT\n", "'chr1' more than once"),
        (b">chr1\nACGT\n>chr2\nACGT\n", "lies past the end of its sequence"),
        (b">chr7\nACGT\n", "none of the peaks' chromosomes"),
        (gzip.compress(TEXT.encode(), mtime=0)[:-9], "cannot be read to its end"),
        (b">" + b"x" * 100_000, "a header of more than"),
        (b">chr1\nACGT\n" + bytes(100_000), "holds zeros, which are no nucleotides"),
    ],
)
def test_what_is_no_fasta_of_these_peaks_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(sequence, "BLOCK", 1 << 14)
    path = tmp_path / "g.fa"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        peak_sequences(path, PEAKS)
    assert message in caught.value.what and caught.value.why and caught.value.remedy


def test_a_path_to_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        peak_sequences(tmp_path / "none.fa", PEAKS)
