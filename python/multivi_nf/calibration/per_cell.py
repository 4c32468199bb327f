"""What stands in `obs` of every cell about its imputed values: out of support, support_p, calibrated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from multivi_nf.calibration.stored import Calibration
    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI


def support_columns(
    calibration: Calibration, modalities: tuple[str, ...], data: MosaicData, model: MultiVI | None = None
) -> pd.DataFrame:
    """Judge each cell by all modalities that it lacks.

    Parameters
    ----------
    calibration, modalities
        Of the model.
    data
        The cells in its terms.
    model
        Whose view of the cells tells of their support too; None: counts alone.

    Returns
    -------
    One row a cell: `out_of_support` (True where any missing modality says so, False where every one was checked and
    none does), `support_p` (the smallest), `calibrated` (the directions of all missing modalities are). Missing where
    nothing was checked: nothing has to be imputed, or no reference is stored.
    """
    n = data.n_cells
    outside, checked, lacking = np.zeros(n, bool), np.ones(n, bool), np.zeros(n, bool)
    calibrated, p = np.ones(n, bool), np.full(n, np.nan)
    for target in modalities:
        cells = np.flatnonzero(~data.has[target]) if target in data.has else np.arange(n)
        if not len(cells):
            continue
        found = calibration.assess(data, cells, target, model)
        lacking[cells] = True
        outside[cells] |= found.outside
        checked[cells] &= np.isfinite(found.support_p)
        p[cells] = np.fmin(p[cells], found.support_p)
        calibrated[cells] &= found.cell_calibrated
    return pd.DataFrame(
        {
            "out_of_support": nullable(outside, lacking & (checked | outside)),
            "support_p": p,
            "calibrated": nullable(calibrated, lacking),
        },
        index=data.cells,
    )


def nullable(values: np.ndarray, known: np.ndarray) -> pd.arrays.BooleanArray:
    """Booleans that are missing where they are not known."""
    return pd.arrays.BooleanArray(values & known, ~known)
