"""Peaks by group: those of rare cells are found, replicates are asked, the consensus stays as it is."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import skip_or_fail

from multivi_nf.inputs.genome import Genome
from multivi_nf.regulation import group_peaks
from multivi_nf.regulation.cells import Source
from multivi_nf.regulation.group_peaks import Calling, peaks_by_group, write_group_peaks
from multivi_nf.regulation.possible import NotPossible

SIZES = {"chr1": 60_000, "chrM": 1_000}
TOY = Genome(SIZES, "chrM", None, None, {})
CONSENSUS = pd.DataFrame({"chrom": "chr1", "start": [4_750, 50_000], "end": [5_251, 50_501], "score": [3.0, 1.0]})


def cells_of(n, groups, donors):
    names = pd.Index([f"s:C{i}" for i in range(n)])
    obs = pd.DataFrame({"cluster": groups, "donor": donors}, index=names)
    return obs, obs["cluster"].astype(object).rename("cluster")


def summits(group, at):
    frame = pd.DataFrame({"chrom": "chr1", "start": at, "score": 10.0})
    return frame.assign(end=frame["start"] + 1, name="n", group=group)


@pytest.fixture
def called(monkeypatch):
    """Stand in for MACS3: summits by group."""
    given, asked = {}, []

    def call(inputs, genome, **_):
        labels = sorted({group for _, groups in inputs for group in groups.values()})
        asked.append((labels, {k: v for _, groups in inputs for k, v in groups.items()}))
        return pd.concat([summits(label, given[label]) for label in labels], ignore_index=True)

    monkeypatch.setattr(group_peaks, "call_peaks", call)
    return given, asked


def fragments_of(path, places, background=400):
    """Fragments of 80 bp: cell → centres; the first of 40 cells also lie anywhere, as background."""
    rng = np.random.default_rng(1)
    rows = [(at - 40, at + 40, cell) for cell, centres in places.items() for at in centres]
    rows += [(int(at), int(at) + 80, f"C{k % 160}") for k, at in enumerate(rng.integers(0, 59_000, background))]
    with gzip.open(path, "wt") as file:
        file.writelines(f"chr1\t{start}\t{end}\t{cell}\t1\n" for start, end, cell in sorted(rows))
    return path


def test_a_peak_stays_where_two_donors_show_it(called, tmp_path):
    given, asked = called
    n = 240
    obs, groups = cells_of(
        n, ["A"] * 160 + ["B"] * 80, (["d1"] * 60 + ["d2"] * 60 + ["d3"] * 39 + ["d1"]) + ["d1"] * 80
    )
    given |= {"A": [5_000, 20_000, 30_000], "B": [20_050, 40_000]}
    # cells 0 to 59 are d1's, 60 to 119 d2's, 120 to 158 d3's: all of d3 show 30,000, of d2 none
    places = {f"C{k}": [20_000, 30_000] for k in range(0, 60, 4)} | {f"C{k}": [20_020] for k in range(60, 120, 4)}
    places |= {f"C{k}": [30_000] * 3 for k in range(120, 159)} | {"C1": [5_000] * 9, "C70": [5_000]}
    source = Source("s", fragments_of(tmp_path / "f.tsv.gz", places))
    made = peaks_by_group(obs, groups, [source], TOY, Calling(CONSENSUS))
    # d3 has 39 cells of A, and B has one donor: neither makes a replicate
    assert [labels for labels, _ in asked] == [["A", "B"]], "MACS3 is asked once"
    a, b = made.by_group["A"], made.by_group["B"]
    assert a["start"].tolist() == [19_750] and a["replicates"].tolist() == [2] and a["new"].tolist() == [True]
    assert b["start"].tolist() == [19_800, 39_750] and b["replicates"].tolist() == [-1, -1]
    assert made.table[["group", "cells", "donors", "peaks", "new"]].to_numpy().tolist() == [
        ["A", 160, 2, 1, 1],
        ["B", 80, 0, 2, 2],
    ]


def test_what_a_replicate_shows_by_hand(tmp_path):
    every = pd.DataFrame({"chrom": "chr1", "start": [9_750, 19_750, 29_750], "end": [10_251, 20_251, 30_251]})
    # background: 8 places beside peaks, one fragment in each of 4: mean 0.5; P(Poisson(0.5) >= 2) = 0.09, >= 3: 0.014
    near = [7_500, 12_500, 17_500, 22_500]
    places = {"C0": [*near, 10_000, 10_000, 20_000, 20_000, 20_000], "C1": [10_000] * 9}
    source = Source("s", fragments_of(tmp_path / "f.tsv.gz", places, background=0))
    pairs = pd.Series(["A\td1", "A\td2", None], pd.Index(["s:C0", "s:C1", "s:C2"]))
    aside = group_peaks._aside(every, TOY)
    assert sorted(aside["start"]) == sorted({9_750 + k * 10_000 + far for k in range(3) for far in group_peaks.ASIDE})
    shown = group_peaks._shown(pairs, [source], every, TOY)
    assert shown["A\td1"].tolist() == [False, True, False] and shown["A\td2"].tolist() == [True, False, False]
    peaks = every.assign(start=every["start"] + 400, end=every["end"] + 400)
    assert group_peaks._seen(peaks, every, shown, "A").tolist() == [1, 1, 0]
    assert group_peaks._seen(peaks, every, shown, "B").tolist() == [0, 0, 0]


def test_one_fragment_shows_a_peak_where_there_are_hardly_any_beside(tmp_path):
    """Background of 1 in 8 places is mean 0.125, P(>= 1) = 0.12: not shown; of none it is 0: shown."""
    every = pd.DataFrame({"chrom": "chr1", "start": [9_750, 29_750], "end": [10_251, 30_251]})
    places = {"C0": [10_000], "C1": [10_000, 7_500]}
    source = Source("s", fragments_of(tmp_path / "f.tsv.gz", places, background=0))
    pairs = pd.Series(["A\td1", "A\td2"], pd.Index(["s:C0", "s:C1"]))
    shown = group_peaks._shown(pairs, [source], every, TOY)
    assert shown["A\td1"].tolist() == [True, False] and shown["A\td2"].tolist() == [False, False]


def test_the_consensus_stays_and_new_peaks_overlap_nothing(called, tmp_path):
    given, _ = called
    obs, groups = cells_of(100, ["A"] * 50 + ["B"] * 50, ["d"] * 100)
    given |= {"A": [5_400, 20_000, 49_600], "B": [20_300, 5_000, 49_000]}
    made = peaks_by_group(obs, groups, [Source("s", Path("f"))], TOY, Calling(CONSENSUS))
    merged = made.merged
    old = merged[~merged["new"]].drop(columns="new").reset_index(drop=True)
    pd.testing.assert_frame_equal(old, CONSENSUS, check_dtype=False)
    assert (merged["start"].to_numpy()[1:] >= merged["end"].to_numpy()[:-1]).all()
    # 5,400 ± 250 meets the consensus (to 5,250), 49,600 ± 250 does not (from 50,000); of 20,000 and 20,300 one stays
    assert made.by_group["A"]["new"].tolist() == [False, True, True]
    assert merged.loc[merged["new"], "start"].tolist()[1:] == [48_750, 49_350]
    assert merged["new"].sum() == 3 and merged.loc[merged["new"], "start"].iloc[0] in (19_750, 20_050)
    write_group_peaks(tmp_path / "A.bed", made.by_group["A"])
    rows = [line.split("\t") for line in (tmp_path / "A.bed").read_text().splitlines()]
    assert [row[:4] for row in rows][1] == ["chr1", "19750", "20251", "chr1:19750-20251"]
    assert [row[5:] for row in rows] == [[".", ".", "0"], [".", ".", "1"], [".", ".", "1"]]


def test_small_groups_are_told_not_called(called):
    given, asked = called
    obs, groups = cells_of(30, ["A"] * 20 + ["B"] * 10, ["d"] * 30)
    obs["atac_n_fragments"] = [60.0] * 20 + [50.0] * 10
    given |= {"A": [20_000]}
    made = peaks_by_group(obs, groups, [Source("s", Path("f"))], TOY, Calling(CONSENSUS))
    assert asked[0][0] == ["A"] and made.by_group["B"].empty
    assert made.table["note"].tolist() == ["", "500 fragments are too few (1000)"]
    obs["atac_n_fragments"] = 1.0
    with pytest.raises(NotPossible, match="no group of cluster has 1000 fragments"):
        peaks_by_group(obs, groups, [Source("s", Path("f"))], TOY, Calling(CONSENSUS))


def test_without_macs3_it_says_so(tmp_path, monkeypatch):
    obs, groups = cells_of(30, ["A"] * 30, ["d"] * 30)
    monkeypatch.setenv("MULTIVI_NF_MACS3", str(tmp_path / "absent"))
    with pytest.raises(NotPossible, match="is no program"):
        peaks_by_group(obs, groups, [Source("s", tmp_path / "f")], TOY, Calling(CONSENSUS))


def test_real_macs3_finds_the_rare_groups_own(tmp_path, monkeypatch):
    """Eight of 300 cells have a place of their own that is not called among all; as a group it is."""
    built = os.environ.get("MULTIVI_NF_MACS3") or shutil.which("macs3")
    candidate = Path(__file__).resolve().parents[3] / ".venv" / "bin" / "macs3"
    built = built or (str(candidate) if candidate.exists() else None)
    if built is None:
        skip_or_fail("macs3 is not built (make macs3)")
    monkeypatch.setenv("MULTIVI_NF_MACS3", built)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(300):
        rare = i < 8
        for _ in range(90):
            inside = rng.random() < 0.5
            centre = rng.choice([33_000] if rare else [5_000, 20_000, 41_000]) + rng.integers(-60, 60)
            start = int(centre - 40 if inside else rng.integers(0, 59_000))
            rows.append(("chr1", start, start + int(rng.integers(60, 100)), f"C{i}"))
    with gzip.open(tmp_path / "f.tsv.gz", "wt") as file:
        file.writelines(f"{c}\t{s}\t{e}\t{b}\t1\n" for c, s, e, b in sorted(rows))
    obs, groups = cells_of(300, ["rare"] * 8 + ["common"] * 292, ["d"] * 300)
    results = [
        peaks_by_group(obs, groups, [Source("s", tmp_path / "f.tsv.gz")], TOY, Calling(CONSENSUS, workers=workers))
        for workers in (1, 2)
    ]
    for name in ("rare", "common"):
        pd.testing.assert_frame_equal(results[0].by_group[name], results[1].by_group[name])

    def met(peaks, place):
        return ((peaks["start"] <= place) & (peaks["end"] > place)).any()

    made = results[0]
    assert met(made.by_group["rare"], 33_000) and not met(made.by_group["common"], 33_000)
    assert all(met(made.merged, place) for place in (5_000, 20_000, 41_000, 33_000))
    assert made.by_group["common"].loc[made.by_group["common"]["start"].between(4_500, 5_000), "new"].tolist() == [
        False
    ]
