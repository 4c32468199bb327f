"""AnnData zarr stores that are written block by block, and joined without being loaded."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anndata as ad
import numpy as np
import zarr

from multivi_nf.data.draws import BLOCK
from multivi_nf.errors import InputError, option
from multivi_nf.io.files import DiskFull, written_whole
from multivi_nf.io.hdf5 import reading, reading_hdf5
from multivi_nf.io.outputs import STORE, check_folder
from multivi_nf.io.stores import open_store

if TYPE_CHECKING:
    import pandas as pd

CHUNK_COLUMNS = 4096


class Store:
    """An AnnData zarr whose matrices are filled in runs of rows.

    Parameters
    ----------
    path
        Folder to make.
    table
        obs, var, uns and obsm; its X is not looked at.
    layers
        Names of the matrices; "X" is the main one.
    dtype
        float32 or float16.
    rows
        Rows of a zarr chunk: as many as are written at a time.
    zarr_format
        2, which anndata 0.10 to 0.13 and Vitessce open, or 3.
    """

    def __init__(
        self,
        path: Path,
        table: ad.AnnData,
        layers: list[str],
        dtype: str = "float32",
        rows: int = BLOCK,
        zarr_format: int = 2,
    ) -> None:
        # anndata warns of the coming default at every store in format 2
        with ad.settings.override(zarr_write_format=zarr_format, auto_shard_zarr_v3=False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table.write_zarr(path)
        self.group = zarr.open_group(path, mode="r+")
        shape = table.shape
        chunks = (max(1, min(rows, shape[0])), max(1, min(CHUNK_COLUMNS, shape[1])))
        if "raw" in self.group:
            del self.group["raw"]  # written as null, which anndata before 0.12 cannot read
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
def new_store(path: Path, n_bytes: int) -> Iterator[Path]:
    """Temporary folder that becomes `path` when it is complete; zarr writes there by its own defaults alone.

    Raises
    ------
    InputError
        `path` holds anything but a store of this step; `n_bytes` are more than the free space; the disk fills up while
        writing (nothing stays).
    """
    check_folder(path, STORE)
    fewer = f"impute fewer features ({option('features')}), with {option('dtype', 'float16')}"
    advice = f"free space, {fewer}, or give a disk with more"
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if n_bytes > free:
        raise InputError(
            f"{path} may take {n_bytes / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free there",
            "the disk would fill up before the last cell is written",
            advice,
        )
    try:
        # zarr reads settings in a home and in /etc; order and codecs are those that were set when an array is made
        with written_whole(path) as temporary, zarr.config.set(zarr.config.defaults[0]):
            yield temporary
    except DiskFull as problem:
        raise InputError(problem.what, problem.why, advice) from problem


def gather(chunks: list[Path], output: Path, embedding: Path | None = None, zarr_format: int = 2) -> None:
    """Join chunks of `impute` into one store, in the order of the mosaic's cells, holding one block in memory.

    Parameters
    ----------
    chunks
        Stores of `impute`.
    output
        Store to write; must not exist.
    embedding
        `multivi.h5mu` of `embed`: its columns of words (cluster, sample, labels), UMAP, latent space and colours are
        written too, and `<output>.vitessce.json` beside the store.
    zarr_format
        2 or 3.

    Raises
    ------
    InputError
        Chunks of other features, settings or seeds, or with cells in common.
    """
    if not chunks:
        raise InputError("no chunks were given", "there is nothing to join", "name the stores that `impute` wrote")
    parts = sorted(map(_chunk, chunks), key=lambda part: (part.first_cell, str(part.path)))
    var, uns = _agreed(parts)
    import pandas as pd

    obs = pd.concat([part.obs for part in parts])
    if obs.index.has_duplicates:
        doubled = obs.index[obs.index.duplicated()][:3].tolist()
        raise InputError(
            f"cells in several chunks: {', '.join(doubled)}",
            "a cell would stand in the result twice",
            "give every cell to one chunk only",
        )
    for column in obs.select_dtypes("object"):
        obs[column] = obs[column].astype(str)
    layers, first = parts[0].layers, parts[0].matrix("X")
    dtype, rows = str(first.dtype), first.chunks[0]
    n_bytes = len(obs) * len(var) * len(layers) * np.dtype(dtype).itemsize
    with new_store(output, n_bytes) as path:
        obs, obsm, colours = _embedded(obs, embedding) if embedding is not None else (obs, {}, {})
        table = ad.AnnData(obs=obs, var=var, uns=uns | colours, obsm=obsm)
        store = Store(path, table, layers, dtype, rows, zarr_format)
        row = 0
        for part in parts:
            for name in layers:
                _join(store.arrays[name], part.matrix(name), path, part.path, row)
            row += len(part.obs)
    if embedding is not None:
        groups = [c for c in obs.columns if isinstance(obs[c].dtype, pd.CategoricalDtype)]
        with written_whole(output.with_suffix(".vitessce.json")) as temporary:
            temporary.write_text(json.dumps(vitessce_view(output.name, groups), indent=1) + "\n")


def _join(whole: zarr.Array, part: zarr.Array, path: Path, source: Path, row: int) -> None:
    """Put the rows of a part into the whole, from `row` on.

    Chunks that begin where one of the whole does are looked at and then linked as they are, or copied where links
    cannot be: they are not packed again, and stand on the disk once until the work directory is deleted.
    """
    own, given = (one.metadata.to_dict() | {"shape": None, "attributes": None} for one in (whole, part))
    rows = whole.chunks[0]
    if own == given and row % rows == 0 and own["zarr_format"] == 2 and own["dimension_separator"] == ".":
        folder, target = source / part.path, path / whole.path
        for start in range(0, part.shape[0], rows):
            with reading(source):
                part[start : start + rows]  # what cannot be unpacked is not handed on
        for file in sorted(folder.iterdir()):
            place = file.name.split(".")
            if len(place) == 2 and all(number.isdigit() for number in place):
                copied = target / f"{int(place[0]) + row // rows}.{place[1]}"
                # a chunk that the next part will fill up is written again: never through a link
                full = (int(place[0]) + 1) * rows <= part.shape[0] or row + part.shape[0] == whole.shape[0]
                if not (full and _linked(file, copied)):
                    shutil.copyfile(file, copied)
        return
    for start in range(0, part.shape[0], rows):
        stop = min(start + rows, part.shape[0])
        with reading(source):
            values = part[start:stop]
        whole[row + start : row + stop] = values


def _linked(file: Path, name: Path) -> bool:
    """Give a file a second name; not on another file system, or one without links."""
    try:
        os.link(file.resolve(), name)
    except OSError:
        return False
    return True


def _embedded(obs: pd.DataFrame, embedding: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray], dict[str, object]]:
    """`obs` with the embedding's columns of words, its arrays by cell, and its colours; counts are not read."""
    import pandas as pd

    with reading_hdf5(embedding) as file:
        known = ad.io.read_elem(file["obs"])
        rows = known.index.get_indexer(obs.index)
        if (rows < 0).any():
            raise InputError(
                f"{embedding} lacks {int((rows < 0).sum())} of the imputed cells, as {obs.index[rows < 0][0]}",
                "they would have no place on the map",
                "give the multivi.h5mu that was made of the same mosaic",
            )
        obsm = {key: np.asarray(file["obsm"][key])[rows] for key in ("X_umap", "X_multivi") if key in file["obsm"]}
        words = [c for c in known if isinstance(known[c].dtype, pd.CategoricalDtype) and c not in obs]
        keys = [f"{c}_colors" for c in words if f"{c}_colors" in file["uns"]]
        colours = {key: ad.io.read_elem(file["uns"][key]) for key in keys}
    return pd.concat([obs, known[words].iloc[rows]], axis=1), obsm, colours


