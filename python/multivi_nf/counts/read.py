"""Count matrices: 10x `.h5`, mtx folders and `.h5ad` → AnnData with stable feature ids and whole-number counts."""

from __future__ import annotations

import re
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from multivi_nf.counts.feature_types import counted, kinds_of
from multivi_nf.counts.features import (
    is_antibody,
    is_ensembl,
    is_hashtag,
    is_interval,
    is_isotype,
    is_no_feature,
    parse_peak,
    peak_frame,
    species_of,
    stable_id,
    summed,
)
from multivi_nf.counts.given import tidy
from multivi_nf.counts.h5ad import modalities_of, read_annotated
from multivi_nf.counts.matrix import RawMatrix, whole_numbers
from multivi_nf.counts.tenx import find_mtx, read_10x_h5, read_mtx
from multivi_nf.errors import InputError
from multivi_nf.modalities import MODALITIES

__all__ = [
    "find_mtx",
    "is_ensembl",
    "is_hashtag",
    "is_isotype",
    "modalities_of",
    "parse_peak",
    "peak_frame",
    "read_counts",
    "species_of",
    "stable_id",
    "whole_numbers",
]

_TYPES = {"rna": "Gene Expression", "atac": "Peaks", "protein": "Antibody Capture"}


def read_counts(path: str | Path, modality: str, barcodes: list[str] | None = None) -> ad.AnnData:
    """Read the counts of one modality.

    Parameters
    ----------
    path
        10x `.h5`, a folder with `matrix.mtx` (or that file), `.h5ad`, `.h5mu`, or a zarr store of the latter two.
    modality
        `rna`, `atac` or `protein`; a file with several feature types gives its own type.
    barcodes
        The cells to keep. Without it, unfiltered (raw) matrices are refused.

    Returns
    -------
    `X`: cells × features, CSR int32 without stored zeros. `obs_names`: barcodes as in the file, in its order; `obs`:
    the columns of an `.h5ad`. `var_names`: Ensembl id without version where there is one, else the name; peaks
    `chrom:start-end`; proteins their name. `var`: `symbol`; peaks also `chrom`, `start`, `end`; proteins `isotype`.
    `uns["source"]`: file and place in it; `uns["notes"]`: what was done on reading; `uns["warnings"]`: what may be
    wrong.

    Raises
    ------
    InputError
        The file is not one of these, is damaged, holds no counts of the modality, or none of the `barcodes`.
    """
    path = Path(path)
    if modality not in MODALITIES:
        msg = f"modality {modality!r} is not one of {', '.join(MODALITIES)}"
        raise ValueError(msg)
    raw = read_raw(path, modality, barcodes)
    raw = _of_type(raw, modality, path)
    _drop_counters(raw)
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
    adata.uns["warnings"] = raw.warnings
    return adata


def read_raw(path: Path, modality: str, cells: list[str] | None) -> RawMatrix:
    """Read a matrix as its file has it; readers of files by kinds give the columns of `modality` only."""
    if not path.exists():
        raise InputError(
            f"{path} does not exist", f"it was named in the column {modality}", "correct the path in the samplesheet"
        )
    if path.is_dir() and _is_zarr(path):
        return read_annotated(path, cells, modality)
    if path.is_dir() or path.name.endswith((".mtx", ".mtx.gz")):
        return read_mtx(path, cells)
    if path.suffix in (".h5ad", ".h5mu"):
        return read_annotated(path, cells, modality)
    if path.suffix in (".h5", ".hdf5"):
        return read_10x_h5(path, modality, cells)
    raise InputError(
        f"{path}: files named *{path.suffix or path.name} are not count matrices known here",
        f"the column {modality} takes a 10x .h5, an mtx folder, .h5ad, .h5mu or a zarr store",
        "convert it (scanpy or Seurat write .h5ad), or put it in the right column (fragments, peaks, barcodes)",
    )


def _is_zarr(path: Path) -> bool:
    return path.suffix == ".zarr" or any((path / name).exists() for name in (".zgroup", "zarr.json", ".zattrs"))


def _of_type(raw: RawMatrix, modality: str, path: Path) -> RawMatrix:
    """Keep the columns of the modality: by their feature types, or where there are none by what names surely are."""
    types = raw.types or []
    kinds = kinds_of(types)
    if not any(kinds):
        return _by_names(raw, modality)
    if modality not in kinds:
        column = next((m for m in _TYPES if m in kinds), None)
        raise InputError(
            f"{path} holds no feature of type {_TYPES[modality]!r}; it holds {counted(types)}",
            f"it was named in the column {modality}",
            f"name it in the column {column}"
            if column
            else f"give the file that holds them, or call their type {_TYPES[modality]!r} if they are {modality}",
        )
    if len(types) == raw.matrix.shape[1] and set(kinds) != {modality}:
        _keep(raw, np.array([kind == modality for kind in kinds], dtype=bool))
        strange = sorted({t for t, kind in zip(types, kinds) if kind is None})
        if strange:
            raw.warnings.append(
                f"{raw.source}: features of type {', '.join(map(repr, strange[:5]))} are not known and left out"
            )
    return raw


