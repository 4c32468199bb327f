"""Motifs in peaks, and how far the accessibility of the peaks that hold one departs from what is expected (chromVAR).

Schep, Wu, Buenrostro & Greenleaf (2017), chromVAR, Nat. Methods 14:975-978.
"""

from __future__ import annotations

import numba
import numpy as np
import pandas as pd
from scipy import sparse, stats

from multivi_nf.export.markers import fdr
from multivi_nf.regulation.background import matched_peaks
from multivi_nf.regulation.motif_files import Motif
from multivi_nf.regulation.sequence import UNKNOWN

MATCH_P = 5e-5
"""Chance of a match at one place of a random sequence, as motifmatchr's default."""
ITERATIONS = 50
"""Background sets, as in chromVAR."""
POOL = 250
"""Peaks alike each peak that background sets are drawn from."""
CELLS = 10_000
"""Cells at a time."""
BASES = 20_000_000
"""Bases scanned at a time."""
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""`indptr`, `indices` and `data` of a CSR matrix."""
FEWEST_PEAKS = 10
FEWEST_CELLS = 3


def scan(bases: list[np.ndarray | None], motifs: list[Motif], p: float = MATCH_P) -> sparse.csr_matrix:
    """Find which peaks hold which motifs, on either strand.

    Parameters
    ----------
    bases
        Of each peak, 0 to 4 as in :class:`multivi_nf.regulation.sequence.Sequences`; None has no match.
    motifs
        Of :func:`multivi_nf.regulation.motif_files.read_motifs`.
    p
        A place matches where a random one (even bases) scores as high with at most this probability.

    Returns
    -------
    CSR bool (n_peaks, n_motifs).

    Examples
    --------
    >>> import numpy as np
    >>> from multivi_nf.regulation.motif_files import Motif
    >>> word = np.array([0, 1, 2, 3, 2, 1, 0, 3])  # ACGTGCAT, as bases are counted: A 0, C 1, G 2, T 3
    >>> motif = Motif("M1", "made up", np.eye(4)[:, word] * 0.96 + 0.01)
    >>> other = np.zeros(20, dtype=np.int8)
    >>> scan([np.concatenate([other, word, other]).astype(np.int8), other], [motif]).toarray().tolist()
    [[True], [False]]
    """
    from memelite import fimo  # compiles its kernels on import

    matrices = {motif.id: motif.probabilities for motif in motifs}
    widest = max((motif.probabilities.shape[1] for motif in motifs), default=0)
    known = [(k, one) for k, one in enumerate(bases) if one is not None]
    known.sort(key=lambda peak: len(peak[1]))  # peaks of like width together: little padding
    rows: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    start = 0
    while start < len(known):
        step = max(1, BASES // max(len(known[min(start + 1000, len(known) - 1)][1]), 1))
        part = known[start : start + step]
        place, lengths = np.array([k for k, _ in part]), np.array([len(one) for _, one in part])
        hot = np.zeros((len(part), 4, max(int(lengths.max()), widest)), dtype=np.int8)
        for row, (_, one) in enumerate(part):
            at = np.flatnonzero(one != UNKNOWN)
            hot[row, one[at], at] = 1
        for column, hits in enumerate(fimo(matrices, hot, threshold=p)):
            # behind a peak's end there are no bases: a match that reaches there is none
            ends = np.maximum(hits["start"].to_numpy(np.int64), hits["end"].to_numpy(np.int64))
            at = hits["sequence_name"].to_numpy(np.int64)
            at = np.unique(at[ends <= lengths[at]])
            rows.append(place[at])
            columns.append(np.full(len(at), column))
        start += step
    pairs = tuple(np.concatenate(part) if part else np.zeros(0, np.int64) for part in (rows, columns))
    return sparse.csr_matrix((np.ones(len(pairs[0]), dtype=bool), pairs), shape=(len(bases), len(motifs)))


def background_sets(properties: np.ndarray, n: int = ITERATIONS, seed: int = 0) -> np.ndarray:
    """Draw for each peak `n` others among the peaks most alike it: (n_peaks, n) int32.

    Examples
    --------
    >>> import numpy as np
    >>> sets = background_sets(np.arange(400.0)[:, None], n=50)
    >>> sets.shape, bool(np.abs(sets[200] - 200).max() <= 20)  # peaks alike in what is matched on
    ((400, 50), True)
    """
    alike = matched_peaks(properties, POOL, seed)
    rng = np.random.default_rng([seed, 1])
    draws = rng.integers(0, alike.shape[1], (len(alike), n))
    return np.take_along_axis(alike, draws, axis=1)


def deviations(
    counts: sparse.csr_matrix, matches: sparse.csr_matrix, background: np.ndarray, share: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Bias-corrected deviations and z of chromVAR.

    With x the counts, M the matches and e the share of each peak in all counts, a cell's raw deviation for a motif is
    y = (Σⱼ Mⱼ xⱼ - n Σⱼ Mⱼ eⱼ) / (n Σⱼ Mⱼ eⱼ), n the cell's counts in peaks. The same with each peak replaced by one
    of its background gives y'. The deviation is y - mean(y'), z that divided by the standard deviation of y'.

    Parameters
    ----------
    counts
        (n_cells, n_peaks) counts.
    matches
        (n_peaks, n_motifs).
    background
        (n_peaks, n) of :func:`background_sets`.
    share
        (n_peaks,) expectation; the counts' own if None.

    Returns
    -------
    (n_cells, n_motifs) float32 each; NaN for a cell without counts or a motif whose peaks have none.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.poisson(1.0, (4, 400))
    >>> counts[0, :40] += 2  # the first cell has more in the peaks with the motif
    >>> holds = sparse.csr_matrix((np.arange(400) < 40)[:, None])
    >>> deviation, z = deviations(sparse.csr_matrix(counts), holds, background_sets(rng.random((400, 1))))
    >>> int(np.argmax(z)), bool(z[0, 0] > 5)
    (0, True)
    """
    counts = sparse.csr_matrix(counts)
    share = peak_share(counts) if share is None else share
    matches = sparse.csr_matrix(matches, dtype=np.float64)
    shape = (counts.shape[0], matches.shape[1])
    deviation, score = (np.full(shape, np.nan, dtype=np.float32) for _ in range(2))
    for start in range(0, shape[0], CELLS):
        part = counts[start : start + CELLS]
        mean, squares = np.zeros((part.shape[0], shape[1])), np.zeros((part.shape[0], shape[1]))
        for k in range(background.shape[1]):
            new = _raw(part, _replaced(matches, background[:, k]), share)
            step = new - mean
            mean += step / (k + 1)
            squares += step * (new - mean)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = _raw(part, matches, share) - mean
            spread = np.sqrt(squares / (background.shape[1] - 1))
            deviation[start : start + CELLS] = found
            score[start : start + CELLS] = np.where(spread > 0, found / spread, np.nan)
    return deviation, score


