"""Do batches mix, do the two views of a pair agree, do cells of different modalities lie among each other?"""

from __future__ import annotations

import numpy as np

from multivi_nf.report import kinds, measures
from multivi_nf.report.gather import Results
from multivi_nf.report.verdict.finding import Finding, Question, graded

MIXED, APART = 0.5, 0.25
"""Share of the expected mixing from which batches and modalities are mixed, and below which they are apart."""
CLOSE, FAR = 0.3, 0.4
"""FOSCTTM of pairs up to which views agree, and beyond which they are near chance (0.5)."""
SAMPLE_PAIRS = 50
"""Pairs from which a sample is judged by itself: FOSCTTM is then known to 0.04."""


def batches(results: Results) -> Finding | None:
    """Are the batches mixed, where they hold the same kinds of cells?"""
    if "batch" not in results.cells or results.cells["batch"].nunique() < 2:
        return None
    question = Question("Are the batches mixed?", f"{MIXED:g} or more of full mixing")
    rows = measures.drawn(len(results.cells), measures.MOST_CELLS)
    group, cluster = results.words("batch")[rows], results.words("cluster")[rows]
    found = measures.mixing(results.latent[rows], group, cluster)
    if found is None:
        return question.answered("unknown", f"fewer than two batches have {measures.LEAST_CELLS} cells")
    within = f", {found.within:.2f} within clusters of several batches" if np.isfinite(found.within) else ""
    text = (
        f"neighbours are of other batches {found.ratio:.2f} times as often as in a full mixture{within}; "
        f"{found.apart!r} stands most apart ({found.by_group[found.apart]:.2f})"
    )
    lowest = found.by_group[found.apart]
    if lowest >= MIXED:
        return question.answered("good", text, value=lowest)
    share = kinds_elsewhere(results, rows, group)
    if share is None:
        return question.answered(
            "unknown",
            f"{text}; whether the batches hold the same types cannot be told, since they share no modality",
            "compare markers of the clusters that hold one batch: cells of one type in two clusters are a batch effect",
            lowest,
        )
    fair = measures.mixing(results.latent[rows], group, cluster, share)
    if fair is None or not np.isfinite(fair.ratio):
        said = f"{text}; the batches share no kind of cells by their own counts, so this may be biology"
        return question.answered("look", said, "check the batches' markers before you join them", lowest)
    lowest = fair.by_group[fair.apart]
    text += (
        f". Of the kinds that other batches hold too, by their own counts and without the model, {fair.apart!r} mixes "
        f"{lowest:.2f} times as often as it could"
    )
    absent = ", ".join(_absent(cluster, group, share))
    return question.answered(
        graded(lowest, MIXED, APART),
        text + (f"; what sets {absent} apart may be biology" if absent else ""),
        "raise --batch_integration, and do not read differences between these batches' clusters",
        lowest,
    )


def kinds_elsewhere(results: Results, rows: np.ndarray, batch: np.ndarray) -> np.ndarray | None:
    """(n_rows,) share of other batches among a cell's kind, by the modality that most cells of all batches share.

    NaN for cells without it; None where batches share none.
    """
    best = None
    for modality in results.features:
        has = results.has(modality)[rows]
        names, sizes = np.unique(batch[has], return_counts=True)
        if (sizes >= measures.LEAST_CELLS).sum() >= 2 and (best is None or has.sum() > best[1].sum()):
            best = modality, has
    if best is None:
        return None
    modality, has = best
    counts = results.counts(modality, rows[has])
    share = np.full(len(rows), np.nan)
    share[has] = kinds.elsewhere(kinds.centred(counts, batch[has], modality == "atac"), batch[has])
    # a batch without the modality is judged by its size
    for name in np.unique(batch[np.isnan(share)]):
        mine = (batch == name) & np.isnan(share)
        known = (batch == name) & ~np.isnan(share)
        share[mine] = share[known].mean() if known.sum() >= measures.LEAST_CELLS else np.mean(batch != name)
    return share


