"""Mutated files, a few here, or MULTIVI_NF_FUZZ_FILES of them."""

from __future__ import annotations

import os

from multivi_nf.testing import fragments_fuzz


def test_mutated_files_are_right_or_refused(tmp_path):
    files = int(os.environ.get("MULTIVI_NF_FUZZ_FILES", "300"))
    outcome = fragments_fuzz.run(files, seed=1, folder=tmp_path)
    assert outcome["refused"] + outcome["equal"] == files
    assert min(outcome.values()) > files / 10
