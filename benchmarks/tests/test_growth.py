"""Growth of steps: exponents and bytes a cell of a made table, and which steps are named."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.speed import growth


def test_exponents_and_bytes_of_the_two_largest_sizes_name_what_grows_too_fast():
    rows = [
        (cells, step, cpu, memory)
        for cells in (100, 1000, 10_000)
        for step, cpu, memory in (
            ("linear", 0.01 * cells, 0.5 + 1e-6 * cells),
            ("square", 1e-6 * cells**2, 0.5),
            ("large", 0.02 * cells, 0.5 + 3e-6 * cells),
            ("start", 2 + 1e-5 * cells, 0.3),
        )
    ]
    found = growth.exponents(pd.DataFrame(rows, columns=["cells", "step", "cpu_s", "peak_GB"])).set_index("step")
    assert (found["from"] == 1000).all() and (found["to"] == 10_000).all()
    assert found.loc["linear", "exponent"] == 1 and found.loc["square", "exponent"] == 2
    assert np.isnan(found.loc["start", "exponent"]), "a tenth of a second more tells nothing"
    assert found["bytes_a_cell"].tolist() == [1000, 0, 3000, 0]
    assert found["named"].tolist() == ["", "time", "memory", ""]


def test_a_size_that_has_its_rows_is_not_run_again(tmp_path, monkeypatch, capsys):
    ran: list[int] = []
    broken_off = False

    def run(folder: Path, size: dict[str, int], kind: growth.Kind) -> list[dict]:
        ran.append(size["cells"])
        costs = {"tasks": 1, "cpu_s": 0.1 * size["cells"], "peak_GB": 1.0}
        done = ["train"] if broken_off else ["train", "report"]
        return [size | {"run": kind.told, "step": step} | costs for step in done]

    monkeypatch.setattr(growth, "run", run)
    for genes in (5, 5, 7):
        order = ["growth.py", "--folder", tmp_path, "--cells", 10, 100, "--genes", genes, "--peaks", 9]
        monkeypatch.setattr(sys, "argv", [*map(str, order), "--results", str(tmp_path / "growth.tsv")])
        growth.main()
    assert ran == [10, 100, 10, 100]
    assert len(pd.read_csv(tmp_path / "growth.tsv", sep="\t")) == 8
    # another kind of run has rows of its own; one that was broken off keeps what was done, and is gone on with
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--epochs", "2", "--few"])
    broken_off = True
    growth.main()
    assert ran[4:] == [10, 100]
    broken_off = False
    growth.main()
    growth.main()
    assert ran[6:] == [10, 100]
    found = pd.read_csv(tmp_path / "growth.tsv", sep="\t")
    assert found.groupby("run").size().to_dict() == {"5 epochs": 8, "2 epochs, 40 genes imputed": 4}
    assert "train" in capsys.readouterr().out
