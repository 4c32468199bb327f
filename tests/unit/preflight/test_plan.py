"""Preflight of each sample and the gate for all: every problem is told, and peaks come from one place."""

from __future__ import annotations

import copy
import functools
import gzip
import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from multivi_nf.commands import check_inputs, preflight
from multivi_nf.errors import InputError
from multivi_nf.inputs.samplesheet import FILE_COLUMNS, Sample
from multivi_nf.inputs.schemas import CheckedSheet
from multivi_nf.preflight.check import check_sample
from multivi_nf.preflight.checked import pack, unpack
from multivi_nf.preflight.plan import Choices, make_plan, read_checked
from multivi_nf.testing.files import GENES, PEAKS, barcodes, counts, features, write_10x, write_h5ad

CELLS = barcodes(60)
SIZES = "chr1\t30000\nchr2\t20000\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "chrom.sizes").write_text(SIZES)
    write_10x(tmp_path / "all.h5", counts(60, 54), CELLS, features())
    write_fragments(tmp_path / "f.tsv.gz", CELLS)
    (tmp_path / "peaks.bed").write_text("".join(p.replace(":", "\t").replace("-", "\t") + "\n" for p in PEAKS))
    return tmp_path


def write_fragments(path, cells, seed=0):
    rng = np.random.default_rng(seed)
    rows = sorted(
        (int(s), int(n), cells[int(c)])
        for s, n, c in zip(rng.integers(0, 29000, 3000), rng.integers(30, 600, 3000), rng.integers(0, len(cells), 3000))
    )
    path.write_bytes(gzip.compress("".join(f"chr1\t{s}\t{s + n}\t{c}\t1\n" for s, n, c in rows).encode()))
    return path


def check(folder, name="s", genome=True, **files):
    options = [f"--{k.replace('_', '-')}={folder / v}" for k, v in files.items()]
    options += [f"--chrom-sizes={folder / 'chrom.sizes'}"] if genome else []
    output = folder / f"{name}.preflight.json"
    result = CliRunner().invoke(preflight.command, ["--sample", name, *options, "--output", str(output)])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(output.read_text())


def sheet(*rows):
    return [
        Sample(name, name, dict.fromkeys(FILE_COLUMNS) | dict.fromkeys(columns, "x"), {"condition": c})
        for name, columns, c in rows
    ]


def gate(folder, samples, contrasts=None, columns=None, options=()):
    content = {"samples": [s.to_json() for s in samples], "contrasts": contrasts, "columns": columns or {}}
    (folder / "samples.json").write_text(json.dumps(content))
    checked = [str(folder / f"{s.sample}.preflight.json") for s in samples]
    output = ["--output", str(folder / "plan.json"), "--peaks-output", str(folder / "set.bed")]
    result = CliRunner().invoke(
        check_inputs.command, [*checked, "--samples", str(folder / "samples.json"), *output, *options]
    )
    if result.exception is not None:
        assert not (folder / "plan.json").exists()
        assert not (folder / "set.bed").exists()
        raise result.exception
    return json.loads((folder / "plan.json").read_text())


def test_names_are_packed_and_unpacked():
    assert unpack(pack(PEAKS)) == PEAKS


def test_a_sound_sample(folder):
    found = check(folder, rna="all.h5", fragments="f.tsv.gz", protein="all.h5", peaks="peaks.bed")
    assert found["problems"] == []
    assert found["modalities"]["rna"]["cells"] == 60
    assert unpack(found["modalities"]["rna"]["names"]) == GENES
    assert found["modalities"]["protein"]["isotype_controls"] == ["IgG1_isotype"]
    [protein, fragments] = found["overlap"]
    assert (protein["left"], protein["right"], protein["fraction"]) == ("protein", "rna", 1.0)
    assert (fragments["left"], fragments["shared"]) == ("fragments", 60)


def test_all_problems_of_a_sample_come_together(folder):
    (folder / "cut.tsv.gz").write_bytes((folder / "f.tsv.gz").read_bytes()[:-400])
    (folder / "bad.bed").write_text("chr1\tx\t5\n")
    (folder / "cells.txt").write_text("A\nA\n")
    found = check(folder, rna="gone.h5", fragments="cut.tsv.gz", peaks="bad.bed", barcode_map="cells.txt")
    columns = [p["what"].split(", ")[1].split(":")[0] for p in found["problems"]]
    assert columns == ["barcode_map", "rna", "peaks", "fragments"]
    for problem in found["problems"]:
        assert set(problem) == {"what", "why", "remedy"}
        assert problem["what"].startswith("sample 's', ")


