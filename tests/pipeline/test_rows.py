"""Rows of the samplesheet: what a change of them runs again, and file names of every kind."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from tests.pipeline.nextflow_runs import MOSAIC, Run

from multivi_nf.testing.files import barcodes, counts, features, write_10x

ROWS = {
    "multiome_1": ("multiome_1/filtered_feature_bc_matrix.h5", "multiome_1/fragments.tsv.gz"),
    "multiome_2": ("multiome_2/filtered_feature_bc_matrix.h5", "multiome_2/fragments.tsv.gz"),
    "rna_1": ("rna_1/filtered_feature_bc_matrix.h5", ""),
    "rna_2": ("rna_2/filtered_feature_bc_matrix", ""),
}
OWN = {"PREFLIGHT", "FINGERPRINT", "RNA_QC", "FRAGMENTS_QC", "CALL_PEAKS"}  # of one sample; all others join samples
HEADER = "sample,rna,fragments"


def tasks(run: Run, word: str) -> set[tuple[str, str]]:
    return set(re.findall(rf"{word} process > (?:\w+:)?(\w+) \(([^)]*)\)", run.said))


def sheet(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join([name, *(f"{MOSAIC}/{file}" if file else "" for file in ROWS[name])]) for name in names]
    path = folder / "samples.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def test_a_change_of_rows_runs_again_only_what_it_concerns(nextflow, tmp_path):
    def run(names: list[str]) -> Run:
        chrom_sizes = MOSAIC / "genome" / "chrom.sizes"
        options = ["-stub-run", "-resume", "--input", sheet(tmp_path, names), "--chrom_sizes", chrom_sizes]
        done = nextflow(tmp_path, *options)
        assert done.code == 0, done.said
        return done

    first = run(["multiome_1", "rna_1"])
    assert tasks(first, "Cached") == set()
    own = {(process, tag) for process, tag in tasks(first, "Submitted") if process in OWN and tag != "-"}
    assert len(own) == 8  # PREFLIGHT, FINGERPRINT, RNA_QC of two samples; FRAGMENTS_QC, CALL_PEAKS of one
    added = run(["rna_2", "multiome_2", "rna_1", "multiome_1"])
    assert own <= tasks(added, "Cached")
    again = {tag for process, tag in tasks(added, "Submitted") if process in OWN and tag != "-"}
    assert again == {"rna_2", "multiome_2"}
    moved = run(["multiome_1", "multiome_2", "rna_1", "rna_2"])
    assert {tag for process, tag in tasks(moved, "Submitted") if process in OWN and tag != "-"} == set()
    removed = run(["rna_2", "multiome_1"])
    assert {tag for process, tag in tasks(removed, "Submitted") if process in OWN and tag != "-"} == set()


NAMES = [
    "filtered matrix 1.h5",
    "a;touch harm;.h5",
    "a&b|c.h5",
    "(1) [2] {3}.h5",
    'it\'s "quoted".h5',
    "back`tick!.h5",
    "~tilde^%@+=,:#.h5",
    "Prüfung-β.h5",
    "-dash.h5",
    "back\\slash.h5",
    "<in>.h5",
]


def test_every_file_name_is_read_or_refused_by_name(nextflow, tmp_path):
    folder = tmp_path / "Übung (2) & Co; it's [here]"
    folder.mkdir()
    good = write_10x(tmp_path / "good.h5", counts(40, 54), barcodes(40), features())
    rows = []
    for number, name in enumerate(NAMES):
        shutil.copy(good, folder / name)
        quoted = '"' + name.replace('"', '""') + '"'
        rows.append(f's{number},{quoted},b1,"drei, vier"')
    (folder / "my sheet's.csv").write_text("\n".join(["sample,rna,batch,note", *rows]) + "\n")
    run = nextflow(tmp_path, "--input", folder / "my sheet's.csv", "--rna_mad", "0", "--max_epochs", "1", "-preview")
    assert run.code == 0, run.said
    run = nextflow(tmp_path, "--input", folder / "my sheet's.csv", "--rna_mad", "0", "--rna_min_genes", "100000")
    assert {tag for process, tag in tasks(run, "Submitted") if process == "PREFLIGHT"} == {
        f"s{number}" for number in range(len(NAMES))
    }
    # every name reached the step as it is: each sample is refused for its genes, by the rule that was set
    assert "rna_min_genes" in run.said and "Traceback" not in run.said and "does not exist" not in run.said
    assert not list(tmp_path.rglob("harm"))


@pytest.mark.parametrize(("name", "fits"), [("cost$HOME.h5", ""), ("star*.h5", "starry.h5"), ("what?.h5", "whats.h5")])
def test_names_that_nextflow_cannot_stage(nextflow, tmp_path, name, fits):
    """A variable of the shell, or signs that another file there fits as well."""
    for one in filter(None, (name, fits)):
        write_10x(tmp_path / one, counts(40, 54), barcodes(40), features())
    (tmp_path / "s.csv").write_text(f"sample,rna\ns1,{name}\n")
    run = nextflow(tmp_path, "--input", tmp_path / "s.csv")
    assert run.code != 0 and "PREFLIGHT" not in run.submitted()
    assert name in run.said and "What to do: rename the file or its folder" in run.said


SHEETS = {
    "semicolons": ("sample;rna;dose\ns1;good.h5;0,5\ns2;good2.h5;1,25\n", "utf-8"),
    "tabs": ("sample\trna\tdose\ns1\tgood.h5\t0.5\ns2\tgood2.h5\t1.25\n", "utf-8"),
    "UTF-16": ("sample\trna\tdose\r\ns1\tgood.h5\t0,5\r\ns2\tgood2.h5\t1,25\r\n", "utf-16"),
    "Latin-1": ("sample;rna;dose;Ort\ns1;good.h5;0,5;Köln\ns2;good2.h5;1,25;Köln\n", "latin-1"),
    "sep=": ("sep=;\nsample;rna;dose\ns1;good.h5;0,5\ns2;good2.h5;1,25\n", "utf-8-sig"),
}


@pytest.mark.parametrize("kind", SHEETS)
def test_sheets_of_any_spreadsheet(nextflow, tmp_path, kind):
    """The gate passes, and says what is missing where the second file is not there."""
    text, encoding = SHEETS[kind]
    write_10x(tmp_path / "good.h5", counts(40, 54), barcodes(40), features())
    (tmp_path / "s.csv").write_bytes(text.encode(encoding))
    run = nextflow(tmp_path, "--input", tmp_path / "s.csv")
    assert run.code != 0 and "file " in run.said and "good2.h5 does not exist" in run.said, run.said
    assert "good.h5 does not exist" not in run.said
