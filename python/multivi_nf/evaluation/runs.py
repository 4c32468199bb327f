"""Score the output of a pipeline run against what is known of its cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anndata
import mudata
import numpy as np
import pandas as pd

from multivi_nf.data.draws import cell_keys
from multivi_nf.errors import InputError
from multivi_nf.evaluation import metrics
from multivi_nf.evaluation.spaces import lsi_space, pca_space
from multivi_nf.inputs.labels import label_text, unlabelled
from multivi_nf.io.hdf5 import reading
from multivi_nf.io.limits import read_tsv
from multivi_nf.io.stores import check_store, open_store
from multivi_nf.mosaic.read import embedded
from multivi_nf.mosaic.rows import chosen, rows_by_rows
from multivi_nf.simulate.truth import Truth

if TYPE_CHECKING:
    import zarr
    from scipy import sparse

LATENT = "X_multivi"
LEAST = 20
"""Fewer labelled cells than this say nothing."""
MOST = 10_000
"""Cells that a score looks at; of more it looks at so many, drawn by their names. Neighbours of all, and spaces of all
counts, would cost their square, and a memory that grows with them."""
TOGETHER = 1000
"""Cells whose true means are in memory at a time."""


@dataclass(frozen=True)
class Score:
    """One line of the report: a value, what it is compared with, and how to read it."""

    name: str
    value: float
    beside: dict[str, float]
    meaning: str

    def line(self) -> str:
        """The line as it is printed."""
        others = ", ".join(f"{name} {value:.3g}" for name, value in self.beside.items())
        return f"{self.name:<34} {self.value:>7.3f}   {f'({others}) ' if others else ''}{self.meaning}"


def latent(mosaic: mudata.MuData, key: str = LATENT) -> pd.DataFrame:
    """A latent space of the mosaic as a frame of the cells that have it."""
    if key not in mosaic.obsm:
        raise InputError(
            f"the mosaic has no obsm[{key!r}]; it has {sorted(mosaic.obsm)}",
            "there is no embedding to score",
            "give the multivi.h5mu that `multivi-nf embed` wrote",
        )
    frame = pd.DataFrame(np.asarray(mosaic.obsm[key], dtype=np.float64), index=mosaic.obs_names)
    return frame.dropna()


def label_column(mosaic: mudata.MuData, column: str) -> pd.Series:
    """Labels of the mosaic's own cells; cells without one are left out."""
    if column not in mosaic.obs:
        raise InputError(
            f"--labels {column!r} is not a column of obs; they are {sorted(mosaic.obs.columns)}",
            "there is nothing to score the cells against",
            "name a column of the samplesheet's metadata, or give --truth",
        )
    labels = mosaic.obs[column]
    return label_text(labels)[~unlabelled(labels)].astype(str)


def truth_labels(mosaic: mudata.MuData, truth: Truth) -> pd.Series:
    """Cell types of the mosaic's cells, doublets and dying cells left out."""
    known = truth.cells.loc[mosaic.obs_names.intersection(truth.cells.index, sort=False)]
    if known.empty:
        raise InputError(
            f"no cell of the mosaic ({mosaic.obs_names[0]!r}, ...) is in the truth ({truth.cells.index[0]!r}, ...)",
            "nothing can be scored",
            "give the truth/ folder of the simulation that the run was made from",
        )
    good = ~known["doublet"].astype(bool) & ~known["dying"].astype(bool)
    return known.loc[good, "cell_type"].astype(str)


def some(cells: pd.Index) -> pd.Index:
    """At most `MOST` of some cells, in their order; the same ones whichever others there are."""
    if len(cells) <= MOST:
        return cells
    return cells[np.sort(np.argsort(cell_keys(cells, 0, "evaluate"), kind="stable")[:MOST])]


def counts(data: anndata.AnnData, cells: pd.Index) -> sparse.csr_matrix:
    """(n_cells, n_features) X of some cells of a modality."""
    return chosen(rows_by_rows(data.X), data.obs_names.get_indexer(cells))


