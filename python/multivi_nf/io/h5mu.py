"""Reading MuData files so that the modalities' own tables stay in the modalities."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import mudata


def read_h5mu(path: Path, **options: Any) -> mudata.MuData:
    """Read an h5mu; `obs` and `var` of the whole hold what the file's hold, nothing pulled in from the modalities.

    mudata 0.3 without pulling cannot join tables whose index has a name ("barcode", "cell_id"): such files are read
    with pulling, and what was pulled is left out again.

    Parameters
    ----------
    path
        The file.
    options
        Of :func:`mudata.read_h5mu`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            with mudata.set_options(pull_on_update=False):
                return mudata.read_h5mu(path, **options)
        except ValueError as error:
            if "no overlapping index names" not in str(error):
                raise
        with mudata.set_options(pull_on_update=None):
            cells = mudata.read_h5mu(path, **options)
    prefixes = tuple(f"{modality}:" for modality in cells.mod)
    with mudata.set_options(pull_on_update=False):
        cells.obs = cells.obs[[column for column in cells.obs if not str(column).startswith(prefixes)]]
        cells.var = cells.var[[column for column in cells.var if not str(column).startswith(prefixes)]]
    return cells
