"""AnnData and MuData, `.h5ad`, `.h5mu` and zarr stores: finds the raw counts, wherever they were put."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem
from scipy import sparse

from multivi_nf.counts.feature_types import kind_of, kinds_of, type_column
from multivi_nf.counts.features import is_ensembl, parse_peak
from multivi_nf.counts.matrix import RawMatrix, check_structure, listed_rows, looks_raw, raw_refused, whole_numbers
from multivi_nf.errors import InputError
from multivi_nf.inputs.barcodes import check_barcodes
from multivi_nf.inputs.cell_table import truths
from multivi_nf.io.hdf5 import open_hdf5, unread
from multivi_nf.io.stores import check_store
from multivi_nf.modalities import Modality, in_order

COUNT_LAYERS = (
    "counts raw_counts count raw umi umis counts_raw umi_counts rawcounts count_matrix x_counts fragment_counts "
    "soupx_counts cellbender_counts"
).split()
_NO_COUNTS = re.compile(
    r"splic|ambig|matur|nascent|velo|log|norm|scal|denois|imput|smooth|moment|magic|binar", re.IGNORECASE
)
_ID_COLUMNS = (
    "gene_ids gene_id ensembl_id ensembl ensembl_ids feature_id id ensembl_gene_id gene_stable_id geneid ensg "
    "accession featurekey"
).split()
_NAME_COLUMNS = (
    "symbol gene_symbols gene_symbol gene_name gene_names feature_name name symbols hgnc_symbol mgi_symbol "
    "gene_short_name gene genes"
).split()
PROTEIN_OBSM = re.compile(r"protein|antibod|(^|[^a-z])(adt|prot|cite)([^a-z]|$)", re.IGNORECASE)
_MODALITIES = dict.fromkeys(("rna", "gex", "gene expression"), "rna") | dict.fromkeys(("atac", "peaks"), "atac")
_MODALITIES |= dict.fromkeys(("prot", "protein", "adt", "antibody capture"), "protein")


def modality_named(name: str) -> str | None:
    """Give what a modality of a MuData stands for (`gex`, `prot`, `ADT`, `Peaks`): rna, atac, protein or None."""
    kind = _MODALITIES.get(str(name).lower()) or kind_of(name)
    return kind if kind in ("rna", "atac", "protein") else None


@dataclass
class _Slots:
    """What an AnnData holds, read when it is asked for, whether it lies in HDF5, in zarr or in memory."""

    obs: pd.DataFrame
    matrices: dict[str, Callable[[], Any]]  # place → matrix; layers/NAME, X, raw/X
    var: Callable[[bool], pd.DataFrame]  # of raw or not
    obsm: dict[str, Callable[[], Any]]
    uns: Callable[[str], Any]


def read_annotated(path: Path, cells: list[str] | None, modality: str) -> RawMatrix:
    """Read counts, names and cell annotation of one modality of an `.h5ad`, an `.h5mu` or a zarr store of either.

    Candidates for the counts, in this order: `layers["counts"]` (and a few spellings of it), `X`, `raw.X`, and a single
    further layer of whole numbers. The first that holds whole numbers ≥ 0 is taken and named in the notes; where there
    is none, the message says for each what it holds. Protein counts may also lie in `obsm` (`protein_expression`, a
    table, or an array with names in `uns`).

    Raises
    ------
    InputError
        No candidate holds counts; or the file is not AnnData, or damaged.
    """
    with _opened(path) as root:
        try:
            if "mod" in root:
                slots, name = _of_mudata(root, path, modality)
                return _read(slots, f"{path} (mod/{name})", path, cells, modality)
            if "obs" not in root or "var" not in root:
                raise InputError(
                    f"{path} holds {', '.join(root) or 'nothing'}, not the obs and var of AnnData",
                    "cells and features have no names",
                    "write it with anndata (write_h5ad); a 10x file is named .h5",
                )
            return _read(_slots_of(root, path), str(path), path, cells, modality)
        except InputError:
            raise
        except Exception as error:  # anndata, h5py and zarr raise many kinds; the cause is kept
            raise unread(path, error) from error


def modalities_of(path: Path) -> list[Modality]:
    """Give the modalities that an `.h5mu` (or a zarr store of MuData) holds, in the order rna, atac, protein."""
    with _opened(path) as root:
        if "mod" not in root:
            raise InputError(
                f"{path} is not a MuData file (it holds {', '.join(root) or 'nothing'})",
                "the column h5mu takes all modalities of a sample in one file",
                "name an .h5ad in the columns rna, atac and protein, whichever it holds",
            )
        named = {modality_named(name): name for name in root["mod"]}
        names = {kind: name for kind, name in named.items() if kind is not None}
        found = in_order(names.keys())
        if not found:
            raise InputError(
                f"{path} holds the modalities {', '.join(root['mod']) or 'none'}",
                "none of them is known as rna, atac or protein",
                "rename them, e.g. mdata.mod['rna'] = ..., and write the file again",
            )
        if "protein" not in found and "rna" in names:
            group = root["mod"][names["rna"]]
            if "obsm" in group and any(PROTEIN_OBSM.search(key) for key in group["obsm"]):
                found.append("protein")
        return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_dir():
        with open_hdf5(path) as file:
            yield file
        return
    import zarr

    check_store(path)
    try:
        root = zarr.open_group(str(path), mode="r")
    except Exception as error:  # zarr raises many kinds; the cause is kept
        raise InputError(
            f"{path} is a folder and no zarr store ({str(error).splitlines()[0][:120]})",
            "nothing could be read from it",
            "give a zarr store (adata.write_zarr), an mtx folder (matrix.mtx, features.tsv, barcodes.tsv) or .h5ad",
        ) from error
    yield root


def _of_mudata(root: Any, path: Path, modality: str) -> tuple[_Slots, str]:
    names: dict[str, str] = {}
    for name in root["mod"]:
        kind = modality_named(name)
        if kind in names:
            raise InputError(
                f"{path}: the modalities {names[kind]!r} and {name!r} both mean {kind}",
                "which one holds the counts cannot be known",
                f"keep one of them, named {kind}",
            )
        if kind is not None:
            names[kind] = name
    name = names.get(modality) or (names.get("rna") if modality == "protein" else None)
    if name is None:
        raise InputError(
            f"{path} holds the modalities {', '.join(root['mod']) or 'none'}, none of which is {modality}",
            f"the {modality} of the sample is not in it",
            f"rename the modality to {modality}, or leave the column {modality} empty",
        )
    slots = _slots_of(root["mod"][name], path)
    if "obs" in root:
        whole = read_elem(root["obs"])
        whole.index = whole.index.astype(str)
        own = [c for c in whole.columns if ":" not in str(c) and c not in slots.obs.columns]
        if whole.index.is_unique:
            slots.obs = slots.obs.join(whole[own].reindex(slots.obs.index))
    return slots, name


def _slots_of(root: Any, path: Path) -> _Slots:
    """Slots of a group; what anndata's own reader understands and this one does not (0.6 to 0.7) is read by it."""
    try:
        if isinstance(root["obs"], h5py.Dataset) or isinstance(root["var"], h5py.Dataset):
            return _old(path)
        obs = read_elem(root["obs"])
        bare = "X" in root and isinstance(root["X"], h5py.Group) and "encoding-type" not in root["X"].attrs
        if not isinstance(obs, pd.DataFrame) or bare:
            return _old(path)
    except (TypeError, KeyError, AttributeError, ValueError, NotImplementedError):
        return _old(path)
    obs.index = obs.index.astype(str)
    places: dict[str, Callable[[], Any]] = {}
    layers = root["layers"] if "layers" in root else {}
    for name in layers:
        places[f"layers/{name}"] = partial(read_elem, layers[name])
    if "X" in root:
        places["X"] = lambda: read_elem(root["X"])
    if "raw" in root and "X" in root["raw"]:
        places["raw/X"] = lambda: read_elem(root["raw"]["X"])
    obsm = root["obsm"] if "obsm" in root else {}
    more: dict[str, Callable[[], Any]] = {name: partial(read_elem, obsm[name]) for name in obsm}

    def uns(name: str) -> Any:
        return read_elem(root["uns"][name]) if "uns" in root and name in root["uns"] else None

    return _Slots(obs, places, lambda raw: read_elem(root["raw"]["var"] if raw else root["var"]), more, uns)


