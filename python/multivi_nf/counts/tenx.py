"""Matrices of Cell Ranger: HDF5 (v2 and v3 layout) and mtx folders, read by feature id with all feature types."""

from __future__ import annotations

import csv
import io
import re
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from pandas.errors import ParserWarning
from scipy import sparse

from multivi_nf.counts.feature_types import kinds_of
from multivi_nf.counts.matrix import RawMatrix, listed_rows, looks_raw, raw_refused, strings, whole_numbers
from multivi_nf.errors import Damaged, InputError
from multivi_nf.inputs.barcodes import check_barcodes
from multivi_nf.inputs.cell_table import read_cell_table
from multivi_nf.inputs.text import read_text
from multivi_nf.io.hdf5 import damaged, open_hdf5, unread
from multivi_nf.io.limits import is_gzip, opened

_BLOCK = 2**24  # stored values read at a time: 200 MB, whatever the size of the file
_RAW_NAME = re.compile(r"raw_(feature|gene|peak)_bc_matri|raw_gene_bc_matrices|_raw_bc_matrix")
_WHAT_10X = (
    "a 10x file has the group 'matrix' (Cell Ranger 3 and later) or one group per genome with 'barcodes' and 'genes'"
)


def read_10x_h5(path: Path, modality: str, cells: list[str] | None) -> RawMatrix:
    """Read the columns of one modality of a 10x `.h5`.

    The file is read in blocks of barcodes, so that memory follows what is kept, not what is stored.

    Parameters
    ----------
    path
        The file.
    modality
        Whose feature types to keep.
    cells
        Barcodes to keep; needed for unfiltered files.
    """
    with open_hdf5(path) as file:
        try:
            group, layout = _group(file, path)
            return _read_group(group, layout, path, modality, cells)
        except InputError:
            raise
        except Exception as error:  # h5py and numpy raise many kinds; the cause is kept
            raise unread(path, error) from error


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


def _read_group(group: h5py.Group, layout: str, path: Path, modality: str, cells: list[str] | None) -> RawMatrix:
    needed = ["barcodes", "data", "indices", "indptr", "shape"]
    missing = [name for name in needed if name not in group]
    if missing:
        raise Damaged(path, f": {group.name} lacks {', '.join(missing)}", _WHAT_10X, "write the file again")
    barcodes = strings(group["barcodes"][:], f"{path}, barcodes")
    if layout == "v3":
        features = group["features"]
        ids = strings(features["id"][:], f"{path}, features/id")
        names = strings(features["name"][:], f"{path}, features/name") if "name" in features else ids
        types = strings(features["feature_type"][:], f"{path}, feature_type") if "feature_type" in features else None
        genomes = strings(features["genome"][:], f"{path}, genome") if "genome" in features else None
    else:
        genomes = None
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
    kinds = None if types is None else kinds_of(types)
    columns = np.arange(len(ids))
    if kinds is not None and any(kinds):
        columns = np.flatnonzero(np.array([kind == modality for kind in kinds], dtype=bool))
    rows, kept, notes = _rows(barcodes, cells, str(path))
    matrix = _blocks(group, (len(barcodes), len(ids)), rows, columns, path)
    pick = columns.tolist()
    return RawMatrix(
        matrix,
        kept,
        [ids[i] for i in pick],
        [names[i] for i in pick],
        types,
        str(path),
        notes=notes,
        genomes=None if genomes is None or len(genomes) != len(ids) else [genomes[i] for i in pick],
    )


def _rows(barcodes: list[str], cells: list[str] | None, source: str) -> tuple[np.ndarray, list[str], list[str]]:
    if cells is None:
        return np.arange(len(barcodes)), barcodes, []
    return listed_rows(barcodes, cells, source)


def _blocks(
    group: h5py.Group, shape: tuple[int, int], rows: np.ndarray, columns: np.ndarray, path: Path
) -> sparse.csr_matrix:
    """Read rows of a barcode-major sparse group block by block, keeping only some rows and columns."""
    kept: list[sparse.csr_matrix] = []
    indptr = group["indptr"][:].astype(np.int64)
    start, (n, n_features) = 0, shape
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


_MATRIX = re.compile(r"\.mtx(\.gz)?$")
_FEATURES = (
    "features.tsv genes.tsv peaks.bed genes.txt all_genes.csv genes.csv features.txt genes.names.txt "
    "quants_mat_cols.txt proteins.txt features.csv"
).split()
_BARCODES = "barcodes.tsv barcodes.txt cell_metadata.csv quants_mat_rows.txt barcodes.csv cells.tsv cells.txt".split()