def score_clusters(mosaic: mudata.MuData, labels: pd.Series, joint: pd.DataFrame) -> list[Score]:
    """ARI of clusters against the labels, beside those of each modality's own space over the same cells and grid."""
    found = []
    of = joint.index.intersection(labels.index, sort=False)
    if "cluster" in mosaic.obs:
        clusters = mosaic.obs.loc[of, "cluster"].astype(str)
        value = metrics.adjusted_rand(labels[of], clusters)
        nmi = metrics.normalised_mutual_information(labels[of], clusters)
        found.append(Score("clusters, ARI", value, {"NMI": nmi}, "the run's own clusters, all cells"))
    for modality, name, space in (("rna", "RNA PCA", pca_space), ("atac", "ATAC LSI", lsi_space)):
        if modality not in mosaic.mod:
            continue
        cells = some(mosaic[modality].obs_names.intersection(of, sort=False))
        if len(cells) < LEAST:
            continue
        own = metrics.best_leiden(space(counts(mosaic[modality], cells)), labels[cells].to_numpy())
        ours = metrics.best_leiden(joint.loc[cells].to_numpy(), labels[cells].to_numpy())
        beside = {name: own["ari"], "NMI": ours["nmi"], f"{name} NMI": own["nmi"]}
        found.append(Score(f"Leiden ARI, {modality} cells", ours["ari"], beside, "best of one grid; higher is better"))
    return found


def score_mixing(mosaic: mudata.MuData, labels: pd.Series, joint: pd.DataFrame) -> list[Score]:
    """LISI ratios of modality group and batch, overall and within labels."""
    found = []
    cells, known = some(joint.index), some(joint.index.intersection(labels.index, sort=False))
    for column, name in (("modality", "modalities"), ("batch", "batches")):
        groups = mosaic.obs.loc[cells, column].astype(str)
        if groups.nunique() < 2:
            continue
        kinds = mosaic.obs.loc[known, column].astype(str)
        value = metrics.lisi_ratio(joint.loc[cells].to_numpy(), groups.to_numpy())
        within = metrics.lisi_ratio_within(
            joint.loc[known].to_numpy(), kinds.to_numpy(), labels[known].to_numpy(), minimum=50
        )
        beside = {"within types": within, "scaled": value["scaled_ratio"], "unmixed": 1 / value["permuted"]}
        beside = {name: number for name, number in beside.items() if np.isfinite(number)}
        found.append(Score(f"mixing of {name}, LISI ratio", value["ratio"], beside, "1 is as if permuted"))
    if "rna" in mosaic.mod:
        rna = some(mosaic["rna"].obs_names.intersection(joint.index, sort=False))
        batch = mosaic.obs.loc[rna, "batch"].astype(str).to_numpy()
        if len(np.unique(batch)) > 1:
            before = metrics.lisi_ratio(pca_space(counts(mosaic["rna"], rna)), batch)["ratio"]
            found.append(Score("mixing of batches before, RNA PCA", before, {}, "what the model started from"))
    return found


def score_pairs(mosaic: mudata.MuData, labels: pd.Series, held_out: pd.Index | None) -> list[Score]:
    """FOSCTTM and same-type neighbours of the two views of paired cells; of those kept from training where known."""
    if not {f"{LATENT}_rna", f"{LATENT}_atac"} <= set(mosaic.obsm):
        return []
    rna, atac = latent(mosaic, f"{LATENT}_rna"), latent(mosaic, f"{LATENT}_atac")
    paired = rna.index.intersection(atac.index, sort=False).intersection(labels.index, sort=False)
    found = []
    apart = paired.intersection([] if held_out is None else held_out, sort=False)
    for cells, name in ((some(paired), "paired cells"), (some(apart), "held-out pairs")):
        if len(cells) < LEAST:
            continue
        views = metrics.pairing(rna.loc[cells].to_numpy(), atac.loc[cells].to_numpy(), labels[cells].to_numpy())
        beside = {"cells": len(cells), "same-type neighbour": views.same_label, "median rank/N": views.median_rank}
        found.append(Score(f"FOSCTTM, {name}", views.foscttm, beside, "0 is perfect, 0.5 chance"))
    return found


