"""A truth that was forged or cut is refused by name, before anything is scored by it."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from multivi_nf.errors import InputError
from multivi_nf.simulate import PRESETS, read_truth, simulate


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "m"
    simulate(replace(PRESETS["test"], fragments=False), folder)
    return folder / "truth"


@pytest.fixture
def truth(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "truth"))


LINES: dict[str, Callable[[list[str]], list[str]]] = {
    "no header": lambda lines: lines[1:],
    "no cell": lambda lines: lines[:1],
    "twice": lambda lines: [*lines, lines[-1]],
    "no flag": lambda lines: [line.replace("\tFalse\t", "\tmaybe\t", 1) for line in lines],
    "another site": lambda lines: [line.replace("\tsite_1\t", "\tsite_9\t") for line in lines],
    "another table": lambda lines: ["a\tb", "1\t2"],
}


@pytest.mark.parametrize("change", LINES)
def test_a_table_of_cells_that_is_none(truth: Path, change: str) -> None:
    path = truth / "cells.tsv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    read_truth(truth)
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in LINES[change](lines)).encode()))
    with pytest.raises(InputError, match=r"cells\.tsv\.gz"):
        read_truth(truth)


VALUES: dict[str, Callable[[np.ndarray], object]] = {
    "not finite": lambda values: np.full_like(values, np.nan),
    "one less": lambda values: values[:-1],
    "complex": lambda values: values * 1j,
    "text": lambda values: np.full(values.shape, b"x"),
    "a scalar": lambda values: 7.0,
    "nothing": lambda values: h5py.Empty("f8"),
}


@pytest.mark.parametrize("change", [*VALUES, "a group", "missing"])
@pytest.mark.parametrize("name", ["cells/state", "rna/base", "atac/loadings", "protein/site"])
def test_means_that_are_none(truth: Path, name: str, change: str) -> None:
    with h5py.File(truth / "means.h5", "r+") as file:
        values = file[name][:]
        del file[name]
        if change == "a group":
            file.create_group(name)
        elif change != "missing":
            file[name] = VALUES[change](values)
    with pytest.raises(InputError, match=r"means\.h5"):
        read_truth(truth)
