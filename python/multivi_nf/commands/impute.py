"""`multivi-nf impute`: denoised and imputed values with error bars, written chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from multivi_nf.commands._groups import grouped
from multivi_nf.commands._inference import Trained, trained_options
from multivi_nf.commands._numbers import SEED, Finite, Whole
from multivi_nf.commands._outputs import OutputFolder, Step
from multivi_nf.io.outputs import STORE

if TYPE_CHECKING:
    from multivi_nf.imputation.impute import Options


@dataclass(frozen=True)
class Asked:
    """Which cells and features, under which batch, with which intervals."""

    cells: Path | None
    features: str | None
    samples: int
    interval: float
    batch: str | None
    predictive: bool
    library: Path | None
    dtype: str
    calibration: Path | None
    seed: int

    def read(self) -> Options:
        """The same, files read."""
        from multivi_nf.imputation.features import read_cell_list, read_feature_list, read_library
        from multivi_nf.imputation.impute import Options

        return Options(
            cells=read_cell_list(self.cells),
            features=read_feature_list(self.features),
            n_samples=self.samples,
            interval=self.interval,
            batch=self.batch,
            predictive=self.predictive,
            library=read_library(self.library),
            seed=self.seed,
        )


@click.command(cls=Step)
@trained_options
@click.option("--modality", type=click.Choice(["rna", "atac", "protein"]), required=True, help="What to impute.")
@click.option("--output", type=OutputFolder(STORE), required=True, help="AnnData zarr to write.")
@grouped(
    "asked",
    Asked,
    click.option(
        "--cells", type=click.Path(path_type=Path), help="Names of the cells to impute, one a line.  [default: all]"
    ),
    click.option(
        "--features",
        help="Names of the features to impute, one a line in a file, or `all`.  "
        "[default: 2,000 variable genes; all proteins; atac has no default]",
    ),
    click.option("--samples", type=Whole(min=1), default=80, help="Posterior draws per cell."),
    click.option(
        "--interval",
        type=Finite(0, 1, min_open=True, max_open=True),
        default=0.95,
        help="Coverage of lower-upper.",
    ),
    click.option("--batch", help="Decode under this batch, or `own`: each cell's.  [default: reference mixture]"),
    click.option("--predictive", is_flag=True, help="Also bounds of the count itself (rna, protein)."),
    click.option(
        "--library", type=click.Path(path_type=Path), help="Library sizes for --predictive: TSV of cell and library."
    ),
    click.option(
        "--dtype", type=click.Choice(["float32", "float16"]), default="float32", help="float16 halves the disk space."
    ),
    click.option(
        "--calibration", type=click.Path(path_type=Path), help="Folder of calibration.json.  [default: MODEL]"
    ),
    click.option("--seed", type=SEED, default=0, help="Seed of the posterior draws."),
)
def command(trained: Trained, modality: str, output: Path, asked: Asked) -> None:
    """Impute one modality for cells of MOSAIC with MODEL, measured (denoised) or not.

    X: posterior mean; layers sd, lower, upper; obs measured, out_of_support.
    """
    from multivi_nf.calibration.stored import Calibration
    from multivi_nf.imputation.impute import Imputer, impute_to_zarr

    joined = trained.load()
    known = Calibration.load(asked.calibration or trained.model, joined.model)
    impute_to_zarr(Imputer(joined, modality, asked.read(), known), output, asked.dtype)
