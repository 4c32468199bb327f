"""What QC tells of one modality of one sample, `<modality>.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from multivi_nf.io.records import left_out
from multivi_nf.modalities import Modality


@dataclass(frozen=True)
class Step:
    """Whose cells are judged, and by which parameters (those that are not None are recorded)."""

    sample: str
    modality: Modality
    parameters: dict[str, object]


@dataclass(frozen=True)
class Removed:
    """What one rule did.

    Attributes
    ----------
    rule, quantity, median
        Its name, the column that it looks at and that column's median, where it is available.
    threshold
        Number, [lower, upper], or None where the rule is off; `note` says why.
    removed, failing
        Cells for which it was the first to fail, and all that fail it.
    """

    rule: str
    quantity: str
    threshold: float | list[float | None] | None
    removed: int
    failing: int
    median: float | None
    note: str


@dataclass
class Flagged:
    """Doublets: how many are flagged, from which score on, why not; the share estimated; those by hashtag."""

    flagged: int
    threshold: float | None
    note: str
    share: float | None = left_out()
    by_hashtag: int | None = left_out()


@dataclass
class AmbientShare:
    """Ambient RNA: its share of the counts with a 95 % interval, or a bound; counts taken out; why it is not told."""

    share: float | None
    lower: float | None
    upper: float | None
    kind: Literal["", "estimate", "at most"]
    note: str
    removed: int | None = left_out()


@dataclass
class Hashtags:
    """Cells by class (`singlet`, `doublet`, `negative`), and singlets by tag."""

    classes: dict[str, int]
    singlets: dict[str, int]


@dataclass(kw_only=True)
class Summary:
    """One modality of one sample after QC.

    Attributes
    ----------
    sample, modality, version, parameters
        Of what, by which version, with which parameters.
    counting_strategy
        Of peaks.
    cells_in, cells_out, features
        Numbers.
    rules, medians
        What each rule did; median of each quantity over the cells that stay.
    warnings, notes
        What to look at; what was done.
    doublets, ambient, hashtags
        What was found of them.
    """

    sample: str
    modality: Modality
    version: str
    parameters: dict[str, object]
    counting_strategy: str | None = left_out()
    cells_in: int
    cells_out: int
    features: int
    rules: list[Removed]
    medians: dict[str, float]
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    doublets: Flagged | None = left_out()
    ambient: AmbientShare | None = left_out()
    hashtags: Hashtags | None = left_out()
