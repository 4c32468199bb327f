"""What samples bring: pairs, counts that tell cells apart, features that agree, doublets, ambient RNA."""

from __future__ import annotations

import numpy as np

from multivi_nf.report import measures
from multivi_nf.report.gather import Results
from multivi_nf.report.told_apart import SPLIT_CELLS, agreement_of_features, halved, told_apart
from multivi_nf.report.verdict.finding import Finding, Question, graded

ENOUGH_PAIRS = 1000
"""Paired cells from which integration was seen to work well (SCMMIB); below, alignment rests on few cells."""
MINIMUM_PAIRS = 100
STRUCTURE = (0.4, 0.15)
"""Reliability of the best axis from which counts tell cells apart, and below which they hardly do. Whole real samples
reach 0.75 to 0.95, cells of one type 0.8; empty droplets and antibodies that bind nothing 0 to 0.1."""
SAME_FEATURES = (0.5, 0.25)
"""Correlation of mean profiles from which batches' features agree (two laboratories 0.63 to 0.94), and below which not
(names permuted 0)."""
FEW_COUNTS = 10.0
"""Median counts of a cell below which it is no use that many cells together show an axis: three counts place none."""
MOST_SAMPLES = 24
"""Samples looked at by themselves, the largest."""
DOUBLETS = (0.15, 0.25)
AMBIENT = (0.2, 0.35)


def pairs(results: Results) -> Finding | None:
    """Are there enough cells with more than one modality?"""
    if len(results.features) < 2:
        return None
    n = int((np.sum([results.has(m) for m in results.features], axis=0) > 1).sum())
    question = Question("Enough paired cells?", f"{ENOUGH_PAIRS:,} or more")
    if n >= ENOUGH_PAIRS:
        return question.answered("good", f"{n:,} cells have more than one modality", value=n)
    if n >= MINIMUM_PAIRS:
        return question.answered(
            "look",
            f"only {n:,} cells have more than one modality (comfortable from {ENOUGH_PAIRS:,})",
            "treat imputed values of rare types with care; more paired cells help more than any setting",
            n,
        )
    return question.answered(
        "poor",
        f"{n:,} cells have more than one modality: the modalities are held together by the prior alone",
        "do not rely on imputation or on cross-modality neighbours; add a multiome or CITE-seq sample of this tissue",
        n,
    )


def counts(results: Results) -> Finding | None:
    """Do the counts of each modality and sample tell cells apart, or is what they show depth and noise?"""
    found = []
    for modality in results.features:
        along = None
        for where, cells in _by_sample(results, modality):
            matrix = results.counts(modality, cells)
            value, axes = told_apart(halved(matrix, cells), along)
            found.append((value, where, float(np.median(np.asarray(matrix.sum(axis=1))))))
            along = axes if along is None else along  # of all cells, which stand first
    found = [one for one in found if np.isfinite(one[0])]
    if not found:
        return None
    value, where, median = min(found)
    level = graded(value, *STRUCTURE)
    return Question("Do counts tell cells apart?", f"{STRUCTURE[0]:g} or more").answered(
        "poor" if level == "look" and median < FEW_COUNTS else level,
        f"what separates cells in one half of their counts is there in the other with a reliability of {value:.2f} in "
        f"{where}, the least of any (median {median:,.0f} counts a cell)",
        "its cells are told apart by little more than noise: look at its depth, whether its barcodes are cells, and "
        "leave it out if they are not",
        value,
    )


def _by_sample(results: Results, modality: str) -> list[tuple[str, np.ndarray]]:
    """Positions of the cells of a modality: of all, and of each of the largest samples; of each at most some."""
    has, sample = results.has(modality), results.words("sample")
    names, sizes = np.unique(sample[has], return_counts=True)
    largest = [str(name) for name in names[np.argsort(-sizes, kind="stable")][:MOST_SAMPLES]]
    parts = [(f"{modality}", np.flatnonzero(has))] if len(names) != 1 else []
    parts += [(f"{modality} of {name!r}", np.flatnonzero(has & (sample == name))) for name in largest]
    most = [measures.MOST_CELLS] + [SPLIT_CELLS] * len(parts)
    return [(name, cells[measures.drawn(len(cells), n)]) for (name, cells), n in zip(parts, most)]


def features(results: Results) -> Finding | None:
    """Are the features of a batch those of the others, or were names swapped?"""
    if "batch" not in results.cells or results.cells["batch"].nunique() < 2:
        return None
    found = []
    for modality in results.features:
        has = np.flatnonzero(results.has(modality))
        rows = has[measures.drawn(len(has), measures.MOST_CELLS)]
        batch = results.words("batch")[rows]
        if len(np.unique(batch)) > 1:
            agreed = agreement_of_features(results.counts(modality, rows), batch)
            found += [(value, modality, name) for name, value in agreed.items()]
    if not found:
        return None
    value, modality, name = min(found, key=lambda one: one[0])
    return Question("Do the batches' features agree?", f"{SAME_FEATURES[0]:g} or more").answered(
        graded(value, *SAME_FEATURES),
        f"mean {modality} of {name!r} follows that of the other batches, feature by feature, with a rank correlation "
        f"of {value:.2f}, the least of any",
        "check that names and columns of its matrix belong together, and that it is the same species and assembly",
        value,
    )


def doublets(results: Results) -> Finding | None:
    """Which sample has most doublets?"""
    shares = {}
    for entry in results.qc:
        found, kept = entry.summary.doublets, entry.summary.cells_out or 0
        if found.flagged is not None and kept >= measures.LEAST_CELLS:
            share, guessed = found.flagged / kept, found.share or 0.0
            how = "are flagged as doublets" if share >= guessed else "are doublets by their depth and place"
            shares[f"{entry.sample} ({entry.modality})"] = max(share, guessed), how
    if not shares:
        return None
    worst = max(shares, key=lambda name: shares[name][0])
    share, how = shares[worst]
    return Question("Are there few doublets?", f"{DOUBLETS[0]:.0%} or fewer").answered(
        graded(share, *DOUBLETS),
        f"about {share:.1%} of the cells of {worst} {how}, the most of any sample",
        "remove them (--remove_doublets), and look at the score's histogram of this sample",
        share,
    )


def ambient(results: Results) -> Finding | None:
    """Which sample has most ambient RNA?"""
    found = {entry.sample: entry.summary.ambient for entry in results.qc}
    shares = {sample: (one.share, one.kind) for sample, one in found.items() if one.share is not None}
    if not shares:
        return None
    worst = max(shares, key=lambda name: (shares[name][1] == "estimate", shares[name][0]))
    share, kind = shares[worst]
    question = Question("Is there little ambient RNA?", f"{AMBIENT[0]:.0%} or less")
    if kind != "estimate":
        said = f"at most {share:.1%} of the counts of any sample are ambient"
        return question.answered("good" if share <= AMBIENT[0] else "unknown", said, value=share)
    level = graded(share, *AMBIENT)
    text = f"about {share:.1%} of the counts of {worst!r} are ambient"
    if any(e.sample == worst and e.summary.parameters.get("ambient") == "soup" for e in results.qc):
        return question.answered("look" if level == "poor" else level, f"{text}, and were taken out", value=share)
    return question.answered(level, text, "types look more alike than they are: --ambient soup takes it out", share)
