"""Peaks whose accessibility goes with the expression of a gene near them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.errors import InputError
from multivi_nf.export.markers import fdr
from multivi_nf.export.normalise import log_normalised
from multivi_nf.regulation.background import matched_peaks
from multivi_nf.regulation.pairs import Pairs, Surroundings
from multivi_nf.regulation.units import Units, centred

BACKGROUND = 200
NULLS = 10
"""Background pairs a pair that give the distribution of z where nothing is linked."""
MOST_NULLS = 20_000_000
FEWEST_UNITS = 20
FEWEST_CELLS = 10
"""Cells with a count that a gene or a peak needs."""
TILE = 256
"""Genes at a time: 256 × 150,000 peaks are 150 MB."""
BLOCK = 10_000
"""Peaks at a time where counts become dense."""


@dataclass
class Scores:
    """Of each pair: correlation, z against its background, number of background peaks; and z of background pairs."""

    correlation: np.ndarray
    z: np.ndarray
    background: np.ndarray
    null: np.ndarray


def peak_values(atac: sparse.csr_matrix, units: Units, chosen: np.ndarray) -> sparse.csr_matrix | np.ndarray:
    """Normalise counts of peaks over units: ln(1 + per 10,000 of the unit's total over all peaks).

    Returns
    -------
    (n_units, n_chosen) float32: sparse for cells, dense for metacells, which hardly have a zero; made a block of peaks
    at a time, so that nothing of float64 has that size.
    """
    if not units.metacells:
        return log_normalised(atac, "atac")[:, chosen]
    total = units.summed(sparse.csr_matrix(atac.sum(axis=1))).toarray().ravel()
    scale = np.divide(1e4, total, out=np.zeros_like(total), where=total > 0)[:, None]
    by_peak = sparse.csc_matrix(atac)
    values = np.empty((len(units.stratum), len(chosen)), dtype=np.float32)
    for start in range(0, len(chosen), BLOCK):
        block = chosen[start : start + BLOCK]
        values[:, start : start + BLOCK] = np.log1p(units.summed(by_peak[:, block]).toarray() * scale)
    return values


def correlations(
    genes: np.ndarray, peaks: sparse.csr_matrix | np.ndarray, stratum: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Correlate every gene with every peak within strata, a tile of genes at a time.

    Both are taken as deviations from their stratum's mean. A gene's sum of deviations is 0 in every stratum, so the
    product with the peaks' values is the same as with their deviations, and these are never made.

    Parameters
    ----------
    genes
        (n_units, n_genes) values.
    peaks
        (n_units, n_peaks) values, sparse or float32.
    stratum
        (n_units,) numbers.

    Yields
    ------
    Genes of the tile, and (tile, n_peaks) float32 correlations; 0 where a gene or peak does not vary.
    """
    member = sparse.csr_matrix((np.ones(len(stratum), np.float32), (stratum, np.arange(len(stratum)))))
    size = np.asarray(member.sum(axis=1), dtype=np.float64).reshape(-1, 1)
    if isinstance(peaks, sparse.spmatrix | sparse.sparray):
        sums = np.asarray((member.astype(np.float64) @ peaks).todense())
        squares = np.asarray(peaks.multiply(peaks).sum(axis=0), dtype=np.float64).ravel()
        right = sparse.csr_matrix(peaks.T, dtype=np.float32)
    else:
        sums, squares, right = member @ peaks, np.einsum("ij,ij->j", peaks, peaks, dtype=np.float64), peaks
    squares = squares - (np.asarray(sums, dtype=np.float64) ** 2 / size).sum(axis=0)
    scale = np.where(squares > 1e-4, 1 / np.sqrt(np.maximum(squares, 1e-4)), 0).astype(np.float32)
    for first in range(0, genes.shape[1], TILE):
        tile = slice(first, min(first + TILE, genes.shape[1]))
        left = centred(genes[:, tile].astype(np.float64), stratum)
        norm = np.linalg.norm(left, axis=0)
        left = np.divide(left, norm, out=np.zeros_like(left), where=norm > 1e-9).astype(np.float32)
        product = np.ascontiguousarray((right @ left).T) if sparse.issparse(right) else left.T @ right
        product *= scale
        yield tile, product


@dataclass(frozen=True)
class Background:
    """Peaks that a pair is compared with.

    Attributes
    ----------
    alike
        (n_peaks, n) of :func:`multivi_nf.regulation.background.matched_peaks`.
    near
        (gene, peaks) → whether each is too near to be background.
    """

    alike: np.ndarray
    near: Callable[[int, np.ndarray], np.ndarray]


def score_pairs(
    genes: np.ndarray,
    peaks: sparse.csr_matrix | np.ndarray,
    stratum: np.ndarray,
    pairs: Pairs,
    beside: Background,
) -> Scores:
    """Compare each pair's correlation with that of the same gene and far peaks that are like the pair's peak.

    Parameters
    ----------
    genes, peaks, stratum
        See :func:`correlations`.
    pairs
        What is asked for.
    beside
        The far peaks.
    """
    n = len(pairs.gene)
    correlation, z = (np.full(n, np.nan, dtype=np.float32) for _ in range(2))
    background, null = np.zeros(n, dtype=np.int32), []
    nulls = min(NULLS, max(1, MOST_NULLS // max(n, 1)))
    bounds = np.searchsorted(pairs.gene, np.arange(genes.shape[1] + 1))
    for tile, values in correlations(genes, peaks, stratum):
        for gene in range(tile.start, tile.stop):
            own = slice(bounds[gene], bounds[gene + 1])
            if own.start == own.stop:
                continue
            row, of_peak = values[gene - tile.start], pairs.peak[own]
            others = beside.alike[of_peak]
            far = ~beside.near(gene, others)
            correlation[own] = row[of_peak]
            z[own], background[own], drawn = _against(row[of_peak], row[others].astype(np.float64), far, nulls)
            null.append(drawn)
    return Scores(correlation, z, background, np.concatenate(null) if null else np.zeros(0, np.float32))


def _against(
    own: np.ndarray, others: np.ndarray, far: np.ndarray, nulls: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare: z of values against those beside them, numbers of these, z of some of these against the rest."""
    number = far.sum(axis=1)
    total = np.where(far, others, 0).sum(axis=1)
    squares = np.where(far, others**2, 0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / number
        spread = np.sqrt(np.maximum(squares / number - mean**2, 0))
        z = np.where((number >= 10) & (spread > 0), (own - mean) / spread, np.nan)
        # each of the first few, against the others without it: it must not widen what it is compared with
        rest = (number - 1)[:, None]
        chosen = far & (np.cumsum(far, axis=1) <= nulls) & (number >= 11)[:, None]
        mean = (total[:, None] - others) / rest
        spread = np.sqrt(np.maximum((squares[:, None] - others**2) / rest - mean**2, 0))
        drawn = np.where(chosen & (spread > 0), (others - mean) / spread, np.nan)
    return z.astype(np.float32), number.astype(np.int32), drawn[np.isfinite(drawn)].astype(np.float32)


def tail_share(z: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Share of background pairs whose |z| is as large: p without a belief in the normal's tails; NaN stays."""
    ordered = np.sort(np.abs(null))
    above = len(ordered) - np.searchsorted(ordered, np.abs(z))
    return np.where(np.isfinite(z), (1 + above) / (1 + len(ordered)), np.nan)


def expressed(rna: sparse.csr_matrix, units: Units) -> np.ndarray:
    """(n_units, n_genes) ln(1 + counts per 10,000) of counts of cells; NaN for genes seen in fewer than 10 cells.

    Examples
    --------
    Twenty cells that all show the first gene, and one that shows the second:

    >>> import numpy as np
    >>> import pandas as pd
    >>> from scipy import sparse
    >>> from multivi_nf.regulation import make_units
    >>> rna = sparse.csr_matrix(np.column_stack([np.full(20, 5), np.arange(20) == 7]).astype(int))
    >>> cells = pd.Index([f"s:{i}" for i in range(20)])
    >>> values = expressed(rna, make_units(cells, None, pd.Series("s", index=cells)))
    >>> values.shape, round(float(values[0, 0]), 2), bool(np.isnan(values[:, 1]).all())
    ((20, 2), 9.21, True)
    """
    values = log_normalised(units.summed(rna), "rna").toarray()
    values[:, seen_in(rna) < FEWEST_CELLS] = np.nan
    return values


def seen_in(counts: sparse.csr_matrix) -> np.ndarray:
    """(n_features,) number of cells with a count."""
    return np.asarray(sparse.csr_matrix(counts > 0).sum(axis=0)).ravel()


def peak_gene_links(
    genes: np.ndarray, atac: sparse.csr_matrix, units: Units, around: Surroundings, *, seed: int = 0
) -> pd.DataFrame:
    """Correlate genes and the peaks near them over paired cells, or over cells whose genes were imputed.

    The null of a pair is the correlation of the same gene with up to 200 peaks alike (`properties`) on another
    chromosome or over four windows away. z is the pair's distance from their mean in their standard deviations. Such z
    are not normal (a gene of a rare type goes with every peak of that type), so p is the share of background pairs, of
    all genes, whose z is at least as far from 0, and the FDR is Benjamini and Hochberg's.

    Parameters
    ----------
    genes
        (n_units, n_genes) of :func:`expressed`, or mean ln(1 + imputed value); NaN where a gene is not looked at.
    atac
        (n_cells, n_peaks) counts, cells of `units`.
    units
        Cells or metacells, with strata.
    around
        Pairs that are asked for, and where in the genome they lie.
    seed
        Of the background.

    Returns
    -------
    A row a pair, in the order of `pairs`: `correlation`, `z`, `p`, `fdr`, `background_peaks`; NaN where a gene or peak
    has counts in fewer than 10 cells or does not vary.

    Raises
    ------
    InputError
        Fewer than 20 cells or metacells, or too few peaks.

    Examples
    --------
    A gene, a peak that opens with it, and forty peaks of another chromosome that do not:

    >>> import numpy as np
    >>> import pandas as pd
    >>> from scipy import sparse
    >>> from multivi_nf.regulation import Surroundings, expressed, make_units, near_pairs, peak_properties
    >>> rng = np.random.default_rng(0)
    >>> state = rng.random(300)
    >>> rna = sparse.csr_matrix(rng.poisson(8 * state)[:, None])
    >>> opening = np.where(np.arange(41) == 0, state[:, None], 0.5)
    >>> atac = sparse.csr_matrix((rng.random((300, 41)) < opening).astype(int))
    >>> start = np.arange(41) * 5000
    >>> peaks = pd.DataFrame({"chrom": ["chr1"] + ["chr2"] * 40, "start": start, "end": start + 500})
    >>> sites = pd.DataFrame({"gene": [0], "chrom": ["chr1"], "pos": [2000], "strand": ["+"]})
    >>> cells = pd.Index([f"s:{i}" for i in range(300)])
    >>> units = make_units(cells, None, pd.Series("s", index=cells))
    >>> alike, _ = peak_properties(np.asarray(atac.sum(axis=0)).ravel())
    >>> around = Surroundings(near_pairs(sites, peaks), sites, peaks, alike)
    >>> links = peak_gene_links(expressed(rna, units), atac, units, around)
    >>> bool(links["z"].iloc[0] > 4)
    True
    """
    if len(units.stratum) < FEWEST_UNITS:
        raise InputError(
            f"there are {len(units.stratum)} cells with both RNA and ATAC",
            "no correlation can be told from chance",
            f"give samples with {FEWEST_UNITS} paired cells or more",
        )
    pairs, known = around.pairs, np.isfinite(genes).all(axis=0)
    kept_peaks = np.flatnonzero(seen_in(atac) >= FEWEST_CELLS)
    values = peak_values(atac, units, kept_peaks)
    place = np.full(len(around.peaks), -1)
    place[kept_peaks] = np.arange(len(kept_peaks))
    asked = np.flatnonzero(known[pairs.gene] & (place[pairs.peak] >= 0))
    few = Pairs(pairs.gene[asked], place[pairs.peak[asked]], pairs.distance[asked])
    beside = Background(matched_peaks(around.properties[kept_peaks], BACKGROUND, seed), around.near(kept_peaks))
    scores = score_pairs(np.where(known, genes, 0).astype(np.float32), values, units.stratum, few, beside)
    table = pd.DataFrame(
        np.nan, index=range(len(pairs.gene)), columns=["correlation", "z", "p", "fdr", "background_peaks"]
    )
    p = tail_share(scores.z, scores.null)
    for column, found in zip(table, (scores.correlation, scores.z, p, fdr(p), scores.background)):
        table.iloc[asked, table.columns.get_loc(column)] = np.where(np.isfinite(scores.z), found, np.nan)
    return table
