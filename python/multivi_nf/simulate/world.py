"""The toy genome and what cells do with it: genes, peaks, proteins and their programmes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from multivi_nf.simulate.design import ISOTYPES, MITOCHONDRIAL_GENES, Options

SLOT = 4000
"""Bases of genome for each peak, so that the toy genome grows with the number of peaks."""
PEAK_WIDTH = 500
CHROMOSOMES = ("chr1", "chr2", "chr3")
MITO_LENGTH = 16_569

DISCRETE = ("type_1", "type_2", "type_3", "type_4", "type_5", "rare")
BRANCH = ("progenitor", "arm_a", "arm_b")
CELL_TYPES = DISCRETE + BRANCH
PROGRAMMES = ("cycle_sin", "cycle_cos", "stress", "gradient_1", "gradient_2")
STATES = DISCRETE + ("trunk", "a_ramp", "b_ramp", "bump") + PROGRAMMES
"""Columns of a cell's state. Log means are linear in these; the branch is not linear in its position."""


@dataclass
class Features:
    """Base log mean, loadings on the states and site effects of one modality's features.

    Attributes
    ----------
    base
        (n,) natural-log mean.
    loadings
        (n_states, n) change of the log mean by one unit of a state.
    site
        (n_sites, n) change of the log mean in a site.
    """

    base: np.ndarray
    loadings: np.ndarray
    site: np.ndarray

    def log_mean(self, states: np.ndarray, site: np.ndarray | int | None = None) -> np.ndarray:
        """(n_cells, n) log mean, up to a constant a cell; `site` None leaves site effects out."""
        out = (states @ self.loadings + self.base).astype(np.float32)
        return out if site is None else out + self.site[site].astype(np.float32)

    def proportions(self, states: np.ndarray, site: np.ndarray | int | None = None) -> np.ndarray:
        """(n_cells, n) shares of a cell's molecules; rows sum to 1."""
        out = np.exp(self.log_mean(states, site))
        return out / out.sum(1, keepdims=True)


@dataclass
class World:
    """Everything that is the same for all cells.

    `rna_shape` is the gamma shape (inverse dispersion) of each gene, `protein_background` the log mean of each
    protein's background; `follows` the peaks that follow their linked gene.
    """

    chrom_sizes: dict[str, int]
    genes: pd.DataFrame
    peaks: pd.DataFrame
    proteins: pd.DataFrame
    blacklist: pd.DataFrame
    rna: Features
    atac: Features
    protein: Features
    rna_shape: np.ndarray
    protein_background: np.ndarray
    follows: np.ndarray


def sparse_effects(rng: np.random.Generator, n: int, share: float, size: float) -> np.ndarray:
    """(n,) effects that are exactly 0 but for a `share`, mostly upward."""
    hit = rng.random(n) < share
    return np.where(hit, rng.normal(size, 0.4 * size, n) * rng.choice([1.0, -0.6], n, p=[0.75, 0.25]), 0.0)


def gene_loadings(rng: np.random.Generator, n: int, effect: float) -> np.ndarray:
    """(n_states, n) loadings of genes. `type_2` is a sister of `type_1`, `type_4` of `type_3`."""
    rows = {state: sparse_effects(rng, n, 0.10, 1.3 * effect) for state in STATES[:10]}
    for child, parent in (("type_2", "type_1"), ("type_4", "type_3")):
        rows[child] = rows[parent] + sparse_effects(rng, n, 0.06, 1.0 * effect)
    rows["bump"] = sparse_effects(rng, n, 0.05, 1.2 * effect)
    rows["rare"] = sparse_effects(rng, n, 0.08, 1.8 * effect)
    for state in PROGRAMMES:
        hit = rng.random(n) < 0.15
        rows[state] = np.where(hit, rng.normal(0.0, 0.5, n), 0.0)
    return np.stack([rows[state] for state in STATES])


def place_peaks(rng: np.random.Generator, n: int) -> tuple[dict[str, int], pd.DataFrame]:
    """Put one 500 bp peak in each slot of the genome; give chromosome sizes and the peaks in genome order."""
    shares = np.array([0.45, 0.33, 0.22])
    per_chromosome = np.maximum(1, np.floor(shares * n)).astype(int)
    per_chromosome[0] += n - per_chromosome.sum()
    frames = []
    for chrom, count in zip(CHROMOSOMES, per_chromosome):
        start = np.arange(count) * SLOT + rng.integers(PEAK_WIDTH, SLOT - 2 * PEAK_WIDTH, count) + 10_000
        frames.append(pd.DataFrame({"chrom": chrom, "start": start, "end": start + PEAK_WIDTH}))
    sizes = {chrom: int(count * SLOT + 20_000) for chrom, count in zip(CHROMOSOMES, per_chromosome)}
    return {**sizes, "chrM": MITO_LENGTH}, pd.concat(frames, ignore_index=True)