def score_types(mosaic: mudata.MuData, labels: pd.Series) -> list[Score]:
    """Label purity of each view beside its own space, and transfer of labels from RNA to ATAC cells."""
    found, spaces = [], {}
    for modality, name, space in (("rna", "RNA PCA", pca_space), ("atac", "ATAC LSI", lsi_space)):
        if f"{LATENT}_{modality}" not in mosaic.obsm or modality not in mosaic.mod:
            continue
        frame = latent(mosaic, f"{LATENT}_{modality}")
        spaces[modality] = frame.loc[frame.index.intersection(labels.index, sort=False)]
        cells = some(spaces[modality].index)
        if len(cells) < LEAST:
            del spaces[modality]
            continue
        kinds = labels[cells].to_numpy()
        own = metrics.label_purity(space(counts(mosaic[modality], cells)), kinds)
        value = metrics.label_purity(spaces[modality].loc[cells].to_numpy(), kinds)
        found.append(Score(f"15-NN type purity, {modality} view", value, {name: own}, "higher is better"))
    if {"rna", "atac"} <= set(spaces):
        source = spaces["rna"]
        target = spaces["atac"].loc[some(spaces["atac"].index.difference(source.index, sort=False))]
        source = source.loc[some(source.index)]
        if len(target) >= LEAST:
            moved = metrics.label_transfer(source.to_numpy(), labels[source.index].to_numpy(), target.to_numpy())
            kinds = labels[target.index].to_numpy()
            beside = {"accuracy": float((moved == kinds).mean()), "ATAC-only cells": len(target)}
            f1 = metrics.macro_f1(kinds, moved)
            found.append(Score("types carried from RNA to ATAC, F1", f1, beside, "macro; higher is better"))
    return found


def score_latent(mosaic: mudata.MuData) -> list[Score]:
    """Active dimensions."""
    if f"{LATENT}_variance" not in mosaic.obsm:
        return []
    mean, variance = latent(mosaic), latent(mosaic, f"{LATENT}_variance")
    active = metrics.active_dimensions(mean.to_numpy(), variance.loc[mean.index].to_numpy())
    return [Score("active latent dimensions", active, {"of": mean.shape[1]}, "mean KL above 0.05")]


def true_expression(measured: pd.Index, truth: Truth, cells: pd.Index, genes: pd.Index) -> pd.DataFrame:
    """True means per 10^4 of `genes`, averaged over the sites of measured cells as the reference mixture is."""
    sites = truth.cells.loc[measured.intersection(truth.cells.index), "site"].value_counts(normalize=True)
    mean = 0.0
    for site, share in sites.items():
        under = pd.DataFrame(truth.expression(cells, site), index=cells, columns=truth.genes.index)[genes]
        mean = mean + share * 1e4 * under.div(under.sum(1), axis=0)
    return mean


@dataclass(frozen=True)
class Imputed:
    """A store of imputed values, of which only what is scored is read."""

    path: Path
    obs: pd.DataFrame
    var_names: pd.Index

    @classmethod
    def of(cls, path: Path) -> Imputed:
        """Read the tables of a store."""
        check_store(path)
        with reading(path):
            group = open_store(path)
            return cls(path, anndata.io.read_elem(group["obs"]), anndata.io.read_elem(group["var"]).index)

    @property
    def obs_names(self) -> pd.Index:
        """Its cells."""
        return self.obs.index

    def __getitem__(self, asked: tuple[pd.Index, pd.Index]) -> anndata.AnnData:
        """Values and their bounds of some cells and features."""
        cells, features = asked
        rows, columns = self.obs_names.get_indexer(cells), self.var_names.get_indexer(features)
        with reading(self.path):
            group = open_store(self.path)
            read = {
                name: _some_of(cast("zarr.Array[Any]", group[name]), rows, columns)
                for name in ("X", "layers/lower", "layers/upper")
                if name in group
            }
        layers = {name.removeprefix("layers/"): values for name, values in read.items() if name != "X"}
        tables = {"obs": pd.DataFrame(index=cells), "var": pd.DataFrame(index=features)}
        return anndata.AnnData(read["X"], **tables, layers=layers)