def test_fragments_without_a_genome(folder):
    [problem] = check(folder, fragments="f.tsv.gz", genome=False)["problems"]
    assert "no genome was given" in problem["what"]


def test_barcodes_that_do_not_meet_name_the_change(folder):
    other = [cell.replace("-1", "-7") for cell in CELLS]
    write_h5ad(folder / "atac.h5ad", counts(60, 20), other, PEAKS)
    found = check(folder, rna="all.h5", atac="atac.h5ad")
    [problem] = found["problems"]
    assert "0 of 60 barcodes" in problem["what"]
    assert "suffix" in problem["remedy"]
    assert found["overlap"][0]["transformed_fraction"] == 1.0


def test_a_barcode_map_is_applied(folder):
    other = barcodes(60, start=5000)
    write_h5ad(folder / "atac.h5ad", counts(60, 20), other, PEAKS)
    (folder / "map.tsv").write_text("".join(f"{a}\t{r}\n" for a, r in zip(other, CELLS)))
    found = check(folder, rna="all.h5", atac="atac.h5ad", barcode_map="map.tsv")
    assert found["problems"] == []
    assert found["overlap"][0]["fraction"] == 1.0
    write_fragments(folder / "g.tsv.gz", other)
    found = check(folder, rna="all.h5", fragments="g.tsv.gz", barcode_map="map.tsv")
    assert found["problems"] == []
    assert found["overlap"][0]["shared"] == 60
    assert check(folder, rna="all.h5", fragments="g.tsv.gz")["problems"] != []


def test_some_overlap_is_a_warning(folder):
    write_h5ad(folder / "atac.h5ad", counts(60, 20), CELLS[:20] + barcodes(40, start=9000), PEAKS)
    found = check(folder, rna="all.h5", atac="atac.h5ad")
    assert found["problems"] == []
    assert "20 of 60 barcodes (33%)" in found["warnings"][0]


def test_an_aggregated_run_is_told(folder):
    names = [cell[:-1] + str(1 + i % 3) for i, cell in enumerate(CELLS)]
    write_10x(folder / "aggr.h5", counts(60, 54), names, features())
    [warning] = check(folder, rna="aggr.h5")["warnings"]
    assert "3 different suffixes" in warning


def test_peaks_of_the_run(folder):
    check(folder, "a", rna="all.h5", fragments="f.tsv.gz", peaks="peaks.bed")
    check(folder, "b", rna="all.h5")
    samples = sheet(("a", ["rna", "fragments", "peaks"], "x"), ("b", ["rna"], "y"))
    assert gate(folder, samples)["peak_set"] == "macs3"
    assert gate(folder, samples, options=["--peak-source", "samples"])["peak_set"] == "samples"
    assert not (folder / "set.bed").exists()
    plan = gate(folder, samples, options=["--peaks", str(folder / "peaks.bed")])
    assert (plan["peak_set"], plan["peaks"]) == ("given", 20)
    assert (folder / "set.bed").read_bytes() == (folder / "peaks.bed").read_bytes()
    (folder / "set.bed").unlink()
    assert gate(folder, [samples[1]])["peak_set"] == "none"


def test_a_run_without_paired_cells_is_told(folder):
    check(folder, "a", fragments="f.tsv.gz")
    check(folder, "b", rna="all.h5")
    apart = sheet(("a", ["fragments"], "x"), ("b", ["rna"], "y"))
    (warning,) = gate(folder, apart)["warnings"]
    assert warning.startswith("no cell was measured in more than one of atac, rna")
    check(folder, "a", rna="all.h5", fragments="f.tsv.gz")
    assert gate(folder, sheet(("a", ["rna", "fragments"], "x"), ("b", ["rna"], "y")))["warnings"] == []
    assert gate(folder, [apart[1]])["warnings"] == []


