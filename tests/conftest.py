"""Fixtures shared by all tests; those of tests/deploy and tests/chaos are in deploy/fixtures.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
APART = [REPOSITORY / "tests" / folder for folder in ("chaos", "deploy", "pipeline")]
DEPLOYMENT = [REPOSITORY / "tests" / folder for folder in ("deploy", "chaos")]
FIRST = (
    "local_run",
    "run",
    "finished",
    "first",
    "two_nodes",
    "test_a_moment_of_every_step",
    "kept",
    "images",
    "resolved",
    "test_hostile_paths_and_metadata_are_only_text",
)
"""Fixtures that cost a run of the pipeline and the like, and two long tests: what belongs to each stays in one process,
and starts before all else. (`local_run` makes the images, so what else needs them waits the least if it comes late.)"""


def pytest_configure(config: pytest.Config) -> None:
    """Share the fixtures of deployment between its two folders: a reference run costs minutes."""
    config.pluginmanager.import_plugin("tests.deploy.fixtures")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of deployment, which `make test` leaves out, and say which tests stay together; longest first."""
    for item in items:
        if any(folder in item.path.parents for folder in DEPLOYMENT):
            item.add_marker(pytest.mark.deploy)
    groups = {item: group(item) for item in items}
    for item, name in groups.items():
        if name:
            item.add_marker(pytest.mark.xdist_group(name))
    items.sort(key=lambda item: FIRST.index(groups[item]) if groups[item] in FIRST else len(FIRST))


def group(item: pytest.Item) -> str:
    """What a test shares with others, so that one worker of `-n 2 --dist loadgroup` runs them all; empty if nothing.

    Tests of one file share its fixtures. Where Nextflow is started they are long and share little: there only those
    of a costly fixture stay together.
    """
    if not any(folder in item.path.parents for folder in APART):
        return item.nodeid.partition("::")[0]
    shared = {item.name, *getattr(item, "fixturenames", ())}
    return next((name for name in FIRST if name in shared), "")


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
