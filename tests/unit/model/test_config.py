from __future__ import annotations

import pytest

from multivi_nf.errors import InputError
from multivi_nf.io.records import as_json, from_json
from multivi_nf.model import ModelConfig
from multivi_nf.model.config import CHOICES


def test_json_gives_an_equal_configuration(config):
    first = config(
        categorical={"donor": ("x", "y")},
        categorical_cells={"donor": {"rna": (3, 0)}},
        continuous={"age": (40, 12.5)},
        panel=[[True] * 6, [True, False] * 3, [False] * 6],
        fusion="mopoe",
    )
    assert from_json(ModelConfig, as_json(first), "it") == first
    assert from_json(ModelConfig, as_json(first), "it").panel[1] == (True, False) * 3


def test_modalities_come_in_the_one_order():
    cells = {"atac": (1,), "rna": (2,)}
    made = ModelConfig(n_features={"atac": 3, "rna": 2}, batches=("a",), batch_cells=cells)
    assert made.modalities == ("rna", "atac")


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_a_choice_that_is_not_listed_is_refused_with_the_choices(config, name):
    with pytest.raises(InputError) as error:
        config(**{name: "other"})
    assert "'other'" in str(error.value)
    assert all(choice in str(error.value) for choice in CHOICES[name])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n_latent": 0}, "ERROR: n_latent is 0"),
        ({"dropout": 1.0}, "dropout"),
        ({"cross_reconstruction": 1.5}, "cross_reconstruction"),
        ({"batch_cells": {"rna": (0, 0, 0), "atac": (1, 1, 1), "protein": (1, 1, 1)}}, "batch_cells[rna]"),
        ({"panel": [[True]]}, "panel"),
        ({"batches": ()}, "batches"),
    ],
)
def test_a_value_without_sense_is_refused_by_name(config, options, named):
    with pytest.raises(InputError, match=r"(?s)What to do") as error:
        config(**options)
    assert named in str(error.value)


def test_all_problems_are_told_at_once(config):
    with pytest.raises(InputError) as error:
        config(fusion="sum", n_hidden=0, alignment="cosine")
    assert all(word in str(error.value) for word in ("sum", "n_hidden is 0", "cosine"))


def test_an_entry_of_another_version_is_refused_by_name(config):
    values = as_json(config())
    with pytest.raises(InputError, match="colour"):
        from_json(ModelConfig, values | {"colour": "red"}, "it")
    with pytest.raises(InputError, match="n_hidden"):
        from_json(ModelConfig, {name: value for name, value in values.items() if name != "n_hidden"}, "it")