def _absent(cluster: np.ndarray, group: np.ndarray, share: np.ndarray) -> list[str]:
    """Clusters nearly all of one batch whose kind the other batches lack."""
    out = []
    for name in sorted(np.unique(cluster), key=lambda value: (len(value), value)):
        mine = cluster == name
        _, sizes = np.unique(group[mine], return_counts=True)
        if mine.sum() >= measures.LEAST_CELLS and sizes.max() > 0.9 * mine.sum() and share[mine].mean() < 0.1:
            out.append(f"cluster {name}")
    return out


def views(results: Results) -> Finding | None:
    """FOSCTTM of the two views of paired cells, those kept from training where there are enough, sample by sample.

    Partners are looked for among cells of the same sample: what tells samples apart would tell pairs apart too.
    """
    names = [m for m in results.features if m in results.views]
    found = [
        (value, n, of, sample, f"{one} and {other}")
        for i, one in enumerate(names)
        for other in names[i + 1 :]
        for value, n, of, sample in _foscttm(results, one, other)
    ]
    if not found:
        return None
    value, n, of, sample, which = max(found)
    within = f" of {sample!r}, the worst of any" if sample and len(found) > 1 else ""
    return Question("Do the two views of a pair agree?", f"{CLOSE:g} or less (chance 0.5)").answered(
        graded(value, CLOSE, FAR),
        f"{which} views: {value:.1%} of the cells of a sample lie closer than the true partner, on {n:,} {of}{within} "
        "(chance 50 %)",
        "check that barcodes of the modalities belong together (barcode_map), then raise --alignment_weight",
        value,
    )


def _foscttm(results: Results, one: str, other: str) -> list[tuple[float, int, str, str]]:
    """FOSCTTM, pairs, which pairs, sample; of each sample with enough pairs, else of all together."""
    held = [] if results.split is None else results.split.loc[results.split["split"] != "train", "cell"].astype(str)
    both = np.isfinite(results.views[one]).all(axis=1) & np.isfinite(results.views[other]).all(axis=1)
    apart = both & results.cells.index.isin(held)
    sample = results.words("sample")
    parts = [(name, both & (sample == name)) for name in np.unique(sample[both])]
    parts = [(str(name), mine) for name, mine in parts if mine.sum() >= SAMPLE_PAIRS] or [("", both)]
    found = []
    for name, mine in parts:
        kept = mine & apart if (mine & apart).sum() >= (SAMPLE_PAIRS if name else measures.LEAST_CELLS) else mine
        cells = np.flatnonzero(kept)
        if len(cells) < measures.LEAST_CELLS:
            continue
        cells = cells[measures.drawn(len(cells), measures.MOST_PAIRS)]
        value = measures.foscttm(results.views[one][cells], results.views[other][cells])
        found.append((value, len(cells), "pairs kept from training" if not (kept & ~apart).any() else "pairs", name))
    return found


def unpaired(results: Results) -> Finding | None:
    """k-NN mixing of cells that were measured in different modalities."""
    if "modality" not in results.cells or results.cells["modality"].nunique() < 2:
        return None
    rows = measures.drawn(len(results.cells), measures.MOST_CELLS)
    found = measures.mixing(results.latent[rows], results.words("modality")[rows], results.words("cluster")[rows])
    if found is None:
        return None
    lowest = found.by_group[found.apart]
    within = f", {found.within:.2f} within clusters of several" if np.isfinite(found.within) else ""
    return Question("Are cells of different modalities mixed?", f"{MIXED:g} or more of full mixing").answered(
        graded(lowest, MIXED, APART),
        f"neighbours show other modalities {found.ratio:.2f} times as often as in a full mixture{within}; cells with "
        f"{found.apart} stand most apart ({lowest:.2f})",
        "colour the UMAP by modality: where a type lies in two places, raise --alignment_weight, and do not carry "
        "labels or values across",
        lowest,
    )
