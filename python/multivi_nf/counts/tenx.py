"""Matrices of Cell Ranger: HDF5 (v2 and v3 layout) and mtx folders, read by feature id with all feature types."""

from __future__ import annotations

import gzip
import re
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from pandas.errors import ParserWarning
from scipy import sparse

from multivi_nf.counts.matrix import RawMatrix, damaged, looks_raw, open_hdf5, raw_refused, strings, whole_numbers
from multivi_nf.errors import InputError
from multivi_nf.inputs.barcodes import check_barcodes, read_text

_BLOCK = 2**24  # stored values read at a time: 200 MB, whatever the size of the file
_RAW_NAME = re.compile(r"raw_(feature|gene|peak)_bc_matri|raw_gene_bc_matrices|_raw_bc_matrix")
_WHAT_10X = (
    "a 10x file has the group 'matrix' (Cell Ranger 3 and later) or one group per genome with 'barcodes' and 'genes'"
)


def read_10x_h5(path: Path, types: tuple[str, ...], cells: list[str] | None) -> RawMatrix:
    """Read the columns of some feature types of a 10x `.h5`.

    The file is read in blocks of barcodes, so that memory follows what is kept, not what is stored.

    Parameters
    ----------
    path
        The file.
    types
        Feature types to keep.
    cells
        Barcodes to keep; needed for unfiltered files.
    """
    with open_hdf5(path) as file:
        try:
            group, layout = _group(file, path)
            return _read_group(group, layout, path, types, cells)
        except InputError:
            raise
        except Exception as error:  # h5py and numpy raise many kinds on damaged files; the cause is kept
            raise damaged(path, error) from error


def _group(file: h5py.File, path: Path) -> tuple[h5py.Group, str]:
    if "matrix" in file and isinstance(file["matrix"], h5py.Group) and "features" in file["matrix"]:
        return file["matrix"], "v3"
    genomes = [name for name in file if isinstance(file[name], h5py.Group) and "genes" in file[name]]
    if len(genomes) == 1:
        return file[genomes[0]], "v2"
    if len(genomes) > 1:
        raise InputError(
            f"{path} holds {len(genomes)} genomes ({', '.join(genomes)})",
            "cells of two species cannot be modelled with one set of genes",
            "give one file per genome, each with its own row",
        )
    if "X" in file and "obs" in file:
        raise InputError(
            f"{path} is an AnnData file named .h5", "it would be read by the wrong rules", "rename it to .h5ad"
        )
    raise InputError(
        f"{path} is not a 10x count file (it holds {', '.join(file) or 'nothing'})",
        _WHAT_10X,
        "give filtered_feature_bc_matrix.h5 (molecule_info.h5 and others hold no matrix)",
    )


def _read_group(
    group: h5py.Group, layout: str, path: Path, wanted: tuple[str, ...], cells: list[str] | None
) -> RawMatrix:
    needed = ["barcodes", "data", "indices", "indptr", "shape"]
    missing = [name for name in needed if name not in group]
    if missing:
        raise InputError(f"{path}: {group.name} lacks {', '.join(missing)}", _WHAT_10X, "write the file again")
    barcodes = strings(group["barcodes"][:], f"{path}, barcodes")
    if layout == "v3":
        features = group["features"]
        ids = strings(features["id"][:], f"{path}, features/id")
        names = strings(features["name"][:], f"{path}, features/name") if "name" in features else ids
        types = strings(features["feature_type"][:], f"{path}, feature_type") if "feature_type" in features else None
    else:
        ids = strings(group["genes"][:], f"{path}, genes")
        names = strings(group["gene_names"][:], f"{path}, gene_names") if "gene_names" in group else ids
        types = ["Gene Expression"] * len(ids)
    indptr = group["indptr"][:].astype(np.int64)
    shape = [int(n) for n in group["shape"][:]]
    stored = group["data"].shape[0]
    consistent = (
        shape == [len(ids), len(barcodes)]
        and len(names) == len(ids)
        and (types is None or len(types) == len(ids))
        and len(indptr) == len(barcodes) + 1
        and group["indices"].shape[0] == stored
        and indptr[0] == 0
        and indptr[-1] == stored
        and bool((np.diff(indptr) >= 0).all())
    )
    if not consistent:
        raise InputError(
            f"{path}: shape {shape}, {len(ids)} features, {len(barcodes)} barcodes, {len(indptr)} column pointers "
            f"up to {indptr[-1] if len(indptr) else 0} and {stored} values do not fit together",
            "counts would be given to the wrong cells or genes",
            "the file is damaged; write or copy it again",
        )
    check_barcodes(barcodes, str(path))
    if cells is None:
        if _RAW_NAME.search(path.name):
            raise raw_refused(path, "its name says so")
        reason = looks_raw(np.diff(indptr), len(ids))
        if reason is not None:
            raise raw_refused(path, reason)
    columns = np.arange(len(ids)) if types is None else np.flatnonzero(np.isin(types, wanted))
    rows = _rows(barcodes, cells)
    matrix = _blocks(group, indptr, len(ids), columns, rows, path)
    pick = columns.tolist()
    return RawMatrix(
        matrix,
        [barcodes[i] for i in rows],
        [ids[i] for i in pick],
        [names[i] for i in pick],
        None if types is None else types,
        str(path),
    )


