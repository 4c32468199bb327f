"""A fragments file of any size, much like a real one, with the exact truth beside it.

Peaks of lognormal strength (most of them weak), cell types with peaks of their own, a rare type, transcription starts
on strong peaks, the nucleosome ladder of fragment lengths, PCR duplicates, mitochondrial fragments, and background
barcodes that outnumber cells by twenty. Chromosome by chromosome, so that memory does not grow with the file.

The folder holds fragments.tsv.gz (bgzip, 27 header lines), barcodes.txt (the cells), groups.tsv (cell, type),
peaks.bed, tss.bed, blacklist.bed and truth.npz: fragments, reads and mitochondrial fragments of every barcode, and
the exact cells x peaks counts by strategy, computed from the drawn positions by sorted searches, not by the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from multivi_nf.fragments.writer import FragmentWriter
from multivi_nf.inputs.chromosomes import SIZES

HEADER = [f"primary_contig={name}" for name in SIZES["hg38"]] + ["id=simulated", "reference_path=/refs/GRCh38"]
PEAK_WIDTH = 501


@dataclass
class Plan:
    """Sizes of a simulation."""

    fragments: int = 20_000_000
    cells: int = 5000
    background: int = 100_000
    peaks: int = 100_000
    types: int = 6
    rare: float = 0.03
    rare_peaks: int = 1000
    in_peaks: float = 0.52  # of cells; background barcodes have a third
    mito: float = 0.02
    barcode_style: str = "10x"
    seed: int = 0
    first_chrom: str = "chr1"  # this chromosome and those after it


def barcode_names(n: int, style: str, rng: np.random.Generator) -> list[str]:
    """Draw distinct barcodes: 16 nt and `-1`, or long ones with letters of any kind."""
    codes = rng.choice(4**16, size=int(n * 1.001) + 10, replace=True) if n else np.zeros(0, np.int64)
    codes = np.unique(codes)[:n]
    rng.shuffle(codes)
    letters = np.frombuffer(b"ACGT", np.uint8)[(codes[:, None] >> (2 * np.arange(16))) & 3]
    words = letters.reshape(-1).tobytes().decode()
    plain = [words[16 * i : 16 * i + 16] for i in range(len(codes))]
    return [f"{name}-1" if style == "10x" else f"lib_{i % 7}#{name}.x" for i, name in enumerate(plain)]


def place(plan: Plan, rng: np.random.Generator) -> dict[str, Any]:
    """Draw peaks, how open they are in each type, and transcription starts."""
    names = [name for name in SIZES["hg38"] if name != "chrM"]
    names = names[names.index(plan.first_chrom) :]
    lengths = np.array([SIZES["hg38"][name] for name in names])
    per_chrom = np.diff(np.round(np.concatenate([[0], np.cumsum(lengths / lengths.sum())]) * plan.peaks).astype(int))
    chroms, summits = [], []
    for i, n in enumerate(per_chrom):
        step = (lengths[i] - 20000) // max(n, 1)
        jitter = rng.integers(0, max(step - 1200, 1), n)
        summits.append(10000 + step * np.arange(n) + jitter)
        chroms.append(np.full(n, i))
    chrom, summit = np.concatenate(chroms), np.concatenate(summits)
    n = len(summit)
    strength = rng.lognormal(0, 1.3, n)
    openness = np.repeat(strength[None], plan.types, axis=0)
    specific = rng.random(n) < 0.3
    openness[:, specific] *= rng.gamma(0.4, 2.5, (plan.types, specific.sum()))
    rare_own = rng.choice(n, min(plan.rare_peaks, n // 10), replace=False)
    openness[:, rare_own] = 0
    openness[-1, rare_own] = rng.lognormal(1.6, 0.5, len(rare_own))
    openness /= openness.sum(axis=1, keepdims=True)
    strong = np.argsort(-strength)[: n // 5]
    starts = np.sort(rng.choice(strong, len(strong) // 2, replace=False))
    tss = np.stack([chrom[starts], summit[starts] + rng.integers(-30, 30, len(starts))], axis=1)
    return {
        "names": names,
        "lengths": lengths,
        "chrom": chrom,
        "summit": summit,
        "openness": openness,
        "tss": tss,
        "rare_own": np.sort(rare_own),
        "minus": rng.random(len(starts)) < 0.5,
    }


def draw_lengths(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw fragment lengths: none, one, two or three nucleosomes, and the 10 bp pitch is left out."""
    kind = rng.choice(4, n, p=[0.58, 0.29, 0.1, 0.03])
    length = 35 + rng.exponential(38, n)
    for nucleosomes, mean, sd in ((1, 198, 22), (2, 385, 34), (3, 575, 45)):
        at = kind == nucleosomes
        length[at] = rng.normal(mean, sd, at.sum())
    return np.clip(length, 25, 900).astype(np.int64)


