from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from multivi_nf.commands.check_samplesheet import command
from multivi_nf.errors import InputError
from multivi_nf.inputs.contrasts import check_contrast_groups, read_contrasts
from multivi_nf.inputs.samplesheet import read_samples_json, read_samplesheet

GOOD = """sample,rna,fragments,atac,protein,peaks,barcodes,barcode_map,batch,condition
s1,a.h5,f.tsv.gz,,,p.bed,,map.tsv,b1,ctl
s2,b.h5,,,b.h5,,,,b1,stim
s3,,,peaks.h5,,,cells.txt,,,stim
"""


@pytest.fixture
def folder(tmp_path):
    for name in ("a.h5", "b.h5", "f.tsv.gz", "p.bed", "map.tsv", "peaks.h5", "cells.txt", "c.h5ad"):
        (tmp_path / name).write_text("x")
    return tmp_path


def write(folder, text, name="samples.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems_of(folder, text, **options):
    with pytest.raises(InputError) as error:
        read_samplesheet(write(folder, text), **options)
    blocks = str(error.value).split("\n\n")
    for block in blocks:
        assert block.startswith("ERROR: ")
        assert "Why it matters: " in block
        assert "What to do: " in block
    return blocks


def test_a_good_sheet(folder):
    samples = read_samplesheet(write(folder, GOOD))
    assert [s.sample for s in samples] == ["s1", "s2", "s3"]
    assert [s.batch for s in samples] == ["b1", "b1", "s3"]
    assert [s.modalities for s in samples] == [("rna", "atac"), ("rna", "protein"), ("atac",)]
    assert samples[0].files["fragments"] == str(folder / "f.tsv.gz")
    assert samples[1].files["atac"] is None
    assert [s.metadata for s in samples] == [{"condition": "ctl"}, {"condition": "stim"}, {"condition": "stim"}]


@pytest.mark.parametrize(
    "text", [GOOD.replace("\n", "\r\n"), "\ufeff" + GOOD, GOOD.replace(",", " , "), GOOD + "\n\n", GOOD + ",,,,,,,,,\n"]
)
def test_spellings_of_a_good_sheet(folder, text):
    assert read_samplesheet(write(folder, text)) == read_samplesheet(write(folder, GOOD))


def test_relative_paths_start_at_the_base(folder):
    text = "sample,rna\na,data/x.h5\nb,/abs/y.h5\nc,s3://bucket/z.h5\n"
    for base in ("/somewhere", "s3://other/place", "/somewhere/"):
        files = [s.files["rna"] for s in read_samplesheet(write(folder, text), base, [])]
        assert files == [f"{base.rstrip('/')}/data/x.h5", "/abs/y.h5", "s3://bucket/z.h5"]


def test_uris_are_not_looked_for_but_may_be_told_missing(folder):
    text = "sample,rna\nc,s3://bucket/z.h5\n"
    assert len(read_samplesheet(write(folder, text))) == 1
    [block] = problems_of(folder, text, missing=["s3://bucket/z.h5"])
    assert "s3://bucket/z.h5 does not exist" in block


CASES = [
    ("no sample column", "name,rna\na,a.h5\n", ["line 1", "'sample' is missing", "name"]),
    ("sample spelled Sample", "Sample,rna\na,a.h5\n", ["rename 'Sample' to 'sample'"]),
    ("duplicate sample", "sample,rna\na,a.h5\na,b.h5\n", ["line 3", "'sample'", "already in line 2"]),
    ("path in a name", "sample,rna\n../a,a.h5\n", ["line 2", "'../a'"]),
    ("markup in a name", "sample,rna\n<script>,a.h5\n", ["'<script>'"]),
    ("dot dot", "sample,rna\n..,a.h5\n", ["'..'"]),
    ("empty name", "sample,rna\n,a.h5\n", ["line 2", "is empty"]),
    ("no file in the row", "sample,rna,atac\na,,\n", ["line 2", "no file in any of rna, fragments, atac, protein"]),
    ("missing file", "sample,rna\na,gone.h5\n", ["line 2", "column 'rna'", "gone.h5 does not exist"]),
    ("same file twice", "sample,rna\na,a.h5\nb,a.h5\n", ["line 3", "same file as line 2"]),
    ("reserved metadata", "sample,rna,cluster\na,a.h5,1\n", ["'cluster'", "reserved"]),
    ("reserved prefix", "sample,rna,rna_n_counts\na,a.h5,1\n", ["'rna_n_counts'", "reserved"]),
    ("misspelled column", "sample,rna,fragment\na,a.h5,f.tsv.gz\n", ["'fragment'", "'fragments'"]),
    ("metadata with a slash", "sample,rna,a/b\na,a.h5,1\n", ["'a/b'"]),
    ("column twice", "sample,rna,rna\na,a.h5,b.h5\n", ["occurs 2 times"]),
    ("nameless column", "sample,rna,\na,a.h5,1\n", ["a column has no name"]),
    ("too many values", "sample,rna\na,a.h5,x\n", ["line 2", "3 values where the header has 2"]),
    ("empty file", "", ["is empty"]),
    ("header only", "sample,rna\n", ["no row"]),
    ("not text", b"PK\x03\x04\xff\xfe", ["packed file", "save the sheet as CSV"]),
    ("unclosed quote", 'sample,rna\n"a,a.h5\n', ["no CSV"]),
    ("fragments that are a matrix", "sample,fragments\na,a.h5\n", ["no fragments file"]),
    ("map without ATAC", "sample,rna,barcode_map\na,a.h5,map.tsv\n", ["no ATAC data"]),
    ("peaks without fragments", "sample,rna,peaks\na,a.h5,p.bed\n", ["no fragments"]),
    ("unprintable value", "sample,rna,tissue\na,a.h5,x\x07y\n", ["unprintable"]),
]


@pytest.mark.parametrize(("text", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bad_sheets(folder, text, words):
    blocks = problems_of(folder, text)
    assert any(all(word in block for word in words) for block in blocks), blocks


def test_all_problems_come_at_once_each_with_line_and_column(folder):
    text = "sample,rna,cluster\n../x,gone.h5,1\nok,,2\nok,a.h5,3\n"
    blocks = problems_of(folder, text)
    assert len(blocks) == 5
    for place in (
        "line 1, column 'cluster'",
        "line 2, column 'sample'",
        "line 2, column 'rna'",
        "line 3, column 'rna'",
        "line 4, column 'sample'",
    ):
        assert sum(place in block for block in blocks) == 1, place


def test_line_numbers_survive_values_over_several_lines(folder):
    [block] = problems_of(
        folder, 'sample,rna,note\na,a.h5,"two\nlines"\nb,gone.h5,x\n'.replace("two\nlines", "two lines")
    )
    assert "line 3" in block


def test_columns_that_parameters_name(folder):
    [block] = problems_of(folder, GOOD, columns={"--peak_group": "conditon"})
    assert "'conditon'" in block
    assert "did you mean 'condition'" in block
    assert "--peak_group names the column" in block
    named = {"--replicate": "condition", "--peak_group": "batch"}
    assert len(read_samplesheet(write(folder, GOOD), columns=named)) == 3


CONTRASTS = """contrast,modality,groupby,target,reference,cells
one,rna,condition,stim,ctl,all
two,atac,condition,each,,observed
three,protein,cluster,each,rest,
"""


def test_good_contrasts(folder):
    samples = read_samplesheet(write(folder, GOOD))
    rows = read_contrasts(write(folder, CONTRASTS, "c.csv"), samples)
    assert [row.reference for row in rows] == ["ctl", "rest", "rest"]
    assert [row.cells for row in rows] == ["all", "observed", "observed"]
    assert rows == read_contrasts(folder / "c.csv")  # one reader, with the samplesheet or without


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a,rna,conditon,stim,ctl,all", ["'conditon'", "did you mean 'condition'"]),
        ("a,rna,condition,sitm,ctl,all", ["'sitm'", "one of ctl, stim"]),
        ("a,rna,condition,stim,stim,all", ["both 'stim'"]),
        ("a,prot,condition,stim,ctl,all", ["'prot' is no modality"]),
        ("a,rna,condition,stim,ctl,some", ["'some' is not known"]),
        ("a,rna,condition,each,ctl,all", ["'ctl' with target 'each'"]),
        ("a,rna,condition,,ctl,all", ["is empty"]),
        ("a/b,rna,condition,stim,ctl,all", ["'a/b' is no name"]),
        ("one,rna,condition,stim,ctl,all", ["already in line 2"]),
    ],
)
def test_bad_contrasts(folder, row, words):
    samples = read_samplesheet(write(folder, GOOD))
    with pytest.raises(InputError) as error:
        read_contrasts(write(folder, CONTRASTS + row + "\n", "c.csv"), samples)
    for word in ["c.csv, line 5", *words]:
        assert word in str(error.value)


def test_contrasts_on_annotation_wait_for_the_files(folder):
    text = "sample,rna\na,c.h5ad\n"
    samples = read_samplesheet(write(folder, text))
    rows = read_contrasts(write(folder, "contrast,modality,groupby,target\nx,rna,cell_type,B\n", "c.csv"), samples)
    assert check_contrast_groups(rows, samples, {"cell_type": ["B", "T"]}) == []
    [gone] = check_contrast_groups(rows, samples, {"cell_type": ["T", "NK"]})
    assert "no cell has the value 'B'" in gone.what
    [unknown] = check_contrast_groups(rows, samples, {"celltype": ["B"]})
    assert "did you mean 'celltype'" in unknown.remedy
    only_10x = read_samplesheet(write(folder, "sample,rna\na,a.h5\n"))
    with pytest.raises(InputError, match="cell_type"):
        read_contrasts(folder / "c.csv", only_10x)


def test_command_writes_what_can_be_read_again(folder):
    sheet, contrasts, output = write(folder, GOOD), write(folder, CONTRASTS, "c.csv"), folder / "out" / "samples.json"
    result = CliRunner().invoke(command, [str(sheet), "--contrasts", str(contrasts), "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert read_samples_json(output) == read_samplesheet(sheet)
    content = json.loads(output.read_text())
    assert [row["contrast"] for row in content["contrasts"]] == ["one", "two", "three"]
    first = output.read_bytes()
    CliRunner().invoke(command, [str(sheet), "--contrasts", str(contrasts), "--output", str(output)])
    assert output.read_bytes() == first


def test_command_leaves_nothing_behind_on_refusal(folder):
    output = folder / "samples.json"
    for extra in (["--replicate", "donor"], ["--peak-group", "donor"], ["--labels", "donor"]):
        sheet = write(folder, "sample,rna\na,a.h5\n")
        result = CliRunner().invoke(command, [str(sheet), *extra, "--output", str(output)])
        assert isinstance(result.exception, InputError)
        assert "'donor'" in str(result.exception)
        assert not output.exists()


@pytest.mark.parametrize("content", ["", "[]x", '{"samples": [{}]}', '{"a": 1}'])
def test_bad_samples_json(folder, content):
    with pytest.raises(InputError):
        read_samples_json(write(folder, content, "samples.json"))


@pytest.mark.parametrize("column", ["cluster", "donor", "batch", "type_transferred", "atac_doublet"])
def test_groups_may_be_a_column_of_the_sheet_or_of_the_run(tmp_path, column):
    (tmp_path / "a.h5").write_text("")
    (tmp_path / "s.csv").write_text("sample,rna,donor,type\na,a.h5,d,x\n")
    words = [str(tmp_path / "s.csv"), "--labels=type", f"--groups={column}", f"--output={tmp_path / 'o.json'}"]
    assert CliRunner().invoke(command, words).exit_code == 0
    words[2] = "--groups=doner"
    refused = CliRunner().invoke(command, words)
    assert isinstance(refused.exception, InputError) and "--groups" in str(refused.exception)
    assert "doner" in str(refused.exception)