def peak_share(counts: sparse.csr_matrix) -> np.ndarray:
    """(n_peaks,) share of each peak in all counts."""
    total = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    return total / max(total.sum(), 1)


def _replaced(matches: sparse.csr_matrix, others: np.ndarray) -> sparse.csr_matrix:
    """Matches after each peak's counts were taken from another: row j of the result sums those whose other is j."""
    n = len(others)
    return sparse.csr_matrix((np.ones(n), (others, np.arange(n))), shape=(n, n)) @ matches


def _raw(counts: sparse.csr_matrix, matches: sparse.csr_matrix, share: np.ndarray) -> np.ndarray:
    observed = np.zeros((counts.shape[0], matches.shape[1]))
    own, held = ((one.indptr, one.indices, one.data) for one in (counts, matches))
    _add_up(own, held, observed)
    expected = np.asarray(counts.sum(axis=1), dtype=np.float64) * (matches.T @ share)[None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, (observed - expected) / expected, np.nan)


@numba.njit(cache=True)
def _add_up(counts: Parts, matches: Parts, out: np.ndarray) -> None:  # pragma: no cover - compiled
    """Sparse product of counts and matches into a dense array."""
    indptr, indices, data = counts
    of_peak, motifs, weights = matches
    for cell in range(indptr.size - 1):
        for k in range(indptr[cell], indptr[cell + 1]):
            peak, value = indices[k], data[k]
            for m in range(of_peak[peak], of_peak[peak + 1]):
                out[cell, motifs[m]] += value * weights[m]