def overlaps(start: np.ndarray, end: np.ndarray, row: np.ndarray, peak_start: np.ndarray, n_cells: int) -> dict:
    """Count fragments of cells in disjoint peaks of one chromosome, for the three strategies."""
    peak_end = peak_start + PEAK_WIDTH
    cell = row < n_cells
    start, end, row = start[cell], end[cell], row[cell]
    first = np.searchsorted(peak_end, start, side="right")
    beyond = np.searchsorted(peak_start, end, side="left")
    shape = (n_cells, len(peak_start))
    found = {name: sparse.csr_matrix(shape, dtype=np.int32) for name in ("fragment", "insertion", "pic")}
    for k in range(int((beyond - first).max(initial=0))):
        hit = first + k < beyond
        peak = first[hit] + k
        sites = (peak_start[peak] <= start[hit]).astype(np.int32) + (end[hit] <= peak_end[peak])
        for name, value in (("fragment", np.ones_like(sites)), ("insertion", sites), ("pic", np.minimum(sites, 1))):
            found[name] = found[name] + sparse.csr_matrix((value, (row[hit], peak)), shape=shape)
    return found


def generate(plan: Plan, folder: Path) -> dict[str, float]:
    """Write the simulation into a folder; give a few totals."""
    rng = np.random.default_rng(plan.seed)
    folder.mkdir(parents=True, exist_ok=True)
    world = place(plan, rng)
    names = barcode_names(plan.cells + plan.background, plan.barcode_style, rng)
    n = len(names)
    n_rare = round(plan.rare * plan.cells)
    common = (1 - plan.rare) / (plan.types - 1)
    kind = np.concatenate(
        [
            rng.integers(0, plan.types - 1, plan.cells - n_rare),
            np.full(n_rare, plan.types - 1),
            rng.choice(plan.types, plan.background, p=[*[common] * (plan.types - 1), plan.rare]),
        ]
    )
    depth = np.concatenate(
        [
            rng.lognormal(0, 0.5, plan.cells) * 0.8 / plan.cells / 1.13,
            rng.lognormal(0, 1.2, plan.background) * 0.2 / max(plan.background, 1) / 2.05,
        ]
    )
    depth = np.cumsum(depth / depth.sum())
    lengths = world["lengths"].astype(float)
    totals = rng.multinomial(round(plan.fragments * (1 - plan.mito)), lengths / lengths.sum())
    seen = {name: np.zeros(n, np.int64) for name in ("fragments", "reads", "mito")}
    parts: dict[str, list] = {"fragment": [], "insertion": [], "pic": []}
    inside = 0
    all_names = [*world["names"], "chrM"]
    with FragmentWriter(folder / "fragments.tsv.gz", all_names, names, HEADER) as writer:
        for c, total in enumerate([*totals, plan.fragments - totals.sum()]):
            row = np.searchsorted(depth, rng.random(total)).clip(max=n - 1)
            length = draw_lengths(total, rng)
            size = SIZES["hg38"][all_names[c]]
            middle = rng.integers(0, size, total)
            if c < len(totals):
                mine = np.flatnonzero(world["chrom"] == c)
                in_peak = rng.random(total) < np.where(row < plan.cells, plan.in_peaks, plan.in_peaks / 3)
                for t in range(plan.types):
                    at = np.flatnonzero(in_peak & (kind[row] == t))
                    share = np.cumsum(world["openness"][t, mine])
                    chosen = np.searchsorted(share, rng.random(len(at)) * share[-1]).clip(max=len(mine) - 1)
                    middle[at] = world["summit"][mine[chosen]] + rng.normal(0, 75, len(at)).astype(np.int64)
            length = np.minimum(length, size)
            start = np.clip(middle - length // 2, 0, size - length)
            order = np.argsort(start, kind="stable")
            start, end, row = start[order], (start + length)[order], row[order]
            count = 1 + rng.poisson(1.2, total)
            writer.write(np.full(total, c, np.int8), start, end, row, count)
            seen["reads"] += np.bincount(row, weights=count, minlength=n).astype(np.int64)
            if c == len(totals):
                seen["mito"] += np.bincount(row, minlength=n)
                continue
            seen["fragments"] += np.bincount(row, minlength=n)
            found = overlaps(start, end, row, world["summit"][mine] - PEAK_WIDTH // 2, plan.cells)
            for name, matrix in found.items():
                parts[name].append(matrix)
            peak_start = world["summit"][mine] - PEAK_WIDTH // 2
            inside += int(
                (
                    np.searchsorted(peak_start + PEAK_WIDTH, start, side="right")
                    < np.searchsorted(peak_start, end, side="left")
                ).sum()
            )
    _write_rest(folder, plan, world, names, kind)
    truth = {name: sparse.hstack(matrices, format="csr") for name, matrices in parts.items()}
    kept: dict[str, Any] = {"names": np.array(names), "inside": inside, "rare_own": world["rare_own"], **seen}
    kept["shape"] = truth["fragment"].shape
    for name, matrix in truth.items():
        kept |= {f"{name}_{part}": getattr(matrix, part) for part in ("data", "indices", "indptr")}
    np.savez(folder / "truth.npz", **kept)
    return {"fragments": plan.fragments, "frip": inside / totals.sum(), "nonzero": truth["fragment"].nnz}


def _write_rest(folder: Path, plan: Plan, world: dict[str, Any], names: list[str], kind: np.ndarray) -> None:
    (folder / "barcodes.txt").write_text("".join(f"{name}\n" for name in names[: plan.cells]))
    groups = zip(names[: plan.cells], kind)
    (folder / "groups.tsv").write_text("".join(f"{name}\ttype_{t}\n" for name, t in groups))
    half = PEAK_WIDTH // 2
    with (folder / "peaks.bed").open("w") as handle:
        for c, s in zip(world["chrom"], world["summit"].tolist()):
            handle.write(f"{world['names'][c]}\t{s - half}\t{s + half + 1}\n")
    with (folder / "tss.bed").open("w") as handle:
        for (c, position), minus in zip(world["tss"].tolist(), world["minus"]):
            handle.write(f"{world['names'][c]}\t{position}\t{position + 1}\tgene\t0\t{'-' if minus else '+'}\n")
    rng = np.random.default_rng([plan.seed, 1])
    with (folder / "blacklist.bed").open("w") as handle:
        for c, size in enumerate(world["lengths"]):
            for start in np.sort(rng.integers(0, size - 60000, 50)).tolist():
                handle.write(f"{world['names'][c]}\t{start}\t{start + 50000}\n")


def read_truth(folder: Path) -> tuple[dict, dict[str, sparse.csr_matrix]]:
    """Read truth.npz: arrays, and the matrices by strategy."""
    stored = np.load(folder / "truth.npz")
    matrices = {}
    for name in ("fragment", "insertion", "pic"):
        parts = tuple(stored[f"{name}_{part}"] for part in ("data", "indices", "indptr"))
        matrices[name] = sparse.csr_matrix(parts, stored["shape"])
    return {name: stored[name] for name in ("names", "fragments", "reads", "mito", "inside", "rare_own")}, matrices
