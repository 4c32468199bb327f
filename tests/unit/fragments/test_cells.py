"""Cell calls, rules, and the folder that qc-fragments writes."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from multivi_nf.commands import main
from multivi_nf.errors import InputError
from multivi_nf.fragments import quality
from multivi_nf.fragments.cells import call_cells, knee_curve, overlap_p_values, to_atac
from multivi_nf.fragments.count import tss_enrichment
from multivi_nf.inputs.barcodes import BarcodeMap
from multivi_nf.testing.fragments_made import Plan, generate, read_truth


def sample(n_cells=300, n_background=20000, seed=0):
    rng = np.random.default_rng(seed)
    cells = rng.lognormal(np.log(8000), 0.45, n_cells).astype(int)
    background = rng.lognormal(np.log(12), 1.0, n_background).astype(int)
    counts = np.concatenate([cells, background])
    order = rng.permutation(len(counts))
    return counts[order], (np.arange(len(counts)) < n_cells)[order]


def test_call_finds_simulated_cells():
    counts, truth = sample()
    call = call_cells(counts)
    assert (call.is_cell & truth).sum() > 0.98 * truth.sum()
    assert (call.is_cell & ~truth).sum() < 0.02 * truth.sum()
    assert np.array_equal(call.is_cell, counts >= call.threshold)


def test_call_follows_its_rule():
    """The rule, written out for every number of expected cells that is tried."""
    counts, _ = sample(40, 500, seed=3)
    ordered = np.sort(counts[counts > 0])[::-1]
    best = None
    for expected in np.unique(np.geomspace(1, len(ordered), 2000).astype(int)):
        threshold = max(ordered[int(0.01 * expected)] / 10, 1)
        called = (ordered >= threshold).sum()
        loss = (called - expected) ** 2 / expected
        if best is None or loss < best[0] - 1e-12:
            best = loss, threshold, expected
    call = call_cells(counts)
    assert call.threshold == pytest.approx(best[1]) and call.expected == best[2]


def test_call_of_nothing():
    assert not call_cells(np.zeros(5, int)).is_cell.any()
    assert call_cells(np.array([7])).is_cell.tolist() == [True]
    assert knee_curve(np.zeros(0, int)) == {"rank": [], "n_fragments": []}
    curve = knee_curve(np.arange(10000))
    assert len(curve["rank"]) <= 200 and curve["n_fragments"][0] == 9999 and curve["rank"][-1] == 10000


def frame(n_fragments, tsse=None):
    n = len(n_fragments)
    return pd.DataFrame(
        {"n_fragments": n_fragments, "n_mito": np.zeros(n, int), "tsse": np.full(n, np.nan) if tsse is None else tsse},
        index=[f"b{i}" for i in range(n)],
    )


def test_rules_name_what_they_removed():
    chosen = quality.choose_candidates(frame([5000, 4000, 900, 3, 2], [9.0, 2.0, 9.0, 1, 1]), min_tsse=4)
    assert chosen.removed_by.tolist() == ["", "min_tsse", "min_fragments", "knee", "knee"]
    removed = {rule.rule: rule.removed for rule in chosen.rules}
    assert removed == {"knee": 2, "min_fragments": 1, "min_tsse": 1}
    listed = quality.choose_candidates(frame([50, 0, 7000, 6000]), n_listed=2)
    assert listed.removed_by.tolist() == ["", "", "not_listed", "not_listed"] and listed.absent == 1
    floor = quality.choose_candidates(frame([50, 0, 7000]), n_listed=2, min_fragments=10)
    assert floor.removed_by.tolist() == ["", "min_fragments", "not_listed"]


def test_nothing_left_or_nothing_known_is_an_error():
    with pytest.raises(InputError, match=r"min_fragments \(threshold 1000\) removed 3, whose median value was 20"):
        quality.choose_candidates(frame([30, 20, 10]))
    with pytest.raises(InputError, match="without transcription start sites"):
        quality.choose_candidates(frame([3000, 2000]), min_tsse=4)


def test_overlap_p_values():
    loci = np.array([0, 1, 0, 3, 20])
    np.testing.assert_allclose(overlap_p_values(loci), [1 - stats.poisson.cdf(n - 1, 4.8) for n in loci], atol=1e-12)
    assert np.isnan(overlap_p_values(np.full(3, np.nan))).all()


def test_tss_enrichment():
    got = tss_enrichment(np.array([101, 101, 0]), np.array([200, 0, 50]))
    np.testing.assert_allclose(got, [1.0, 10.0, 0.0])


def test_translation_takes_the_side_that_fits():
    mapping = BarcodeMap({"AA": "CC", "GG": "TT"})
    assert to_atac(["CC-1", "TT-1", "XX-1"], mapping) == (["AA-1", "GG-1", "XX-1"], 2)
    assert to_atac(["AA-1", "GG-1"], mapping) == (["AA-1", "GG-1"], 0)
    assert to_atac(["AA"], None) == (["AA"], 0)


def run(*arguments):
    """Run a step; its exit code."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as left:
        return left.code
    return 0


def test_the_folder_of_a_called_sample(tmp_path, capsys):
    """Simulated cells are called, every barcode's truth is found again, and the same input gives the same bytes."""
    plan = Plan(fragments=60_000, cells=20, background=300, peaks=400, types=3, rare=0.1, rare_peaks=20)
    generate(plan, tmp_path / "sim")
    arguments = ["qc-fragments", tmp_path / "sim" / "fragments.tsv.gz", "--genome", "hg38", "--sample", "s1"]
    for option in ("tss", "blacklist", "peaks"):
        arguments += [f"--{option}", tmp_path / "sim" / f"{option}.bed"]
    assert run(*arguments, "--output", tmp_path / "one") == 0
    assert run(*arguments, "--output", tmp_path / "two") == 0
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["candidates.txt", "fragments.json", "fragments.tsv.gz"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    truth, matrices = read_truth(tmp_path / "sim")
    table = pd.read_csv(tmp_path / "one" / "fragments.tsv.gz", sep="\t", index_col=0, keep_default_na=False)
    got = table.reindex(truth["names"])["n_fragments"].fillna(0).astype(int)
    assert got.tolist() == truth["fragments"].tolist()
    cells = (tmp_path / "sim" / "barcodes.txt").read_text().split()
    called = (tmp_path / "one" / "candidates.txt").read_text().split()
    assert set(called) <= set(cells) and len(called) >= 15
    inside = np.asarray(matrices["fragment"].sum(axis=1)).ravel()
    assert (table.loc[cells, "n_in_peaks"].to_numpy() <= inside).all()  # a fragment may meet two peaks
    summary = json.loads((tmp_path / "one" / "fragments.json").read_text())
    assert summary["cells_out"] == len(called) and summary["file"]["fragments"] == 60_000
    assert sum(summary["sizes"]) == truth["fragments"].sum()
    assert (table["removed_by"] == "").sum() == len(called) == table["candidate"].sum()
    assert gzip.open(tmp_path / "one" / "fragments.tsv.gz", "rt").readline().startswith("barcode\tn_fragments\t")


def test_a_wrong_file_leaves_no_folder(tmp_path, capsys):
    (tmp_path / "f.tsv").write_text("chr1\t5\t1\tA\t1\n")
    assert run("qc-fragments", tmp_path / "f.tsv", "--genome", "hg38", "--output", tmp_path / "qc") == 2
    told = capsys.readouterr().err
    assert "line 1" in told and "Why it matters" in told and "What to do" in told and "Traceback" not in told
    assert not (tmp_path / "qc").exists() and len(list(tmp_path.iterdir())) == 1
