"""Random numbers that belong to a cell, and the fixed blocks in which cells are computed.

A draw of the posterior is keyed by (seed, cell name, draw): it does not depend on which other cells are asked for, on
their order, or on how the work was cut into chunks. The generator is counter-based (splitmix64 finaliser, Steele et al.
2014, over a BLAKE2 hash of the cell's name; Box-Muller), as Philox is, but in a dozen vectorised operations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from multivi_nf.io.files import written_whole
from multivi_nf.io.outputs import CHUNKS, check_folder, note

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BLOCK = 256
"""Cells computed together. Matrix products of equal shape give equal bytes, so chunks that hold whole blocks do too."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """Finaliser of splitmix64: a bijection of 64 bits in which every input bit reaches every output bit."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def cell_keys(names: Iterable[str], seed: int, purpose: str = "") -> np.ndarray:
    """(n,) uint64 keys of cells. `purpose` keeps streams apart (posterior draws, bootstrap weights, halves)."""
    salt = f"{seed}/{purpose}/".encode()
    digests = b"".join(hashlib.blake2b(salt + str(n).encode(), digest_size=8).digest() for n in names)
    return np.frombuffer(digests, dtype=np.uint64)


def _words(keys: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """Random 64-bit words for every key (rows) and counter (columns)."""
    with np.errstate(over="ignore"):
        return _mix(_mix(keys)[:, None] + (counters.astype(np.uint64) + np.uint64(1))[None, :] * _GOLDEN)


def uniforms(keys: np.ndarray, start: int, n: int) -> np.ndarray:
    """(n_keys, n) float64 in (0, 1): numbers `start` to `start + n` of each key's stream."""
    words = _words(keys, np.arange(start, start + n))
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normals(keys: np.ndarray, draws: range, n_dimensions: int) -> np.ndarray:
    """Standard normal noise of given draws.

    Parameters
    ----------
    keys
        (n_cells,) from :func:`cell_keys`.
    draws
        Which draws.
    n_dimensions
        Numbers a draw.

    Returns
    -------
    (n_draws, n_cells, n_dimensions) float32.
    """
    pairs = -(-n_dimensions // 2)
    out = np.empty((len(draws), len(keys), 2 * pairs), dtype=np.float32)
    for i, draw in enumerate(draws):
        words = _words(keys, np.arange(draw * pairs, (draw + 1) * pairs))
        first = ((words >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32
        second = (words & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2.0**-32 * 2 * np.pi)
        radius = np.sqrt(-2 * np.log(first))
        out[i, :, 0::2] = radius * np.cos(second)
        out[i, :, 1::2] = radius * np.sin(second)
    return out[:, :, :n_dimensions]


def blocks(n: int, size: int = BLOCK) -> Iterator[slice]:
    """Cut `n` cells into runs of `size`, the last one shorter."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def write_chunks(folder: Path, names: Iterable[str], size: int = 80 * BLOCK) -> None:
    """Write lists of cells of `size` rounded up to whole blocks: cells_0001.txt, cells_0002.txt, ..."""
    names = list(names)
    size = -(-size // BLOCK) * BLOCK
    check_folder(folder, CHUNKS, "--chunks")
    with written_whole(folder) as temporary:
        temporary.mkdir()
        for i, part in enumerate(blocks(len(names), size), start=1):
            (temporary / f"cells_{i:04d}.txt").write_text("".join(f"{name}\n" for name in names[part]))
        note(temporary, CHUNKS.step)