def test_peak_source_samples_needs_peaks(folder):
    check(folder, "a", fragments="f.tsv.gz")
    with pytest.raises(InputError, match="column peaks"):
        (folder / "plan.json").unlink(missing_ok=True)
        gate(folder, sheet(("a", ["fragments"], "x")), options=["--peak-source", "samples"])


def test_somebodys_matrix_gives_the_peaks(folder):
    check(folder, "own", fragments="f.tsv.gz")
    check(folder, "theirs", atac="all.h5")
    samples = sheet(("own", ["fragments"], "x"), ("theirs", ["atac"], "y"))
    plan = gate(folder, samples)
    assert plan["peak_set"] == "matrix"
    assert plan["samples"]["own"]["atac"] == "fragments"
    assert plan["samples"]["theirs"]["atac"] == "matrix"
    bed = pd.read_csv(folder / "set.bed", sep="\t", header=None)
    assert [f"{c}:{s}-{e}" for c, s, e in bed.to_numpy()] == PEAKS
    for name in ("plan.json", "set.bed"):
        (folder / name).unlink()
    (folder / "other.bed").write_text("chr1\t1\t500\n")
    with pytest.raises(InputError, match="'--peaks' .*'theirs'.* different peaks"):
        gate(folder, samples, options=["--peaks", str(folder / "other.bed")])


def test_matrices_on_different_peaks_are_refused_with_advice(folder):
    write_h5ad(folder / "other.h5ad", counts(60, 20), CELLS, [*PEAKS[:-1], "chr2:5-50"])
    check(folder, "a", atac="all.h5")
    check(folder, "b", atac="other.h5ad")
    with pytest.raises(InputError) as error:
        gate(folder, sheet(("a", ["atac"], "x"), ("b", ["atac"], "y")))
    assert "19 are equal" in str(error.value)
    assert "column fragments" in str(error.value)


def test_fragments_win_over_the_matrix_beside_them(folder):
    write_h5ad(folder / "other.h5ad", counts(60, 20), CELLS, [*PEAKS[:-1], "chr2:5-50"])
    check(folder, "a", atac="all.h5", fragments="f.tsv.gz")
    check(folder, "b", atac="other.h5ad", fragments="f.tsv.gz")
    one, two = sheet(("a", ["atac", "fragments"], "x"), ("b", ["atac", "fragments"], "y"))
    plan = gate(folder, [one])
    assert plan["peak_set"] == "matrix"
    assert any("the fragments are counted, the matrix is not" in note for note in plan["notes"])
    (folder / "set.bed").unlink()
    plan = gate(folder, [one, two])  # each was called on its own peaks: neither is everybody's
    assert plan["peak_set"] == "macs3"
    assert any("not used" in note for note in plan["notes"])


def test_problems_of_all_samples_come_together(folder):
    write_h5ad(folder / "mouse.h5ad", counts(60, 30), CELLS, [f"ENSMUSG{n:011d}" for n in range(30)])
    check(folder, "a", rna="all.h5")
    check(folder, "b", rna="mouse.h5ad")
    check(folder, "c", rna="gone.h5")
    samples = sheet(("a", ["rna"], "x"), ("b", ["rna"], "y"), ("c", ["rna"], "y"))
    contrasts = [
        {"contrast": "k", "modality": "rna", "groupby": "cell_type", "target": "B", "reference": "rest", "cells": "all"}
    ]
    with pytest.raises(InputError) as error:
        gate(folder, samples, contrasts, {"labels": "celltype"})
    text = str(error.value)
    for words in (
        "sample 'c', rna: ",
        "a: human, b: mouse",
        "'cell_type', which no sample has",
        "--labels names the column",
    ):
        assert words in text
    assert text.count("ERROR: ") == 4


def test_panels_of_one_batch(folder):
    table = features().query("type == 'Antibody Capture'")
    write_10x(folder / "p.h5", counts(60, 3), CELLS, table.iloc[:3])
    check(folder, "a", protein="all.h5")
    check(folder, "b", protein="p.h5")
    one, two = sheet(("a", ["protein"], "x"), ("b", ["protein"], "y"))
    gate(folder, [one, Sample("b", "a", two.files, {"condition": ""})])  # the isotype control is no protein
    (folder / "plan.json").unlink()
    write_10x(folder / "p.h5", counts(60, 2), CELLS, table.iloc[:2])
    check(folder, "b", protein="p.h5")
    with pytest.raises(InputError, match="of batch 'a' differ in proteins, e.g. 'GENE1'"):
        gate(folder, [one, Sample("b", "a", two.files, {"condition": ""})])


