"""What counts and imputed values take on disk, and how fast they are written and read, by compression and chunks.

    python -m benchmarks.speed.disk [--cells 4000]

Counts: the entries of a simulated mosaic's RNA (int32 values) and ATAC (int32 columns), in HDF5 as the mosaic holds
them. Imputed values: gamma means with their sd, in zarr. CPU seconds of one thread; the least of three.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import zarr
from numcodecs import Blosc, Zstd

CHUNK = 2**18


def least(work: Callable[[], object]) -> float:
    """CPU seconds of the fastest of three."""
    taken = []
    for _ in range(3):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def counts(cells: int) -> dict[str, np.ndarray]:
    """Columns and values of cells x genes, and columns of cells x peaks, with features as uneven as real ones."""
    rng = np.random.default_rng(0)
    found = {}
    for name, width, shown in (("rna", 20_000, 1500), ("atac", 100_000, 5000)):
        share = rng.lognormal(0, 1.5, width)
        share /= share.sum()
        rows = [np.unique(rng.choice(width, shown, p=share)).astype(np.int32) for _ in range(cells // 10)]
        found[f"{name} columns"] = np.concatenate(rows * 10)
    found["rna values"] = 1 + rng.geometric(0.6, len(found["rna columns"])).astype(np.int32) // 2
    return found


def hdf5(folder: Path, cells: int) -> None:
    """Print a row a dataset and compression."""
    print("dataset\tcompression\tchunk\tbytes_an_entry\twrite_ns\tread_ns")
    kinds = [("none", {}), ("lzf", {"compression": "lzf", "shuffle": True})]
    kinds += [(f"gzip {n}", {"compression": "gzip", "compression_opts": n, "shuffle": True}) for n in (1, 4)]
    for (name, values), (kind, options) in itertools.product(counts(cells).items(), kinds):
        path = folder / "counts.h5"

        def write(path: Path = path, values: np.ndarray = values, options: dict = options) -> None:
            with h5py.File(path, "w") as file:
                file.create_dataset("x", data=values, chunks=(CHUNK,), **options)

        def read(path: Path = path) -> None:
            with h5py.File(path) as file:
                file["x"][:]

        n = len(values)
        wrote = least(write)
        print(f"{name}\t{kind}\t{CHUNK}\t{size(path) / n:.2f}\t{1e9 * wrote / n:.1f}\t{1e9 * least(read) / n:.1f}")


def stores(folder: Path, cells: int) -> None:
    """Print a row a type, compression and chunk of imputed means and their sd."""
    rng = np.random.default_rng(0)
    rank = rng.gamma(2, 1, (cells, 10)) @ rng.gamma(0.3, 1, (10, 1000))
    layers = {"mean": rank.astype(np.float32), "sd": (rank * rng.uniform(0.1, 0.3, rank.shape)).astype(np.float32)}
    print("\nlayer\ttype\tcompression\tchunk\tbytes_a_value\twrite_ns\tread_a_feature_ms\tworst_relative_error")
    codecs = {
        "zstd 0, no shuffle": Zstd(0),
        "lz4 5": Blosc("lz4", 5, Blosc.SHUFFLE),
        "zstd 3": Blosc("zstd", 3, Blosc.BITSHUFFLE),
    }
    for (name, values), dtype, (codec, how), rows in itertools.product(
        layers.items(), ("float32", "float16", "int8 log"), codecs.items(), (256, 2048)
    ):
        path = folder / "store.zarr"
        chunks = (min(rows, cells), 1000)
        if dtype == "int8 log":
            # 254 steps of the logarithm between the least and the largest value
            low, high = np.log(values.min()), np.log(values.max())
            stored = np.rint((np.log(values) - low) / (high - low) * 254 - 127).astype(np.int8)
            back = np.exp((stored.astype(np.float32) + 127) / 254 * (high - low) + low)
        else:
            stored = values.astype(dtype)
            back = stored.astype(np.float32)

        def write(
            path: Path = path, stored: np.ndarray = stored, how: Blosc | Zstd = how, chunks: tuple = chunks
        ) -> None:
            array = zarr.create_array(
                path,
                shape=stored.shape,
                dtype=stored.dtype,
                chunks=chunks,
                compressors=how,
                zarr_format=2,
                overwrite=True,
            )
            array[:] = stored

        wrote, array = least(write), zarr.open_array(path, mode="r")
        column = least(lambda array=array: array[:, 7])
        error = float(np.abs(back / values - 1).max())
        print(
            f"{name}\t{dtype}\t{codec}\t{chunks[0]}x{chunks[1]}\t{size(path) / stored.size:.2f}\t"
            f"{1e9 * wrote / stored.size:.1f}\t{1e3 * column:.1f}\t{error:.1e}"
        )


def main() -> None:
    """Print both tables."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cells", type=int, default=4000)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as where:
        hdf5(Path(where), chosen.cells)
        stores(Path(where), chosen.cells)


if __name__ == "__main__":
    main()
