"""Each modality of `multivi.h5mu` with its own cells' table, map, latent space, graph and colours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf.errors import Damaged, InputError
from multivi_nf.modalities import MODALITIES
from multivi_nf.palette import colours_of, natural

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

MOST_CATEGORIES = 256
"""A column of words with more values names things rather than groups them: it gets no colours."""


def fill_modalities(mosaic: MuData, *, graph: bool = True) -> MuData:
    """Give every modality the obs, UMAP, latent space, neighbour graph and colours of its own cells, in place.

    mudata does not hand these down, so that `sc.pl.umap(mosaic["rna"], color="cluster")` would find nothing. Columns of
    the modality's own `obs` stay where the mosaic has none of that name. Colours stand in
    `uns["<column>_colors"]`, one a category, the same in all modalities.

    Parameters
    ----------
    mosaic
        As :func:`multivi_nf.latent.annotate.annotate` leaves it.
    graph
        False: the neighbour graph, the largest part, stays with the whole.
    """
    mosaic.obs = tidy(mosaic.obs)
    colours = {column: colours_of(mosaic.obs[column].cat.categories) for column in coloured(mosaic.obs)}
    for column, of_category in colours.items():
        mosaic.uns[f"{column}_colors"] = np.array(list(of_category.values()), dtype=object)
    for name, data in mosaic.mod.items():
        _fill(mosaic, name, data, colours)
        if graph:
            _fill_graph(mosaic, data)
    return mosaic


def check_embedded(mosaic: MuData, path: Path) -> None:
    """Refuse a mosaic without map or clusters, as `mosaic` writes it.

    Raises
    ------
    InputError
        Naming what is missing.
    """
    missing = [] if "X_umap" in mosaic.obsm else ["obsm['X_umap']"]
    missing += [] if "cluster" in mosaic.obs else ["obs['cluster']"]
    if missing:
        raise Damaged(
            path,
            f"has no {' and no '.join(missing)}",
            "map and clusters are what is exported",
            "give the multivi.h5mu that `multivi-nf embed MOSAIC MODEL --output multivi.h5mu` writes",
        )
    strange = [name for name in mosaic.mod if name not in MODALITIES]
    if strange:
        raise InputError(
            f"{path} holds the modality {strange[0]!r}, which no step of multivi-nf writes",
            "it is not known what its values are, so they cannot be summed up or drawn",
            f"leave it out of the file that is exported (del mdata.mod[{strange[0]!r}])",
        )
    names = [("cells", mosaic.obs_names), *((f"names of {m}", data.var_names) for m, data in mosaic.mod.items())]
    doubled = [what for what, index in names if not index.is_unique]
    plain = [key for key in ("X_umap", "X_multivi") if key in mosaic.obsm and not _is_numbers(mosaic.obsm[key])]
    if doubled or plain:
        wrong = [*(f"{what} that occur twice" for what in doubled), *(f"no numbers in obsm[{k!r}]" for k in plain)]
        raise Damaged(
            path,
            f"holds {' and '.join(wrong)}",
            "it was damaged or changed since EMBED wrote it",
            "copy it again, or run `multivi-nf embed MOSAIC MODEL --output multivi.h5mu` again",
        )


def _is_numbers(values: object) -> bool:
    found = np.asarray(values)
    return found.ndim == 2 and np.issubdtype(found.dtype, np.number)


def tidy(obs: pd.DataFrame) -> pd.DataFrame:
    """Words as categories in natural order, without one that is called nan: a cell without a value has none."""
    obs = obs.copy()
    for column in obs.columns:
        values = obs[column]
        if isinstance(values.dtype, pd.CategoricalDtype):
            words = values.cat.categories.astype(str)
            if not pd.api.types.is_string_dtype(values.cat.categories) or words.isin(["nan", ""]).any():
                obs[column] = _categories(values.astype(object))
            else:
                obs[column] = values.cat.remove_unused_categories()
        elif values.dtype == object or isinstance(values.dtype, pd.StringDtype):
            obs[column] = _categories(values)
    return obs


def _categories(values: pd.Series) -> pd.Categorical:
    known = values.notna() & ~values.astype(str).isin(["nan", "<NA>", "None", ""])
    words = values.where(known).map(str, na_action="ignore")
    return pd.Categorical(words, categories=sorted(words.dropna().unique(), key=natural))


def coloured(obs: pd.DataFrame) -> list[str]:
    """Columns of categories that are few enough to be told apart."""
    return [
        column
        for column in obs.columns
        if isinstance(obs[column].dtype, pd.CategoricalDtype) and 0 < len(obs[column].cat.categories) <= MOST_CATEGORIES
    ]


def _fill(mosaic: MuData, name: str, data: AnnData, colours: dict[str, dict[str, str]]) -> None:
    rows = mosaic.obs_names.get_indexer(data.obs_names)
    obs = mosaic.obs.iloc[rows].copy()
    for column in obs.columns:
        if isinstance(obs[column].dtype, pd.CategoricalDtype):
            obs[column] = obs[column].cat.remove_unused_categories()
    own = [column for column in data.obs.columns if column not in obs]
    data.obs = pd.concat([obs, tidy(data.obs[own])], axis=1) if own else obs
    for key in ("X_umap", "X_multivi", "X_multivi_mean", "X_multivi_variance", f"X_multivi_{name}"):
        if key in mosaic.obsm:
            data.obsm[key] = np.asarray(mosaic.obsm[key])[rows]
    if "neighbors" in mosaic.uns:
        data.uns["neighbors"] = mosaic.uns["neighbors"]
    for column, of_category in colours.items():
        kept = obs[column].cat.categories
        if len(kept):
            data.uns[f"{column}_colors"] = np.array([of_category[value] for value in kept], dtype=object)


def _fill_graph(mosaic: MuData, data: AnnData) -> None:
    rows = mosaic.obs_names.get_indexer(data.obs_names)
    for key in ("connectivities", "distances"):
        if key in mosaic.obsp:
            whole = mosaic.obsp[key]
            whole = whole if sparse.issparse(whole) else whole.to_memory()
            data.obsp[key] = whole[rows][:, rows].tocsr()
