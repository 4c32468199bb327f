"""The model: how it trained, how far its error bars can be trusted, what the steps cost."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from multivi_nf.report import figures
from multivi_nf.report.gather import Results
from multivi_nf.report.terms import explained
from multivi_nf.report.verdict.run import best_epoch


@dataclass(frozen=True)
class Training:
    """Losses by epoch, and what chose the weights."""

    chosen_by: str
    svg: Markup
    terms: list[tuple[str, str]]
    epochs: int
    best: int | None
    seconds: float | None
    split: dict[str, int]


def training(results: Results) -> Training | None:
    """None where no history was written."""
    history = results.history
    if history is None or history.empty:
        return None
    best = int(history["epoch"].iloc[best_epoch(history)]) if history["validation_loss"].notna().any() else None
    held_out = "held_out_score" in history and history["held_out_score"].notna().any()
    return Training(
        chosen_by="held-out pairs" if held_out else "validation loss",
        svg=Markup(figures.training(history, best)),
        terms=explained(["loss_per_cell", *(c.removeprefix("train_") for c in history)]),
        epochs=len(history),
        best=best,
        seconds=float(history["seconds"].sum()) if "seconds" in history else None,
        split=results.split.iloc[:, 1].value_counts().to_dict() if results.split is not None else {},
    )


@dataclass(frozen=True)
class Calibration:
    """What held-out pairs said of each direction's error bars; `without`: directions with too few of them."""

    calibrated: bool
    n_pairs: int | None
    batches: list[str]
    notes: list[str]
    rows: list[dict[str, object]]
    columns: list[str]
    svg: Markup | None
    risk: list[tuple[str, Markup]]
    without: list[tuple[str, int]]


def calibration(results: Results) -> Calibration | None:
    """None where the model was not calibrated."""
    found = results.calibration
    if found is None:
        return None
    curves: dict[str, list[list[float]]] = {}
    rows, risk, without = [], [], []
    for k, (name, entry) in enumerate(found.directions.items()):
        direction = name.replace("->", " → ")
        if entry.calibrated is False:
            without.append((direction, entry.n_cells))
            continue
        if before := entry.coverage_before or entry.reliability_before:
            curves[f"{direction}, before"] = before
        if after := entry.coverage_after or entry.reliability_after:
            curves[f"{direction}, after"] = after
        rows.append({"direction": direction, **entry.scalars})
        if entry.risk_coverage:
            svg = figures.risk_coverage(entry.risk_coverage, entry.risk_coverage_mean, f"risk{k}")
            risk.append((direction, Markup(svg)))
    return Calibration(
        calibrated=found.calibrated,
        n_pairs=found.n_pairs,
        batches=found.batches,
        notes=found.notes,
        rows=rows,
        columns=list(dict.fromkeys(key for row in rows for key in row)),
        svg=Markup(figures.calibration_curve(curves)) if curves else None,
        risk=risk,
        without=without,
    )


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes of the tasks of a step."""

    step: str
    tasks: int
    seconds: float
    longest: float
    peak_memory: float


@dataclass(frozen=True)
class Costs:
    """Steps, the costliest first."""

    rows: list[Cost]
    slowest: float


def costs(results: Results) -> Costs | None:
    """None where no step noted its cost."""
    if results.resources is None:
        return None
    rows = [
        Cost(
            *(str(step), len(part), float(part["seconds"].sum()), float(part["seconds"].max())),
            float(part["peak_memory"].max()),
        )
        for step, part in results.resources.groupby("step", sort=False)
    ]
    rows.sort(key=lambda row: -row.seconds)
    return Costs(rows, rows[0].seconds)
