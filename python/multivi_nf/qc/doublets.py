"""Doublets as flags with scores, per sample: cells that lie where sums of two cells lie.

Scores never remove a cell by themselves; `--remove_doublets` does.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from multivi_nf.io.processors import threads_at_most
from multivi_nf.reduction import inverse_frequency, log_levelled, nearest, nearest_others, principal, unit_rows

LEAST_CELLS = 100
"""Fewest cells to score; among fewer, neighbourhoods of simulated doublets are the whole sample."""

_SIMULATED = 2  # simulated doublets per cell, as in Scrublet
_COMPONENTS = 30
_FEWEST_COMPONENTS = 5
_LSI_COMPONENTS = 15
_MOST_CELLS, _ROUNDS, _AROUND, _VARIABLE = 2000, 5, 15, 1000
_UNLIKE = 0.3
"""Share of simulated doublets that are taken for sums of two like cells, by their score."""
_MOST_NEAR = 15_000
"""Cells, and as many of the simulated doublets each, among which neighbours are sought: the share of doublets near a
cell is told by some as well as by all, and time grows with a larger sample's cells instead of with their square."""
_DEPTH_WEIGHT = 0.25
"""Share of the spread of the LSI space that log depth gets. Without it, cells of
a few hundred fragments are told apart by noise alone; with much more, only depth would speak."""


@dataclass
class Doublets:
    """Scores and flags of one sample.

    Attributes
    ----------
    score
        Per cell, 0 to 1; NaN where the sample was not scored.
    flag
        Bool per cell.
    threshold
        Smallest flagged score; NaN where nothing was scored.
    note
        Why nothing was scored, or what was done otherwise than usual; else empty.
    share
        Estimated share of doublets, where it was estimated (:func:`doublet_share`).
    """

    score: np.ndarray
    flag: np.ndarray
    threshold: float
    note: str = ""
    share: float = float("nan")


def expected_rate(n_cells: int) -> float:
    """Share of doublets that 10x Genomics state for a well: 0.8 % per 1,000 cells recovered, at most 30 %."""
    return min(0.3, 8e-6 * n_cells)


def _unscored(n: int, note: str) -> Doublets:
    return Doublets(np.full(n, np.nan), np.zeros(n, dtype=bool), float("nan"), note)


def _flagged(score: np.ndarray, simulated: np.ndarray) -> Doublets:
    """Flag about the expected share of cells (of a small sample 2 %), and only those that score like simulated ones.

    "Like" is at least the median of the simulated ones. Scrublet's own threshold (the valley of a histogram) is known
    to call most of a sample when there is no valley. Cells of equal score are flagged together, or not at all where
    that would be more than twice the share.
    """
    most = int(np.ceil(max(expected_rate(len(score)), 0.02) * len(score)))
    threshold = max(float(np.sort(score)[-most]), float(np.median(simulated)))
    if (score >= threshold).sum() > 2 * most:
        above = score[score > threshold]
        threshold = float(above.min()) if len(above) else float(np.nextafter(score.max(), np.inf))
    return Doublets(score, score >= threshold, threshold)


