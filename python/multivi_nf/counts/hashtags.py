"""Hashtags: antibodies or lipids that mark which donor or condition a cell came from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anndata as ad
import pandas as pd
from scipy import sparse

from multivi_nf.counts.feature_types import kinds_of
from multivi_nf.counts.features import is_ensembl, is_hashtag, is_no_feature
from multivi_nf.counts.matrix import RawMatrix
from multivi_nf.counts.read import read_raw
from multivi_nf.errors import InputError

MOST_TAGS = 100
"""A file of tags alone, whatever they are called, has no more features than this."""

_KINDS = ("hashtag", "protein", "other")


def read_hashtags(path: str | Path, barcodes: list[str] | None = None, names: Sequence[str] = ()) -> ad.AnnData:
    """Read the hashtag counts of one sample.

    Parameters
    ----------
    path
        Any matrix that :func:`multivi_nf.counts.read.read_counts` reads; also the one that holds RNA and protein.
    barcodes
        The cells to keep.
    names
        Which features are the tags. By default those of a hashtag's feature type (`Multiplexing Capture`, HTO, CMO),
        else those with a hashtag's name (`HTO1`, `Hashtag 3`, `CMO301`), else, in a file of at most 100 features none
        of which is a gene, all.

    Returns
    -------
    Cells × tags, whole numbers.

    Raises
    ------
    InputError
        No tag is found, or one that is named is not there.
    """
    path = Path(path)
    columns = [part for kind in _KINDS for part in _columns(path, kind, barcodes)] if _by_kind(path) else []
    columns = columns or _columns(path, "protein", barcodes)
    chosen = _chosen(columns, names)
    missing = [name for name in names if name not in [column.name for column in chosen]]
    if missing:
        raise InputError(
            f"{path}: there is no feature {missing[0]!r}",
            "it was named in the column hto",
            f"name hashtags as the file does, e.g. {', '.join(column.name for column in columns[:5])}",
        )
    if not chosen:
        raise InputError(
            f"{path} holds no hashtag: no feature is of type Multiplexing Capture or called HTO, hashtag or CMO",
            "it was named in the column hto",
            "name the features instead of the file in the column hto (HTO_A|HTO_B), or give the file of hashtags",
        )
    by_name: dict[str, _Column] = {}
    for column in chosen:
        by_name.setdefault(column.name, column)
    first = list(by_name.values())
    tags = ad.AnnData(
        sparse.hstack([column.raw.matrix[:, [column.place]] for column in first], format="csr"),
        obs=pd.DataFrame(index=pd.Index(first[0].raw.barcodes, dtype=object)),
        var=pd.DataFrame(index=pd.Index([column.name for column in first], dtype=object)),
    )
    tags.uns["notes"] = list(dict.fromkeys(note for column in first for note in column.raw.notes))
    return tags


@dataclass(frozen=True)
class _Column:
    """One feature of a file, and what kind its feature type says it is."""

    raw: RawMatrix
    place: int
    identifier: str
    name: str
    kind: str | None


def _by_kind(path: Path) -> bool:
    """Whether the reader of the file gives one kind of features at a time."""
    return path.suffix in (".h5", ".hdf5", ".h5mu")


def _columns(path: Path, kind: str, barcodes: list[str] | None) -> list[_Column]:
    """Every feature that the reader gives for a kind; none where a file by kinds has none of it."""
    try:
        raw = read_raw(path, kind, barcodes)
    except InputError:
        if not _by_kind(path) or kind == "protein":
            raise
        return []
    types = raw.types
    whole = types is not None and len(types) == len(raw.names)
    kinds = kinds_of(types) if types is not None and whole else [kind if types else None] * len(raw.names)
    return [
        _Column(raw, place, identifier, name, own)
        for place, (identifier, name, own) in enumerate(zip(raw.ids, raw.names, kinds))
        if not (is_no_feature(identifier) or is_no_feature(name))
    ]


def _chosen(columns: list[_Column], names: Sequence[str]) -> list[_Column]:
    """The features that are tags; see :func:`read_hashtags`."""
    if names:
        by_id = [replace(column, name=column.identifier) for column in columns if column.identifier in names]
        return [column for column in columns if column.name in names] or by_id
    typed = [column for column in columns if column.kind == "hashtag"]
    named = [column for column in columns if is_hashtag(column.identifier) or is_hashtag(column.name)]
    if typed or named:
        return typed or named
    bare = all(column.kind is None and not is_ensembl(column.identifier) for column in columns)
    return columns if bare and len(columns) <= MOST_TAGS else []


def tag_names(text: str) -> list[str]:
    """Split names of hashtags as written in one value of the samplesheet: by `;`, `|` or `,`."""
    return [name.strip() for name in re.split(r"[;|,]", text) if name.strip()]


def one_tag(sample: str, names: Sequence[str]) -> InputError:
    """Word the refusal of a sample with fewer than two hashtags that have counts."""
    return InputError(
        f"sample {sample!r}: {len(names)} of its hashtags ({', '.join(names[:5]) or 'none'}) have counts",
        "one tag alone tells no cells apart",
        "name the file that holds all hashtags of the sample, or leave the column hto empty",
    )
