"""Our numbers are scvi-tools' numbers, in the environment of the peers, where there is one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from benchmarks.places import ROOT


def test_scvi_tools_weights_give_the_same_numbers():
    named = os.environ.get("MULTIVI_NF_PEERS")
    python = Path(named) / "bin" / "python" if named else ROOT / ".venv" / "bin" / "peers-python"
    if not python.exists():
        pytest.skip("scvi-tools 1.4.2 is not installed: `make peers` makes its environment")
    command = [python, "-W", "ignore", ROOT / "benchmarks" / "peers" / "scvi_parity.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
