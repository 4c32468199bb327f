"""Where training data comes from: a MuData, or an h5mu file of which only what is needed is read, as plain CSR arrays.

A mosaic of an atlas holds more than training needs (the ATAC counts beside the 0/1 matrix) and more stored entries than
32-bit index types can address, where scipy widens every index to 64 bits. Here column indices stay int32, row pointers
are int64, counts take the narrowest type that holds them, and arrays that do not fit into memory are mapped from disk.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem
from mudata import MuData
from scipy import sparse

from multivi_nf.data.checks import CHUNK, check_names, check_values, narrow, panel_table
from multivi_nf.data.insertions import counted_twice, fragments_of, note_of, samples_of
from multivi_nf.errors import InputError, option
from multivi_nf.inputs.labels import label_text
from multivi_nf.io.hdf5 import reading_hdf5
from multivi_nf.io.processors import memory_left
from multivi_nf.modalities import MODALITIES

ALL_CELLS = "all"
"""Name of the one batch of a mosaic that declares none."""


@dataclass
class Matrix:
    """Counts of one modality: only the cells that were measured.

    Attributes
    ----------
    cells
        (n_rows,) cell names.
    var
        (n_features, ...) feature table, indexed by feature name.
    indptr
        (n_rows + 1,) int64.
    indices
        (nnz,) int32, ascending within a row.
    values
        (nnz,) int16, int32 or float32 counts; None where every stored entry is 1 (ATAC, unless fragments are modelled).
    """

    cells: pd.Index
    var: pd.DataFrame
    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray | None

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return len(self.var)

    def rows(self, chosen: np.ndarray) -> sparse.csr_matrix:
        """(n_chosen, n_features) float64 counts of some rows, in the order given."""
        lengths = np.diff(self.indptr)[chosen]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        take = np.repeat(self.indptr[chosen] - indptr[:-1], lengths) + np.arange(indptr[-1])
        data = np.ones(take.size) if self.values is None else self.values[take].astype(np.float64)
        return sparse.csr_matrix((data, self.indices[take], indptr), shape=(len(chosen), self.n_features))


@dataclass
class Source:
    """A mosaic as training and inference need it.

    Attributes
    ----------
    obs
        (n_cells, ...) one row a cell, indexed by cell name.
    matrices
        Modality to its counts, in the order rna, atac, protein.
    panel
        (n_batches, n_proteins) booleans: which protein was in which batch's panel; None where all were in all.
    notes
        What was done to the counts, for the user.
    """

    obs: pd.DataFrame
    matrices: dict[str, Matrix]
    panel: pd.DataFrame | None
    notes: tuple[str, ...] = ()

    @property
    def batch(self) -> np.ndarray:
        """(n_cells,) batch name of each cell."""
        if "batch" not in self.obs:
            return np.full(len(self.obs), ALL_CELLS, dtype=object)
        return label_text(self.obs["batch"]).fillna("unknown").to_numpy(dtype=object)

    def has(self, modality: str) -> np.ndarray:
        """(n_cells,) which cells were measured in a modality."""
        if modality not in self.matrices:
            return np.zeros(len(self.obs), dtype=bool)
        return self.obs.index.isin(self.matrices[modality].cells)

    def features(self) -> pd.DataFrame:
        """Table of modality, feature and symbol, in the order of the model's inputs."""
        parts = []
        for modality, matrix in self.matrices.items():
            symbol = matrix.var["symbol"].astype(str) if "symbol" in matrix.var else matrix.var.index.astype(str)
            names = matrix.var.index.astype(str)
            parts.append(pd.DataFrame({"modality": modality, "feature": names, "symbol": np.asarray(symbol)}))
        return pd.concat(parts, ignore_index=True)


