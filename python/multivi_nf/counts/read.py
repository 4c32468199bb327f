"""Count matrices: 10x `.h5`, mtx folders and `.h5ad` → AnnData with stable feature ids and whole-number counts."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from multivi_nf.counts.features import (
    is_ensembl,
    is_hashtag,
    is_isotype,
    parse_peak,
    peak_frame,
    species_of,
    stable_id,
    summed,
)
from multivi_nf.counts.h5ad import read_h5ad
from multivi_nf.counts.matrix import RawMatrix, whole_numbers
from multivi_nf.counts.tenx import find_mtx, read_10x_h5, read_mtx
from multivi_nf.errors import InputError
from multivi_nf.modalities import MODALITIES

__all__ = [
    "find_mtx",
    "is_ensembl",
    "is_hashtag",
    "is_isotype",
    "parse_peak",
    "peak_frame",
    "read_counts",
    "species_of",
    "stable_id",
    "whole_numbers",
]

_TYPES = {"rna": "Gene Expression", "atac": "Peaks", "protein": "Antibody Capture"}
_HASHTAG_TYPES = ("Multiplexing Capture", "CRISPR Guide Capture", "Custom", "Antigen Capture")


def read_counts(path: str | Path, modality: str, barcodes: list[str] | None = None) -> ad.AnnData:
    """Read the counts of one modality.

    Parameters
    ----------
    path
        10x `.h5`, a folder with `matrix.mtx` (or that file), or `.h5ad`.
    modality
        `rna`, `atac` or `protein`; a file with several feature types gives its own type.
    barcodes
        The cells to keep. Without it, unfiltered (raw) matrices are refused.

    Returns
    -------
    `X`: cells × features, CSR int32 without stored zeros. `obs_names`: barcodes as in the file, in its order; `obs`:
    the columns of an `.h5ad`. `var_names`: Ensembl id without version where there is one, else the name; peaks
    `chrom:start-end`; proteins their name. `var`: `symbol`; peaks also `chrom`, `start`, `end`; proteins `isotype`.
    `uns["source"]`: file and place in it; `uns["notes"]`: what was done on reading.

    Raises
    ------
    InputError
        The file is not one of these, is damaged, holds no counts of the modality, or none of the `barcodes`.
    """
    path = Path(path)
    if modality not in MODALITIES:
        msg = f"modality {modality!r} is not one of {', '.join(MODALITIES)}"
        raise ValueError(msg)
    raw = _read(path, modality, barcodes)
    raw = _of_type(raw, modality, path)
    if barcodes is not None:
        _check_found(raw, barcodes, path)
    if raw.matrix.shape[0] == 0 or raw.matrix.shape[1] == 0:
        raise InputError(
            f"{raw.source}: {raw.matrix.shape[0]} cells × {raw.matrix.shape[1]} {modality} features",
            "there is nothing to model",
            "check how the file was written, and the column barcodes",
        )
    adata = {"rna": _genes, "atac": _peaks, "protein": _proteins}[modality](raw)
    adata.X.sum_duplicates()
    adata.X.eliminate_zeros()
    adata.X.sort_indices()
    if adata.X.nnz == 0:
        raise InputError(
            f"{raw.source}: every {modality} count is 0", "nothing was measured", "check how the file was written"
        )
    if adata.X.data.max() == 1 and modality == "rna":
        raw.notes.append(f"{raw.source}: no count is above 1; the matrix may have been binarised")
    adata.uns["source"] = raw.source
    adata.uns["notes"] = raw.notes
    return adata


def _read(path: Path, modality: str, cells: list[str] | None) -> RawMatrix:
    if not path.exists():
        raise InputError(
            f"{path} does not exist", f"it was named in the column {modality}", "correct the path in the samplesheet"
        )
    if path.is_dir() or path.name.endswith((".mtx", ".mtx.gz")):
        return read_mtx(path, cells)
    if path.suffix == ".h5ad":
        return read_h5ad(path, cells)
    if path.suffix in (".h5", ".hdf5"):
        return read_10x_h5(path, (_TYPES[modality],), cells)
    raise InputError(
        f"{path}: files named *{path.suffix or path.name} are not count matrices known here",
        f"the column {modality} takes a 10x .h5, an mtx folder or .h5ad",
        "convert it (scanpy or Seurat write .h5ad), or put it in the right column (fragments, peaks, barcodes)",
    )


def _of_type(raw: RawMatrix, modality: str, path: Path) -> RawMatrix:
    """Keep the columns of the modality's feature type; a 10x file was already read so."""
    wanted = _TYPES[modality]
    if raw.types is None or not set(raw.types) & {*_TYPES.values(), *_HASHTAG_TYPES}:
        return raw
    if wanted not in raw.types:
        counted = ", ".join(f"{t} ({n})" for t, n in pd.Series(raw.types).value_counts().items())
        column = next((m for m, t in _TYPES.items() if t in raw.types), None)
        raise InputError(
            f"{path} holds no feature of type {wanted!r}; it holds {counted}",
            f"it was named in the column {modality}",
            f"name it in the column {column}" if column else "give the file that holds them",
        )
    if len(raw.types) == raw.matrix.shape[1] and set(raw.types) != {wanted}:
        pick = np.flatnonzero(np.array(raw.types) == wanted)
        raw.matrix = raw.matrix[:, pick]
        raw.ids, raw.names = [raw.ids[i] for i in pick], [raw.names[i] for i in pick]
    return raw


