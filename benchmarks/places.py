"""Where the benchmarks find the clone, the shared data beside it, and their results."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python" / "multivi_nf"
RESULTS = ROOT / "benchmarks" / "results"
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
SETS = SHARED / "integration" / "sets"
