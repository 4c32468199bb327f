from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from multivi_nf.errors import InputError
from multivi_nf.inputs.contrasts import Contrast, group_labels, groups_of, others_name, settled
from multivi_nf.inputs.labels import label_text, spelled, unlabelled

COLUMNS = {
    "int": (pd.Series([1, 2, 1]), ["1", "2", "1"]),
    "nullable int": (pd.Series([1, None, 2], dtype="Int64"), ["1", None, "2"]),
    "whole floats": (pd.Series([1.0, np.nan, 2.0]), ["1", None, "2"]),
    "floats": (pd.Series([1.5, 2.0, np.nan]), ["1.5", "2", None]),
    "bool": (pd.Series([True, False, True]), ["True", "False", "True"]),
    "nullable bool": (pd.Series([True, None, False], dtype="boolean"), ["True", None, "False"]),
    "categories of ints": (pd.Series(pd.Categorical([3, 1, 3])), ["3", "1", "3"]),
    "text": (pd.Series(["a", " ", None]), ["a", None, None]),
    "text that says nan": (pd.Series(["nan", "rest", "each"]), ["nan", "rest", "each"]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_labels_as_text(name):
    column, want = COLUMNS[name]
    assert label_text(column).tolist() == want


@pytest.mark.parametrize(
    "word",
    [
        "Unknown",
        "unknown",
        "UNKNOWN",
        "nan",
        "NaN",
        "",
        " ",
        "NA",
        "na",
        "unassigned",
        "Unassigned",
        "<NA>",
        "None",
        None,
        np.nan,
    ],
)
def test_unlabelled(word):
    assert unlabelled(pd.Series(["B", word], dtype=object)).tolist() == [False, True]


@pytest.mark.parametrize("word", ["B", "Unknown-like", "Nano", "N", "0"])
def test_labelled(word):
    assert unlabelled(pd.Series([word])).tolist() == [False]


@pytest.mark.parametrize(
    ("wanted", "groups", "want"),
    [
        ("1", ["1", "2"], "1"),
        ("1.0", ["1", "2"], "1"),
        ("true", ["True", "False"], "True"),
        ("TRUE", ["True"], "True"),
        ("3", ["1", "2"], None),
        ("true", ["True", "maybe"], None),
        ("b", ["B"], None),
        ("01", ["01", "1"], "01"),
    ],
)
def test_spellings_of_a_group(wanted, groups, want):
    assert spelled(wanted, groups) == want


def contrast(target, reference="rest"):
    return Contrast("c", "rna", "g", target, reference)


WORDS = pd.Series(["rest", "stim", "exh", None])


def test_a_group_called_rest():
    assert groups_of(contrast("stim"), WORDS) == [("stim", "rest")]  # the group, not all others
    others = others_name(["exh", "rest", "stim"])
    assert others not in ("exh", "rest", "stim")
    assert groups_of(contrast("each"), WORDS) == [("exh", others), ("rest", others), ("stim", others)]
    assert groups_of(contrast("rest"), WORDS) == [("rest", others)]
    assert groups_of(contrast("rest", "stim"), WORDS) == [("rest", "stim")]


def test_groups_called_each_and_nan():
    words = pd.Series(["each", "nan", "x", None, ""])
    assert groups_of(contrast("nan", "x"), group_labels(pd.DataFrame({"g": words}), "g")) == [("nan", "x")]
    assert groups_of(contrast("x", "each"), words[:3]) == [("x", "each")]
    assert [pair[0] for pair in groups_of(contrast("each"), words[:3])] == ["each", "nan", "x"]


def test_without_such_groups_the_words_are_keywords():
    words = pd.Series(["a", "b", "c"])
    assert groups_of(contrast("a"), words) == [("a", "rest")]
    for wrong in (contrast("rest", "a"), contrast("a", "each"), contrast("rest", "rest")):
        with pytest.raises(InputError, match="not a comparison"):
            groups_of(wrong, words)


@pytest.mark.parametrize(
    ("target", "values"), [("1", [1, 2]), ("1.0", [1, 2]), ("1", [1.0, 2.0]), ("true", [True, False])]
)
def test_contrasts_on_numbers_and_truths(target, values):
    labels = group_labels(pd.DataFrame({"g": values}), "g")
    [(found, other)] = groups_of(contrast(target), labels)
    assert found == labels[0]
    assert other == "rest"
    assert settled(contrast(target), sorted(labels)).target == labels[0]
