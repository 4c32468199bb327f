"""Rules that remove cells: floors, ceilings and distances from a sample's median; what each removed is kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.qc.summary import Removed

LEAST_CELLS = 20
"""Fewest cells for a rule by median absolute deviation; fewer say nothing about what is usual."""


@dataclass
class Rule:
    """One rule applied to all cells of a sample.

    Attributes
    ----------
    name
        As in `removed_by` and the report, the parameter's name where there is one.
    quantity
        Column of the QC table.
    threshold
        Bound, or (lower, upper) with None for an open side; None where the rule is off.
    fails
        Bool per cell.
    median
        Of the quantity over all cells, NaN where it is not available.
    note
        Why the rule is off, else empty.
    """

    name: str
    quantity: str
    threshold: float | tuple[float | None, float | None] | None
    fails: np.ndarray
    median: float
    note: str = ""


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


def at_least(name: str, quantity: str, values: np.ndarray, least: float) -> Rule:
    """Cells below `least` fail; a value that is not available (NaN) does not."""
    return Rule(name, quantity, float(least), values < least, _median(values))


def at_most(name: str, quantity: str, values: np.ndarray, most: float) -> Rule:
    """Cells above `most` fail; a value that is not available (NaN) does not."""
    return Rule(name, quantity, float(most), values > most, _median(values))


def within_mads(
    name: str,
    quantity: str,
    values: np.ndarray,
    mads: float,
    *,
    log: bool = False,
    lower: bool = True,
    at_least_upper: float = -np.inf,
) -> Rule:
    """Cells further than `mads` median absolute deviations from the median fail.

    The MAD is not scaled to a standard deviation, as in the rule of single-cell best practices (Heumos et al., Nat Rev
    Genet 2023). Where the MAD is 0 (nuclei have no mitochondrial reads: over half of the values are equal) every other
    value would be an outlier, so the rule is off and says so.

    Parameters
    ----------
    mads
        Number of MADs; 0 switches the rule off.
    log
        Compare log(1 + value); the threshold is given on the scale of the values.
    lower
        Whether low values fail too.
    at_least_upper
        The upper bound is never below this: a tight distribution of harmless values removes nothing.
    """
    none = np.zeros(len(values), dtype=bool)
    median = _median(values)
    known = np.isfinite(values)
    if mads == 0:
        return Rule(name, quantity, None, none, median, "off")
    if not known.any():
        return Rule(name, quantity, None, none, median, "off: not available")
    if known.sum() < LEAST_CELLS:
        return Rule(name, quantity, None, none, median, f"off: fewer than {LEAST_CELLS} cells")
    scale = np.log1p if log else np.asarray
    scaled = scale(values.astype(float))
    centre = np.median(scaled[known])
    deviation = np.median(np.abs(scaled[known] - centre))
    if deviation == 0:
        return Rule(name, quantity, None, none, median, "off: the MAD is 0")
    low, high = centre - mads * deviation, centre + mads * deviation
    if log:
        low, high = np.expm1(low), np.expm1(high)
    high = max(high, at_least_upper)
    fails = (values > high) | ((values < low) if lower else False)
    bounds = (float(low) if lower and low > 0 else None, float(high))
    return Rule(name, quantity, bounds, fails & known, median)


@dataclass
class Verdict:
    """What the rules together decided.

    Attributes
    ----------
    removed_by
        Per cell the first rule that it fails, or an empty string.
    rules
        What each rule did.
    warnings
        Rules that fail over half of the sample, and what else to look at.
    notes
        What was done.
    """

    removed_by: np.ndarray
    rules: list[Removed]
    warnings: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def kept(self) -> np.ndarray:
        """Bool per cell."""
        return self.removed_by == ""


def judge(rules: list[Rule], sample: str, modality: str) -> Verdict:
    """Apply rules in order.

    Raises
    ------
    InputError
        No cell is left; names the rule that fails most cells, its threshold and the median.
    """
    n = len(rules[0].fails)
    removed_by = np.full(n, "", dtype=object)
    rows, warnings = [], []
    for rule in rules:
        first = rule.fails & (removed_by == "")
        removed_by[first] = rule.name
        failing = int(rule.fails.sum())
        bounds = list(rule.threshold) if isinstance(rule.threshold, tuple) else rule.threshold
        median = None if np.isnan(rule.median) else rule.median
        rows.append(Removed(rule.name, rule.quantity, bounds, int(first.sum()), failing, median, rule.note))
        if failing > n / 2:
            warnings.append(
                f"sample {sample!r}: rule {rule.name} (threshold {_shown(bounds)}) removes {failing} of {n} {modality} "
                f"cells; the median of {rule.quantity} is {rule.median:.4g}"
            )
    if not (removed_by == "").any():
        worst = max(rules, key=lambda rule: int(rule.fails.sum()))
        raise InputError(
            f"sample {sample!r}: no {modality} cell of {n} is left; rule {worst.name} (threshold "
            f"{_shown(worst.threshold)}) alone removes {int(worst.fails.sum())}, and the median of {worst.quantity} is "
            f"{worst.median:.4g}",
            "the sample would vanish from all results",
            advice(worst.name),
        )
    return Verdict(removed_by, rows, warnings)


def advice(rule: str) -> str:
    """Say what the user can do about a rule: name the pipeline parameter behind it, where there is one."""
    if rule.startswith("protein"):
        return "check whether the matrix is the right one, or leave the column protein of the sample empty"
    name = "rna_mad" if rule.endswith("_mad") else rule
    return f"set --{name} to a value that fits this median, or leave the sample out"


def _shown(bounds: object) -> str:
    if isinstance(bounds, (tuple, list)):
        return " to ".join("any" if bound is None else f"{bound:.4g}" for bound in bounds)
    return "none" if bounds is None else f"{bounds:.4g}"


def table_of(columns: dict[str, np.ndarray], names: pd.Index) -> pd.DataFrame:
    """Make the per-barcode table, index `barcode`."""
    return pd.DataFrame(columns, index=pd.Index(names, name="barcode"))
