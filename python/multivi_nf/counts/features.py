"""Names of features: stable gene ids, peak coordinates, isotype controls, hashtags."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.errors import InputError

_ENSEMBL = re.compile(r"^(ENS[A-Z]*G\d{11})(\.\d+)?(_PAR_Y)?$")
_PEAK = re.compile(r"^(.+?)[:_-](\d+)[_-](\d+)$")
_ANIMAL = r"(mouse|rat|rag|hamster|armenian|syrian|rabbit|goat)"
_ISOTYPE = re.compile(
    rf"isotype|(^|[^a-z]){_ANIMAL}([-_. ]*hamster)?[-_. ]*ig[gma]([^a-z]|$)"
    r"|^ig[gm][-_. ]?(1|2[abc]|3|4)?[-_. ]*([a-z]+[-_. ]*)*(ctrl|control)"
    r"|(ctrl|control)[-_. ]*ig[gm]"
    r"|^((m|r|ms|hu|mouse)[-_. ]?)?igg[-_. ]?(1|2[abc])([^a-z0-9]|$)",
    re.IGNORECASE,
)
_TARGET = re.compile(r"(^|[^a-z])anti[-_. ]", re.IGNORECASE)
_CONTROL = re.compile(r"isotype|ctrl|control", re.IGNORECASE)
NOT_FEATURES = re.compile(
    r"^(_{0,2}(unmapped|no[-_ ]?feature|ambiguous|too[-_ ]?low[-_ ]?a?qual|not[-_ ]?aligned"
    r"|alignment[-_ ]?not[-_ ]?unique|unassigned|no[-_ ]?match|bad[-_ ]?struct|total[-_ ]?reads"
    r"|multi[-_ ]?mapping|multimapped)"
    r"|n_(unmapped|multimapping|nofeature|ambiguous))$",
    re.IGNORECASE,
)
"""Rows that counters add below the features: HTSeq, STAR, featureCounts, CITE-seq-Count."""
_ANTIBODY = re.compile(
    r"[-_. ]?total[-_ ]?seq[-_ ]?[a-d]?$|^(adt|antibody|abseq|prot)[-_:]|[-_](adt|pabo)$", re.IGNORECASE
)
_PLACE = re.compile(r"^(chr[^:]*|[0-9]{1,2}[LR]?|[XYMWZ]|MT|GL\d+[.\d]*|KI\d+[.\d]*|JH\d+[.\d]*)[:_-]\d+[_-]\d+$")
_HASHTAG = re.compile(r"hashtag|^hto[-_. ]?[a-z0-9]*$|^cmo[-_. ]?\d+$", re.IGNORECASE)


def stable_id(identifier: str) -> str:
    """Strip the version and `_PAR_Y` of an Ensembl id: `ENSG00000182378.14_PAR_Y` → `ENSG00000182378`."""
    found = _ENSEMBL.match(identifier)
    return found.group(1) if found else identifier


def is_ensembl(identifier: str) -> bool:
    """Tell whether a name is an Ensembl gene id of any species, with or without version."""
    return _ENSEMBL.match(identifier) is not None


def species_of(names: Sequence[str]) -> str | None:
    """Guess the species from ids, or from the spelling of symbols (`CD4` human, `Cd4` mouse); None if undecided."""
    sample = [name for name in names if name][:5000]
    if not sample:
        return None
    prefixes = [found.group(1)[:-11] for name in sample if (found := _ENSEMBL.match(name))]
    if len(prefixes) > len(sample) / 2:
        common = max(set(prefixes), key=prefixes.count)
        return {"ENSG": "human", "ENSMUSG": "mouse"}.get(common, f"species {common}")
    letters = [name for name in sample if re.match(r"^[A-Za-z]{2}", name) and not name.upper().startswith("LOC")]
    if len(letters) < 20:
        return None
    upper = sum(name[:3].isupper() or name[:2].isupper() for name in letters) / len(letters)
    title = sum(name[0].isupper() and name[1].islower() for name in letters) / len(letters)
    return "human" if upper > 0.8 else "mouse" if title > 0.6 else None


def parse_peak(name: str) -> tuple[str, int, int] | None:
    """Read `chrom:start-end` (also with `-` or `_` between) as coordinates; None if it is no interval."""
    found = _PEAK.match(name)
    if found is None or int(found.group(3)) <= int(found.group(2)):
        return None
    return found.group(1), int(found.group(2)), int(found.group(3))


def is_interval(name: str) -> bool:
    """Tell whether a name is surely a place in a genome: `chr1:10-20`, `1-10-20`, `GRCh38_chr1:10-20`."""
    bare = re.sub(r"^[A-Za-z0-9.]+_+(?=chr)", "", name)
    return _PLACE.match(bare) is not None and parse_peak(bare) is not None


def is_isotype(name: str) -> bool:
    """Tell whether a protein name is that of an isotype control (`IgG1`, `Rat-IgG2b`, `Isotype_MOPC.21`).

    Immunoglobulins of the cell (`IgM`, `IgD`, `IgG`, `IgA`) and antibodies against them (`anti-mouse IgM`) are not.
    """
    if _TARGET.search(name) and not _CONTROL.search(name):
        return False
    return _ISOTYPE.search(name) is not None


def is_no_feature(name: str) -> bool:
    """Tell whether a row counts what was *not* assigned (`unmapped`, `__no_feature`), so that it is no feature."""
    return NOT_FEATURES.match(name) is not None


def is_antibody(name: str) -> bool:
    """Tell whether a name is surely that of an antibody: `CD3_TotalSeqB`, `ADT-CD4`, `CD19-pAbO`."""
    return _ANTIBODY.search(name) is not None


def is_hashtag(name: str) -> bool:
    """Tell whether an antibody is a sample tag (`HTO1`, `Hashtag_3`, `CMO301`)."""
    return _HASHTAG.search(name) is not None


def summed(matrix: sparse.csr_matrix, names: Sequence[str]) -> tuple[sparse.csr_matrix, list[str], np.ndarray]:
    """Add up columns of the same name.

    Returns
    -------
    The matrix, unique names in order of first appearance, and for each the index of its first column.
    """
    codes, unique = pd.factorize(np.asarray(names, dtype=object))
    if len(unique) == len(names):
        return matrix, list(names), np.arange(len(names))
    fold = sparse.csr_matrix(
        (np.ones(len(names), dtype=np.int32), (np.arange(len(names)), codes)), shape=(len(names), len(unique))
    )
    first = np.full(len(unique), len(names))
    np.minimum.at(first, codes, np.arange(len(names)))
    return (matrix @ fold).tocsr(), [str(name) for name in unique], first


def peak_frame(names: Sequence[str], source: str) -> pd.DataFrame:
    """Give `chrom`, `start`, `end` of peaks, index `chrom:start-end`.

    Raises
    ------
    InputError
        A name that is no interval.
    """
    parsed = [parse_peak(name) for name in names]
    bad = [name for name, peak in zip(names, parsed) if peak is None]
    if bad:
        raise InputError(
            f"{source}: {len(bad)} of {len(names)} features are no intervals, e.g. {bad[0]!r}",
            "peaks are matched to fragments and to other samples by their coordinates",
            "name peaks chrom:start-end (0-based, half-open); genes belong in the column rna",
        )
    places = [peak for peak in parsed if peak is not None]
    frame = pd.DataFrame(places, columns=["chrom", "start", "end"])
    frame.index = pd.Index([f"{c}:{s}-{e}" for c, s, e in places], dtype=object)
    return frame
