"""One pass against the oracle: hand-made fragments, random ones, real ones."""

from __future__ import annotations

import gzip

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from multivi_nf.errors import InputError
from multivi_nf.fragments import count as passes
from multivi_nf.fragments.count import scan
from multivi_nf.inputs.genome import Genome, load_genome
from multivi_nf.inputs.intervals import read_bed
from multivi_nf.testing import fragments_oracle as oracle
from multivi_nf.testing.fragments_fuzz import bgzf

SIZES = {"chr1": 20000, "chr2": 9000, "chrX": 5000, "chrM": 1000}
TSS = [("chr1", 3000, "+"), ("chr1", 3040, "-"), ("chr1", 10, "-"), ("chr2", 8990, "+"), ("chrX", 2500, "+")]
BLACK = [("chr1", 500, 700), ("chr1", 15000, 15001), ("chr2", 0, 40)]
PEAKS = [
    ("chr2", 100, 200), ("chr1", 2900, 3100), ("chr1", 3000, 3300), ("chr1", 0, 12000), ("chr1", 3050, 3060),
    ("chrX", 1, 2),
]  # fmt: skip
STRATEGIES = ("fragment", "insertion", "pic")


def bed(peaks):
    return pd.DataFrame(peaks, columns=["chrom", "start", "end"])


def genome(tss=TSS, blacklist=BLACK):
    sites = pd.DataFrame(tss, columns=["chrom", "pos", "strand"]).sort_values(["chrom", "pos"])
    return Genome(SIZES, "chrM", sites, bed(blacklist), {})


def text_of(rows):
    return "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()


def write(path, text):
    path.write_bytes(gzip.compress(text, 1))
    return path


def assert_equal_to_oracle(path, text, barcodes, peaks=PEAKS, is_sorted=True):
    rows = oracle.read(text, SIZES)
    for strategy in STRATEGIES:
        got = scan(path, genome(), barcodes=barcodes, peaks=bed(peaks), strategy=strategy)
        np.testing.assert_array_equal(got.matrix.toarray(), oracle.count(rows, peaks, barcodes, strategy))
        assert got.matrix.has_sorted_indices and got.matrix.dtype == np.int32
    only = scan(path, genome(), barcodes=barcodes, only_these=True, peaks=bed(peaks), strategy="pic", quality=False)
    assert (only.matrix != got.matrix).nnz == 0
    assert only.table.index.tolist() == barcodes
    want = oracle.quality(rows, "chrM", TSS, BLACK, peaks, {"chr1", "chr2"})
    seen = list(dict.fromkeys([*barcodes, *(row[3] for row in rows)]))
    assert got.table.index.tolist() == seen
    for column in (
        "n_fragments",
        "n_reads",
        "n_mito",
        "n_tss",
        "n_tss_core",
        "n_flank",
        "n_blacklist",
        "n_nucleosome_free",
        "n_mononucleosome",
        "n_in_peaks",
        *(["n_overlap_loci"] if is_sorted else []),
    ):
        assert got.table[column].tolist() == [want[name][column] for name in seen], column
    if not is_sorted:
        assert got.table["n_overlap_loci"].isna().all()
    expected = oracle.profile(rows, "chrM", TSS)
    assert got.profile.tolist() == [expected[i] for i in range(4001)]
    return got


