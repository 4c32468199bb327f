"""The report's figures, each as inline SVG."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from multivi_nf.palette import CATEGORIES, MISSING, colours_of, natural
from multivi_nf.report.drawing import ACCENT, DOTS, INK, MUTED, SECOND, panels_of, styled, svg
from multivi_nf.report.facts import Fragments
from multivi_nf.report.words import true_in


def colour_of(values: pd.Series) -> tuple[list[str], list[tuple[str, str, int]]]:
    """Colours of the cells, and the legend (label, colour, cells); every group has its own colour, in all figures.

    Cells without a value are grey and come last in the legend.
    """
    known = values.notna() & (values.astype(str) != "nan")
    words = values.astype(str)
    if isinstance(values.dtype, pd.CategoricalDtype):
        names = [str(name) for name in values.cat.categories if str(name) != "nan"]
    else:
        names = sorted(words[known].unique(), key=natural)
    colours = colours_of(names)
    counts = words[known].value_counts()
    legend = [(name, colours[name], int(counts[name])) for name in names if name in counts]
    if not known.all():
        legend.append(("no value", MISSING, int((~known).sum())))
    return [colours[word] if there else MISSING for word, there in zip(words, known)], legend


@styled
def umap(
    coordinates: np.ndarray, colours: list[str], name: str, description: str, groups: pd.Series | None = None
) -> str:
    """Scatter of all cells, drawn in a fixed shuffled order so that no group lies on top; `groups` are named on it."""
    figure, axes = plt.subplots(figsize=(4.6, 4.0))
    order = np.random.default_rng(0).permutation(len(coordinates))
    _dots(axes, coordinates[order], len(order), c=np.asarray(colours)[order])
    for group, rows in {} if groups is None else groups.groupby(groups, observed=True).indices.items():
        x, y = np.median(coordinates[rows], axis=0)
        axes.text(x, y, str(group), ha="center", va="center", fontsize=9, fontweight="bold", zorder=3)
    return _map(figure, axes, name, description)


@styled
def umap_of_numbers(coordinates: np.ndarray, values: np.ndarray, label: str, name: str) -> str:
    """Scatter of all cells by a number, with its scale; cells without one are grey, high values on top."""
    figure, axes = plt.subplots(figsize=(4.6, 4.0))
    known = np.isfinite(values)
    low, high = np.quantile(values[known], [0.01, 0.99])
    _dots(axes, coordinates[~known], len(values), c=MISSING)
    order = np.flatnonzero(known)[np.argsort(values[known], kind="stable")]
    scale = {"cmap": "viridis", "vmin": low, "vmax": max(high, low + 1e-12)}
    drawn = _dots(axes, coordinates[order], len(values), c=values[order], **scale)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.6, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(label)
    return _map(figure, axes, name, f"UMAP of all cells by {label}")


def _dots(axes: Axes, places: np.ndarray, n_cells: int, **how: Any) -> PathCollection:
    """Cells as dots, the smaller the more there are on the whole map."""
    size = float(np.clip(9000 / max(n_cells, 1), 0.3, 14))
    return axes.scatter(places[:, 0], places[:, 1], s=size, linewidths=0, rasterized=True, **how)


def _map(figure: Figure, axes: Axes, name: str, description: str) -> str:
    axes.set_axis_off()
    axes.set_aspect("equal", adjustable="datalim")
    figure.set_dpi(150)
    return svg(figure, name, description)


@styled
def composition(clusters: pd.Series, samples: pd.Series, name: str) -> str:
    """One bar a cluster, its parts the share of each sample, in the samples' colours."""
    table = pd.crosstab(clusters.astype(str), samples.astype(str))
    if isinstance(samples.dtype, pd.CategoricalDtype):
        names = [str(name) for name in samples.cat.categories]
    else:
        names = sorted(table.columns, key=natural)
    colours = colours_of(names)
    table = table.loc[sorted(table.index, key=natural), [name for name in names if name in table]]
    share = table.div(table.sum(axis=1), axis=0)
    figure, axes = plt.subplots(figsize=(7.5, 0.5 + 0.2 * len(table)))
    left = np.zeros(len(table))
    for sample in share:
        axes.barh(range(len(table)), share[sample], left=left, color=colours[sample], height=0.8)
        left += share[sample].to_numpy()
    axes.set_yticks(range(len(table)), [f"{c} ({int(table.loc[c].sum()):,})" for c in table.index])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the cluster's cells")
    axes.set_ylabel("cluster (cells)")
    return svg(figure, name, "samples in each cluster")


