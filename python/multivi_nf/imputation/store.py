"""AnnData zarr stores that are written block by block, and joined without being loaded."""

from __future__ import annotations

import errno
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import zarr

from multivi_nf.data.draws import BLOCK
from multivi_nf.errors import InputError
from multivi_nf.io.files import written_whole

if TYPE_CHECKING:
    import pandas as pd

CHUNK_COLUMNS = 4096


class Store:
    """An AnnData zarr whose matrices are filled in runs of rows.

    Parameters
    ----------
    path
        Folder to make.
    obs, var, uns
        As of an AnnData.
    layers
        Names of the matrices; "X" is the main one.
    dtype
        float32 or float16.
    rows
        Rows of a zarr chunk: as many as are written at a time.
    """

    def __init__(
        self,
        path: Path,
        obs: pd.DataFrame,
        var: pd.DataFrame,
        uns: dict,
        layers: list[str],
        dtype: str = "float32",
        rows: int = BLOCK,
    ) -> None:
        skeleton = ad.AnnData(obs=obs, var=var, uns=uns)
        with ad.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
            skeleton.write_zarr(path)
        self.group = zarr.open_group(path, mode="r+")
        shape = (len(obs), len(var))
        chunks = (max(1, min(rows, shape[0])), max(1, min(CHUNK_COLUMNS, shape[1])))
        self.arrays = {}
        for name in layers:
            where = name if name == "X" else f"layers/{name}"
            if where in self.group:
                del self.group[where]
            array = self.group.create_array(where, shape=shape, dtype=dtype, chunks=chunks, fill_value=0)
            array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            self.arrays[name] = array
        with warnings.catch_warnings():
            # anndata writes consolidated metadata, which must name the matrices too
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(path)

    def write(self, rows: slice, **values: np.ndarray) -> None:
        """Fill the rows of some matrices."""
        for name, value in values.items():
            self.arrays[name][rows] = value


@contextmanager
def new_store(path: Path, n_bytes: int, advice: str) -> Iterator[Path]:
    """Temporary folder that becomes `path` when it is complete.

    Raises
    ------
    InputError
        `path` exists; `n_bytes` are more than the free space; the disk fills up while writing (nothing stays).
    """
    if path.exists():
        raise InputError(
            f"{path} exists already",
            "imputed values of two runs must not be mixed, and nothing is overwritten silently",
            "remove it, or give another --output",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if n_bytes > free:
        raise InputError(
            f"{path} may take {n_bytes / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free there",
            "the disk would fill up before the last cell is written",
            advice,
        )
    try:
        with written_whole(path) as temporary:
            yield temporary
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise InputError(
            f"the disk filled up while {path} was written ({problem.strerror})",
            "an incomplete store looks like a complete one; what was written has been removed",
            advice,
        ) from problem


def gather(chunks: list[Path], output: Path) -> None:
    """Join chunks of `impute` into one store, in the order of the mosaic's cells, holding one block in memory.

    Raises
    ------
    InputError
        Chunks of other features, settings or seeds, or with cells in common.
    """
    if not chunks:
        raise InputError("no chunks were given", "there is nothing to join", "name the stores that `impute` wrote")
    absent = [path for path in chunks if not (path / "zarr.json").is_file() and not (path / ".zgroup").is_file()]
    if absent:
        raise InputError(
            f"{', '.join(map(str, absent[:3]))}: no zarr store",
            "a chunk that is missing would leave its cells out",
            "name the folders that `multivi-nf impute --output` wrote",
        )
    opened = [(path, zarr.open_group(path, mode="r")) for path in chunks]
    parts = [(path, group, ad.io.read_elem(group["obs"]), _settings(group)) for path, group in opened]
    parts.sort(key=lambda part: (part[3]["first_cell"], str(part[0])))
    var, uns = _agreed(parts)
    import pandas as pd

    obs = pd.concat([part[2] for part in parts])
    if obs.index.has_duplicates:
        doubled = obs.index[obs.index.duplicated()][:3].tolist()
        raise InputError(
            f"cells in several chunks: {', '.join(doubled)}",
            "a cell would stand in the result twice",
            "give every cell to one chunk only",
        )
    for column in obs.select_dtypes("object"):
        obs[column] = obs[column].astype(str)
    first = parts[0][1]
    layers = ["X", *sorted(first["layers"])]
    dtype, rows = str(first["X"].dtype), first["X"].chunks[0]
    n_bytes = len(obs) * len(var) * len(layers) * np.dtype(dtype).itemsize
    with new_store(
        output, n_bytes, "free space, or impute fewer features (--features) or with --dtype float16"
    ) as path:
        store = Store(path, obs, var, uns, layers, dtype, rows)
        row = 0
        for _, group, cells, _ in parts:
            for start in range(0, len(cells), rows):
                stop = min(start + rows, len(cells))
                values = {n: group[n if n == "X" else f"layers/{n}"][start:stop] for n in layers}
                store.write(slice(row + start, row + stop), **values)
            row += len(cells)


def _settings(group: zarr.Group) -> dict:
    return json.loads(ad.io.read_elem(group["uns"])["multivi_nf"])


def _agreed(parts: list[tuple]) -> tuple[pd.DataFrame, dict]:
    """`var` and `uns` of all chunks, which must be the same but for where the chunk starts."""
    path, group, _, settings = parts[0]
    var = ad.io.read_elem(group["var"])
    common = {k: v for k, v in settings.items() if k != "first_cell"}
    for other_path, other, _, other_settings in parts[1:]:
        other_common = {k: v for k, v in other_settings.items() if k != "first_cell"}
        differ = sorted(k for k in {**common, **other_common} if common.get(k) != other_common.get(k))
        same_features = ad.io.read_elem(other["var"]).index.equals(var.index)
        if differ or not same_features:
            what = ", ".join(differ) if differ else "features"
            raise InputError(
                f"{path} and {other_path} differ in {what}",
                "values of different settings would stand in one matrix",
                "impute all chunks with the same model, options and seed",
            )
    uns = dict(ad.io.read_elem(group["uns"]))
    uns["calibrated"] = all(bool(ad.io.read_elem(part[1]["uns/calibrated"])) for part in parts)
    uns["multivi_nf"] = json.dumps({**common, "first_cell": settings["first_cell"]}, sort_keys=True)
    return var, uns
