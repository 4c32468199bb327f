"""Drawings of the benchmark page: one colour and one sign a method, on every figure; error bars over seeds."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
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
from multivi_nf.report.drawing import INK, MUTED, STYLE, panels_of, svg

# Okabe and Ito's colours, told apart by the colour-blind; signs tell apart what shares one
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b59f00", "#8c564b")
SIGNS = ("o", "s", "^", "D", "v", "P", "X", "*")
_PEERS = tuple(m for m in METHODS if m not in ("multivi-nf", "scvi-multivi", *SETS_OF_RUNS))
NAMES = ("multivi-nf", "scvi-multivi", "scvi-multivi: defaults", *_PEERS, *ABLATION)


def ordered(methods: Iterable[str]) -> list[str]:
    """Methods in one order everywhere: ours, the peers, baselines and controls, variants of ours."""
    return sorted(methods, key=lambda name: (NAMES.index(name) if name in NAMES else len(NAMES), name))


def colour_of_method(method: str) -> str:
    """One colour a method; grey for controls."""
    if method in CONTROLS:
        return MUTED
    place = NAMES.index(method) if method in NAMES else len(NAMES)
    return COLOURS[place % len(COLOURS)]


def sign_of(method: str) -> str:
    """One marker a method."""
    place = NAMES.index(method) if method in NAMES else len(NAMES)
    return SIGNS[(place + place // len(COLOURS)) % len(SIGNS)]


def badge(method: str) -> str:
    """Its marker in its colour, an SVG for the legend: eight colours serve fourteen methods, the sign tells apart."""
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
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.3, 2.6))
        curves = rates.notna().all() and rates.nunique() > 1
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
    methods = ordered(of["method"].unique())
    splits = list(dict.fromkeys(of["split"]))
    for k, method in enumerate(methods):
        one = of[of["method"] == method]
        means = one.groupby("split", sort=False)["value"].mean()
        y = len(methods) - 1 - k
        offset = np.linspace(-0.25, 0.25, len(splits)) if len(splits) > 1 else [0.0]
        for split, shift in zip(splits, offset):
            values = one.loc[one["split"] == split, "value"].dropna()
            if len(values):
                axes.plot([values.min(), values.max()], [y + shift] * 2, color=colour_of_method(method), linewidth=1)
        axes.plot(means.reindex(splits), y + np.asarray(offset), linestyle="none", **_of_method(method))
    axes.set_yticks(range(len(methods)), methods[::-1])
    axes.set_ylim(-0.5, len(methods) - 0.5)
    if len(splits) > 1:
        axes.set_xlabel(textwrap.fill(f"each from below: {'; '.join(splits)}", 70), fontsize=7)
    axes.grid(axis="x", color=MUTED, alpha=0.25, linewidth=0.6)


def panels(experiment: int, drawn: list[Panel]) -> list[str]:
    """Maps (2), risk against coverage (3), fold changes (4) of each method."""
    draw = {2: _maps, 3: _risks, 4: _folds}.get(experiment)
    return draw(drawn) if draw and drawn else []


def _by_method(drawn: list[Panel]) -> list[Panel]:
    names = ordered({panel.method for panel in drawn})
    return sorted(drawn, key=lambda panel: (names.index(panel.method), panel.split.name))


def _grid(n: int, title: str) -> tuple[Figure, list[Axes]]:
    figure, axes = panels_of(n, 4, 2.3, 2.2)
    figure.tight_layout(w_pad=2, h_pad=1.5)  # panels' own titles and ticks keep clear of each other
    figure.text(0.02, 1 + 0.1 / figure.get_figheight(), title, ha="left", va="bottom", fontsize=9)
    return figure, axes


def _maps(drawn: list[Panel]) -> list[str]:
    out = []
    for column in ("source", "modality", "label"):
        having = [panel for panel in _by_method(drawn) if panel.panel.x and getattr(panel.panel, column)]
        if not having:
            continue
        with plt.rc_context(STYLE):
            figure, axes = _grid(len(having), f"UMAP by {column}")
            for panel, one in zip(having, axes):
                values = getattr(panel.panel, column)
                colours = colours_of(sorted(set(values)))
                mixed = np.random.default_rng(0).permutation(len(values))
                x, y = (np.asarray(getattr(panel.panel, axis))[mixed] for axis in "xy")
                one.scatter(x, y, c=[colours[values[k]] for k in mixed], s=3, linewidth=0, rasterized=True)
                one.set(xticks=[], yticks=[], title=panel.method)
        out.append(svg(figure, f"map-{column}", f"UMAP of every method by {column}"))
    return out


def _risks(drawn: list[Panel]) -> list[str]:
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
            axes.set_title(f"Mean error against raw {modality}", loc="left")
            axes.legend(fontsize=7)
        out.append(svg(figure, f"risk-{modality}", f"Risk against coverage of imputed {modality}"))
    return out


def _folds(drawn: list[Panel]) -> list[str]:
    largest = _by_method(drawn)[0].split.name
    having = {p.method: p.panel for p in _by_method(drawn) if p.split.name == largest}
    with plt.rc_context(STYLE):
        figure, axes = _grid(len(having), f"Log fold changes, {largest}: estimated against measured")
        for (method, panel), one in zip(having.items(), axes):
            one.scatter(panel.truth, panel.estimate, s=3, color=colour_of_method(method), linewidth=0)
            one.axline((0, 0), slope=1, color=INK, linewidth=0.5)
            one.set_title(method)
    return [svg(figure, "folds", "Estimated against measured log fold changes of every method")]


def cost(scored: pd.DataFrame) -> str:
    """CPU seconds of each method on each split, and peak memory."""
    once = scored.drop_duplicates(["experiment", "dataset", "method", "split", "seed"])
    methods = ordered(once["method"].unique())
    with plt.rc_context(STYLE):
        figure, both = plt.subplots(1, 2, figsize=(8.6, 0.6 + 0.22 * len(methods)), sharey=True)
        for column, scale, title, one in (
            ("cpu_seconds", 1, "CPU seconds", both[0]),
            ("peak_memory", 1e9, "peak memory, GB", both[1]),
        ):
            for k, method in enumerate(methods):
                values = once.loc[once["method"] == method, column].dropna() / scale
                y = [len(methods) - 1 - k] * len(values)
                one.plot(values, y, linestyle="none", **_of_method(method))
            one.set_yticks(range(len(methods)), methods[::-1])
            one.set_xscale("log")
            one.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            one.xaxis.set_minor_locator(NullLocator())
            one.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            one.set_title(title, loc="left")
    return svg(figure, "cost", "CPU seconds and peak memory of every method")
