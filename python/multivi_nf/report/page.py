"""Put the page together: one self-contained HTML file that needs no network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from multivi_nf import __version__
from multivi_nf.io.files import written_whole
from multivi_nf.io.tables import write_table
from multivi_nf.report import figures
from multivi_nf.report.environment import environment as pages
from multivi_nf.report.environment import template
from multivi_nf.report.gather import (
    MODALITIES,
    Results,
    SampleQC,
    read_results,
)
from multivi_nf.report.markers import markers
from multivi_nf.report.methods import methods_text
from multivi_nf.report.multiqc import write_multiqc
from multivi_nf.report.terms import PHRASES, explained, term
from multivi_nf.report.verdict import Finding, verdict, verdict_table
from multivi_nf.report.verdict.run import best_epoch

TOP = 12
"""Rows of a contrast that are shown; the file holds all."""
SHOWN = (
    "target", "symbol", "feature", "nearest_gene", "mean_target", "mean_reference", "effect", "95 % interval",
    "log2_fold_change", "probability", "fdr", "replicate_fdr", "significant",
)  # fmt: skip
NAMES = ("target", "symbol", "feature", "nearest_gene")
"""Columns of words in a contrast's table."""
WORDS = ("group", "file", "note", "symbol", "gene", "peak", "motif", "name", "genes")
"""Columns of words in the tables of regulation."""
QC_MAPS = (
    ("rna_n_counts", "log10 RNA counts"), ("atac_n_fragments", "log10 ATAC fragments"),
    ("atac_n_counts", "log10 ATAC counts"), ("protein_n_counts", "log10 protein counts"),
)  # fmt: skip
LABEL_LIMIT = 60
"""A metadata column with more values than this is no grouping."""
NOT_LABELS = {"sample", "batch", "modality", "cluster"}


