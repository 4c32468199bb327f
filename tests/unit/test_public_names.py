"""What a user of the package from Python sees: its names, what objects print as, and errors in Python's words."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import multivi_nf as mv
from multivi_nf.commands import cli
from multivi_nf.errors import InputError, option, told_to_a_shell
from multivi_nf.latent.embed import Embedding
from multivi_nf.model import ModelConfig
from multivi_nf.testing.mosaics import patterned_mosaic
from multivi_nf.training.history import History

PACKAGE = Path(mv.__file__).parent
SHOWN = {"MultiVI", "__version__", "calibrate", "differential", "embed", "impute", "read_mosaic", "train"}


def test_dir_shows_what_is_public_and_no_more():
    assert set(dir(mv)) == SHOWN == set(mv.__all__)
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    given = {(node.module, name.asname) for node in ast.walk(stub) for name in getattr(node, "names", ())}
    for module, name in given - {("multivi_nf._version", "__version__")}:
        assert getattr(mv, name).__module__ == module
    assert {name for _, name in given} == SHOWN
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        mv.fit  # noqa: B018


def test_an_option_is_named_as_the_user_writes_it():
    assert option("n_latent", 10) == "n_latent=10" and option("cells", "all") == "cells='all'"
    with told_to_a_shell():
        assert option("n_latent", 10) == "--n-latent 10" and option("resume", True) == "--resume"
        assert option("n_samples", shell="--samples") == "--samples"
    assert option("n_samples", shell="--samples") == "n_samples" and option("resume", True) == "resume=True"


def test_an_error_names_the_argument_in_python_and_the_option_in_a_shell(tmp_path):
    mosaic = patterned_mosaic()
    with pytest.raises(InputError, match="ERROR: n_latent is 0"):
        mv.MultiVI.from_mosaic(mosaic, n_latent=0)
    mosaic.write(tmp_path / "m.h5mu")
    told = CliRunner().invoke(
        cli, ["train", str(tmp_path / "m.h5mu"), "--output", str(tmp_path / "model"), "--n-latent", "0"]
    )
    assert "ERROR: --n-latent is 0" in str(told.exception)
    with pytest.raises(InputError, match="ERROR: n_latent is 0"):  # the shell's words end with its step
        mv.MultiVI.from_mosaic(mosaic, n_latent=0)


def test_every_option_that_an_error_names_is_an_argument():
    """Of a public function, or of one in the room that raises the error."""
    public = {field.name for field in dataclasses.fields(ModelConfig)} | {"device"}
    for name in SHOWN - {"MultiVI", "__version__"}:
        public |= set(inspect.signature(getattr(mv, name)).parameters)
    named, arguments = defaultdict(set), defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "option":
                named[room] |= {word.value for word in node.args[:1] if isinstance(word, ast.Constant)}
            elif isinstance(node, ast.FunctionDef):
                arguments[room] |= {word.arg for word in (*node.args.args, *node.args.kwonlyargs)}
    assert sum(map(len, named.values())) > 10
    steps = {"categorical_covariates", "continuous_covariates", "n_devices", "barcode_map"}  # asked by a step alone
    assert {room: words - arguments[room] - public - steps for room, words in named.items()} == dict.fromkeys(
        named, set()
    )


def test_what_a_notebook_prints_fits_a_screen():
    mosaic = patterned_mosaic()
    model = mv.MultiVI.from_mosaic(mosaic, n_latent=3, n_hidden=8)
    said = repr(model)
    assert said.startswith("MultiVI(40 rna, 50 atac, 6 protein features; 4 batches)\n  latent 3, hidden 2 x 8, ")
    assert said.endswith("not trained")
    model.history = History([{"epoch": k, "validation_loss": 10.0 / k} for k in (1, 2, 3)], 2, "no gain for 45 epochs")
    assert (
        repr(model.history) == "History(3 epochs, best epoch 2, validation loss 3.33333, ended: no gain for 45 epochs)"
    )
    assert repr(model.history) in repr(model) and repr(History()) == "History(0 epochs)"
    own = np.where(np.arange(4)[:, None] < 3, 0.5, np.nan)
    found = Embedding(np.zeros((4, 1)), np.ones((4, 1)), {"rna": own, "atac": 1 - own[::-1]}, ["b9"])
    assert repr(found) == "Embedding(4 cells x 1 dimensions; measured: 3 rna, 3 atac; 1 batches never seen)"
    longest = max(len(line) for text in (said, repr(model), repr(found)) for line in text.splitlines())
    assert longest <= 120 and pd.isna(found.wider_than_single)
