"""What regulates what, planted where `regulation` is asked for: links of genes to peaks, and factors with motifs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from multivi_nf.io.files import written_whole
from multivi_nf.io.tables import write_table
from multivi_nf.simulate.design import Options
from multivi_nf.simulate.world import World

REGULATED = 0.1
"""Share of the genes with planted links."""
ENHANCERS = 3
REACH = 150_000
"""bp within which a planted enhancer lies from its gene's start."""
FACTORS, DECOYS = 5, 15
TARGETS = 0.08
"""Share of the distal peaks that hold a factor's motif since it acts there, and of all peaks that hold a decoy's."""
BY_CHANCE = 0.02
"""Share of the other peaks that hold a motif as well."""
MOTIF_WIDTH = 11
PROGRAMME = 0.35
"""Standard deviation of a planted loading on a programme, for one of 1 on a cell type."""
LINE = 60


@dataclass
class Planted:
    """The truth of regulation.

    Attributes
    ----------
    links
        `gene`, `peak` (rows of the world's tables) and `kind`: `nearest` (a peak that follows its nearest gene, as in
        every simulated mosaic), `planted`, or `target` (a factor opens it, wherever it lies).
    factors
        One row a motif: `motif`, `gene` (row; its symbol is the motif's name), `kind`: `factor` or `decoy`.
    probabilities
        (n_motifs, 4, width) of A, C, G, T.
    holds
        (n_peaks, n_motifs) whether the motif was put into the peak's sequence.
    """

    links: pd.DataFrame
    factors: pd.DataFrame
    probabilities: np.ndarray
    holds: np.ndarray


def plant(world: World, options: Options) -> Planted | None:
    """Give some genes enhancers, and some factors motifs in the peaks that they open; changes `world` in place.

    A planted gene goes its own way through all cell types, so that what follows it can be told from what merely
    changes between the same types. Its promoter and three enhancers follow it; a factor's targets add its loadings to
    their own.

    Parameters
    ----------
    world
        As :func:`multivi_nf.simulate.world.build_world` draws it.
    options
        Without `regulation` nothing is planted, and None returned.
    """
    if not options.regulation:
        return None
    rng = np.random.default_rng([options.seed, 6])
    genes, peaks = world.genes, world.peaks
    middle = (peaks["start"] + peaks["end"]).to_numpy() // 2
    position, chrom = genes["position"].to_numpy(), genes["chrom"].to_numpy()
    taken = set(world.proteins["symbol"]) | set(genes["symbol"][genes["symbol"].duplicated(keep=False)])
    ready = np.flatnonzero((chrom != "chrM") & ~genes["symbol"].isin(taken).to_numpy() & (world.rna.base > 0))
    n_planted = min(max(6, round(REGULATED * len(genes))), len(ready) - FACTORS - DECOYS)
    drawn = rng.permutation(ready)
    regulated, factors = np.sort(drawn[:n_planted]), drawn[n_planted : n_planted + FACTORS]
    named = np.append(factors, drawn[n_planted + FACTORS : n_planted + FACTORS + DECOYS])

    free = ~peaks["promoter"].to_numpy()
    rows = [(gene, peak, "nearest") for peak, gene in enumerate(peaks["gene"]) if world.follows[peak]]
    lost: set[int] = set()
    for gene in np.append(regulated, factors):
        world.rna.loadings[:, gene] = _own_way(rng, world.rna.loadings.shape[0], options.effect)
    for gene in regulated:
        here = (peaks["chrom"] == chrom[gene]).to_numpy()
        home = np.flatnonzero(here & (np.abs(middle - position[gene]) < 250) & ~free)
        near = np.flatnonzero(here & free & (np.abs(middle - position[gene]) < REACH))
        chosen = rng.choice(near, min(ENHANCERS, near.size), replace=False)
        free[chosen] = False
        for peak in np.append(home[:1], chosen):
            world.atac.loadings[:, peak] = world.rna.loadings[:, gene]
            world.atac.base[peak] = max(world.atac.base[peak], 0.3)
            lost.add(int(peak))
            rows.append((gene, peak, "planted"))
    holds = np.zeros((len(peaks), len(named)), dtype=bool)
    for k, gene in enumerate(named):
        # a decoy lies anywhere: among distal peaks alone it would tell these from promoters
        open_to = np.flatnonzero(free) if k < FACTORS else np.arange(len(peaks))
        target = rng.choice(open_to, round(TARGETS * open_to.size), replace=False)
        if k < FACTORS:
            world.atac.loadings[:, target] += 0.7 * world.rna.loadings[:, [gene]]
            rows += [(gene, peak, "target") for peak in target]
        holds[target, k] = True
        holds[:, k] |= rng.random(len(peaks)) < BY_CHANCE
    # what followed another gene before, or a gene that goes another way now, does so no more
    changed = set(np.append(regulated, factors).tolist())
    rows = [row for row in rows if row[2] != "nearest" or (row[1] not in lost and row[0] not in changed)]
    links = pd.DataFrame(rows, columns=["gene", "peak", "kind"]).astype({"gene": int, "peak": int})
    links = links.sort_values(["gene", "peak"], kind="stable").reset_index(drop=True)
    table = pd.DataFrame(
        {
            "motif": [f"MT{k + 1:04d}.1" for k in range(len(named))],
            "gene": named,
            "kind": ["factor" if k < FACTORS else "decoy" for k in range(len(named))],
        }
    )
    return Planted(links, table, _motifs(rng, len(named)), holds)


