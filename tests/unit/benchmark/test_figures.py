"""Figures of the benchmark page: methods told apart, chance where it lies, panels that do not cover each other."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from multivi_nf.benchmark import figures
from multivi_nf.benchmark.panels import Drawn, Identity, Panel


@pytest.fixture
def drawn(monkeypatch):
    """The figure instead of its SVG."""
    monkeypatch.setattr(figures, "svg", lambda figure, *_: figure)
    yield
    plt.close("all")


def rows(splits: dict[str, tuple[float, float]]) -> pd.DataFrame:
    table = [
        {"method": method, "split": split, "metric": metric, "value": value}
        for split, (own, shuffled) in splits.items()
        for method in ("ridge", "mofa")
        for metric, value in (("foscttm", own), ("foscttm_shuffled", shuffled + (method == "mofa")))
    ]
    return pd.DataFrame(table)


def test_no_two_methods_look_alike():
    looks = {(figures.colour_of_method(m), figures.sign_of(m)) for m in figures.NAMES}
    assert len(looks) == len(figures.NAMES)
    assert len({figures.badge(m) for m in figures.NAMES}) == len(figures.NAMES)
    assert [m for m in figures.NAMES if figures.colour_of_method(m) == figures.colour_of_method("multivi-nf")] == [
        "multivi-nf"
    ]
    assert figures.colour_of_method("mofa") in figures.badge("mofa")


def test_chance_is_that_of_each_rate(drawn):
    figure = figures.metric(rows({"25% unpaired": (0.1, 10), "75% unpaired": (0.3, 50)}), "foscttm", "t", "lower", "k")
    dotted = [line for line in figure.axes[0].lines if line.get_color() == figures.INK]
    assert len(dotted) == 1
    assert np.allclose(dotted[0].get_xdata(), [25, 75]) and np.allclose(dotted[0].get_ydata(), [10.5, 50.5])


def test_points_lie_inside_and_their_splits_are_named(drawn):
    axes = figures.metric(rows({"a": (0.1, 1), "b": (0.3, 1)}), "foscttm", "t", "lower", "k").axes[0]
    low, high = axes.get_ylim()
    points = {
        (line.get_marker(), *line.get_xydata()[0].tolist()) for line in axes.lines if line.get_linestyle() == "None"
    }
    assert len(points) == 4 and all(low < y < high for _, _, y in points)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["b", "a"]  # from below
    for method in ("ridge", "mofa"):  # a row a split, each method at its value in both
        own = {(x, round(y)) for sign, x, y in points if sign == figures.sign_of(method)}
        assert own == {(0.1, 1), (0.3, 0)}


def of(method: str, split: str, drawn: Drawn, seed: int = 0) -> Panel:
    return Panel({"method": method}, Identity(4, split, seed, "t"), drawn)


def test_maps_say_what_their_colours_mean(monkeypatch):
    monkeypatch.setattr(figures, "svg", lambda figure, name, said: said)
    cells = [
        Drawn(x=[0.0, 1.0], y=[0.0, 1.0], source=["s", "s"], modality=kinds) for kinds in (["rna", "atac"], ["rna"] * 2)
    ]
    source, modality = figures.panels(2, [of("mofa", "all", cells[0]), of("cobolt", "all", cells[1])])
    assert [name for name, _ in source.legend] == ["s"]
    assert [name for name, _ in modality.legend] == ["atac", "rna"] and len(dict(modality.legend).values()) == 2
    assert modality.figures == ["UMAP of cobolt by modalities measured", "UMAP of mofa by modalities measured"]
    plt.close("all")


def test_fold_changes_of_both_directions_are_shown_rna_first(monkeypatch):
    monkeypatch.setattr(figures, "svg", lambda figure, name, said: said.split()[-1])
    folds = Drawn(truth=[0.0, 1.0], estimate=[0.0, 1.0])
    given = [
        of(m, f"{t} without {what}", folds, seed)
        for what in ("atac", "rna")
        for t in "ab"
        for seed in (0, 1)
        for m in ("ridge", "mofa")
    ]
    rna, atac = figures.panels(4, given)
    assert "a without rna" in rna.title and "a without atac" in atac.title
    assert rna.figures == atac.figures == ["mofa", "ridge"]
    plt.close("all")
