"""Fragments with nucleosome structure, duplicates and background, written as bgzip with a tabix index."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from multivi_nf.fragments.writer import FragmentWriter
from multivi_nf.simulate.cells import SampleCells, barcodes
from multivi_nf.simulate.counts import PEAK_SHARE
from multivi_nf.simulate.design import Options
from multivi_nf.simulate.world import PEAK_WIDTH, World

Hits = tuple[np.ndarray, np.ndarray]
"""Rows of cells and indices of peaks, one entry a fragment."""
MITO_SHARE = 0.02
BLACKLIST_SHARE = 0.006
NUCLEOSOME_MIX = (0.58, 0.29, 0.13)
"""Shares of nucleosome-free, mono- and di-nucleosomal fragments."""


def fragment_lengths(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n,) lengths in bases: three nucleosome classes and the 10.4-base wobble of the helix left out."""
    kind = rng.choice(3, n, p=NUCLEOSOME_MIX)
    mean, sd = np.array([78.0, 198.0, 385.0]), np.array([26.0, 24.0, 34.0])
    return np.clip(rng.normal(mean[kind], sd[kind]), 25, 800).astype(np.int64)


def in_peaks(rng: np.random.Generator, world: World, peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chromosome index, start, end of fragments out of the given peaks: short ones on the summit, longer beside it."""
    length = fragment_lengths(rng, peaks.size)
    summit = world.peaks["start"].to_numpy()[peaks] + PEAK_WIDTH // 2
    side = rng.choice([-1.0, 1.0], peaks.size)
    shift = np.where(length < 147, rng.normal(0, 70, peaks.size), side * np.abs(rng.normal(120, 45, peaks.size)))
    start = (summit + shift - length / 2).astype(np.int64)
    chrom = chromosome_index(world)[peaks]
    return chrom, start, start + length


def chromosome_index(world: World) -> np.ndarray:
    """(n_peaks,) index of each peak's chromosome in `world.chrom_sizes`."""
    lookup = {chrom: i for i, chrom in enumerate(world.chrom_sizes)}
    return world.peaks["chrom"].map(lookup).to_numpy()


def background(rng: np.random.Generator, world: World, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chromosome index, start, end of fragments from anywhere: closed chromatin, mitochondria, blacklisted regions."""
    sizes = np.array(list(world.chrom_sizes.values()))
    weights = np.append(sizes[:-1] / sizes[:-1].sum() * (1 - MITO_SHARE), MITO_SHARE)
    chrom = rng.choice(sizes.size, n, p=weights)
    length = fragment_lengths(rng, n)
    start = (rng.random(n) * (sizes[chrom] - length)).astype(np.int64)
    hot = np.flatnonzero((rng.random(n) < BLACKLIST_SHARE) & (chrom != sizes.size - 1))
    region = rng.integers(0, len(world.blacklist), hot.size)
    lookup = {name: i for i, name in enumerate(world.chrom_sizes)}
    chrom[hot] = world.blacklist["chrom"].map(lookup).to_numpy()[region]
    start[hot] = world.blacklist["start"].to_numpy()[region] + rng.integers(0, 300, hot.size)
    return chrom, start, start + length


def draw_fragments(
    rng: np.random.Generator, world: World, group: SampleCells, hits: Hits, options: Options
) -> dict[str, np.ndarray]:
    """All fragments of a sample, in genome order: those of its cells' peaks, their background, and empty droplets.

    Returns
    -------
    `chrom` (index), `start`, `end`, `owner` (row of `names`), `support` (reads, PCR duplicates included), and
    `names` (barcodes: the sample's cells, then background barcodes).
    """
    rows, peaks = hits
    n = len(group.cells)
    n_empty = options.ambient_barcodes * n
    open_in = np.bincount(rows, minlength=n)
    closed = rng.poisson(open_in * (1 - PEAK_SHARE) / PEAK_SHARE)
    # an empty droplet holds fragments of lysed cells: the sample's own peaks, and more background than a cell
    empty = rng.poisson(rng.lognormal(2.3, 0.7, n_empty))
    empty_open = rng.binomial(empty, PEAK_SHARE / 2)
    ambient_peaks = rng.choice(peaks, empty_open.sum()) if peaks.size else np.zeros(0, np.int64)
    owners = [
        rows,
        np.repeat(n + np.arange(n_empty), empty_open),
        np.repeat(np.arange(n), closed),
        np.repeat(n + np.arange(n_empty), empty - empty_open),
    ]
    parts = [
        in_peaks(rng, world, peaks),
        in_peaks(rng, world, ambient_peaks),
        background(rng, world, int(closed.sum())),
        background(rng, world, int((empty - empty_open).sum())),
    ]
    chrom, start, end = (np.concatenate(columns) for columns in zip(*parts))
    owner = np.concatenate(owners)
    sizes = np.array(list(world.chrom_sizes.values()))[chrom]
    inside = (start >= 0) & (end <= sizes)
    chrom, start, end, owner = chrom[inside], start[inside], end[inside], owner[inside]
    order = np.lexsort((owner, end, start, chrom))
    support = rng.geometric(0.55, order.size)
    empty_names = barcodes(rng, n_empty)
    names = np.concatenate([group.cells["barcode"].to_numpy().astype("U18"), empty_names])
    found = {"chrom": chrom[order], "start": start[order], "end": end[order], "owner": owner[order]}
    return found | {"support": support, "names": names}


def write_fragments(path: Path, world: World, sample: str, fragments: dict[str, np.ndarray]) -> None:
    """Write `fragments.tsv.gz` (bgzip, 10x header lines) and its tabix index.

    The lines are as cellranger's: chromosome, start, end, barcode, reads; 0-based half-open; sorted by position.
    """
    chroms = list(world.chrom_sizes)
    header = [f"id={sample}", "description=simulated by multivi-nf", "reference_version=toy-2026"]
    header += [f"primary_contig={chrom}" for chrom in chroms]
    with FragmentWriter(path, chroms, fragments["names"].tolist(), header, index=True) as out:
        out.write(*(fragments[name] for name in ("chrom", "start", "end", "owner", "support")))