def variability(z: np.ndarray) -> pd.DataFrame:
    """Spread of each motif's z over cells, against 1 where nothing varies.

    Returns
    -------
    `variability` (standard deviation of z), `p` (chi-squared of (n - 1) variance; cells independent), `fdr`.

    Examples
    --------
    >>> import numpy as np
    >>> z = np.random.default_rng(0).normal(size=(500, 1)) * [1, 3]
    >>> variability(z)["variability"].round(0).tolist()
    [1.0, 3.0]
    """
    n = np.isfinite(z).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(np.nansum((z - np.nansum(z, axis=0) / n) ** 2, axis=0, dtype=np.float64) / (n - 1))
    p = np.where(n > 1, stats.chi2.sf((n - 1) * spread**2, np.maximum(n - 1, 1)), np.nan)
    return pd.DataFrame({"variability": spread, "p": p, "fdr": fdr(p)})


def by_group(
    counts: sparse.csr_matrix,
    matches: sparse.csr_matrix,
    background: np.ndarray,
    groups: pd.Series,
    deviation: np.ndarray,
) -> pd.DataFrame:
    """Test in each group of cells whether peaks with a motif are more, or less, accessible than in all other cells.

    Two things must not explain the difference. *Which peaks*: any set of peaks differs between types. So the counts of
    the group and of the rest are added up, and the difference of their deviations is compared with the same of each
    background set (`z`; Student's t of the next set). *Which cells*: a group of few cells differs by chance. So their
    deviations are compared by Welch's test. p is the larger of both (a difference is called where both would call it),
    FDR Benjamini and Hochberg's over motifs and groups.

    Parameters
    ----------
    counts, matches, background
        See :func:`deviations`.
    groups
        Of each cell; missing: in none.
    deviation
        (n_cells, n_motifs) of :func:`deviations`.

    Returns
    -------
    A row a group and motif (number): `group`, `motif`, `cells`, `effect` (difference of bias-corrected deviations),
    `z`, `p_background`, `p_cells`, `p`, `fdr`; groups with fewer than 3 cells are left out.

    Examples
    --------
    Peaks with the motif (every second one) are twice as open in cells of group "b".

    >>> rng = np.random.default_rng(0)
    >>> held = sparse.csr_matrix((np.arange(200) % 2 == 0)[:, None])
    >>> groups = pd.Series(["a", "b"] * 20)
    >>> twice = 1 + np.outer(groups == "b", held.toarray().ravel())
    >>> counts = sparse.csr_matrix(rng.poisson(0.5 * twice))
    >>> sets = background_sets(rng.normal(size=(200, 2)))
    >>> table = by_group(counts, held, sets, groups, deviations(counts, held, sets)[0])
    >>> (table["effect"] > 0).tolist(), (table["fdr"] < 1e-3).tolist()
    ([False, True], [True, True])
    """
    categories = (
        groups.cat.categories if isinstance(groups.dtype, pd.CategoricalDtype) else sorted(groups.dropna().unique())
    )
    code = np.where(np.isfinite(deviation).any(axis=1), pd.Categorical(groups, categories=categories).codes, -1)
    member = sparse.csr_matrix(
        (np.ones((code >= 0).sum()), (code[code >= 0], np.flatnonzero(code >= 0))), shape=(len(categories), len(code))
    )
    sums = np.asarray((member @ counts).todense())
    both = sparse.csr_matrix(np.concatenate([sums, sums.sum(axis=0) - sums]))
    share, n = peak_share(both[: len(categories)]), len(categories)
    matches = sparse.csr_matrix(matches, dtype=np.float64)

    def difference(chosen: sparse.csr_matrix) -> np.ndarray:
        raw = _raw(both, chosen, share)
        return raw[:n] - raw[n:]

    others = np.stack([difference(_replaced(matches, background[:, k])) for k in range(background.shape[1])])
    size, draws = np.bincount(code[code >= 0], minlength=n), background.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = difference(matches) - others.mean(axis=0)
        z = effect / others.std(axis=0, ddof=1)
    table = pd.DataFrame(
        {
            "group": np.repeat(np.array(categories, dtype=object), matches.shape[1]),
            "motif": np.tile(np.arange(matches.shape[1]), n),
            "cells": np.repeat(size, matches.shape[1]),
            "effect": effect.ravel(),
            "z": z.ravel(),
        }
    )
    table["p_background"] = 2 * stats.t.sf(np.abs(table["z"] / np.sqrt(1 + 1 / draws)), draws - 1)
    table["p_cells"] = _between_cells(deviation, member).ravel()
    table["p"] = table[["p_background", "p_cells"]].max(axis=1, skipna=False)
    table = table[(table["cells"] >= FEWEST_CELLS) & (np.repeat(size.sum() - size, matches.shape[1]) >= FEWEST_CELLS)]
    table = table.reset_index(drop=True)
    table["fdr"] = fdr(table["p"].to_numpy())
    return table


