"""What the tests of the pipeline share: places, and one call of Nextflow as an object."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = REPOSITORY / ".venv" / "bin"
MOSAIC = REPOSITORY / "tests" / "data" / "mosaic"


def small_sheet(folder: Path) -> Path:
    """A samplesheet of one sample of two modalities: the whole pipeline in a third of the tasks of `-profile test`."""
    path = folder / "small.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    matrix = MOSAIC / "cite_1" / "filtered_feature_bc_matrix.h5"
    path.write_text(f"sample,rna,protein\ncite_1,{matrix},{matrix}\n")
    return path


@dataclass
class Run:
    """One call of Nextflow: where it ran and what it said."""

    folder: Path
    code: int
    said: str

    @property
    def outdir(self) -> Path:
        return self.folder / "out"

    def submitted(self) -> list[str]:
        return re.findall(r"Submitted process > (?:\w+:)*(\w+)", self.said)

    def cached(self) -> list[str]:
        return re.findall(r"Cached process > (?:\w+:)*(\w+)", self.said)

    def results(self) -> list[str]:
        """Files under --outdir that are neither in pipeline_info/ nor checkpoints."""
        files = (path.relative_to(self.outdir) for path in self.outdir.rglob("*") if path.is_file())
        return sorted(str(path) for path in files if path.parts[0] not in ("pipeline_info", "checkpoints"))


def program(*command: object) -> str:
    """Run a program that must succeed; give what it said."""
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
