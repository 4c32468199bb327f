"""Ready-made negative controls of a user's own data: what chance gives, beside what the run found.

Two short runs, alike but for one thing: which cell of a batch each pair's second modality belongs to. What the one with
shuffled pairs still reaches, depth, batches and composition give and not the pairs. Groups of cells are permuted
within batches likewise, and what contrasts still call then is called by chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import mudata
import numpy as np
import pandas as pd
from scipy.stats import rankdata

from multivi_nf.errors import InputError
from multivi_nf.evaluation import metrics
from multivi_nf.evaluation.controls import batches_of, joined, shuffle_pairs

if TYPE_CHECKING:
    from multivi_nf.calibration.stored import Calibration
    from multivi_nf.training import MultiVI

SHARE_OF_EPOCHS, LEAST_EPOCHS = 0.25, 20
LEAST_PAIRS = 30
MOST_CELLS, MOST_FEATURES = 1000, 500
SEEN = 0.05
"""Share of the held-out cells in which a feature must be seen to be scored."""
COLUMNS = ["measure", "modality", "result", "short_run", "chance", "control", "better", "cells", "groups"]


@dataclass
class Control:
    """What is measured: with the run's model, in a short run, and in what `control` leaves."""

    measure: str
    modality: str
    found: dict[str, float]
    control: str
    better: str
    cells: int
    groups: str = ""


def _silent(_: str) -> None:
    """Nobody is told."""


def run_controls(
    model: MultiVI,
    mosaic: mudata.MuData,
    calibration: Calibration,
    *,
    groupby: str = "cluster",
    seed: int = 0,
    device: str = "auto",
    say: Callable[[str], None] = _silent,
) -> pd.DataFrame:
    """Train the short runs and measure what they and the run's model give.

    Parameters
    ----------
    model, calibration
        The run's own.
    mosaic
        What EMBED wrote: the mosaic that the model was trained on, with clusters.
    groupby
        Column of obs whose groups are contrasted: each modality's largest group against the rest.
    seed
        Of the permutations and the short runs.
    device
        auto, cpu or cuda.
    say
        Where progress goes.

    Returns
    -------
    One row a measure and modality: `result` (the run's model), `short_run` (as many epochs as the control, pairs as
    they are), `chance` (the control), `control` (what was permuted), `better` (lower, higher or more), `cells`.

    Raises
    ------
    InputError
        There is no column `groupby`, or the model is not of this mosaic.
    """
    if groupby not in mosaic.obs:
        raise InputError(
            f"obs has no column {groupby!r}",
            "its groups would be permuted and contrasted",
            "name a column of multivi.h5mu with --groupby, such as cluster",
        )
    rows: list[Control] = []
    held = _held_pairs(model, mosaic)
    if held:
        epochs = max(LEAST_EPOCHS, round(SHARE_OF_EPOCHS * len(model.history.rows))) if model.history else LEAST_EPOCHS
        say(f"two short runs of {epochs} epochs: pairs as they are, and shuffled within batches")
        plain = _short_run(model, mosaic, epochs, seed, device)
        shuffled = _short_run(model, shuffle_pairs(mosaic, seed=seed), epochs, seed, device)
        models = {"result": model, "short_run": plain, "chance": shuffled}
        for (one, other), cells in held.items():
            found = {name: _foscttm(each, mosaic, one, other, cells) for name, each in models.items()}
            what, why = "FOSCTTM of held-out pairs", "pairs shuffled"
            rows.append(Control(what, f"{one}, {other}", found, why, "lower", len(cells)))
            for source, target in ((one, other), (other, one)):
                way = source, target
                found = {name: _skill(each, mosaic, way, cells, seed) for name, each in models.items()}
                what = f"rank correlation of {target} imputed from {source}"
                rows.append(Control(what, target, found, why, "higher", len(cells)))
    else:
        say(f"fewer than {LEAST_PAIRS} held-out pairs: pairs cannot be shuffled, contrasts alone have a control")
    permuted = mosaic.copy()
    permuted.obs[groupby] = permuted_groups(mosaic.obs, groupby, seed)
    for modality in model.modalities:
        if modality in mosaic.mod:
            rows += _calls(model, (mosaic, permuted), modality, groupby, calibration, seed)
    return pd.DataFrame([asdict(row) | row.found for row in rows], columns=COLUMNS)


def permuted_groups(obs: pd.DataFrame, column: str, seed: int = 0) -> pd.Series:
    """Values of a column, permuted within batches among cells of the same modalities; gaps stay where they are."""
    rng = np.random.default_rng([seed, 42])
    values = obs[column].copy()
    strata = obs.assign(gap=values.isna())[[c for c in ("batch", "modality") if c in obs] + ["gap"]].astype(str)
    plain = values.astype(object).to_numpy(copy=True)
    for rows in strata.groupby(list(strata.columns), sort=True).indices.values():
        plain[rows] = plain[rows][rng.permutation(len(rows))]
    return pd.Series(plain, index=obs.index).astype(values.dtype)


# ------------------------------------------------------------------------------------------------ short runs


