"""The first thing on the page: may these results be trusted, and what to do where they may not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from multivi_nf.report.gather import Results, read_imputed_obs

ENOUGH_PAIRS = 1000
"""Paired cells from which integration was seen to work well (SCMMIB); below, alignment rests on few cells."""
MINIMUM_PAIRS = 100
ACTIVE_KL = 0.05
"""Mean KL (nats) to the prior above which a latent dimension carries information."""

Level = Literal["good", "look", "poor", "unknown"]


@dataclass
class Finding:
    """One line of the verdict."""

    question: str
    level: Level
    answer: str
    remedy: str = ""


def kl_per_dimension(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Mean KL(N(mean, variance) || N(0, 1)) over cells, (n_latent,) in nats.

    Closed form for two Gaussians, e.g. Kingma & Welling 2014, appendix B.
    """
    variance = np.maximum(variance, 1e-12)
    return 0.5 * (variance + mean**2 - 1 - np.log(variance)).mean(axis=0)


def verdict(results: Results) -> list[Finding]:
    """All findings, in the order in which a reader should care."""
    findings = [
        pairs(results),
        mixing(results),
        latent(results),
        calibration(results),
        support(results),
        training(results),
        device(results),
    ]
    return [finding for finding in findings if finding is not None]


def pairs(results: Results) -> Finding | None:
    """Are there enough cells with more than one modality?"""
    if len(results.features) < 2:
        return Finding("Enough paired cells?", "good", "one modality only: nothing has to be paired")
    measured = results.cells[[f"has_{m}" for m in results.features]].astype(bool).sum(axis=1)
    n = int((measured > 1).sum())
    question = "Enough paired cells?"
    if n >= ENOUGH_PAIRS:
        return Finding(question, "good", f"{n:,} cells have more than one modality")
    if n >= MINIMUM_PAIRS:
        remedy = "treat imputed values of rare types with care; more paired cells help more than any setting"
        return Finding(
            question,
            "look",
            f"only {n:,} cells have more than one modality (comfortable from {ENOUGH_PAIRS:,})",
            remedy,
        )
    remedy = (
        "do not rely on imputation or on cross-modality neighbours; add a multiome or CITE-seq sample of this tissue"
    )
    return Finding(
        question,
        "poor",
        f"{n:,} cells have more than one modality: the modalities are held together by the prior alone",
        remedy,
    )


def mixing(results: Results) -> Finding | None:
    """Can the adversary still tell from which modality a latent came?"""
    history = results.history
    question = "Are the modalities mixed?"
    if history is None or "adversary_accuracy" not in history or history["adversary_accuracy"].isna().all():
        return None
    accuracy = float(history["adversary_accuracy"].dropna().iloc[-1])
    chance = (
        float(history["adversary_chance"].dropna().iloc[-1])
        if "adversary_chance" in history
        else 1 / max(len(results.features), 2)
    )
    share = (accuracy - chance) / (1 - chance)
    text = f"the adversary names the modality of a paired cell's latent in {accuracy:.0%} (chance {chance:.0%})"
    if share < 0.3:
        return Finding(question, "good", text)
    remedy = "raise --alignment_weight or --adversary_weight, and look whether the UMAP by modality separates"
    return Finding(question, "look" if share < 0.6 else "poor", text, remedy)


def latent(results: Results) -> Finding:
    """How many latent dimensions carry information?"""
    active = int((kl_per_dimension(results.latent, results.latent_variance) > ACTIVE_KL).sum())
    total = results.latent.shape[1]
    text = f"{active} of {total} latent dimensions carry information (mean KL > {ACTIVE_KL} nats)"
    if active >= min(5, total):
        return Finding("Is the latent space used?", "good", text)
    remedy = "train longer (--max_epochs), lower --alignment_weight, or check that cells and features passed QC"
    return Finding("Is the latent space used?", "poor" if active < 2 else "look", text, remedy)


