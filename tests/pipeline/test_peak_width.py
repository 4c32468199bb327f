"""A width that is asked for holds for the samples' own peaks too; without one these stay as they are."""

from __future__ import annotations

import os
import re

import pytest
from tests.pipeline.nextflow_runs import BIN, REPOSITORY

PEAKS = "chr1\t1000\t1200\nchr1\t1150\t1700\nchr1\t9000\t9100\n"


@pytest.mark.parametrize(
    ("width", "own", "called"),
    [
        # own: 1000-1200 and 1150-1700 overlap and are united; called: middles 1100, 1425, 9050, widened by 250 each way
        (None, ["chr1:1000:1700", "chr1:9000:9100"], ["chr1:850:1351", "chr1:8800:9301"]),
        (51, *[["chr1:1075:1126", "chr1:1400:1451", "chr1:9025:9076"]] * 2),
    ],
)
def test_a_width_resizes_both_kinds(nextflow, tmp_path, width, own, called):
    (tmp_path / "a.bed").write_text(PEAKS)
    (tmp_path / "sizes").write_text("chr1\t20000\n")
    asked = [] if width is None else ["--peak_width", width]
    run = nextflow(
        *(tmp_path, "-c", REPOSITORY / "nextflow.config", "--beds", tmp_path / "a.bed"),
        *("--chrom_sizes", tmp_path / "sizes", *asked),
        PATH=f"{REPOSITORY / 'bin'}:{BIN}:{os.environ['PATH']}",
        project=REPOSITORY / "tests" / "pipeline" / "merge_peaks.nf",
    )
    assert run.code == 0, run.said
    found = sorted(line.split() for line in re.findall(r"^PEAKS (.*)$", run.said, flags=re.MULTILINE))
    assert found == sorted([own, called])
