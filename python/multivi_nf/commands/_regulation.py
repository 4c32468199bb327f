"""Options that the steps between peaks and genes share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.commands._numbers import Finite
from multivi_nf.commands._outputs import OutputFile
from multivi_nf.inputs.chromosomes import STYLES

if TYPE_CHECKING:
    from multivi_nf.regulation.cells import Source

FACTS = "Write what was made to this JSON; what the inputs do not allow is told there, and is no error."


STYLE = click.option(
    "--chrom-style", "style", type=click.Choice(list(STYLES)), default="auto", help="auto: chr1 equals 1."
)
LEVEL = click.option(
    "--fdr",
    "level",
    type=Finite(0, 1, min_open=True, max_open=True),
    default=0.05,
    help="Level of `significant`.",
)


class Named(click.ParamType):
    """SAMPLE=FILE."""

    name = "sample=file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        """Split at the first =, which no sample's name holds."""
        if isinstance(value, tuple):
            return value
        sample, equals, path = str(value).partition("=")
        if not (sample and equals and path):
            self.fail(f"{value!r} is not SAMPLE=FILE", param, ctx)
        return sample, Path(path)


@dataclass(frozen=True)
class Reads:
    """Samples' fragments, and maps of their barcodes."""

    fragments: tuple[tuple[str, Path], ...]
    barcode_map: tuple[tuple[str, Path], ...]

    def sources(self) -> list[Source]:
        """A source a sample."""
        from multivi_nf.regulation.cells import read_sources

        return read_sources(self.fragments, self.barcode_map)


source_options = grouped(
    "reads",
    Reads,
    click.option("--fragments", type=Named(), multiple=True, help="SAMPLE=FILE, once a sample with fragments."),
    click.option("--barcode-map", type=Named(), multiple=True, help="SAMPLE=FILE: ATAC barcode, RNA barcode."),
)
"""Add --fragments and --barcode-map: `reads`."""
FACTS_OPTION = click.option("--facts", type=OutputFile("json"), help=FACTS)
