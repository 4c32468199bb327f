"""RNA of lysed cells in every droplet: how much of a sample's counts it is, and, on request, its removal.

The soup is taken to have the profile of the sample's cells together (Young & Behjati, GigaScience 2020: a good stand-in
where empty droplets are not at hand). A gene that a group of cells does not express is seen there at the ambient share
times its share of the soup, so the lowest such ratio bounds the ambient share from above; where many genes agree on it,
it is the share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import sparse, special

from multivi_nf.qc.checked import Checked
from multivi_nf.qc.summary import AmbientShare
from multivi_nf.reduction import grouped, log_levelled, principal

HIGH = 0.2
"""Ambient share above which the user is warned: a fifth of the counts would be no cell's own."""

LEAST_CELLS, LEAST_GENES = 50, 50
_LEAST_EXPECTED = 60.0
"""Counts that a gene must be expected to have in a group if all were soup, so that 5 % of it is seen."""

_CHOSEN = 10
_SEEN, _STEP = 5.0, 1.6
_RESOLVED, _WHOLE = 0.4, 0.65
_AGREE = 10
_DEEP = 300.0
"""Expected counts of a pair from which its ratio is known to about 0.04 where a half of it is soup."""
_GROUP = 30
_MOST_GROUPS = 12
_COMPONENTS = 20


@dataclass
class Ambient:
    """What is known of a sample's ambient RNA.

    Attributes
    ----------
    share
        Share of all counts; NaN where it cannot be told.
    lower, upper
        95 % interval of the counting noise.
    agreeing
        How many pairs of gene and group are seen at that share; at least ten make it an estimate, fewer a bound.
    soup
        Profile of the soup, shape (n_genes,), sums to 1.
    groups
        Group of each cell, shape (n_cells,).
    note
        Why nothing is told, else empty.
    """

    share: float
    lower: float
    upper: float
    agreeing: int
    soup: np.ndarray
    groups: np.ndarray
    note: str = ""

    @property
    def is_estimate(self) -> bool:
        """Whether many genes agree; else the share is a bound from above."""
        return bool(self.agreeing >= _AGREE)

    def facts(self) -> AmbientShare:
        """What goes into the summary."""
        if not np.isfinite(self.share):
            return AmbientShare(None, None, None, "", self.note)
        kind: Literal["estimate", "at most"] = "estimate" if self.is_estimate else "at most"
        return AmbientShare(float(self.share), float(self.lower), float(self.upper), kind, self.note)


def told(ambient: Ambient, sample: str) -> tuple[str, list[str]]:
    """Say what is known: a note, and a warning where the share is high.

    Returns
    -------
    The note, and warnings.
    """
    if ambient.note:
        return ambient.note, []
    interval = f"{ambient.lower:.1%} to {ambient.upper:.1%}"
    if not ambient.is_estimate:
        return f"ambient RNA: at most {ambient.share:.1%} of the counts (no genes are plainly absent from a group)", []
    note = f"ambient RNA: about {ambient.share:.1%} of the counts ({interval})"
    if ambient.share <= HIGH:
        return note, []
    return note, [
        f"sample {sample!r}: about {ambient.share:.0%} of its RNA counts ({interval}) are ambient, over {HIGH:.0%}: "
        "types look more alike than they are; --ambient soup removes them, or give the output of CellBender or SoupX "
        "(adjustCounts with roundToInt=TRUE)"
    ]


