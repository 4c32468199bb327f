"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


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
