"""Columns of every cell on its support: missing where it was not checked."""

from __future__ import annotations

import numpy as np
import pytest

from multivi_nf.calibration.entries import Direction
from multivi_nf.calibration.stored import Calibration, support_columns
from multivi_nf.data.mosaic_data import MosaicData


class Fake:
    """A support that knows rna -> atac only, and finds every second cell outside."""

    level = 0.05

    def knows(self, sources: str, target: str) -> bool:
        return target == "atac" and "rna" in sources

    def score(self, data, index, sources, target, model=None):
        return np.where(np.arange(len(index)) % 2 == 0, 0.01, 0.6), np.ones(len(index))


def test_columns_judge_a_cell_by_what_it_lacks(model, mosaic):
    data = MosaicData(mosaic, model)
    entry = Direction(True, temperature=1.0)
    known = Calibration(calibrated=True, directions={"rna->atac": entry, "rna->protein": entry}, support=Fake())
    found = support_columns(known, model.modalities, data)
    has = {m: data.has[m] for m in model.modalities}
    rna_only = has["rna"] & ~has["atac"] & ~has["protein"]
    atac_only = has["atac"] & ~has["rna"]
    whole = has["rna"] & has["atac"] & has["protein"]
    both = has["rna"] & has["atac"] & ~has["protein"]
    assert found.index.equals(data.cells)
    # nothing to impute: nothing was checked
    assert found.loc[whole, ["out_of_support", "support_p", "calibrated"]].isna().all(axis=None)
    # ATAC of RNA cells was checked, protein was not: True where it says so, else unknown, never False
    values = found.loc[rna_only, "out_of_support"]
    assert values.dropna().all() and values.isna().sum() == rna_only.sum() // 2
    assert found.loc[rna_only, "support_p"].tolist()[:2] == [0.01, 0.6]
    assert found.loc[rna_only, "calibrated"].all()
    assert found.loc[atac_only, "out_of_support"].isna().all() and not found.loc[atac_only, "calibrated"].any()
    assert found.loc[both, "out_of_support"].isna().all() and found.loc[both, "support_p"].isna().all()


def test_false_is_said_where_all_that_lacks_was_checked(model, mosaic):
    data = MosaicData(mosaic, model)
    support = Fake()
    support.knows = lambda sources, target: True
    found = support_columns(Calibration(calibrated=True, support=support), model.modalities, data)
    lacking = ~(data.has["rna"] & data.has["atac"] & data.has["protein"])
    assert found.loc[lacking, "out_of_support"].notna().all()
    assert (~found.loc[lacking, "out_of_support"].astype(bool)).any()
    assert found["out_of_support"].isna().sum() == (~lacking).sum()


def test_without_calibration_nothing_is_checked_and_it_is_written(model, mosaic, tmp_path):
    import mudata

    found = support_columns(Calibration.none(), model.modalities, MosaicData(mosaic, model))
    assert found["out_of_support"].isna().all() and found["support_p"].isna().all()
    assert not found["calibrated"].fillna(False).any()
    stored = mosaic.copy()
    for column in found:
        stored.obs[column] = found[column].array
    stored.write_h5mu(tmp_path / "x.h5mu")
    again = mudata.read_h5mu(tmp_path / "x.h5mu").obs
    assert again["out_of_support"].isna().all() and again["support_p"].dtype == np.float64
    assert again["calibrated"].isna().sum() == pytest.approx(found["calibrated"].isna().sum())


def test_error_bars_that_too_few_pairs_could_check_are_wide_and_not_narrow(model, mosaic):
    data = MosaicData(mosaic, model)
    few = Direction(False, 19)
    cells = np.flatnonzero(data.has["atac"] & ~data.has["rna"])
    found = Calibration(n_pairs=19, directions={"atac->rna": few}).assess(data, cells, "rna")
    assert not found.cell_calibrated.any()
    [(rows, _, sd)] = found.mean_error
    assert len(rows) == len(cells) and sd.min() >= 0.4
    assert not Calibration.none().assess(data, cells, "rna").mean_error, "nothing was asked of a calibration"