def estimate_ambient(counts: sparse.csr_matrix, seed: int) -> Ambient:
    """Estimate the share of ambient RNA of one sample from its cells alone.

    Counts are split in two by a seeded binomial draw: one half chooses the pairs of gene and group with the lowest
    ratio of seen to expected counts, the other measures them, so that no pair is taken as low for its noise.

    Parameters
    ----------
    counts
        Cells × genes, whole numbers.
    seed
        Of the groups and the split.
    """
    n, n_genes = counts.shape
    pooled = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()
    soup = pooled / max(pooled.sum(), 1.0)
    none = np.zeros(n, np.int64)
    if n < LEAST_CELLS or n_genes < LEAST_GENES:
        few = f"{n} cells × {n_genes} genes; at least {LEAST_CELLS} × {LEAST_GENES} are needed"
        return Ambient(np.nan, np.nan, np.nan, 0, soup, none, f"ambient share not told: {few}")
    groups = _groups(counts, seed)
    if groups.max() == 0:
        alike = "its cells are alike, so no gene is known to be absent from some of them"
        return Ambient(np.nan, np.nan, np.nan, 0, soup, groups, f"ambient share not told: {alike}")
    rng = np.random.default_rng([seed, 15])
    half = counts.copy()
    half.data = rng.binomial(half.data.astype(np.int64), 0.5).astype(np.int32)
    choose = _by_group(half, groups)
    measure = _by_group(counts, groups) - choose
    expected = [part.sum(axis=1, keepdims=True) * soup for part in (choose, measure)]
    enough = expected[0] >= _LEAST_EXPECTED / 2
    if not enough.any():
        return Ambient(np.nan, np.nan, np.nan, 0, soup, groups, "ambient share not told: too few counts")
    # the upper end of what the ratio may be, so that a gene is not chosen for being seldom
    most = np.where(enough, special.gammaincinv(choose + 1, 0.95) / np.maximum(expected[0], 1e-12), np.inf)
    chosen = np.argsort(most, axis=None, kind="stable")[: min(_CHOSEN, int(enough.sum()))]
    seen, of = measure.ravel()[chosen].sum(), expected[1].ravel()[chosen].sum()
    share = float(min(1.0, (seen + 0.5) / of))
    lower, upper = (float(min(1.0, special.gammaincinv(seen + 0.5, p) / of)) for p in (0.025, 0.975))
    if share > _RESOLVED:
        piled = _piled(choose, measure, expected)
        if piled is not None:
            return Ambient(*piled, soup, groups)
    return Ambient(share, lower, upper, _agreeing(share, measure, expected[1]), soup, groups)


def _agreeing(share: float, seen: np.ndarray, expected: np.ndarray) -> int:
    """Count the pairs of gene and group that are seen at the ambient share; 0 where they do not stand apart.

    Genes that are absent gather at the share, and those that are expressed a little lie above it: where the next step
    of the ratio holds as many pairs, the low end is only the tail of what is expressed. Of a high share that step is
    cut short by what all groups express alike; then as many pairs count as the part of it that is left would hold.
    """
    if share > _RESOLVED:
        return 0  # every gene of cells that are alike is seen at about its share of the whole
    ratio = seen / np.maximum(expected, 1e-12)
    measured = share * expected >= _SEEN
    at = int((measured & (ratio > share / _STEP) & (ratio <= share * _STEP)).sum())
    above = int((measured & (ratio > share * _STEP) & (ratio <= min(share * _STEP**3, _WHOLE))).sum())
    left = min(1.0, np.log(_WHOLE / (share * _STEP)) / (2 * np.log(_STEP)))
    return at if at * left > above else 0


def _piled(choose: np.ndarray, seen: np.ndarray, expected: list[np.ndarray]) -> tuple[float, float, float, int] | None:
    """Share, its interval and the pairs at it, of a high share: genes that are absent pile up at one ratio.

    Of cells that are alike the ratios thin out towards their least; under soup they begin with a step, since no gene
    can be seen below it. Only pairs deep enough to tell are used, and the step has to hold more of them than the
    stretch of twice its width above it. None where it does not.
    """
    deep = np.flatnonzero(np.minimum(*expected).ravel() >= _DEEP)
    if len(deep) < 4 * _CHOSEN:
        return None
    ratio = [part.ravel()[deep] / of.ravel()[deep] for part, of in zip((choose, seen), expected)]
    lowest = np.argsort(ratio[0], kind="stable")[:_CHOSEN]
    total, of = seen.ravel()[deep][lowest].sum(), expected[1].ravel()[deep][lowest].sum()
    share = float(total / of)
    z = (ratio[1] - share) * np.sqrt(expected[1].ravel()[deep] / share)
    at, above = int((np.abs(z) <= 2).sum()), int(((z > 2) & (z <= 6)).sum())
    if share > _WHOLE or at < _AGREE or at <= above:
        return None
    lower, upper = (float(special.gammaincinv(total + 0.5, p) / of) for p in (0.025, 0.975))
    return share, lower, upper, at