def _rows(barcodes: list[str], cells: list[str] | None) -> np.ndarray:
    if cells is None:
        return np.arange(len(barcodes))
    keep = set(cells)
    return np.array([i for i, barcode in enumerate(barcodes) if barcode in keep], dtype=np.int64)


def _blocks(
    group: h5py.Group, indptr: np.ndarray, n_features: int, columns: np.ndarray, rows: np.ndarray, path: Path
) -> sparse.csr_matrix:
    """Read rows of a barcode-major sparse group block by block, keeping only some rows and columns."""
    kept: list[sparse.csr_matrix] = []
    start, n = 0, len(indptr) - 1
    wanted_row = np.zeros(n, dtype=bool)
    wanted_row[rows] = True
    while start < n:
        stop = int(np.searchsorted(indptr, indptr[start] + _BLOCK, side="right")) - 1
        stop = min(max(stop, start + 1), n)
        inside = np.flatnonzero(wanted_row[start:stop])
        if len(inside):
            span = slice(int(indptr[start]), int(indptr[stop]))
            indices = group["indices"][span]
            if indices.size and (indices.min() < 0 or indices.max() >= n_features):
                raise InputError(
                    f"{path}: a value points to feature {int(indices.max())} of {n_features}",
                    "it belongs to no gene, peak or protein",
                    "the file is damaged; write or copy it again",
                )
            values = whole_numbers(group["data"][span], str(path))
            block = sparse.csr_matrix(
                (values, indices.astype(np.int32), indptr[start : stop + 1] - indptr[start]),
                shape=(stop - start, n_features),
            )
            block = block if len(inside) == stop - start else block[inside]
            kept.append(block if len(columns) == n_features else block[:, columns])
        start = stop
    if not kept:
        return sparse.csr_matrix((0, len(columns)), dtype=np.int32)
    return kept[0] if len(kept) == 1 else sparse.vstack(kept, format="csr")


def find_mtx(path: Path) -> tuple[Path, Path, Path]:
    """Find matrix, features and barcodes of an mtx folder.

    Names of Cell Ranger 2 and 3 and cellranger-atac, plain or gzip, with or without one common prefix (GEO).

    Returns
    -------
    The three files.
    """
    folder = path.parent if path.is_file() else path
    matrices = sorted(p for p in folder.iterdir() if re.search(r"matrix\.mtx(\.gz)?$", p.name))
    if path.is_file():
        matrices = [path]
    if len(matrices) != 1:
        raise InputError(
            f"{folder} holds {len(matrices)} files named *matrix.mtx[.gz]"
            + (f" ({', '.join(p.name for p in matrices[:4])})" if matrices else ""),
            "which matrix is meant cannot be known" if matrices else "there are no counts in it",
            "put each sample in its own folder (matrix.mtx, features.tsv or genes.tsv, barcodes.tsv)",
        )
    prefix = re.sub(r"matrix\.mtx(\.gz)?$", "", matrices[0].name)
    found = []
    for what, names in (("features", ("features.tsv", "genes.tsv", "peaks.bed")), ("barcodes", ("barcodes.tsv",))):
        options = [folder / f"{prefix}{name}{gz}" for name in names for gz in ("", ".gz")]
        present = [option for option in options if option.is_file()]
        if not present:
            raise InputError(
                f"{folder}: {matrices[0].name} has no {what} beside it ({', '.join(prefix + n for n in names)}[.gz])",
                f"without {what} the matrix is a table of numbers",
                "copy the missing file there under that name",
            )
        found.append(present[0])
    return matrices[0], found[0], found[1]


