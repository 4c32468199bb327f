"""The parts of a mosaic: one modality of one sample each, and which cells of them stay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from anndata.io import read_elem
from scipy import sparse

from multivi_nf.counts.given import given_name
from multivi_nf.counts.matrix import check_structure, whole_numbers
from multivi_nf.errors import InputError
from multivi_nf.inputs.barcodes import meeting
from multivi_nf.inputs.labels import label_text
from multivi_nf.inputs.samplesheet import Sample
from multivi_nf.io.hdf5 import open_hdf5, reading_hdf5
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
    strategy
        How peaks were counted, as QC recorded it; "None" for others.
    keep
        Bool per cell of the file: whether it enters the mosaic.
    owner, batch
        Text per cell of the file: the sample and the batch it belongs to (see :func:`name_cells`).
    failed
        Barcodes that the input holds and that QC removed.
    """

    path: Path
    sample: str
    modality: str
    obs: pd.DataFrame
    var: pd.DataFrame
    strategy: str
    keep: np.ndarray
    owner: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=object))
    batch: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=object))
    failed: list[str] = field(default_factory=list)

    def counts(self) -> sparse.csr_matrix:
        """Read the kept cells × all features, CSR int32."""
        with reading_hdf5(self.path) as file:
            matrix = sparse.csr_matrix(read_elem(file["X"]))
            if matrix.shape != (len(self.obs), len(self.var)) or matrix.indices.dtype.kind != "i":
                raise TypeError(f"X is {matrix.shape} with indices of {matrix.indices.dtype}, unlike obs and var")
            check_structure(matrix, f"{self.path}, X")
            matrix.data = whole_numbers(matrix.data, f"{self.path}, X")
        return matrix if self.keep.all() else matrix[np.flatnonzero(self.keep)]

    @property
    def names(self) -> np.ndarray:
        """`sample:barcode` of the kept cells."""
        chosen = zip(self.owner[self.keep], self.obs.index[self.keep])
        return np.array([f"{owner}:{barcode}" for owner, barcode in chosen], dtype=object)


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
        with open_hdf5(path) as file:
            facts = json.loads(read_elem(file["uns/multivi_nf"]))
            obs, var = read_elem(file["obs"]), read_elem(file["var"])
            failed = [str(name) for name in read_elem(file["uns/failed"])] if "uns/failed" in file else []
            sample, modality = facts["sample"], facts["modality"]
            obs.index, var.index = obs.index.astype(str), var.index.astype(str)
            if not isinstance(sample, str) or modality not in MODALITIES:
                raise ValueError(f"sample {sample!r}, modality {modality!r}")
            _check_tables(obs, var, modality)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # as io.hdf5.reading says, in other words
        raise InputError(
            f"{path} was not written by qc-rna, qc-atac or qc-protein ({error})",
            "sample and modality of its cells are not known",
            "give the files that the QC steps wrote",
        ) from error
    strategy = str(facts.get("counting_strategy"))
    return Part(path, sample, modality, obs, var, strategy, np.ones(len(obs), dtype=bool), failed=failed)


def _check_tables(obs: pd.DataFrame, var: pd.DataFrame, modality: str) -> None:
    """Refuse what no QC step writes: names twice, values that are no numbers, types that no table holds."""
    for what, table in (("cell", obs), ("feature", var)):
        if not table.index.is_unique:
            raise ValueError(f"the {what} {table.index[table.index.duplicated()][0]!r} is in it twice")
        for column in table.columns:
            own = what == "cell" and str(column).startswith(f"{modality}_")
            kind = table[column].dtype.kind
            if kind in "cV" or (own and kind not in "biuf") or (column == "isotype" and kind != "b"):
                raise ValueError(f"the {what}s' {column!r} is of type {table[column].dtype}")