@styled
def training(history: pd.DataFrame, best: int | None) -> str:
    """Loss of training and validation by epoch, then every term of the objective."""
    terms = [c.removeprefix("validation_") for c in history if c.startswith("validation_") and c != "validation_loss"]
    terms = [t for t in [*terms, "adversary_accuracy", "learning_rate"] if t in history and history[t].notna().any()]
    figure, panels = panels_of(1 + len(terms), 4, 2.5, 1.9)
    epochs = history["epoch"]
    panels[0].plot(epochs, history["train_loss"], color=MUTED, lw=1.2, label="training")
    panels[0].plot(epochs, history["validation_loss"], color=ACCENT, lw=1.4, label="validation")
    if len(history) > 3:
        both = history[["train_loss", "validation_loss"]].iloc[min(len(history) // 10 + 1, 5) :].to_numpy(dtype=float)
        low, high = np.nanmin(both), np.nanmax(both)
        panels[0].set_ylim(low - 0.06 * (high - low + 1e-9), high + 0.1 * (high - low + 1e-9))
    panels[0].legend(fontsize=7)
    panels[0].set_title("loss per cell")
    for axes, term in zip(panels[1:], terms):
        axes.plot(epochs, history[term], color=MUTED, lw=1.0)
        if f"validation_{term}" in history:
            axes.plot(epochs, history[f"validation_{term}"], color=ACCENT, lw=1.2)
        axes.set_title(term.replace("_", " "))
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
        if best is not None:
            axes.axvline(best, color=SECOND, lw=0.9, ls=":")
    figure.tight_layout()
    return svg(figure, "training", "training and validation loss by epoch, and each term of the objective")


@styled
def distributions(
    values: dict[str, np.ndarray], removed: np.ndarray, thresholds: dict[str, list[float]], name: str
) -> str:
    """Histograms of QC values, kept and removed cells apart, with the thresholds that were applied."""
    figure, panels = panels_of(len(values), 4, 2.3, 1.6)
    for axes, (quantity, x) in zip(panels, values.items()):
        finite = np.isfinite(x)
        logged = bool(finite.any()) and np.nanmin(x[finite]) >= 0 and np.nanmax(x[finite]) > 50
        shown = np.log10(np.maximum(x, 0) + 1) if logged else x
        bins = np.histogram_bin_edges(shown[finite], 40).tolist() if finite.any() else 10
        axes.hist(shown[finite & ~removed], bins=bins, histtype="stepfilled", color=ACCENT, label="kept")
        axes.hist(shown[finite & removed], bins=bins, histtype="stepfilled", color=SECOND, alpha=0.75, label="removed")
        for threshold in (value for value in thresholds.get(quantity, []) if value > 0):  # 0: the rule is off
            axes.axvline(np.log10(threshold + 1) if logged else threshold, color=INK, lw=0.9, ls="--")
        axes.set_title(quantity.replace("_", " ") + (" (log10)" if logged else ""))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    if removed.any():
        panels[0].legend(fontsize=6.5)
    figure.tight_layout()
    return svg(figure, name, "distributions of quality values of kept and removed barcodes with thresholds")


@styled
def fragments(facts: Fragments, name: str) -> str | None:
    """Knee plot, TSS profile and fragment sizes of one sample, of those that were recorded."""
    recorded = (facts.knee, _knee), (facts.tss_profile, _tss_profile), (facts.sizes, _sizes)
    drawn = [draw for there, draw in recorded if there]
    if not drawn:
        return None
    figure, panels = panels_of(len(drawn), 3, 2.7, 1.9)
    for axes, draw in zip(panels, drawn):
        draw(axes, facts)
    figure.tight_layout()
    return svg(figure, name, "knee plot, TSS profile and fragment size distribution")


def _knee(axes: Axes, facts: Fragments) -> None:
    if facts.knee is not None:
        axes.loglog(facts.knee.rank, np.maximum(facts.knee.n_fragments, 1), color=ACCENT, lw=1.4)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axis.set_minor_formatter(matplotlib.ticker.LogFormatter())
    for threshold in {rule.threshold for rule in facts.rules if rule.rule in ("knee", "min_fragments")}:
        axes.axhline(float(str(threshold)), color=SECOND, lw=0.9, ls="--")
    axes.set_title("fragments by barcode rank")
    axes.set_xlabel("rank")


def _tss_profile(axes: Axes, facts: Fragments) -> None:
    profile = np.asarray(facts.tss_profile, dtype=float)
    width = min(25, len(profile))
    smooth = np.convolve(profile, np.ones(width) / width, mode="same")
    axes.plot(np.arange(len(profile)) - len(profile) // 2, smooth, color=ACCENT, lw=1.2)
    axes.set_title("cuts around TSS")
    axes.set_xlabel("bp from TSS")


def _sizes(axes: Axes, facts: Fragments) -> None:
    sizes = np.asarray(facts.sizes, dtype=float)
    axes.plot(np.arange(len(sizes) - 1), sizes[:-1] / max(sizes.sum(), 1), color=ACCENT, lw=1.0)
    axes.set_title("fragment size")
    axes.set_xlabel("bp")


@styled
def marker_dots(
    panels: list[tuple[str, pd.DataFrame, pd.DataFrame]], labels: dict[str, str], name: str, title: str
) -> str:
    """Markers (rows) by cluster: the colour is the mean, the area the share of the cluster's cells.

    Parameters
    ----------
    panels
        Heading, means and shares (0 to 1), each clusters × features, NaN for a cluster without cells. Colours go from
        each feature's lowest cluster to its highest within a panel.
    labels
        What stands beside a feature's row.
    """
    features, clusters = list(panels[0][1].columns), [str(c) for c in panels[0][1].index]
    height = 1.5 + 0.19 * len(features)
    width = 1.2 + max(0.26 * len(clusters) * len(panels), 2.4)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, height), sharey=True, squeeze=False)
    x, y = np.meshgrid(range(len(clusters)), range(len(features)))
    for panel, (heading, means, shares) in zip(axes[0], panels):
        values = means.to_numpy(dtype=float).T
        low, high = np.nanmin(values, 1, keepdims=True), np.nanmax(values, 1, keepdims=True)
        shades = np.ma.masked_invalid((values - low) / np.maximum(high - low, 1e-12))
        areas = 2 + 78 * np.clip(np.nan_to_num(shares.to_numpy(dtype=float).T), 0, 1)
        drawn = panel.scatter(x, y, s=areas, c=shades, cmap=DOTS, vmin=0, vmax=1, linewidths=0.3, edgecolors=MUTED)
        panel.set_title(heading)
        panel.set_xticks(range(len(clusters)), clusters, rotation=90, fontsize=7)
        panel.set_yticks(range(len(features)), [labels.get(f, f) for f in features], fontsize=7)
        panel.set_xlim(-0.7, len(clusters) - 0.3)
        panel.set_ylim(len(features) - 0.3, -0.7)
        panel.tick_params(length=0)
        panel.set_xlabel("cluster")
    figure.tight_layout()
    bar = figure.colorbar(drawn, ax=list(axes[0]), shrink=min(1.0, 1.4 / height), pad=0.02, ticks=[0, 1])
    bar.ax.set_yticklabels(["lowest cluster", "highest cluster"], fontsize=7)
    bar.outline.set_visible(False)
    keys = [plt.Line2D([], [], ls="", marker="o", color=MUTED, ms=np.sqrt(2 + 78 * s)) for s in (0.1, 0.5, 1.0)]
    figure.legend(
        keys,
        ["10 %", "50 %", "100 % of the cells"],
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=3,
        fontsize=7,
    )
    return svg(figure, name, title)


@styled
def volcano(table: pd.DataFrame, name: str) -> str:
    """Effect against evidence; credible intervals of the ten strongest features."""
    figure, axes = plt.subplots(figsize=(4.8, 2.9))
    evidence = -np.log10(np.maximum(1 - table["probability"].to_numpy(dtype=float), 1e-4))
    effect = table["effect"].to_numpy(dtype=float)
    called = true_in(table["significant"]).to_numpy()
    axes.scatter(effect[~called], evidence[~called], s=4, color=MUTED, alpha=0.5, linewidths=0, rasterized=True)
    axes.scatter(effect[called], evidence[called], s=6, color=ACCENT, linewidths=0, rasterized=True)
    top = np.flatnonzero(called)[:10]
    names = table["symbol"] if "symbol" in table else table["feature"]
    for k in top:
        if {"effect_lower", "effect_upper"} <= set(table):
            axes.plot(
                table[["effect_lower", "effect_upper"]].iloc[k], [evidence[k]] * 2, color=ACCENT, lw=0.6, alpha=0.7
            )
    _listed(figure, axes, [(str(names.iloc[k]), effect[k], evidence[k]) for k in top[:LABELS]])
    axes.set_xlabel("effect")
    axes.set_ylabel("evidence: -log10(1 - probability)")
    figure.set_dpi(150)
    figure.tight_layout()
    return svg(figure, name, "effect against evidence, significant features coloured")


LABELS = 8
NAME_SIZE = 7


def _listed(figure: Figure, axes: Axes, points: list[tuple[str, float, float]]) -> None:
    """Names in a list beside the plot, each with a line to its point, so that nothing is printed over a name.

    What is higher in the target stands to the right of the plot, what is lower to the left of its points, in a strip as
    wide as the names. Lines end at the names' edge; those that are shortest together cross no other.
    """
    left, right = axes.get_xlim()
    lower, higher = ([point for point in points if (point[1] < 0) == below] for below in (True, False))
    _beside(axes, higher, right + 0.04 * (right - left), "left")
    figure.tight_layout()
    if lower:
        strip = min(1.1 * max(_width(axes, name) for name, _, _ in lower) / axes.bbox.width + 0.1, 0.7)
        span = (right - left) / (1 - strip)
        axes.set_xlim(right - span, right)
        _beside(axes, lower, right - span + (strip - 0.08) * span, "right")
    else:
        axes.set_xlim(left, right)


def _beside(axes: Axes, points: list[tuple[str, float, float]], x: float, edge: str) -> None:
    """Write names of points one below the other, their `edge` at x."""
    low, high = axes.get_ylim()
    places = np.array([(x, high - (k + 0.5) * (high - low) / LABELS) for k in range(LABELS)])
    at = np.array([point[1:] for point in points]).reshape(-1, 2)
    far = cdist(axes.transData.transform(at), axes.transData.transform(places))
    arrow = {"arrowstyle": "-", "lw": 0.5, "color": MUTED, "shrinkA": 1, "shrinkB": 2}
    arrow["relpos"] = (0 if edge == "left" else 1, 0.5)
    for point, place in zip(*linear_sum_assignment(far)):
        axes.annotate(
            points[point][0],
            at[point],
            places[place],
            fontsize=NAME_SIZE,
            ha=edge,
            va="center",
            annotation_clip=False,
            arrowprops=arrow,
        )


def _width(axes: Axes, name: str) -> float:
    """Of a name, in pixels of the figure."""
    text = axes.text(0, 0, name, fontsize=NAME_SIZE)
    width = text.get_window_extent().width
    text.remove()
    return float(width)


@styled
def effects_compared(observed: pd.Series, imputed: pd.Series, name: str) -> str:
    """Effect on observed cells against the effect on imputed cells of the same contrast."""
    figure, axes = plt.subplots(figsize=(2.7, 2.6))
    axes.scatter(observed, imputed, s=4, color=ACCENT, alpha=0.5, linewidths=0, rasterized=True)
    ends = [float(np.nanmin([observed.min(), imputed.min()])), float(np.nanmax([observed.max(), imputed.max()]))]
    axes.plot(ends, ends, color=INK, lw=0.7, ls=":")
    axes.set_xlabel("effect, observed cells")
    axes.set_ylabel("effect, imputed cells")
    figure.tight_layout()
    return svg(figure, name, "effects of the same contrast on observed and on imputed cells")


@styled
def calibration_curve(curves: dict[str, list[list[float]]]) -> str:
    """Coverage of held-out counts against nominal level, before and after calibration."""
    figure, axes = plt.subplots(figsize=(3.0, 2.7))
    axes.plot([0, 1], [0, 1], color=INK, lw=0.7, ls=":")
    for (label, points), colour in zip(curves.items(), CATEGORIES):
        nominal, covered = np.asarray(points, dtype=float).T
        axes.plot(
            nominal,
            covered,
            marker="o",
            ms=3,
            lw=1.2,
            color=colour,
            label=label,
            ls="--" if "before" in label else "-",
        )
    axes.set_xlabel("nominal")
    axes.set_ylabel("covered")
    axes.legend(fontsize=6.5)
    figure.tight_layout()
    return svg(figure, "calibration", "coverage of held-out counts against the nominal level")


@styled
def risk_coverage(curve: list[list[float]], baseline: list[list[float]], name: str) -> str:
    """Mean error of the entries kept when the least certain are left out."""
    figure, axes = plt.subplots(figsize=(3.0, 2.7))
    axes.plot(*np.asarray(curve, dtype=float).T, color=ACCENT, lw=1.4, label="ranked by posterior sd")
    if baseline:
        axes.plot(
            *np.asarray(baseline, dtype=float).T, color=MUTED, lw=1.2, ls="--", label="ranked by the predicted mean"
        )
    axes.set_xlabel("share of entries kept")
    axes.set_ylabel("mean error")
    axes.legend(fontsize=6.5)
    figure.tight_layout()
    return svg(figure, name, "mean error of the entries kept against the share kept")
