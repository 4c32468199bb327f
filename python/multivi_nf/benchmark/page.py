"""All scores in `scores.tsv`, and the paper's figures with every method in `benchmark.html`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from multivi_nf import __version__
from multivi_nf.benchmark import figures
from multivi_nf.benchmark.panels import Drawn, Panel
from multivi_nf.benchmark.plan import CONTROLS, planned
from multivi_nf.benchmark.runner import COLUMNS
from multivi_nf.benchmark.task import SHUFFLED_PAIRS
from multivi_nf.io.files import written_whole
from multivi_nf.io.hdf5 import reading
from multivi_nf.io.limits import read_tsv
from multivi_nf.io.records import read_record
from multivi_nf.io.tables import write_table
from multivi_nf.report.environment import environment, template

SHOWN = {
    1: (
        ("rank_distance", "Neighbour rank distance", "lower"),
        ("foscttm", "FOSCTTM", "lower"),
        ("lisi_ratio", "LISI of modality over permuted", "higher"),
        ("purity", "Label purity, 15 neighbours", "higher"),
        ("transfer", "Labels carried from RNA to ATAC", "higher"),
    ),
    2: (
        ("lisi_batch_within", "LISI of sources within labels", "higher"),
        ("lisi_modality_within", "LISI of technologies within labels", "higher"),
        ("purity", "Label purity", "higher"),
        ("ari", "ARI", "higher"),
    ),
    3: (
        ("rna_gene_spearman", "RNA: Spearman per gene, smoothed truth", "higher"),
        ("rna_gene_spearman_within", "RNA: Spearman per gene, within batches", "higher"),
        ("rna_spearman_smooth", "RNA: Spearman pooled, smoothed truth", "higher"),
        ("rna_spearman_raw", "RNA: Spearman pooled, raw", "higher"),
        ("rna_cell_pearson_centred", "RNA: Pearson per cell, centred", "higher"),
        ("atac_peak_auroc", "ATAC: AUROC per peak", "higher"),
        ("atac_peak_auroc_within", "ATAC: AUROC per peak, within batches", "higher"),
        ("atac_spearman_smooth", "ATAC: Spearman pooled, smoothed truth", "higher"),
        ("rna_sd_error_within", "RNA: sd against error, within genes", "higher"),
        ("rna_sides_with_model", "RNA: sure and wrong, neighbours side with the model", "higher"),
        ("rna_sides_with_model_random", "The same for random points", "higher"),
    ),
    4: (
        ("pearson", "Log fold change, Pearson", "higher"),
        ("auroc", "AUROC of the 50 top markers", "higher"),
        ("precision", "Precision of the 50 top markers", "higher"),
        ("calls_recall", "Calls: recall", "higher"),
        ("calls_fdr", "Calls: observed FDR", "lower"),
    ),
    5: (
        ("ari", "ARI", "higher"),
        ("nmi", "NMI", "higher"),
        ("micro_f1", "Micro-F1", "higher"),
        ("lisi_modality", "LISI of patterns over permuted", "higher"),
    ),
}
"""What the page shows of each experiment: metric, title, which way is better. `scores.tsv` holds all."""

TITLES = {
    1: ("Paired and unpaired cells", "Figure 2: pairs taken apart. Do a cell's halves meet, do types stay apart?"),
    2: ("Sources and technologies", "Figure 2: all samples as they are. Do labs and technologies mix within types?"),
    3: ("Imputation and its uncertainty", "Figure 3: a hidden modality predicted. Is it right, is the error known?"),
    4: ("A type without a modality", "Figure 4: no cell of the type shows it. Are its markers found?"),
    5: ("Three modalities", "Figure 5: complete cells, and every incomplete combination."),
}


def read_scores(
    folders: Sequence[Path], plans: Sequence[Path], methods: tuple[str, ...], dataset: str
) -> tuple[pd.DataFrame, list[Panel]]:
    """Every row of every result, with a row for what was planned and gave nothing; and what is drawn of each.

    Parameters
    ----------
    folders
        Of `benchmark-score`.
    plans
        `plan.tsv` of every `benchmark-split`.
    methods
        Those asked for.
    dataset
        Name of the data.
    """
    tables: list[pd.DataFrame] = []
    panels: list[Panel] = []
    for folder in folders:
        with reading(folder):
            tables.append(read_tsv(folder / "scores.tsv")[list(COLUMNS)])
            panels.append(read_record(Panel, folder / "panel.json"))
            if "method" not in panels[-1].about:
                raise ValueError("panel.json names no method")
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))
    wanted = planned(plans, methods)
    seen = set(zip(table["experiment"], table["method"], table["split"], table["seed"].astype(str)))
    lost: list[tuple[int, str, str, str, int | None, str]] = []
    for row in wanted.itertuples():
        if row.why:
            lost.append((row.experiment, dataset, row.method, "", None, f"not run: {row.why}"))
        elif (row.experiment, row.method, row.split, str(row.seed)) not in seen:
            why = "failed: no result (see the task of this method in pipeline_info/execution_trace)"
            lost.append((row.experiment, dataset, row.method, row.split, int(row.seed), why))
    if lost:
        columns = ["experiment", "dataset", "method", "split", "seed", "note"]
        missing = pd.DataFrame(lost, columns=columns).assign(metric="failed")
        table = pd.concat([table, missing], ignore_index=True)
    order = ["experiment", "dataset", "split", "method", "seed", "metric"]
    return table.reindex(columns=list(COLUMNS)).sort_values(order, kind="stable", ignore_index=True), panels


def write_page(
    folders: Sequence[Path], plans: Sequence[Path], methods: tuple[str, ...], dataset: str, output: Path
) -> None:
    """Write `scores.tsv` and `benchmark.html` into a new folder."""
    table, panels = read_scores(folders, plans, methods, dataset)
    page = environment().from_string(template("benchmark.html.j2")).render(vars(_shown(table, panels, dataset)))
    with written_whole(output) as place:
        place.mkdir()
        write_table(table, place / "scores.tsv", gaps="", digits=None)
        (place / "benchmark.html").write_text(page, encoding="utf-8")


@dataclass(frozen=True)
class Cell:
    """A value of a table, and whether it is the best of its column."""

    value: str
    best: bool


@dataclass(frozen=True)
class Line:
    """A method's row."""

    method: str
    cells: list[Cell]