def name_cells(parts: list[Part], samples: Sequence[Sample]) -> list[str]:
    """Say of every cell which sample and batch it belongs to, and let barcodes meet that differ in spelling only.

    A row of the samplesheet is one sample and one batch, unless its `sample_column` or `batch_column` names a column of
    its cells' own annotation; cells without a value there keep the row's.

    Returns
    -------
    Sentences about what was done.

    Raises
    ------
    InputError
        A named column that no part of the sample has, or two samples of one name with a barcode in common.
    """
    notes: list[str] = []
    for sample in samples:
        own = [part for part in parts if part.sample == sample.sample]
        if not own:
            continue
        notes += _meet(own)
        given = {column: _values(own, sample, column, notes) for column in ("sample_column", "batch_column")}
        for part in own:
            part.owner = _per_cell(part, given["sample_column"], sample.sample)
            default = part.owner if given["batch_column"] is None and given["sample_column"] is not None else None
            part.batch = _per_cell(part, given["batch_column"], sample.batch) if default is None else default
    _check_apart(parts)
    return notes


def _meet(parts: list[Part]) -> list[str]:
    """Rename barcodes of a sample's later modalities as its earlier ones have them, where a suffix or prefix lacks."""
    notes = []
    known: list[str] = [*parts[0].obs.index, *parts[0].failed]
    for part in parts[1:]:
        met = meeting([*part.obs.index, *part.failed], known, 0.05)
        if met is not None:
            part.obs.index = pd.Index([met[0].get(name, name) for name in part.obs.index], dtype=object)
            part.failed = [met[0].get(name, name) for name in part.failed]
            n_met = len(met[0].keys() - set(part.failed))
            notes.append(
                f"{part.sample}: {n_met} {part.modality} barcodes meet those of other modalities without {met[1]}"
            )
        known = list(dict.fromkeys([*known, *part.obs.index, *part.failed]))
    return notes


def _values(parts: list[Part], sample: Sample, column: str, notes: list[str]) -> dict[str, str] | None:
    """Barcode → value of the column that the sample's row names; None where it names none."""
    name = sample.naming.get(column)
    if name is None:
        return None
    found: dict[str, str] = {}
    holders = [part for part in parts if given_name(name) in part.obs]
    if not holders:
        there = list(dict.fromkeys(str(c) for part in parts for c in part.obs if not str(c).startswith(_QC)))
        raise InputError(
            f"sample {sample.sample!r}: {column} names {name!r}, which its cells have not (they have "
            f"{', '.join(there[:20]) or 'no column'})",
            f"which cell belongs to which {column.removesuffix('_column')} cannot be known",
            "name one of these, or add the column to the table in the column cells",
        )
    for part in reversed(holders):
        found |= label_text(part.obs[given_name(name)]).dropna().to_dict()
    cells = {barcode for part in parts for barcode in part.obs.index}
    lacking = len(cells - found.keys())
    if lacking:
        what = column.removesuffix("_column")
        notes.append(
            f"{sample.sample}: {lacking} of {len(cells)} cells have no value in {name!r}; their {what} is the row's"
        )
    return found


def _per_cell(part: Part, values: dict[str, str] | None, default: str) -> np.ndarray:
    if values is None:
        return np.full(len(part.obs), default, dtype=object)
    return np.array([values.get(barcode, default) for barcode in part.obs.index], dtype=object)


def _check_apart(parts: list[Part]) -> None:
    """Two rows may name one sample (a sample_column), but not one cell."""
    rows: dict[str, dict[str, set[str]]] = {}
    for part in parts:
        for owner in dict.fromkeys(part.owner):
            rows.setdefault(owner, {}).setdefault(part.sample, set()).update(part.obs.index[part.owner == owner])
    for owner, cells in rows.items():
        names = list(cells)
        shared = set.intersection(*cells.values()) if len(names) > 1 else set()
        if shared:
            raise InputError(
                f"sample {owner!r} is in the rows {', '.join(map(repr, names))}, with {len(shared)} barcodes in "
                "common, "
                f"e.g. {sorted(shared)[0]!r}",
                "one sample and barcode is one cell; two would be mixed up",
                "name the samples apart, or join the two rows if they hold modalities of the same cells",
            )


