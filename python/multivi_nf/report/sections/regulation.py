"""What each part of `--regulation` made, with its files, or why it could not."""

from __future__ import annotations

from dataclasses import dataclass

from multivi_nf.report import addresses, facts
from multivi_nf.report.gather import Results
from multivi_nf.report.words import sentence

PARTS = {
    "tracks": "Tracks",
    "group_peaks": "Peaks by group",
    "gene_activity": "Gene activity",
    "links": "Peak–gene links",
    "motifs": "Motifs",
}
"""Parts of `--regulation` in the order shown; others come after them under their own names."""
WORDS = ("group", "file", "note", "symbol", "gene", "peak", "motif", "name", "genes")
"""Columns of words in their tables."""


@dataclass(frozen=True)
class Part:
    """A part on the page: what it told, or what it lacked; files that no row names; a table."""

    heading: str
    told: str
    lacks: str | None
    files: list[str]
    columns: list[str]
    about: str
    rows: list[dict[str, object]]


def regulation(results: Results) -> list[Part]:
    """Every part that was asked for."""
    place = {part: i for i, part in enumerate(PARTS)}
    order = sorted(results.regulation, key=lambda part: (place.get(part.part, len(place)), part.part))
    return [_part(results, part) for part in order]


def _part(results: Results, part: facts.Part) -> Part:
    rows = [row | {"link": addresses.of_pair(results, row)} for row in part.table]
    inside = {row.get("file") for row in rows}
    return Part(
        heading=PARTS.get(part.part, part.part.replace("_", " ").capitalize()),
        told=part.told if part.done else "",
        lacks=None if part.done else sentence([part.what, part.why, part.remedy]),
        files=[name for name in part.files if name not in inside],
        columns=_filled(rows),
        about=_about_rows(part, rows),
        rows=rows,
    )


def _filled(rows: list[dict[str, object]]) -> list[str]:
    """Columns of a part's table in which something stands; a gene's id only where the gene has no symbol."""
    names = [name for name in (rows[0] if rows else {}) if any(row.get(name) not in ("", None) for row in rows)]
    return [name for name in names if name != "link" and not (name == "gene" and "symbol" in names)]


def _about_rows(part: facts.Part, rows: list[dict[str, object]]) -> str:
    """What the rows of a part's table are."""
    if part.rows is not None:
        return f"{part.rows} ({len(rows):,})"
    what = "The files of" if any(row.get("file") for row in rows) else "Table of"
    return f"{what} {len(rows):,} {'groups' if rows and 'group' in rows[0] else 'rows'}"
