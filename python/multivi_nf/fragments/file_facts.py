"""What is told of a fragments file before a run; apart from the checks, since reading it needs no compiled code."""

from __future__ import annotations

from dataclasses import dataclass

from multivi_nf.io import records


@dataclass
class FileFacts:
    """What could be known of a fragments file; what could not is None, and left out of JSON.

    Attributes
    ----------
    size, compression, read
        Bytes; `bgzf`, `gzip` or `plain`; whether the `whole` file was read, or a `sample` of it.
    header, primary_contigs, reference
        Lines of its `#` header, the chromosomes that it names, the assembly, if it names just one.
    columns, fragments, sorted, renamed, other_chroms, left_out
        See :class:`multivi_nf.fragments.stream.Facts`.
    barcodes
        Barcodes that have fragments.
    frip, frip_random, tsse
        Share of fragments in peaks, by chance, and enrichment at transcription starts.
    listed, listed_found
        Cells asked for, and those of them that have fragments.
    """

    size: int | None = records.left_out()
    compression: str | None = records.left_out()
    read: str | None = records.left_out()
    header: int | None = records.left_out()
    primary_contigs: list[str] | None = records.left_out()
    reference: str | None = records.left_out()
    columns: int | None = records.left_out()
    fragments: int | None = records.left_out()
    sorted: bool | None = records.left_out()
    renamed: dict[str, str] | None = records.left_out()
    other_chroms: dict[str, int] | None = records.left_out()
    left_out: dict[str, int] | None = records.left_out()
    barcodes: int | None = records.left_out()
    frip: float | None = records.left_out()
    frip_random: float | None = records.left_out()
    tsse: float | None = records.left_out()
    listed: int | None = records.left_out()
    listed_found: int | None = records.left_out()
