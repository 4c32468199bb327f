"""Which cells and features are asked for: lists, all of them, or the most variable genes; and at which libraries."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.data.draws import blocks
from multivi_nf.data.matrices import as_csr
from multivi_nf.errors import InputError, option
from multivi_nf.inputs.text import read_text
from multivi_nf.io.limits import read_tsv
from multivi_nf.reduction import residual_variance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multivi_nf.data.mosaic_data import MosaicData

N_VARIABLE = 2000
SAMPLED_CELLS = 10_000


def read_feature_list(text: str | None) -> list[str] | str | None:
    """`--features`: None, "all", or the names in a file, one a line."""
    if text is None or text == "all":
        return text
    path = Path(text)
    if not path.is_file():
        raise InputError(
            f"feature list {text!r} does not exist",
            "it is not known which features to compute",
            "give a file with one feature name a line, or `all`",
        )
    names = [line.split("\t")[0].strip() for line in read_text(path)]
    return [name for name in names if name]


def read_cell_list(path: Path | None) -> list[str] | None:
    """`--cells`: None, or the names in a file, one a line."""
    if path is None:
        return None
    if not path.is_file():
        raise InputError(f"cell list {path} does not exist", "no cell is named", "give a file with one name a line")
    return [line.strip() for line in read_text(path) if line.strip()]


MOST_COUNTS = 1e9
"""Of a cell: no library is larger, and counts drawn at one that is would leave whole numbers."""


def read_library(path: Path | None) -> pd.Series | None:
    """`--library`: TSV with the columns cell and library (counts over the modelled genes)."""
    if path is None:
        return None
    table = pd.DataFrame()
    if path.is_file():
        table = read_tsv(path, dtype={"cell": str})
    if not {"cell", "library"} <= set(table.columns):
        raise InputError(
            f"{path} is no table with the columns cell and library",
            "the count interval needs each cell's library",
            "write a TSV with a header line: cell, library",
        )
    values = pd.to_numeric(table["library"], errors="coerce")
    wrong = ~((values > 0) & (values <= MOST_COUNTS)) | table["cell"].duplicated()
    if wrong.any():
        bad = table["cell"][wrong].iloc[0]
        raise InputError(
            f"{path}: cell {bad!r} is named twice or its library is no number above 0 and up to {MOST_COUNTS:,.0f}",
            "a count cannot be predicted at such a library",
            "give each cell once with its total count over the modelled genes",
        )
    return values.set_axis(table["cell"])


def choose_features(
    modality: str, names: Sequence[str], symbols: Sequence[str], wanted: Sequence[str] | str | None, data: MosaicData
) -> np.ndarray:
    """Positions of the wanted features among the model's, in the order asked for.

    Parameters
    ----------
    names, symbols
        The model's features. A name is looked up first; a symbol is taken where it is unique.
    wanted
        Names, "all", or None: 2,000 variable genes, all proteins; atac has no default.

    Raises
    ------
    InputError
        Unknown, doubled or no names; atac without a list.
    """
    if isinstance(wanted, str) and wanted == "all":
        return np.arange(len(names))
    if wanted is None:
        if modality == "atac":
            raise InputError(
                "no features were named for atac",
                "all peaks of all cells are rarely wanted and may fill the disk",
                f"give {option('features', shell='--features FILE')} "
                "(--impute_features in the pipeline) with peaks `chrom:start-end`, or `all`",
            )
        if modality == "protein" or len(names) <= N_VARIABLE:
            return np.arange(len(names))
        return variable_features(data, N_VARIABLE)
    return _look_up(modality, names, symbols, list(wanted))


def _look_up(modality: str, names: Sequence[str], symbols: Sequence[str], wanted: list[str]) -> np.ndarray:
    position = {name: i for i, name in enumerate(names)}
    by_symbol: dict[str, list[int]] = {}
    for i, symbol in enumerate(symbols):
        by_symbol.setdefault(symbol, []).append(i)
    found: list[int] = []
    unknown: list[str] = []
    ambiguous: list[str] = []
    for name in wanted:
        hits = [position[name]] if name in position else by_symbol.get(name, [])
        if len(hits) == 1:
            found += hits
        else:
            (ambiguous if hits else unknown).append(name)
    if unknown or ambiguous:
        bad = unknown or ambiguous
        kind = "unknown to the model" if unknown else "symbols of several features"
        raise InputError(
            f"{len(bad)} of {len(wanted)} {modality} features are {kind}: "
            f"{', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''}",
            "the model can only compute features that it was trained on, each under one name",
            f"take names from the column `feature` of the model's features.tsv, such as {names[0]}",
        )
    if not found or len(set(found)) < len(found):
        doubled = [names[i] for i, times in sorted(Counter(found).items()) if times > 1]
        raise InputError(
            f"the list of {modality} features is empty"
            if not found
            else f"features named twice: {', '.join(doubled[:5])}",
            "a table with no feature, or with one feature twice, is of no use downstream",
            "name each feature once",
        )
    return np.asarray(found)


def variable_features(data: MosaicData, n: int) -> np.ndarray:
    """Positions of the `n` genes with the largest variance of Pearson residuals, ascending.

    Of at most 10,000 cells, evenly spaced, so that the choice is quick and the same for every chunk of one mosaic.
    """
    measured = np.flatnonzero(data.has["rna"])
    if not measured.size:
        raise InputError(
            "the mosaic holds no cell with RNA, so that variable genes cannot be chosen from it",
            "the default is the 2,000 most variable genes of the measured cells",
            f"give {option('features', shell='--features FILE')}, or `all`",
        )
    chosen = measured[np.unique(np.linspace(0, measured.size - 1, min(measured.size, SAMPLED_CELLS)).astype(int))]
    parts = [as_csr(data.minibatch(chosen[rows]).modalities["rna"].counts, np.float64) for rows in blocks(len(chosen))]
    variance = residual_variance(sparse.vstack(parts).tocsr())
    return np.sort(np.argsort(-variance, kind="stable")[:n])
