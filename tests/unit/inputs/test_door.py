"""Every bad input that a run must stop at before training, one row a case, through the commands of the door steps.

tests/pipeline/test_bad_inputs.py shows for the same steps that the pipeline then stops, before anything heavy, with the
message repeated and nothing under --outdir; wrong parameters are in tests/pipeline/test_parameters.py, since they are
refused before the first step.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from multivi_nf.commands import main
from multivi_nf.testing.files import GENES, barcodes, counts, features, write_10x, write_h5ad, write_mtx

CELLS = barcodes(40)
MESSAGE = re.compile(r"ERROR: (.+)\n  Why it matters: .+\n  What to do: .+")
HEADER = "sample,rna,fragments,atac,protein,peaks,barcodes,barcode_map,batch"
GOOD = "good,good.h5,,,,,,,b"
FRAGMENT = "chr1\t{}\t{}\tAAAC-1\t1\n"

# case: (lines of the sheet below its header, words of one message); a dict also names a header or contrasts
SHEETS = {
    "missing column": ({"header": "rna", "rows": ["good.h5"]}, ["samples.csv", "'sample'"]),
    "unknown spelling of a column": ({"header": "smaple,rna", "rows": ["a,good.h5"]}, ["samples.csv", "'sample'"]),
    "sheet without rows": ({"rows": []}, ["samples.csv"]),
    "duplicate sample": ([GOOD, GOOD], ["line 3", "'good'"]),
    "sample name with ../": (["../up,good.h5,,,,,,,b"], ["line 2", "../up"]),
    "sample name with <script>": (["<script>x</script>,good.h5,,,,,,,b"], ["line 2", "<script>"]),
    "sample name with a blank": (["a b,good.h5,,,,,,,b"], ["line 2", "a b"]),
    "row without any data": (["a,,,,,,,,b"], ["line 2", "rna"]),
    "missing file": (["a,gone/x.h5,,,,,,,b"], ["line 2", "gone/x.h5"]),
    "metadata column that shadows a reserved one": (
        {"header": HEADER + ",has_rna", "rows": [GOOD + ",x"]},
        ["samples.csv", "has_rna"],
    ),
    "metadata column that shadows a QC column": (
        {"header": HEADER + ",rna_n_counts", "rows": [GOOD + ",x"]},
        ["samples.csv", "rna_n_counts"],
    ),
    "contrast on an unknown column": (
        {"rows": [GOOD], "contrasts": "c,rna,armm,treated,rest"},
        ["contrasts.csv", "armm"],
    ),
    "contrast group without cells": (
        {"header": HEADER + ",arm", "rows": [GOOD + ",control"], "contrasts": "c,rna,arm,nobody,control"},
        ["contrasts.csv", "nobody"],
    ),
    "contrast on a modality that no sample has": (
        {"header": HEADER + ",arm", "rows": [GOOD + ",x", "b,mouse.h5ad,,,,,,,b,y"], "contrasts": "c,atac,arm,x,y"},
        ["contrasts.csv", "atac"],
    ),
    "two contrasts of one name": (
        {"rows": [GOOD], "contrasts": "c,rna,cluster,each,rest\nc,rna,cluster,each,rest"},
        ["contrasts.csv", "line 3"],
    ),
}

# case: (column of the sheet, file, words of the message beside the file's name)
FILES = {
    "empty file": ("rna", "empty.h5", ["empty"]),
    "wrong file type": ("rna", "text.h5", []),
    "non-integer counts": ("rna", "halves.h5ad", ["whole numbers"]),
    "negative counts": ("rna", "negative.h5ad", ["negative"]),
    "NaN": ("rna", "nan.h5ad", ["nan"]),
    "duplicate barcodes": ("rna", "twice.h5ad", [CELLS[0]]),
    "mtx folder without barcodes": ("rna", "no_barcodes", ["barcodes.tsv"]),
    "10x file without this feature type": ("protein", "no_protein.h5", ["Antibody Capture"]),
    "truncated gzip": ("fragments", "cut.tsv.gz", ["cut"]),
    "fragments of three columns": ("fragments", "three.tsv.gz", ["column"]),
    "fragments that end before they begin": ("fragments", "backwards.tsv.gz", ["line"]),
    "fragments beyond the chromosome": ("fragments", "beyond.tsv.gz", ["chr1"]),
    "fragments of another genome": ("fragments", "other.tsv.gz", ["chromosome"]),
    "BED of words": ("peaks", "words.bed", ["line 1"]),
    "empty cell list": ("barcodes", "none.txt", []),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good and bad files."""
    rna = counts(40, len(GENES)).toarray().astype(float)
    write_10x(tmp_path / "good.h5", counts(40, 54), CELLS, features())
    write_10x(tmp_path / "no_protein.h5", counts(40, 50), CELLS, features("rna+atac"))
    write_h5ad(tmp_path / "halves.h5ad", rna + 0.5, CELLS, GENES)
    write_h5ad(tmp_path / "negative.h5ad", np.where(rna > 3, -rna, rna), CELLS, GENES)
    write_h5ad(tmp_path / "nan.h5ad", np.where(rna > 3, np.nan, rna), CELLS, GENES)
    write_h5ad(tmp_path / "twice.h5ad", rna, [*CELLS[:39], CELLS[0]], GENES)
    mouse = [name.replace("ENSG", "ENSMUSG") for name in GENES]
    write_h5ad(tmp_path / "mouse.h5ad", rna, CELLS, mouse)
    write_h5ad(tmp_path / "others.h5ad", rna, CELLS, [name.replace("ENSG0", "ENSG1") for name in GENES])
    write_mtx(tmp_path / "no_barcodes", counts(40, 30), CELLS, features("rna"))
    (tmp_path / "no_barcodes" / "barcodes.tsv.gz").unlink()
    (tmp_path / "empty.h5").touch()
    (tmp_path / "text.h5").write_text("this is no HDF5\n")
    many = "".join(FRAGMENT.format(n * 10, n * 10 + 200) for n in range(2000)).encode()
    (tmp_path / "cut.tsv.gz").write_bytes(gzip.compress(many)[:-2000])
    (tmp_path / "three.tsv.gz").write_bytes(gzip.compress(b"chr1\t1\t9\n" * 50))
    (tmp_path / "backwards.tsv.gz").write_bytes(gzip.compress(FRAGMENT.format(90, 9).encode() * 50))
    (tmp_path / "beyond.tsv.gz").write_bytes(gzip.compress(FRAGMENT.format(99999990, 99999999).encode() * 50))
    (tmp_path / "good.tsv.gz").write_bytes(gzip.compress(many))
    (tmp_path / "other.tsv.gz").write_bytes(gzip.compress(many.replace(b"chr1", b"scaffold_7")))
    (tmp_path / "words.bed").write_text("these are words\n")
    (tmp_path / "strangers.txt").write_text("".join(f"{name}\n" for name in barcodes(40, 1000)))
    (tmp_path / "none.txt").touch()
    (tmp_path / "chrom.sizes").write_text("chr1\t30000\n")
    return tmp_path