def calibration(results: Results) -> Finding:
    """Are the error bars checked against held-out cells?"""
    question = "Are the error bars calibrated?"
    if not results.calibration:
        remedy = "run `multivi-nf calibrate MOSAIC MODEL`, or add paired cells so that TRAIN can set some apart"
        return Finding(question, "look", "no calibration was made for this model", remedy)
    if not results.calibration.get("calibrated", False):
        n = results.calibration.get("n_pairs", 0)
        remedy = "read intervals as the model's own opinion; at least 100 held-out pairs are needed to check them"
        return Finding(question, "look", f"no: {n} held-out pairs are too few", remedy)
    worst = [
        (abs(covered - nominal), direction, nominal, covered)
        for direction, entry in results.calibration.get("directions", {}).items()
        for nominal, covered in entry.get("coverage_after", [])
        if abs(nominal - 0.95) < 1e-6
    ]
    if not worst:
        return Finding(question, "good", "yes, on held-out pairs")
    off, direction, nominal, covered = max(worst)
    text = f"95 % intervals cover {covered:.1%} of held-out counts in the worst direction ({direction})"
    few = [name for name, entry in results.calibration["directions"].items() if entry.get("calibrated") is False]
    if few:
        text += f"; not calibrated, with fewer than 100 held-out pairs: {', '.join(sorted(few))}"
    if off <= 0.03 and few:
        return Finding(question, "look", text, "read intervals of these directions as the model's own opinion")
    if off <= 0.03:
        return Finding(question, "good", text)
    return Finding(
        question, "look", text, "see the calibration curve; intervals of this direction are off by that much"
    )


def support(results: Results) -> Finding | None:
    """How many imputed cells look unlike every paired cell?"""
    shares, unknown = {}, []
    for modality, path in results.imputed.items():
        obs = read_imputed_obs(path)
        if "out_of_support" not in obs or obs["measured"].astype(bool).all():
            continue
        imputed = obs[~obs["measured"].astype(bool)]
        if "support_p" in imputed and imputed["support_p"].isna().all():
            unknown.append(modality)
        else:
            shares[modality] = float(imputed["out_of_support"].astype(bool).mean())
    question = "Do imputed cells have paired relatives?"
    unchecked = f"not checked for {', '.join(unknown)}: too few pairs were held out of training" if unknown else ""
    more = "add pairs (195 tell cells out of support, 300 calibrate), or take imputed values for an extrapolation"
    if not shares:
        return Finding(question, "look", unchecked, more) if unknown else None
    modality, share = max(shares.items(), key=lambda item: item[1])
    text = f"{share:.1%} of the cells imputed for {modality} lie outside the paired cells' support"
    text = "; ".join([text, *([unchecked] if unchecked else [])])
    if share <= 0.05:
        return Finding(question, "look", text, more) if unknown else Finding(question, "good", text)
    remedy = 'leave cells with obs["out_of_support"] out of claims on imputed values, or add pairs of their type'
    return Finding(question, "look" if share < 0.3 else "poor", text, remedy)


def best_epoch(history: pd.DataFrame) -> int:
    """Row of the epoch whose weights were kept; without that column, of the lowest validation loss."""
    if "best" in history and (history["best"] == 1).any():
        return int(np.flatnonzero(history["best"] == 1)[-1])
    return int(np.nanargmin(history["validation_loss"].to_numpy(dtype=float)))


def training(results: Results) -> Finding | None:
    """Did training settle?"""
    history = results.history
    if history is None or len(history) < 2 or "validation_loss" not in history:
        return None
    values = history["validation_loss"].to_numpy(dtype=float)
    best = best_epoch(history)
    text = f"{len(history)} epochs, lowest validation loss at epoch {int(history['epoch'].iloc[best])}"
    recent = values[max(0, len(values) - 6) :]
    falling = best == len(values) - 1 and len(recent) > 2 and (recent[0] - recent[-1]) > 0.003 * abs(recent[-1])
    if falling:
        return Finding("Did training settle?", "look", text + ", still falling", "raise --max_epochs")
    return Finding("Did training settle?", "good", text)


def device(results: Results) -> Finding | None:
    """Did training fall back to the processor where a GPU would have been taken?"""
    if not results.model or results.model.get("training", {}).get("device") != "cpu":
        return None
    if results.parameters.get("device") != "auto":
        return None
    remedy = "nothing is wrong with the results; for speed run with -profile gpu, or say --device cpu if this was meant"
    text = "no GPU was found: training ran on the processor (--device auto)"
    return Finding("Was a GPU used?", "look", text, remedy)