def test_annotation_of_h5ad_inputs_counts(folder):
    write_h5ad(
        folder / "rna.h5ad", counts(60, 30), CELLS, GENES, obs={"cell_type": ["B", "T"] * 30, "modality": ["x"] * 60}
    )
    found = check(folder, "a", rna="rna.h5ad")
    assert found["annotations"] == {"cell_type": ["B", "T"], "modality_given": ["x"]}
    contrast = {
        "contrast": "k",
        "modality": "rna",
        "groupby": "cell_type",
        "target": "B",
        "reference": "rest",
        "cells": "all",
    }
    samples = sheet(("a", ["rna"], "x"))
    assert gate(folder, samples, [contrast], {"labels": "cell_type"})["peak_set"] == "none"
    (folder / "plan.json").unlink()
    with pytest.raises(InputError, match="no cell has the value 'NK'"):
        gate(folder, samples, [contrast | {"target": "NK"}])


def test_missing_and_foreign_preflights(folder):
    samples = sheet(("a", ["rna"], "x"), ("b", ["rna"], "y"))
    check(folder, "a", rna="all.h5")
    with pytest.raises(InputError, match="no preflight of b"):
        read_checked([folder / "a.preflight.json"], samples)
    (folder / "x.json").write_text("[]")
    with pytest.raises(InputError, match=r"x.json is not what its step writes: \[\] stands where"):
        read_checked([folder / "x.json"], samples)


def test_reference_peaks(folder):
    model = folder / "model"
    model.mkdir()
    rows = [("rna", g, g) for g in GENES] + [("atac", p, p) for p in PEAKS[3:9]]
    pd.DataFrame(rows, columns=["modality", "feature", "symbol"]).to_csv(model / "features.tsv", sep="\t", index=False)
    check(folder, "a", fragments="f.tsv.gz")
    check(folder, "b", atac="all.h5")
    samples = sheet(("a", ["fragments"], "x"), ("b", ["atac"], "y"))
    plan = gate(folder, samples, options=["--reference", str(model)])
    assert (plan["peak_set"], plan["peaks"]) == ("reference", 6)
    checked = read_checked([folder / "a.preflight.json", folder / "b.preflight.json"], samples)
    with pytest.raises(InputError, match="has no features.tsv"):
        make_plan(CheckedSheet(samples, None, {}), checked, Choices(reference=folder))


def test_the_genome_is_only_asked_for_where_coordinates_are_read(folder):
    def no_genome():
        raise AssertionError

    files = dict.fromkeys(FILE_COLUMNS) | dict.fromkeys(("rna", "atac"), str(folder / "all.h5"))
    assert check_sample(Sample("s", "s", files, {}), no_genome).problems == []


FORGED = (None, [], {}, "x", -1, 1e308, True, ["a", 1], {"a": 1}, [[]], {"a": [[]]}, 1 << 80)


def places(content, here=()):
    """Every place in JSON, the keys that lead there."""
    yield here
    for key in content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ():
        yield from places(content[key], (*here, key))


def test_a_forged_value_anywhere_in_a_preflight_is_refused_or_unread(folder):
    """Of each place eleven other values, and the key left out: an InputError or a plan, no other end."""
    samples = sheet(("a", ["rna", "atac", "protein"], "x"))
    made = check(folder, "a", rna="all.h5", atac="all.h5", protein="all.h5")
    made["problems"], refused = [{"what": "w", "why": "y", "remedy": "r"}], 0
    for place in list(places(made))[1:]:
        for value in (*FORGED, KeyError):
            forged = copy.deepcopy(made)
            holder = functools.reduce(lambda held, key: held[key], place[:-1], forged)
            if value is KeyError:
                del holder[place[-1]]
            else:
                holder[place[-1]] = value
            (folder / "forged.json").write_text(json.dumps(forged))
            try:
                checked = read_checked([folder / "forged.json"], samples)
                checked["a"].problems.clear()
                make_plan(CheckedSheet(samples, None, {}), checked, Choices())
            except InputError:
                refused += 1
    assert refused > 200