def source_of(
    mosaic: MuData | str | os.PathLike[str] | Source, max_bytes: int | None = None, *, atac_counts: bool = False
) -> Source:
    """Read a mosaic as CSR arrays.

    Parameters
    ----------
    mosaic
        A MuData, or the path of an h5mu. Of files that this package wrote nothing but counts is read.
    max_bytes
        Arrays above this many bytes in all are mapped from a scratch file in the temporary directory. Default: half of
        the memory that is free.
    atac_counts
        Read fragments (`layers["counts"]` of atac, else its X) rather than which peaks are open. Counts of insertions
        become fragments.

    Raises
    ------
    InputError
        If counts are negative, not finite or not whole, or names are repeated; if a `Source` lacks the counts.
    """
    if isinstance(mosaic, Source):
        return with_counts(mosaic) if atac_counts else mosaic
    if isinstance(mosaic, MuData):
        source = _from_mudata(mosaic, atac_counts)
    else:
        path = Path(mosaic)
        if not path.is_file():
            raise InputError(
                f"{path} does not exist or is not a file", "there is nothing to read", "give the path of a mosaic .h5mu"
            )
        found = _from_file(path, _free_bytes() // 2 if max_bytes is None else max_bytes, atac_counts)
        if found is None:
            from multivi_nf.mosaic.read import read_mosaic

            found = _from_mudata(read_mosaic(path), atac_counts)
        source = found
    source.matrices = {m: matrix for m, matrix in source.matrices.items() if len(matrix.cells)}
    if not source.matrices:
        raise InputError(
            "the mosaic holds no cell of any of the modalities rna, atac, protein",
            "a model is trained on at least one of them",
            "name the modalities of the MuData rna, atac, protein",
        )
    for modality, matrix in source.matrices.items():
        check_names(modality, matrix)
    return _in_fragments(source) if atac_counts and "atac" in source.matrices else source


def with_counts(source: Source) -> Source:
    """The source; refused if it was read without the counts of ATAC."""
    atac = source.matrices.get("atac")
    if isinstance(atac, Matrix) and atac.values is None:
        raise InputError(
            "the mosaic was read without the counts of ATAC",
            f"fragments are modelled ({option('atac_likelihood', 'poisson')}), and 0/1 does not tell them",
            "read it with source_of(mosaic, atac_counts=True), or give the MuData or its path",
        )
    return source


def _in_fragments(source: Source) -> Source:
    """The source with fragments where samples have insertions, which is noted."""
    atac = source.matrices["atac"]
    if atac.values is None:
        return source
    samples = samples_of(source.obs, source.batch, atac.cells)
    doubled = counted_twice(samples, lambda rows: atac.rows(rows).data)
    if not doubled.any():
        return source
    # in place, run of cells by run of cells: the counts may lie on disk
    for first, last in np.flatnonzero(np.diff(np.r_[False, doubled, False])).reshape(-1, 2):
        span = atac.values[atac.indptr[first] : atac.indptr[last]]
        span[:] = fragments_of(span)
    return replace(source, notes=(*source.notes, note_of(samples, doubled)))


def _free_bytes() -> int:
    """Memory available to this process now, in bytes; a container's limit counts."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    left = memory_left()
    return free if left is None else min(free, left)


def _from_mudata(mosaic: MuData, atac_counts: bool = False) -> Source:
    matrices = {}
    for modality in MODALITIES:
        if modality not in mosaic.mod:
            continue
        part = mosaic.mod[modality]
        counted = modality != "atac" or atac_counts
        counts = sparse.csr_matrix(part.layers.get("counts", part.X) if modality == "atac" and counted else part.X)
        if not counts.has_canonical_format or (counts.data == 0).any():
            counts = counts.copy()
            counts.sum_duplicates()
            counts.eliminate_zeros()
        values = narrow(counts.data) if counted else None
        check_values(modality, counts.data)
        matrices[modality] = Matrix(
            part.obs_names.astype(str),
            part.var,
            counts.indptr.astype(np.int64),
            counts.indices.astype(np.int32, copy=False),
            values,
        )
    panel = mosaic.mod["protein"].uns.get("panel") if "protein" in matrices else None
    source = Source(_obs_of(mosaic), matrices, panel_table(panel, matrices))
    if "protein" in matrices and panel is None:
        source.panel = _stained(source)
    return source


def _stained(source: Source) -> pd.DataFrame | None:
    """Panel of data that has none: a protein without any count in a batch was not in its panel."""
    from multivi_nf.mosaic.features import stained

    protein = source.matrices["protein"]
    batch = pd.Series(source.batch, index=source.obs.index).reindex(protein.cells).fillna("unknown").to_numpy(object)
    found = stained(protein.rows(np.arange(len(protein.cells))), batch)
    if all(seen.all() for seen in found.values()):
        return None
    return pd.DataFrame.from_dict(found, orient="index", columns=protein.var.index.astype(str)).astype(bool)


def _obs_of(mosaic: MuData) -> pd.DataFrame:
    obs = mosaic.obs.copy()
    obs.index = obs.index.astype(str)
    return obs


# ---------------------------------------------------------------------------------------------------------------------
# h5mu without its layers
# ---------------------------------------------------------------------------------------------------------------------


def counts_group(modality: str, group: h5py.Group, atac_counts: bool) -> h5py.Group:
    """Where the file holds what is read of a modality."""
    if modality == "atac" and atac_counts and "counts" in group.get("layers", {}):
        return group["layers"]["counts"]
    return group["X"]


def _from_file(path: Path, max_bytes: int, atac_counts: bool = False) -> Source | None:
    """Read a mosaic of ours; None where the file is not one: `mosaic.read.read_mosaic` reads those."""
    with reading_hdf5(path) as file:
        if "mod" not in file or "multivi_nf" not in file.get("uns", {}):
            return None
        groups = {m: file["mod"][m] for m in MODALITIES if m in file["mod"]}
        counts = {m: counts_group(m, group, atac_counts) for m, group in groups.items()}
        if any(one.attrs.get("encoding-type") != "csr_matrix" for one in counts.values()):
            return None
        counted = [m for m in groups if m != "atac" or atac_counts]
        needed = sum(one["indices"].size * (6 if m in counted else 4) for m, one in counts.items())
        mapped = needed > max_bytes
        obs = read_elem(file["obs"])
        obs.index = obs.index.astype(str)
        matrices = {}
        for modality, group in groups.items():
            matrix = _read_matrix(modality, group, counts[modality], mapped, modality in counted)
            if matrix is None:
                return None
            matrices[modality] = matrix
        uns = groups["protein"].get("uns", {}) if "protein" in groups else {}
        panel = read_elem(uns["panel"]) if "panel" in uns else None
    return Source(obs, matrices, panel_table(panel, matrices))


def _read_matrix(modality: str, group: h5py.Group, counts: h5py.Group, mapped: bool, counted: bool) -> Matrix | None:
    part_obs, var = read_elem(group["obs"]), read_elem(group["var"])
    indptr = counts["indptr"][:].astype(np.int64)
    indices = _read(counts["indices"], np.int32, mapped)
    if not _ascending(indptr, indices):
        return None
    data = counts["data"]
    for start in range(0, data.size, CHUNK):
        part = data[start : start + CHUNK]
        check_values(modality, part)
        if (part == 0).any():
            return None
    values = None
    if counted:
        high = max((int(data[s : s + CHUNK].max()) for s in range(0, data.size, CHUNK)), default=0)
        values = _read(data, np.int16 if high <= np.iinfo(np.int16).max else np.int32, mapped)
    return Matrix(part_obs.index.astype(str), var, indptr, indices, values)


def _read(dataset: h5py.Dataset, dtype: type, mapped: bool) -> np.ndarray:
    """Read a dataset piece by piece into memory, or into a scratch file that vanishes with the process."""
    out: np.ndarray
    if mapped and dataset.size:
        with tempfile.NamedTemporaryFile(prefix="multivi_nf_", suffix=".bin") as scratch:
            out = np.memmap(scratch.name, dtype=dtype, mode="w+", shape=dataset.shape)
    else:
        out = np.empty(dataset.shape, dtype=dtype)
    for start in range(0, dataset.size, CHUNK):
        out[start : start + CHUNK] = dataset[start : start + CHUNK]
    return out


def _ascending(indptr: np.ndarray, indices: np.ndarray) -> bool:
    """Whether column indices ascend strictly within each row."""
    for start in range(0, indices.size - 1, CHUNK):
        falls = np.flatnonzero(np.diff(indices[start : start + CHUNK + 1]) <= 0) + start + 1
        found = np.searchsorted(indptr, falls)
        if (indptr[found] != falls).any():
            return False
    return True


def fingerprint(source: Source, covariates: tuple[str, ...] = ()) -> dict[str, str]:
    """SHA-256 of each part of the data that the weights depend on, so that a difference can be named."""
    parts = {"cells": digest(source.obs.index.to_numpy()), "batches": digest(source.batch)}
    for name in covariates:
        parts[f"covariate {name}"] = digest(source.obs[name].astype(str).to_numpy(dtype=object))
    for modality, matrix in source.matrices.items():
        parts[f"{modality} features"] = digest(matrix.var.index.to_numpy())
        parts[f"{modality} cells"] = digest(matrix.cells.to_numpy())
        arrays = [matrix.indptr, matrix.indices] + ([] if matrix.values is None else [matrix.values])
        parts[f"{modality} counts"] = digest(*arrays)
    if source.panel is not None:
        parts["panel"] = digest(source.panel.index.to_numpy(), source.panel.to_numpy())
    return parts


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays of numbers or of names, one after the other."""
    sha = hashlib.sha256()
    for array in arrays:
        if array.dtype.kind in "OUT":
            sha.update("\n".join(map(str, array)).encode())
            continue
        array = np.ascontiguousarray(array)
        for start in range(0, max(array.shape[0], 1), CHUNK):
            sha.update(array[start : start + CHUNK].data if array.size else b"")
    return sha.hexdigest()[:32]
