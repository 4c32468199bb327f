import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.regulation import units
from multivi_nf.regulation.units import centred, make_units


def names(n):
    return pd.Index([f"s:{k}" for k in range(n)])


def test_few_cells_stand_for_themselves():
    cells = names(50)
    found = make_units(cells, np.zeros((50, 2)), pd.Series("a", index=cells))
    assert not found.metacells and found.unit.tolist() == list(range(50))
    counts = sparse.csr_matrix(np.eye(50))
    assert found.summed(counts) is counts


def test_metacells_hold_neighbours_of_one_donor(monkeypatch):
    monkeypatch.setattr(units, "SINGLE", 100)
    monkeypatch.setattr(units, "MOST", 8)
    rng = np.random.default_rng(0)
    cells = names(400)
    place = rng.integers(0, 4, 400)
    donor = pd.Series(np.where(np.arange(400) < 200, "a", "b"), index=cells)
    found = make_units(cells, np.eye(4)[place] * 10 + rng.normal(0, 0.1, (400, 4)), donor)
    assert len(found.stratum) == 8 and found.metacells
    for unit in range(8):
        own = found.unit == unit
        assert len(set(place[own])) == 1 and len(set(donor[own])) == 1


def test_sums_and_means_are_over_the_cells_of_a_unit(monkeypatch):
    monkeypatch.setattr(units, "SINGLE", 2)
    found = units.Units(names(4), np.array([0, 1, 0, 1]), np.array([0, 0]))
    values = np.arange(8.0).reshape(4, 2)
    assert found.summed(sparse.csr_matrix(values)).toarray().tolist() == [[4, 6], [8, 10]]
    assert found.mean(values).tolist() == [[2, 3], [4, 5]]


def test_cells_without_a_donor_are_a_stratum():
    cells = names(4)
    found = make_units(cells, None, pd.Series(["a", None, "a", None], index=cells))
    assert found.stratum[0] == found.stratum[2] != found.stratum[1] == found.stratum[3]


def test_centring_takes_off_what_differs_between_strata():
    values = np.array([[1.0], [3.0], [10.0], [14.0]])
    assert centred(values, np.array([0, 0, 1, 1])).ravel().tolist() == [-1, 1, -2, 2]
