"""Reading a mosaic, our own or one that someone else wrote."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
from anndata.abc import CSRDataset
from scipy import sparse

from multivi_nf.counts.features import is_hashtag, is_isotype, is_no_feature
from multivi_nf.counts.given import tidy
from multivi_nf.counts.h5ad import COUNT_LAYERS, PROTEIN_OBSM, modality_named
from multivi_nf.counts.matrix import check_structure, whole_numbers
from multivi_nf.errors import Damaged, InputError
from multivi_nf.inputs.labels import label_text
from multivi_nf.io.h5mu import read_h5mu
from multivi_nf.io.hdf5 import check_hdf5, reading, reading_hdf5
from multivi_nf.modalities import MODALITIES
from multivi_nf.mosaic.features import stained
from multivi_nf.mosaic.parts import words_of
from multivi_nf.mosaic.write import quiet


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

    Examples
    --------
    A simulated MuData stands for one of your own; a path of an h5mu is read alike.

    >>> import multivi_nf as mv
    >>> from multivi_nf.simulate import Options, simulated_mosaic
    >>> cells, _ = simulated_mosaic(Options(cells=100, genes=50, peaks=100, proteins=4))
    >>> mosaic = mv.read_mosaic(cells)
    >>> mosaic.n_obs, list(mosaic.mod)
    (100, ['rna', 'atac', 'protein'])
    >>> sorted(mosaic.obs["modality"].unique())
    ['atac', 'rna', 'rna+atac', 'rna+protein']
    """
    mosaic = path if isinstance(path, mudata.MuData) else _open(Path(path))
    if "multivi_nf" in mosaic.uns and "has_rna" in mosaic.obs:
        return mosaic
    found = _known(mosaic)
    batch = _column(mosaic, "batch")
    batch = pd.Series("all", index=mosaic.obs_names) if batch is None else batch
    sample = _column(mosaic, "sample")
    with quiet(), mudata.set_options(pull_on_update=False):
        result = mudata.MuData({modality: found[modality] for modality in MODALITIES if modality in found})
        obs, notes = _annotation(mosaic, result.obs_names)
        obs["batch"] = pd.Categorical(batch.reindex(result.obs_names))
        obs["sample"] = obs["batch"] if sample is None else pd.Categorical(sample.reindex(result.obs_names))
        has = pd.DataFrame({m: np.zeros(result.n_obs, dtype=bool) for m in MODALITIES}, index=result.obs_names)
        for modality, data in found.items():
            has[modality] = result.obs_names.isin(data.obs_names)
        for modality in MODALITIES:
            obs[f"has_{modality}"] = has[modality]
        obs["modality"] = pd.Categorical(words_of(has))
        result.obs = obs
        result.uns = dict(mosaic.uns)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    if "protein" in found and "panel" not in found["protein"].uns:
        result = _with_panel(result)
    return result


def _known(mosaic: mudata.MuData) -> dict[str, ad.AnnData]:
    """Counts of the modalities that are known, brought to one form."""
    found: dict[str, ad.AnnData] = {}
    for name, data in mosaic.mod.items():
        modality = modality_named(name)
        if modality is None:
            continue
        if modality in found:
            raise InputError(
                f"two modalities of the MuData both mean {modality!r} (one of them is {name!r})",
                "which one holds the counts cannot be known",
                "keep one, named " + modality,
            )
        found[modality] = _standard(data, modality, name)
    if "protein" not in found and "rna" in found:
        beside = _protein_beside(mosaic)
        if beside is not None:
            found["protein"] = beside
    if not found:
        raise InputError(
            f"the MuData has the modalities {', '.join(mosaic.mod) or 'none'}",
            "none of them is known as rna, atac or protein",
            "rename them, e.g. mdata.mod['rna'] = ...",
        )
    return found