def _some_of(stored: zarr.Array[Any], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(n_rows, n_columns) values, read chunk by chunk of rows."""
    found, step = np.empty((len(rows), len(columns)), stored.dtype), stored.chunks[0]
    for start in np.unique(rows // step) * step:
        inside = np.flatnonzero((rows >= start) & (rows < start + step))
        block = np.asarray(stored[int(start) : int(start + step)])
        found[inside] = block[rows[inside] - start][:, columns]
    return found


def score_imputed_rna(mosaic: mudata.MuData, truth: Truth, imputed: anndata.AnnData | Imputed) -> list[Score]:
    """Imputed expression of cells without RNA against their true means, beside the mean profile of measured cells."""
    genes = mosaic["rna"].var_names.intersection(truth.genes.index, sort=False)
    asked = imputed.var_names.intersection(genes, sort=False)
    cells = imputed.obs_names[~imputed.obs["measured"].to_numpy(bool)].intersection(truth.cells.index, sort=False)
    cells = some(cells[~truth.cells.loc[cells, "doublet"].astype(bool)])
    if len(cells) < LEAST or len(asked) < 2:
        return []
    measured = mosaic["rna"]
    blocks = [cells[start : start + TOGETHER] for start in range(0, len(cells), TOGETHER)]
    means = [true_expression(measured.obs_names, truth, block, genes)[asked].to_numpy() for block in blocks]
    mean = np.concatenate(means)
    part = imputed[cells, asked]
    predicted = np.asarray(part.X, dtype=np.float64)
    known = counts(measured, some(measured.obs_names))
    shares = known / np.maximum(known.sum(1), 1)
    profile = 1e4 * np.asarray(shares.mean(0)).ravel()[measured.var_names.get_indexer(asked)]
    ours, constant = (np.mean((np.log1p(p) - np.log1p(mean)) ** 2) for p in (predicted, profile[None, :]))
    scores = {"cells": len(cells), "skill over mean profile": 1 - ours / constant}
    if {"lower", "upper"} <= set(part.layers):
        inside = (np.asarray(part.layers["lower"]) <= mean) & (mean <= np.asarray(part.layers["upper"]))
        scores["true means in the 95 % interval"] = float(inside.mean())
    value = float(np.nanmean(metrics.feature_spearman(predicted, mean)))
    return [Score("imputed RNA, Spearman per gene", value, scores, "of ATAC-only cells, against true means")]


def too_few_labels(mosaic: mudata.MuData, labels: pd.Series) -> list[str]:
    """What cannot be scored because too few of a modality's cells carry a label, a line each.

    Raises
    ------
    InputError
        Nothing can be scored.
    """
    lines = []
    scored = [modality for modality in ("rna", "atac") if modality in mosaic.mod]
    for modality in scored:
        cells = mosaic[modality].obs_names
        known = len(cells.intersection(labels.index))
        if known < LEAST:
            lines.append(f"cells by {modality}: {known} of {len(cells):,} carry a label, at least {LEAST} are needed")
    if labels.empty or (lines and len(lines) == len(scored)):
        raise InputError(
            f"too few cells carry a label; {'; '.join(lines)}",
            "there is nothing to score the cells against",
            "name a column whose labels the cells of at least one modality have",
        )
    return lines


def evaluate_run(
    mosaic: mudata.MuData,
    labels: pd.Series,
    *,
    truth: Truth | None = None,
    held_out: pd.Index | None = None,
    imputed: Mapping[str, anndata.AnnData | Imputed] | None = None,
) -> list[Score]:
    """Score a run's embedding, and its imputation where a truth is given.

    Parameters
    ----------
    mosaic
        Output of EMBED.
    labels
        Cell types by cell; cells without one are not scored.
    truth
        Of a simulated mosaic.
    held_out
        Cells that did not train the model.
    imputed
        Modality to imputed values.

    Returns
    -------
    Scores in the order they are printed.
    """
    joint = latent(mosaic)
    scores = score_clusters(mosaic, labels, joint)
    scores += score_mixing(mosaic, labels, joint)
    scores += score_pairs(mosaic, labels, held_out)
    scores += score_types(mosaic, labels)
    scores += score_latent(mosaic)
    if truth is not None and imputed and "rna" in imputed:
        scores += score_imputed_rna(mosaic, truth, imputed["rna"])
    return scores


@contextmanager
def opened_run(mosaic: Path, imputed: Path | None) -> Iterator[tuple[mudata.MuData, dict[str, Imputed] | None]]:
    """Open a run's multivi.h5mu and its imputed RNA, where there is any; counts and values stay in their files."""
    found = None if imputed is None else {"rna": Imputed.of(imputed)}
    with embedded(mosaic) as run:
        yield run, found


def held_out_cells(model: Path | None) -> pd.Index | None:
    """Validation and calibration cells of a model folder."""
    if model is None:
        return None
    path = model / "split.tsv"
    if not path.is_file():
        raise InputError(
            f"--model {model} has no split.tsv", "cells that trained it cannot be told apart", "give the run's model/"
        )
    split = read_tsv(path, dtype=str)
    return pd.Index(split.loc[split["split"] != "train", "cell"])