def find_mtx(path: Path) -> tuple[Path, Path, Path]:
    """Find matrix, features and barcodes of an mtx folder, or of a matrix file.

    Names of Cell Ranger 2 and 3 and cellranger-atac, STARsolo (its other matrices too, named as a file), kallisto
    bustools (`cells_x_genes.mtx`, `.genes.txt`, `.barcodes.txt`), alevin-fry, Parse, plain or gzip, with or without one
    common prefix (GEO).

    Returns
    -------
    The three files.
    """
    folder = path.parent if path.is_file() else path
    named = path if path.is_file() else None
    if named is None and (folder / "alevin").is_dir() and not any(_MATRIX.search(p.name) for p in folder.iterdir()):
        folder = folder / "alevin"
    matrices = sorted(p for p in folder.iterdir() if re.search(r"matrix\.mtx(\.gz)?$", p.name))
    matrices = matrices or sorted(p for p in folder.iterdir() if _MATRIX.search(p.name))
    if named is not None:
        matrices = [named]
    if len(matrices) != 1:
        raise InputError(
            f"{folder} holds {len(matrices)} files named *.mtx[.gz]"
            + (f" ({', '.join(p.name for p in matrices[:4])})" if matrices else ""),
            "which matrix is meant cannot be known" if matrices else "there are no counts in it",
            "name the matrix file itself in the samplesheet"
            if matrices
            else "put the sample's matrix.mtx, features.tsv (or genes.tsv) and barcodes.tsv there",
        )
    return matrices[0], _beside(matrices[0], "features", _FEATURES), _beside(matrices[0], "barcodes", _BARCODES)


def _beside(matrix: Path, what: str, names: list[str]) -> Path:
    """Find a list beside a matrix: of the matrix's own prefix first, then without one, then the only one there is."""
    stem = _MATRIX.sub("", matrix.name)
    prefixes = [re.sub(r"matrix$", "", stem)] if stem.endswith("matrix") else []
    prefixes += [f"{stem}.", f"{stem}_", stem, "", re.sub(r"[^_.]*$", "", stem)]
    for prefix in dict.fromkeys(prefixes):
        for name in names:
            for packed in ("", ".gz"):
                if (matrix.parent / f"{prefix}{name}{packed}").is_file():
                    return matrix.parent / f"{prefix}{name}{packed}"
    ending = re.compile("|".join(re.escape(name) for name in names))
    only = [p for p in sorted(matrix.parent.iterdir()) if p.is_file() and ending.search(p.name)]
    if len(only) == 1:
        return only[0]
    raise InputError(
        f"{matrix.parent}: {matrix.name} has {len(only) or 'no'} list{'s' if len(only) > 1 else ''} of {what} beside it"
        + (f" ({', '.join(p.name for p in only[:4])})" if only else ""),
        f"without {what} the matrix is a table of numbers",
        f"copy the list there under the name {names[0]} ({'or ' + names[1] if what == 'features' else 'one a line'})",
    )


def read_mtx(path: Path, cells: list[str] | None) -> RawMatrix:
    """Read an mtx folder (or its matrix file), features in rows as Cell Ranger writes it, or transposed."""
    matrix_file, features_file, barcodes_file = find_mtx(path)
    shape, stored = _mtx_header(matrix_file)
    barcodes, obs = _barcodes(barcodes_file, shape)
    check_barcodes(barcodes, str(barcodes_file))
    ids, names, types, genomes = _features(features_file, shape)
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
    rows, kept, said = _rows(barcodes, cells, str(matrix_file))
    if len(rows) < len(barcodes):
        matrix = matrix[rows]
    obs = None if obs is None else obs.iloc[rows]
    return RawMatrix(matrix, kept, ids, names, types, str(matrix_file), obs, [*notes, *said], genomes=genomes)


def _barcodes(path: Path, shape: tuple[int, int]) -> tuple[list[str], pd.DataFrame | None]:
    """Barcodes of an mtx folder; a table (Parse's `cell_metadata.csv`) has a header, and columns for `obs`."""
    lines = [line for line in read_text(path) if line.strip()]
    if path.name.removesuffix(".gz").endswith(".csv"):
        table = read_cell_table(path, lines)
        return table.barcodes, table.columns if len(table.columns.columns) else None
    barcodes = [line.split("\t")[0].strip().strip('"') for line in lines]
    if len(barcodes) - 1 in shape and len(barcodes) not in shape:
        barcodes = barcodes[1:]  # a line more than the matrix has cells: a heading
    return barcodes, None


