"""Names that should meet, and names that must not."""

from __future__ import annotations

import pytest

from multivi_nf.errors import InputError
from multivi_nf.mosaic.names import Aliases, met_by_spelling, protein_keys, read_aliases, symbol_keys

MEET = [
    ("CD3", "CD3_TotalSeqB"),
    ("CD3", "CD3-TotalSeqC"),
    ("CD3", "CD3_TotalSeq_A"),
    ("CD3", "anti-human CD3"),
    ("CD3", "anti-mouse CD3"),
    ("CD3", "anti-human/mouse CD3"),
    ("CD3", "Hu.CD3"),
    ("CD3", "CD3-ACGTACGTACGTACG"),
    ("CD3", "ADT_CD3"),
    ("CD3", "CD3_ADT"),
    ("CD3", "AB_CD3"),
    ("CD3", "cd3"),
    ("CD3", " CD3 "),
    ("HLA-DR", "HLA.DR"),
    ("HLA-DR", "HLA_DR"),
    ("HLA-DRA", "HLA.DR"),
    ("HLA-DRA", "HLA-DR"),
    ("CD8", "CD8a"),
    ("CD279", "CD279 (PD-1)"),
    ("CD279", "PD-1"),
    ("CD279", "CD279_(PD-1)"),
    ("CD16", "FCGR3A"),
    ("CD56", "NCAM1"),
    ("CD3", "CD3-1"),
    ("CD3", "CD3.1"),
    ("TCR a/b", "TCR_a_b"),
    ("CD45RA", "cd45ra_TotalSeqB"),
    ("IgM", "anti-human IgM"),
]
APART = [
    ("CD3", "CD4"),
    ("CD3", "CD31"),
    ("CD3.1", "CD31"),
    ("CD45RA", "CD45RO"),
    ("CD1a", "CD1c"),
    ("CD8a", "CD8b"),
    ("IgM", "IgD"),
    ("CD11b", "CD11c"),
    ("CD158", "CD158b"),
    ("TIM-1", "TIM-3"),
]


@pytest.mark.parametrize(("one", "other"), MEET)
def test_proteins_that_meet(one, other):
    [[first, _], [second, _]] = protein_keys([[one, "CD99"], [other, "CD99"]])
    assert first == second
    assert met_by_spelling([[one], [other]], [[first], [second]]) == {first: [one, other]}


@pytest.mark.parametrize(("one", "other"), APART)
def test_proteins_that_do_not(one, other):
    [[first], [second]] = protein_keys([[one], [other]])
    assert first != second


@pytest.mark.parametrize(
    "panel", [["cd3.1", "cd3.2"], ["CD8", "CD8a"], ["CD3", "CD3.1"], ["CD3", "CD3_TotalSeqB"], ["HLA-DR", "HLA-DRA"]]
)
@pytest.mark.parametrize("other", [["CD3"], ["CD8a"], ["HLA-DRA"]])
def test_two_names_of_one_panel_are_never_one(panel, other):
    keys = protein_keys([panel, other])
    assert len(set(keys[0])) == 2


def test_a_clone_is_not_stripped_where_a_second_one_is_there():
    keys = protein_keys([["cd3.1", "cd3.2"], ["CD3"]])
    assert keys[1][0] not in keys[0]


def test_symbols_made_unique():
    one, other = symbol_keys([["TBCE", "TBCE-1", "NKX2-1", "HLA-A", "A.1"], ["TBCE", "NKX2-1", "HLA-A", "A"]])
    assert one == ["TBCE", "TBCE", "NKX2-1", "HLA-A", "A.1"]  # A.1 stays: its sample has no A
    assert other == ["TBCE", "NKX2-1", "HLA-A", "A"]
    both = symbol_keys([["X", "X-1"], ["X", "X-1"]])
    assert both == [["X", "X-1"], ["X", "X-1"]]


@pytest.mark.parametrize("separator", ["\t", ",", ";"])
@pytest.mark.parametrize("heading", ["", "alias{}name\n"])
def test_aliases(tmp_path, separator, heading):
    path = tmp_path / "aliases.txt"
    path.write_text(heading.format(separator) + f"UCHT1{separator}CD3\nsept1{separator}SEPTIN1\n")
    aliases = read_aliases(path)
    assert aliases.of("ucht1") == "CD3"
    assert aliases.of("CD4") == "CD4"
    [[one], [other]] = protein_keys([["UCHT1"], ["CD3_TotalSeqB"]], aliases)
    assert one == other
    assert symbol_keys([["SEPT1"], ["SEPTIN1"]], aliases) == [["SEPTIN1"], ["SEPTIN1"]]
    assert read_aliases(None) == Aliases()


@pytest.mark.parametrize(("text", "words"), [("a\n", "does not give two names"), ("a,b\na,c\n", "'b' and 'c'")])
def test_aliases_that_are_refused(tmp_path, text, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_aliases(tmp_path / "a.csv")
