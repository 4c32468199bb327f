"""`--workflow benchmark` for real on the small mosaic: rows of every method, failures as rows, what a resume leaves.

Seurat is played by a script: of its strategies one says why it cannot, one falls over.
"""

from __future__ import annotations

import os

import pandas as pd
import pytest

RSCRIPT = """#!/bin/bash
[ "$1" = --vanilla ] || { printf 4.3.0; exit; }
[ "$3" = seurat-imputed ] || exit 1
mkdir "$5"
echo '{"method": "seurat-imputed", "failed": "no anchors", "cpu_seconds": 1, "peak_memory": 1}' > "$5/run.json"
"""
ASKED = "ridge,depth,ceiling,multivi-nf,seurat-wnn,seurat-imputed"


@pytest.fixture(scope="module")
def benchmark(nextflow, tmp_path_factory):
    """Run it in one folder, with more methods the second time."""
    folder = tmp_path_factory.mktemp("benchmark")
    programs = folder / "programs"
    programs.mkdir()
    (programs / "Rscript").write_text(RSCRIPT)
    (programs / "Rscript").chmod(0o755)

    def run(methods: str, *more: str):
        return nextflow(
            folder,
            "-profile",
            "test",
            "--peak_source",
            "samples",
            "--workflow",
            "benchmark",
            "--experiments",
            "1,3",
            "--unpaired_rates",
            "50",
            "--seeds",
            "0",
            "--methods",
            methods,
            "--max_epochs",
            "3",
            *more,
            PATH=f"{programs}:{os.environ['PATH']}",
        )

    return run


@pytest.fixture(scope="module")
def first(benchmark):
    found = benchmark(ASKED)
    assert found.code == 0, found.said
    return found


def scores(run) -> pd.DataFrame:
    return pd.read_csv(run.outdir / "benchmark" / "scores.tsv", sep="\t")


def test_every_method_has_its_rows(first):
    table = scores(first)
    measured = table[table["metric"] != "failed"]
    assert set(zip(measured["experiment"], measured["method"])) == {
        (1, "ridge"),
        (1, "depth"),
        (1, "multivi-nf"),
        (3, "ridge"),
        (3, "depth"),
        (3, "ceiling"),
        (3, "multivi-nf"),
    }
    assert (measured["cpu_seconds"] >= 0).all() and (measured["peak_memory"] > 1e7).all()
    assert (measured.loc[measured["method"] == "multivi-nf", "cpu_seconds"] > 1).all()  # of five steps
    value = table.set_index(["experiment", "method", "metric"])["value"]
    assert value[1, "ridge", "foscttm"] < value[1, "depth", "foscttm"]
    assert value[3, "depth", "atac_peak_auroc"] == pytest.approx(0.5)
    assert value[3, "ceiling", "rna_gene_spearman"] > value[3, "ridge", "rna_gene_spearman"]
    for method in ("ridge", "depth", "multivi-nf"):  # each cell's RNA against another's ATAC
        assert value[1, method, "foscttm_shuffled"] == pytest.approx(0.5, abs=0.06)
    page = (first.outdir / "benchmark" / "benchmark.html").read_text()
    assert "<svg" in page and "no anchors" in page


def test_values_are_imputed_as_the_cells_own_batch_shows_them(first):
    commands = [path.read_text() for path in (first.folder / "work").glob("*/*/.command.sh")]
    imputing = [text for text in commands if "multivi-nf-impute" in text]
    assert len(imputing) == 2 and all("--batch=own" in text.replace("'", "") for text in imputing)


def test_a_failure_is_a_row_that_says_why(first):
    notes = scores(first).query("metric == 'failed'").set_index("method")["note"].to_dict()
    assert set(notes) == {"seurat-wnn", "seurat-imputed"}
    assert notes["seurat-imputed"] == "failed: no anchors"
    assert notes["seurat-wnn"].startswith("failed: no result")


def test_one_more_method_leaves_the_others_cached(benchmark, first):
    again = benchmark(f"{ASKED},pca-knn", "-resume")
    assert again.code == 0, again.said
    new = again.submitted()
    assert set(new) == {"PCA_KNN", "BENCHMARK_SCORE", "BENCHMARK_PAGE", "SEURAT_WNN"}  # what failed is tried again
    assert new.count("PCA_KNN") == new.count("BENCHMARK_SCORE") == 2
    assert {"BENCHMARK_SPLIT", "TRAIN", "RIDGE", "BENCHMARK_COLLECT"} <= set(again.cached())
    old, table = scores(first), scores(again)
    assert set(table["method"]) == {*old["method"], "pca-knn"}