def _old(path: Path) -> _Slots:
    """The whole file through anndata's own reader, which knows layouts of old versions."""
    import warnings

    import anndata as ad

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = ad.read_zarr(path) if path.is_dir() else ad.read_h5ad(path)
    places: dict[str, Callable[[], Any]] = {
        f"layers/{name}": partial(data.layers.__getitem__, name) for name in data.layers
    }
    if data.X is not None:
        places["X"] = lambda: data.X
    if data.raw is not None:
        places["raw/X"] = lambda: data.raw.X
    obs = data.obs.copy()
    obs.index = obs.index.astype(str)
    more: dict[str, Callable[[], Any]] = {name: partial(data.obsm.__getitem__, name) for name in data.obsm}
    return _Slots(obs, places, lambda raw: data.raw.var if raw else data.var, more, data.uns.get)


def _read(slots: _Slots, source: str, path: Path, cells: list[str] | None, modality: str) -> RawMatrix:
    obs = slots.obs
    barcodes = obs.index.tolist()
    check_barcodes(barcodes, source)
    protein = _protein_table(slots, source) if modality == "protein" else None
    if protein is not None:
        matrix, place, notes, var = protein
        types = ["Antibody Capture"] * matrix.shape[1]
    else:
        matrix, place, notes = _counts(slots, source)
        var, types = slots.var(place.startswith("raw")), None
    if matrix.shape != (len(obs), len(var)):
        raise InputError(
            f"{source}: {place} is {matrix.shape[0]} × {matrix.shape[1]} with {len(obs)} cells and {len(var)} features",
            "counts would be given to the wrong cells or genes",
            "write the file again from the program that made it",
        )
    rows, names = np.arange(len(barcodes)), barcodes
    if cells is None:
        reason = looks_raw(np.diff(matrix.indptr), matrix.shape[1]) if protein is None else None
        if (
            reason is None
            and "is_cell" in obs
            and not truths(obs["is_cell"].tolist(), f"{source}, obs['is_cell']").all()
        ):
            reason = "obs['is_cell'] is 0 for some barcodes"
        if reason is not None:
            raise raw_refused(path, reason)
    else:
        rows, names, said = listed_rows(barcodes, cells, source)
        notes += said
        if len(rows) < len(barcodes):
            matrix, obs = matrix[rows], obs.iloc[rows]
    ids, symbols = _names(var)
    column = type_column(var) if types is None else None
    if column is not None:
        types = var[column].astype(str).tolist()
        if column not in ("feature_types", "feature_type"):
            notes.append(f"{source}: feature types are taken from var[{column!r}]")
    genomes = var["genome"].astype(str).tolist() if "genome" in var else None
    if modality == "rna":
        notes += _unused_protein(slots, source)
    where = f"{source} ({place})" if "(" not in source else f"{source[:-1]}, {place})"
    return RawMatrix(matrix, list(names), ids, symbols, types, where, obs, notes, genomes=genomes)


