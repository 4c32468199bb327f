"""The mosaic: all cells of all samples, each absent from the modalities that it was not measured in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from multivi_nf import __version__
from multivi_nf.errors import InputError
from multivi_nf.inputs.samplesheet import Sample
from multivi_nf.io.files import written_whole
from multivi_nf.io.records import as_json
from multivi_nf.modalities import MODALITIES, SEEN
from multivi_nf.mosaic import features as feature_sets
from multivi_nf.mosaic.cells import cell_table
from multivi_nf.mosaic.features import Features, cells_needed
from multivi_nf.mosaic.names import Aliases, read_aliases
from multivi_nf.mosaic.parts import Part, SampleCells, choose_cells, load_parts, name_cells
from multivi_nf.mosaic.read import read_mosaic
from multivi_nf.mosaic.write import fill, skeleton
from multivi_nf.reduction import residual_variance

__all__ = ["build_mosaic", "read_mosaic"]


@dataclass(frozen=True)
class MosaicRules:
    """Which cells and features a mosaic has.

    Attributes
    ----------
    min_cells_fraction
        A feature stays if it is detected in this fraction of the cells that have its modality (proteins: that were
        stained for it), and in at least 10; in 1 where the modality has fewer than 10 cells.
    min_shared_genes
        Smallest share of the smallest sample's genes that all samples must have.
    n_top_genes
        Mark this many variable genes (Pearson residuals per sample, combined by median rank) as those that the RNA
        encoder sees, in ``var["seen_by_encoder"]``; all that pass stay. 0 = it sees all.
    partial_cells, remove_doublets
        See :func:`multivi_nf.mosaic.parts.choose_cells`.
    seed
        Recorded only: nothing here is random.
    reference
        Folder of a trained model whose features are taken, in its order, without any filter.
    aliases
        Table of two columns: spelling in the data, name that is meant.
    """

    min_cells_fraction: float = 0.01
    min_shared_genes: float = 0.5
    n_top_genes: int = 0
    partial_cells: Literal["drop", "keep"] = "drop"
    remove_doublets: bool = False
    seed: int = 0
    reference: Path | None = None
    aliases: Path | None = None

    def parameters(self) -> dict[str, object]:
        """What is recorded of them."""
        named = None if self.reference is None else Path(self.reference).name
        return {name: value for name, value in asdict(self).items() if name != "aliases"} | {"reference": named}


@dataclass
class MosaicRecord:
    """What is told of a mosaic, and what is in its `uns["multivi_nf"]` (there as JSON text).

    Attributes
    ----------
    version, parameters
        How it was made.
    counting_strategy
        Of its peaks.
    samples
        By sample: cells by modality, and what became of the others.
    features
        By modality: what matched, numbers in and out, cells.
    notes, warnings
        What was done, what to look at.
    """

    version: str
    parameters: dict[str, object]
    counting_strategy: str | None
    samples: list[SampleCells]
    features: dict[str, dict[str, Any]]
    notes: list[str]
    warnings: list[str]


@dataclass
class _Joined:
    """What is written: the table of cells, parts with cells, and the features chosen of each modality."""

    obs: pd.DataFrame
    parts: list[Part]
    chosen: dict[str, Features]

    def of(self, modality: str) -> list[Part]:
        return [part for part in self.parts if part.modality == modality]


Say = Callable[[str], None]


def build_mosaic(
    inputs: Sequence[Path],
    samples: Sequence[Sample],
    output: str | Path,
    rules: MosaicRules | None = None,
    progress: Say = lambda _line: None,
) -> MosaicRecord:
    """Join the QC'd parts of all samples into `mosaic.h5mu`.

    Tables are read first and say which cells and features stay; counts are then read twice, one part at a time (once to
    count in how many cells each feature is, once to write), so that memory is that of the largest sample, not the sum.

    Parameters
    ----------
    inputs
        Files of `qc-rna`, `qc-atac`, `qc-protein`, in any order.
    samples
        The samplesheet, whose order is the order of cells.
    output
        The h5mu to write.
    rules
        By default :class:`MosaicRules` as they are.
    progress
        Called with a line for every part.
    """
    rules = rules or MosaicRules()
    parts = load_parts([Path(path) for path in inputs], samples)
    known = None if rules.reference is None else feature_sets.read_reference(rules.reference)
    meant = read_aliases(rules.aliases)
    notes: list[str] = name_cells(parts, samples)
    if known is not None:
        parts = _of_reference(parts, known, notes)
    rows = choose_cells(parts, samples, rules.partial_cells, rules.remove_doublets)
    used = [sample for sample in samples if any(part.sample == sample.sample for part in parts)]
    parts = [part for part in parts if part.keep.any()]
    obs, more = cell_table(parts, used)
    joined = _Joined(obs, parts, {})
    record = MosaicRecord(__version__, rules.parameters(), None, rows, {}, notes + more, [])
    for modality in MODALITIES:
        own = joined.of(modality)
        if not own:
            continue
        if known is not None:
            table = known[known["modality"] == modality]
            found = feature_sets.reference_features(own, modality, table, rules.min_shared_genes)
        else:
            found = _features(modality, own, rules.min_shared_genes, meant)
            record.notes += _filter(own, found, rules, progress)
            record.warnings += loss(modality, found, rules.min_cells_fraction)
        joined.chosen[modality] = found
        numbers = {"kept": len(found.var), "cells": int(obs[f"has_{modality}"].sum())}
        record.features[modality] = found.facts | numbers
        record.notes += found.notes
    strategies = record.features.get("atac", {}).get("counting_strategy", [])
    record.counting_strategy = ", ".join(strategies) if strategies else None
    _write(Path(output), joined, record, progress)
    return record


def _of_reference(parts: list[Part], known: pd.DataFrame, notes: list[str]) -> list[Part]:
    modalities = set(known["modality"])
    for part in parts:
        if part.modality not in modalities:
            notes.append(f"{part.sample}: {part.modality} is left out; the model was not trained on it")
    kept = [part for part in parts if part.modality in modalities]
    lost = {part.sample for part in parts} - {part.sample for part in kept}
    if lost:
        raise InputError(
            f"sample(s) {', '.join(sorted(lost))} have no modality of the model ({', '.join(sorted(modalities))})",
            "the model cannot place their cells",
            "leave them out, or train a model with their modalities",
        )
    return kept


def _features(modality: str, parts: list[Part], min_shared_genes: float, aliases: Aliases) -> Features:
    if modality == "rna":
        return feature_sets.shared_genes(parts, min_shared_genes, aliases)
    if modality == "atac":
        return feature_sets.one_peak_set(parts)
    return feature_sets.united_proteins(parts, aliases)


FEW_LEFT = 0.75
"""Share of features below which a loss is told."""


def loss(modality: str, found: Features, fraction: float) -> list[str]:
    """Tell how many features got lost on the way and why, where many did.

    That is where the samples share under three quarters of the smallest one's, or where under that of those with any
    count is detected in enough cells. Also fills `found.facts["losses"]`: `given` (features of the smallest sample),
    `shared`, `kept`.
    """
    facts = found.facts
    given = min(facts["in"].values()) if "in" in facts else facts.get("peaks", len(found.var))
    united = facts.get("proteins") if modality == "protein" else facts.get("shared", given)
    rare, seen = facts.get("removed_by_min_cells", 0), facts.get("with_counts", 0)
    kept = united - rare
    facts["losses"] = {"given": given, "shared": facts.get("shared", given), "kept": len(found.var)}
    if facts["losses"]["shared"] >= FEW_LEFT * given and kept >= FEW_LEFT * seen:
        return []
    steps = [f"{given:,} {NOUNS[modality]} in the smallest sample"]
    if modality == "protein":
        steps.append(f"{facts['shared']:,} in every panel, {united:,} in all together")
    elif united != given:
        steps.append(f"{united:,} shared by all samples")
    steps.append(f"{kept:,} detected in enough cells (of {seen:,} with any count; --min_cells_fraction {fraction:g})")
    return [" → ".join(steps)]


NOUNS = {"rna": "genes", "atac": "peaks", "protein": "proteins"}


def _filter(parts: list[Part], found: Features, rules: MosaicRules, progress: Say) -> list[str]:
    """Drop features detected in too few of the cells that have the modality; then mark the most variable genes.

    Returns
    -------
    Notes.
    """
    modality, fraction, notes = parts[0].modality, rules.min_cells_fraction, []
    n_top_genes = rules.n_top_genes if modality == "rna" else 0
    detected = np.zeros(len(found.var), dtype=np.int64)
    measured = np.zeros(len(found.var), dtype=np.int64)
    rankings = []
    for place, part in enumerate(parts):
        progress(f"{part.sample}: counting in how many cells each {modality} feature is detected")
        counts = found.project(place, part.counts())
        detected += np.bincount(counts.indices, minlength=len(found.var))
        measured += int(part.keep.sum()) * (1 if found.panel is None else found.panel[place])
        if n_top_genes:
            ranking, note = variable_genes(counts, n_top_genes)
            rankings.append(ranking)
            notes += [f"{part.sample}: {note}"] if note else []
    n_cells = sum(int(part.keep.sum()) for part in parts)
    needed = np.array([cells_needed(n, fraction) for n in np.unique(measured)])
    least = needed[np.searchsorted(np.unique(measured), measured)]
    keep = detected >= least
    if n_cells < feature_sets.LEAST_CELLS:
        notes.append(f"{modality} has {n_cells} cells only: features need 1 cell, not {feature_sets.LEAST_CELLS}")
    if not keep.any():
        most, fewest = int(detected.max()), feature_sets.LEAST_CELLS
        raise InputError(
            f"no {modality} feature of {len(keep)} is detected in {int(least.max())} of {n_cells} cells; the most "
            f"frequent one is in {most}",
            "nothing of this modality would be left to model",
            f"lower --min_cells_fraction ({fraction:g}) to {most / n_cells:.2g}"
            if most >= fewest
            else f"a feature always needs {fewest} cells: give more cells or counts, or leave {modality} out",
        )
    found.facts |= {"cells_needed": int(least.max()), "removed_by_min_cells": int((~keep).sum())}
    found.facts["with_counts"] = int((detected > 0).sum())
    ranked = any(np.isfinite(ranking["rank"]).any() for ranking in rankings)
    if n_top_genes and not ranked:
        notes.append(
            f"no sample has cells enough to tell its variable genes: the RNA encoder sees all, not {n_top_genes}"
        )
    top = None
    if ranked and keep.sum() > n_top_genes:
        order = _by_rank(rankings, keep)
        top = np.zeros(len(keep), dtype=bool)
        top[order[:n_top_genes]] = True
        found.facts["unseen_by_encoder"] = int((keep & ~top).sum())
    found.keep(keep)
    if top is not None:
        found.var = found.var.assign(**{SEEN: top[keep]})
    return notes


_FEWEST = 10


def variable_genes(counts: sparse.csr_matrix, n_top: int) -> tuple[pd.DataFrame, str]:
    """Rank the genes of one sample by :func:`multivi_nf.reduction.residual_variance`.

    Parameters
    ----------
    counts
        Cells × genes.
    n_top
        How many genes get a rank.

    Returns
    -------
    One row a gene, `rank` (NaN where it has none) and `variance`; and why none has a rank, or "".
    """
    varies = np.bincount(counts.indices, minlength=counts.shape[1]) > 0
    result = pd.DataFrame({"rank": np.nan, "variance": 0.0}, index=range(counts.shape[1]))
    if counts.shape[0] < _FEWEST or varies.sum() < _FEWEST:
        fewer = f"{counts.shape[0]} cells and {varies.sum()} genes with counts"
        return result, f"has {fewer}, too few to tell its variable genes; the other samples' count"
    result["variance"] = residual_variance(counts)
    order = np.argsort(np.where(varies, -result["variance"], np.inf), kind="stable")[: min(n_top, varies.sum())]
    result.loc[order, "rank"] = np.arange(len(order), dtype=float)
    return result, ""


def _by_rank(rankings: list[pd.DataFrame], keep: np.ndarray) -> np.ndarray:
    """Order genes as scanpy does with a batch key: median rank, then number of samples, then mean variance."""
    ranks = np.vstack([ranking["rank"].to_numpy() for ranking in rankings])
    chosen = np.isfinite(ranks).sum(axis=0)
    median = np.full(ranks.shape[1], np.inf)
    median[chosen > 0] = np.nanmedian(ranks[:, chosen > 0], axis=0)
    variance = np.mean([ranking["variance"].to_numpy() for ranking in rankings], axis=0)
    order = np.lexsort((-variance, -chosen, median))
    return order[keep[order]]


def _write(output: Path, joined: _Joined, record: MosaicRecord, progress: Say) -> None:
    tables = {}
    for modality, found in joined.chosen.items():
        own, uns = joined.of(modality), {}
        if modality == "protein":
            uns["panel"] = feature_sets.batch_panel(found, own, joined.obs["batch"].cat.categories)
        tables[modality] = (np.concatenate([part.names for part in own]), found.var, uns)
    with written_whole(output) as temporary:
        skeleton(temporary, joined.obs, tables, {"multivi_nf": ""})
        for modality, found in joined.chosen.items():
            blocks = [partial(_block, found, place, part, progress) for place, part in enumerate(joined.of(modality))]
            empty = fill(temporary, modality, len(found.var), blocks)
            record.features[modality]["cells_without_counts"] = empty
            if empty:
                record.notes.append(f"{empty} cells have no count in the {modality} features kept; they stay measured")
        _record(temporary, record)


def _block(found: Features, place: int, part: Part, progress: Say) -> sparse.csr_matrix:
    progress(f"{part.sample}: writing {part.modality}")
    return found.project(place, part.counts())


def _record(path: Path, record: MosaicRecord) -> None:
    import h5py
    from anndata.io import write_elem

    with h5py.File(path, "r+") as file:
        write_elem(file["uns"], "multivi_nf", json.dumps(as_json(record), sort_keys=True))
