"""Merging peaks by hand-made cases and brute force; calling them with a stand-in and, where it is built, with MACS3."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import skip_or_fail

from multivi_nf.commands.call_peaks import command as call_command
from multivi_nf.commands.merge_peaks import command as merge_command
from multivi_nf.errors import InputError
from multivi_nf.fragments.count import scan
from multivi_nf.fragments.cuts import write_cut_sites
from multivi_nf.fragments.writer import FragmentWriter
from multivi_nf.inputs.genome import Genome
from multivi_nf.inputs.intervals import read_bed
from multivi_nf.peaks import (
    call_peaks,
    find_macs3,
    least_pile,
    merge_peaks,
    read_groups,
    read_summits,
    unite_peaks,
    write_summits,
)

SIZES = {"chr2": 40000, "chr1": 50000, "chrM": 1000}
BLACK = pd.DataFrame([("chr1", 30000, 30010)], columns=["chrom", "start", "end"])
GENOME = Genome(SIZES, "chrM", None, BLACK, {})


def summits(rows, group="all"):
    frame = pd.DataFrame(rows, columns=["chrom", "summit", "score"])
    return frame.assign(start=frame["summit"], end=frame["summit"] + 1, group=group)


def intervals(peaks):
    return list(zip(peaks["chrom"], peaks["start"].tolist(), peaks["end"].tolist()))


def brute_force(sources, width):
    """Corces et al. 2018 by the letter: normalise, sort, keep unless it overlaps one that is kept."""
    half, candidates = width // 2, []
    for source in sources:
        for _, part in source.groupby("group"):
            total = part["score"].sum()
            for row in part.itertuples():
                start, end = row.summit - half, row.summit + half + 1
                black = row.chrom == "chr1" and start < 30010 and end > 30000
                if row.chrom in ("chr1", "chr2") and start >= 0 and end <= SIZES[row.chrom] and not black:
                    score = round(row.score / total * 1e6, 6)
                    candidates.append((-score, list(SIZES).index(row.chrom), row.summit, start, end))
    kept = []
    for candidate in sorted(candidates):
        if all(k[1] != candidate[1] or k[4] <= candidate[3] or k[3] >= candidate[4] for k in kept):
            kept.append(candidate)
    return [(list(SIZES)[k[1]], k[3], k[4]) for k in sorted(kept, key=lambda k: (k[1], k[3]))]


def test_merge_by_hand():
    strong = [("chr1", 1000, 8.0), ("chr1", 1400, 9.0), ("chr1", 1901, 5.0), ("chr1", 100, 9.0), ("chrM", 500, 99.0)]
    weak = summits([("chr2", 39900, 1.0), ("chr2", 700, 1.0), ("chr1", 30200, 5.0), ("chr1", 30260, 0.1)])
    merged = merge_peaks([summits(strong), weak], GENOME, width=501)
    # 1400 beats 1000; 1901 just touches 1400; 100 and 39900 stick out, 30200 meets the blacklist and 30260 just not
    assert intervals(merged) == [("chr2", 450, 951), ("chr1", 1150, 1651), ("chr1", 1651, 2152), ("chr1", 30010, 30511)]
    assert set(merged["end"] - merged["start"]) == {501}


def test_scores_are_normalised_by_group():
    """A rare type's peak wins over a neighbour that is a small part of a deep group, whatever the raw scores."""
    deep = summits([("chr1", 5000, 50.0), *(("chr1", 10000 + 600 * i, 500.0) for i in range(20))], "deep")
    rare = summits([("chr1", 5100, 5.0), ("chr2", 5000, 5.0)], "rare")
    assert ("chr1", 4850, 5351) in intervals(merge_peaks([deep, rare], GENOME))
    both = pd.concat([deep, rare], ignore_index=True)
    assert intervals(merge_peaks([both], GENOME)) == intervals(merge_peaks([deep, rare], GENOME))
    alone = both.assign(group="all")
    assert ("chr1", 4750, 5251) in intervals(merge_peaks([alone], GENOME))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([*SIZES, "other"]), st.integers(0, 3000), st.sampled_from([1.0, 2.0, 7.5])),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([3, 51, 501]),
)
def test_merge_equals_brute_force(rows, width):
    sources = [summits(rows[: len(rows) // 2 + 1]), summits(rows[len(rows) // 2 :])]
    want = brute_force(sources, width)
    if want:
        merged = merge_peaks(sources, GENOME, width=width)
        assert intervals(merged) == want
        shuffled = [source.sample(frac=1, random_state=1) for source in sources]
        assert intervals(merge_peaks(shuffled, GENOME, width=width)) == want
    else:
        with pytest.raises(InputError, match="none lies on"):
            merge_peaks(sources, GENOME, width=width)


def test_union():
    columns = ["chrom", "start", "end"]
    one = pd.DataFrame([("1", 100, 300), ("1", 400, 500), ("2", 5, 90)], columns=columns)
    two = pd.DataFrame([("chr1", 300, 350), ("chr1", 29000, 30001)], columns=columns)
    united = unite_peaks([part.assign(summit=0, score=1.0, group="all") for part in (one, two)], GENOME)
    assert intervals(united) == [("chr2", 5, 90), ("chr1", 100, 350), ("chr1", 400, 500)]
    assert united["score"].tolist() == pytest.approx([1e6 / 3, 1e6 / 3 + 5e5, 1e6 / 3])


@pytest.mark.parametrize("width", [500, 1, 0, -3])
def test_width_is_odd(width):
    with pytest.raises(InputError, match="not an odd number"):
        merge_peaks([summits([("chr1", 1000, 1.0)])], GENOME, width=width)


def test_reading_what_a_bed_says(tmp_path):
    (tmp_path / "a.narrowPeak").write_text("track name=x\nchr1\t100\t300\tp\t50\t.\t3\t4\t5.5\t20\n")
    narrow = read_summits(tmp_path / "a.narrowPeak").iloc[0]
    assert (narrow["summit"], narrow["score"]) == (120, 5.5)
    (tmp_path / "b.bed").write_text("#c\nchr1\t100\t301\n")
    assert read_summits(tmp_path / "b.bed").iloc[0][["summit", "score", "group"]].tolist() == [200, 1.0, "all"]
    (tmp_path / "c.bed").write_text("chr1\t100\t301\tp\t7\t+\n")
    assert read_summits(tmp_path / "c.bed").iloc[0]["score"] == 7
    rows = pd.DataFrame({"chrom": ["chr1"], "start": [5], "end": [6], "name": ["B_1"], "score": [3.25], "group": ["B"]})
    write_summits(tmp_path / "d.bed", rows)
    assert read_summits(tmp_path / "d.bed").iloc[0][["summit", "score", "group"]].tolist() == [5, 3.25, "B"]


def simulated(path, rng, chrom="chr1", summits=(5000, 20000, 41000), cells=40, per_cell=60, noise=0.15, prefix="A"):
    """Fragments of cells: around summits, and some anywhere."""
    n = cells * per_cell
    anywhere = rng.random(n) < noise
    centre = np.where(anywhere, rng.integers(500, 39000, n), rng.choice(summits, n) + rng.normal(0, 60, n).astype(int))
    length = rng.integers(60, 200, n)
    start = np.sort(centre - length // 2)
    names = [f"{prefix}{i}" for i in range(cells)]
    codes = np.full(n, list(SIZES).index(chrom))
    owner = rng.integers(0, cells, n)
    with FragmentWriter(path, list(SIZES), names) as writer:
        writer.write(codes, start, start + length, owner, np.ones(n, int))
    return names


@pytest.mark.parametrize("grouped", [False, True])
def test_cut_sites(tmp_path, grouped):
    rng = np.random.default_rng(0)
    names = simulated(tmp_path / "f.tsv.gz", rng, cells=4, per_cell=20)
    groups = {names[0]: "x", names[2]: "y", names[3]: "x"} if grouped else None
    cuts = write_cut_sites([(tmp_path / "f.tsv.gz", groups)], GENOME, tmp_path)
    assert cuts.chroms == ["chr1"]
    import gzip

    rows = [line.split("\t") for line in gzip.open(tmp_path / "f.tsv.gz", "rt").read().splitlines()]
    for group, file in cuts.files.items():
        mine = [r for r in rows if not grouped or groups.get(r[3]) == group]
        want = [("chr1", site, site + 1) for r in mine for site in (int(r[1]), int(r[2]) - 1)]
        got = [tuple(line.split("\t")) for line in gzip.open(file, "rt").read().splitlines()]
        assert [(c, int(s), int(e)) for c, s, e in got] == want
        assert cuts.fragments[group] == len(mine)
        places = range(-200, 50000)
        windows = [sum(at <= int(r[1]) and int(r[2]) - 1 < at + 150 for at in places) for r in mine]
        assert cuts.together[group] == pytest.approx(np.mean(windows))
    with pytest.raises(InputError, match=r"group\(s\) 'z' have no fragment"):
        write_cut_sites([(tmp_path / "f.tsv.gz", {"absent": "z"})], GENOME, tmp_path)


def test_pairs_of_cut_sites_by_chance_are_no_peaks():
    """Fragments at random: the piles that the rule lets through are few, though pairs make many of four sites."""
    rng = np.random.default_rng(0)
    size, n, found = 3_000_000, 3000, []
    length = rng.choice([60, 70, 90, 200, 400], n)
    start = rng.integers(0, size - 500, n)
    sites = np.sort(np.concatenate([start, start + length - 1]))
    piles = np.searchsorted(sites, sites + 150) - np.arange(len(sites))  # sites in the 150 bp from each on
    together = np.maximum(150 - (length - 1), 0).mean()
    found = piles[piles >= 3]
    least = least_pile(found, n, together, size)
    assert (piles >= 4).sum() > 100  # as if cut sites were independent, hardly one would be expected
    assert (piles >= least).sum() <= 2
    # the same chance piles among ten thousand real ones do not raise the bar to the roof
    assert 4 <= least_pile(np.concatenate([found, rng.integers(8, 30, 10000)]), n, together, size) <= least
    assert least_pile(np.zeros(0, int), n, together, size) >= 0


STAND_IN = """#!{python}
import sys, pathlib, json
a = dict(zip(sys.argv[2::1], sys.argv[3::1]))
out = pathlib.Path(a["--outdir"]) / (a["-n"] + "_peaks.narrowPeak")
pathlib.Path({log!r}).open("a").write(json.dumps(sys.argv[1:]) + "\\n")
if {code}: sys.stderr.write("too few\\nfragments\\n"); sys.exit({code})
out.write_text({result!r})
"""


def stand_in(tmp_path, monkeypatch, result="", code=0):
    program = tmp_path / "macs3"
    program.write_text(STAND_IN.format(python=sys.executable, log=str(tmp_path / "log"), result=result, code=code))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("MULTIVI_NF_MACS3", str(program))


def test_options_given_to_macs3(tmp_path, monkeypatch):
    import json

    row = "chr1\t100\t300\tp\t50\t.\t30\t4\t5.5\t{}\n"
    stand_in(tmp_path, monkeypatch, row.format(20) + row.format(90))
    simulated(tmp_path / "f.tsv.gz", np.random.default_rng(0), cells=2, per_cell=5)
    called = call_peaks([(tmp_path / "f.tsv.gz", None)], GENOME)
    assert called["start"].tolist() == [120, 190] and called["score"].tolist() == [5.5, 5.5]
    arguments = json.loads((tmp_path / "log").read_text())
    given = dict(zip(arguments, arguments[1:]))
    assert arguments[0] == "callpeak"
    assert [given[name] for name in ("-f", "--shift", "--extsize", "--keep-dup", "-q")] == [
        "BED",
        "-75",
        "150",
        "all",
        "0.05",
    ]
    assert {"--nomodel", "--nolambda", "--call-summits"} <= set(arguments)
    assert given["-g"] == str(round(0.87 * 50000))  # only chromosomes that occur


def test_macs3_that_is_absent_fails_or_finds_nothing(tmp_path, monkeypatch):
    simulated(tmp_path / "f.tsv.gz", np.random.default_rng(0), cells=2, per_cell=5)
    inputs = [(tmp_path / "f.tsv.gz", None)]
    stand_in(tmp_path, monkeypatch, code=1)
    with pytest.raises(InputError, match="exit code 1 on group 'all': too few / fragments"):
        call_peaks(inputs, GENOME)
    stand_in(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="found no peak in 10 fragments"):
        call_peaks(inputs, GENOME)
    row = "chr1\t1\t{}\tp\t50\t.\t{}\t4\t5.5\t20\n"
    for noise in ("noise\n", "chr1\t1\n", row.format("x", 30), row.format(9, "x")):
        stand_in(tmp_path, monkeypatch, noise)
        with pytest.raises(InputError, match="macs3 wrote no narrowPeak of group 'all'"):
            call_peaks(inputs, GENOME)
    (tmp_path / "macs3").write_text("no program\n")
    with pytest.raises(InputError, match="no program that this machine can start"):
        call_peaks(inputs, GENOME)
    monkeypatch.setenv("MULTIVI_NF_MACS3", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="make macs3"):
        find_macs3()
    monkeypatch.delenv("MULTIVI_NF_MACS3")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(InputError, match="make macs3"):
        find_macs3()


def test_groups_file(tmp_path):
    (tmp_path / "g.tsv").write_text("barcode\tgroup\nA\tB cell\nC\tT\nA\tB cell\n")
    assert read_groups(tmp_path / "g.tsv") == {"A": "B cell", "C": "T"}
    (tmp_path / "g.tsv").write_text("A\tB\nA\tT\n")
    with pytest.raises(InputError, match="line 2.*two groups"):
        read_groups(tmp_path / "g.tsv")
    (tmp_path / "g.tsv").write_text("A B\n")
    with pytest.raises(InputError, match="line 1"):
        read_groups(tmp_path / "g.tsv")


@pytest.fixture
def real_macs3():
    """Give MACS3 where `make macs3` has built it; the caller's own environment variable wins."""
    built = os.environ.get("MULTIVI_NF_MACS3") or shutil.which("macs3")
    if built is None:
        repository = Path(__file__).resolve().parents[3]
        candidate = repository / ".venv" / "bin" / "macs3"
        built = str(candidate) if candidate.exists() else None
    if built is None:
        skip_or_fail("macs3 is not built (make macs3)")
    return built


def test_real_macs3_finds_the_rare_group(tmp_path, monkeypatch, real_macs3):
    """Peaks of 3 % of the cells are found when those cells are called as a group, through the commands."""
    monkeypatch.setenv("MULTIVI_NF_MACS3", real_macs3)
    rng = np.random.default_rng(1)
    common = simulated(tmp_path / "common.tsv.gz", rng, cells=300)
    rare = simulated(tmp_path / "rare.tsv.gz", rng, cells=9, per_cell=90, summits=(33000,), prefix="R")
    for name, cells, group in (("common", common, "common"), ("rare", rare, "rare")):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{cell}\t{group}\n" for cell in cells))
    (tmp_path / "sizes").write_text("".join(f"{name}\t{size}\n" for name, size in SIZES.items()))
    base = [str(tmp_path / "common.tsv.gz"), str(tmp_path / "rare.tsv.gz"), "--chrom-sizes", str(tmp_path / "sizes")]
    groups = ["--groups", str(tmp_path / "common.tsv"), "--groups", str(tmp_path / "rare.tsv")]
    CliRunner().invoke(call_command, [*base, *groups, "--output", str(tmp_path / "s.bed")], catch_exceptions=False)
    merge = [str(tmp_path / "s.bed"), "--chrom-sizes", str(tmp_path / "sizes"), "--output", str(tmp_path / "c.bed")]
    CliRunner().invoke(merge_command, merge, catch_exceptions=False)
    peaks = read_bed(tmp_path / "c.bed")
    for summit in (5000, 20000, 41000, 33000):
        assert ((peaks["start"] <= summit) & (peaks["end"] > summit)).any(), summit
    assert (peaks["end"] - peaks["start"] == 501).all()
    got = scan(tmp_path / "rare.tsv.gz", GENOME, barcodes=rare, peaks=peaks)
    assert got.table["frip"].mean() > 0.7
    again = (tmp_path / "c.bed").read_bytes(), (tmp_path / "s.bed").read_bytes()
    CliRunner().invoke(call_command, [*base, *groups, "--output", str(tmp_path / "s.bed")], catch_exceptions=False)
    CliRunner().invoke(merge_command, merge, catch_exceptions=False)
    assert again == ((tmp_path / "c.bed").read_bytes(), (tmp_path / "s.bed").read_bytes())


@pytest.mark.real
def test_real_macs3_on_real_fragments(shared_data, tmp_path, monkeypatch, real_macs3):
    """Most of the published peaks of the same fragments are met again."""
    monkeypatch.setenv("MULTIVI_NF_MACS3", real_macs3)
    folder = shared_data("fragments_chr22_hg38")
    genome = Genome({"chr22": 50818468}, None, None, None, {})
    called = call_peaks([(folder / "fragments.tsv.gz", None)], genome)
    write_summits(tmp_path / "s.bed", called)
    consensus = merge_peaks([read_summits(tmp_path / "s.bed")], genome)
    published = read_bed(folder / "peaks.bed")
    spans = zip(consensus["start"], consensus["end"])
    met = [((published["start"] < end) & (published["end"] > start)).any() for start, end in spans]
    assert len(consensus) > 1500 and np.mean(met) > 0.9
