"""The whole picture without the work: every process is connected, under both parsers of Nextflow."""

from __future__ import annotations

import re
import subprocess

import pytest
from tests.pipeline.nextflow_runs import BIN, REPOSITORY

MODULES = sorted(REPOSITORY.glob("modules/*/main.nf"))
ALL = {path.parent.name: re.search(r"^process (\w+)", path.read_text(), re.MULTILINE).group(1) for path in MODULES}
PROCESSES = sorted(name for module, name in ALL.items() if not module.startswith("benchmark"))
TREE = [
    "cells.tsv.gz",
    "clusters.tsv",
    "controls.tsv",
    "differential/clusters_atac.tsv.gz",
    "differential/clusters_rna.tsv.gz",
    "differential/donor_1_against_2.tsv.gz",
    "explorer.html",
    "h5ad/rna.h5ad",
    "imputed/protein.vitessce.json",
    "imputed/rna.vitessce.json",
    "manifest.tsv",
    "markers/rna.tsv.gz",
    "model/calibration.json",
    "model/config.json",
    "model/features.tsv",
    "model/history.tsv",
    "model/split.tsv",
    "model/weights.safetensors",
    "multiqc/multivi_nf_qc_mqc.tsv",
    "multivi.h5mu",
    "peaks/consensus.bed",
    "regulation/gene_activity.h5ad",
    "regulation/gene_activity.json",
    "regulation/group_peaks.json",
    "regulation/links.bedpe",
    "regulation/links.json",
    "regulation/links.tsv.gz",
    "regulation/motifs.h5ad",
    "regulation/motifs.json",
    "regulation/motifs.tsv.gz",
    "regulation/peaks/0.bed",
    "regulation/peaks_merged.bed",
    "regulation/tracks.json",
    "regulation/tracks/0.bw",
    "report.html",
    "verdict.tsv",
]


@pytest.mark.parametrize("parser", ["", "v2"])
def test_every_process_is_reached(nextflow, tmp_path, parser):
    # The v2 parser of 25.04 reads --outdir only in the script (nextflow#6363), so that only the DAG is compared there
    environment = {"NXF_SYNTAX_PARSER": parser} if parser else {}
    # It also knows no profile of the pipeline beside a `-c`, so that the run keeps its trace there
    asked = ("-profile", "test", "-stub-run", "--regulation", "--controls")
    run = nextflow(tmp_path, *asked, traced=bool(parser), **environment)
    assert run.code == 0, run.said
    assert sorted(set(run.submitted())) == PROCESSES
    assert run.submitted().count("CALL_PEAKS") == 4
    assert run.submitted().count("IMPUTE") == 4  # two modalities, two chunks
    if not parser:
        tree = [name for name in run.results() if not name.startswith("qc/")]
        assert tree == TREE


@pytest.mark.parametrize("parser", ["", "v2"])
def test_every_method_of_the_benchmark_is_reached(nextflow, tmp_path, parser):
    environment = {"NXF_SYNTAX_PARSER": parser} if parser else {}
    one = ("--experiments", "3", "--seeds", "0")
    asked = ("-profile", "test", "-stub-run", "--workflow", "benchmark")
    run = nextflow(tmp_path, *asked, *one, traced=bool(parser), **environment)
    assert run.code == 0, run.said
    found = run.submitted()
    assert {"MOSAIC", "BENCHMARK_SPLIT", "TRAIN", "CALIBRATE", "EMBED", "IMPUTE", "BENCHMARK_COLLECT"} <= set(found)
    assert {"RIDGE", "MOFA", "SEURAT_WNN"} <= set(found)
    assert not {"REPORT", "COBOLT", "DIFFERENTIAL"} & set(found)  # the stub's split asks for none
    assert found.count("BENCHMARK_SCORE") == 4
    if not parser:
        assert run.results() == ["benchmark/benchmark.html", "benchmark/scores.tsv", "manifest.tsv"]


def test_lint():
    places = [REPOSITORY / name for name in ("main.nf", "nextflow.config", "workflows", "modules", "conf")]
    done = subprocess.run(
        [BIN / "nextflow", "lint", *places], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "had no errors" in done.stdout


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.parent.name)
def test_modules_keep_the_house_rules(module):
    text = module.read_text()
    lines = len(text.splitlines())
    assert lines <= 70
    assert text.count("label 'image_") == 1
    assert not re.search(r"\bparams\.(?!json)", text)
    assert "\n    stub:" in text and "\n    script:" in text
    assert "container" not in text
    versions = text.count("topic: versions")
    assert versions == 0 if "process REPORT" in text or "process FINGERPRINT" in text else versions >= 1


def test_the_door_is_small():
    assert len((REPOSITORY / "main.nf").read_text().splitlines()) < 100
    texts = [path.read_text() for path in (REPOSITORY / "nextflow.config", *REPOSITORY.glob("conf/*.config"))]
    assert not any(re.search(r"^\s*plugins\s*\{", text, flags=re.MULTILINE) for text in texts)


def test_every_step_has_its_launcher():
    from multivi_nf.commands import STEPS

    launchers = {path.name for path in (REPOSITORY / "bin").iterdir()}
    assert launchers == {"multivi-nf", *(f"multivi-nf-{step}" for step in STEPS)}
    called = set(re.findall(r"multivi-nf-[\w-]+", "".join(path.read_text() for path in MODULES)))
    assert called <= launchers


def test_a_launcher_refuses_another_version(tmp_path):
    done = subprocess.run(
        [REPOSITORY / "bin" / "multivi-nf-train", "--help"],
        env={"PATH": f"{BIN}:/usr/bin:/bin", "MULTIVI_NF_VERSION": "9.9.9"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode != 0
    assert re.search(
        r"ERROR: .*is version \S+, the pipeline is version 9\.9\.9\n  Why it .*\n  What to do: ", done.stderr
    )
