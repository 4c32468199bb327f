"""Where pairs are rare among a cell's neighbours, it is out of support."""

from __future__ import annotations

import numpy as np
import pytest

from multivi_nf.calibration.paired_share import EXPECTED, PairedShare


def made(n: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of three types a standard deviation and a half apart, types, who is paired: none of the third."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n)
    centres = np.array([[0.0, 0, 0, 0], [1.5, 0, 0, 0], [0, 1.5, 0, 0]])
    return centres[kind] + rng.normal(size=(n, 4)), kind, (kind < 2) & (rng.random(n) < 0.5)


def test_a_type_without_pairs_is_told_though_it_overlaps_others():
    places, kind, paired = made()
    held = np.flatnonzero(paired)[::5]
    kept = np.setdiff1d(np.arange(len(places)), held)
    found = PairedShare.fit(places[kept], paired[kept], places[held])
    lone = np.flatnonzero(~paired)
    p = found.p(found.shares(places[lone]))
    strange = kind[lone] == 2
    assert (p[~strange] <= 0.05).mean() < 0.09
    assert (p[strange] <= 0.05).mean() > 0.35
    wide = found.widening(found.shares(places[lone]))
    assert wide[strange].mean() > wide[~strange].mean() and wide.min() == 1


def test_where_pairs_are_everywhere_p_values_are_uniform():
    rng = np.random.default_rng(1)
    places, paired = rng.normal(size=(4000, 5)), rng.random(4000) < 0.3
    held = np.flatnonzero(paired)[::3]
    kept = np.setdiff1d(np.arange(4000), held)
    found = PairedShare.fit(places[kept], paired[kept], places[held])
    p = found.p(found.shares(places[~paired]))
    for level in (0.05, 0.2, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=0.05)


def test_shares_are_those_of_the_nearest_others():
    # on a line, paired cells left of 0: a cell among them has paired neighbours alone, itself not counted
    places = np.linspace(-1, 1, 401)[:, None]
    found = PairedShare(places, places[:, 0] < 0, np.array([0.2, 0.4]))
    sizes = found.sizes()
    assert sizes.tolist() == [50, 100]  # of 25, 50, 100 and 200 pairs at a half: the last are a quarter of all cells
    # the cell at 0 is its own neighbour at distance 0 and left out: half of the others lie on either side
    np.testing.assert_allclose(found.shares(np.array([[-0.9], [0.0], [0.9]])), [1, 0.5, 0])
    np.testing.assert_allclose(found.p(np.array([0.1, 0.2, 0.3, 0.5])), [1 / 3, 2 / 3, 2 / 3, 1])


@pytest.mark.parametrize(("share", "n"), [(0.5, 10_000), (0.05, 10_000), (0.5, 40)])
def test_neighbourhoods_hold_so_many_pairs_and_never_most_cells(share, n):
    found = PairedShare(np.zeros((n, 2)), np.arange(n) < share * n, np.zeros(1))
    assert found.sizes()[-1] <= n / 4
    if n > 40:
        assert found.sizes()[0] == round(EXPECTED[0] / share)