def _short_run(model: MultiVI, mosaic: mudata.MuData, epochs: int, seed: int, device: str) -> MultiVI:
    """A new model of the same architecture, trained on the run's own split."""
    import torch

    from multivi_nf.data.source import source_of
    from multivi_nf.training import MultiVI, train
    from multivi_nf.training.initialise import initialise

    source = source_of(mosaic, atac_counts="atac" in model.config.counted)
    names = ["modality", "feature"]
    if not source.features()[names].reset_index(drop=True).equals(model.features[names]):
        raise InputError(
            "the model's features are not those of the mosaic, in this order",
            "a short run would be another model",
            "give the multivi.h5mu and the model of one run, without --reference",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = MultiVI(model.config, model.features)
    initialise(built, source, seed)
    train(built, source, max_epochs=epochs, seed=seed, device=device, split=model.split, quiet=True)
    return built


def _held_pairs(model: MultiVI, mosaic: mudata.MuData) -> dict[tuple[str, str], pd.Index]:
    """Two modalities to the pairs that were kept from training, where there are enough."""
    if model.split is None:
        return {}
    apart = pd.Index(model.split.loc[model.split["split"] != "train", "cell"].astype(str))
    names, found = [m for m in model.modalities if m in mosaic.mod], {}
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            both = mosaic.mod[one].obs_names.intersection(mosaic.mod[other].obs_names, sort=False)
            cells = mosaic.obs_names[mosaic.obs_names.isin(both) & mosaic.obs_names.isin(apart)]
            if len(cells) >= LEAST_PAIRS:
                found[one, other] = cells[:: max(1, len(cells) // MOST_CELLS)][:MOST_CELLS]
    return found


# ------------------------------------------------------------------------------------------------ measures


def _foscttm(model: MultiVI, mosaic: mudata.MuData, one: str, other: str, cells: pd.Index) -> float:
    """Of true partners, among cells of the same batch; mean over batches by their pairs. Chance is 0.5."""
    from multivi_nf.latent.embed import embed

    shown = joined({m: mosaic.mod[m][cells].copy() for m in (one, other)}, mosaic.obs)
    views = embed(model, shown).by_modality
    batch, found, sizes = batches_of(shown), [], []
    for name in np.unique(batch):
        mine = batch == name
        if mine.sum() > 1:
            found.append(metrics.pairing(views[one][mine], views[other][mine]).foscttm)
            sizes.append(mine.sum())
    return float(np.average(found, weights=sizes)) if found else float("nan")


def _skill(model: MultiVI, mosaic: mudata.MuData, way: tuple[str, str], cells: pd.Index, seed: int) -> float:
    """Mean over features of the rank correlation of imputed and measured values; chance is 0."""
    source, target = way
    from multivi_nf.imputation.impute import impute

    counts = mosaic.mod[target][cells].X
    seen = np.asarray((counts > 0).mean(axis=0)).ravel()
    chosen = np.argsort(-seen, kind="stable")[:MOST_FEATURES]
    chosen = np.sort(chosen[(seen[chosen] >= SEEN)])
    if not len(chosen):
        return float("nan")
    total = np.maximum(np.asarray(counts.sum(axis=1), dtype=np.float64).reshape(-1, 1), 1)
    dense = counts[:, chosen].toarray() if hasattr(counts, "toarray") else np.asarray(counts)[:, chosen]
    truth = dense / total if target == "rna" else dense
    names = mosaic.mod[target].var_names[chosen]
    # the others' target stays: the depth at which accessibility is told is that of measured cells
    others = mosaic.mod[target].obs_names.difference(cells, sort=False)
    parts = {source: mosaic.mod[source][cells].copy(), target: mosaic.mod[target][others].copy()}
    shown = joined({m: parts[m] for m in mosaic.mod if m in parts}, mosaic.obs)
    found = impute(model, shown, target, features=list(names), cells=list(cells), n_samples=39, seed=seed)
    predicted = found[cells, names].X
    a, b = (np.apply_along_axis(rankdata, 0, np.asarray(x, dtype=np.float64)) for x in (predicted, truth))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return float(np.mean((a * b).sum(axis=0)[scale > 0] / scale[scale > 0])) if (scale > 0).any() else float("nan")


def _calls(
    model: MultiVI,
    mosaics: tuple[mudata.MuData, mudata.MuData],
    modality: str,
    groupby: str,
    calibration: Calibration,
    seed: int,
) -> list[Control]:
    """Features called between a modality's largest group and the rest: groups as they are, and permuted."""
    from multivi_nf.comparison.compare import differential
    from multivi_nf.inputs.contrasts import NothingToCompare, group_labels
    from multivi_nf.inputs.labels import unlabelled

    cells = mosaics[0].mod[modality].obs_names
    groups = group_labels(mosaics[0].obs.loc[cells], groupby)
    sizes = groups[~unlabelled(groups)].value_counts(sort=True)
    if len(sizes) < 2:
        return []
    target, found = str(sizes.index[0]), {}
    for name, mosaic in zip(("result", "chance"), mosaics):
        try:
            table = differential(
                model,
                mosaic,
                modality,
                groupby=groupby,
                target=target,
                calibration=calibration,
                n_samples=200,
                seed=seed,
            )
        except NothingToCompare:
            return []
        found[name] = float(table["significant"].sum())
    found["short_run"] = float("nan")
    what, told = f"{modality} features called", f"{target}, rest"
    return [Control(what, modality, found, "groups permuted", "more", len(cells), told)]