def _by_names(raw: RawMatrix, modality: str) -> RawMatrix:
    """Without feature types: peaks never become genes, nor antibodies with a telling name."""
    place = np.array([is_interval(i) or is_interval(n) for i, n in zip(raw.ids, raw.names)], dtype=bool)
    antibody = np.array([is_antibody(i) or is_antibody(n) for i, n in zip(raw.ids, raw.names)], dtype=bool)
    strangers = {"rna": place | antibody, "atac": ~place, "protein": place}[modality]
    if modality == "atac" and not (0 < strangers.sum() < len(place) and _mostly_genes(raw, strangers)):
        return raw
    if not strangers.any() or strangers.sum() > len(strangers) / 2 and modality != "atac":
        return raw
    pick = np.flatnonzero(strangers)
    raw.warnings.append(
        f"{raw.source}: {len(pick)} of {len(place)} features are not {modality} by their names, e.g. "
        f"{raw.names[pick[0]]!r}, and were left out; a column var['feature_types'] would say what they are"
    )
    _keep(raw, ~strangers)
    return raw


def _mostly_genes(raw: RawMatrix, mask: np.ndarray) -> bool:
    names = [raw.ids[i] for i in np.flatnonzero(mask)[:2000]]
    return sum(is_ensembl(name) for name in names) > len(names) / 2 or len(names) >= 20


def _drop_counters(raw: RawMatrix) -> None:
    """Leave out rows that count what was assigned to no feature."""
    counters = np.array([is_no_feature(i) or is_no_feature(n) for i, n in zip(raw.ids, raw.names)], dtype=bool)
    if counters.any():
        names = ", ".join(raw.names[i] for i in np.flatnonzero(counters)[:5])
        raw.notes.append(f"{raw.source}: {int(counters.sum())} row(s) that are no features were left out ({names})")
        _keep(raw, ~counters)


def _keep(raw: RawMatrix, mask: np.ndarray) -> None:
    """Keep some columns, with their names."""
    pick = np.flatnonzero(mask)
    raw.matrix = raw.matrix[:, pick]
    raw.ids, raw.names = [raw.ids[i] for i in pick], [raw.names[i] for i in pick]
    if raw.genomes is not None and len(raw.genomes) == len(mask):
        raw.genomes = [raw.genomes[i] for i in pick]


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
    obs, notes = tidy(obs, raw.source)
    raw.notes += notes
    return ad.AnnData(raw.matrix, obs=obs, var=var)


_BY_GENOME = re.compile(r"^([A-Za-z0-9.]+?)_+(?=ENS[A-Z]*G\d{11})")


def _species(raw: RawMatrix) -> None:
    """Tell a matrix of two species, by its column `genome` or the genome before each id (`GRCh38_ENSG...`)."""
    genomes = [g for g in raw.genomes or () if g]
    if len(set(genomes)) < 2:
        genomes = [found.group(1) for i in raw.ids if (found := _BY_GENOME.match(i))]
    if len(set(genomes)) < 2:
        genomes = [found.group(1) for i in raw.ids if (found := re.match(r"^(ENS[A-Z]*G)\d{11}", i))]
    if len(set(genomes)) < 2:
        return
    shares = pd.Series(genomes).value_counts()
    told = ", ".join(f"{genome} ({n} genes)" for genome, n in shares.items())
    raw.warnings.append(
        f"{raw.source} holds genes of {len(shares)} genomes: {told}. Species will be the strongest difference "
        "between its cells, and cells of both are doublets; to model one species list its cells in the column barcodes"
    )


def _genes(raw: RawMatrix) -> ad.AnnData:
    intervals = sum(parse_peak(name) is not None and ":" in name for name in raw.ids[:200])
    if intervals > len(raw.ids[:200]) / 2:
        raise InputError(
            f"{raw.source}: its features are intervals, e.g. {raw.ids[0]!r}",
            "peaks are not genes",
            "name the file in the column atac",
        )
    _species(raw)
    # the index of many h5ad holds symbols and a column the ids, or the other way round
    ids, symbols = raw.ids, raw.names
    if sum(map(is_ensembl, symbols[:2000])) > sum(map(is_ensembl, ids[:2000])):
        ids, symbols = symbols, ids
    stable = _unsplit([stable_id(identifier) for identifier in ids], raw)
    raw.matrix, names, first = summed(raw.matrix, stable)
    if len(names) < len(stable):
        repeated = len(stable) - len(names)
        raw.notes.append(f"{raw.source}: {repeated} gene(s) whose id occurs twice (versions, _PAR_Y) were added up")
    return _finish(raw, names, pd.DataFrame({"symbol": pd.Series(symbols, dtype=object)}), first)


def _unsplit(names: list[str], raw: RawMatrix) -> list[str]:
    """alevin-fry counts spliced, unspliced (`-U`) and ambiguous (`-A`) apart; one gene is their sum."""
    known = set(names)
    bare = [name[:-2] if name.endswith(("-U", "-A")) and name[:-2] in known else name for name in names]
    split = sum(one != other for one, other in zip(names, bare))
    if split < len(names) / 2:
        return names
    raw.notes.append(f"{raw.source}: spliced, unspliced (-U) and ambiguous (-A) counts of each gene were added up")
    return bare


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
