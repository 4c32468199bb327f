"""RNA: which cells stay by their counts, genes and mitochondrial share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import anndata as ad
import numpy as np

from multivi_nf.counts.mitochondria import mitochondrial
from multivi_nf.errors import InputError
from multivi_nf.qc.ambient import estimate_ambient, tell_ambient
from multivi_nf.qc.checked import Checked, finish, per_cell, used
from multivi_nf.qc.doublets import doublet_share, score_rna
from multivi_nf.qc.rules import at_least, at_most, judge, within_mads
from multivi_nf.qc.summary import Step

HARMLESS_MITO = 5.0
"""Mitochondrial percentage below which a cell is never removed for standing out (best practices name 5 to 8 %)."""


@dataclass(frozen=True)
class RnaRules:
    """How the RNA of a sample is judged.

    Attributes
    ----------
    min_genes, min_counts
        Floors; 0 is off.
    max_mito
        Largest percentage of counts of mitochondrial genes; None is off.
    mad
        Cells this many median absolute deviations from the sample's median of log counts, log genes, or above that of
        the mitochondrial percentage are removed; 0 is off.
    seed
        Of the doublets and the ambient counts.
    mito_genes
        Which genes are mitochondrial, where :func:`~multivi_nf.counts.mitochondria.mitochondrial` does not know.
    ambient
        `none`: the ambient share is told. `soup`: ambient counts are also taken out of the cells that stay, by seeded
        binomial draws, where the share can be estimated or is given.
    ambient_share
        The ambient share, where it is known from elsewhere.
    """

    min_genes: int = 0
    min_counts: int = 0
    max_mito: float | None = None
    mad: float = 5.0
    seed: int = 0
    mito_genes: str | None = None
    ambient: Literal["none", "soup"] = "none"
    ambient_share: float | None = None


def qc_rna(counts: ad.AnnData, sample: str, rules: RnaRules | None = None) -> Checked:
    """Filter the RNA cells of one sample and score doublets.

    Parameters
    ----------
    counts
        Of :func:`multivi_nf.counts.read.read_counts`.
    sample
        Its name.
    rules
        By default :class:`RnaRules` as they are.

    Returns
    -------
    Cells with `rna_n_counts`, `rna_n_genes`, `rna_pct_mito` (NaN where no mitochondrial gene is among the features),
    `rna_doublet_score`, `rna_doublet`; with `soup` also `rna_n_ambient`, the counts taken out. All other values are
    those before.
    """
    rules = rules or RnaRules()
    total, genes = per_cell(counts)
    percent, warnings, notes = _mito_percent(counts, sample, rules, total)
    ceiling = np.inf if rules.max_mito is None else rules.max_mito
    found = [
        at_least("rna_min_genes", "rna_n_genes", genes, rules.min_genes),
        at_least("rna_min_counts", "rna_n_counts", total, rules.min_counts),
        at_most("rna_max_mito", "rna_pct_mito", percent, ceiling),
        within_mads("rna_counts_mad", "rna_n_counts", total, rules.mad, log=True),
        within_mads("rna_genes_mad", "rna_n_genes", genes, rules.mad, log=True),
        within_mads("rna_mito_mad", "rna_pct_mito", percent, rules.mad, lower=False, at_least_upper=HARMLESS_MITO),
    ]
    verdict = judge(used(found), sample, "rna")
    verdict.warnings += warnings
    verdict.notes += notes
    values = {"rna_n_counts": total, "rna_n_genes": genes, "rna_pct_mito": percent}
    doublets = score_rna(counts.X[verdict.kept], rules.seed)
    doublets.share = doublet_share(counts.X[verdict.kept], rules.seed)
    parameters = asdict(rules) | {"mito_genes": rules.mito_genes or None}
    ambient = estimate_ambient(counts.X[verdict.kept], rules.seed)
    checked = finish(counts, values, verdict, Step(sample, "rna", parameters), doublets)
    tell_ambient(checked, ambient, taken_out=rules.ambient == "soup", given=rules.ambient_share, seed=rules.seed)
    return checked


def _mito_percent(
    counts: ad.AnnData, sample: str, rules: RnaRules, total: np.ndarray
) -> tuple[np.ndarray, list[str], list[str]]:
    """Mitochondrial percentage of each cell, NaN where it is not known; warnings and notes."""
    mito = mitochondrial(counts.var["symbol"].astype(str), counts.var_names, rules.mito_genes)
    if mito.any():
        of_mito = np.asarray(counts.X[:, np.flatnonzero(mito)].sum(axis=1, dtype=np.int64)).ravel()
        percent = np.divide(100.0 * of_mito, total, out=np.zeros(len(total)), where=total > 0)
        warning = (
            f"sample {sample!r}: no cell has a count in any of {int(mito.sum())} mitochondrial genes (e.g. "
            f"{counts.var['symbol'].iloc[int(np.flatnonzero(mito)[0])]}): 0 % mitochondrial in all cells; they "
            "were left out of the counts, or others are meant (--mito_genes)"
        )
        return percent, [] if of_mito.any() else [warning], []
    if rules.max_mito is not None:
        raise InputError(
            f"sample {sample!r}: no gene is known as mitochondrial (MT-*, mt-*, mt:*, ids of human and mouse), but "
            f"--rna_max_mito is {rules.max_mito:g}",
            "the mitochondrial percentage is not available, so the rule would pass every cell",
            "name the genes (--mito_genes 'mt:*' or ND1,ND2,...), leave --rna_max_mito out, or give a matrix with "
            "mitochondrial genes",
        )
    note = "no gene is known as mitochondrial: their share is not available (--mito_genes names them)"
    return np.full(len(total), np.nan), [], [note]
