"""Figures of the benchmark page: methods told apart, chance where it lies, panels that do not cover each other."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from multivi_nf.benchmark import figures


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
    assert figures.colour_of_method("mofa") in figures.badge("mofa")


def test_chance_is_that_of_each_rate(drawn):
    figure = figures.metric(rows({"25% unpaired": (0.1, 10), "75% unpaired": (0.3, 50)}), "foscttm", "t", "lower", "k")
    dotted = [line for line in figure.axes[0].lines if line.get_color() == figures.INK]
    assert len(dotted) == 1
    assert np.allclose(dotted[0].get_xdata(), [25, 75]) and np.allclose(dotted[0].get_ydata(), [10.5, 50.5])


def test_points_lie_inside_and_their_splits_are_named(drawn):
    axes = figures.metric(rows({"a": (0.1, 1), "b": (0.3, 1)}), "foscttm", "t", "lower", "k").axes[0]
    low, high = axes.get_ylim()
    points = [y for line in axes.lines if line.get_linestyle() == "None" for y in line.get_ydata()]
    assert len(points) == 4 and all(low < y < high for y in points)
    assert axes.get_xlabel() == "each from below: a; b"