def _between_cells(deviation: np.ndarray, member: sparse.csr_matrix) -> np.ndarray:
    """(n_groups, n_motifs) p of Welch's test of each group's cells against all others."""
    values = np.where(np.isfinite(deviation), deviation, 0).astype(np.float64)
    size = np.asarray(member.sum(axis=1)).reshape(-1, 1)
    sums, squares = member @ values, member @ values**2
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, error = [], []
        own = (size, sums, squares)
        for n, total, square in (own, tuple(part.sum(axis=0) - part for part in own)):
            mean.append(total / n)
            error.append(np.maximum(square / n - mean[-1] ** 2, 0) / (n - 1))
        spread = error[0] + error[1]
        rest = size.sum() - size
        freedom = spread**2 / (error[0] ** 2 / (size - 1) + error[1] ** 2 / (rest - 1))
        return 2 * stats.t.sf(np.abs(mean[0] - mean[1]) / np.sqrt(spread), freedom)


def own_expression(z: np.ndarray, rna: np.ndarray, motifs: list[Motif], var: pd.DataFrame) -> pd.DataFrame:
    """Correlate each motif's deviation with its factor's own RNA.

    Parameters
    ----------
    z
        (n_units, n_motifs) deviations or z, within strata (:func:`multivi_nf.regulation.units.centred`).
    rna
        (n_units, n_genes) log-normalised expression, likewise.
    motifs
        Whose names are symbols, compared without case.
    var
        Of `rna`: index, `symbol`.

    Returns
    -------
    A row a motif: `genes` (of a dimer those found, joined by `::`; their mean expression in standard deviations),
    `rna_correlation`, `rna_p` (t of Pearson's r), `rna_fdr`; NaN where no factor is among the genes.
    """
    symbol = (var["symbol"] if "symbol" in var else var.index.to_series()).astype(str)
    place = pd.Series(np.arange(len(var)), index=symbol.str.upper().to_numpy())
    place = place[~place.index.duplicated(keep=False)]
    names, r = [], np.full(len(motifs), np.nan)
    for k, motif in enumerate(motifs):
        found = [place[factor.upper()] for factor in motif.factors if factor.upper() in place.index]
        names.append("::".join(str(symbol.iloc[at]) for at in found))
        if not found:
            continue
        values = rna[:, found]
        spread = values.std(axis=0)
        values = ((values - values.mean(axis=0)) / np.where(spread > 0, spread, np.inf)).mean(axis=1)
        own = np.isfinite(z[:, k])
        if own.sum() > 2 and values[own].std() > 0 and z[own, k].std() > 0:
            r[k] = np.corrcoef(values[own], z[own, k])[0, 1]
    n = np.isfinite(z).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * stats.t.sf(np.abs(r) * np.sqrt((n - 2) / np.maximum(1 - r**2, 1e-12)), n - 2)
    return pd.DataFrame({"genes": names, "rna_correlation": r, "rna_p": p, "rna_fdr": fdr(p)})