HAND_MADE = [
    ("chr1", 2800, 2900, "A-1", 1),  # ends where a peak starts: outside
    ("chr1", 2800, 2901, "A-1", 1),  # last base is the peak's first
    ("chr1", 2899, 3400, "A-1", 4),  # spans two peaks: no cut site in either
    ("chr1", 3099, 3200, "A-1", 1),  # first base is the last of one peak, inside another
    ("chr1", 3100, 3299, "A-1", 2),  # starts where a peak ends
    ("chr1", 3299, 3300, "B-1", 1),  # one base: both cut sites are the same base
    ("chr1", 3300, 3310, "B-1", 1),
    ("chr1", 11999, 12001, "ambient", 1),
    ("chr1", 14999, 15000, "A-1", 1),  # touches a blacklisted base without overlap
    ("chr1", 19999, 20000, "A-1", 1),  # last base of the chromosome
    ("chrX", 0, 1, "A-1", 1),
    ("chrX", 1, 2, "A-1", 1),
    ("chrM", 1, 100, "A-1", 7),
]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("header", [b"", b"# id=x\n# primary_contig=chr1\n"])
@pytest.mark.parametrize("cut", [False, True])
def test_hand_made(tmp_path, ending, header, cut):
    text = header + text_of(HAND_MADE).replace(b"\n", ending)
    text = text[: -len(ending)] if cut else text  # a last line without its newline
    got = assert_equal_to_oracle(write(tmp_path / "f.tsv.gz", text), text, ["A-1", "absent", "B-1"])
    assert got.facts.ends_with_newline != cut
    assert got.facts.fragments == len(HAND_MADE)
    assert got.matrix[1].nnz == 0
    # spelled out, so that the oracle itself is held to something
    fragment = scan(tmp_path / "f.tsv.gz", genome(), barcodes=["A-1"], peaks=bed(PEAKS)).matrix.toarray()[0]
    assert fragment.tolist() == [0, 3, 3, 5, 1, 1]
    insertion = scan(tmp_path / "f.tsv.gz", genome(), barcodes=["A-1"], peaks=bed(PEAKS), strategy="insertion").matrix
    assert insertion.toarray()[0].tolist() == [0, 2, 4, 10, 0, 2]
    pic = scan(tmp_path / "f.tsv.gz", genome(), barcodes=["A-1"], peaks=bed(PEAKS), strategy="pic").matrix
    assert pic.toarray()[0].tolist() == [0, 2, 2, 5, 0, 1]


def test_derived_values(tmp_path):
    path = write(tmp_path / "f.tsv.gz", text_of(HAND_MADE))
    row = scan(path, genome(), peaks=bed(PEAKS)).table.loc["A-1"]
    assert row["n_reads"] == 20 and row["n_fragments"] == 9 and row["n_mito"] == 1
    assert row["duplicate_fraction"] == pytest.approx(10 / 20)
    assert row["mito_fraction"] == pytest.approx(1 / 10)
    assert row["frip"] == pytest.approx(row["n_in_peaks"] / 9)
    assert row["tsse"] == pytest.approx((row["n_tss"] / 101) / max(row["n_flank"] / 200, 0.1))
    bare = scan(path, Genome(SIZES, "chrM", None, None, {}))
    assert bare.profile is None
    assert bare.table[["tsse", "n_tss", "blacklist_fraction"]].isna().all(axis=None)


def test_overlaps_by_hand(tmp_path):
    rows = [
        ("chr1", 100, 300, "D", 1), ("chr1", 150, 250, "D", 1), ("chr1", 200, 260, "D", 1),  # depth 3 on 200-250
        ("chr1", 250, 300, "D", 1),  # depth 3 on 250-260: the same stretch
        ("chr1", 260, 270, "D", 1),  # and on 260-270: still the same
        ("chr1", 280, 290, "D", 1),  # depth 3 on 280-290: a second stretch
        ("chr2", 1000, 1100, "D", 1), ("chr2", 1000, 1100, "D", 1), ("chr2", 1100, 1200, "D", 1),  # two, then one
        ("chrX", 10, 20, "D", 1), ("chrX", 10, 20, "D", 1), ("chrX", 10, 20, "D", 1),  # no autosome
    ]  # fmt: skip
    table = scan(write(tmp_path / "f.tsv.gz", text_of(rows)), genome(blacklist=[("chr2", 0, 1)])).table
    assert table.loc["D", "n_overlap_loci"] == 2


barcode_texts = st.sampled_from(
    [*(f"ACGTACGTACGTACG{end}" for end in ("T-1", "T-2", "A-1")), "s#ACGT", "17", "B.1", "A" * 24, "A" * 25, "x" * 200]
)


