"""Fixtures shared by all tests; those of tests/deploy and tests/chaos are in deploy/fixtures.py."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
DEPLOYMENT = [REPOSITORY / "tests" / folder for folder in ("deploy", "chaos")]
FIRST = {
    "local_run": r"test_run\.py|test_chaos\.py",
    "regulation": r"test_regulation\.py",
    "finished": r"test_finished_run\.py|test_a_gpu_that_is_not_there",
    "benchmark": r"pipeline/test_benchmark\.py",
    "two_nodes": r"test_nodes\.py",
    "sweep": "test_a_moment_of_every_step",
    "attacks": r"test_attacks\.py",
    "images": r"test_images\.py",
    "resolved": r"test_profiles\.py::test_(order|executor|images|gpu)",
    "hostile": "test_hostile_paths_and_metadata",
}
"""Tests that share a run of the pipeline or the like, and two long ones: what belongs together stays in one process
and starts first. (`local_run` makes the images, so what else needs them waits the least if it comes late.)"""
APART = r"^tests/(chaos|deploy|pipeline)/"
"""Where tests start Nextflow: they are long and share nothing but that. Elsewhere a file is a group."""


def group(name: str) -> str:
    """What a test belongs to by its name."""
    found = next((one for one, pattern in FIRST.items() if re.search(APART, name) and re.search(pattern, name)), None)
    return found or (name if re.search(APART, name) else name.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give a worker whole groups. (xdist 3.8's own marks of groups do nothing under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Groups(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_configure(config: pytest.Config) -> None:
    """Share the fixtures of deployment between its two folders: a reference run costs minutes."""
    config.pluginmanager.import_plugin("tests.deploy.fixtures")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of deployment, which `make test` leaves out; groups come first."""
    for item in items:
        if any(folder in item.path.parents for folder in DEPLOYMENT):
            item.add_marker(pytest.mark.deploy)
    order = list(FIRST)
    groups = {item: group(item.nodeid) for item in items}
    items.sort(key=lambda item: order.index(groups[item]) if groups[item] in FIRST else len(FIRST))


def skip_or_fail(reason: str) -> None:
    """Skip the test with a plain reason; fail instead where skips are not allowed (CI)."""
    if os.environ.get("MULTIVI_NF_NO_SKIP") == "1":
        pytest.fail(f"{reason} (MULTIVI_NF_NO_SKIP=1 turns this skip into a failure)")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Give the folder of one real data set beside the checkout; skip where it is absent."""

    def folder(name: str) -> Path:
        if not (SHARED_DATA / name).is_dir():
            skip_or_fail(f"real data set {name!r} is not at ../shared/data beside the checkout")
        return SHARED_DATA / name

    return folder
