"""Metrics of embeddings, pairing, imputation, calibration and effects."""

from __future__ import annotations

from multivi_nf.evaluation.metrics.calibration import (
    area_under_risk_coverage,
    central_coverage,
    count_crps,
    count_log_score,
    expected_calibration_error,
    logistic_calibration,
    mixture_cdf,
    randomised_pit,
    reliability_curve,
    within_feature_rank_correlation,
)
from multivi_nf.evaluation.metrics.clustering import (
    adjusted_rand,
    best_clusters,
    best_leiden,
    carried_label,
    label_purity,
    label_transfer,
    leiden_clusters,
    macro_f1,
    normalised_mutual_information,
    shared_label,
    silhouette_of_labels,
)
from multivi_nf.evaluation.metrics.effects import calls_against_truth, fold_change_agreement
from multivi_nf.evaluation.metrics.imputation import (
    bernoulli_log_loss_skill,
    brier_skill,
    centred_cell_pearson,
    feature_auroc,
    feature_pearson,
    feature_spearman,
    fit_dispersion,
    flat_spearman,
    nb_deviance_skill,
    scaled_squared_error,
)
from multivi_nf.evaluation.metrics.latent import active_dimensions, kl_per_dimension
from multivi_nf.evaluation.metrics.mixing import lisi, lisi_ratio, lisi_ratio_within
from multivi_nf.evaluation.metrics.pairing import Pairing, pairing

__all__ = [
    "Pairing",
    "active_dimensions",
    "adjusted_rand",
    "area_under_risk_coverage",
    "bernoulli_log_loss_skill",
    "best_clusters",
    "best_leiden",
    "brier_skill",
    "calls_against_truth",
    "carried_label",
    "central_coverage",
    "centred_cell_pearson",
    "count_crps",
    "count_log_score",
    "expected_calibration_error",
    "feature_auroc",
    "feature_pearson",
    "feature_spearman",
    "fit_dispersion",
    "flat_spearman",
    "fold_change_agreement",
    "kl_per_dimension",
    "label_purity",
    "label_transfer",
    "leiden_clusters",
    "lisi",
    "lisi_ratio",
    "lisi_ratio_within",
    "logistic_calibration",
    "macro_f1",
    "mixture_cdf",
    "nb_deviance_skill",
    "normalised_mutual_information",
    "pairing",
    "randomised_pit",
    "reliability_curve",
    "scaled_squared_error",
    "shared_label",
    "silhouette_of_labels",
    "within_feature_rank_correlation",
]
