"""What a model must know of the data before it is built: features, batches, covariates, panel, and means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from multivi_nf.data.checks import CHUNK
from multivi_nf.data.mosaic_data import category_text, continuous_column
from multivi_nf.data.source import Matrix, Source
from multivi_nf.errors import InputError, option
from multivi_nf.inputs.labels import label_text, unlabelled
from multivi_nf.model import ModelConfig


def config_of(
    source: Source,
    *,
    categorical_covariates: tuple[str, ...] | list[str] = (),
    continuous_covariates: tuple[str, ...] | list[str] = (),
    **architecture: Any,
) -> ModelConfig:
    """Describe data for a model.

    Parameters
    ----------
    source
        The data.
    categorical_covariates, continuous_covariates
        Columns of `obs`.
    **architecture
        Fields of :class:`~multivi_nf.model.ModelConfig`; None takes its default.
    """
    batch = source.batch
    names = tuple(sorted(set(batch)))
    given = {name: value for name, value in architecture.items() if value is not None}
    categorical, cells = {}, {}
    for name in categorical_covariates:
        values = _categorical_column(source.obs, name)
        categories = tuple(sorted(set(values)))
        categorical[name] = categories
        cells[name] = {m: _count(values[source.has(m)], categories) for m in source.matrices}
    if given.get("labels") is not None:
        given["label_names"] = _label_names(source.obs, given["labels"], float(given.get("labels_weight", 0)))
    if given.get("atac_likelihood") == "poisson":
        _check_fragments(source)
    return ModelConfig(
        n_features={m: matrix.n_features for m, matrix in source.matrices.items()},
        batches=names,
        batch_cells={m: _count(batch[source.has(m)], names) for m in source.matrices},
        categorical=categorical,
        categorical_cells=cells,
        continuous={name: _moments(source.obs, name) for name in continuous_covariates},
        panel=panel_of(source, names),
        **given,
    )


def _label_names(obs: pd.DataFrame, column: str, weight: float) -> tuple[str, ...]:
    """Labels that cells have, sorted; none are needed where their weight is 0."""
    if not weight:
        return ()
    if column not in obs:
        raise InputError(
            f"the labels {column!r} are not a column of obs (columns: {', '.join(map(str, obs.columns))})",
            "the model was asked to be guided by them",
            f"add the column {column!r} to the samplesheet, or correct {option('labels')}",
        )
    names = tuple(sorted(set(label_text(obs[column])[~unlabelled(obs[column])])))
    if len(names) < 2:
        raise InputError(
            f"the labels {column!r} name {f'only {names[0]!r}' if names else 'no cell'}",
            "a classifier needs two labels at least to tell apart",
            f"give a column with two labels or more, or leave {option('labels_weight')} out",
        )
    return names


def _check_fragments(source: Source) -> None:
    """Refuse to model fragments where only 0/1 was kept."""
    atac = source.matrices.get("atac")
    if atac is not None and (atac.values is None or not (atac.values > 1).any()):
        raise InputError(
            f"{option('atac_likelihood', 'poisson')}, but no count of ATAC is above 1",
            "the mosaic holds which peaks are open, not how many fragments lie in them; a Poisson of 0/1 fits neither",
            "put fragment counts in layers['counts'] of modality 'atac', or leave "
            f"{option('atac_likelihood')} out (bernoulli)",
        )


def _count(values: np.ndarray, names: tuple[str, ...]) -> tuple[int, ...]:
    counts = pd.Series(values).value_counts()
    return tuple(int(counts.get(name, 0)) for name in names)


def _categorical_column(obs: pd.DataFrame, name: str) -> np.ndarray:
    if name not in obs:
        raise InputError(
            f"categorical covariate {name!r} is not a column of obs (columns: {', '.join(map(str, obs.columns))})",
            "the model was asked to condition on it",
            f"add the column {name!r} to the samplesheet, or correct {option('categorical_covariates')}",
        )
    empty = obs[name].isna()
    if empty.any():
        raise InputError(
            f"categorical covariate {name!r} is empty for {int(empty.sum())} cells, first {obs.index[empty][0]!r}",
            "the model needs a category for each training cell",
            f"fill the column {name!r}, or leave it out of {option('categorical_covariates')}",
        )
    return category_text(obs[name])


def _moments(obs: pd.DataFrame, name: str) -> tuple[float, float]:
    values = continuous_column(obs, name)
    sd = float(values.std())
    return float(values.mean()), sd if sd > 0 else 1.0


def panel_of(source: Source, batches: tuple[str, ...]) -> tuple[tuple[bool, ...], ...] | None:
    """(n_batches, n_proteins) panel in the model's order; a batch that the table does not list has every protein."""
    if source.panel is None:
        return None
    listed = source.panel.index
    everything = (True,) * source.panel.shape[1]
    return tuple(
        tuple(map(bool, source.panel.loc[name].to_numpy())) if name in listed else everything for name in batches
    )


def feature_means(matrix: Matrix) -> np.ndarray:
    """(n_features,) float64 mean of each feature over the measured cells."""
    sums = np.zeros(matrix.n_features)
    for start in range(0, matrix.indices.size, CHUNK):
        span = slice(start, start + CHUNK)
        weights = None if matrix.values is None else matrix.values[span].astype(np.float64)
        sums += np.bincount(matrix.indices[span], weights, matrix.n_features)
    return sums / max(len(matrix.cells), 1)