def vitessce_view(store: str, groups: list[str]) -> dict[str, object]:
    """Vitessce's view of a store: map, groups, features; the address is that of `npx http-server --cors -p 8000`.

    Parameters
    ----------
    store
        Its name; served from the folder that it lies in.
    groups
        Columns of obs with categories; `cluster` comes first.
    """
    groups = sorted(groups, key=lambda column: column != "cluster")
    options = {
        "obsFeatureMatrix": {"path": "X"},
        "obsEmbedding": [{"path": "obsm/X_umap", "dims": [0, 1], "embeddingType": "UMAP"}],
        "obsSets": [{"name": column, "path": f"obs/{column}"} for column in groups],
        "featureLabels": {"path": "var/symbol"},
    }
    file = {"fileType": "anndata.zarr", "url": f"http://localhost:8000/{store}", "options": options}
    scopes = {"dataset": "A", "embeddingType": "A"}
    parts = [("scatterplot", 0, 8, 12), ("obsSets", 8, 4, 6), ("featureList", 8, 4, 6)]
    layout = [
        {"component": name, "coordinationScopes": scopes, "x": x, "y": 6 * (k == 2), "w": w, "h": h}
        for k, (name, x, w, h) in enumerate(parts)
    ]
    return {
        "version": "1.0.16",
        "name": store.removesuffix(".zarr"),
        "description": "imputed by multivi-nf",
        "datasets": [{"uid": "A", "name": store, "files": [file]}],
        "coordinationSpace": {"dataset": {"A": "A"}, "embeddingType": {"A": "UMAP"}},
        "layout": layout,
        "initStrategy": "auto",
    }