def _counts(slots: _Slots, source: str) -> tuple[sparse.csr_matrix, str, list[str]]:
    lower = {place.removeprefix("layers/").lower(): place for place in slots.matrices if place.startswith("layers/")}
    named = [lower[name] for name in COUNT_LAYERS if name in lower]
    others = [place for place in slots.matrices if place.startswith("layers/") and place not in named]
    places = named + [place for place in ("X", "raw/X") if place in slots.matrices]
    refusals = []
    for place in [*places, *(p for p in others if not _NO_COUNTS.search(p))]:
        try:
            matrix = _as_counts(slots.matrices[place](), f"{source}, {place}")
        except InputError as error:
            refusals.append((place, error))
            continue
        rest = [p for p in slots.matrices if p != place]
        notes = [f"{source}: counts taken from {place} (also there: {', '.join(rest)})"] if rest else []
        return matrix, place, notes
    if len(refusals) == 1:
        raise refusals[0][1]
    if not refusals and any(key.startswith(("fragment", "insertion")) for key in slots.obsm):
        raise InputError(
            f"{source} holds fragments (obsm) and no matrix of counts",
            "cells × peaks are counted from fragments on one set of peaks",
            "name the fragments file in the column fragments, or make the matrix first (snap.pp.make_peak_matrix)",
        )
    found = "; ".join(error.what.removeprefix(f"{source}, ") for _place, error in refusals) or "no matrix"
    unseen = [p.removeprefix("layers/") for p in others if _NO_COUNTS.search(p)]
    more = f" (other layers: {', '.join(unseen)})" if unseen else ""
    raise InputError(
        f"{source} holds raw counts in none of X, layers['counts'], raw: {found}{more}",
        "the model's likelihoods are those of molecule counts",
        "put the raw counts in layers['counts'] or X and write the file again",
    )