@st.composite
def fragment_files(draw):
    rows = []
    for chrom in draw(st.permutations(list(SIZES)))[: draw(st.integers(1, 4))]:
        for _ in range(draw(st.integers(0, 12))):
            start = draw(st.one_of(st.integers(0, SIZES[chrom] - 1), st.integers(0, min(3400, SIZES[chrom]) - 1)))
            length = draw(st.one_of(st.integers(1, 400), st.sampled_from([1, 146, 147, 293, 294, 3000])))
            rows.append((chrom, start, min(start + length, SIZES[chrom]), draw(barcode_texts), draw(st.integers(1, 9))))
    rows.append(("chr1", 19000, 19300, "17", 1))  # peaks and fragments that share no chromosome are refused
    rank = {name: i for i, name in enumerate(dict.fromkeys(row[0] for row in rows))}
    by_position = draw(st.booleans())
    return sorted(rows, key=lambda row: (rank[row[0]], row[1] if by_position else 0)), by_position


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(fragment_files(), st.booleans(), st.integers(4, 6))
def test_random_files(tmp_path_factory, drawn, bare_names, columns):
    rows, by_position = drawn
    rows = [(row[0].removeprefix("chr") if bare_names else row[0], *row[1:], "+")[:columns] for row in rows]
    text = text_of(rows)
    if columns == 4:  # no count: each fragment counts once
        assert oracle.read(text, SIZES)[0][4] == 1
    starts: dict[str, int] = {}
    is_sorted = all(row[1] >= starts.get(row[0], 0) and starts.update({row[0]: row[1]}) is None for row in rows)
    path = write(tmp_path_factory.mktemp("random") / "f.tsv.gz", text)
    listed = ["17", "absent", "ACGTACGTACGTACGT-1", "x" * 200]
    got = assert_equal_to_oracle(path, text, listed, is_sorted=is_sorted)
    assert got.facts.columns == columns
    assert got.facts.sorted == is_sorted


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("packed", ["plain", "gzip", "BGZF"])
def test_many_barcodes_and_blocks(tmp_path, monkeypatch, packed, threads):
    """Tables grow, outputs fill and blocks are carried over without a change of the sums."""
    rng = np.random.default_rng(0)
    n = 30000
    start = np.sort(rng.integers(0, 19000, n))
    owner = rng.integers(0, 20000, n).tolist()
    rows = [("chr1", s, s + 1 + s % 700, f"barcode_{b}", 1) for s, b in zip(start.tolist(), owner)]
    path = tmp_path / "f.tsv.gz"
    path.write_bytes({"plain": bytes, "gzip": gzip.compress, "BGZF": lambda raw: bgzf(raw, 90)}[packed](text_of(rows)))
    cells = [f"barcode_{i}" for i in range(300)]
    tiles = [("chr1", 50 * i, 50 * i + 50) for i in range(400)]
    whole = scan(path, genome(), barcodes=cells, peaks=bed(tiles))
    assert whole.table["n_fragments"].sum() == n
    assert len(whole.table) == len({*cells, *(row[3] for row in rows)})
    from multivi_nf.fragments import reader as source
    from multivi_nf.fragments import stream

    monkeypatch.setattr(passes, "_ENTRIES", 7)
    monkeypatch.setattr(stream, "_BATCH", 11)
    monkeypatch.setattr(source.Blocks.__init__, "__defaults__", (None, 100, 1))
    pieces = scan(path, genome(), barcodes=cells, peaks=bed(tiles), threads=threads)
    pd.testing.assert_frame_equal(whole.table, pieces.table)
    assert (whole.matrix != pieces.matrix).nnz == 0
    want = np.zeros(len(tiles), int)
    for _, s, e, b, _ in rows:
        if int(b[8:]) < 300:
            want[s // 50 : (e - 1) // 50 + 1] += 1
    np.testing.assert_array_equal(np.asarray(whole.matrix.sum(axis=0)).ravel(), want)


@pytest.mark.real
@pytest.mark.parametrize(("name", "assembly"), [("fragments_chr22_hg38", "hg38"), ("fragments_pbsmall_hg19", "hg19")])
@pytest.mark.parametrize(
    ("strategy", "file"),
    [("fragment", "expected_peaks_fragment_overlap.h5"), ("insertion", "expected_peaks_insertions.h5")],
)
def test_real_fragments(shared_data, name, assembly, strategy, file):
    folder = shared_data(name)
    barcodes = (folder / "barcodes.tsv").read_text().split()
    peaks = read_bed(folder / "peaks.bed")
    got = scan(folder / "fragments.tsv.gz", load_genome(assembly), barcodes=barcodes, peaks=peaks, strategy=strategy)
    with h5py.File(folder / file) as h5:
        group = h5["matrix"]
        parts = group["data"][:], group["indices"][:], group["indptr"][:]
        want = sparse.csc_matrix(parts, shape=group["shape"][:]).T.tocsr()
    assert got.matrix.shape == want.shape
    assert (got.matrix != want).nnz == 0
    assert got.matrix.sum() > 20000


def test_strategy_names():
    with pytest.raises(InputError, match="'reads' is not known"):
        scan("f", genome(), strategy="reads")