def _features(path: Path, shape: tuple[int, int]) -> tuple[list[str], list[str], list[str] | None, list[str] | None]:
    """Ids, names, types and genomes of features, None where the list does not say."""
    name = path.name.removesuffix(".gz")
    separator = "," if name.endswith(".csv") else "\t"
    rows = [row for row in csv.reader(read_text(path), delimiter=separator, quotechar='"') if any(row)]
    _refuse_zero_bytes(path, rows)
    if name.endswith("peaks.bed"):
        rows = [row for row in rows if len(row) >= 3 and not row[0].startswith("#")]
        ids = [f"{r[0]}:{r[1]}-{r[2]}" for r in rows]
        return ids, ids, ["Peaks"] * len(ids), None
    if rows and len(rows) - 1 in shape and len(rows) not in shape:
        head, rows = [value.lower() for value in rows[0]], rows[1:]
    else:
        head = []
    ids = [row[0] for row in rows]
    names = [row[1] if len(row) > 1 and row[1] else row[0] for row in rows]
    if "genome" in head:
        place = head.index("genome")
        return ids, names, None, [row[place] if len(row) > place else "" for row in rows]
    types = [row[2] if len(row) > 2 else "Gene Expression" for row in rows]
    return ids, names, types if any(len(row) > 2 for row in rows) else None, None


def _refuse_zero_bytes(path: Path, rows: list[list[str]]) -> None:
    for k, row in enumerate(rows):
        if any("\0" in value for value in row):
            raise InputError(
                f"{path}: feature {k + 1}, {''.join(row)[:40]!r}, holds a zero byte",
                "no result file can hold such a name, and the file is damaged or no text",
                "copy or download it again; compare its checksum",
            )


def _mtx_header(path: Path) -> tuple[tuple[int, int], int]:
    """Read banner and sizes, so that forged sizes are refused before anything is allocated."""
    gzipped = is_gzip(path)
    try:
        with opened(path) as binary, io.TextIOWrapper(binary, "utf-8") as handle:
            banner = handle.readline()
            line = handle.readline()
            while line.startswith("%") or (line and not line.strip()):
                line = handle.readline()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise unread(path, error) from error
    fields = line.split()
    legal = banner.startswith("%%MatrixMarket matrix coordinate") and banner.split()[-1] == "general"
    if not legal or len(fields) != 3 or not all(re.fullmatch("[0-9]{1,15}", field) for field in fields):
        raise InputError(
            f"{path}: its head is {banner.strip()[:60]!r} and {line.strip()[:40]!r}",
            "a sparse count matrix starts with '%%MatrixMarket matrix coordinate integer general' and three sizes",
            "give the matrix.mtx that Cell Ranger, STARsolo or alevin wrote",
        )
    n_rows, n_columns, stored = map(int, fields)
    if stored * 6 > path.stat().st_size * (1032 if gzipped else 1) + 6:
        raise Damaged(
            path,
            f": {stored} values are declared in a file of {path.stat().st_size} bytes",
            "the file is cut or forged; reading on would give half a matrix",
        )
    return (n_rows, n_columns), stored


def _triplets(path: Path, shape: tuple[int, int], stored: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read 0-based rows, columns and counts of a coordinate file.

    Every line is checked: scipy's own reader (1.17) writes outside its arrays on some damaged files.
    """
    names = ["row", "column", "value"]
    try:
        # a line a value; the few more are comments and blanks
        with opened(path, most_lines=stored + 10_000) as handle, warnings.catch_warnings():
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
        raise unread(path, error) from error
    row, column = table["row"].to_numpy() - 1, table["column"].to_numpy() - 1
    if len(table) != stored:
        raise damaged(path, ValueError(f"{stored} values are declared and {len(table)} are there"))
    for what, index, size in (("row", row, shape[0]), ("column", column, shape[1])):
        if len(index) and (index.min() < 0 or index.max() >= size):
            bad = index[(index < 0) | (index >= size)][0] + 1
            raise damaged(path, ValueError(f"{what} {bad} of {size}"))
    return row, column, whole_numbers(table["value"].to_numpy(), str(path))
