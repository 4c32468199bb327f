"""What is known of each cell of a mosaic: sample, batch, modalities, metadata, annotation and quality."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from multivi_nf.counts.given import SUFFIX, given_name
from multivi_nf.inputs.labels import label_text
from multivi_nf.inputs.samplesheet import Sample
from multivi_nf.modalities import MODALITIES
from multivi_nf.mosaic.parts import Part, words_of


def cell_table(parts: list[Part], samples: Sequence[Sample]) -> tuple[pd.DataFrame, list[str]]:
    """Make `obs` of the mosaic: order of MuData (cells of the first modality, then those that are new in the next).

    Returns
    -------
    The table, index `sample:barcode`; and notes on annotation that disagreed between modalities.
    """
    notes: list[str] = []
    index = pd.Index(np.concatenate([part.names for part in parts])).drop_duplicates()
    by_name = {sample.sample: sample for sample in samples}
    places = {id(part): index.get_indexer(pd.Index(part.names)) for part in parts}
    owner, names, batches = (np.empty(len(index), dtype=object) for _ in range(3))
    for part in parts:
        owner[places[id(part)]] = part.sample
        names[places[id(part)]] = part.owner[part.keep]
        batches[places[id(part)]] = part.batch[part.keep]
    obs = pd.DataFrame(index=index)
    obs["sample"] = _ordered(names, [s.sample for s in samples])
    obs["batch"] = _ordered(batches, [s.batch for s in samples])
    for modality in MODALITIES:
        has = np.zeros(len(index), dtype=bool)
        for part in parts:
            if part.modality == modality:
                has[places[id(part)]] = True
        obs[f"has_{modality}"] = has
    obs["modality"] = pd.Categorical(words_of(obs[[f"has_{m}" for m in MODALITIES]].set_axis(MODALITIES, axis=1)))
    metadata = list(samples[0].metadata) if samples else []
    for column in metadata:
        values = pd.Series(owner).map({name: sample.metadata[column] or None for name, sample in by_name.items()})
        obs[column] = pd.Categorical(values.to_numpy())
    notes += _annotate(obs, parts, places)
    if "donor" in metadata:
        notes += _donors(obs, pd.Series(owner, index=index), by_name)
    _add_quality(obs, parts, places)
    return obs, notes


def _add_quality(obs: pd.DataFrame, parts: list[Part], places: dict[int, np.ndarray]) -> None:
    """Add what QC found of each modality; what no sample could know (no TSS, no mitochondrial gene) is no column."""
    for modality in MODALITIES:
        own = [part for part in parts if part.modality == modality]
        columns = list(dict.fromkeys(c for part in own for c in part.obs if c.startswith(f"{modality}_")))
        for column in columns:
            flag = all(part.obs[column].dtype == bool for part in own if column in part.obs)
            values = np.zeros(len(obs), dtype=bool) if flag else np.full(len(obs), np.nan)
            for part in own:
                if column in part.obs:
                    values[places[id(part)]] = part.obs[column].to_numpy()[part.keep]
            if flag or np.isfinite(values).any():
                obs[column] = values


def _annotate(obs: pd.DataFrame, parts: list[Part], places: dict[int, np.ndarray]) -> list[str]:
    """Carry the cell annotation of `.h5ad` inputs (labels, above all); the first modality that knows a value wins."""
    notes = []
    prefixes = tuple(f"{modality}_" for modality in MODALITIES)
    columns = list(dict.fromkeys(c for part in parts for c in part.obs if not c.startswith(prefixes)))
    for column in columns:
        name = column
        if column in obs:
            name = f"{column}{SUFFIX}"
            notes.append(f"column {column!r} of the samplesheet is used; that of the cells' own annotation is {name!r}")
        holders = [part for part in parts if column in part.obs]
        values = _common([part.obs[column][part.keep] for part in holders])
        joined = pd.Series(pd.array([pd.NA] * len(obs), dtype="object"), index=range(len(obs)))
        disagree = 0
        for part, new in zip(holders, values):
            at, own = places[id(part)], new.astype(object).to_numpy()
            known, given = joined.iloc[at].notna().to_numpy(), pd.notna(own)
            differ = [a != b for a, b in zip(joined.iloc[at].to_numpy()[known & given], own[known & given])]
            disagree += int(sum(differ))
            joined.iloc[at[~known]] = own[~known]
        if disagree:
            notes.append(f"column {column!r} differs between the modalities of {disagree} cells; the first was taken")
        obs[name] = _typed(joined, values).array
    return notes


def _common(columns: list[pd.Series]) -> list[pd.Series]:
    """Columns of one name in one kind: numbers, booleans or, where these differ, text."""
    kinds = {_kind(column) for column in columns}
    return columns if len(kinds) == 1 or kinds == {"i", "f"} else [label_text(column) for column in columns]


def _kind(column: pd.Series) -> str:
    if pd.api.types.is_bool_dtype(column.dtype):
        return "b"
    if pd.api.types.is_integer_dtype(column.dtype):
        return "i"
    return "f" if pd.api.types.is_float_dtype(column.dtype) else "t"


def _typed(joined: pd.Series, columns: list[pd.Series]) -> pd.Series:
    """A joined column in the type that its parts have; with gaps the nullable one, categories in their order."""
    kinds = {_kind(column) for column in columns}
    gaps = joined.isna()
    if kinds == {"b"}:
        return joined.astype("boolean") if gaps.any() else joined.astype(bool)
    if kinds == {"i"}:
        return joined.astype("Int64") if gaps.any() else joined.astype(np.int64)
    if kinds <= {"i", "f"}:
        return pd.to_numeric(joined.where(~gaps, np.nan)).astype(float)
    dtypes = {column.dtype for column in columns if isinstance(column.dtype, pd.CategoricalDtype)}
    plain = joined.where(~gaps, None)
    if len(dtypes) == 1 and all(isinstance(column.dtype, pd.CategoricalDtype) for column in columns):
        return pd.Series(pd.Categorical(plain, dtype=next(iter(dtypes)))).cat.remove_unused_categories()
    return pd.Series(pd.Categorical([None if gap else str(v) for v, gap in zip(plain, gaps)]))


def _ordered(values: np.ndarray, first: Sequence[str]) -> pd.Categorical:
    """Categories in the order of the samplesheet, then of appearance."""
    present = dict.fromkeys(values)
    named = [value for value in dict.fromkeys(first) if value in present]
    return pd.Categorical(values, categories=[*named, *(value for value in present if value not in named)])


def _donors(obs: pd.DataFrame, owner: pd.Series, samples: dict[str, Sample]) -> list[str]:
    """A donor that is called as a column of the cells' annotation is that column: one file of several donors."""
    donor, notes = obs["donor"].astype(object), []
    for name, sample in samples.items():
        column = sample.metadata.get("donor") or ""
        source = f"donor{SUFFIX}" if column == "donor" else given_name(column)
        if column and source in obs:
            rows = (owner == name).to_numpy()
            donor[rows] = label_text(obs[source])[rows].to_numpy()
            notes.append(f"{name}: donors are taken from the column {column!r}")
    if notes:
        obs["donor"] = pd.Categorical(donor.to_numpy())
    return notes
