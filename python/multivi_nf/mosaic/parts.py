"""The parts of a mosaic: one modality of one sample each; which cells of them stay, and what is known of each cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem
from scipy import sparse

from multivi_nf.errors import InputError
from multivi_nf.inputs.samplesheet import Sample
from multivi_nf.modalities import MODALITIES


@dataclass
class Part:
    """One QC'd modality of one sample, its counts still on disk.

    Attributes
    ----------
    path, sample, modality
        Where it is and what it is.
    obs, var
        Tables of the file; `obs` by the sample's own barcode.
    facts
        What QC recorded (JSON of `uns["multivi_nf"]`).
    keep
        Bool per cell of the file: whether it enters the mosaic.
    """

    path: Path
    sample: str
    modality: str
    obs: pd.DataFrame
    var: pd.DataFrame
    facts: dict
    keep: np.ndarray

    def counts(self) -> sparse.csr_matrix:
        """Read the kept cells × all features, CSR int32."""
        with h5py.File(self.path, "r") as file:
            matrix = sparse.csr_matrix(read_elem(file["X"]))
        return matrix if self.keep.all() else matrix[np.flatnonzero(self.keep)]

    @property
    def names(self) -> np.ndarray:
        """`sample:barcode` of the kept cells."""
        return np.array([f"{self.sample}:{barcode}" for barcode in self.obs.index[self.keep]], dtype=object)


def load_parts(paths: Sequence[Path], samples: Sequence[Sample]) -> list[Part]:
    """Read tables and facts of all parts; sorted by modality, then in samplesheet order, whatever order they came in.

    Raises
    ------
    InputError
        A file that no QC step wrote, an unknown sample, a modality of a sample twice or not at all.
    """
    order = {sample.sample: index for index, sample in enumerate(samples)}
    parts, problems = [], []
    for path in paths:
        try:
            parts.append(_load(Path(path)))
        except InputError as error:
            problems.append(error)
    seen: dict[tuple[str, str], Path] = {}
    for part in parts:
        if part.sample not in order:
            problems.append(
                InputError(
                    f"{part.path}: sample {part.sample!r} is not in the samplesheet",
                    "its batch and metadata are not known",
                    "give the samplesheet it was made with",
                )
            )
        key = (part.sample, part.modality)
        if key in seen:
            problems.append(
                InputError(
                    f"{part.path} and {seen[key]} both hold {part.modality} of {part.sample!r}",
                    "its cells would be counted twice",
                    "give each file once",
                )
            )
        seen[key] = part.path
    for sample in samples:
        for modality in sample.modalities:
            if (sample.sample, modality) not in seen and not problems:
                problems.append(
                    InputError(
                        f"sample {sample.sample!r} has {modality} in the samplesheet, but no file of it was given",
                        "its cells would silently be taken as not measured",
                        f"run qc-{modality} and give its output",
                    )
                )
    if problems:
        raise InputError.all_of(problems)
    return sorted(parts, key=lambda part: (MODALITIES.index(part.modality), order[part.sample]))


def _load(path: Path) -> Part:
    if not path.is_file():
        raise InputError(f"{path} does not exist", "it was named as an input", "correct the path")
    try:
        with h5py.File(path, "r") as file:
            facts = json.loads(read_elem(file["uns/multivi_nf"]))
            obs, var = read_elem(file["obs"]), read_elem(file["var"])
        sample, modality = facts["sample"], facts["modality"]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} was not written by qc-rna, qc-atac or qc-protein ({error})",
            "sample and modality of its cells are not known",
            "give the files that the QC steps wrote",
        ) from error
    obs.index, var.index = obs.index.astype(str), var.index.astype(str)
    return Part(path, sample, modality, obs, var, facts, np.ones(len(obs), dtype=bool))


def choose_cells(parts: list[Part], samples: Sequence[Sample], partial_cells: str, remove_doublets: bool) -> list[dict]:
    """Set `keep` of all parts and count what happened.

    Parameters
    ----------
    partial_cells
        Of a sample with several modalities, cells that are not in all of them: `keep` them as unpaired, or `drop` them.
    remove_doublets
        Drop cells that any of their modalities flags.

    Returns
    -------
    One row a sample: `sample`, `cells` (modality string → number, after dropping), `partial`, `partial_dropped`,
    `doublets_flagged`, `doublets_removed`.
    """
    rows = []
    for sample in samples:
        own = [part for part in parts if part.sample == sample.sample]
        if not own:
            continue
        has = pd.DataFrame({part.modality: pd.Series(True, index=part.obs.index) for part in own})
        has = has.notna() & (has == True)  # noqa: E712  (outer join leaves NaN where absent)
        partial = ~has.all(axis=1)
        doublet = pd.Series(False, index=has.index)
        for part in own:
            flag = f"{part.modality}_doublet"
            if flag in part.obs:
                doublet |= part.obs[flag].astype(bool).reindex(has.index, fill_value=False)
        drop = pd.Series(False, index=has.index)
        if partial_cells == "drop":
            drop |= partial
        if remove_doublets:
            drop |= doublet
        for part in own:
            part.keep = ~drop.loc[part.obs.index].to_numpy()
        left = has[~drop]
        if left.empty:
            raise InputError(
                f"sample {sample.sample!r}: no cell is left of {len(has)} ({int(partial.sum())} are not in all of "
                f"{', '.join(has.columns)}; {int(doublet.sum())} are flagged as doublets)",
                "the sample would vanish from all results",
                "use --partial_cells keep, or check whether the barcodes of its modalities match (barcode_map)",
            )
        words = (
            left.apply(lambda row: "+".join(m for m in MODALITIES if row.get(m, False)), axis=1)
            if len(left) < 1000
            else _words(left)
        )
        rows.append(
            {
                "sample": sample.sample,
                "batch": sample.batch,
                "cells": {str(k): int(v) for k, v in words.value_counts().sort_index().items()},
                "partial": int(partial.sum()),
                "partial_dropped": int(partial.sum()) if partial_cells == "drop" else 0,
                "doublets_flagged": int(doublet.sum()),
                "doublets_removed": int((doublet & drop).sum()) if remove_doublets else 0,
            }
        )
    return rows


def _words(has: pd.DataFrame) -> pd.Series:
    """Modality strings (`rna+atac`) of many cells."""
    word = np.full(len(has), "", dtype=object)
    for modality in MODALITIES:
        if modality in has:
            present = has[modality].to_numpy(bool)
            joint = present & (word != "")
            word[joint] = word[joint] + "+" + modality
            word[present & ~joint] = modality
    return pd.Series(word, index=has.index)


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
    owner = np.empty(len(index), dtype=object)
    for part in parts:
        owner[places[id(part)]] = part.sample
    obs = pd.DataFrame(index=index)
    obs["sample"] = pd.Categorical(owner, categories=[s.sample for s in samples if s.sample in set(owner)])
    batches = pd.Series(owner).map({name: sample.batch for name, sample in by_name.items()}).to_numpy()
    present = set(batches)
    obs["batch"] = pd.Categorical(
        batches, categories=[b for b in dict.fromkeys(s.batch for s in samples) if b in present]
    )
    for modality in MODALITIES:
        has = np.zeros(len(index), dtype=bool)
        for part in parts:
            if part.modality == modality:
                has[places[id(part)]] = True
        obs[f"has_{modality}"] = has
    obs["modality"] = pd.Categorical(_words(obs[[f"has_{m}" for m in MODALITIES]].set_axis(MODALITIES, axis=1)))
    metadata = list(samples[0].metadata) if samples else []
    for column in metadata:
        values = pd.Series(owner).map({name: sample.metadata[column] or None for name, sample in by_name.items()})
        obs[column] = pd.Categorical(values.to_numpy())
    _annotate(obs, parts, places, set(metadata), notes)
    for modality in MODALITIES:
        own = [part for part in parts if part.modality == modality]
        columns = list(dict.fromkeys(c for part in own for c in part.obs if c.startswith(f"{modality}_")))
        for column in columns:
            flag = all(part.obs[column].dtype == bool for part in own if column in part.obs)
            values = np.zeros(len(index), dtype=bool) if flag else np.full(len(index), np.nan)
            for part in own:
                if column in part.obs:
                    values[places[id(part)]] = part.obs[column].to_numpy()[part.keep]
            if (
                flag or np.isfinite(values).any()
            ):  # what no sample could know (no TSS, no mitochondrial gene) is no column
                obs[column] = values
    return obs, notes


def _annotate(
    obs: pd.DataFrame, parts: list[Part], places: dict[int, np.ndarray], metadata: set[str], notes: list[str]
) -> None:
    """Carry the cell annotation of `.h5ad` inputs (labels, above all); the first modality that knows a value wins."""
    prefixes = tuple(f"{modality}_" for modality in MODALITIES)
    columns = list(dict.fromkeys(c for part in parts for c in part.obs if not c.startswith(prefixes)))
    for column in columns:
        if column in obs:
            if column in metadata:
                notes.append(
                    f"column {column!r} of the samplesheet is used, not the one of the same name in .h5ad inputs"
                )
            continue
        holders = [part for part in parts if column in part.obs]
        numeric = all(pd.api.types.is_numeric_dtype(p.obs[column]) and p.obs[column].dtype != bool for p in holders)
        values = np.full(len(obs), np.nan) if numeric else np.full(len(obs), None, dtype=object)
        disagree = 0
        for part in holders:
            own = part.obs[column][part.keep]
            new = (
                own.to_numpy(float)
                if numeric
                else np.array([None if pd.isna(v) else str(v) for v in own], dtype=object)
            )
            at = places[id(part)]
            known, given = pd.notna(values[at]), pd.notna(new)
            disagree += int((known & given & (values[at] != new)).sum())
            values[at] = np.where(known, values[at], new)
        if disagree:
            notes.append(f"column {column!r} differs between the modalities of {disagree} cells; the first was taken")
        obs[column] = values if numeric else pd.Categorical(values)
