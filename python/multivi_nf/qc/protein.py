"""Surface protein: which cells stay by their counts."""

from __future__ import annotations

import anndata as ad
import numpy as np

from multivi_nf.errors import InputError
from multivi_nf.qc.checked import Checked, finish
from multivi_nf.qc.rules import at_least, judge, within_mads
from multivi_nf.qc.summary import Step


def qc_protein(counts: ad.AnnData, sample: str, *, mad: float = 5.0) -> Checked:
    """Filter the protein cells of one sample.

    Cells without any count are empty; cells far above the median in total counts are aggregates of antibodies, and so
    are those far above it in isotype controls, which nothing on a cell should bind. Isotype controls are marked in
    `var["isotype"]` and left out of `protein_n_counts` and, later, of the model.

    Parameters
    ----------
    counts
        Of :func:`multivi_nf.counts.read.read_counts`.
    mad
        As for RNA; 0 is off.
    """
    isotype = counts.var["isotype"].to_numpy(bool)
    if isotype.all():
        raise InputError(
            f"sample {sample!r}: all {len(isotype)} proteins are isotype controls ({', '.join(counts.var_names[:3])})",
            "controls measure background, and nothing would be left to model",
            "give the matrix with the antibodies themselves",
        )
    real = counts.X[:, np.flatnonzero(~isotype)]
    total = np.asarray(real.sum(axis=1, dtype=np.int64)).ravel()
    proteins = np.diff(real.indptr).astype(np.int64)
    control = np.full(len(total), np.nan)
    if isotype.any():
        control = np.asarray(counts.X[:, np.flatnonzero(isotype)].sum(axis=1)).ravel().astype(float)
    rules = [
        at_least("protein_empty", "protein_n_counts", total, 1),
        within_mads("protein_counts_mad", "protein_n_counts", total, mad, log=True),
        within_mads(
            "protein_isotype_mad", "protein_isotype_counts", control, mad, log=True, lower=False, at_least_upper=10
        ),
    ]
    values = {"protein_n_counts": total, "protein_n_proteins": proteins, "protein_isotype_counts": control}
    verdict = judge(rules, sample, "protein")
    if isotype.any():
        verdict.notes.append(f"isotype controls, left out of the model: {', '.join(counts.var_names[isotype])}")
    return finish(counts, values, verdict, Step(sample, "protein", {"mad": mad}))
