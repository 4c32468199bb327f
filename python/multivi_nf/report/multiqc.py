"""Tables that MultiQC puts into a page about many tools: cells, training, verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from multivi_nf.io.files import written_whole

if TYPE_CHECKING:
    from multivi_nf.report.gather import Results
    from multivi_nf.report.verdict import Finding

COLOURS = {"good": "#4caf6d", "look": "#e8873a", "poor": "#d9596b", "unknown": "#8f9aa6"}


def write_multiqc(results: Results, findings: list[Finding], folder: Path) -> list[Path]:
    """Write `multivi_nf_<qc|training|verdict>_mqc.tsv`, those for which there is something to say.

    Their first lines begin with `#` and tell MultiQC's custom content the section's id and how to draw it.
    """
    tables = {"qc": _cells(results), "training": _training(results), "verdict": _verdict(findings)}
    paths = []
    for name, (header, table) in tables.items():
        if len(table):
            paths.append(folder / f"multivi_nf_{name}_mqc.tsv")
            lines = [f"# {key}: {json.dumps(value)}" for key, value in {"id": f"multivi_nf_{name}", **header}.items()]
            with written_whole(paths[-1]) as temporary:
                temporary.write_text("\n".join(lines) + "\n" + table.to_csv(sep="\t", index=False, float_format="%.6g"))
    return paths


def _cells(results: Results) -> tuple[dict, pd.DataFrame]:
    rows = []
    for entry in results.qc:
        known, kept = entry.summary.cells_in or 0, entry.summary.cells_out or 0
        rows.append(
            {
                "Sample": f"{_plain(entry.sample)} {entry.modality}",
                "barcodes": known,
                "cells": kept,
                "kept_percent": 100 * kept / known if known else 0.0,
                "removed": "; ".join(f"{rule} {n}" for rule, n in entry.summary.removed),
            }
        )
    header = {
        "section_name": "multivi-nf: cells",
        "description": "Barcodes of each sample's files, and those that quality control kept as cells.",
        "plot_type": "table",
        "headers": {
            "barcodes": {"title": "Barcodes", "format": "{:,.0f}"},
            "cells": {"title": "Cells", "format": "{:,.0f}"},
            "kept_percent": {"title": "Kept", "suffix": " %", "min": 0, "max": 100, "format": "{:.1f}"},
            "removed": {"title": "Removed by each rule"},
        },
    }
    return header, pd.DataFrame(rows)


def _training(results: Results) -> tuple[dict, pd.DataFrame]:
    history = results.history
    header = {
        "section_name": "multivi-nf: training",
        "description": "Loss per cell by epoch, of cells that were trained on and of cells set apart.",
        "plot_type": "linegraph",
        "pconfig": {"id": "multivi_nf_loss", "title": "multivi-nf: loss", "xlab": "epoch", "ylab": "loss per cell"},
    }
    if history is None or len(history) < 2:
        return header, pd.DataFrame()
    losses = [c for c in ("train_loss", "validation_loss") if c in history and history[c].notna().any()]
    table = history[losses].T.set_axis(history["epoch"].astype(int), axis=1)
    # MultiQC takes the first row for the epochs only where its first field is empty
    table.insert(0, "", [name.replace("_", " ") for name in losses])
    return header, table


def _verdict(findings: list[Finding]) -> tuple[dict, pd.DataFrame]:
    rows = [{"Sample": f.question, "level": f.level, "answer": _plain(f.answer)} for f in findings]
    header = {
        "section_name": "multivi-nf: verdict",
        "description": "May these results be relied on? The report says what to do where they may not.",
        "plot_type": "table",
        "headers": {
            "level": {"title": "Level", "bgcols": COLOURS},
            "answer": {"title": "Answer"},
        },
    }
    return header, pd.DataFrame(rows)


def _plain(text: str) -> str:
    """On one line and without marks that the page would take for HTML."""
    return " ".join(str(text).replace("<", "‹").replace(">", "›").split())