def place_genes(rng: np.random.Generator, n: int, peaks: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Start each nuclear gene inside a peak of its own (its promoter) and link every peak to its nearest gene."""
    nuclear = n - MITOCHONDRIAL_GENES
    promoter = np.sort(rng.choice(len(peaks), min(nuclear, len(peaks)), replace=False))
    extra = np.sort(rng.choice(len(peaks), nuclear - promoter.size))  # more genes than peaks: they share promoters
    home = np.sort(np.concatenate([promoter, extra]))
    at = peaks.iloc[home]
    position = (at["start"].to_numpy() + PEAK_WIDTH // 2 + rng.integers(-40, 41, nuclear)).astype(np.int64)
    genes = pd.DataFrame(
        {
            "id": [f"ENSG{10_000_000_001 + i:011d}" for i in range(n)],
            "symbol": [f"GENE{i + 1}" for i in range(nuclear)] + [f"MT-G{i + 1}" for i in range(MITOCHONDRIAL_GENES)],
            "chrom": np.append(at["chrom"].to_numpy(), ["chrM"] * MITOCHONDRIAL_GENES),
            "position": np.append(position, np.arange(MITOCHONDRIAL_GENES) * 3000 + 500),
            "strand": np.append(rng.choice(["+", "-"], nuclear), ["+"] * MITOCHONDRIAL_GENES),
        }
    )
    genes.loc[nuclear - 1, "symbol"] = genes.loc[nuclear - 2, "symbol"]  # real annotations repeat symbols
    index = np.arange(len(peaks))
    right = np.clip(np.searchsorted(home, index), 1, nuclear - 1)
    nearest = np.where(np.abs(home[right] - index) < np.abs(index - home[right - 1]), right, right - 1)
    peaks = peaks.assign(gene=nearest, promoter=np.isin(index, home))
    return genes, peaks


def peak_loadings(
    rng: np.random.Generator, peaks: pd.DataFrame, genes: np.ndarray, effect: float
) -> tuple[np.ndarray, np.ndarray]:
    """(n_states, n_peaks) loadings: a share of the linked gene's, and enhancers of their own; and which follow it."""
    n = len(peaks)
    linked = genes[:, peaks["gene"].to_numpy()]
    follows = rng.random(n) < np.where(peaks["promoter"], 0.5, 0.35)
    strength = np.where(peaks["promoter"], 0.5, 0.8)
    out = linked * (follows * strength)[None, :]
    for i, state in enumerate(STATES):
        share, size = (0.03, 0.4) if state in PROGRAMMES else (0.05, 1.0 * effect)
        out[i] += sparse_effects(rng, n, share, size) * ~peaks["promoter"].to_numpy()
    return out, follows & (linked != 0).any(axis=0)


def build_world(options: Options) -> World:
    """Draw genome, features and programmes. Depends on the seed and on the sizes only."""
    rng = np.random.default_rng([options.seed, 1])
    chrom_sizes, peaks = place_peaks(rng, options.peaks)
    genes, peaks = place_genes(rng, options.genes, peaks)
    nuclear = np.arange(options.genes) < options.genes - MITOCHONDRIAL_GENES

    loadings = gene_loadings(rng, options.genes, options.effect) * nuclear
    base = rng.normal(0.0, 1.3, options.genes)
    total = np.exp(base[nuclear]).sum()
    base[~nuclear] = np.log(0.03 * total / MITOCHONDRIAL_GENES)  # about 3 % mitochondrial counts
    rna = Features(base, loadings, rng.normal(0.0, options.batch_effect, (2, options.genes)) * nuclear)

    promoter = peaks["promoter"].to_numpy()
    peak_base = np.where(promoter, rng.normal(0.9, 0.7, options.peaks), rng.normal(-0.6, 0.9, options.peaks))
    of_peaks, follows = peak_loadings(rng, peaks, loadings, options.effect)
    atac = Features(peak_base, of_peaks, rng.normal(0.0, options.batch_effect, (2, options.peaks)))

    n_real = options.proteins - ISOTYPES
    variable = np.argsort(-np.abs(loadings[: len(STATES) - len(PROGRAMMES)]).max(0), kind="stable")[: 4 * n_real]
    own = np.sort(rng.choice(variable, min(n_real, variable.size), replace=False))
    own = np.resize(own, n_real)
    protein_loadings = np.zeros((len(STATES), options.proteins))
    protein_loadings[:, :n_real] = 1.5 * loadings[:, own]
    protein_base = np.append(rng.normal(2.2, 0.7, n_real), np.full(ISOTYPES, -20.0))
    proteins = pd.DataFrame(
        {
            "id": [f"AB{i + 1:03d}" for i in range(n_real)] + [f"IgG{i + 1}" for i in range(ISOTYPES)],
            # a surface protein bears the name of its gene, as in real panels
            "symbol": [genes["symbol"].iloc[g] for g in own] + [f"IgG{i + 1}_isotype_control" for i in range(ISOTYPES)],
        }
    )
    proteins["symbol"] = proteins["symbol"].where(~proteins["symbol"].duplicated(), proteins["symbol"] + "_clone2")
    protein = Features(protein_base, protein_loadings, np.zeros((2, options.proteins)))

    n_black = max(2, options.peaks // 400)
    slots = np.sort(rng.choice(options.peaks, n_black, replace=False))
    blacklist = pd.DataFrame(
        {
            "chrom": peaks["chrom"].to_numpy()[slots],
            "start": peaks["end"].to_numpy()[slots] + 200,
            "end": peaks["end"].to_numpy()[slots] + 700,
        }
    )
    shape = np.exp(rng.normal(1.1, 0.5, options.genes))
    background = rng.normal(1.2, 0.5, options.proteins)
    return World(chrom_sizes, genes, peaks, proteins, blacklist, rna, atac, protein, shape, background, follows)
