"""Reading a mosaic, our own or one that someone else wrote."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.counts.matrix import check_structure, whole_numbers
from multivi_nf.errors import InputError
from multivi_nf.io.hdf5 import check_hdf5
from multivi_nf.modalities import MODALITIES
from multivi_nf.mosaic.parts import _words
from multivi_nf.mosaic.write import quiet

_OTHER_NAMES = {"gex": "rna", "gene expression": "rna", "peaks": "atac", "prot": "protein", "adt": "protein",
                "antibody capture": "protein"}  # fmt: skip


def read_mosaic(path: str | Path | mudata.MuData) -> mudata.MuData:
    """Read an h5mu as a mosaic.

    Of a file that someone else wrote only modalities with raw counts in `X` (or `layers["counts"]`) are asked for;
    it gets what ours have: `obs` `sample`, `batch` (from `obs` of the whole or the modalities, else one batch `all`),
    `has_rna`, `has_atac`, `has_protein`, `modality`; ATAC as 0/1 with counts in `layers["counts"]`; a panel.

    A cell is measured in a modality if and only if it is in that modality's AnnData. Rows of zeros are not guessed to
    be absent; when over half of a modality's rows are, a warning says so.

    Parameters
    ----------
    path
        The file, or a MuData in memory (which is not changed).

    Returns
    -------
    MuData with `rna`, `atac`, `protein`, those present, in that order, CSR counts.

    Raises
    ------
    InputError
        Not an h5mu, no known modality, values that are no counts, repeated names.
    """
    mosaic = path if isinstance(path, mudata.MuData) else _open(Path(path))
    if "multivi_nf" in mosaic.uns and "has_rna" in mosaic.obs:
        return mosaic
    found: dict[str, ad.AnnData] = {}
    for name, data in mosaic.mod.items():
        modality = _OTHER_NAMES.get(name.lower(), name.lower())
        if modality not in MODALITIES:
            continue
        if modality in found:
            raise InputError(f"two modalities of the MuData both mean {modality!r} (one of them is {name!r})",
                             "which one holds the counts cannot be known", "keep one, named " + modality)  # fmt: skip
        found[modality] = _standard(data, modality, name)
    if not found:
        raise InputError(
            f"the MuData has the modalities {', '.join(mosaic.mod) or 'none'}",
            "none of them is known as rna, atac or protein",
            "rename them, e.g. mdata.mod['rna'] = ...",
        )
    batch = _column(mosaic, "batch", "all")
    sample = _column(mosaic, "sample", None)
    with quiet(), mudata.set_options(pull_on_update=False):
        result = mudata.MuData({modality: found[modality] for modality in MODALITIES if modality in found})
        keep = [c for c in mosaic.obs if ":" not in str(c)]
        obs = mosaic.obs[keep].reindex(result.obs_names)
        obs["batch"] = pd.Categorical(batch.reindex(result.obs_names).astype(str))
        obs["sample"] = obs["batch"] if sample is None else pd.Categorical(sample.reindex(result.obs_names).astype(str))
        has = pd.DataFrame({m: np.zeros(result.n_obs, dtype=bool) for m in MODALITIES}, index=result.obs_names)
        for modality, data in found.items():
            has[modality] = result.obs_names.isin(data.obs_names)
        for modality in MODALITIES:
            obs[f"has_{modality}"] = has[modality]
        obs["modality"] = pd.Categorical(_words(has))
        result.obs = obs
        result.uns = dict(mosaic.uns)
    if "protein" in found and "panel" not in found["protein"].uns:
        result.mod["protein"].uns["panel"] = _panel(result)
    return result


def _open(path: Path) -> mudata.MuData:
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file", "there is nothing to read",
                         "give the path of a mosaic .h5mu")  # fmt: skip
    check_hdf5(path)
    try:
        with quiet(), mudata.set_options(pull_on_update=False):
            mosaic = mudata.read_h5mu(path)
    except Exception as error:  # anndata, mudata and h5py raise many kinds on damaged files; the cause is kept
        raise InputError(
            f"{path} cannot be read as .h5mu: {error}",
            "cells and counts are taken from it",
            "give a MuData file (mudata.MuData.write); for single matrices write a samplesheet and run the pipeline",
        ) from error
    # mudata turns whole float columns with gaps (counts of absent modalities) into nullable integers, which numpy
    # reads as objects
    for column in mosaic.obs.columns:
        dtype = mosaic.obs[column].dtype
        if pd.api.types.is_extension_array_dtype(dtype) and pd.api.types.is_numeric_dtype(dtype):
            mosaic.obs[column] = mosaic.obs[column].to_numpy(dtype=float, na_value=np.nan)
    return mosaic


def _standard(data: ad.AnnData, modality: str, name: str) -> ad.AnnData:
    _check_named(data, name)
    if modality == "protein" and data.var_names.str.contains("/").any():
        # a slash is a folder in HDF5, where proteins head the panel's columns; counts/ does the same
        data = ad.AnnData(data.X, data.obs, data.var.rename(_plain), dict(data.uns), layers=dict(data.layers))
        if isinstance(data.uns.get("panel"), pd.DataFrame):
            data.uns["panel"] = data.uns["panel"].rename(columns=_plain)
    for what, names in (("cell", data.obs_names), ("feature", data.var_names)):
        if not names.is_unique:
            raise InputError(
                f"modality {name!r} holds the {what} {names[names.duplicated()][0]!r} more than once",
                f"{what}s are matched by name",
                f"make the {what} names unique",
            )
    counts = _counts(data, name)
    empty = float((np.diff(counts.indptr) == 0).mean()) if counts.shape[0] else 0.0
    if empty > 0.5:
        warnings.warn(
            f"modality {name!r}: {empty:.0%} of its {counts.shape[0]} cells have no count. They are taken as measured"
            "; if the file was padded with zeros, drop those cells from this modality (mdata.mod[name][rows])",
            stacklevel=3,
        )
    var = data.var.copy()
    if "symbol" not in var:
        var.insert(0, "symbol", data.var_names.astype(str))
    result = ad.AnnData(counts, obs=pd.DataFrame(index=data.obs_names.astype(str)), var=var)
    if modality == "protein" and "panel" in data.uns:
        result.uns["panel"] = data.uns["panel"]
    if modality == "atac":
        result.layers["counts"] = counts
        ones = np.ones(counts.nnz, dtype=np.int8)
        result.X = sparse.csr_matrix((ones, counts.indices, counts.indptr), shape=counts.shape)
    return result


def _plain(name: str) -> str:
    return str(name).replace("/", "_")


def _check_named(data: ad.AnnData, name: str) -> None:
    for what, names in (("cell", data.obs_names), ("feature", data.var_names)):
        blank = np.flatnonzero([not str(one).strip() for one in names])
        if blank.size:
            raise InputError(
                f"modality {name!r}: {what} {blank[0] + 1} has no name",
                f"{what}s are matched by name",
                f"name it (mdata.mod[{name!r}].{'obs' if what == 'cell' else 'var'}_names), or leave it out",
            )


def _counts(data: ad.AnnData, name: str) -> sparse.csr_matrix:
    refusal = None
    for place, matrix in (("layers['counts']", data.layers.get("counts")), ("X", data.X)):
        if matrix is None:
            continue
        if sparse.issparse(matrix):
            check_structure(matrix, f"modality {name!r}, {place}")
        matrix = sparse.csr_matrix(matrix)
        try:
            values = whole_numbers(matrix.data, f"modality {name!r}, {place}")
        except InputError as error:
            refusal = error
            continue
        counts = sparse.csr_matrix((values, matrix.indices, matrix.indptr), shape=matrix.shape)
        if not counts.has_canonical_format or (counts.data == 0).any():
            counts = counts.copy()
            counts.sum_duplicates()
            counts.eliminate_zeros()
        return counts
    raise refusal or InputError(f"modality {name!r} has no X", "there are no counts", "put raw counts in X")


def _column(mosaic: mudata.MuData, column: str, default: str | None) -> pd.Series | None:
    if column in mosaic.obs:
        return mosaic.obs[column]
    found = [data.obs[column].astype(str) for data in mosaic.mod.values() if column in data.obs]
    if found:
        joined = pd.concat(found)
        joined = joined[~joined.index.duplicated()]
        return joined.reindex(mosaic.obs_names).fillna(default or "unknown")
    return None if default is None else pd.Series(default, index=mosaic.obs_names)


def _panel(mosaic: mudata.MuData) -> pd.DataFrame:
    """Panel of a file that has none: every protein in every batch that has protein cells."""
    protein = mosaic.mod["protein"]
    batch = mosaic.obs.loc[protein.obs_names, "batch"].astype(str)
    batches = mosaic.obs["batch"].cat.categories
    measured = np.isin(batches, batch.unique())
    return pd.DataFrame(np.repeat(measured[:, None], protein.n_vars, axis=1), index=batches, columns=protein.var_names)
