"""The first thing on the page: may these results be trusted, and what to do where they may not.

Each line is measured on the run's cells and files, never read off what the training thought of itself: how batches and
modalities mix by nearest neighbours, how near the two views of a pair lie, what intervals covered, what hidden labels
became. `good`: nothing to do. `look`: usable, with the remedy in mind. `poor`: do not build on it. `unknown`: it could
not be measured, which is no praise.
"""

from __future__ import annotations

import pandas as pd

from multivi_nf.report.gather import Results
from multivi_nf.report.verdict.finding import Finding
from multivi_nf.report.verdict.imputed import calibration, labels, support
from multivi_nf.report.verdict.mixed import batches, unpaired, views
from multivi_nf.report.verdict.run import contrasts, training
from multivi_nf.report.verdict.samples import ambient, counts, doublets, features, pairs
from multivi_nf.report.verdict.space import depth, latent

__all__ = ["Finding", "verdict", "verdict_table"]

LINES = (
    *(pairs, counts, features, batches, views, unpaired, latent, depth, training, calibration, support, labels),
    *(doublets, ambient, contrasts),
)
"""Every line, in the order in which a reader should care."""


def verdict(results: Results) -> list[Finding]:
    """All findings, in the order of :data:`LINES`; those that nothing can be said of are left out."""
    return [finding for line in LINES if (finding := line(results)) is not None]


def verdict_table(findings: list[Finding]) -> pd.DataFrame:
    """`verdict.tsv`: one row a question."""
    columns = ("question", "level", "value", "expected", "answer", "remedy")
    rows = [[" ".join(str(v).split()) if isinstance(v := getattr(f, c), str) else v for c in columns] for f in findings]
    return pd.DataFrame(rows, columns=list(columns))