_QC = tuple(f"{modality}_" for modality in MODALITIES)


@dataclass(frozen=True)
class SampleCells:
    """What became of a sample's cells.

    Attributes
    ----------
    sample, batch
        Of the samplesheet.
    cells
        Modality string (`rna+atac`) → number, after dropping.
    partial
        Cells not in all of the sample's modalities; of these `partial_failed` in one of them, `partial_not_held` by
        those they lack, `partial_dropped`.
    doublets_flagged, doublets_removed
        Numbers.
    """

    sample: str
    batch: str
    cells: dict[str, int]
    partial: int
    partial_failed: int
    partial_not_held: int
    partial_dropped: int
    doublets_flagged: int
    doublets_removed: int


def choose_cells(
    parts: list[Part], samples: Sequence[Sample], partial_cells: str, remove_doublets: bool
) -> list[SampleCells]:
    """Set `keep` of all parts and count what happened.

    Parameters
    ----------
    partial_cells
        Cells of a sample with several modalities that pass QC in some of them and fail it in another that holds them
        (for fragments: as a candidate cell): `drop` them from all, or `keep` them as unpaired. A cell that another
        modality does not hold was not measured there, and stays.
    remove_doublets
        Drop cells that any of their modalities flags.

    Returns
    -------
    One row a sample.
    """
    rows = []
    for sample in samples:
        own = [part for part in parts if part.sample == sample.sample]
        if not own:
            continue
        has = pd.DataFrame({part.modality: pd.Series(True, index=part.obs.index) for part in own})
        has = has.notna() & (has == True)  # noqa: E712  (outer join leaves NaN where absent)
        partial = ~has.all(axis=1)
        failed = has.index.isin(sorted(set().union(*(part.failed for part in own)))) & partial
        doublet = pd.Series(False, index=has.index)
        for part in own:
            flag = f"{part.modality}_doublet"
            if flag in part.obs:
                doublet |= part.obs[flag].astype(bool).reindex(has.index, fill_value=False)
        drop = pd.Series(False, index=has.index)
        if partial_cells == "drop":
            drop |= failed
        if remove_doublets:
            drop |= doublet
        for part in own:
            part.keep = ~drop.loc[part.obs.index].to_numpy()
        left = has[~drop]
        if left.empty:
            raise InputError(
                f"sample {sample.sample!r}: no cell is left of {len(has)} ({int(failed.sum())} fail QC in some of "
                f"{', '.join(has.columns)}; {int(doublet.sum())} are flagged as doublets)",
                "the sample would vanish from all results",
                "use --partial_cells keep, look at the rules of QC, or leave out --remove_doublets",
            )
        words = words_of(left)
        rows.append(
            SampleCells(
                sample=sample.sample,
                batch=sample.batch,
                cells={str(k): int(v) for k, v in words.value_counts().sort_index().items()},
                partial=int(partial.sum()),
                partial_failed=int(failed.sum()),
                partial_not_held=int((partial & ~failed).sum()),
                partial_dropped=int(failed.sum()) if partial_cells == "drop" else 0,
                doublets_flagged=int(doublet.sum()),
                doublets_removed=int((doublet & drop).sum()) if remove_doublets else 0,
            )
        )
    return rows


def words_of(has: pd.DataFrame) -> pd.Series:
    """Modality strings (`rna+atac`) of many cells."""
    word = np.full(len(has), "", dtype=object)
    for modality in MODALITIES:
        if modality in has:
            present = has[modality].to_numpy(bool)
            joint = present & (word != "")
            word[joint] = word[joint] + "+" + modality
            word[present & ~joint] = modality
    return pd.Series(word, index=has.index)
