"""What every reader gives: a matrix as it is in the file, and the checks that all formats share."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.errors import InputError
from multivi_nf.inputs.barcodes import meeting

NEAR_INTEGER = 1e-3
"""Largest distance from a whole number that still counts as one (matrices corrected for ambient RNA and rounded)."""

MAX_COUNT = np.iinfo(np.int32).max
_DEFLATE_LIMIT = 1100  # deflate cannot compress better than 1032:1; anything beyond is declared, not stored


@dataclass
class RawMatrix:
    """Counts as read, before a modality is chosen.

    Attributes
    ----------
    matrix
        Cells × features, CSR int32.
    barcodes
        One a row.
    ids, names
        One a column; equal where the file has one kind only.
    types
        Feature type of each column, or None where the file has none.
    source
        The file, and the place in it.
    obs
        Cell annotation (h5ad only).
    genomes
        Genome of each column, where the file names several.
    notes, warnings
        What was done on reading that the user should know, and what may be wrong.
    """

    matrix: sparse.csr_matrix
    barcodes: list[str]
    ids: list[str]
    names: list[str]
    types: list[str] | None
    source: str
    obs: pd.DataFrame | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    genomes: list[str] | None = None


def whole_numbers(values: np.ndarray, source: str) -> np.ndarray:
    """Give values as int32; NaN, infinite, negative, fractional or huge ones are refused with an example.

    Parameters
    ----------
    values
        Stored values of a sparse matrix, any numeric type.
    source
        File and place, for the message.

    Raises
    ------
    InputError
        What the first offending value is.
    """
    why = "the model's likelihoods are those of molecule counts"
    remedy = "give the raw counts (h5ad: in X, layers['counts'] or raw), not normalised or scaled values"
    if values.dtype.kind not in "biuf":
        raise InputError(f"{source}: values of type {values.dtype} are not numbers", why, remedy)
    if values.size == 0:
        return values.astype(np.int32)
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        if not finite.all():
            bad = values[~finite][0]
            raise InputError(
                f"{source}: {int((~finite).sum())} value(s) are {bad}",
                "one such value makes every result of training not a number",
                "find out how they came about; set them to 0 only if nothing was counted there",
            )
    low, high = values.min(), values.max()
    if low < 0:
        raise InputError(f"{source}: {int((values < 0).sum())} value(s) are negative, e.g. {low}", why, remedy)
    if high > MAX_COUNT:
        raise InputError(f"{source}: the value {high} is larger than any count ({MAX_COUNT})", why, remedy)
    if values.dtype.kind != "f":
        return values.astype(np.int32, copy=False)
    rounded = np.rint(values)
    off = np.abs(values - rounded) > NEAR_INTEGER
    if off.any():
        raise InputError(
            f"{source}: {off.mean():.1%} of the values are not whole numbers, e.g. {values[off][0]:.6g}",
            why,
            f"{remedy}; SoupX: adjustCounts(sc, roundToInt=TRUE)",
        )
    return rounded.astype(np.int32)


def check_structure(matrix: sparse.csr_matrix | sparse.csc_matrix, source: str) -> None:
    """Refuse a sparse matrix whose pointers or indices lead outside it: compiled code would follow them.

    Raises
    ------
    InputError
        Names the file and what scipy found.
    """
    try:
        matrix.check_format(full_check=True)
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"{source}: its sparse matrix does not hold together ({error})",
            "counts would be given to the wrong cells or genes",
            "the file is damaged; write or copy it again",
        ) from error


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading; anything that is not one, or is cut, is refused.

    Sizes that are declared but cannot be stored in a file of this length are refused before they are allocated.
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)", "there are no counts in it", "check how it was written")
    with path.open("rb") as handle:
        head = handle.read(2048)
    # mudata writes 512 bytes of text before the HDF5 signature
    if not any(head[offset : offset + 8] == b"\x89HDF\r\n\x1a\n" for offset in (0, 512, 1024)):
        raise InputError(
            f"{path} is not an HDF5 file (it starts with {head[:8]!r})",
            "its name says .h5 or .h5ad",
            "give a 10x .h5, an AnnData .h5ad or a folder with matrix.mtx",
        )
    try:
        handle = h5py.File(path, "r")
    except OSError as error:
        raise InputError(
            f"{path} cannot be opened as HDF5: {error}",
            "it is damaged, most often cut while copying",
            "copy or download it again; compare its checksum",
        ) from error
    limit = max(path.stat().st_size * _DEFLATE_LIMIT, 2**26)
    filters: dict[int, str] = {}

    def check(name: str, item: h5py.HLObject) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        foreign = foreign_filters(item)
        filters.update(dict.fromkeys(foreign, name))
        # zstd and others pack what repeats more tightly than deflate ever can
        most = limit * 100 if foreign else limit
        if item.size and item.size * item.dtype.itemsize > most:
            msg = f"dataset {name!r} declares {item.shape} values of {item.dtype}"
            raise InputError(
                f"{path}: {msg} in a file of {path.stat().st_size} bytes",
                "that much cannot be stored in it; reading it would only fill the memory",
                "the file is damaged or forged; write it again",
            )

    try:
        handle.visititems(check)
        need_filters(filters, path)
    except InputError:
        handle.close()
        raise
    except (OSError, RuntimeError, KeyError) as error:
        handle.close()
        raise unread(path, error) from error
    return handle


def foreign_filters(item: h5py.Dataset) -> dict[int, str]:
    """Filters by which a dataset is packed and that HDF5 itself does not have: number → name in the file."""
    plist = item.id.get_create_plist()
    found = (plist.get_filter(i) for i in range(plist.get_nfilters()))
    return {code: name.decode(errors="replace") for code, _flags, _values, name in found if code > LAST_OWN_FILTER}


LAST_OWN_FILTER = 255
"""HDF5 keeps numbers up to this for its own filters (deflate, shuffle, checksum, szip, ...)."""


def need_filters(filters: dict[int, str], path: Path) -> None:
    """Bring the plug-ins for filters (zstd of SnapATAC2 2.9, blosc, lz4, ...); refuse by name those nobody has.

    Parameters
    ----------
    filters
        Number of the filter → a dataset that is packed by it.
    """
    lacking = [code for code in filters if not h5py.h5z.filter_avail(code)]
    if lacking:
        import hdf5plugin  # noqa: F401  (registers its filters on import; a second of time, so only where needed)

        lacking = [code for code in lacking if not h5py.h5z.filter_avail(code)]
    if lacking:
        raise InputError(
            f"{path}: {filters[lacking[0]]!r} is packed by the HDF5 filter {lacking[0]}, which is not known here",
            "its values cannot be unpacked; the file itself is healthy",
            "write it again with gzip where it was written (adata.write_h5ad(..., compression='gzip')), or by "
            "`h5repack -f GZIP=4 in.h5ad out.h5ad`",
        )


_DAMAGE = re.compile(
    r"truncat|inflate|checksum|can't read data|unable to (synchronously )?(open|read)|addr overflow|end of file|eof"
    r"|wrong (fractal|b-tree|object)|bad (symbol|local|global|object|heap|version)|crc|corrupt|incorrect data check"
    r"|invalid (block|distance|code|stored)|signature|filter returned failure|file read failed|compressed",
    re.IGNORECASE,
)


def unread(path: Path, error: Exception) -> InputError:
    """Word the failure of a library in the middle of a file: damage only where bytes or checksums say so."""
    by_bytes = isinstance(error, (OSError, EOFError, zlib.error, RuntimeError)) and _DAMAGE.search(str(error))
    if by_bytes or isinstance(error, (EOFError, zlib.error)):
        return damaged(path, error)
    cause = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return InputError(
        f"{path} is laid out in a way that is not understood here ({cause})",
        "no byte of it is known to be damaged, but its counts and names could not be read",
        "open it with the program that wrote it, or with anndata.read_h5ad, and write it again (write_h5ad); R: "
        "anndataR::write_h5ad or an mtx folder by DropletUtils::write10xCounts",
    )


def damaged(path: Path, error: Exception) -> InputError:
    """Word that bytes of a file are missing or changed."""
    return InputError(
        f"{path} cannot be read to its end: {error}",
        "the file is damaged, most often cut while copying",
        "copy or download it again; compare its checksum",
    )


def strings(values: np.ndarray, source: str) -> list[str]:
    """Decode an HDF5 string dataset; text that is not UTF-8 is refused."""
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: a name is not UTF-8 text ({error})", "cells and features are matched by name", "write UTF-8"
        ) from error


def listed_rows(barcodes: list[str], cells: list[str], source: str) -> tuple[np.ndarray, list[str], list[str]]:
    """Find the rows of listed cells, also where only a suffix or prefix differs between list and matrix.

    Returns
    -------
    Row numbers in the matrix's order, the cells' names (as in the list where spellings differ), and notes.
    """
    keep = set(cells)
    rows = np.array([i for i, barcode in enumerate(barcodes) if barcode in keep], dtype=np.int64)
    if len(rows):
        return rows, [barcodes[i] for i in rows], []
    met = meeting(cells, barcodes)
    if met is None:
        return rows, [], []
    listed = {theirs: own for own, theirs in met[0].items()}
    rows = np.array([i for i, barcode in enumerate(barcodes) if barcode in listed], dtype=np.int64)
    first = barcodes[rows[0]]
    note = f"{source}: listed cells were found without {met[1]} ({listed[first]} is {first} there)"
    return rows, [listed[barcodes[i]] for i in rows], [note]


def looks_raw(detected: np.ndarray, n_features: int) -> str | None:
    """Tell whether a matrix holds all droplets rather than cells.

    Parameters
    ----------
    detected
        Features detected per barcode, over all modalities of the file.
    n_features
        Features in the file.

    Returns
    -------
    The reason, or None. A filtered matrix has next to no barcode with a handful of features; of all droplets most are
    such. Small panels (a dozen proteins) are judged by emptiness alone.
    """
    if detected.size < 500:
        return None
    low = max(1, min(100 if detected.size > 100_000 else 10, n_features // 50))
    share = float((detected < low).mean())
    if share > 0.5:
        return f"{share:.0%} of its {detected.size} barcodes have fewer than {low} detected feature(s)"
    return None


def raw_refused(path: Path, reason: str) -> InputError:
    """Word the refusal of an unfiltered matrix."""
    return InputError(
        f"{path} is an unfiltered (raw) matrix: {reason}",
        "most of its barcodes are empty droplets; taken as cells they would be the bulk of the data",
        "give the filtered matrix (filtered_feature_bc_matrix), or name the cells in the column barcodes",
    )
