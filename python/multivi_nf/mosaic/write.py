"""Writing the mosaic part by part, so that no more than one sample's counts are in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
from scipy import sparse

_CHUNK = 2**18


def skeleton(
    path: Path, obs: pd.DataFrame, modalities: dict[str, tuple[np.ndarray, pd.DataFrame, dict]], uns: dict
) -> None:
    """Write an h5mu with all tables and no counts.

    Parameters
    ----------
    obs
        Of all cells, in MuData's order.
    modalities
        Name → (cell names, var, uns).
    """
    mods = {}
    for name, (cells, var, own) in modalities.items():
        mods[name] = ad.AnnData(obs=pd.DataFrame(index=pd.Index(cells, dtype=object)), var=var, uns=own)
    with quiet(), mudata.set_options(pull_on_update=False):
        mosaic = mudata.MuData(mods)
        mosaic.obs = obs.loc[mosaic.obs_names]
        mosaic.uns = uns
        mosaic.write(path)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence mudata's advice on names shared by modalities: a gene and its protein may bear one name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class MatrixWriter:
    """A CSR matrix in an HDF5 group, grown block by block of rows; the layout is anndata's.

    One that has its entries where another has them (`places_of`) stores values alone: its columns and row pointers are
    a second name (a hard link of HDF5) of the other's, which every reader follows without noticing.
    """

    def __init__(
        self, parent: h5py.Group, name: str, n_columns: int, dtype: type, places_of: MatrixWriter | None = None
    ) -> None:
        if name in parent:
            del parent[name]
        self.group = parent.create_group(name)
        self.group.attrs["encoding-type"] = "csr_matrix"
        self.group.attrs["encoding-version"] = "0.1.0"
        self.n_columns = n_columns
        self.places_of = places_of
        options = {
            "maxshape": (None,),
            "chunks": (_CHUNK,),
            "compression": "gzip",
            "compression_opts": 1,
            "shuffle": True,
        }
        self.data = self.group.create_dataset("data", (0,), dtype=dtype, **options)
        if places_of is None:
            self.indices = self.group.create_dataset("indices", (0,), dtype=np.int32, **options)
        self.pointers: list[np.ndarray] = [np.zeros(1, dtype=np.int64)]
        self.stored = 0

    def append(self, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray) -> None:
        """Add rows."""
        start, stop = self.stored, self.stored + len(data)
        self.data.resize((stop,))
        self.data[start:stop] = data
        if self.places_of is None:
            self.indices.resize((stop,))
            self.indices[start:stop] = indices
        self.pointers.append(indptr[1:].astype(np.int64) + start)
        self.stored = stop

    def close(self) -> None:
        """Write the row pointers and the shape."""
        indptr = np.concatenate(self.pointers)
        small = self.stored <= np.iinfo(np.int32).max
        if self.places_of is not None:
            for name in ("indices", "indptr"):
                self.group[name] = self.places_of.group[name]
        else:
            self.group.create_dataset(
                "indptr",
                data=indptr.astype(np.int32) if small else indptr,
                compression="gzip",
                compression_opts=1,
                shuffle=True,
            )
        self.group.attrs["shape"] = np.array([len(indptr) - 1, self.n_columns])


def fill(path: Path, modality: str, n_columns: int, blocks: Iterable[Callable[[], sparse.csr_matrix]]) -> int:
    """Write the counts of one modality into a skeleton.

    ATAC gets 0/1 (int8) in `X` and counts in `layers["counts"]`, whose columns stand once in the file; the others have
    counts in `X`.

    Parameters
    ----------
    blocks
        Functions that give the rows, part by part.

    Returns
    -------
    Number of cells without any count.
    """
    empty = 0
    with h5py.File(path, "r+") as file:
        group = file["mod"][modality]
        if modality == "atac":
            writers = [MatrixWriter(group["layers"], "counts", n_columns, np.int32)]
            writers.append(MatrixWriter(group, "X", n_columns, np.int8, places_of=writers[0]))
        else:
            writers = [MatrixWriter(group, "X", n_columns, np.int32)]
        for block in blocks:
            counts = block()
            empty += int((np.diff(counts.indptr) == 0).sum())
            for writer in writers:
                values = np.ones(counts.nnz, np.int8) if writer.data.dtype == np.int8 else counts.data
                writer.append(values, counts.indices, counts.indptr)
        for writer in writers:
            writer.close()
    return empty


def copy_counts(source: Path, target: Path) -> None:
    """Give a file that was written without counts those of a mosaic, as they are stored there: nothing is unpacked.

    Parameters
    ----------
    source
        The mosaic: `X` and `layers` of each modality.
    target
        An h5mu of the same cells and features.
    """
    with h5py.File(source, "r") as old, h5py.File(target, "r+") as new:
        for modality in old["mod"]:
            own, group = old["mod"][modality], new["mod"][modality]
            for name in ("X", "layers"):
                if name in group:
                    del group[name]
            old.copy(own["layers"], group, "layers")
            shared = [
                (part, layer)
                for layer in own["layers"]
                for part in ("indices", "indptr")
                if part in own["X"] and own["X"][part] == own["layers"][layer].get(part)
            ]
            if not shared:
                old.copy(own["X"], group, "X")
                continue
            matrix = group.create_group("X")
            matrix.attrs.update(own["X"].attrs)
            old.copy(own["X"]["data"], matrix, "data")
            for part, layer in shared:
                matrix[part] = group["layers"][layer][part]
