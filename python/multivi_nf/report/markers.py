"""Markers of the clusters as dots: measured beside imputed."""

from __future__ import annotations

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from markupsafe import Markup

from multivi_nf.modalities import MODALITIES
from multivi_nf.mosaic.read import embedded
from multivi_nf.palette import natural
from multivi_nf.report import figures
from multivi_nf.report.gather import Results

MARKERS = 24
"""Features shown of a modality."""
PER_GROUP = 3
ROWS = 5_000
"""Cells read at a time."""


@dataclass
class Profile:
    """Of clusters (rows) and features (columns): the mean, and the share of cells that have the feature."""

    mean: pd.DataFrame
    share: pd.DataFrame


@dataclass(frozen=True)
class Dots:
    """Markers of a modality by cluster.

    Attributes
    ----------
    measured, imputed
        Numbers of cells.
    agreement
        Median over markers of the correlation of the two profiles over clusters; None where there is one panel.
    """

    modality: str
    svg: Markup
    measured: int
    imputed: int
    agreement: float | None


def markers(results: Results) -> list[Dots]:
    """Dots of each modality's markers, in the cells where it was measured and in those where it was imputed."""
    drawn: list[Dots] = []
    if "cluster" not in results.cells:
        return drawn
    with embedded(results.outdir / "multivi.h5mu") as mosaic:
        for modality in MODALITIES:
            if modality in mosaic.mod:
                found = _of_modality(results, modality, mosaic.mod[modality])
                drawn += [found] if found else []
    return drawn


def _of_modality(results: Results, modality: str, data: ad.AnnData) -> Dots | None:
    store = results.imputed.get(modality)
    features = marker_features(results, modality, data.var_names, None if store is None else store.var.index)
    if not features:
        return None
    observed = observed_profile(data, features, results.cells["cluster"])
    panels = [("measured", observed)]
    hidden, agreement = 0, None
    if store is not None:
        measured = store.obs["measured"].astype(bool).to_numpy()
        hidden = int((~measured).sum())
        values = store.means(features)
        clusters = results.cells["cluster"].reindex(values.index).astype(str).to_numpy()
        if hidden:
            panels.append(("imputed, not measured", imputed_profile(values[~measured], clusters[~measured])))
    of_panel = [set(profile.mean.index) for _, profile in panels]
    order, both = sorted(set.union(*of_panel), key=natural), sorted(set.intersection(*of_panel), key=natural)
    if len(order) < 2:
        return None
    if len(panels) == 2 and len(both) > 1:
        agreement = _agreement(panels[0][1].mean[features], panels[1][1].mean[features], both)
    labels = _labels(results, modality, data, features)
    dots = [(title, *(table.reindex(order)[features] for table in (one.mean, one.share))) for title, one in panels]
    svg = figures.marker_dots(dots, labels, f"markers-{modality}", f"{modality} markers by cluster")
    return Dots(modality, Markup(svg), data.n_obs, hidden, agreement)


def _agreement(one: pd.DataFrame, other: pd.DataFrame, order: list[str]) -> float:
    a, b = (table.loc[order].to_numpy() - table.loc[order].to_numpy().mean(0) for table in (one, other))
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return float(np.median((a * b).sum(0)[scale > 0] / scale[scale > 0])) if (scale > 0).any() else float("nan")


def marker_features(results: Results, modality: str, names: pd.Index, available: pd.Index | None) -> list[str]:
    """Top features of the clusters' contrast of this modality where there is one, else the first that were imputed.

    Parameters
    ----------
    names
        The modality's features.
    available
        Those that were imputed, None where none was: they go before others, since both panels can show them.
    """
    clusters = set(results.cells["cluster"].astype(str))
    named = sorted(results.contrasts.items(), key=lambda item: modality not in item[0])
    of_clusters = [
        table.assign(target=table["target"].astype(str))
        for _, table in named
        if "target" in table and len(table) and set(table["target"].astype(str)) <= clusters
    ]
    for table in (one for one in of_clusters if one["feature"].astype(str).isin(names).all()):
        best = table[table["effect"] > 0].sort_values(["probability", "effect"], ascending=False, kind="stable")
        if available is not None and best["feature"].isin(available).any():
            best = best[best["feature"].isin(available)]
        top = best.groupby("target", sort=False).head(PER_GROUP)
        place = {target: i for i, target in enumerate(sorted(set(top["target"]), key=natural))}
        order = np.argsort(top["target"].map(place).to_numpy(), kind="stable")
        features = list(dict.fromkeys(top["feature"].astype(str).to_numpy()[order]))
        if features:
            return _thinned(features)
    return list(available[:MARKERS]) if available is not None else []


def _thinned(features: list[str]) -> list[str]:
    """At most MARKERS of them, from all clusters."""
    if len(features) <= MARKERS:
        return features
    return [features[i] for i in np.unique(np.linspace(0, len(features) - 1, MARKERS).round().astype(int))]


def observed_profile(data: ad.AnnData, features: list[str], clusters: pd.Series) -> Profile:
    """Means and shares above 0 in the measured cells, a block of rows at a time.

    The mean is of ln(1 + counts per ten thousand) (RNA, and any modality of more than 300 features), ln(1 + counts)
    (protein), or of 0 and 1 (peaks).
    """
    columns = data.var_names.get_indexer(features)
    groups = pd.Categorical(clusters.reindex(data.obs_names).astype(str))
    shape = (len(groups.categories), len(features))
    logs, plain, above = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    highest = 0.0
    for start in range(0, data.n_obs, ROWS):
        block = sp.csr_matrix(data.X[start : start + ROWS], dtype=np.float64)
        highest = max(highest, block.max() if block.nnz else 0.0)
        values = block[:, columns].toarray()
        total = np.asarray(block.sum(axis=1)).ravel()
        scaled = values / np.maximum(total, 1)[:, None] * 1e4 if data.n_vars > 300 else values
        codes = groups.codes[start : start + ROWS]
        for table, part in ((logs, np.log1p(scaled)), (plain, values), (above, (values > 0).astype(float))):
            np.add.at(table, codes, part)
    n = np.maximum(np.bincount(groups.codes, minlength=shape[0]), 1)[:, None]
    mean = plain if highest <= 1 else logs
    return Profile(*(pd.DataFrame(table / n, index=groups.categories, columns=features) for table in (mean, above)))


def imputed_profile(values: pd.DataFrame, clusters: np.ndarray) -> Profile:
    """Means of imputed values, and the share of cells above the feature's mean over all these cells."""
    high = values > values.mean()
    return Profile(values.groupby(clusters).mean(), high.groupby(clusters).mean())


def _labels(results: Results, modality: str, data: ad.AnnData, features: list[str]) -> dict[str, str]:
    """What stands beside a row: the symbol, or of a peak its nearest gene and place."""
    if modality == "atac":
        near = {f: results.nearest_genes.get(f, "") for f in features}
        return {f: f"{f} ({near[f]})" if near[f] else f for f in features}
    symbols = data.var["symbol"].astype(str) if "symbol" in data.var else pd.Series(dtype=str)
    return {f: symbols.get(f, f) or f for f in features}
