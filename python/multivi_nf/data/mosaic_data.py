"""Minibatches from sparse counts: rows gathered by modality, nothing dense, on the processor or on the GPU."""

from __future__ import annotations

import copy
import dataclasses
import os
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from scipy import sparse

from multivi_nf.data.draws import BLOCK
from multivi_nf.data.minibatch import UNKNOWN_BATCH, Minibatch, ModalityRows, SparseRows, gathered, placed
from multivi_nf.data.source import Matrix, Source, source_of
from multivi_nf.data.stored import StagedRows, StoredMatrix
from multivi_nf.errors import InputError, option
from multivi_nf.inputs.labels import label_text, unlabelled
from multivi_nf.modalities import MODALITIES


class Configured(Protocol):
    """What it must know of a configuration (:class:`multivi_nf.model.ModelConfig`)."""

    @property
    def counted(self) -> tuple[str, ...]:
        """Modalities of which counts are read."""
        ...

    @property
    def batches(self) -> tuple[str, ...]:
        """Names by index."""
        ...

    @property
    def categorical(self) -> dict[str, tuple[str, ...]]:
        """Categories by covariate."""
        ...

    @property
    def continuous(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation by covariate."""
        ...

    @property
    def labels(self) -> str | None:
        """Column of the labels that guide training."""
        ...

    @property
    def label_names(self) -> tuple[str, ...]:
        """Its values."""
        ...

    @property
    def guided(self) -> bool:
        """Whether labels guide training."""
        ...


class Described(Protocol):
    """What :class:`MosaicData` must know of a model: its configuration and its features."""

    features: pd.DataFrame

    @property
    def config(self) -> Configured:
        """The configuration."""
        ...


class MosaicData:
    """Cells of a mosaic in the terms of one model: features in its order, batches by its codes.

    Parameters
    ----------
    mosaic
        MuData, path of an h5mu, or a :class:`Source`.
    model
        A model with `config` (batches, covariates) and `features` (columns modality, feature).

    Attributes
    ----------
    cells
        (n_cells,) names; the index of all other attributes.
    obs
        (n_cells, ...) the mosaic's cell table.
    has
        Modality to (n_cells,) booleans: measured.
    batch
        (n_cells,) int64 tensor of the model's batch index; `UNKNOWN_BATCH` where the model never saw the batch.
    unknown_batches
        Names of these.
    unknown_categories
        Categorical covariate → values that the model never saw.
    labels
        (n_cells,) int64 tensor of codes of the labels that guide training, -1 where a cell has none; None: none guide.
    counterparts
        (n_cells, n_batches) float32 tensor of `multivi_nf.training.counterparts`, set by training; None without.
    told_apart
        (n_cells, n_batches) bool tensor of the same; None without and where it is all False.

    Raises
    ------
    InputError
        If features differ from the model's, naming the first that differ.
    """

    def __init__(self, mosaic: MuData | str | os.PathLike[str] | Source, model: Described) -> None:
        config = model.config
        fragments = "atac" in config.counted
        source = source_of(mosaic, atac_counts=fragments)
        matrices = _matched(source, model.features)
        if not fragments and isinstance(matrices.get("atac"), Matrix):
            matrices["atac"] = dataclasses.replace(matrices["atac"], values=None)
        panel = source.panel
        if panel is not None and "protein" in matrices:
            panel = panel[list(matrices["protein"].var.index.astype(str))]
        self.source = Source(source.obs, matrices, panel, source.notes)
        self.obs = source.obs
        self.cells = source.obs.index
        self.device = torch.device("cpu")
        names = source.batch
        code = {name: i for i, name in enumerate(config.batches)}
        self.batch = torch.as_tensor(np.array([code.get(name, UNKNOWN_BATCH) for name in names], dtype=np.int64))
        self.unknown_batches = sorted({name for name in names if name not in code})
        self.categorical = _categorical(source.obs, config.categorical)
        self.unknown_categories = _unknown(source.obs, config.categorical)
        self.continuous = _continuous(source.obs, config.continuous)
        self.labels: torch.Tensor | None = None
        if config.labels is not None and config.guided:
            self.labels = _labels(source.obs, config.labels, config.label_names)
        self.counterparts: torch.Tensor | None = None
        self.told_apart: torch.Tensor | None = None
        self.has: dict[str, np.ndarray] = {}
        self._rows: dict[str, torch.Tensor] = {}
        self._counts: dict[str, _Resident | StoredMatrix | StagedRows] = {}
        position = pd.Index(self.cells)
        for modality in MODALITIES:
            self.has[modality] = np.zeros(len(self.cells), dtype=bool)
            if modality not in matrices:
                continue
            matrix = matrices[modality]
            at = position.get_indexer(matrix.cells)
            if (at < 0).any():
                cell = matrix.cells[at < 0][0]
                raise InputError(
                    f"cell {cell!r} of modality {modality!r} is not among the cells of the mosaic",
                    "cells are matched by name across modalities",
                    "call mosaic.update() before training",
                )
            rows = np.full(len(self.cells), -1, dtype=np.int64)
            rows[at] = np.arange(len(at))
            self.has[modality] = rows >= 0
            self._rows[modality] = torch.from_numpy(rows)
            self._counts[modality] = _Resident(matrix) if isinstance(matrix, Matrix) else matrix

    @property
    def n_cells(self) -> int:
        """Number of cells, measured in whatever."""
        return len(self.cells)

    @property
    def modalities(self) -> list[str]:
        """Modalities with at least one measured cell, in their order."""
        return list(self._counts)

    @property
    def n_bytes(self) -> int:
        """Bytes of the counts: what :meth:`to` would put on a device."""
        return sum(counts.n_bytes for counts in self._counts.values())

    def to(self, device: torch.device | str) -> MosaicData:
        """Move all counts to a device, where minibatches are then gathered without any copy from the host."""
        self.device = torch.device(device)
        for counts in self._counts.values():
            counts.to(self.device)
        return self

    def stream_to(self, device: torch.device | str) -> MosaicData:
        """Keep counts on the host and copy each minibatch to a device through pinned memory."""
        self.device = torch.device(device)
        return self

    def minibatch(self, index: np.ndarray | torch.Tensor) -> Minibatch:
        """Gather cells.

        Parameters
        ----------
        index
            (n,) integer positions in :attr:`cells`, on the host.

        Returns
        -------
        Minibatch with cells in the order of `index`, on :attr:`device`.
        """
        index = torch.as_tensor(index, dtype=torch.int64)
        modalities = {}
        for modality, counts in self._counts.items():
            rows = self._rows[modality][index]
            measured = torch.nonzero(rows >= 0).flatten()
            if measured.numel():
                cells = self._placed(measured)
                modalities[modality] = ModalityRows(cells, counts.rows(rows[measured], self.device))
        return Minibatch(
            batch=self._placed(self.batch[index]),
            modalities=modalities,
            categorical=self._placed(self.categorical[index]),
            continuous=self._placed(self.continuous[index]),
            labels=torch.empty(0) if self.labels is None else self._placed(self.labels[index]),
            counterparts=None if self.counterparts is None else self._placed(self.counterparts[index]),
            told_apart=None if self.told_apart is None else self._placed(self.told_apart[index]),
        )

    def staged(self, index: np.ndarray) -> MosaicData:
        """The same cells, those of `index` ready to be read block by block in any order.

        Of a mosaic that stays on disk their counts are unpacked once, into a scratch file; in memory nothing changes.
        """
        own = {m: counts.stored if isinstance(counts, StagedRows) else counts for m, counts in self._counts.items()}
        stored = {m: counts for m, counts in own.items() if isinstance(counts, StoredMatrix)}
        if not stored or len(index) <= BLOCK:
            return self
        staged = copy.copy(self)
        rows = {m: self._rows[m].numpy()[index] for m in stored}
        staged._counts = self._counts | {m: StagedRows(stored[m], at[at >= 0]) for m, at in rows.items()}
        return staged

    def in_panel(self, index: np.ndarray, modality: str) -> np.ndarray | None:
        """(n, n_proteins) whether each protein was measured in each cell's batch; None where all features were.

        A batch that the panel does not list measured every protein.
        """
        if modality != "protein" or self.source.panel is None:
            return None
        own = self.source.panel.reindex(self.source.batch[index].astype(str), fill_value=True).to_numpy(bool)
        return None if own.all() else own

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return placed(tensor, self.device)


class _Resident:
    """A CSR matrix on a device, whose row pointers also stay on the host so that sizes are known without waiting."""

    def __init__(self, matrix: Matrix) -> None:
        self.n_features = matrix.n_features
        self.indptr = torch.from_numpy(matrix.indptr)
        self.indices = torch.from_numpy(matrix.indices)
        self.values = None if matrix.values is None else torch.from_numpy(matrix.values)

    @property
    def n_bytes(self) -> int:
        tensors = [self.indptr, self.indices] + ([] if self.values is None else [self.values])
        return sum(t.numel() * t.element_size() for t in tensors)

    def to(self, device: torch.device) -> None:
        self.indices = self.indices.to(device)
        self.values = None if self.values is None else self.values.to(device)

    def rows(self, rows: torch.Tensor, device: torch.device) -> SparseRows:
        """Gather rows (host positions) and leave them on `device`."""
        begin = self.indptr[rows]
        indptr, at = gathered(begin, self.indptr[rows + 1] - begin, self.indices.device)
        values = None if self.values is None else placed(self.values[at].float(), device)
        return SparseRows(placed(indptr, device), placed(self.indices[at], device), values, self.n_features)


def _matched(source: Source, features: pd.DataFrame) -> dict[str, Matrix]:
    """Matrices with the model's features in the model's order, matched by name."""
    known = {m: pd.Index(part["feature"].astype(str)) for m, part in features.groupby("modality", sort=False)}
    problems, matched = [], {}
    for modality, matrix in source.matrices.items():
        if modality not in known:
            problems.append(
                InputError(
                    f"the mosaic has modality {modality!r}; the model was trained on {', '.join(known)} only",
                    "the model has no encoder for it, and leaving data out unasked would mislead",
                    f"remove {modality!r} from the mosaic (del mosaic.mod['{modality}']), or train a model with it",
                )
            )
            continue
        names = matrix.var.index.astype(str)
        want = known[modality]
        if len(names) == len(want) and (names == want).all():
            matched[modality] = matrix
            continue
        missing, extra = want.difference(names, sort=False), names.difference(want, sort=False)
        if len(missing) or len(extra):
            problems.append(_different(modality, names, want, missing, extra))
            continue
        matched[modality] = _reordered(matrix, want)
    if problems:
        raise InputError.all_of(problems)
    return matched


def _different(modality: str, names: pd.Index, want: pd.Index, missing: pd.Index, extra: pd.Index) -> InputError:
    parts = [f"{modality} features of the mosaic are not those of the model ({len(names):,} here, {len(want):,} there)"]
    if len(missing):
        parts.append(f"{len(missing):,} of the model's are missing, first {', '.join(map(repr, missing[:3]))}")
    if len(extra):
        parts.append(f"{len(extra):,} are unknown to the model, first {', '.join(map(repr, extra[:3]))}")
    return InputError(
        "; ".join(parts),
        "features are matched by name; decoding or encoding under other names would give wrong values without a sign",
        "build the mosaic on the model's features.tsv (pipeline: --reference MODEL), or train a new model",
    )


def _reordered(matrix: Matrix | StoredMatrix, want: pd.Index) -> Matrix:
    """The same columns in the order of `want`, in memory."""
    if isinstance(matrix, StoredMatrix):
        matrix = matrix.in_memory()
    to = want.get_indexer(matrix.var.index.astype(str)).astype(np.int32)
    values = np.ones(matrix.indices.size, dtype=np.int16) if matrix.values is None else matrix.values
    counts = sparse.csr_matrix((values, to[matrix.indices], matrix.indptr), shape=(len(matrix.cells), len(want)))
    counts.sort_indices()
    return Matrix(
        matrix.cells,
        matrix.var.set_axis(matrix.var.index.astype(str)).loc[want],
        counts.indptr.astype(np.int64),
        counts.indices.astype(np.int32, copy=False),
        None if matrix.values is None else counts.data,
    )


def _categorical(obs: pd.DataFrame, categories: dict[str, tuple[str, ...]]) -> torch.Tensor:
    """(n_cells, n_categorical) int64 codes; -1 where the model never saw the value."""
    codes = np.full((len(obs), len(categories)), -1, dtype=np.int64)
    for j, (name, values) in enumerate(categories.items()):
        _require_column(obs, name)
        codes[:, j] = pd.Index(values).get_indexer(category_text(obs[name]))
    return torch.from_numpy(codes)


def _labels(obs: pd.DataFrame, column: str, names: tuple[str, ...]) -> torch.Tensor:
    """(n_cells,) int64 codes; -1 where there is no label, the model never saw it, or the mosaic lacks the column."""
    codes = np.full(len(obs), -1, dtype=np.int64)
    if column in obs:
        known = ~unlabelled(obs[column])
        codes[known] = pd.Index(names).get_indexer(label_text(obs[column])[known])
    return torch.from_numpy(codes)


def category_text(values: pd.Series) -> np.ndarray:
    """(n_cells,) a covariate's values as text, the same for whole numbers of any type; `nan` where there is none."""
    return label_text(values).fillna("nan").to_numpy(dtype=object)


def _unknown(obs: pd.DataFrame, categories: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    unseen = {name: sorted(set(category_text(obs[name])) - set(values)) for name, values in categories.items()}
    return {name: values for name, values in unseen.items() if values}


def _continuous(obs: pd.DataFrame, moments: dict[str, tuple[float, float]]) -> torch.Tensor:
    """(n_cells, n_continuous) float32, standardised by the training cells' mean and standard deviation."""
    values = np.zeros((len(obs), len(moments)), dtype=np.float32)
    for j, (name, (mean, sd)) in enumerate(moments.items()):
        _require_column(obs, name)
        values[:, j] = (continuous_column(obs, name) - mean) / sd
    return torch.from_numpy(values)


def _require_column(obs: pd.DataFrame, name: str) -> None:
    if name not in obs:
        raise InputError(
            f"covariate {name!r} is not a column of obs (columns: {', '.join(map(str, obs.columns))})",
            "the model was asked to condition on it",
            f"add the column {name!r} to the samplesheet or to mosaic.obs",
        )


def continuous_column(obs: pd.DataFrame, name: str) -> np.ndarray:
    """(n_cells,) float64 values of a continuous covariate, all finite."""
    _require_column(obs, name)
    values = pd.to_numeric(obs[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise InputError(
            f"continuous covariate {name!r} of cell {obs.index[bad[0]]!r} is {obs[name].iloc[bad[0]]!r} "
            f"({bad.size} cells without a finite number)",
            "the model needs a number for each cell",
            f"fill the column {name!r}, or leave it out of {option('continuous_covariates')}",
        )
    return values
