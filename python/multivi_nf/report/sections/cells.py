"""Cells and features: how many there were, what QC removed and why, how its values are distributed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup

from multivi_nf.modalities import MODALITIES
from multivi_nf.report import facts, figures
from multivi_nf.report.gather import Results, SampleQC
from multivi_nf.report.words import sentence, slug, true_in


@dataclass(frozen=True)
class Step:
    """A row of the table of samples: barcodes before and after a step."""

    sample: str
    modality: str
    step: str
    features: int | None
    cells_in: int | None
    cells_out: int | None
    removed: list[tuple[str, int]]
    doublets: int | None = None
    in_model: int | None = None


def samples(results: Results) -> list[Step]:
    """Barcodes and cells of each sample and modality, in the order of the samples."""
    rows = [
        Step(sample, "atac", "barcodes of the fragments", None, one.cells_in, one.cells_out, one.removed)
        for sample, one in results.fragments.items()
    ]
    rows += [_after_qc(results, entry) for entry in results.qc]
    order = {name: k for k, name in enumerate(dict.fromkeys(results.words("sample")))}
    return sorted(rows, key=lambda row: (order.get(row.sample, len(order)), MODALITIES.index(row.modality)))


def _after_qc(results: Results, entry: SampleQC) -> Step:
    own = results.cells[results.words("sample") == entry.sample]
    flag, has, one = f"{entry.modality}_doublet", f"has_{entry.modality}", entry.summary
    doublets = int(true_in(own[flag]).sum()) if flag in own else None
    kept = int(own[has].astype(bool).sum()) if has in own else 0
    if own.empty:  # a row of several samples (sample_column): the mosaic counted its cells
        noted = {row.sample: row.cells for row in results.mosaic_notes.samples}.get(entry.sample, {})
        kept = sum(n for words, n in noted.items() if entry.modality in words.split("+"))
    return Step(
        *(entry.sample, entry.modality, "quality control", one.features, one.cells_in, one.cells_out, one.removed),
        *(doublets, kept),
    )


def losses(results: Results) -> dict[str, facts.Losses]:
    """Features of each modality from the matrices to the model."""
    noted = results.mosaic_notes.features
    return {m: found for m in MODALITIES if m in noted and (found := noted[m].losses) is not None}


def partial(results: Results) -> list[facts.Sample]:
    """Samples some of whose cells are not in all of their modalities, and why."""
    return [row for row in results.mosaic_notes.samples if row.partial and row.partial_failed is not None]


@dataclass(frozen=True)
class Note:
    """What a step said of a sample, and of which modality."""

    sample: str
    modality: str
    note: str


def told(results: Results) -> list[Note]:
    """What QC found out about a sample's ambient RNA and hashtags, and how it scored doublets of a small one."""
    return [
        Note(entry.sample, entry.modality, note)
        for entry in results.qc
        for note in entry.summary.notes
        if note.startswith(("ambient", "hashtags", "doublets"))
    ]


def checks(results: Results) -> list[tuple[str, str]]:
    """Sample and warning: of the input check, and those of QC that it had not told."""
    rows = [(sample, sentence(warning)) for sample, check in results.checks.items() for warning in check.warnings]
    before = {warning.partition(": ")[2] for _, warning in rows}
    found = [*results.fragments.items(), *((entry.sample, entry.summary) for entry in results.qc)]
    return rows + [
        (sample, text) for sample, one in found for text in one.warnings if text.partition(": ")[2] not in before
    ]


def overlap(results: Results) -> list[tuple[str, facts.Overlap]]:
    """How many barcodes the files of one sample share, as PREFLIGHT counted them."""
    return [(sample, row) for sample, check in results.checks.items() for row in check.overlap]


@dataclass(frozen=True)
class Drawn:
    """A figure of a sample and modality."""

    sample: str
    modality: str
    svg: Markup


def distributions(results: Results) -> list[Drawn]:
    """Histograms of every sample's QC values."""
    return [drawn for entry in results.qc if (drawn := _distribution(entry)) is not None]


def _distribution(entry: SampleQC) -> Drawn | None:
    table = entry.barcodes
    numeric = [c for c in table.columns if _is_measure(table[c])][:8]
    if not numeric:
        return None
    removed = table["removed_by"].fillna("").astype(str).ne("").to_numpy()
    thresholds: dict[str, list[float]] = {}
    for rule in entry.summary.rules:
        bounds = rule.threshold if isinstance(rule.threshold, list) else [rule.threshold]
        thresholds.setdefault(rule.quantity or rule.column, []).extend(
            float(b) for b in bounds if isinstance(b, (int, float)) and np.isfinite(b)
        )
    values = {c: table[c].to_numpy(dtype=float) for c in numeric}
    svg = figures.distributions(values, removed, thresholds, f"qc-{slug(entry.sample)}-{entry.modality}")
    return Drawn(entry.sample, entry.modality, Markup(svg))


def _is_measure(column: pd.Series) -> bool:
    return (
        column.name not in ("barcode", "removed_by")
        and pd.api.types.is_numeric_dtype(column)
        and column.dtype != bool
        and column.nunique() > 2
    )


def fragments(results: Results) -> list[tuple[str, Markup]]:
    """Knee, TSS profile and fragment sizes of every sample with fragments."""
    return [
        (sample, Markup(svg))
        for k, (sample, one) in enumerate(results.fragments.items())
        if (svg := figures.fragments(one, f"fragments{k}"))
    ]
