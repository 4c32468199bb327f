"""The committed rows of real cells: drawn alike each time, computed once, and the page says what they say."""

from __future__ import annotations

import argparse

import anndata
import numpy as np
import pandas as pd
import pytest
from benchmarks.quality import paper, paper_tables
from scipy import sparse

from multivi_nf.benchmark.splits import build_mosaic
from multivi_nf.benchmark.task import Task


@pytest.fixture
def task():
    names = [f"c{k}" for k in range(6)]
    complete = {}
    for m in ("rna", "atac"):
        part = anndata.AnnData(sparse.csr_matrix(np.eye(6, 4, dtype=np.int32) + 1))
        part.obs_names, part.var_names, part.obs["batch"] = names, [f"{m}{j}" for j in range(4)], "b"
        complete[m] = part
    return Task(1, "75% unpaired", 0, build_mosaic(complete, [(c, c, ("rna", "atac")) for c in names]))


def rows(value: float, method: str = "ridge") -> pd.DataFrame:
    about = {"experiment": 1, "dataset": "d", "method": method, "split": "75% unpaired", "seed": 0}
    table = pd.DataFrame({"metric": ["foscttm"], "value": [value], "cpu_seconds": 1.25, "peak_memory": 5, "note": ""})
    return table.assign(**about)


def test_the_draw_is_stratified_and_fixed():
    labels = pd.Series(["a"] * 60 + ["b"] * 30 + ["c"] * 10, index=[f"x{k}" for k in range(100)])
    found = paper.stratified(labels, 25)
    assert labels.loc[found].value_counts().to_dict() in ({"a": 15, "b": 7, "c": 3}, {"a": 15, "b": 8, "c": 2})
    assert list(found) == list(paper.stratified(labels, 25))
    assert found.is_unique and list(found) == [cell for cell in labels.index if cell in set(found)]


def test_a_row_is_computed_once_for_a_split_and_a_code(task, tmp_path, monkeypatch):
    monkeypatch.setattr(paper, "RESULTS", tmp_path / "paper.tsv")
    given = argparse.Namespace(data="d")
    assert not paper.known(given, task, "ridge")
    paper.append(given, task, "ridge", rows(0.25))
    assert paper.known(given, task, "ridge") and not paper.known(given, task, "mofa")
    paper.append(given, task, "mofa", rows(0.4, "mofa"))
    monkeypatch.setattr(paper, "code_hash", lambda method: "other")
    assert not paper.known(given, task, "ridge")
    paper.append(given, task, "ridge", rows(0.125))  # takes the place of the other code's
    table = pd.read_csv(paper.RESULTS, sep="\t")
    assert dict(zip(table["method"], table["value"])) == {"mofa": 0.4, "ridge": 0.125}


def test_a_changed_split_is_another_row(task):
    before = paper.split_hash(task)
    task.split.mosaic["rna"].X[0, 0] += 1
    assert paper.split_hash(task) != before


def test_every_method_has_a_code_of_its_own():
    methods = ["multivi-nf", "multivi-nf: poe", "ridge", "cobolt", "mofa", "wnn", "scvi-multivi", "seurat-wnn"]
    assert len({paper.code_hash(method) for method in methods}) == len(methods)


def test_a_table_marks_the_best_and_names_who_is_ahead():
    both = pd.concat([rows(0.2, "multivi-nf"), rows(0.1), rows(0.05, "depth")])
    text = paper_tables.tables(both)
    assert "| ridge | **0.1** | 1 |" in text and "| depth | 0.05 | 1 |" in text
    assert "Ahead of ours: in FOSCTTM ridge." in text
    assert "Not computed yet: scvi-multivi, cobolt" in text
    alone = paper_tables.tables(pd.concat([rows(0.2, "multivi-nf"), rows(0.3)]))
    assert "None of these is ahead" in alone


def test_the_page_says_what_the_rows_say():
    page = paper_tables.PAGE.read_text()
    assert paper_tables.rendered(page, paper_tables.tables(pd.read_csv(paper_tables.RESULTS, sep="\t"))) == page
