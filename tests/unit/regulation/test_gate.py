"""What `--regulation` needs, looked at before all else: bad files are refused in three parts, missing ones told."""

import gzip

import numpy as np
import pandas as pd
import pytest

from multivi_nf.errors import InputError
from multivi_nf.inputs.chromosomes import SIZES
from multivi_nf.inputs.schemas import CheckedSheet
from multivi_nf.io.bgzf import bgzf_writer
from multivi_nf.preflight.plan import Choices, make_plan
from multivi_nf.regulation.gate import Given, check_given
from multivi_nf.regulation.sequence import contig_lengths

LENGTHS = {"chr1": 900, "chr2": 500, "chr3": 400, "chrM": 160}
MOTIF = "MEME version 4\n\nALPHABET= ACGT\n\nMOTIF M1 SPI1\nletter-probability matrix: w= 2\n1 0 0 0\n0 0 1 0\n"


def fasta(lengths: dict[str, int]) -> bytes:
    rng = np.random.default_rng(0)
    text = b""
    for name, n in lengths.items():
        bases = bytes(rng.choice(np.frombuffer(b"ACGTn", np.uint8), n))
        text += b">" + name.encode() + b" more\n" + b"".join(bases[k : k + 60] + b"\n" for k in range(0, n, 60))
    return text


@pytest.fixture
def given(tmp_path):
    """Everything right: sequence, sizes, motifs, genes; `chrM` is of another length, as Ensembl's hg19 has it."""
    (tmp_path / "g.fa").write_bytes(fasta(LENGTHS))
    (tmp_path / "sizes").write_text("chr1\t900\nchr2\t500\nchr3\t400\nchrM\t161\n")
    (tmp_path / "m.meme").write_text(MOTIF)
    (tmp_path / "g.gtf").write_text('chr1\t.\tgene\t10\t90\t.\t+\t.\tgene_id "G1"; gene_name "G1";\n')
    return {
        "fasta": tmp_path / "g.fa",
        "chrom_sizes": tmp_path / "sizes",
        "motifs": tmp_path / "m.meme",
        "gtf": tmp_path / "g.gtf",
    }


def peaks(*places: tuple[str, int, int]) -> pd.DataFrame:
    return pd.DataFrame(places, columns=["chrom", "start", "end"])


GOOD = peaks(("chr1", 0, 900), ("chr2", 10, 500))


def test_lengths_by_hand_in_every_packing(tmp_path):
    text = fasta(LENGTHS)
    (tmp_path / "a.fa").write_bytes(text)
    (tmp_path / "b.fa.gz").write_bytes(gzip.compress(text))
    with bgzf_writer(tmp_path / "c.fa.bgz") as out:
        out.write(text)
    (tmp_path / "d.fa").write_bytes(text.replace(b"\n", b"\r\n"))
    for path in tmp_path.iterdir():
        assert contig_lengths(path) == LENGTHS, "no index is needed"


def test_nothing_is_wrong(given):
    assert check_given(Given(**given), GOOD) == ([], [])
    assert check_given(Given(**given), None) == ([], [])
    renamed = GOOD.assign(chrom=GOOD["chrom"].str.removeprefix("chr"))
    assert check_given(Given(**given), renamed) == ([], [])


def bad(folder, name: str, content: bytes):
    (folder / name).write_bytes(content)
    return folder / name


