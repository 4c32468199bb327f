"""The latent space: how much of it is used, and whether sequencing depth drives it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from multivi_nf.report import measures
from multivi_nf.report.gather import Results
from multivi_nf.report.verdict.finding import Finding, Level, Question, graded

ACTIVE_KL = 0.05
"""Mean KL (nats) to the prior above which a latent dimension carries information."""
DEPTH_DRIVEN, DEPTH_SEEN = 0.35, 0.15
DEPTH_ITSELF, DEPTH_AXIS = 0.95, 0.25
"""A leading dimension that correlates so with depth is depth: then a smaller share of the embedding is too much."""


def kl_per_dimension(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Mean KL(N(mean, variance) || N(0, 1)) over cells, (n_latent,) in nats.

    Closed form for two Gaussians, e.g. Kingma & Welling 2014, appendix B.
    """
    variance = np.maximum(variance, 1e-12)
    return 0.5 * (variance + mean**2 - 1 - np.log(variance)).mean(axis=0)


def latent(results: Results) -> Finding:
    """How many latent dimensions carry information?"""
    active = int((kl_per_dimension(results.latent, results.latent_variance) > ACTIVE_KL).sum())
    total = results.latent.shape[1]
    enough = min(5, total)
    level: Level = "good" if active >= enough else "poor" if active < 2 else "look"
    return Question("Is the latent space used?", f"{enough} or more").answered(
        level,
        f"{active} of {total} latent dimensions carry information (mean KL > {ACTIVE_KL} nats)",
        "train longer (--max_epochs), lower --alignment_weight, or check that cells and features passed QC",
        active,
    )


def depth(results: Results) -> Finding | None:
    """Does sequencing depth drive the embedding?"""
    found = []
    for modality in results.features:
        column = next((c for c in (f"{modality}_n_counts", f"{modality}_n_fragments") if c in results.cells), None)
        if column is None:
            continue
        values = pd.to_numeric(results.cells[column], errors="coerce").to_numpy(float)
        rows = np.flatnonzero(np.isfinite(values) & results.has(modality))
        if len(rows) < measures.LEAST_CELLS:
            continue
        rows = rows[measures.drawn(len(rows), measures.MOST_CELLS)]
        found.append((*measures.depth_share(results.latent[rows], values[rows]), modality))
    if not found:
        return None
    share, r, modality = max(found, key=lambda one: one[0])
    return Question("Is the embedding free of depth?", f"{DEPTH_SEEN:.0%} or less").answered(
        graded(share, DEPTH_SEEN, DEPTH_AXIS if r >= DEPTH_ITSELF else DEPTH_DRIVEN),
        f"{share:.0%} of the embedding's variance follows the depth of {modality} (leading dimensions correlate up "
        f"to {r:.2f})",
        "look whether the types differ in depth; if not, remove shallow cells (--rna_min_counts, "
        "--atac_min_fragments) and train again",
        share,
    )
