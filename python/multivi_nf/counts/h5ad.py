"""AnnData `.h5ad`: finds the raw counts, wherever they were put."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem
from scipy import sparse

from multivi_nf.counts.features import is_ensembl, parse_peak
from multivi_nf.counts.matrix import (
    RawMatrix,
    check_structure,
    damaged,
    looks_raw,
    open_hdf5,
    raw_refused,
    whole_numbers,
)
from multivi_nf.errors import InputError
from multivi_nf.inputs.barcodes import check_barcodes

_COUNT_LAYERS = ("counts", "raw_counts", "count", "raw", "umi", "UMIs")
_ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl", "ensembl_ids", "feature_id", "id")
_NAME_COLUMNS = ("symbol", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "feature_name", "name")
_TYPE_COLUMNS = ("feature_types", "feature_type")


def read_h5ad(path: Path, cells: list[str] | None) -> RawMatrix:
    """Read counts, names and cell annotation of an `.h5ad`.

    Candidates for the counts, in this order: `layers["counts"]` (and a few spellings of it), `X`, `raw.X`. The first
    that holds whole numbers ≥ 0 is taken and named in the notes; where there is none, the message says for each what
    it holds.

    Raises
    ------
    InputError
        No candidate holds counts; or the file is not AnnData, or damaged.
    """
    with open_hdf5(path) as file:
        if "mod" in file and "obsmap" in file:
            raise InputError(
                f"{path} is a MuData (.h5mu) file",
                "a samplesheet column takes one modality",
                "write each modality to its own .h5ad, or give the file to `multivi-nf train` directly",
            )
        if "obs" not in file or "var" not in file:
            raise InputError(
                f"{path} holds {', '.join(file) or 'nothing'}, not the obs and var of AnnData",
                "cells and features have no names",
                "write it with anndata (write_h5ad); a 10x file is named .h5",
            )
        try:
            return _read(file, path, cells)
        except InputError:
            raise
        except Exception as error:  # anndata and h5py raise many kinds on damaged files; the cause is kept
            raise damaged(path, error) from error


def _read(file: h5py.File, path: Path, cells: list[str] | None) -> RawMatrix:
    obs = read_elem(file["obs"])
    obs.index = obs.index.astype(str)
    barcodes = obs.index.tolist()
    check_barcodes(barcodes, str(path))
    matrix, place, notes = _counts(file, path)
    var = read_elem(file[place.removesuffix("/X") + "/var" if place.startswith("raw") else "var"])
    if matrix.shape != (len(obs), len(var)):
        raise InputError(
            f"{path}: {place} is {matrix.shape[0]} × {matrix.shape[1]} with {len(obs)} cells and {len(var)} features",
            "counts would be given to the wrong cells or genes",
            "the file is damaged; write it again",
        )
    if cells is None:
        reason = looks_raw(np.diff(matrix.indptr), matrix.shape[1])
        if reason is None and "is_cell" in obs and not obs["is_cell"].astype(float).astype(bool).all():
            reason = "obs['is_cell'] is 0 for some barcodes"
        if reason is not None:
            raise raw_refused(path, reason)
    else:
        keep = set(cells)
        rows = np.array([i for i, barcode in enumerate(barcodes) if barcode in keep], dtype=np.int64)
        matrix, obs, barcodes = matrix[rows], obs.iloc[rows], [barcodes[i] for i in rows]
    ids, names = _names(var)
    types = next((var[c].astype(str).tolist() for c in _TYPE_COLUMNS if c in var), None)
    return RawMatrix(matrix, barcodes, ids, names, types, f"{path} ({place})", obs, notes)


def _counts(file: h5py.File, path: Path) -> tuple[sparse.csr_matrix, str, list[str]]:
    layers = [name for name in _COUNT_LAYERS if "layers" in file and name in file["layers"]]
    places = [f"layers/{name}" for name in layers] + ["X"] * ("X" in file)
    places += ["raw/X"] * ("raw" in file and "X" in file["raw"])
    refusals = []
    for place in places:
        try:
            matrix = _as_counts(file[place], f"{path}, {place}")
        except InputError as error:
            refusals.append((place, error))
            continue
        other = [p for p in places if p != place]
        notes = [f"{path}: counts taken from {place} (also there: {', '.join(other)})"] if other else []
        return matrix, place, notes
    if len(refusals) == 1:
        raise refusals[0][1]
    found = "; ".join(error.what.removeprefix(f"{path}, ") for _place, error in refusals) or "no matrix"
    others = [name for name in file.get("layers", ()) if f"layers/{name}" not in places]
    more = f" (other layers: {', '.join(others)})" if others else ""
    raise InputError(
        f"{path} holds raw counts in none of X, layers['counts'], raw: {found}{more}",
        "the model's likelihoods are those of molecule counts",
        "put the raw counts in layers['counts'] or X and write the file again",
    )


def _as_counts(item: h5py.Dataset | h5py.Group, source: str) -> sparse.csr_matrix:
    matrix = read_elem(item)
    if sparse.issparse(matrix):
        check_structure(matrix, source)
        matrix = matrix.tocsr()
        data = whole_numbers(matrix.data, source)
        counts = sparse.csr_matrix((data, matrix.indices, matrix.indptr), shape=matrix.shape)
    elif isinstance(matrix, np.ndarray) and matrix.ndim == 2:
        whole_numbers(matrix.ravel(), source)
        counts = sparse.csr_matrix(np.rint(matrix).astype(np.int32))
    else:
        raise InputError(f"{source}: {type(matrix).__name__} is not a matrix", "there are no counts", "write it again")
    if counts.nnz == 0 or counts.data.max(initial=0) == 0:
        raise InputError(f"{source}: every value is 0", "nothing was measured", "check how the file was written")
    return counts


def _names(var: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Ids and symbols of features, from the index and the columns in which tools put them."""
    index = var.index.astype(str).tolist()
    identifier = next((c for c in _ID_COLUMNS if c in var and _identifies(var[c])), None)
    name = next((c for c in _NAME_COLUMNS if c in var and c != identifier and var[c].notna().any()), None)
    ids = index if identifier is None else _filled(var[identifier], index)
    names = index if name is None else _filled(var[name], index)
    return ids, names


def _identifies(column: pd.Series) -> bool:
    values = column.dropna().astype(str).tolist()[:2000]
    return sum(is_ensembl(value) or parse_peak(value) is not None for value in values) > len(values) / 2


def _filled(column: pd.Series, index: list[str]) -> list[str]:
    return [str(v) if pd.notna(v) and str(v) else own for v, own in zip(column.tolist(), index)]