def score_rna(counts: sparse.csr_matrix, seed: int) -> Doublets:
    """Score doublets by RNA: Scrublet (Wolock et al., Cell Systems 2019) as in scanpy, with exact neighbours.

    Parameters
    ----------
    counts
        Cells × genes.
    seed
        Of the simulation and the decomposition.
    """
    n = counts.shape[0]
    if n < LEAST_CELLS:
        return _unscored(n, f"not scored: {n} cells, at least {LEAST_CELLS} are needed")
    detected = np.bincount(counts.indices, minlength=counts.shape[1]) >= 3
    if detected.sum() < 2 * _COMPONENTS or (np.diff(counts[:, detected].indptr) == 0).any():
        return _unscored(n, "not scored: too few genes, or cells without any")
    # only the variable genes of these are looked at, of a panel of a few dozen fewer than there are to be components
    for components in (_COMPONENTS, _COMPONENTS // 2, _FEWEST_COMPONENTS):
        with warnings.catch_warnings(), threads_at_most(1):
            warnings.simplefilter("ignore")
            try:
                scored, cells, sums = _as_scrublet(counts[:, detected], seed)
                places = _principal_places(cells, sums, components, seed)
            except ValueError:  # "n_components=30 must be between 1 and min(n_samples, n_features)"
                continue
        own, simulated = _scrublet_score(*places, expected_rate(n), itself=True)
        found = _flagged(own, simulated)
        if len(scored) < n:
            score, flag = np.full(n, np.nan), np.zeros(n, dtype=bool)
            score[scored], flag[scored] = found.score, found.flag
            found.score, found.flag = score, flag
        if components < _COMPONENTS:
            found.note = f"scored in {components} dimensions instead of {_COMPONENTS}: few of its genes vary"
        return found
    return _unscored(n, f"not scored: fewer than {_FEWEST_COMPONENTS} of its genes vary")


def _as_scrublet(counts: sparse.csr_matrix, seed: int) -> tuple[np.ndarray, sparse.csr_matrix, sparse.csr_matrix]:
    """Cells of at least three genes, and theirs and simulated doublets' shares of variable genes, a million each.

    Step by step what `scanpy.pp.scrublet` prepares, by scanpy's own functions.
    """
    import anndata as ad
    import scanpy as sc

    def levelled(matrix: sparse.spmatrix, level: float | None = None) -> sparse.csr_matrix:
        data = ad.AnnData(matrix)
        sc.pp.normalize_total(data, target_sum=level)
        return data.X

    scored = np.flatnonzero(np.diff(counts.indptr) >= 3)
    raw = counts[scored].astype(np.float32)
    logged = ad.AnnData(levelled(raw.copy()))
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged)
    variable = np.flatnonzero(logged.var["highly_variable"])
    del logged
    cells = levelled(raw.copy())[:, variable]
    data = ad.AnnData(raw[:, variable])
    sums = sc.pp.scrublet_simulate_doublets(data, sim_doublet_ratio=_SIMULATED, random_seed=seed).X
    return scored, levelled(cells, 1e6), sparse.csr_matrix(levelled(sums, 1e6))