@dataclass
class _Chunk:
    """One of the stores that are joined."""

    path: Path
    group: zarr.Group
    obs: pd.DataFrame
    settings: dict[str, object]

    @property
    def first_cell(self) -> int:
        """Place in the mosaic of its first cell."""
        return cast("int", self.settings["first_cell"])

    def matrix(self, name: str) -> zarr.Array:
        """X, or a layer."""
        return cast("zarr.Array", self.group[name if name == "X" else f"layers/{name}"])

    @property
    def layers(self) -> list[str]:
        """Names of all matrices."""
        return ["X", *sorted(cast("zarr.Group", self.group["layers"]))]

    @property
    def common(self) -> dict[str, object]:
        """Settings but where it starts."""
        return {name: value for name, value in self.settings.items() if name != "first_cell"}


def _chunk(path: Path) -> _Chunk:
    """Open a store of `impute`."""
    group = open_store(path)
    with reading(path):
        obs, uns = ad.io.read_elem(group["obs"]), ad.io.read_elem(group["uns"])
        settings = json.loads(uns["multivi_nf"])
        chunk = _Chunk(path, group, obs, settings)
        if not (
            isinstance(settings, dict)
            and isinstance(settings["first_cell"], int)
            and chunk.matrix("X").shape[0] == len(obs)
        ):
            msg = "its settings, cells and values do not fit together"
            raise ValueError(msg)
    return chunk


def _agreed(parts: list[_Chunk]) -> tuple[pd.DataFrame, dict[str, object]]:
    """`var` and `uns` of all chunks, which must be the same but for where the chunk starts."""
    first = parts[0]
    var = ad.io.read_elem(first.group["var"])
    for other in parts[1:]:
        one, two = first.common, other.common
        differ = sorted(k for k in {**one, **two} if one.get(k) != two.get(k))
        same_features = ad.io.read_elem(other.group["var"]).index.equals(var.index)
        if differ or not same_features:
            what = ", ".join(differ) if differ else "features"
            raise InputError(
                f"{first.path} and {other.path} differ in {what}",
                "values of different settings would stand in one matrix",
                "impute all chunks with the same model, options and seed",
            )
    uns = dict(ad.io.read_elem(first.group["uns"]))
    uns["calibrated"] = all(bool(ad.io.read_elem(part.group["uns/calibrated"])) for part in parts)
    uns["multivi_nf"] = json.dumps({**first.common, "first_cell": first.first_cell}, sort_keys=True)
    return var, uns