def _as_counts(matrix: Any, source: str) -> sparse.csr_matrix:
    if isinstance(matrix, pd.DataFrame):
        matrix = matrix.to_numpy()
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


def _protein_table(slots: _Slots, source: str) -> tuple[sparse.csr_matrix, str, list[str], pd.DataFrame] | None:
    """Protein counts of `obsm`, unless the features themselves are proteins; None where there are none."""
    keys = sorted(
        (key for key in slots.obsm if PROTEIN_OBSM.search(key) and not key.startswith(("X_pca", "X_umap"))),
        key=lambda key: (key != "protein_expression", "count" not in key and "raw" not in key, key),
    )
    if not keys:
        return None
    var = slots.var(False)
    column = type_column(var)
    if column is not None and "protein" in kinds_of(var[column].astype(str).tolist()):
        return None
    refusals = []
    for key in keys:
        table = slots.obsm[key]()
        place = f"obsm/{key}"
        try:
            matrix = _as_counts(table, f"{source}, {place}")
        except InputError as error:
            refusals.append(error)
            continue
        names = _protein_names(slots, key, table, f"{source}, {place}")
        return matrix, place, [f"{source}: protein counts taken from obsm[{key!r}]"], pd.DataFrame(index=names)
    if column is None and len(var) <= 1000:
        return None  # the matrix itself may hold the proteins
    raise refusals[0]


def _protein_names(slots: _Slots, key: str, table: Any, source: str) -> list[str]:
    if isinstance(table, pd.DataFrame):
        return [str(name) for name in table.columns]
    tries = (f"{key}_names", f"{key}_columns", "protein_names", "proteins", "adt_names", "antibody_names", "antibodies")
    for name in tries:
        found = slots.uns(name)
        if found is not None and np.ndim(found) == 1 and len(found) == table.shape[1]:
            return [value.decode() if isinstance(value, bytes) else str(value) for value in found]
    raise InputError(
        f"{source} is an array of {table.shape[1]} columns without names (uns has none of {', '.join(tries[:3])})",
        "proteins are matched by name",
        f"put the names in uns['protein_names'], or make obsm['{key}'] a table (pandas DataFrame), and write it again",
    )


def _unused_protein(slots: _Slots, source: str) -> list[str]:
    keys = [key for key in slots.obsm if PROTEIN_OBSM.search(key) and not key.startswith("X_")]
    if not keys:
        return []
    return [
        f"{source}: obsm[{keys[0]!r}] holds proteins; they are read where the file is named in the column protein too"
    ]


# --- names -----------------------------------------------------------------------------------------------------------


def _names(var: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Ids and symbols of features, from the index and the columns in which tools put them."""
    index = var.index.astype(str).tolist()
    lower: Mapping[str, Any] = {str(column).lower(): column for column in reversed(list(var.columns))}
    identifier = next((lower[c] for c in _ID_COLUMNS if c in lower and _identifies(var[lower[c]])), None)
    name = next(
        (lower[c] for c in _NAME_COLUMNS if c in lower and lower[c] != identifier and _is_text(var[lower[c]])), None
    )
    ids = index if identifier is None else _filled(var[identifier], index)
    names = index if name is None else _filled(var[name], index)
    return ids, names


def _is_text(column: pd.Series) -> bool:
    return bool(column.notna().any()) and column.dtype.kind not in "biufc"


def _identifies(column: pd.Series) -> bool:
    values = column.dropna().astype(str).tolist()[:2000]
    bare = (re.sub(r"^[A-Za-z0-9.]+_+(?=ENS)", "", value) for value in values)
    return sum(is_ensembl(value) or parse_peak(value) is not None for value in bare) > len(values) / 2


def _filled(column: pd.Series, index: list[str]) -> list[str]:
    return [str(v) if pd.notna(v) and str(v) else own for v, own in zip(column.tolist(), index)]