def _principal_places(
    cells: sparse.csr_matrix, sums: sparse.csr_matrix, n: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both in the principal components of the cells' standardised values, which scanpy makes dense: these stay sparse.

    240 kB a cell of a sample become some 50; numbers agree to rounding.
    """
    from sklearn.decomposition import PCA

    mean = np.asarray(cells.mean(axis=0, dtype=np.float64)).ravel()
    square = np.asarray(cells.multiply(cells).mean(axis=0, dtype=np.float64)).ravel()
    deviation = np.sqrt((square - mean**2) * cells.shape[0] / (cells.shape[0] - 1))
    scaled = [sparse.csr_matrix(part.astype(np.float64) @ sparse.diags(1 / deviation)) for part in (cells, sums)]
    axes = PCA(n, svd_solver="arpack", random_state=seed).fit(scaled[0])
    return axes.transform(scaled[0]), axes.transform(scaled[1])


def doublet_share(counts: sparse.csr_matrix, seed: int) -> float:
    """Estimate from below which share of a sample's cells are doublets of unlike cells, however many there are.

    Flags cannot tell: their number is capped by what a well usually holds. A doublet lies where sums of two cells lie
    **and** is deeper than the single cells around it; a cell between two types lies there at the depth of its
    neighbours, so that as many are much shallower as much deeper. The excess of deeper ones is counted and they are
    taken out, so that what is left makes better sums, until there is no excess; at most five rounds.

    Parameters
    ----------
    counts
        Cells × genes; at most 2,000 cells are looked at.
    seed
        Of the cells and the simulated doublets.

    Returns
    -------
    NaN with fewer than 100 cells or too few genes.
    """
    rng = np.random.default_rng([seed, 17])
    if counts.shape[0] > _MOST_CELLS:
        counts = counts[np.sort(rng.choice(counts.shape[0], _MOST_CELLS, replace=False))]
    counts = counts[:, np.diff(counts.tocsc().indptr) >= 3].astype(np.float64).tocsr()
    depth = np.asarray(counts.sum(axis=1)).ravel()
    rows = np.flatnonzero(depth > 0)
    if len(rows) < LEAST_CELLS or counts.shape[1] < 2 * _COMPONENTS:
        return float("nan")
    share, n = 0.0, counts.shape[0]
    for _ in range(_ROUNDS):
        pairs = rows[rng.integers(0, len(rows), size=(2, _SIMULATED * len(rows)))]
        cells, sums = _log_space(counts[rows], counts[pairs[0]] + counts[pairs[1]], seed)
        score, simulated = _scrublet_score(cells, sums, 0.05)
        least = np.quantile(simulated, _UNLIKE)
        between, unlike = score >= least, simulated >= least
        if (~between).sum() < LEAST_CELLS // 2:
            break
        single = np.log(depth[rows][~between])
        near = (nearest(x, cells[~between], _AROUND)[0] for x in (cells, sums[unlike]))
        around = [np.median(single[index], axis=1) for index in near]
        expected = float(np.median(np.log(depth[pairs].sum(axis=0)[unlike]) - around[1]))
        excess = np.log(depth[rows]) - around[0]
        deeper, shallower = between & (excess > expected / 2), between & (excess < -expected / 2)
        if expected <= 0 or deeper.sum() <= 2 * shallower.sum():
            break
        share += (deeper.sum() - shallower.sum()) / n
        rows = rows[~deeper]
        if len(rows) < LEAST_CELLS:
            break
    return float(share)


def _log_space(cells: sparse.csr_matrix, sums: sparse.csr_matrix, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of the cells' log-normalised most variable genes, and where sums of two lie in them."""
    x, y = log_levelled(cells), log_levelled(sums)
    mean = np.asarray(x.mean(axis=0)).ravel()
    variance = np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2
    top = np.sort(np.argsort(-variance, kind="stable")[:_VARIABLE])
    dense = [(part[:, top].toarray() - mean[top]).astype(np.float32) for part in (x, y)]
    axes = principal(dense[0], _COMPONENTS, seed=seed, rounds=4)[1].T
    return dense[0] @ axes, dense[1] @ axes


def score_atac(counts: sparse.csr_matrix, seed: int) -> Doublets:
    """Score doublets by chromatin: simulated doublets in a space of latent semantic indexing.

    Open peaks of two random cells are united; term frequency × inverse document frequency and a truncated SVD are
    fitted to the cells, the simulated doublets are placed in the same space, and a cell's score is Scrublet's (Wolock
    et al. 2019, Methods: likelihood of being a doublet, given the share of simulated ones among its neighbours). Rows
    are scaled to unit length, so that the space tells what is open, and log depth is one further, lighter axis.

    Parameters
    ----------
    counts
        Cells × peaks; only whether a peak is open matters.
    seed
        Of the simulation and the decomposition.
    """
    n = counts.shape[0]
    if n < LEAST_CELLS:
        return _unscored(n, f"not scored: {n} cells, at least {LEAST_CELLS} are needed")
    binary = sparse.csr_matrix((np.ones(counts.nnz, np.float32), counts.indices, counts.indptr), shape=counts.shape)
    detected = np.bincount(binary.indices, minlength=binary.shape[1])
    keep = np.flatnonzero(detected >= max(3, 0.01 * n))
    binary = binary[:, keep]
    if len(keep) < 2 * _COMPONENTS:
        return _unscored(n, "not scored: too few peaks")
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, n, size=(2, _SIMULATED * n))
    united = binary[pairs[0]] + binary[pairs[1]]
    united.data[:] = 1
    weight = inverse_frequency(binary, damped=True)
    cells, doublets = (log_levelled(matrix, weight=weight) for matrix in (binary, united))
    axes = principal(cells, _LSI_COMPONENTS, seed=seed, rounds=4)[1]
    space = [unit_rows(np.asarray(matrix @ axes.T)).astype(np.float32) for matrix in (cells, doublets)]
    depth = [np.log(np.maximum(np.diff(matrix.indptr), 1)) for matrix in (binary, united)]
    scale = _DEPTH_WEIGHT * np.sqrt(space[0].var(axis=0).sum()) / max(depth[0].std(), 1e-6)
    space = [np.column_stack([at, d * scale]).astype(np.float32) for at, d in zip(space, depth)]
    score, simulated = _scrublet_score(space[0], space[1], expected_rate(n))
    return _flagged(score, simulated)


def _scrublet_score(
    cells: np.ndarray, doublets: np.ndarray, rate: float, *, itself: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Scrublet's likelihood of being a doublet for cells and for simulated doublets (Wolock et al. 2019).

    `itself`: a place among the nearest is each one's own and counts as a cell's, as in scanpy.
    """
    n, ratio = len(cells), len(doublets) / len(cells)
    rate = max(rate, 0.01)
    both = np.vstack([cells, doublets])
    some = min(n, _MOST_NEAR)
    among = [np.linspace(0, size - 1, int(some * size / n)).astype(int) for size in (n, len(doublets))]
    k = min(int(round(0.5 * np.sqrt(some)) * (1 + ratio)), len(both) - 1 + itself)
    blocks = nearest_others(both, k - itself, np.concatenate([among[0], n + among[1]]))
    near = np.concatenate([(index >= n).sum(axis=1) for index in blocks])
    q = (near + 1) / (k + 2)
    likelihood = q * rate / ratio / (1 - rate - q * (1 - rate - rate / ratio))
    return likelihood[:n], likelihood[n:]