def read_tables(path: Path, *, counts: bool = False) -> mudata.MuData | None:
    """Read a mosaic that this package wrote without its counts: tables alone; None where it must be read whole.

    Memory is that of the tables of cells and features, whatever the number of counts.

    Parameters
    ----------
    path
        What `mosaic` or `embed` wrote.
    counts
        Also give what EMBED adds to the whole, and `X`, `layers` and the neighbour graph as matrices that stay in the
        file, which is open as long as they live (:mod:`multivi_nf.mosaic.rows` reads them, :func:`closed` closes it).
    """
    if not path.is_file():
        return None
    with reading_hdf5(path) as file:
        own = "multivi_nf" in file.get("uns", {}) and "has_rna" in file.get("obs", {}) and "mod" in file
        if not own or any("layers" not in file["mod"][name] for name in file["mod"]):
            return None
        if counts and not all(_is_csr(matrix) for matrix in _matrices(file)):
            return None
        order = [str(name) for name in file["mod"].attrs.get("mod-order", list(file["mod"]))]
        obs, uns = ad.io.read_elem(file["obs"]), ad.io.read_elem(file["uns"])
        tables = {
            name: {key: ad.io.read_elem(file["mod"][name][key]) for key in TABLES if key in file["mod"][name]}
            for name in order
        }
        places = {k: ad.io.read_elem(file["obsm"][k]) for k in file.get("obsm", {}) if counts and k not in order}
    stored = h5py.File(path, "r", rdcc_nbytes=CACHE) if counts else None
    with reading(path), quiet(), mudata.set_options(pull_on_update=False):
        more = {name: {} if stored is None else _staying(stored["mod"][name]) for name in order}
        mosaic = mudata.MuData({name: ad.AnnData(**tables[name], **more[name]) for name in order})
        if not mosaic.obs_names.equals(obs.index):
            closed(mosaic)
            return None
        mosaic.obs, mosaic.uns = obs, uns
        mosaic.obsm.update(places)
        for key, graph in {} if stored is None else stored.get("obsp", {}).items():
            mosaic.obsp[key] = ad.io.sparse_dataset(graph)
    return mosaic


TABLES = ("obs", "var", "uns", "obsm", "varm")
CACHE = 4 << 20
"""Bytes of unpacked chunks kept for each data set: neighbouring runs of rows share their first and last."""


def _matrices(file: h5py.File) -> list[h5py.Group | h5py.Dataset | None]:
    """X and layers of all modalities, and the graph."""
    mods = file["mod"].values()
    layers = (matrix for m in mods for matrix in m["layers"].values())
    return [*(m.get("X") for m in mods), *layers, *file.get("obsp", {}).values()]


def _is_csr(matrix: h5py.Group | h5py.Dataset | None) -> bool:
    return isinstance(matrix, h5py.Group) and matrix.attrs.get("encoding-type") == "csr_matrix"


def _staying(group: h5py.Group) -> dict[str, Any]:
    """X and layers of a modality that stay in the file."""
    layers = {name: ad.io.sparse_dataset(group["layers"][name]) for name in group["layers"]}
    return {"X": ad.io.sparse_dataset(group["X"]), "layers": layers}


@contextmanager
def embedded(path: Path) -> Iterator[mudata.MuData]:
    """Open what EMBED wrote: counts, layers and graph stay in the file, which is closed in the end.

    One that another tool wrote is read into memory, but for X.

    Raises
    ------
    InputError
        The file is damaged.
    """
    mosaic = read_tables(path, counts=True)
    if mosaic is None:
        check_hdf5(path)
        with reading(path):
            mosaic = read_h5mu(path, backed="r")
    try:
        yield mosaic
    finally:
        if mosaic.file.filename is None:
            closed(mosaic)
        else:
            mosaic.file.close()


def closed(mosaic: mudata.MuData) -> None:
    """Close the file that a mosaic's counts are in, where they stay in one."""
    for data in mosaic.mod.values():
        if isinstance(data.X, CSRDataset):
            data.X.group.file.close()
            return


