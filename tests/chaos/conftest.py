"""Chaos tests: what is killed, cut short or named with malice."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "deploy/fixtures.py"


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures that tests/deploy and tests/chaos share, once: a reference run costs minutes."""
    if not config.pluginmanager.has_plugin("deployment"):
        spec = importlib.util.spec_from_file_location("deployment", FIXTURES)
        module = importlib.util.module_from_spec(spec)
        sys.modules["deployment"] = module
        spec.loader.exec_module(module)
        config.pluginmanager.register(module, "deployment")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything beside this file as a deployment test."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.deploy)
