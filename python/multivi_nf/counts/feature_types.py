"""Feature types as tools spell them, and which of the three modalities each stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

_SPELLINGS = {
    "rna": "gene expression, gene, genes, gex, rna, mrna, transcript, transcripts, transcriptome, expression, "
    "gene id, scrna, snrna",
    "atac": "peaks, peak, atac, atacseq, atac seq, chromatin accessibility, accessibility, open chromatin, scatac, "
    "chromatin, region, regions",
    "protein": "antibody capture, adt, adts, protein, proteins, prot, antibody, antibodies, ab, surface protein, "
    "surface proteins, protein expression, antibody derived tag, antibody derived tags, cite, citeseq, cite seq, "
    "abseq, abseq expression, antibody expression",
    "hashtag": "multiplexing capture, hto, htos, hashtag, hashtags, cmo, cell hashing, hashing, sample tag, "
    "multiplexing",
    "other": "crispr guide capture, crispr, guide, grna, sgrna, custom, antigen capture, antigen, vdj t, vdj b, vdj, "
    "spike in, ercc",
}
_KINDS = {spelling: kind for kind, spellings in _SPELLINGS.items() for spelling in spellings.split(", ")}
_COLUMNS = ("feature_types", "feature_type", "feature.type", "featuretype", "type", "types", "modality", "assay")
_MOST_TYPES = 20
"""A column of more different values than this names features, not their types."""


def kind_of(spelling: object) -> str | None:
    """Give what a feature type stands for: `rna`, `atac`, `protein`, `hashtag`, `other`; None if it is not known.

    Case, blanks, dashes and a genome before it (`GRCh38_Gene Expression`) do not matter.
    """
    words = re.sub(r"[^a-z0-9]+", " ", str(spelling).strip().lower()).strip()
    while words and words not in _KINDS and " " in words:
        first, words_left = words.split(" ", 1)
        if not re.search(r"\d", first):  # a genome has a number in its name: GRCh38, mm10
            return None
        words = words_left
    return _KINDS.get(words)


def kinds_of(types: Sequence[object]) -> list[str | None]:
    """Give the kind of each feature type, None where it is not known."""
    known = {value: kind_of(value) for value in dict.fromkeys(types)}
    return [known[value] for value in types]


def type_column(var: pd.DataFrame) -> str | None:
    """Find the column of `var` that holds feature types, whatever it is called.

    A usual name counts where any of its values is a known type (`feature_type` of CELLxGENE holds biotypes); another
    column where all its values are known and name two kinds.
    """
    lower = {str(column).lower(): column for column in reversed(list(var.columns))}
    for name in _COLUMNS:
        if name in lower and any(kind_of(value) for value in _values(var[lower[name]])):
            return lower[name]
    for column in var.columns:
        if var[column].dtype.kind in "biufcmM":
            continue
        values = _values(var[column])
        kinds = {kind_of(value) for value in values}
        if len(kinds) > 1 and None not in kinds:
            return column
    return None


def _values(column: pd.Series) -> list[str]:
    values = pd.unique(column.dropna().astype(str))
    return list(values) if len(values) <= _MOST_TYPES else []


def counted(types: Sequence[str]) -> str:
    """Tell how many features each type has, for messages."""
    return ", ".join(f"{name} ({n})" for name, n in pd.Series(list(types)).value_counts().items())
