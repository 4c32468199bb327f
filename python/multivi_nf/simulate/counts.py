"""Counts that a cell's state gives rise to: RNA, protein, and the peaks of its fragments."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from multivi_nf.simulate.cells import SampleCells
from multivi_nf.simulate.world import World

CHUNK = 512
"""Nuclei whose dense means are held at a time, so that memory does not grow with cells x features."""
PEAK_SHARE = 0.36
"""Share of a cell's fragments drawn from peaks; others fall in peaks by chance, giving FRiP of about 0.45."""


def rna_counts(rng: np.random.Generator, world: World, group: SampleCells) -> sp.csr_matrix:
    """(n_cells, n_genes) int32 counts: gamma-Poisson about the programmes' means, plus ambient molecules.

    The ambient profile of a sample is the mean profile of its cells, lysed.
    """
    n, library = len(group.cells), group.cells["rna_library"].to_numpy()
    mito = np.char.startswith(world.genes["symbol"].to_numpy().astype(str), "MT-")
    shape = world.rna_shape
    ambient_profile = world.rna.proportions(group.states[:2000], np.full(min(2000, len(group.owner)), group.site)).mean(
        0
    )
    blocks = []
    for lo in range(0, len(group.owner), CHUNK):
        rows = slice(lo, lo + CHUNK)
        owner = group.owner[rows]
        share = world.rna.proportions(group.states[rows], np.full(owner.size, group.site))
        dying = group.cells["dying"].to_numpy()[owner]
        share[:, mito] *= np.where(dying, 10.0, 1.0)[:, None]
        mean = share / share.sum(1, keepdims=True) * (library * (1 - group.cells["ambient"].to_numpy()))[owner, None]
        own = rng.poisson(mean * rng.gamma(shape, 1 / shape, mean.shape))
        blocks.append(sp.csr_matrix(own.astype(np.int32)))
    nuclei = sp.vstack(blocks, format="csr")
    belongs = sp.csr_matrix((np.ones(len(group.owner), np.int32), (group.owner, np.arange(len(group.owner)))))
    ambient = [
        sp.csr_matrix(
            rng.poisson((library * group.cells["ambient"].to_numpy())[lo : lo + CHUNK, None] * ambient_profile).astype(
                np.int32
            )
        )
        for lo in range(0, n, CHUNK)
    ]
    return sp.csr_matrix(belongs @ nuclei + sp.vstack(ambient, format="csr"), dtype=np.int32)


def protein_counts(rng: np.random.Generator, world: World, group: SampleCells) -> sp.csr_matrix:
    """(n_cells, n_proteins) int32 counts: foreground of the state on a background that varies by cell and protein."""
    n = len(group.cells)
    states = group.states[:n]
    foreground = np.exp(world.protein.log_mean(states)) * np.exp(rng.normal(0, 0.2, (n, 1)))
    background = np.exp(world.protein_background + rng.normal(0, 0.35, (n, 1)))
    mean = foreground * rng.gamma(4.0, 0.25, foreground.shape) + background * rng.gamma(2.0, 0.5, foreground.shape)
    return sp.csr_matrix(rng.poisson(mean).astype(np.int32))


def at_most(limit: int, rows: np.ndarray, columns: np.ndarray, n_columns: int) -> np.ndarray:
    """Mask that keeps the first `limit` of equal (row, column) pairs; the order of pairs must be random."""
    key = rows.astype(np.int64) * n_columns + columns
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    rank = np.arange(key.size) - np.repeat(first, np.diff(np.append(first, key.size)))
    keep = np.empty(key.size, bool)
    keep[order] = rank < limit
    return keep


def peak_hits(rng: np.random.Generator, world: World, group: SampleCells) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `group.cells` and peak indices of all fragments that come from open peaks.

    A nucleus is diploid: it gives at most two fragments in a peak, so that overlaps of three tell doublets.
    """
    library = group.cells["atac_library"].to_numpy()
    spread = np.clip(rng.normal(1.0, 0.12, len(group.cells)), 0.6, 1.35)
    owners, peaks = [], []
    for lo in range(0, len(group.owner), CHUNK):
        owner = group.owner[lo : lo + CHUNK]
        share = world.atac.proportions(group.states[lo : lo + CHUNK], np.full(owner.size, group.site))
        number = rng.poisson(PEAK_SHARE * (library * spread)[owner] * 1.12)
        cumulative = np.cumsum(share, axis=1, dtype=np.float64)
        rows = np.repeat(np.arange(owner.size), number)
        # one search for all nuclei: nucleus i's cumulative shares lie in [i, i + 1)
        flat = (cumulative / cumulative[:, -1:] + np.arange(owner.size)[:, None]).ravel()
        flat[share.shape[1] - 1 :: share.shape[1]] = np.arange(1, owner.size + 1)
        hit = np.searchsorted(flat, rows + rng.random(rows.size), side="right") - rows * share.shape[1]
        hit = np.minimum(hit, share.shape[1] - 1)
        keep = at_most(2, rows, hit, share.shape[1])
        owners.append(owner[rows[keep]])
        peaks.append(hit[keep])
    return np.concatenate(owners), np.concatenate(peaks).astype(np.int64)


def peak_matrix(world: World, group: SampleCells, rows: np.ndarray, peaks: np.ndarray) -> sp.csr_matrix:
    """(n_cells, n_peaks) int32 fragment counts, for runs without fragment files."""
    shape = (len(group.cells), len(world.peaks))
    return sp.csr_matrix((np.ones(rows.size, np.int32), (rows, peaks)), shape=shape, dtype=np.int32)
