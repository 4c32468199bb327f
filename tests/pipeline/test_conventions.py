"""What platforms and nf-core's users look for, and that it says what is true."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from tests.conftest import skip_or_fail
from tests.pipeline.nextflow_runs import BIN, REPOSITORY

VERSION = re.search(r'"(.+)"', (REPOSITORY / "python/multivi_nf/_version.py").read_text()).group(1)


def test_the_schema_is_one_by_nf_cores_own_validator():
    """`nf-core pipelines schema lint`, the public one: draft 2020-12, nf-schema's layout, defaults that fit."""
    if not (BIN / "nf-core").exists():
        skip_or_fail("there is no .venv/bin/nf-core; `make lint` makes it")
    command = [BIN / "nf-core", "pipelines", "schema", "lint", REPOSITORY / "nextflow_schema.json"]
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0 and "schema looks valid" in done.stdout + done.stderr, done.stdout + done.stderr


def flat(schema: dict) -> dict:
    """All parameters of the schema in one object, as nf-schema takes them."""
    return {name: what for group in schema["$defs"].values() for name, what in group["properties"].items()}


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("seed", 3, True),
        ("seed", "x", False),
        ("fusion", "poe", True),
        ("fusion", "none of them", False),
        ("fdr", 2, False),
    ],
)
def test_the_schema_tells_right_from_wrong(name, value, fits):
    schema = json.loads((REPOSITORY / "nextflow_schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    good = jsonschema.Draft202012Validator({"properties": flat(schema)}).is_valid({name: value})
    assert good == fits


def test_the_crate_names_what_is_there():
    graph = json.loads((REPOSITORY / "ro-crate-metadata.json").read_text())["@graph"]
    entries = {entry["@id"]: entry for entry in graph}
    parts = [part["@id"] for part in entries["./"]["hasPart"]]
    assert len(parts) > 10 and all((REPOSITORY / part).exists() for part in parts)
    assert all((REPOSITORY / part).is_dir() == part.endswith("/") and part in entries for part in parts)
    assert entries["./"]["mainEntity"] == {"@id": "main.nf"} and entries["main.nf"]["version"] == VERSION
    assert entries["./"]["description"].startswith("# multivi-nf")
    assert entries["ro-crate-metadata.json"]["about"] == {"@id": "./"}


def test_one_version_everywhere():
    """The package's is the pipeline's, the launchers', the crate's, the citation's and the newest of the changelog."""
    config = (REPOSITORY / "nextflow.config").read_text()
    named = {
        "manifest": re.search(r"version\s*=\s*'([^']+)'", config).group(1),
        "launchers": re.search(r"MULTIVI_NF_VERSION = '([^']+)'", config).group(1),
        "changelog": re.findall(r"^## \[(\d[^\]]*)\]", (REPOSITORY / "CHANGELOG.md").read_text(), re.M)[0],
        "citation": yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"],
    }
    assert named == dict.fromkeys(named, VERSION)


def test_reports_of_tower_are_results():
    reports = yaml.safe_load((REPOSITORY / "tower.yml").read_text())["reports"]
    output = (REPOSITORY / "docs/output.md").read_text()
    assert all(name.split("/")[0].split("*")[0] in output for name in reports)


def test_multiqc_is_told_the_sections_that_the_report_writes():
    config = yaml.safe_load((REPOSITORY / "assets/multiqc_config.yml").read_text())
    text = (REPOSITORY / "python/multivi_nf/report/multiqc.py").read_text()
    tables = set(re.search(r"tables = \{(.*)\}", text).group(1).replace('"', " ").split()) & {
        "qc",
        "training",
        "verdict",
    }
    assert tables == {"qc", "training", "verdict"}
    assert {f"multivi_nf_{name}" for name in tables} < set(config["report_section_order"])


def test_the_devcontainer_is_built_here_and_names_no_registry():
    text = (REPOSITORY / ".devcontainer/devcontainer.json").read_text()
    content = json.loads(text)
    assert "image" not in content and content["build"]["dockerfile"] == "../containers/Dockerfile"
    recipe = (REPOSITORY / "containers/Dockerfile").read_text()
    assert re.search(rf"^FROM \S+ AS {content['build']['target']}$", recipe, re.MULTILINE)
    hosts = re.findall(r"[\w-]+(?:\.[\w-]+)+/", text)
    assert hosts == [] and re.findall(r":(localhost/[\w:/]+)\}", text) == ["localhost/debian:bookworm"]
    assert not re.search(r"^FROM (?!\$\{BASE\}|\w[\w-]* AS )", recipe, re.MULTILINE)


def test_waivers_are_of_what_is_not_there():
    waived = yaml.safe_load((REPOSITORY / ".nf-core.yml").read_text())["lint"]["files_exist"]
    assert [name for name in waived if Path(REPOSITORY, name).exists()] == []
