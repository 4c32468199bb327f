"""One odd line in thousands: left out, counted and told; over 0.1 % of the lines are another assembly's and refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from multivi_nf.commands.count_peaks import command as count_command
from multivi_nf.commands.qc_fragments import command as qc_command
from multivi_nf.errors import InputError
from multivi_nf.fragments.checks import preflight
from multivi_nf.fragments.count import scan
from multivi_nf.fragments.cuts import write_cut_sites
from multivi_nf.inputs.genome import Genome

SIZES = {"chr1": 200_000, "chr2": 150_000, "chrM": 16_571}
GENOME = Genome(SIZES, "chrM", None, None, {})

# the odd line, and the reason it is counted under
ODD = {
    "past the end by 8": (("chr1", 199_900, 200_008), "past the end"),
    "far past the end": (("chr1", 250_000, 250_100), "past the end"),
    "start below 0": (("chr1", -4, 120), "before the start"),
    "all below 0": (("chr1", -40, -4), "before the start"),
    "no length": (("chr2", 500, 500), "without length"),
    "end before start": (("chr2", 600, 400), "without length"),
    "past the circular end": (("chrM", 16_500, 16_575), "past the end"),
    "on a scaffold, below 0": (("KI270728.1", -4, 50), "before the start"),
}


def lines(n: int = 4000, cells: int = 20) -> list[tuple]:
    rng = np.random.default_rng(0)
    rows = []
    for chrom, length in SIZES.items():
        for start in np.sort(rng.integers(0, length - 500, n if chrom != "chrM" else 200)):
            rows.append((chrom, int(start), int(start + rng.integers(30, 400)), f"C{rng.integers(cells)}", 1))
    return rows


def write(path, rows):
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path


def with_odd(odd, times: int = 1) -> list[tuple]:
    """Put the odd lines, of cell C0, after the first line of their chromosome, or at the end."""
    rows = lines()
    at = next((i + 1 for i, row in enumerate(rows) if row[0] == odd[0]), len(rows))
    return [*rows[:at], *[(*odd, "C0", 1)] * times, *rows[at:]]


@pytest.mark.parametrize("name", ODD)
def test_one_odd_line_is_left_out_and_told(tmp_path, name):
    odd, reason = ODD[name]
    path = write(tmp_path / "f.tsv", with_odd(odd))
    clean = scan(write(tmp_path / "clean.tsv", lines()), GENOME)
    found = scan(path, GENOME)
    pd.testing.assert_frame_equal(
        found.table.drop(columns="n_outside").loc[clean.table.index], clean.table.drop(columns="n_outside")
    )
    assert found.facts.left_out == {reason: 1} and found.facts.fragments == clean.facts.fragments == 8200
    assert found.table["n_outside"].to_dict() == {name: int(name == "C0") for name in found.table.index}
    problems, warnings, facts = preflight(path, GENOME)
    assert problems == [] and facts.left_out == {reason: 1}
    assert any("1 of 8201 fragments lie at no place" in w and f"({reason} 1)" in w for w in warnings)


@pytest.mark.parametrize("times", [8, 9])
@pytest.mark.parametrize("name", ODD)
def test_up_to_a_thousandth_is_let_pass_and_more_is_refused(tmp_path, name, times):
    odd, reason = ODD[name]
    few = scan(write(tmp_path / "f.tsv", with_odd(odd, times)), GENOME)
    assert few.facts.left_out == {reason: times}  # 8 are under 0.1 %; 9 are over, but under ten
    many = write(tmp_path / "g.tsv", with_odd(odd, 20))
    with pytest.raises(InputError, match=f"as do 20 of 8220 lines \\(0.24%; {reason} 20\\)"):
        scan(many, GENOME)
    assert "as do 20 of 8220" in str(preflight(many, GENOME)[0][0])


def test_a_wrong_assembly_is_refused_soon(tmp_path):
    """A tenth of all lines past the end; the pass does not go on to the end of a large file."""
    small = Genome({**SIZES, "chr1": 150_000}, "chrM", None, None, {})
    path = write(tmp_path / "f.tsv", lines(60_000))
    with pytest.raises(InputError, match="past the end of the chromosome, which has 150000 bp") as caught:
        scan(path, small)
    told = int(caught.value.what.split(" lines (")[0].rsplit(" of ", 1)[1])
    assert told < 100_000 and "--genome" in caught.value.remedy


def test_the_odd_line_is_no_cut_site_and_no_count(tmp_path):
    path = write(tmp_path / "f.tsv", with_odd(("chr1", 199_900, 200_008)))
    cuts = write_cut_sites([(path, None)], GENOME, tmp_path)
    assert cuts.fragments == {"all": 8000}
    (tmp_path / "sizes").write_text("".join(f"{name}\t{size}\n" for name, size in SIZES.items()))
    (tmp_path / "cells").write_text("".join(f"C{i}\n" for i in range(20)))
    peaks = ["chr1\t199800\t200100", "chr1\t0\t100000", *[f"chr2\t{i}\t{i + 50}" for i in range(0, 100_000, 1000)]]
    (tmp_path / "p.bed").write_text("\n".join(peaks) + "\n")
    common = [str(path), "--chrom-sizes", str(tmp_path / "sizes"), "--barcodes", str(tmp_path / "cells")]
    done = CliRunner().invoke(qc_command, [*common, "--output", str(tmp_path / "qc")], catch_exceptions=False)
    assert "WARNING: fragments: 1 of 8201 fragments lie at no place" in done.output
    summary = json.loads((tmp_path / "qc" / "fragments.json").read_text())
    assert summary["file"]["left_out"] == {"past the end": 1} and len(summary["warnings"]) == 1
    output = ["--peaks", str(tmp_path / "p.bed"), "--output", str(tmp_path / "x.h5ad")]
    done = CliRunner().invoke(count_command, [*common, *output], catch_exceptions=False)
    assert "1 of 102 peaks reach past the end" in done.output
    import anndata as ad

    matrix = ad.read_h5ad(tmp_path / "x.h5ad")
    inside = sum(row[0] == "chr1" and row[2] > 199_800 for row in lines())
    assert matrix.var_names[0] == "chr1:199800-200100" and matrix.X[:, 0].sum() == inside


@pytest.mark.parametrize(("peak", "left"), [(("chr1", 199_990, 200_400), 1), (("chr1", 300_000, 300_500), 0)])
def test_a_peak_past_the_end_of_its_chromosome(tmp_path, peak, left):
    rows = [("chr1", 199_900, 199_999, "A", 1), ("chr2", 10, 60, "A", 1)]
    good = [("chr2", i, i + 40) for i in range(0, 100_000, 100)]
    frame = pd.DataFrame([peak, *good], columns=["chrom", "start", "end"])
    found = scan(write(tmp_path / "f.tsv", rows), GENOME, barcodes=["A"], peaks=frame)
    assert found.peaks_outside == 1 and found.matrix[0, 0] == left and found.matrix.shape == (1, 1001)
    many = pd.DataFrame([(c, s + i, e + i) for i in range(12) for c, s, e in [peak]], columns=["chrom", "start", "end"])
    with pytest.raises(InputError, match="as do 12 of 1012 peaks"):
        scan(tmp_path / "f.tsv", GENOME, peaks=pd.concat([many, frame[1:]], ignore_index=True))