def read_mtx(path: Path, cells: list[str] | None) -> RawMatrix:
    """Read an mtx folder (or its matrix file), features in rows as Cell Ranger writes it, or transposed."""
    matrix_file, features_file, barcodes_file = find_mtx(path)
    barcodes = [line.split("\t")[0].strip() for line in read_text(barcodes_file) if line.strip()]
    check_barcodes(barcodes, str(barcodes_file))
    ids, names, types = _features(features_file)
    shape, stored = _mtx_header(matrix_file)
    notes = []
    if shape == (len(ids), len(barcodes)):
        transposed = False
    elif shape == (len(barcodes), len(ids)):
        transposed = True
        notes.append(f"{matrix_file} has cells in rows (transposed against Cell Ranger); it was turned")
    else:
        raise InputError(
            f"{matrix_file} is {shape[0]} × {shape[1]}, but {features_file.name} has {len(ids)} lines and "
            f"{barcodes_file.name} {len(barcodes)}",
            "counts would be given to the wrong cells or genes",
            "give the three files of one run; lists must have no header line",
        )
    row, column, values = _triplets(matrix_file, shape, stored)
    if not transposed:
        row, column = column, row
    matrix = sparse.coo_matrix((values, (row, column)), shape=(len(barcodes), len(ids))).tocsr()
    if cells is None:
        if _RAW_NAME.search(str(matrix_file.resolve())):
            raise raw_refused(matrix_file, "its folder's name says so")
        reason = looks_raw(np.diff(matrix.indptr), len(ids))
        if reason is not None:
            raise raw_refused(matrix_file, reason)
    rows = _rows(barcodes, cells)
    if len(rows) < len(barcodes):
        matrix = matrix[rows]
    return RawMatrix(matrix, [barcodes[i] for i in rows], ids, names, types, str(matrix_file), notes=notes)


def _features(path: Path) -> tuple[list[str], list[str], list[str] | None]:
    rows = [line.split("\t") for line in read_text(path) if line.strip()]
    if path.name.removesuffix(".gz").endswith("peaks.bed"):
        ids = [f"{r[0]}:{r[1]}-{r[2]}" for r in rows if len(r) >= 3]
        return ids, ids, ["Peaks"] * len(ids)
    ids = [row[0] for row in rows]
    names = [row[1] if len(row) > 1 and row[1] else row[0] for row in rows]
    types = [row[2] if len(row) > 2 else "Gene Expression" for row in rows]
    return ids, names, types if any(len(row) > 2 for row in rows) else None


def _mtx_header(path: Path) -> tuple[tuple[int, int], int]:
    """Read banner and sizes, so that forged sizes are refused before anything is allocated."""
    gzipped = path.suffix == ".gz"
    try:
        with gzip.open(path, "rt") if gzipped else path.open() as handle:
            banner = handle.readline()
            line = handle.readline()
            while line.startswith("%") or (line and not line.strip()):
                line = handle.readline()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise damaged(path, error) from error
    fields = line.split()
    legal = banner.startswith("%%MatrixMarket matrix coordinate") and banner.split()[-1] == "general"
    if not legal or len(fields) != 3 or not all(field.isdigit() for field in fields):
        raise InputError(
            f"{path}: its head is {banner.strip()[:60]!r} and {line.strip()[:40]!r}",
            "a sparse count matrix starts with '%%MatrixMarket matrix coordinate integer general' and three sizes",
            "give the matrix.mtx that Cell Ranger, STARsolo or alevin wrote",
        )
    n_rows, n_columns, stored = map(int, fields)
    if stored * 6 > path.stat().st_size * (1032 if gzipped else 1) + 6:
        raise InputError(
            f"{path}: {stored} values are declared in a file of {path.stat().st_size} bytes",
            "the file is cut or forged; reading on would give half a matrix",
            "copy or download it again; compare its checksum",
        )
    return (n_rows, n_columns), stored


def _triplets(path: Path, shape: tuple[int, int], stored: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read 0-based rows, columns and counts of a coordinate file.

    Every line is checked: scipy's own reader (1.17) writes outside its arrays on some damaged files.
    """
    names = ["row", "column", "value"]
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as handle, warnings.catch_warnings():
            warnings.simplefilter("error", ParserWarning)  # a line of four values
            line = handle.readline()
            while line.startswith(b"%") or (line and not line.strip()):
                line = handle.readline()
            table = pd.read_csv(
                handle,
                sep=r"\s+",
                header=None,
                names=names,
                index_col=False,
                dtype={"row": np.int64, "column": np.int64},
            )
    except (OSError, EOFError, ValueError, OverflowError, ParserWarning) as error:
        raise damaged(path, error) from error
    row, column = table["row"].to_numpy() - 1, table["column"].to_numpy() - 1
    if len(table) != stored:
        raise damaged(path, ValueError(f"{stored} values are declared and {len(table)} are there"))
    for what, index, size in (("row", row, shape[0]), ("column", column, shape[1])):
        if len(index) and (index.min() < 0 or index.max() >= size):
            bad = index[(index < 0) | (index >= size)][0] + 1
            raise damaged(path, ValueError(f"{what} {bad} of {size}"))
    return row, column, whole_numbers(table["value"].to_numpy(), str(path))