def _annotation(mosaic: mudata.MuData, cells: pd.Index) -> tuple[pd.DataFrame, list[str]]:
    """`obs` of the whole and of the modalities; a column whose name the pipeline writes itself gets a suffix."""
    whole = mosaic.obs[[c for c in mosaic.obs if ":" not in str(c)]].reindex(cells)
    for data in mosaic.mod.values():
        more = [c for c in data.obs if c not in whole and c not in ("batch", "sample")]
        whole = whole.join(data.obs[more].reindex(cells)) if data.obs_names.is_unique else whole
    own = whole[[c for c in whole if c not in ("batch", "sample")]]
    return tidy(own, "obs")


def _protein_beside(mosaic: mudata.MuData) -> ad.AnnData | None:
    """Proteins in `obsm` of the RNA, as totalVI has them."""
    rna = next(data for name, data in mosaic.mod.items() if modality_named(name) == "rna")
    key = next((k for k in ("protein_expression", *rna.obsm) if k in rna.obsm and PROTEIN_OBSM.search(k)), None)
    if key is None or key.startswith("X_"):
        return None
    table = rna.obsm[key]
    names = (
        table.columns if isinstance(table, pd.DataFrame) else rna.uns.get("protein_names", rna.uns.get(f"{key}_names"))
    )
    if names is None or len(names) != table.shape[1]:
        return None
    counts = sparse.csr_matrix(table.to_numpy() if isinstance(table, pd.DataFrame) else table)
    data = ad.AnnData(counts, obs=pd.DataFrame(index=rna.obs_names), var=pd.DataFrame(index=pd.Index(map(str, names))))
    return _standard(data, "protein", f"obsm[{key!r}]")


def _open(path: Path) -> mudata.MuData:
    if not path.is_file():
        raise InputError(
            f"{path} does not exist or is not a file", "there is nothing to read", "give the path of a mosaic .h5mu"
        )
    check_hdf5(path)
    try:
        with quiet():
            mosaic = read_h5mu(path)
    except Exception as error:  # anndata, mudata and h5py raise many kinds on damaged files; the cause is kept
        raise Damaged(
            path,
            f"cannot be read as .h5mu: {error}",
            "cells and counts are taken from it",
            "give a MuData file (mudata.MuData.write); for single matrices write a samplesheet and run the pipeline",
        ) from error
    return _own_types(mosaic, path)


