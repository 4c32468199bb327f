"""Score one method's embedding or imputation of a split: the rows of the benchmark tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from multivi_nf.benchmark.baselines import mean_profile, smoothed_truth
from multivi_nf.benchmark.splits import Split
from multivi_nf.evaluation import metrics
from multivi_nf.evaluation.spaces import lsi_space, pca_space


@dataclass
class Views:
    """An embedding of a mosaic, from any method.

    Attributes
    ----------
    joint
        (n_cells, d) frame of all cells of the mosaic.
    by_modality
        Modality to the frame of the cells that show it, each placed by that modality alone.
    variance
        (n_cells, d) of the joint, or None.
    """

    joint: pd.DataFrame
    by_modality: Mapping[str, pd.DataFrame]
    variance: pd.DataFrame | None = None


def score_embedding(split: Split, views: Views, labels: pd.Series | None, seed: int = 0) -> dict[str, float]:
    """Pairing of two views of the same cells, mixing, purity beside each modality's own space, active dimensions.

    Parameters
    ----------
    split
        Of RNA and ATAC; pairing is scored on the cells that it shows twice.
    views
        The embedding.
    labels
        Cell types of the original cells.
    """
    scores: dict[str, float] = {}
    rna, atac = split.both_views()
    if len(rna):
        own = None if labels is None else labels[split.origin[rna]].to_numpy()
        found = metrics.pairing(views.by_modality["rna"].loc[rna], views.by_modality["atac"].loc[atac], own)
        scores |= found.to_dict()
    joint = views.joint.to_numpy()
    groups = split.modalities[views.joint.index].to_numpy()
    mixing = metrics.lisi_ratio(joint, groups, seed=seed)
    scores |= {"lisi_ratio": mixing["ratio"], "lisi_scaled": mixing["scaled_ratio"], "lisi": mixing["median"]}
    if labels is not None:
        kinds = labels[split.origin[views.joint.index]].to_numpy()
        scores["lisi_ratio_within"] = metrics.lisi_ratio_within(joint, groups, kinds, seed=seed)
        for modality, own_space in (("rna", pca_space), ("atac", lsi_space)):
            frame = views.by_modality[modality]
            kinds = labels[split.origin[frame.index]].to_numpy()
            counts = split.mosaic[modality][frame.index].X
            scores[f"purity_{modality}"] = metrics.label_purity(frame.to_numpy(), kinds)
            scores[f"purity_{modality}_own"] = metrics.label_purity(own_space(counts), kinds)
            scores[f"purity_{modality}_ratio"] = scores[f"purity_{modality}"] / scores[f"purity_{modality}_own"]
    if views.variance is not None:
        # means of cells that know less lie nearer to the middle, as they should; draws show whether distributions agree
        noise = np.random.default_rng(seed).standard_normal(joint.shape)
        drawn = metrics.lisi_ratio(joint + np.sqrt(views.variance.to_numpy()) * noise, groups, seed=seed)
        scores["lisi_ratio_draws"] = drawn["ratio"]
        scores["active_dimensions"] = metrics.active_dimensions(joint, views.variance.to_numpy())
    return scores


@dataclass
class Hidden:
    """What a split hides of one modality: the truth, and what it is compared with.

    Attributes
    ----------
    cells
        Names in the mosaic.
    counts
        (n_cells, n_features) true counts, features in the mosaic's order.
    smooth
        (n_cells, n_features) mean of 50 neighbours in the hidden modality's own space.
    reference
        (n_features,) mean profile over the cells that show the modality.
    """

    cells: pd.Index
    counts: sp.csr_matrix
    smooth: np.ndarray
    reference: np.ndarray


def hidden_truth(split: Split, complete: Mapping[str, anndata.AnnData], modality: str, source: str) -> Hidden:
    """The true `modality` of the cells of which only `source` is shown."""
    cells, features = split.views(source), split.mosaic[modality].var_names
    origin = split.origin[cells].to_numpy()
    counts = sp.csr_matrix(complete[modality][origin, features].X)
    smooth = smoothed_truth(complete, modality, pd.Index(origin), features)
    return Hidden(cells, counts, smooth, mean_profile(split, modality))


def score_rna(hidden: Hidden, shares: np.ndarray) -> dict[str, float]:
    """Scores of imputed expression shares (n_cells, n_genes) against the hidden counts."""
    measured = np.log1p(1e4 * hidden.counts.toarray() / np.maximum(hidden.counts.sum(1), 1))
    logged = np.log1p(1e4 * shares / shares.sum(1, keepdims=True))
    return {
        "gene_spearman": float(np.nanmean(metrics.feature_spearman(shares, hidden.smooth))),
        "gene_pearson_raw": float(np.nanmean(metrics.feature_pearson(logged, np.asarray(measured)))),
        "cell_pearson_centred": float(np.nanmean(metrics.centred_cell_pearson(logged, np.asarray(measured)))),
        "nb_skill": metrics.nb_deviance_skill(hidden.counts, shares, hidden.reference),
        "spearman_flat": metrics.flat_spearman(shares, hidden.smooth),
    }


def score_atac(hidden: Hidden, probability: np.ndarray) -> dict[str, float]:
    """Scores of imputed accessibility (n_cells, n_peaks) against the hidden 0/1."""
    binary = hidden.counts > 0
    auroc = metrics.feature_auroc(probability, binary)
    frequency = np.asarray(binary.mean(0)).ravel()
    common = frequency >= np.nanquantile(frequency, 0.9)
    return {
        "peak_auroc": float(np.nanmean(auroc)),
        "peak_auroc_common": float(np.nanmean(auroc[common])),
        "log_loss_skill": metrics.bernoulli_log_loss_skill(binary, probability, hidden.reference),
        "brier_skill": metrics.brier_skill(binary, probability, hidden.reference),
        "peak_spearman": float(np.nanmean(metrics.feature_spearman(probability, hidden.smooth))),
    }