def write_report(outdir: Path, output: Path) -> None:
    """Write the page of one run.

    Parameters
    ----------
    outdir
        The run's results (docs/output.md); parts that are missing are left out of the page and named there.
    output
        The HTML file. Beside it, `verdict.tsv` says the same as its first section, and `multiqc/` gets tables for
        MultiQC.
    """
    results = read_results(outdir)
    findings = verdict(results)
    page = _environment().get_template("report.html.j2").render(**_context(results, findings))
    with written_whole(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_table(verdict_table(findings), output.parent / "verdict.tsv")
    write_multiqc(results, findings, output.parent / "multiqc")


def _environment() -> jinja2.Environment:
    environment = pages()
    environment.filters["number"] = _number
    environment.filters["anchor"] = lambda name: re.sub(r"[^A-Za-z0-9]+", "-", str(name)).strip("-")
    environment.filters["duration"] = _duration
    environment.filters["size"] = _size
    environment.filters["term"] = term
    environment.filters["sentence"] = sentence
    environment.filters["begun"] = begun
    environment.filters["options"] = options
    return environment


def _number(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    size = abs(float(value))
    if size != 0 and (size < 1e-3 or size >= 1e6):
        return f"{value:.2e}"
    return f"{value:,.3g}" if size < 1000 else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def _context(results: Results, findings: list[Finding]) -> dict[str, Any]:
    cells = results.cells
    return {
        "version": __version__,
        "findings": findings,
        "title": results.parameters.get("title") or "multivi-nf",
        "style": Markup(template("style.css")),
        "script": Markup(template("report.js")),
        "explorer": has_explorer(results),
        "NAMES": NAMES,
        "WORDS": WORDS,
        "composition": _composition(results),
        "n_cells": len(cells),
        "n_samples": cells["sample"].nunique() if "sample" in cells else 0,
        "features": results.features,
        "losses": {m: row["losses"] for m in MODALITIES if (row := _facts(results).get(m, {})).get("losses")},
        "by_modality": cells["modality"].astype(str).value_counts().to_dict() if "modality" in cells else {},
        "n_clusters": cells["cluster"].nunique() if "cluster" in cells else 0,
        "samples": _sample_table(results),
        "rules": [(entry, entry.summary.get("rules", [])) for entry in results.qc],
        "measures": explained(list(dict.fromkeys(c for entry in results.qc for c in entry.barcodes))),
        "distributions": [drawn for entry in results.qc if (drawn := _distribution(entry))],
        "fragments": [
            (sample, Markup(svg))
            for k, (sample, facts) in enumerate(results.fragments.items())
            if (svg := figures.fragments(facts, f"fragments{k}"))
        ],
        "checks": _checks(results),
        "told": _told(results),
        "partial": _partial(results),
        "overlap": _overlap(results),
        "training": _training(results),
        "umaps": _umaps(results),
        "markers": markers(results),
        "contrasts": _contrasts(results),
        "regulation": _regulation(results),
        "calibration": _calibration(results),
        "evaluation": results.evaluation,
        "controls": [] if results.controls is None else results.controls.to_dict("records"),
        "parameters": results.parameters,
        "versions": results.versions,
        "resources": _resources(results),
        "methods": methods_text(results),
    }


def _told(results: Results) -> list[dict[str, str]]:
    """What QC found out about a sample's ambient RNA and hashtags, and how it scored doublets of a small one."""
    return [
        {"sample": entry.sample, "modality": entry.modality, "note": note}
        for entry in results.qc
        for note in entry.summary.get("notes", [])
        if note.startswith(("ambient", "hashtags", "doublets"))
    ]


def has_explorer(results: Results) -> bool:
    """Tell whether the run writes explorer.html beside the report, so that links lead somewhere."""
    asked = results.parameters.get("explorer_size", 0)
    return (results.outdir / "explorer.html").is_file() or float(asked or 0) > 0


def sentence(parts: Any) -> str:
    """What is wrong, why it matters and what to do, as sentences: no part is glued to the next.

    Parameters
    ----------
    parts
        Text, or a mapping or list of texts.
    """
    if isinstance(parts, dict):
        parts = list(parts.values())
    texts = [str(part).strip() for part in ([parts] if isinstance(parts, str) else parts)]
    return " ".join(f"{text[0].upper()}{text[1:]}{'' if text[-1] in '.!?' else '.'}" for text in texts if text)


def begun(text: str) -> str:
    """Text with a capital letter at its beginning, unless that is a modality's name, which has none."""
    named = re.match(r"\w+", text)
    return text if named and named[0] in MODALITIES else text[:1].upper() + text[1:]


def options(text: str) -> Markup:
    """Text in which the name of an option (`--max_epochs`) is not broken at its dashes, and terms are explained."""
    known = "|".join(re.escape(phrase) for phrase in PHRASES)
    parts = re.split(rf"(--[A-Za-z][\w-]*|\b(?:{known})\b)", str(text))
    return Markup("").join(_marked(part) if k % 2 else escape(part) for k, part in enumerate(parts))


def _marked(part: str) -> Markup:
    if part.startswith("--"):
        return Markup('<span class="option">{}</span>').format(part)
    return Markup('<abbr title="{}">{}</abbr>').format(PHRASES[part], part)


def _composition(results: Results) -> dict[str, Any] | None:
    cells = results.cells
    if not {"cluster", "sample"} <= set(cells) or cells["sample"].nunique() < 2 or cells["cluster"].nunique() < 2:
        return None
    _, legend = figures.colour_of(cells["sample"])
    return {"svg": Markup(figures.composition(cells["cluster"], cells["sample"], "composition")), "legend": legend}


def _sample_table(results: Results) -> list[dict[str, Any]]:
    cells = results.cells
    rows = [
        {
            "sample": sample,
            "modality": "atac",
            "step": "barcodes of the fragments",
            "features": None,
            "cells_in": facts.get("cells_in"),
            "cells_out": facts.get("cells_out"),
            "removed": [(r["rule"], r["removed"]) for r in facts.get("rules", []) if r.get("removed")],
            "doublets": None,
            "in_model": None,
        }
        for sample, facts in results.fragments.items()
    ]
    recorded = results.mosaic_notes.get("samples", [])
    of_row = {row["sample"]: row["cells"] for row in recorded if isinstance(row, dict) and "cells" in row}
    for entry in results.qc:
        own = cells[cells["sample"].astype(str) == entry.sample]
        flag = f"{entry.modality}_doublet"
        doublets = int((own[flag].astype(str).str.lower() == "true").sum()) if flag in own else None
        kept = int(own[f"has_{entry.modality}"].astype(bool).sum()) if f"has_{entry.modality}" in own else 0
        if own.empty:  # a row of several samples (sample_column): the mosaic counted its cells
            kept = sum(n for words, n in of_row.get(entry.sample, {}).items() if entry.modality in words.split("+"))
        rows.append(
            {
                "sample": entry.sample,
                "modality": entry.modality,
                "step": "quality control",
                "features": entry.summary.get("features"),
                "cells_in": entry.summary.get("cells_in"),
                "cells_out": entry.summary.get("cells_out"),
                "removed": [(r["rule"], r["removed"]) for r in entry.summary.get("rules", []) if r.get("removed")],
                "doublets": doublets,
                "in_model": kept,
            }
        )
    order = {name: k for k, name in enumerate(dict.fromkeys(cells["sample"].astype(str)))} if "sample" in cells else {}
    return sorted(rows, key=lambda row: (order.get(row["sample"], len(order)), MODALITIES.index(row["modality"])))


def _partial(results: Results) -> list[dict[str, Any]]:
    """Samples some of whose cells are not in all of their modalities, and why."""
    rows = results.mosaic_notes.get("samples", [])
    return [row for row in rows if isinstance(row, dict) and row.get("partial") and "partial_failed" in row]


def _distribution(entry: SampleQC) -> dict[str, Any] | None:
    table = entry.barcodes
    if table.empty:
        return None
    numeric = [
        c
        for c in table.columns
        if c not in ("barcode", "removed_by")
        and pd.api.types.is_numeric_dtype(table[c])
        and table[c].dtype != bool
        and table[c].nunique() > 2
    ][:8]
    if not numeric:
        return None
    removed = table["removed_by"].notna().to_numpy() & (table["removed_by"].fillna("").astype(str) != "").to_numpy()
    thresholds: dict[str, list[float]] = {}
    for rule in entry.summary.get("rules", []):
        bounds = rule.get("threshold")
        bounds = bounds if isinstance(bounds, list) else [bounds]
        name = rule.get("quantity", rule.get("column", ""))
        thresholds.setdefault(name, []).extend(
            float(b) for b in bounds if isinstance(b, (int, float)) and np.isfinite(b)
        )
    values = {c: table[c].to_numpy(dtype=float) for c in numeric}
    svg = figures.distributions(values, removed, thresholds, f"qc-{_slug(entry.sample)}-{entry.modality}")
    return {"sample": entry.sample, "modality": entry.modality, "svg": Markup(svg)}


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name)


def _checks(results: Results) -> list[dict[str, Any]]:
    rows = []
    for sample, check in results.checks.items():
        for warning in check.get("warnings", []):
            rows.append({"sample": sample, "warning": sentence(warning)})
    told = {row["warning"].partition(": ")[2] for row in rows}
    found = [*results.fragments.items(), *((entry.sample, entry.summary) for entry in results.qc)]
    rows += [
        {"sample": sample, "warning": text}
        for sample, summary in found
        for text in summary.get("warnings", [])
        if text.partition(": ")[2] not in told
    ]
    return rows


def _overlap(results: Results) -> list[dict[str, Any]]:
    """How many barcodes the files of one sample share, as PREFLIGHT counted them."""
    return [{"sample": sample, **row} for sample, check in results.checks.items() for row in check.get("overlap", [])]


def _training(results: Results) -> dict[str, Any] | None:
    history = results.history
    if history is None or history.empty:
        return None
    best = int(history["epoch"].iloc[best_epoch(history)]) if history["validation_loss"].notna().any() else None
    held_out = "held_out_score" in history and history["held_out_score"].notna().any()
    return {
        "chosen_by": "held-out pairs" if held_out else "validation loss",
        "svg": Markup(figures.training(history, best)),
        "terms": explained(["loss_per_cell", *(c.removeprefix("train_") for c in history)]),
        "epochs": len(history),
        "best": best,
        "seconds": float(history["seconds"].sum()) if "seconds" in history else None,
        "split": results.split.iloc[:, 1].value_counts().to_dict() if results.split is not None else {},
    }


def _facts(results: Results) -> dict[str, dict[str, Any]]:
    """What the mosaic recorded of each modality's features."""
    facts = results.mosaic_notes.get("features", {})
    return {m: row for m, row in facts.items() if isinstance(row, dict)} if isinstance(facts, dict) else {}


def label_columns(results: Results) -> list[str]:
    """Columns of `obs` a person would colour a map by: those of the samplesheet and transferred labels."""
    named = results.mosaic_notes.get("metadata", [])
    named = list(named) if isinstance(named, (list, tuple)) else []
    transferred = [c for c in results.cells if c.endswith("_transferred")]
    usual = [c for c in ("cell_type", "celltype", "label") if c in results.cells]
    found = [c for c in dict.fromkeys([*usual, *named, *transferred]) if c in results.cells and c not in NOT_LABELS]
    return [c for c in found if 1 < results.cells[c].nunique() <= LABEL_LIMIT]


def _umaps(results: Results) -> list[dict[str, Any]]:
    cells = results.cells
    first = [c for c in ("cluster", "sample", "batch", "modality", "cell_type_by_markers") if c in cells]
    if "batch" in first and "sample" in first and (cells["batch"].astype(str) == cells["sample"].astype(str)).all():
        first.remove("batch")
    drawn = []
    for k, column in enumerate(dict.fromkeys(first + label_columns(results)[:4])):
        colours, legend = figures.colour_of(cells[column])
        about = f"UMAP of all cells coloured by {column}"
        groups = cells[column] if column == "cluster" else None
        svg = figures.umap(results.umap, colours, f"umap{k}", about, groups)
        drawn.append({"column": column, "svg": Markup(svg), "legend": legend})
    for column, label in QC_MAPS:
        values = pd.to_numeric(cells[column], errors="coerce").to_numpy(float) if column in cells else np.array([])
        if np.isfinite(values).any():
            svg = figures.umap_of_numbers(results.umap, np.log10(values + 1), label, f"umap-{_slug(column)}")
            drawn.append({"column": column, "svg": Markup(svg), "legend": []})
    return drawn


PARTS = {
    "tracks": "Tracks", "group_peaks": "Peaks by group", "gene_activity": "Gene activity", "links": "Peak–gene links",
    "motifs": "Motifs",
}  # fmt: skip
"""Parts of `--regulation` in the order shown; others come after them under their own names."""


def _regulation(results: Results) -> list[dict[str, Any]]:
    """What each part of `--regulation` made, with its files, or why it could not."""
    place = {part: i for i, part in enumerate(PARTS)}
    shown = []
    for facts in sorted(results.regulation, key=lambda facts: (place.get(facts["part"], len(place)), facts["part"])):
        part = facts["part"]
        rows = [row | {"link": _pair_link(results, row)} for row in facts.get("table", [])]
        inside = {row.get("file") for row in rows}
        shown.append(
            {
                "heading": PARTS.get(part, part.replace("_", " ").capitalize()),
                "told": facts.get("told", "") if facts.get("done") else "",
                "lacks": None if facts.get("done") else sentence([facts["what"], facts["why"], facts["remedy"]]),
                "files": [name for name in facts.get("files", []) if name not in inside],
                "columns": _filled(rows),
                "about": _about_rows(facts, rows),
                "rows": rows,
            }
        )
    return shown


def _filled(rows: list[dict[str, Any]]) -> list[str]:
    """Columns of a part's table in which something stands; a gene's id only where the gene has no symbol."""
    names = [name for name in (rows[0] if rows else {}) if any(row.get(name) not in ("", None) for row in rows)]
    return [name for name in names if name != "link" and not (name == "gene" and "symbol" in names)]


def _about_rows(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """What the rows of a part's table are."""
    if "rows" in facts:
        return f"{facts['rows']} ({len(rows):,})"
    files = any(row.get("file") for row in rows)
    return (
        f"{'The files of' if files else 'Table of'} {len(rows):,} {'groups' if rows and 'group' in rows[0] else 'rows'}"
    )


def _pair_link(results: Results, row: dict[str, Any]) -> str:
    """Address of a gene and its linked peak beside it in the explorer, "" where there is none."""
    if not ({"gene", "peak"} <= set(row) and has_explorer(results)):
        return ""
    return f"explorer.html#left=rna:{quote(str(row['gene']))}&right=atac:{quote(str(row['peak']))}"


def _contrasts(results: Results) -> list[dict[str, Any]]:
    drawn = []
    for k, (name, table) in enumerate(results.contrasts.items()):
        if table.empty:
            drawn.append({"name": name, "tested": 0})
            continue
        groups = (
            [(str(t), part) for t, part in table.groupby("target", sort=True)] if "target" in table else [("", table)]
        )
        called = table["significant"].astype(str).str.lower().eq("true")
        top = _top(groups)
        features = top["feature"].astype(str)
        near = features.map(results.nearest_genes).fillna("")
        if (near != "").any():
            top = top.assign(nearest_gene=near)
        shown = [column for column in SHOWN if column in top]
        if (top["symbol"].astype(str) == top["feature"].astype(str)).all():
            shown.remove("symbol")
        if "log2_fold_change" in shown and np.allclose(top["effect"], top["log2_fold_change"], equal_nan=True):
            shown.remove("log2_fold_change")
        notes = [
            c
            for c in ("imputed", "confounded", "groups_from_same_data", "extrapolated")
            if c in table and table[c].astype(str).str.lower().eq("true").any()
        ]
        largest = max(groups, key=lambda item: int(item[1]["significant"].astype(str).str.lower().eq("true").sum()))
        drawn.append(
            {
                "name": name,
                "tested": len(table),
                "significant": int(called.sum()),
                "delta": float(table["delta"].iloc[0]) if "delta" in table and len(table) else None,
                "notes": notes,
                "columns": shown,
                "rows": [
                    {"cells": values, "link": _link(results, feature)}
                    for feature, values in zip(
                        features, top[shown].astype(object).where(top[shown].notna(), None).to_numpy().tolist()
                    )
                ],
                "groups": len(groups),
                "volcano_of": f"group {largest[0]}" if largest[0] else "",
                "svg": Markup(figures.volcano(largest[1], f"volcano{k}")),
                "compared": _compared(results, name, k),
            }
        )
    return drawn


def _link(results: Results, feature: str) -> str:
    """Address of a feature in the explorer, "" where there is none."""
    modality = results.modality_of.get(feature)
    if modality is None or not has_explorer(results):
        return ""
    return f"explorer.html#left=obs:cluster&right={quote(modality)}:{quote(feature)}"


def _top(groups: list[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """First rows of one comparison; of many, each group's first, and two more where they are significant."""
    if len(groups) == 1:
        top = groups[0][1].head(TOP)
    else:
        parts = []
        for _, part in groups:
            first = part.head(3)
            called = first["significant"].astype(str).str.lower().eq("true").to_numpy()
            parts.append(first[called | (np.arange(len(first)) == 0)])
        top = pd.concat(parts)
    interval = [f"{_number(low)} to {_number(high)}" for low, high in zip(top["effect_lower"], top["effect_upper"])]
    return top.assign(**{"95 % interval": interval})


def _compared(results: Results, name: str, k: int) -> Markup | None:
    """Observed against imputed effects, where the run has the same contrast both ways (`X` and `X_imputed`)."""
    twin = results.contrasts.get(f"{name}_imputed")
    table = results.contrasts[name]
    if twin is None or twin.empty or "target" in table:
        return None
    joined = table.set_index("feature")[["effect"]].join(
        twin.set_index("feature")["effect"].rename("imputed"), how="inner"
    )
    return Markup(figures.effects_compared(joined["effect"], joined["imputed"], f"compared{k}"))


def _calibration(results: Results) -> dict[str, Any] | None:
    directions = results.calibration.get("directions", {})
    if not results.calibration:
        return None
    curves: dict[str, list[tuple[float, float]]] = {}
    rows, risk, without = [], [], []
    for k, (name, entry) in enumerate(directions.items()):
        direction = name.replace("->", " → ")
        if not entry.get("calibrated", True):
            without.append((direction, entry.get("n_cells", 0)))
            continue
        for when in ("before", "after"):
            points = entry.get(f"coverage_{when}") or entry.get(f"reliability_{when}")
            if points:
                curves[f"{direction}, {when}"] = [tuple(p) for p in points]
        rows.append(
            {
                "direction": direction,
                **{key: value for key, value in entry.items() if isinstance(value, (int, float, str))},
            }
        )
        if entry.get("risk_coverage"):
            risk.append(
                (
                    direction,
                    Markup(figures.risk_coverage(entry["risk_coverage"], entry.get("risk_coverage_mean"), f"risk{k}")),
                )
            )
    return {
        "calibrated": bool(results.calibration.get("calibrated", False)),
        "n_pairs": results.calibration.get("n_pairs"),
        "batches": results.calibration.get("batches", []),
        "notes": results.calibration.get("notes", []),
        "rows": rows,
        "columns": list(dict.fromkeys(key for row in rows for key in row)),
        "svg": Markup(figures.calibration_curve(curves)) if curves else None,
        "risk": risk,
        "without": without,
    }


def _resources(results: Results) -> dict[str, Any] | None:
    if results.resources is None:
        return None
    rows = []
    for step, part in results.resources.groupby("step", sort=False):
        rows.append(
            {
                "step": step,
                "tasks": len(part),
                "seconds": float(part["seconds"].sum()),
                "longest": float(part["seconds"].max()),
                "peak_memory": float(part["peak_memory"].max()),
            }
        )
    rows.sort(key=lambda row: -row["seconds"])
    return {"rows": rows, "slowest": max(row["seconds"] for row in rows)}
