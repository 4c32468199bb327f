"""What `check-samplesheet` hands on: samples.json."""

from __future__ import annotations

from dataclasses import dataclass

from multivi_nf.inputs.contrasts import Contrast
from multivi_nf.inputs.samplesheet import Sample
from multivi_nf.io.records import optional


@dataclass(frozen=True)
class CheckedSheet:
    """The samplesheet and the contrasts, checked.

    Attributes
    ----------
    samples
        In the order of the sheet.
    contrasts
        Rows of the table of contrasts; None where none was given.
    columns
        Parameter → column of `obs` that it names: looked for again once the cells' own annotation is known.
    """

    samples: list[Sample]
    contrasts: list[Contrast] | None = optional()
    columns: dict[str, str] = optional({})
