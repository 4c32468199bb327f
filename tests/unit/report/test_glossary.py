"""The glossary of the documentation: one source with the report, and nothing in it that is nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

from multivi_nf.report.glossary import PLACES, WORDS, glossary
from multivi_nf.report.terms import TERMS


def test_the_reports_own_sentences_are_in_it():
    words = glossary()
    assert len(words) == len(WORDS) + len(TERMS)
    assert set(TERMS.values()) | set(WORDS.values()) == set(words.values())
    assert words["rna (of training)"] == TERMS["rna"] and words["UMAP"] == WORDS["UMAP"]


def test_it_is_in_order_and_each_word_has_a_meaning_of_one_line():
    words = glossary()
    assert [word.lower() for word in words] == sorted(word.lower() for word in words)
    assert all(meaning and "\n" not in meaning for meaning in words.values())


def test_places_are_of_words_that_the_report_has():
    assert set().union(*PLACES.values()) <= set(TERMS)


def test_file_formats_of_the_results_are_explained():
    listed = (Path(__file__).parents[3] / "docs/output.md").read_text()
    formats = set(re.findall(r"`[^`\s]*\.([A-Za-z][A-Za-z0-9]*)`", listed))
    everyday = {"R", "gz", "html", "json", "tsv", "txt", "yml"}
    named = {"bw": "bigwig"}
    words = " ".join([*glossary(), *glossary().values()]).lower()
    assert "h5mu" in formats
    assert [kind for kind in sorted(formats - everyday) if named.get(kind, kind) not in words] == []
