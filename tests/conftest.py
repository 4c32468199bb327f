"""Fixtures shared by all tests; those of tests/deploy and tests/chaos are in deploy/fixtures.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
DEPLOYMENT = [REPOSITORY / "tests" / folder for folder in ("deploy", "chaos")]


def pytest_configure(config: pytest.Config) -> None:
    """Share the fixtures of deployment between its two folders: a reference run costs minutes."""
    config.pluginmanager.import_plugin("tests.deploy.fixtures")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of deployment, which `make test` leaves out."""
    for item in items:
        if any(folder in item.path.parents for folder in DEPLOYMENT):
            item.add_marker(pytest.mark.deploy)


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
