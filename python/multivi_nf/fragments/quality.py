"""From a pass over the fragments to candidate cells, and the folder that the next steps and the report read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.fragments.cells import Call, call_cells, knee_curve
from multivi_nf.fragments.count import Scan
from multivi_nf.fragments.stream import left_out_text
from multivi_nf.fragments.summary import Applied, CalledBy, FragmentsSummary, Settings, Totals
from multivi_nf.inputs.barcodes import overlap
from multivi_nf.io.files import written_whole
from multivi_nf.io.outputs import FRAGMENTS, check_folder
from multivi_nf.io.records import write_record
from multivi_nf.io.tables import write_table

LEAST_FRAGMENTS = 1000
"""Least fragments of a cell that is called from raw fragments; a given list has no floor."""


@dataclass
class Candidates:
    """Which barcodes go on, and why the others do not.

    Attributes
    ----------
    removed_by
        Per barcode: empty for a candidate, else the first rule that it fails: `not_listed`, `knee`, `min_fragments`,
        `min_tsse`.
    rules
        In the order applied: rule, threshold, number removed, median over the barcodes it was applied to.
    call
        The knee, where no list was given.
    absent
        Listed barcodes without any fragment.
    """

    removed_by: np.ndarray
    rules: list[Applied]
    call: Call | None
    absent: int

    @property
    def mask(self) -> np.ndarray:
        """Whether each barcode is a candidate."""
        return self.removed_by == ""


def choose_candidates(
    table: pd.DataFrame, n_listed: int = 0, min_fragments: int | None = None, min_tsse: float | None = None
) -> Candidates:
    """Apply the list or the knee, then the floors.

    Parameters
    ----------
    table
        Of :func:`multivi_nf.fragments.count.scan`, the listed barcodes first.
    n_listed
        Number of listed barcodes; 0 = no list, so the knee is used (see :func:`multivi_nf.fragments.cells.call_cells`).
    min_fragments
        Least fragments; None = 0 with a list, 1,000 without.
    min_tsse
        Least TSS enrichment; None = not applied here.

    Raises
    ------
    InputError
        No candidate is left, naming the rule, its threshold and the median; or `min_tsse` without TSS.
    """
    removed_by = np.full(len(table), "", dtype=object)
    rules: list[Applied] = []
    n_fragments = table["n_fragments"].to_numpy()
    call = None

    def apply(rule: str, threshold: float | None, values: np.ndarray, passes: np.ndarray) -> None:
        before = removed_by == ""
        removed_by[before & ~passes] = rule
        median = float(np.median(values[before])) if before.any() else 0.0
        rules.append(Applied(rule, threshold, int((before & ~passes).sum()), median))

    if n_listed:
        apply("not_listed", None, n_fragments, np.arange(len(table)) < n_listed)
    else:
        call = call_cells(n_fragments)
        apply("knee", call.threshold, n_fragments, call.is_cell)
    floor = (0 if n_listed else LEAST_FRAGMENTS) if min_fragments is None else min_fragments
    if floor:
        apply("min_fragments", floor, n_fragments, n_fragments >= floor)
    if min_tsse:
        tsse = table["tsse"].to_numpy()
        if np.isnan(tsse).all():
            raise InputError(
                f"a least TSS enrichment of {min_tsse} was asked for without transcription start sites",
                "TSS enrichment is not available",
                "give --genome hg38, hg19 or mm10, --tss or --gtf, or leave --atac_min_tsse out",
            )
        apply("min_tsse", min_tsse, tsse, tsse >= min_tsse)
    if not (removed_by == "").any():
        rule = max(rules, key=lambda entry: entry.removed)
        raise InputError(
            f"no barcode of {len(table)} is left as a cell: {rule.rule} (threshold {rule.threshold}) removed "
            f"{rule.removed}, whose median value was {rule.median:g}",
            "there would be no ATAC cell in this sample",
            "lower the threshold (--atac_min_fragments, --atac_min_tsse), or give the cells in column `barcodes`",
        )
    absent = int((n_fragments[:n_listed] + table["n_mito"].to_numpy()[:n_listed] == 0).sum()) if n_listed else 0
    return Candidates(removed_by, rules, call, absent)


def check_listed(listed: Sequence[str], table: pd.DataFrame, path: str | Path) -> str | None:
    """Compare a list of cells with the barcodes that have fragments.

    Returns
    -------
    A warning when under half of the list is found, with the one change that would help most; else None.

    Raises
    ------
    InputError
        When none is found.
    """
    found = int((table["n_fragments"].to_numpy()[: len(listed)] > 0).sum())
    if 2 * found >= len(listed):
        return None
    largest = table["n_fragments"].nlargest(max(5 * len(listed), 1000))
    seen = largest.index[largest > 0].tolist()
    other = overlap(list(listed), seen, ("list", "fragments"))
    what = (
        f"{found} of the {len(listed)} listed barcodes have fragments in {path} (list: {', '.join(listed[:2])}, ...; "
        f"fragments: {', '.join(seen[:2])}, ...)"
    )
    if other.transformation:
        remedy = f"{other.transformation} would raise the overlap to {other.transformed_fraction:.0%}"
    else:
        remedy = "no suffix, prefix or reverse complement helps: give the pairs in column `barcode_map`"
    if found == 0:
        raise InputError(what, "there would be no ATAC cell in this sample", remedy)
    return f"{what}; {remedy}"


def summarise(scan: Scan, candidates: Candidates, sample: str, settings: Settings) -> FragmentsSummary:
    """Gather what the report shows of a fragments file."""
    table, call = scan.table, candidates.call
    cells = table[candidates.mask]
    numbers = cells.select_dtypes("number").median()
    return FragmentsSummary(
        sample,
        "atac",
        len(table),
        int(candidates.mask.sum()),
        candidates.rules,
        CalledBy("list") if call is None else CalledBy("order of magnitude", call.threshold, call.expected),
        candidates.absent,
        Totals(len(table), int(cells["n_fragments"].sum()), *(int(table[n].sum()) for n in _TOTALS)),
        {name: None if np.isnan(value) else float(value) for name, value in numbers.items()},
        knee_curve(table["n_fragments"].to_numpy()),
        scan.sizes.tolist(),
        None if scan.profile is None else scan.profile.tolist(),
        scan.facts,
        [text for text in (left_out_text(scan.facts, "fragments"),) if text],
        settings,
    )


_TOTALS = ("n_fragments", "n_mito", "n_reads")


def write_quality(folder: str | Path, scan: Scan, candidates: Candidates, summary: FragmentsSummary) -> None:
    """Write `fragments.tsv.gz` (every barcode), `candidates.txt` and `fragments.json` into a folder."""
    table = scan.table.copy()
    table["candidate"] = candidates.mask.astype(int)
    table["removed_by"] = candidates.removed_by
    check_folder(Path(folder), FRAGMENTS)
    with written_whole(folder) as temporary:
        temporary.mkdir()
        write_table(table, temporary / "fragments.tsv.gz", index=True, gaps="NA")
        (temporary / "candidates.txt").write_text("".join(f"{name}\n" for name in table.index[candidates.mask]))
        write_record(summary, temporary / "fragments.json")
