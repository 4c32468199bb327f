"""Which barcodes are cells: a given list, or a call from their fragments; and overlaps as a sign of doublets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from multivi_nf.inputs.barcodes import BarcodeMap

TOP_QUANTILE = 0.99
FRACTION_OF_TOP = 0.1


@dataclass
class Call:
    """A cell call and what it rests on.

    Attributes
    ----------
    is_cell
        bool, one a barcode.
    threshold
        Smallest number of fragments of a cell by the knee alone.
    expected
        Number of cells at which the rule agrees with itself.
    """

    is_cell: np.ndarray
    threshold: float
    expected: int


def call_cells(n_fragments: np.ndarray) -> Call:
    """Call cells by order of magnitude, as cellranger's OrdMag and SnapATAC2's `call_cells`, without a bootstrap.

    With x cells expected, m(x) is the 99th percentile of the x largest barcodes, and barcodes of at least m(x) / 10
    fragments are cells. x is chosen where the number so called, n(x), agrees best with it: the least (n(x) − x)² / x.

    Parameters
    ----------
    n_fragments
        Fragments a barcode, shape (n_barcodes,).
    """
    counts = np.sort(np.asarray(n_fragments))[::-1]
    counts = counts[counts > 0]
    if len(counts) == 0:
        return Call(np.zeros(len(n_fragments), bool), float("inf"), 0)
    expected = np.unique(np.geomspace(1, len(counts), 2000).astype(np.int64))
    top = counts[((1 - TOP_QUANTILE) * expected).astype(np.int64)]
    threshold = np.maximum(top * FRACTION_OF_TOP, 1.0)
    called = np.searchsorted(-counts, -threshold, side="right")
    best = int(np.argmin((called - expected) ** 2 / expected))
    return Call(np.asarray(n_fragments) >= threshold[best], float(threshold[best]), int(expected[best]))


def knee_curve(n_fragments: np.ndarray, points: int = 200) -> dict[str, list[int]]:
    """Give the curve of a knee plot: at most `points` ranks, evenly spaced on a log scale, and their fragments."""
    counts = np.sort(np.asarray(n_fragments))[::-1]
    if len(counts) == 0:
        return {"rank": [], "n_fragments": []}
    rank = np.unique(np.geomspace(1, len(counts), points).round().astype(np.int64))
    return {"rank": rank.tolist(), "n_fragments": counts[rank - 1].tolist()}


def overlap_p_values(n_overlap_loci: np.ndarray) -> np.ndarray:
    """Give the chance of as many loci covered more than twice in one nucleus (AMULET, Thibodeau et al. 2021).

    A diploid nucleus has two copies of a locus, so three fragments on it are rare; their number is taken as Poisson
    with the mean over the cells given. Small values mean doublets. NaN in, NaN out.

    Parameters
    ----------
    n_overlap_loci
        Number of such loci a cell, for the cells only.
    """
    loci = np.asarray(n_overlap_loci, float)
    if np.isnan(loci).all():
        return np.full(len(loci), np.nan)
    # P(X >= k) of a Poisson count; what scipy.stats computes, without the half second that importing it takes
    chance = np.where(loci <= 0, 1.0, special.pdtrc(np.maximum(loci - 1, 0), np.nanmean(loci)))
    return np.where(np.isnan(loci), np.nan, chance)


def to_atac(barcodes: Sequence[str], mapping: BarcodeMap | None) -> tuple[list[str], int]:
    """Translate a list of cells to the barcodes of the fragments file.

    The list is taken to be in RNA barcodes if more of it is found on the map's RNA side than on its ATAC side. What the
    map does not have stays as it is.

    Returns
    -------
    The barcodes, and how many of them were translated.
    """
    if mapping is None:
        return list(barcodes), 0
    inverse = mapping.inverse()
    translated = [inverse.rna(name) for name in barcodes]
    n = sum(name is not None for name in translated)
    if n <= sum(mapping.rna(name) is not None for name in barcodes):
        return list(barcodes), 0
    return [own if name is None else name for own, name in zip(barcodes, translated)], n