CASES = {
    "no such motifs": ("motifs", None, "does not exist"),
    "motifs in no format": ("motifs", b"SPI1 CCGGAAGT\n", "line 1: 'SPI1 CCGGAAGT'"),
    "no motif": ("motifs", b"MEME version 4\n\nALPHABET= ACGT\n", "holds no motif"),
    "a motif cut short": ("motifs", MOTIF[:-9].encode(), "M1"),
    "motifs of proteins": ("motifs", MOTIF.replace("ACGT", "ACDEFGHIKLMNPQRSTVWY").encode(), "not DNA"),
    "motifs damaged": ("motifs", gzip.compress(MOTIF.encode() * 50)[:-20], "cannot be read"),
    "no such sequence": ("fasta", None, "does not exist"),
    "an empty sequence": ("fasta", b"", "is empty"),
    "no FASTA": ("fasta", b"chr1\t900\n", "begins with"),
    "2bit": ("fasta", b"\x43\x27\x41\x1a" + bytes(40), "holds zeros"),
    "proteins": ("fasta", b">chr1\nMKLVE\n", "no nucleotides"),
    "cut": ("fasta", gzip.compress(fasta(LENGTHS))[:-30], "cannot be read to its end"),
    "one twice": ("fasta", fasta(LENGTHS) + b">chr1\nACGT\n", "more than once"),
    "other contigs": ("fasta", fasta({"scaffold_1": 900, "scaffold_2": 500}), "none of the genome's chromosomes"),
    "another assembly": ("fasta", fasta({"chr1": 901, "chr2": 477, "chr3": 400}), "of another assembly"),
    "genes that are none": ("gtf", b"nothing here\n", "g.gtf"),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_files_are_refused_in_three_parts(given, tmp_path, case):
    which, content, words = CASES[case]
    name = given[which].name
    given[which] = tmp_path / "nowhere" if content is None else bad(tmp_path, name, content)
    problems, _ = check_given(Given(**given), None)
    assert len(problems) == 1 and words in str(problems[0]), problems
    assert problems[0].why and problems[0].remedy


def test_contigs_that_are_not_the_peaks(given):
    problems, _ = check_given(Given(**given | {"chrom_sizes": None}), peaks(("ctg9", 0, 50)))
    assert len(problems) == 1 and "none of the peaks' chromosomes (ctg9" in problems[0].what
    past = peaks(*[("chr2", 480, 520)] * 12, *[("chr1", 0, 9)] * 50)
    problems, _ = check_given(Given(**given), past)
    assert len(problems) == 1 and "chr2:480-520 lies past the end" in problems[0].what
    some = peaks(*[("chr1", 0, 9)] * 3, ("chrUn", 4, 9), ("chrUn", 40, 90))
    problems, warnings = check_given(Given(**given), some)
    assert not problems and warnings == ["--fasta lacks chrUn: 2 peaks have no bases and hold no motif"]


def test_one_chromosome_of_another_length_is_told(given, tmp_path):
    given["fasta"] = bad(tmp_path, "g.fa", fasta(LENGTHS | {"chr3": 399}))
    problems, warnings = check_given(Given(**given), GOOD)
    assert not problems and warnings == ["--fasta: chr3 has 399 bases, not 400"]


def test_all_problems_in_one_go_and_what_is_missing_is_told(given, tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIVI_NF_MOTIFS", str(tmp_path / "none"))
    problems, warnings = check_given(Given(genome="hg38"), None)
    assert (
        not problems
        and len(warnings) == 1
        and "sequence was not given" in warnings[0]
        and "give fasta FILE" in warnings[0]
    )
    problems, warnings = check_given(Given(fasta=given["fasta"], tss=given["chrom_sizes"]), None)
    assert len(problems) == 1 and "no motifs: there are no motifs" in warnings[0]
    problems, warnings = check_given(Given(), None)
    assert not problems and ["no motifs" in warnings[0], "no links" in warnings[1]] == [True, True]
    many = given | {"fasta": tmp_path / "a", "motifs": tmp_path / "b", "gtf": tmp_path / "c"}
    assert len(check_given(Given(**many), None)[0]) == 3


def test_the_plan_is_not_made_with_such_a_problem(given):
    seen = []

    def also(frame):
        seen.append(frame)
        return [InputError("the genome is bad", "x", "y")], ["told"]

    with pytest.raises(InputError, match="the genome is bad"):
        make_plan(CheckedSheet([], None, {}), {}, Choices(), also)
    assert seen == [None]
    plan, _ = make_plan(CheckedSheet([], None, {}), {}, Choices(), lambda _frame: ([], ["told"]))
    assert plan.warnings == ["told"]


def test_built_in_sizes_are_compared_too(given):
    problems, _ = check_given(Given(**given | {"chrom_sizes": None, "genome": "hg38"}), None)
    assert len(problems) == 1 and f"{SIZES['hg38']['chr1']:,}" in problems[0].what
