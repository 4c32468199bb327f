"""One modality as the AnnData file that scanpy, cellxgene and R's readers expect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from multivi_nf.counts.given import SUFFIX
from multivi_nf.export.normalise import SCALES, log_normalised
from multivi_nf.io.files import written_whole
from multivi_nf.mosaic.rows import counts_of, runs
from multivi_nf.mosaic.write import MatrixWriter

if TYPE_CHECKING:
    from pathlib import Path

    from mudata import MuData

MOST_CELLS = 50_000
"""Up to so many cells the files are written unasked."""


def single_modality(mosaic: MuData, modality: str) -> ad.AnnData:
    """Make the AnnData of one modality but for its matrices of values: symbols as names, ids in a column.

    Parameters
    ----------
    mosaic
        After :func:`multivi_nf.export.modalities.fill_modalities`.
    modality
        "rna", "atac" or "protein".

    Returns
    -------
    AnnData (n_cells, n_features). `var_names`: the symbol, made unique by "-1", "-2" where it comes again; the
    feature's id stands in `var["gene_id"]` (`atac`: peaks keep their names). `obsm` holds no missing values.
    """
    data = mosaic.mod[modality]
    var = data.var.copy()
    if modality != "atac":
        ids = data.var_names.astype(str)
        symbols = var["symbol"].astype(str) if "symbol" in var else pd.Series(ids, index=data.var_names)
        names = np.where(symbols.isin(["", "nan"]), ids, symbols)
        var = var.rename(columns={"gene_id": f"gene_id{SUFFIX}"})
        var.insert(0, "gene_id", np.asarray(ids))
        var.index = ad.utils.make_index_unique(pd.Index(names.astype(str)))
    var.index.name = None
    for column in var.select_dtypes("object"):
        var[column] = var[column].fillna("").astype(str)
    obs = data.obs.copy()
    obs.index.name = None
    result = ad.AnnData(obs=obs, var=var)
    for key in data.obsm:
        values = np.asarray(data.obsm[key], dtype=np.float32)
        if np.isfinite(values).all():
            result.obsm[key] = values
    for key in data.obsp:
        result.obsp[key] = data.obsp[key]
    result.uns.update({key: value for key, value in data.uns.items() if key.endswith("_colors") or key == "neighbors"})
    result.uns["X_scale"] = SCALES[modality]
    return result


def write_h5ad(mosaic: MuData, folder: Path) -> list[Path]:
    """Write `<modality>.h5ad` of every modality into `folder`; the same bytes for the same mosaic.

    :func:`single_modality` with X log-normalised and counts in a layer, both written a run of cells at a time; their
    columns stand once in the file.
    """
    paths = []
    for modality, data in mosaic.mod.items():
        path = folder / f"{modality}.h5ad"
        with written_whole(path) as temporary:
            single_modality(mosaic, modality).write_h5ad(temporary, compression="gzip")
            with h5py.File(temporary, "r+") as file:
                counts = MatrixWriter(file["layers"], "counts", data.n_vars, np.int32)
                values = MatrixWriter(file, "X", data.n_vars, np.float32, places_of=counts)
                for _, rows in runs(counts_of(data)):
                    counts.append(rows.data, rows.indices, rows.indptr)
                    values.append(log_normalised(rows, modality).data, rows.indices, rows.indptr)
                counts.close()
                values.close()
        paths.append(path)
    return paths