def _groups(counts: sparse.csr_matrix, seed: int) -> np.ndarray:
    """Group cells by what they express: k-means on the leading directions of log-normalised counts."""
    n = counts.shape[0]
    total = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    scaled = log_levelled(counts.astype(np.float64), np.median(total), total=total)
    detected = np.flatnonzero(np.diff(scaled.tocsc().indptr) >= 3)
    number = min(_MOST_GROUPS, n // _GROUP)
    if number < 2 or len(detected) < 3:
        return np.zeros(n, np.int64)
    scaled = scaled[:, detected]
    centred = scaled.toarray() - np.asarray(scaled.mean(axis=0)) if n * len(detected) < 2e7 else scaled
    found = grouped(principal(centred, _COMPONENTS, seed=seed, rounds=4)[0], number, starts=3, seed=seed).labels_
    sizes = np.bincount(found)
    return np.unique(found, return_inverse=True)[1].astype(np.int64) if (sizes > 0).sum() > 1 else np.zeros(n, np.int64)


def _by_group(counts: sparse.csr_matrix, groups: np.ndarray) -> np.ndarray:
    """(n_groups, n_genes) sums of counts."""
    n = len(groups)
    belongs = sparse.csr_matrix((np.ones(n), (groups, np.arange(n))), shape=(groups.max() + 1, n))
    return np.asarray((belongs @ counts.astype(np.float64)).todense())


def remove_ambient(counts: sparse.csr_matrix, ambient: Ambient, seed: int) -> sparse.csr_matrix:
    """Take the ambient counts out by seeded binomial draws, so that counts stay whole.

    A count of gene g in a cell of group k is ambient with probability share × soup_g / rate_kg, where rate_kg is the
    gene's share of the group's counts: what SoupX subtracts of the group in expectation, drawn cell by cell.

    Parameters
    ----------
    counts
        Cells × genes, whole numbers.
    ambient
        Of :func:`estimate_ambient`, on the same cells.
    seed
        Of the draws.

    Returns
    -------
    Counts of the same shape, none larger than before; a cell keeps at least one count.
    """
    sums = _by_group(counts, ambient.groups)
    rate = sums / np.maximum(sums.sum(axis=1, keepdims=True), 1.0)
    lost = np.clip(ambient.share * ambient.soup / np.maximum(rate, 1e-300), 0.0, 1.0)
    kept = counts.tocsr().copy()
    kept.sort_indices()
    row = np.repeat(np.arange(kept.shape[0]), np.diff(kept.indptr))
    rng = np.random.default_rng([seed, 16])
    drawn = rng.binomial(kept.data.astype(np.int64), 1 - lost[ambient.groups[row], kept.indices])
    emptied = np.bincount(row, weights=drawn, minlength=kept.shape[0]) == 0
    drawn = np.where(emptied[row], kept.data, drawn)  # a cell that would be left with nothing is left as it is
    kept.data = drawn.astype(counts.data.dtype)
    kept.eliminate_zeros()
    return kept


def tell_ambient(checked: Checked, found: Ambient, *, taken_out: bool, given: float | None, seed: int) -> None:
    """Put what is known of ambient RNA into a sample's QC, and take the counts out where that was asked for.

    Parameters
    ----------
    checked
        Changed in place: `summary.ambient`, notes and warnings; where counts are taken out the cells' counts and
        `rna_n_ambient`.
    found
        Of :func:`estimate_ambient`, on the cells of `checked`.
    taken_out, given
        Whether to take counts out, and the ambient share, where it is known from elsewhere.
    """
    sample, summary = checked.summary.sample, checked.summary
    note, warnings = told(found, sample)
    summary.notes.append(note)
    summary.ambient = found.facts()
    if taken_out:
        used = found if given is None else replace(found, share=given, agreeing=_AGREE)
        if not used.is_estimate or not np.isfinite(used.share):
            warnings = [
                f"sample {sample!r}: --ambient soup took nothing out, since the ambient share is not known ({note}); "
                "give it by --ambient_share, or correct the raw matrix with CellBender"
            ]
        else:
            before = np.asarray(checked.cells.X.sum(axis=1, dtype=np.int64)).ravel()
            checked.cells.X = remove_ambient(checked.cells.X, used, seed)
            lost = before - np.asarray(checked.cells.X.sum(axis=1, dtype=np.int64)).ravel()
            checked.cells.obs["rna_n_ambient"] = lost
            column = checked.table["removed_by"]
            checked.table["rna_n_ambient"] = np.where(column == "", 0, np.nan)
            checked.table.loc[checked.cells.obs_names, "rna_n_ambient"] = lost
            summary.ambient.removed = int(lost.sum())
            summary.notes.append(f"ambient counts taken out: {lost.sum() / max(before.sum(), 1):.1%}")
    summary.warnings += warnings
