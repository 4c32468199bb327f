"""The example of docs/explanation/counting.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from multivi_nf.fragments.count import scan
from multivi_nf.inputs.genome import Genome

PAGE = Path(__file__).resolve().parents[3] / "docs" / "explanation" / "counting.md"


def test_table_of_strategies(tmp_path):
    text = PAGE.read_text()
    chrom, start, end = re.search(r"Peak `(\w+):(\d+)-(\d+)`", text).groups()
    rows = re.findall(r"^\| `(\w+):(\d+)-(\d+)` \|[^|]*\| (\d) \| (\d) \| (\d) \|$", text, re.MULTILINE)
    assert len(rows) == 5
    peaks = pd.DataFrame([(chrom, int(start), int(end))], columns=["chrom", "start", "end"])
    lines = sorted((row[0], int(row[1]), int(row[2]), f"cell_{i}") for i, row in enumerate(rows))
    (tmp_path / "f.tsv").write_text("".join(f"{c}\t{s}\t{e}\t{b}\t1\n" for c, s, e, b in lines))
    genome = Genome({"chr1": 1000}, None, None, None, {})
    for column, strategy in enumerate(("fragment", "insertion", "pic"), 3):
        cells = [f"cell_{i}" for i in range(len(rows))]
        got = scan(tmp_path / "f.tsv", genome, barcodes=cells, peaks=peaks, strategy=strategy).matrix
        assert got.toarray()[:, 0].tolist() == [int(row[column]) for row in rows], strategy