def _own_types(mosaic: mudata.MuData, path: Path) -> mudata.MuData:
    """Give `obs` the types that it has in the file: mudata turns floats with gaps into nullable integers, and back."""
    with reading_hdf5(path) as file:
        group = file["obs"]
        columns = group if isinstance(group, h5py.Group) else {}
        nullable = {n for n in columns if str(columns[n].attrs.get("encoding-type", "")).startswith("nullable")}
        floats = {n for n in columns if isinstance(columns[n], h5py.Dataset) and columns[n].dtype.kind == "f"}
    for column in mosaic.obs.columns:
        values = mosaic.obs[column]
        kind = pd.api.types.is_bool_dtype(values.dtype), pd.api.types.is_numeric_dtype(values.dtype)
        if column in nullable and any(kind):
            mosaic.obs[column] = values.astype("boolean" if kind[0] else "Int64")
        elif kind[1] and not kind[0] and (column in floats or pd.api.types.is_extension_array_dtype(values.dtype)):
            mosaic.obs[column] = values.to_numpy(dtype=float, na_value=np.nan)
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
    if modality == "protein" and "panel" not in data.uns:
        data, counts = _antibodies(data, counts, name)
    empty = float((np.diff(counts.indptr) == 0).mean()) if counts.shape[0] else 0.0
    if empty > 0.5:
        warnings.warn(
            f"modality {name!r}: {empty:.0%} of its {counts.shape[0]} cells have no count. They are taken as measured"
            "; if the file was padded with zeros, drop those cells from this modality (mdata.mod[name][rows])",
            stacklevel=4,
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


def _antibodies(data: ad.AnnData, counts: sparse.csr_matrix, name: str) -> tuple[ad.AnnData, sparse.csr_matrix]:
    """Leave out what is no antibody of the panel: isotype controls, hashtags, rows of what was not assigned."""
    names = data.var_names.astype(str)
    out = np.array([is_isotype(n) or is_hashtag(n) or is_no_feature(n) for n in names], dtype=bool)
    if not out.any() or out.all():
        return data, counts
    warnings.warn(
        f"modality {name!r}: {int(out.sum())} isotype controls and tags are left out of the model "
        f"({', '.join(names[out][:5])})",
        stacklevel=5,
    )
    return data[:, ~out], counts[:, np.flatnonzero(~out)]


def _counts(data: ad.AnnData, name: str) -> sparse.csr_matrix:
    refusal = None
    spelled = [(f"layers[{key!r}]", data.layers[key]) for key in data.layers if key.lower() in COUNT_LAYERS]
    raw = [("raw.X", data.raw.X)] if data.raw is not None and data.raw.shape == data.shape else []
    for place, matrix in (*spelled, ("X", data.X), *raw):
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


UNNAMED = "unknown"
"""Batch and sample of cells whose own column says nothing."""


def _column(mosaic: mudata.MuData, column: str) -> pd.Series | None:
    """A column of obs as text; cells without a value are named, and said."""
    if column in mosaic.obs:
        found = label_text(mosaic.obs[column])
    else:
        parts = [label_text(data.obs[column]) for data in mosaic.mod.values() if column in data.obs]
        if not parts:
            return None
        joined = pd.concat([part.dropna() for part in parts])
        found = joined[~joined.index.duplicated()].reindex(mosaic.obs_names)
    gaps = found.isna()
    if gaps.any():
        warnings.warn(f"{int(gaps.sum())} cells have no {column} in obs: they are {column} {UNNAMED!r}", stacklevel=3)
    return found.fillna(UNNAMED)


def _with_panel(mosaic: mudata.MuData) -> mudata.MuData:
    """Panel of a file that has none: a protein without any count in a batch was not in its panel.

    Cells of a batch that has no protein count at all were not stained, and leave the modality.
    """
    protein = mosaic.mod["protein"]
    batch = mosaic.obs.loc[protein.obs_names, "batch"].astype(str).to_numpy(dtype=object)
    found = stained(sparse.csr_matrix(protein.X), batch)
    bare = [name for name, seen in found.items() if not seen.any()]
    if bare:
        warnings.warn(
            f"batch(es) {', '.join(bare[:5])} have no count of any protein: their cells are taken as not stained",
            stacklevel=3,
        )
        with quiet(), mudata.set_options(pull_on_update=False):
            mods = dict(mosaic.mod) | {"protein": protein[~np.isin(batch, bare)].copy()}
            result = mudata.MuData({m: data for m, data in mods.items() if data.n_obs})
            result.obs, result.uns = mosaic.obs.loc[result.obs_names].copy(), dict(mosaic.uns)
            result.obs["has_protein"] = result.obs_names.isin(mods["protein"].obs_names)
            has = pd.DataFrame({m: result.obs[f"has_{m}"].to_numpy() for m in MODALITIES}, index=result.obs_names)
            result.obs["modality"] = pd.Categorical(words_of(has))
        mosaic = result
    if "protein" in mosaic.mod:
        names, categories = mosaic.mod["protein"].var_names, mosaic.obs["batch"].cat.categories
        table = pd.DataFrame(False, index=categories, columns=names)
        for name, seen in found.items():
            table.loc[name] = seen
        lacking = [f"{name}: {int((~seen).sum())}" for name, seen in found.items() if seen.any() and not seen.all()]
        if lacking:
            warnings.warn(
                f"proteins without any count in a batch are taken as not in its panel ({'; '.join(lacking[:5])})",
                stacklevel=3,
            )
        mosaic.mod["protein"].uns["panel"] = table
    return mosaic