def _check_found(raw: RawMatrix, barcodes: list[str], path: Path) -> None:
    found = len(raw.barcodes)
    if found == 0:
        raise InputError(
            f"none of the {len(barcodes)} barcodes of the list (e.g. {barcodes[0]!r}) is in {path}",
            "no cell would be left",
            "give the list that belongs to this matrix, with the same suffix (-1) and prefix",
        )
    if found < len(barcodes):
        raw.notes.append(f"{path}: {len(barcodes) - found} of {len(barcodes)} listed barcodes are not in the matrix")


def _finish(raw: RawMatrix, names: list[str], var: pd.DataFrame, first: np.ndarray | None = None) -> ad.AnnData:
    var = var if first is None else var.iloc[first]
    var.index = pd.Index(names, dtype=object)
    obs = pd.DataFrame(index=pd.Index(raw.barcodes, dtype=object)) if raw.obs is None else raw.obs.copy()
    obs.index = pd.Index(raw.barcodes, dtype=object)
    return ad.AnnData(raw.matrix, obs=obs, var=var)


def _genes(raw: RawMatrix) -> ad.AnnData:
    intervals = sum(parse_peak(name) is not None and ":" in name for name in raw.ids[:200])
    if intervals > len(raw.ids[:200]) / 2:
        raise InputError(
            f"{raw.source}: its features are intervals, e.g. {raw.ids[0]!r}",
            "peaks are not genes",
            "name the file in the column atac",
        )
    # the index of many h5ad holds symbols and a column the ids, or the other way round
    ids, symbols = raw.ids, raw.names
    if sum(map(is_ensembl, symbols[:2000])) > sum(map(is_ensembl, ids[:2000])):
        ids, symbols = symbols, ids
    stable = [stable_id(identifier) for identifier in ids]
    raw.matrix, names, first = summed(raw.matrix, stable)
    if len(names) < len(stable):
        repeated = len(stable) - len(names)
        raw.notes.append(f"{raw.source}: {repeated} gene(s) whose id occurs twice (versions, _PAR_Y) were added up")
    return _finish(raw, names, pd.DataFrame({"symbol": pd.Series(symbols, dtype=object)}), first)


def _peaks(raw: RawMatrix) -> ad.AnnData:
    frame = peak_frame(raw.ids, raw.source)
    if frame.index.duplicated().any():
        raise InputError(
            f"{raw.source}: peak {frame.index[frame.index.duplicated()][0]} occurs twice",
            "two columns would stand for one place",
            "keep one column a peak",
        )
    frame.insert(0, "symbol", frame.index)
    return _finish(raw, frame.index.tolist(), frame)


def _proteins(raw: RawMatrix) -> ad.AnnData:
    if sum(map(is_ensembl, raw.ids)) > len(raw.ids) / 2 and len(raw.ids) > 1000:
        raise InputError(
            f"{raw.source}: its {len(raw.ids)} features have gene ids, e.g. {raw.ids[0]!r}",
            "genes are not surface proteins",
            "name the file in the column rna; proteins need the feature type Antibody Capture",
        )
    tags = np.array([is_hashtag(i) or is_hashtag(n) for i, n in zip(raw.ids, raw.names)])
    if tags.any():
        pick = np.flatnonzero(~tags)
        raw.notes.append(f"{raw.source}: {int(tags.sum())} hashtag(s) left out; they mark samples, not proteins")
        raw.matrix = raw.matrix[:, pick]
        raw.ids, raw.names = [raw.ids[i] for i in pick], [raw.names[i] for i in pick]
        if not len(pick):
            raise InputError(
                f"{raw.source}: all its antibodies are hashtags",
                "hashtags say which sample a cell came from, not what it expresses",
                "leave the column protein empty for this sample",
            )
    repeated = pd.Index(raw.names).duplicated(keep=False)
    names = [i if twice else n for i, n, twice in zip(raw.ids, raw.names, repeated)]
    names = [name.replace("/", "_") for name in names]  # a slash is a folder in HDF5 and zarr
    if len(set(names)) < len(names):
        twice = pd.Index(names)[pd.Index(names).duplicated()][0]
        raise InputError(
            f"{raw.source}: protein {twice!r} occurs twice",
            "which antibody is meant could not be known",
            "give each antibody its own name or id",
        )
    isotype = [is_isotype(i) or is_isotype(n) for i, n in zip(raw.ids, raw.names)]
    return _finish(raw, names, pd.DataFrame({"symbol": pd.Series(raw.names, dtype=object), "isotype": isotype}))