def step(*arguments: object) -> int:
    """Exit code of a step."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


def door(folder: Path, rows: list[str], header: str = HEADER, contrasts: str | None = None) -> int:
    """Check sheet, files and everything together, as the pipeline does; the exit code of the step that stopped."""
    (folder / "samples.csv").write_text("\n".join([header, *rows]) + "\n")
    out = folder / "out"
    out.mkdir()
    asked = []
    if contrasts is not None:
        (folder / "contrasts.csv").write_text(f"contrast,modality,groupby,target,reference\n{contrasts}\n")
        asked = ["--contrasts", folder / "contrasts.csv"]
    code = step("check-samplesheet", folder / "samples.csv", *asked, "--output", out / "samples.json")
    if code:
        assert not list(out.iterdir())
        return code
    checked = []
    for sample in json.loads((out / "samples.json").read_text())["samples"]:
        named = ("rna", "fragments", "atac", "protein", "peaks", "barcodes", "barcode_map")
        given = [f"--{column.replace('_', '-')}={sample[column]}" for column in named if sample[column]]
        checked.append(out / f"{sample['sample']}.preflight.json")
        genome = ["--chrom-sizes", folder / "chrom.sizes"]
        assert step("preflight", "--sample", sample["sample"], *given, *genome, "--output", checked[-1]) == 0
    plan = ["--output", out / "plan.json", "--peaks-output", out / "peaks.bed"]
    code = step("check-inputs", *checked, "--samples", out / "samples.json", *plan)
    assert code == 0 or not (out / "plan.json").exists() and not (out / "peaks.bed").exists()
    return code


def assert_said(text: str, words: list[str]) -> None:
    """One three-part message holds all the words; there is no traceback."""
    assert "Traceback" not in text
    messages = [found.group(0) for found in MESSAGE.finditer(text)]
    assert any(all(word in message for word in words) for message in messages), f"{words} not in one of\n{text}"


def test_what_is_good_passes(folder):
    assert door(folder, [GOOD]) == 0


@pytest.mark.parametrize("case", SHEETS)
def test_sheets(folder, capsys, case):
    given, words = SHEETS[case]
    assert door(folder, **(given if isinstance(given, dict) else {"rows": given})) == 2
    assert_said(capsys.readouterr().err, words)


@pytest.mark.parametrize("case", FILES)
def test_files(folder, capsys, case):
    column, name, words = FILES[case]
    row = {"sample": "bad", column: name, "batch": "b"}
    if column in ("peaks", "barcodes"):
        row["fragments"] = "good.tsv.gz"
    assert door(folder, [",".join(row.get(key, "") for key in HEADER.split(","))]) == 2
    assert_said(capsys.readouterr().err, ["'bad'", column, name, *words])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("mouse.h5ad", ["other: mouse", "good: human", "each species by itself"]),
        ("others.h5ad", ["share 0 genes", "other ENSG1", "--min_shared_genes"]),
    ],
    ids=["mouse with human", "no shared genes"],
)
def test_samples_that_do_not_fit_together(folder, capsys, other, words):
    assert door(folder, [GOOD, f"other,{other},,,,,,,b"]) == 2
    assert_said(capsys.readouterr().err, words)


def test_a_cell_list_of_another_sample(folder, capsys):
    assert door(folder, ["bad,good.h5,,,,,strangers.txt,,b"]) == 2
    assert_said(capsys.readouterr().err, ["'bad'", "none of the 40 barcodes of the list", "good.h5"])
