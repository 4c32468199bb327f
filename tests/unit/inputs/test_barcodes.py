from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multivi_nf.errors import InputError
from multivi_nf.inputs.barcodes import (
    BarcodeMap,
    fragment_barcodes,
    overlap,
    overlap_problem,
    read_barcode_map,
    read_barcodes,
    translate,
)
from multivi_nf.testing.files import barcodes

ATAC, RNA = barcodes(50, suffix=""), barcodes(50, start=1000, suffix="")


def reverse_complement(text: str) -> str:
    return text[::-1].translate(str.maketrans("ACGT", "TGCA"))


def test_lists(tmp_path):
    path = tmp_path / "cells.txt"
    path.write_text("AAAA-1\n\nCCCC-1\r\n")
    assert read_barcodes(path) == ["AAAA-1", "CCCC-1"]
    path.write_bytes(gzip.compress(b"barcode\nAAAA-1\tx\nCCCC-1\ty\n"))
    assert read_barcodes(path) == ["AAAA-1", "CCCC-1"]
    path.write_text("barcode,is__cell_barcode,passed_filters\nNO_BARCODE,0,9\nAAAA-1,1,5\nCCCC-1,0,1\n")
    assert read_barcodes(path) == ["AAAA-1"]
    path.write_text("barcode,gex_barcode,is_cell\nAAAA-1,AAAA-1,1\nCCCC-1,CCCC-1,0\n")
    assert read_barcodes(path) == ["AAAA-1"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty (0 bytes)"),
        (b"\n\n", "no barcode"),
        (b"A\nC\nA\n", "more than once"),
        (b"\x1f\x8b\x08bad", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"A\x00B\nC\n", "barcode 1"),
    ],
)
def test_bad_lists(tmp_path, content, word):
    path = tmp_path / "cells.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=word.replace("(", r"\(").replace(")", r"\)")):
        read_barcodes(path)


@pytest.mark.parametrize("separator", ["\t", ",", " "])
@pytest.mark.parametrize("header", ["", "atac_barcode{}rna_barcode\n"])
def test_two_columns(tmp_path, separator, header):
    path = tmp_path / "map.tsv"
    path.write_text(header.format(separator) + "".join(f"{a}{separator}{r}\n" for a, r in zip(ATAC, RNA)))
    mapping = read_barcode_map(path)
    assert mapping.atac_to_rna == dict(zip(ATAC, RNA))
    assert mapping.rna(ATAC[3]) == RNA[3]
    assert mapping.rna(ATAC[3] + "-1") == RNA[3] + "-1"
    assert mapping.rna("GGGG") is None


def test_two_whitelists_by_line(tmp_path):
    folder = tmp_path / "map"
    folder.mkdir()
    (folder / "atac_737K.txt.gz").write_bytes(gzip.compress("\n".join(ATAC).encode()))
    (folder / "gex_737K.txt").write_text("\n".join(RNA))
    assert read_barcode_map(folder).atac_to_rna == dict(zip(ATAC, RNA))
    (folder / "gex_737K.txt").write_text("\n".join(RNA[:-1]))
    with pytest.raises(InputError, match="50 lines and .* 49"):
        read_barcode_map(folder)
    (folder / "gex_737K.txt").unlink()
    with pytest.raises(InputError, match="two whitelists"):
        read_barcode_map(folder)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("AAAA\n", "one column"),
        ("A\tC\nA\tG\n", "ATAC barcode 'A'"),
        ("A\tC\nG\tC\n", "RNA barcode 'C'"),
        ("atac\trna\n", "maps no"),
    ],
)
def test_bad_maps(tmp_path, text, word):
    path = tmp_path / "map.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=word):
        read_barcode_map(path)


def test_translation_never_merges_two_cells():
    mapping = BarcodeMap({"AAAA": "CCCC", "GGGG": "TTTT"})
    names, outside = translate(["AAAA-1", "CCCC-1", "ACGT-1"], mapping)
    # CCCC is a barcode of its own in the ATAC world, but the name of another cell in the RNA world
    assert names == ["CCCC-1", "atac_CCCC-1", "ACGT-1"]
    assert outside == 2


@given(st.permutations(range(20)), st.integers(0, 20))
def test_translation_and_its_inverse(order, n):
    mapping = BarcodeMap({ATAC[i]: RNA[j] for i, j in enumerate(order)})
    cells = [f"{b}-1" for b in ATAC[:n]]
    names, outside = translate(cells, mapping)
    assert outside == 0
    assert fragment_barcodes(names, mapping) == cells


BASE = barcodes(60)
TRANSFORMED = {
    "suffix": ([b.replace("-1", "") for b in BASE], "suffix"),
    "another suffix": ([b.replace("-1", "-3") for b in BASE], "suffix"),
    "prefix": ([f"run7_{b}" for b in BASE], "prefix"),
    "both": ([f"run7#{b[:-2]}" for b in BASE], "only the nucleotides"),
    "reverse complement": ([reverse_complement(b[:-2]) + "-1" for b in BASE], "reverse complement"),
    "lower case": ([b.lower() for b in BASE], "upper case"),
}


@pytest.mark.parametrize("case", TRANSFORMED)
def test_the_one_change_that_helps_is_named(case):
    left, words = TRANSFORMED[case]
    found = overlap(left, BASE)
    assert found.shared == 0
    assert found.transformed_fraction == 1.0
    assert words in found.transformation
    problem = overlap_problem("s", found)
    assert "0 of 60" in problem.what
    assert "100%" in problem.remedy


def test_the_map_is_tried():
    found = overlap(ATAC, RNA, mapping=BarcodeMap(dict(zip(ATAC, RNA))))
    assert found.transformation == "the barcode map"
    swapped = overlap(ATAC, RNA, mapping=BarcodeMap(dict(zip(RNA, ATAC))))
    assert "columns exchanged" in swapped.transformation


def test_a_change_that_merges_cells_is_not_advised():
    # an aggregated run: the same nucleotides in two wells; dropping -1 and -2 would merge different cells
    left = [b for core in BASE for b in (core[:-2] + "-1", core[:-2] + "-2")]
    found = overlap(left, [b[:-2] for b in BASE])
    assert found.transformation is None
    assert "barcode_map" in overlap_problem("s", found).remedy


def test_enough_overlap_is_no_problem():
    assert overlap_problem("s", overlap(BASE[:40], BASE[10:])) is None
    assert overlap_problem("s", overlap(ATAC, RNA)).what.startswith("sample 's': 0 of 50")
