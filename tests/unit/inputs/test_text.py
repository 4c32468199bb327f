"""Tables in every spelling of spreadsheets: each row of a table here is one file and what it must say."""

from __future__ import annotations

import csv

import pytest

from multivi_nf.errors import InputError
from multivi_nf.inputs.samplesheet import read_samplesheet
from multivi_nf.inputs.table import read_table
from multivi_nf.io.text import decoded, records, separator_of

TEXT = "sample;rna;Ort\ns1;a.h5;Köln – Süd\n"
WAYS = {
    "UTF-8": TEXT.encode(),
    "UTF-8 with its mark": TEXT.encode("utf-8-sig"),
    "UTF-16 little": TEXT.encode("utf-16"),
    "UTF-16 big": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-16 little without mark": TEXT.encode("utf-16-le"),
    "UTF-16 big without mark": TEXT.encode("utf-16-be"),
    "Windows-1252": TEXT.encode("cp1252"),
    "Latin-1": TEXT.replace("–", "-").encode("latin-1"),
}


@pytest.mark.parametrize("way", WAYS)
def test_encodings(way):
    assert decoded(WAYS[way], "x.csv") == (TEXT.replace("–", "-") if way == "Latin-1" else TEXT)


@pytest.mark.parametrize("raw", [b"PK\x03\x04rest", b"\x00\x01\x02\x03\x81", b"a\x00\x00\x00b\x81\x8d"])
def test_what_is_no_text_is_refused(raw):
    with pytest.raises(InputError) as caught:
        decoded(raw, "x.xlsx")
    assert "x.xlsx" in caught.value.what and "CSV" in caught.value.remedy


ROWS = [["sample", "rna", "dose"], ["s1", "a.h5", "0,5"], ["s2", "b c.h5", "1,25"]]
SHEETS = {
    "commas": ('sample,rna,dose\ns1,a.h5,"0,5"\ns2,b c.h5,"1,25"\n', ","),
    "semicolons": ("sample;rna;dose\ns1;a.h5;0,5\ns2;b c.h5;1,25\n", ";"),
    "tabs": ("sample\trna\tdose\ns1\ta.h5\t0,5\ns2\tb c.h5\t1,25\n", "\t"),
    "all quoted": ('"sample","rna","dose"\n"s1","a.h5","0,5"\n"s2","b c.h5","1,25"\n', ","),
    "sep line": ("sep=;\r\nsample;rna;dose\r\ns1;a.h5;0,5\r\ns2;b c.h5;1,25\r\n", ";"),
    "lines of an old Mac": ("sample;rna;dose\rs1;a.h5;0,5\rs2;b c.h5;1,25\r", ";"),
    "empty columns at the end": ("sample;rna;dose;;;\ns1;a.h5;0,5;;;\ns2;b c.h5;1,25;;;\n", ";"),
    "empty lines": ("\n\nsample;rna;dose\n;;\ns1;a.h5;0,5\n\ns2;b c.h5;1,25\n;;\n", ";"),
    "blanks about": (" sample ; rna;dose\n s1;a.h5 ; 0,5\ns2;b c.h5;\u00a01,25\n", ";"),
    "separator in a quoted name": ('sample;rna;"dose"\ns1;a.h5;"0,5"\ns2;b c.h5;1,25', ";"),
}


@pytest.mark.parametrize("kind", SHEETS)
def test_sheets(kind):
    text, separator = SHEETS[kind]
    found, sign = records(text)
    assert [values for _, values in found] == ROWS and sign == separator
    line = {values[0]: number for number, values in found}["s2"]
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert "s2" in lines[line - 1]


def test_quotes_that_do_not_close():
    with pytest.raises(csv.Error):
        records('sample,rna\n"s1,a.h5\n')


def test_a_separator_inside_quotes_does_not_count():
    assert separator_of('"a;b;c;d",e,f') == ","
    assert separator_of("only") == ","


@pytest.mark.parametrize("way", WAYS)
def test_a_samplesheet_in_every_encoding(tmp_path, way):
    (tmp_path / "a.h5").touch()
    (tmp_path / "s.csv").write_bytes(WAYS[way])
    [sample] = read_samplesheet(tmp_path / "s.csv")
    assert sample.metadata["Ort"].startswith("Köln") and sample.files["rna"].endswith("/a.h5")


DOSES = {  # separator, values, what stands in the metadata
    "decimal commas": (";", ["0,5", "1,25", ""], ["0.5", "1.25", ""]),
    "with whole numbers": ("\t", ["2", "1,25", "-3,0"], ["2", "1.25", "-3.0"]),
    "points stay": (";", ["0.5", "1.25", "2"], ["0.5", "1.25", "2"]),
    "words stay": (";", ["0,5", "low, very", ""], ["0,5", "low, very", ""]),
    "commas between columns": (",", ["0,5", "1,25", ""], ["0,5", "1,25", ""]),
}


@pytest.mark.parametrize("name", DOSES)
def test_decimal_commas(tmp_path, name):
    sign, given, want = DOSES[name]
    rows = [[f"s{i}", f"{i}.h5", value] for i, value in enumerate(given)]
    with (tmp_path / "s.csv").open("w", newline="") as handle:
        csv.writer(handle, delimiter=sign).writerows([["sample", "rna", "dose"], *rows])
    for row in rows:
        (tmp_path / row[1]).touch()
    assert [sample.metadata["dose"] for sample in read_samplesheet(tmp_path / "s.csv")] == want


@pytest.mark.parametrize("name", ["a*b.h5", "a?b.h5", "a$.h5", "$(id).h5", "a$ b.h5"])
def test_names_that_a_shell_leaves_as_they_are_pass(tmp_path, name):
    """A * may mean another file too: modules/staging.nf looks, which sees all storage (tests/chaos/test_hostile.py)."""
    (tmp_path / name).touch()
    (tmp_path / "s.csv").write_text(f"sample,rna\ns1,{name}\n")
    assert read_samplesheet(tmp_path / "s.csv")[0].files["rna"].endswith(name)


@pytest.mark.parametrize("sign", ["$", "$HOME", "$$", "$1"])
def test_names_that_a_shell_takes_for_a_variable_are_refused(tmp_path, sign):
    (tmp_path / f"a{sign}b.h5").touch()
    (tmp_path / "s.csv").write_text(f"sample,rna\ns1,a{sign}b.h5\n")
    with pytest.raises(InputError, match=r"line 2, column 'rna'.*holds a \$ that a shell takes") as caught:
        read_samplesheet(tmp_path / "s.csv")
    assert "rename the file" in caught.value.remedy
    (tmp_path / f"a{sign}b.h5").rename(tmp_path / "ab.h5")  # the remedy
    (tmp_path / "s.csv").write_text("sample,rna\ns1,ab.h5\n")
    assert len(read_samplesheet(tmp_path / "s.csv")) == 1


def test_line_numbers_and_separator_are_named(tmp_path):
    (tmp_path / "s.csv").write_text("sep=;\nsample;rna\ns1;a.h5\ns2;b.h5;x;y\n")
    table = read_table(tmp_path / "s.csv", ["sample"], "samplesheet")
    assert "line 4" in table.problems[0].what and "quote values with semicolons" in table.problems[0].remedy