@dataclass(frozen=True)
class Means:
    """Means of a split over seeds."""

    dataset: str
    split: str
    columns: list[str]
    lines: list[Line]


@dataclass(frozen=True)
class Small:
    """Small figures of one kind, one a method, and what their colours mean."""

    title: str
    legend: list[tuple[str, str]]
    figures: list[Markup]


@dataclass(frozen=True)
class Experiment:
    """One of the five on the page."""

    number: int
    title: str
    text: str
    legend: list[tuple[str, Markup]]
    figures: list[Markup]
    panels: list[Small]
    table: list[Means]


@dataclass(frozen=True)
class Shown:
    """What the template writes."""

    style: Markup
    dataset: str
    version: str
    experiments: list[Experiment]
    cost: list[Markup]
    failed: list[dict[str, object]]
    settings: list[dict[str, str]]


def _shown(table: pd.DataFrame, panels: list[Panel], dataset: str) -> Shown:
    scored = table[table["metric"] != "failed"]
    failed = table[table["metric"] == "failed"].drop_duplicates(["experiment", "method", "split", "note"])
    return Shown(
        style=Markup(template("style.css")),
        dataset=dataset,
        version=__version__,
        experiments=[_experiment(k, scored, panels) for k in sorted(scored["experiment"].unique())],
        cost=[Markup(one) for one in figures.cost(scored)],
        failed=failed[["experiment", "method", "split", "note"]].to_dict("records"),
        settings=_settings(panels),
    )


def _settings(panels: list[Panel]) -> list[dict[str, str]]:
    found = {panel.method: panel.about for panel in panels}
    return [
        {"method": name, "version": str(about.get("version", "")), "settings": str(about.get("settings", ""))}
        for name, about in sorted(found.items())
    ]


def _experiment(k: int, scored: pd.DataFrame, panels: list[Panel]) -> Experiment:
    rows = scored[scored["experiment"] == k]
    drawn = [panel for panel in panels if panel.split.experiment == k and panel.panel != Drawn()]
    title, text = TITLES[k]
    shown = [(metric, words, better) for metric, words, better in SHOWN[k] if (rows["metric"] == metric).any()]
    control = rows["split"].str.endswith(SHUFFLED_PAIRS)
    pictures = [Markup(figures.metric(rows[~control], *one, f"e{k}-{one[0]}")) for one in shown]
    if control.any():
        told = "FOSCTTM, pairs shuffled before training"
        pictures.append(Markup(figures.metric(rows[control], "foscttm", told, "lower", f"e{k}-shuffled")))
    pictures += [Markup(one) for one in figures.risks(drawn)] if k == 3 else []
    legend = [(name, Markup(figures.badge(name))) for name in figures.ordered(rows["method"].unique())]
    small = [Small(of.title, of.legend, [Markup(one) for one in of.figures]) for of in figures.panels(k, drawn)]
    return Experiment(k, title, text, legend, pictures, small, _means(rows, shown))


def _means(rows: pd.DataFrame, shown: list[tuple[str, str, str]]) -> list[Means]:
    """Mean over seeds by split and method, the best of each column (controls aside) marked."""
    out = []
    for (dataset, split), of in rows.groupby(["dataset", "split"], sort=False):
        wide = of.pivot_table(index="method", columns="metric", values="value", aggfunc="mean")
        lines = []
        for method in figures.ordered(wide.index):
            cells = []
            for metric, _, better in shown:
                found = wide.get(metric, pd.Series(float("nan"), wide.index))
                column, value = found.drop(list(CONTROLS), errors="ignore"), found[method]
                best = column.min() if better == "lower" else column.max()
                cells.append(Cell("" if pd.isna(value) else f"{value:.3g}", bool(value == best)))
            lines.append(Line(method, cells))
        titles = [f"{words} ({'low' if better == 'lower' else 'high'} is better)" for _, words, better in shown]
        out.append(Means(dataset, split, titles, lines))
    return out
