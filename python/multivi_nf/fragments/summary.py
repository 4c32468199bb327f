"""What QC of a fragments file tells, `fragments.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from multivi_nf.fragments.stream import Facts
from multivi_nf.io.records import left_out


@dataclass(frozen=True)
class Applied:
    """A rule: its threshold, how many barcodes it removed, and the median over those it was applied to."""

    rule: str
    threshold: float | None
    removed: int
    median: float


@dataclass(frozen=True)
class CalledBy:
    """How candidates were told: by a list, or called from their fragments at a threshold, so many being expected."""

    method: Literal["list", "order of magnitude"]
    threshold: float | None = left_out()
    expected: int | None = left_out()


@dataclass(frozen=True)
class Totals:
    """Numbers over all barcodes, and fragments of candidates."""

    barcodes: int
    fragments_in_cells: int
    fragments: int
    mito: int
    reads: int


@dataclass(frozen=True)
class Settings:
    """What was asked for: floors, and how many cells were listed."""

    min_fragments: int | None
    min_tsse: float | None
    listed: int


@dataclass(frozen=True)
class FragmentsSummary:
    """A fragments file after QC.

    Attributes
    ----------
    sample, modality, cells_in, cells_out, rules, medians, warnings
        As in :class:`multivi_nf.qc.summary.Summary`; cells are barcodes, and candidates.
    call, listed_without_fragments
        How candidates were told.
    totals, knee, sizes, tss_profile
        Numbers; the curve of a knee plot; fragments by length; cut sites around transcription starts.
    file, settings
        What the pass found, and what was asked for.
    """

    sample: str
    modality: Literal["atac"]
    cells_in: int
    cells_out: int
    rules: list[Applied]
    call: CalledBy
    listed_without_fragments: int
    totals: Totals
    medians: dict[str, float | None]
    knee: dict[str, list[int]]
    sizes: list[int]
    tss_profile: list[int] | None
    file: Facts
    warnings: list[str]
    settings: Settings
