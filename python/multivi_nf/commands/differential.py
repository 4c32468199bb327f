"""`multivi-nf differential`: features that differ between groups of cells, observed or imputed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.commands._inference import Trained, trained_options
from multivi_nf.commands._numbers import SEED, Finite, Whole
from multivi_nf.commands._outputs import OutputFile, Step

if TYPE_CHECKING:
    from multivi_nf.inputs.contrasts import Contrast


@dataclass(frozen=True)
class Wanted:
    """What is compared: a contrast by its options, or by its name in a table."""

    modality: str | None
    groupby: str | None
    target: str | None
    reference: str
    cells: str
    contrasts: Path | None
    contrast: str | None

    def chosen(self) -> Contrast:
        """The contrast."""
        from multivi_nf.inputs.contrasts import Contrast, choose_contrast

        named = self.modality or "", self.groupby or "", self.target or ""
        return choose_contrast(self.contrasts, self.contrast, Contrast("", *named, self.reference, self.cells))


@dataclass(frozen=True)
class Testing:
    """How it is tested."""

    replicate: str
    delta: float | None
    fdr: float
    samples: int
    mode: Literal["change", "vanilla"]
    calibration: Path | None
    optional: bool
    seed: int


@click.command(cls=Step)
@trained_options
@grouped(
    "wanted",
    Wanted,
    click.option("--modality", type=click.Choice(["rna", "atac", "protein"]), help="What to compare."),
    click.option("--groupby", metavar="COLUMN", help="Column of obs that holds the groups."),
    click.option("--target", help="Value of COLUMN, or `each`: every group against the rest."),
    click.option("--reference", default="rest", help="Another value of COLUMN, or `rest`."),
    click.option(
        "--cells",
        type=click.Choice(["all", "observed", "imputed"]),
        default="observed",
        help="Cells to compare: those with the modality (observed), without it (imputed), or all.",
    ),
    click.option(
        "--contrasts", type=click.Path(path_type=Path), help="contrasts.csv, instead of the five options above."
    ),
    click.option("--contrast", metavar="NAME", help="Its row to compute."),
)
@click.option("--output", type=OutputFile("gzip"), required=True, help="Table to write (.tsv.gz).")
@grouped(
    "testing",
    Testing,
    click.option(
        "--replicate", metavar="COLUMN", default="batch", help="Column of obs with the biological replicates."
    ),
    click.option("--delta", type=Finite(min=0), help="Smallest effect that counts.  [default: from the data]"),
    click.option(
        "--fdr", type=Finite(0, 1, min_open=True, max_open=True), default=0.05, help="Level of `significant`."
    ),
    click.option(
        "--samples",
        type=Whole(min=2),
        default=1000,
        help="Posterior samples of a group; at least two of every cell.",
    ),
    click.option(
        "--mode",
        type=click.Choice(["change", "vanilla"]),
        default="change",
        help="vanilla: P(x > y) and Bayes factor.",
    ),
    click.option(
        "--calibration", type=click.Path(path_type=Path), help="Folder of calibration.json.  [default: MODEL]"
    ),
    click.option(
        "--optional",
        is_flag=True,
        help="Warn and write a table without rows, where fewer than two groups have cells enough; for contrasts that "
        "nobody asked for.",
    ),
    click.option("--seed", type=SEED, default=0, help="Seed of the posterior draws."),
)
def command(trained: Trained, wanted: Wanted, output: Path, testing: Testing) -> None:
    """Compare groups of cells of MOSAIC, a mosaic or the h5mu that `embed` wrote, with MODEL.

    One row a feature, sorted by evidence; with `--target each` one row a feature and group, and a column `target`.
    """
    from multivi_nf.calibration.stored import Calibration
    from multivi_nf.comparison.compare import differential
    from multivi_nf.comparison.tables import empty_table
    from multivi_nf.inputs.contrasts import NothingToCompare
    from multivi_nf.io.tables import write_table

    chosen = wanted.chosen()
    joined = trained.load(chosen.groupby, testing.replicate)
    try:
        table = differential(
            joined.model,
            joined,
            modality=chosen.modality,
            groupby=chosen.groupby,
            target=chosen.target,
            reference=chosen.reference,
            cells=cast("Literal['all', 'observed', 'imputed']", chosen.cells),
            replicate=testing.replicate,
            delta=testing.delta,
            fdr=testing.fdr,
            n_samples=testing.samples,
            mode=testing.mode,
            calibration=Calibration.load(testing.calibration or trained.model, joined.model),
            seed=testing.seed,
        )
    except NothingToCompare as nothing:
        if not testing.optional:
            raise
        click.echo(f"WARNING: {nothing.what}: {nothing.why}; the table has no rows", err=True)
        table = empty_table(chosen.target, testing.mode)
    write_table(table, output)