def _own_way(rng: np.random.Generator, n_states: int, effect: float) -> np.ndarray:
    """(n_states,) loadings on all states: large on cell types and the branch, smaller on the five programmes."""
    out = rng.normal(0.0, 0.8 * effect, n_states)
    out[-5:] *= PROGRAMME / 0.8
    return out


def _motifs(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, 4, width) probabilities: one base leads at each position."""
    out = np.full((n, 4, MOTIF_WIDTH), 0.02)
    best = rng.integers(0, 4, (n, MOTIF_WIDTH))
    np.put_along_axis(out, best[:, None, :], 0.94, axis=1)
    return out


def genome_sequence(world: World, planted: Planted, seed: int) -> dict[str, np.ndarray]:
    """Bases (ASCII) of each chromosome: random, GC-richer in open peaks, motifs put into the peaks that hold them."""
    rng = np.random.default_rng([seed, 7])
    letters = np.frombuffer(b"ACGT", np.uint8)
    bases = {chrom: letters[rng.integers(0, 4, size)] for chrom, size in world.chrom_sizes.items()}
    gc = np.clip(0.5 + 0.05 * world.atac.base + rng.normal(0, 0.03, len(world.peaks)), 0.3, 0.7)
    for peak, (chrom, start, end) in enumerate(zip(*(world.peaks[c] for c in ("chrom", "start", "end")))):
        strong = rng.random(end - start) < gc[peak]
        pick = rng.integers(0, 2, end - start)
        here = np.where(strong, letters[1 + pick], letters[3 * pick])
        held = np.flatnonzero(planted.holds[peak])
        slots = rng.choice((end - start) // (MOTIF_WIDTH + 2), held.size, replace=False) * (MOTIF_WIDTH + 2)
        for slot, k in zip(slots, held):
            draws = rng.random(MOTIF_WIDTH)
            word = (np.cumsum(planted.probabilities[k], axis=0) < draws).sum(axis=0).clip(0, 3)
            word = 3 - word[::-1] if rng.random() < 0.5 else word
            here[slot : slot + MOTIF_WIDTH] = letters[word]
        bases[chrom][start:end] = here
    return bases


def write_regulation(outdir: Path, world: World, planted: Planted, seed: int) -> None:
    """Write `genome/genome.fa`, `genome/motifs.meme`, `truth/links.tsv.gz` and `truth/motifs.tsv`."""
    with written_whole(outdir / "genome" / "genome.fa") as temporary, temporary.open("wb") as file:
        for chrom, bases in genome_sequence(world, planted, seed).items():
            file.write(f">{chrom}\n".encode())
            whole = bases[: bases.size // LINE * LINE].reshape(-1, LINE)
            file.write(np.hstack([whole, np.full((len(whole), 1), 10, np.uint8)]).tobytes())
            rest = bases[bases.size // LINE * LINE :].tobytes()
            file.write(rest + b"\n" if rest else b"")
    symbol, ids = world.genes["symbol"].to_numpy(), world.genes["id"].to_numpy()
    lines = ["MEME version 4\n\nALPHABET= ACGT\n\nstrands: + -\n\n"]
    for row, matrix in zip(planted.factors.itertuples(), planted.probabilities):
        lines.append(f"MOTIF {row.motif} {symbol[row.gene]}\nletter-probability matrix: alength= 4 w= {MOTIF_WIDTH}\n")
        lines += [" ".join(f"{value:.4f}" for value in column) + "\n" for column in matrix.T]
        lines.append("\n")
    with written_whole(outdir / "genome" / "motifs.meme") as temporary:
        temporary.write_text("".join(lines))
    peaks = world.peaks
    names = (peaks["chrom"] + ":" + peaks["start"].astype(str) + "-" + peaks["end"].astype(str)).to_numpy()
    links = planted.links
    table = pd.DataFrame({"gene": ids[links["gene"]], "peak": names[links["peak"]], "kind": links["kind"]})
    write_table(table, outdir / "truth" / "links.tsv.gz")
    factors = planted.factors
    table = factors.assign(symbol=symbol[factors["gene"]], gene=ids[factors["gene"]], peaks=planted.holds.sum(axis=0))
    write_table(table, outdir / "truth" / "motifs.tsv")
