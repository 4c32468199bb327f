"""The door: one schema, values from the command line and from a file, messages that help."""

from __future__ import annotations

import json
import re
import subprocess

import jsonschema
import pytest
from docs._ext import generated
from tests.pipeline.nextflow_runs import BIN, REPOSITORY, small_sheet

SCHEMA = json.loads((REPOSITORY / "nextflow_schema.json").read_text())
KNOWN = {name: value for group in SCHEMA["$defs"].values() for name, value in group["properties"].items()}

WRONG = {
    "inptu": ("x.csv", "--inptu is not a parameter", "the nearest name is --input"),
    "max_epoch": ("2", "--max_epoch is not a parameter", "the nearest name is --max_epochs"),
    "igenome_base": ("x", "--igenome_base is not a parameter", "the nearest name is"),
    "max_epochs": ("many", "--max_epochs is 'many', which is not a whole number", "give a whole number, at least 1"),
    "batch_size": ("1", "--batch_size is 1, which is not at least 2", "give a whole number at least 2"),
    "fdr": ("2", "--fdr is 2, which is not above 0 and below 1", "give a number above 0 and below 1"),
    "learning_rate": ("fast", "--learning_rate is 'fast', which is not a number", "give a number"),
    "fusion": ("sum", "--fusion is 'sum', which is not one of mean, weighted", "give one of mean, weighted"),
    "predictive": ("maybe", "--predictive is 'maybe', which is not true or false", "give true or false"),
    "impute": ("rna,dna", "--impute is 'rna,dna', which is not rna, atac, protein", "give rna, atac, protein"),
    "tss": ("/nowhere/tss.bed", "--tss: there is no '/nowhere/tss.bed'", "give a path that exists"),
}


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert all(value.get("description") for value in KNOWN.values())
    assert [reference["$ref"].split("/")[-1] for reference in SCHEMA["allOf"]] == list(SCHEMA["$defs"])


def test_defaults_of_config_and_schema_are_the_same(nextflow):
    said = subprocess.run([BIN / "nextflow", "config", "-o", "json", REPOSITORY], stdout=subprocess.PIPE, check=True)
    configured = json.loads(said.stdout)["params"]
    configured["trace_report_suffix"] = None  # the time of the start
    assert {name: configured[name] for name in KNOWN} == {name: value.get("default") for name, value in KNOWN.items()}
    assert set(configured) == set(KNOWN)


def test_every_parameter_is_documented_with_its_reason():
    """One place: the page is written from the schema (`python docs/_ext/generated.py`), and nothing is typed again."""
    page = (REPOSITORY / "docs" / "reference" / "parameters.md").read_text(encoding="utf-8")
    assert page == "\n".join(generated.parameters()) + "\n", "run: .venv/bin/python docs/_ext/generated.py"
    assert [name for name in KNOWN if page.count(f"| `--{name}` |") != 1] == []
    assert [name for name, what in KNOWN.items() if len(what.get("help_text", "")) < 5] == []
    usage = (REPOSITORY / "docs" / "usage.md").read_text(encoding="utf-8")
    assert "| `--" not in usage


@pytest.mark.parametrize("way", ["command line", "command line, all text", "file"])
def test_all_wrong_parameters_are_told_at_once(nextflow, tmp_path, way):
    given = {name: value for name, (value, _, _) in WRONG.items()}
    environment = {"NXF_DISABLE_PARAMS_TYPE_DETECTION": "true"} if way.endswith("text") else {}
    if way == "file":
        (tmp_path / "params.json").write_text(json.dumps(given))
        arguments = ["-params-file", "params.json"]
    else:
        arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
    run = nextflow(tmp_path, *arguments, **environment)
    assert run.code != 0
    for _, what, remedy in WRONG.values():
        said = re.search(
            rf"ERROR: {re.escape(what)}.*\n  Why it matters: \S.*\n  What to do: {re.escape(remedy)}", run.said
        )
        assert said, f"{what!r} is not in\n{run.said}"
    assert "--input is not given" in run.said
    assert run.submitted() == []
    assert run.results() == []


def test_typed_and_text_values_are_the_same(nextflow, tmp_path):
    values = {"max_epochs": 7, "fdr": 0.1, "predictive": True, "remove_doublets": False, "batch_size": 64}
    (tmp_path / "typed.json").write_text(json.dumps(values))
    (tmp_path / "text.json").write_text(json.dumps({name: str(value).lower() for name, value in values.items()}))
    common = ["-stub-run", "--input", small_sheet(tmp_path)]  # -preview leaves nothing under --outdir
    for name in ("typed", "text"):
        run = nextflow(tmp_path / name, *common, "-params-file", tmp_path / f"{name}.json")
        assert run.code == 0, run.said
    records = [
        json.loads((tmp_path / name / "out/pipeline_info/params.json").read_text()) for name in ("typed", "text")
    ]
    assert records[0] == records[1]
    assert {name: records[0][name] for name in values} == values


def test_a_config_may_set_what_nothing_knows(nextflow, tmp_path):
    (tmp_path / "site.config").write_text("params { max_memory = '6.GB'\n igenomes_base = 'x'\n colour = 'green' }\n")
    run = nextflow(tmp_path, "-profile", "test", "-preview", "--peak_source", "samples", "-c", "site.config")
    assert run.code == 0, run.said
    assert len(re.findall("known to nothing here: colour", run.said)) == 1
    assert "max_memory" not in run.said and "igenomes_base" not in run.said


def test_parameters_that_do_not_go_together(nextflow, tmp_path):
    wrong = ["--impute", "atac", "--peak_width", 500, "--reference", tmp_path, "--n_latent", 5]
    run = nextflow(tmp_path, "-profile", "test", *wrong)
    assert run.code != 0
    for what in (
        "--impute atac without --impute_features",
        "--peak_width is 500, which is even",
        "--n_latent with --reference",
    ):
        assert f"ERROR: {what}" in run.said


def test_help_lists_every_parameter_in_its_group(nextflow, tmp_path):
    run = nextflow(tmp_path, "--help")
    assert run.code == 0
    assert [group["title"] for group in SCHEMA["$defs"].values() if f"\n{group['title']}\n" not in run.said] == []
    shown = {name for name, value in KNOWN.items() if not value.get("hidden")}
    assert {name for name in shown if not re.search(rf"^  --{name} ", run.said, flags=re.MULTILINE)} == set()
    assert "{mean, weighted, cell-weighted, poe, mopoe}" in run.said
    assert not run.outdir.exists()


def test_version(nextflow, tmp_path):
    run = nextflow(tmp_path, "--version")
    from multivi_nf import __version__

    assert f"multivi-nf {__version__}" in run.said.splitlines()
