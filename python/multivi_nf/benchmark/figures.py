"""Drawings of the benchmark page: one colour and one sign a method, on every figure; error bars over seeds."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from multivi_nf.benchmark.panels import Panel
from multivi_nf.benchmark.plan import ABLATION, CONTROLS, METHODS, SETS_OF_RUNS
from multivi_nf.benchmark.scores import SHUFFLED
from multivi_nf.palette import colours_of
from multivi_nf.report.drawing import INK, MUTED, STYLE, svg

# Okabe and Ito's colours, told apart by the colour-blind; signs tell apart what shares one
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b59f00", "#a0614f")
SIGNS = ("o", "s", "^", "D", "v", "P", "X", "*")
_PEERS = tuple(m for m in METHODS if m not in ("multivi-nf", "scvi-multivi", *SETS_OF_RUNS))
NAMES = ("multivi-nf", "scvi-multivi", "scvi-multivi: defaults", *_PEERS, *ABLATION)


def ordered(methods: Iterable[str]) -> list[str]:
    """Methods in one order everywhere: ours, the peers, baselines and controls, variants of ours."""
    return sorted(methods, key=lambda name: (NAMES.index(name) if name in NAMES else len(NAMES), name))


def _look(method: str) -> tuple[int, int]:
    """Which colour, and how often it was given before; the first is ours alone."""
    place = NAMES.index(method) if method in NAMES else len(NAMES)
    again, colour = divmod(place - 1, len(COLOURS) - 1)
    return (0, 0) if place == 0 else (1 + colour, again)


def colour_of_method(method: str) -> str:
    """One colour a method; grey for controls."""
    return MUTED if method in CONTROLS else COLOURS[_look(method)[0]]


def sign_of(method: str) -> str:
    """One marker a method."""
    return SIGNS[sum(_look(method)) % len(SIGNS)]


def badge(method: str) -> str:
    """Its marker in its colour, an SVG for the legend: eight colours serve all methods, the sign tells apart."""
    mark = MarkerStyle(sign_of(method))
    path = mark.get_path().transformed(mark.get_transform())
    points = " ".join(f"{x:.2f},{-y:.2f}" for x, y in np.asarray(path.to_polygons(closed_only=True)[0]))
    shape = f'<polygon fill="{colour_of_method(method)}" points="{points}"/>'
    return f'<svg class="sign" viewBox="-0.6 -0.6 1.2 1.2" aria-hidden="true">{shape}</svg>'


def _of_method(method: str) -> dict[str, Any]:
    """How its points are drawn."""
    return {"color": colour_of_method(method), "marker": sign_of(method), "markersize": 4}


def metric(rows: pd.DataFrame, name: str, title: str, better: str, key: str) -> str:
    """One metric of one experiment, and its mean when shuffled: over the rate where splits are rates, else in dots."""
    of = rows[rows["metric"] == name]
    rates = of["split"].map(_rate)
    curves = rates.notna().all() and rates.nunique() > 1
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.3, 2.6 if curves else max(2.6, 0.6 + 0.45 * of["split"].nunique())))
        if curves:
            _curves(axes, of.assign(rate=rates))
        else:
            _dots(axes, of)
        chance = rows[rows["metric"] == f"{name}{SHUFFLED}"].dropna(subset=["value"])
        dotted: dict[str, Any] = {"color": INK, "linewidth": 1.3, "linestyle": (0, (1, 1.5))}
        if len(chance) and curves:  # of all methods' results, with pairs, cells or labels shuffled
            means = chance.assign(rate=chance["split"].map(_rate)).groupby("rate")["value"].mean()
            axes.plot(means.index, means, **dotted)
        elif len(chance):
            axes.axvline(chance["value"].mean(), **dotted)
        axes.set_title(f"{title} ({'low' if better == 'lower' else 'high'} is better)", loc="left")
    return svg(figure, key, f"{title} of every method")


def _rate(split: str) -> float:
    found = re.fullmatch(r"([\d.]+)% unpaired", split)
    return float(found.group(1)) if found else float("nan")


def _curves(axes: Axes, of: pd.DataFrame) -> None:
    for method in ordered(of["method"].unique()):
        one = of[of["method"] == method].groupby("rate")["value"].agg(["mean", "min", "max"])
        line = "--" if method in CONTROLS else ":" if method in ABLATION else "-"
        spans = [one["mean"] - one["min"], one["max"] - one["mean"]]
        how = _of_method(method)
        axes.errorbar(one.index, one["mean"], spans, label=method, linewidth=1.2, linestyle=line, elinewidth=0.8, **how)
    axes.set_xlabel("cells taken apart, %")


def _dots(axes: Axes, of: pd.DataFrame) -> None:
    """A row a method; of several splits a row a split, its methods below each other in their order."""
    methods, splits = ordered(of["method"].unique()), list(dict.fromkeys(of["split"]))
    several = len(splits) > 1
    rows = splits if several else methods
    for k, method in enumerate(methods):
        lower = 0.7 * (k / (len(methods) - 1) - 0.5) if several and len(methods) > 1 else 0.0
        for split, values in of[of["method"] == method].groupby("split", sort=False)["value"]:
            if values.notna().any():
                y = len(rows) - 1 - rows.index(str(split) if several else method) - lower
                axes.plot([values.min(), values.max()], [y, y], color=colour_of_method(method), linewidth=1)
                axes.plot([values.mean()], [y], linestyle="none", **_of_method(method))
    axes.set_yticks(range(len(rows)), [textwrap.fill(row, 22) for row in reversed(rows)])
    axes.set_ylim(-0.5, len(rows) - 0.5)
    for edge in np.arange(len(rows) - 1) + 0.5 if several else []:
        axes.axhline(edge, color=MUTED, alpha=0.25, linewidth=0.6)
    axes.grid(axis="x", color=MUTED, alpha=0.25, linewidth=0.6)


@dataclass(frozen=True)
class Panels:
    """Small figures of one kind, one a method, and what their colours mean: name and colour."""

    title: str
    legend: list[tuple[str, str]]
    figures: list[str]


def panels(experiment: int, drawn: list[Panel]) -> list[Panels]:
    """Maps (2) and log fold changes (4) of each method."""
    draw = {2: _maps, 4: _folds}.get(experiment)
    return draw(drawn) if draw and drawn else []


def _by_method(drawn: list[Panel]) -> list[Panel]:
    names = ordered({panel.method for panel in drawn})
    return sorted(drawn, key=lambda panel: (names.index(panel.method), panel.split.name))


def _small(method: str) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(2.3, 2.2))
    axes.set_title(method)
    return figure, axes


def _maps(drawn: list[Panel]) -> list[Panels]:
    out = []
    for column, words in (("source", "source"), ("modality", "modalities measured"), ("label", "label")):
        having = [panel for panel in _by_method(drawn) if panel.panel.x and getattr(panel.panel, column)]
        if not having:
            continue
        colours = colours_of(sorted({value for panel in having for value in getattr(panel.panel, column)}))
        pictures: list[str] = []
        for panel in having:
            values = getattr(panel.panel, column)
            mixed = np.random.default_rng(0).permutation(len(values))
            x, y = (np.asarray(getattr(panel.panel, axis))[mixed] for axis in "xy")
            with plt.rc_context(STYLE):
                figure, one = _small(panel.method)
                one.scatter(x, y, c=[colours[values[k]] for k in mixed], s=3, linewidth=0, rasterized=True)
                one.set(xticks=[], yticks=[])
            pictures.append(svg(figure, f"map-{column}-{len(pictures)}", f"UMAP of {panel.method} by {words}"))
        out.append(Panels(f"UMAP by {words}", list(colours.items()), pictures))
    return out


def risks(drawn: list[Panel]) -> list[str]:
    """Risk against coverage of imputed RNA and ATAC (3)."""
    first = {panel.method: panel.panel for panel in reversed(_by_method(drawn))}
    out = []
    for modality in ("rna", "atac"):
        having = {method: found for method, panel in first.items() if (found := getattr(panel, modality))}
        if not having:
            continue
        with plt.rc_context(STYLE):
            figure, axes = plt.subplots(figsize=(4.3, 2.6))
            for method, curves in having.items():
                for kind, line in (("sd", "-"), ("mean", ":")):
                    share, risk = np.asarray(getattr(curves, kind)).T
                    label = f"{method}, by {'its sd' if kind == 'sd' else 'sqrt(mean)'}"
                    axes.plot(share, risk, linestyle=line, color=colour_of_method(method), label=label)
                axes.axhline(curves.error, color=MUTED, linewidth=0.8)
            axes.set_xlabel("share of entries, the surest first")
            axes.set_title(f"Mean error against raw {modality.upper()}", loc="left")
            axes.legend(fontsize=7)
        out.append(svg(figure, f"risk-{modality}", f"Risk against coverage of imputed {modality.upper()}"))
    return out


def _folds(drawn: list[Panel]) -> list[Panels]:
    """Of the first type without RNA, as in the paper, and of the first without ATAC."""
    out = []
    for modality in ("rna", "atac"):
        having = [panel for panel in _by_method(drawn) if panel.split.name.endswith(f" without {modality}")]
        having = [panel for panel in having if panel.split.name == min(one.split.name for one in having)]
        first = {panel.method: panel for panel in reversed(having)}  # of the first seed
        pictures: list[str] = []
        for panel in _by_method(list(first.values())):
            with plt.rc_context(STYLE):
                figure, one = _small(panel.method)
                truth, estimate = panel.panel.truth, panel.panel.estimate
                one.scatter(truth, estimate, s=3, color=colour_of_method(panel.method), linewidth=0, rasterized=True)
                one.axline((0, 0), slope=1, color=INK, linewidth=0.5)
            said = f"Estimated against measured log fold changes of {panel.method}"
            pictures.append(svg(figure, f"folds-{modality}-{len(pictures)}", said))
        if having:
            name = having[0].split.name
            out.append(Panels(f"Log fold changes, {name}: estimated (up) against measured", [], pictures))
    return out


def cost(scored: pd.DataFrame) -> list[str]:
    """CPU seconds of each method on each split, and peak memory."""
    once = scored.drop_duplicates(["experiment", "dataset", "method", "split", "seed"])
    methods, out = ordered(once["method"].unique()), []
    for column, scale, title in (("cpu_seconds", 1, "CPU seconds"), ("peak_memory", 1e9, "Peak memory, GB")):
        with plt.rc_context(STYLE):
            figure, one = plt.subplots(figsize=(4.3, 0.6 + 0.22 * len(methods)))
            for k, method in enumerate(methods):
                values = once.loc[once["method"] == method, column].dropna() / scale
                one.plot(values, [len(methods) - 1 - k] * len(values), linestyle="none", **_of_method(method))
            one.set_yticks(range(len(methods)), methods[::-1])
            one.set_xscale("log")
            one.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            one.xaxis.set_minor_locator(NullLocator())
            one.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            one.set_title(title, loc="left")
        out.append(svg(figure, column.replace("_", "-"), f"{title} of every method"))
    return out
