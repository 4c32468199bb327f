"""Imputed and denoised values with error bars, at memory that depends on neither cells nor features.

Runs of cells x tiles of features x all draws are decoded, summarised in cache and written; nothing of size
cells x features is ever held. Draws belong to (seed, cell name, draw), blocks of cells and tiles of features are fixed:
a value depends neither on which other cells or features are asked for, nor on chunks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import torch

from multivi_nf import __version__
from multivi_nf.calibration.stored import Calibration, nullable
from multivi_nf.data.draws import BLOCK, blocks, cell_keys
from multivi_nf.errors import InputError
from multivi_nf.imputation.decode import TILE, Decoder
from multivi_nf.imputation.features import choose_features
from multivi_nf.imputation.intervals import Drawn, Predictive
from multivi_nf.imputation.moments import TINY, check_interval, moments, towards, with_mean_error
from multivi_nf.imputation.store import Store, new_store
from multivi_nf.io.outputs import STORE, check_folder
from multivi_nf.io.progress import progress
from multivi_nf.latent.cells import Block, Cells, Codes, samples, tempered

if TYPE_CHECKING:
    from pathlib import Path

    from mudata import MuData

    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI

_ELEMENTS = 1 << 24
"""Values decoded at a time (64 MiB of float32)."""
_WRITTEN = 1 << 22
"""Values of one matrix written at a time."""
DTYPES = {"float32": np.float32, "float16": np.float16}


@dataclass
class Options:
    """How values are imputed; see :func:`impute`."""

    cells: Sequence[str] | None = None
    features: Sequence[str] | str | None = None
    n_samples: int = 80
    interval: float = 0.95
    batch: str | None = None
    predictive: bool = False
    library: pd.Series | None = None
    seed: int = 0


class Imputer:
    """Imputes one modality of some cells: everything that decides the numbers is settled when it is made.

    Parameters
    ----------
    cells
        The model, and the mosaic in its terms.
    modality
        "rna", "atac" or "protein".
    options, calibration
        As :func:`impute` has them.

    Attributes
    ----------
    index, positions
        Cells and features that were asked for.
    layers
        Names of the matrices.
    obs, var, uns
        Of the result.
    """

    def __init__(
        self, cells: Cells, modality: str, options: Options | None = None, calibration: Calibration | None = None
    ) -> None:
        options, calibration = options or Options(), calibration or Calibration.none()
        check_interval(options.n_samples, options.interval)
        self.cells, self.modality, self.options, model = cells, modality, options, cells.model
        self.index = _cell_index(cells, options.cells)
        scaled = modality == "atac" and "atac" in model.modalities
        depth = cells.median_depth(calibration.atac_depth) if scaled else 1.0
        self.decoder = Decoder(model, modality, options.batch, depth)
        self.mixture, self.foreign = self._mixture()
        table = model.features[model.features["modality"] == modality]
        names, symbols = table["feature"].to_numpy(str), table["symbol"].to_numpy(str)
        self.positions = choose_features(modality, names, symbols, options.features, cells.data)
        for decoder in (self.decoder, self.mixture):
            decoder.check_panel(self.positions, names)
        self.predictive = None
        if options.predictive:
            self.predictive = Predictive.make(cells.data, self.decoder, self.index, options.library, calibration)
        self.assessment = calibration.assess(cells.data, self.index, modality, cells.model)
        self.rates = calibration.rates.get(modality)
        self.means = self._rows_of_means()
        self.keys = cell_keys(cells.data.cells[self.index], options.seed, "posterior")
        self.layers = ["X", "sd", "lower", "upper"]
        self.layers += ["predicted_lower", "predicted_upper"] if self.predictive else []
        self.obs, self.uns = self._obs(), self._uns()
        self.var = pd.DataFrame({"symbol": symbols[self.positions]}, index=pd.Index(names[self.positions]))

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and features."""
        return len(self.index), len(self.positions)

    @property
    def cells_a_run(self) -> int:
        """Cells written at a time: a power of two, so that blocks hold whole runs."""
        return max(_power_of_two(_WRITTEN // max(len(self.positions), 1), BLOCK), self._cells_decoded)

    @property
    def _cells_decoded(self) -> int:
        width = self.decoder.n_features if self.modality == "rna" else min(TILE, self.decoder.n_features)
        return _power_of_two(_ELEMENTS // (self.options.n_samples * width), BLOCK)

    def runs(self) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """Runs of cells with their matrices, (n_cells of the run, n_features) float32."""
        for block in self.cells.blocks(self.index):
            yield from self.block(block)

    def block(self, block: Block) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """The same of one block of the cells that were asked for."""
        temperature = torch.as_tensor(self.assessment.temperature[block.at], dtype=torch.float32)
        joint = tempered(block.joint, temperature.to(block.joint.mean.device))
        z = samples(joint, self.keys[block.at], self.options.n_samples)
        for run in blocks(z.shape[1], self.cells_a_run):
            out = {name: np.empty((run.stop - run.start, len(self.positions)), np.float32) for name in self.layers}
            for part in blocks(run.stop - run.start, self._cells_decoded):
                some = slice(run.start + part.start, run.start + part.stop)
                at = slice(block.at.start + some.start, block.at.start + some.stop)
                for decoder, rows in self._decoders(at):
                    drawn = Drawn(decoder, z[:, some], self._known(block.codes.rows(some), at), at)
                    for to, columns, draws in drawn.decoded(self.positions):
                        for name, values in self._summarised(drawn, draws, columns).items():
                            out[name][part][np.ix_(rows, to)] = values[rows]
            yield slice(block.at.start + run.start, block.at.start + run.stop), out

    def _mixture(self) -> tuple[Decoder, np.ndarray]:
        """Decodes, under "own", cells of batches that never measured the modality; and (n_cells,) which these are."""
        decoder, none = self.decoder, np.zeros(len(self.index), bool)
        if not decoder.own:
            return decoder, none
        trained = decoder.trained(self.cells.data, self.index)
        if trained.all():
            return decoder, none
        return Decoder(self.cells.model, self.modality, None, decoder.depth), ~trained

    @property
    def not_own(self) -> list[str]:
        """Batches that "own" was asked for and that never measured the modality."""
        return sorted({str(batch) for batch in self.cells.data.source.batch[self.index[self.foreign]]})

    def _known(self, codes: Codes, cells: slice) -> Codes:
        """Covariates whose batches have parameters of this modality; the mixture does not look at a cell's own."""
        foreign = torch.as_tensor(self.foreign[cells], device=codes.batch.device)
        known = codes.batch.masked_fill(foreign, self.mixture.batches[0]) if foreign.any() else codes.batch
        return Codes(known, codes.categorical, codes.continuous)

    def _decoders(self, cells: slice) -> Iterator[tuple[Decoder, np.ndarray]]:
        """What decodes which of some cells."""
        for decoder, which in ((self.decoder, ~self.foreign[cells]), (self.mixture, self.foreign[cells])):
            if which.any():
                yield decoder, np.flatnonzero(which)

    def _summarised(self, drawn: Drawn, draws: np.ndarray, columns: np.ndarray) -> dict[str, np.ndarray]:
        """Layers of a few cells and features from (n_draws, n_cells, n_columns) decoded draws."""
        interval, cells = self.options.interval, drawn.at
        found = moments(draws, interval)

        def here(rows: np.ndarray) -> np.ndarray:
            return rows[(rows >= cells.start) & (rows < cells.stop)] - cells.start

        for rows, share in self.assessment.shrinkage:
            assert self.rates is not None  # or the calibration would not have been read
            at = here(rows)
            own = self.rates[self.means[cells][at]][:, columns]
            towards(found, at, own, share)
            if self.predictive is not None and at.size:
                draws[:, at] = (1 - share) * draws[:, at] + np.float32(share) * own
        for rows, level, sd in self.assessment.mean_error:
            at = here(rows)
            if at.size:
                sd = np.interp(np.log(np.maximum(found.mean[at], TINY)), level, sd)
                with_mean_error(found, at, sd, interval, 1.0 if self.decoder.is_probability else np.inf)
        out = {"X": found.mean, "sd": found.sd, "lower": found.lower, "upper": found.upper}
        if self.predictive is not None:
            bounds = self.predictive.bounds(drawn, draws, columns, interval)
            out |= dict(zip(("predicted_lower", "predicted_upper"), bounds, strict=True))
        return out

    def _rows_of_means(self) -> np.ndarray:
        """(n_cells,) row of `rates` that holds each cell's means; of an earlier version there is one."""
        found = self.decoder.rows_of_rates(self.cells.data, self.index)
        return found if self.rates is None or len(self.rates) > 1 else np.zeros_like(found)

    def _obs(self) -> pd.DataFrame:
        measured, found = self.cells.has[self.modality][self.index], self.assessment
        # missing where nothing was checked: False would say that the cell is like those that taught the model
        columns = {
            "measured": measured,
            "out_of_support": nullable(found.outside, np.isfinite(found.support_p)),
            "support_p": found.support_p,
            "calibrated": nullable(found.cell_calibrated, ~measured),
        }
        return pd.DataFrame(columns, index=pd.Index(self.cells.data.cells[self.index].astype(str)))

    def _uns(self) -> dict[str, object]:
        decoder, options = self.decoder, self.options
        settings = {
            "version": __version__,
            "modality": self.modality,
            "n_samples": options.n_samples,
            "interval": options.interval,
            "seed": options.seed,
            "batch": "own" if decoder.own else [self.cells.model.config.batches[b] for b in decoder.batches],
            "not_own": self.not_own,
            "scale": decoder.scale,
            "first_cell": int(self.index.min()),
        }
        settings_text = json.dumps(settings, sort_keys=True)
        return {"calibrated": self.assessment.calibrated, "seed": options.seed, "multivi_nf": settings_text}


def _power_of_two(n: int, largest: int) -> int:
    return min(1 << max(int(n).bit_length() - 1, 0), largest)


def _cell_index(cells: Cells, wanted: Sequence[str] | None) -> np.ndarray:
    if wanted is None:
        return np.arange(cells.data.n_cells)
    index = cells.data.cells.get_indexer(list(wanted))
    unknown = [c for c, i in zip(wanted, index) if i < 0]
    if unknown or len(set(index)) < len(index) or not len(index):
        what = (
            f"{len(unknown)} cells are not in the mosaic: {', '.join(unknown[:3])}"
            if unknown
            else ("a cell is named twice" if len(index) else "the list of cells is empty")
        )
        raise InputError(
            what, "values belong to cells of the mosaic, each once", "use names `sample:barcode` of obs_names"
        )
    return index


@torch.inference_mode()
def impute(
    model: MultiVI,
    mosaic: MuData | MosaicData | Cells,
    modality: str,
    *,
    cells: Sequence[str] | None = None,
    features: Sequence[str] | str | None = None,
    n_samples: int = 80,
    interval: float = 0.95,
    batch: str | None = None,
    predictive: bool = False,
    library: pd.Series | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
) -> ad.AnnData:
    """Posterior mean, sd and credible interval of one modality, for cells that have it (denoised) or not (imputed).

    Parameters
    ----------
    model
        A trained model.
    mosaic
        Cells, known to the model or new, with its features.
    modality
        "rna", "atac" or "protein".
    cells
        Names; default all.
    features
        Names or symbols, or "all". Default: 2,000 variable genes, all proteins; atac has no default.
    n_samples
        Posterior draws per cell, keyed by (seed, cell name, draw).
    interval
        Coverage of `lower`, `upper`: quantiles at p (n + 1).
    batch
        None: reference mixture. A name, or "own": each cell's own batch, or, where that never measured the modality
        (`uns` names these batches), the reference mixture.
    predictive
        Also bounds of the count itself (rna, protein).
    library
        Library by cell name for `predictive`; cells left out get their own, or the reference libraries.
    calibration
        From :func:`multivi_nf.held_out.calibrate.calibrate`; None leaves the posterior as it is.
    seed
        Of the draws.

    Returns
    -------
    AnnData (n_cells, n_features) with layers sd, lower, upper (predicted_lower, predicted_upper), obs measured,
    out_of_support, support_p, calibrated (missing where not checked), uns calibrated. The same values as
    `impute_to_zarr` writes.

    Examples
    --------
    (A model for use is trained first, see :func:`multivi_nf.train`.)

    >>> import multivi_nf as mv
    >>> from multivi_nf.simulate import Options, simulated_mosaic
    >>> cells, _ = simulated_mosaic(Options(cells=100, genes=50, peaks=100, proteins=4))
    >>> model = mv.MultiVI.from_mosaic(cells, n_latent=5, n_hidden=16)
    >>> genes = list(cells["rna"].var_names[:3])
    >>> rna = mv.impute(model, cells, modality="rna", features=genes, n_samples=39)
    >>> rna.shape, sorted(rna.layers)
    ((100, 3), ['lower', 'sd', 'upper'])
    >>> bool((rna.layers["lower"] <= rna.X).all() and (rna.X <= rna.layers["upper"]).all())
    True
    >>> int(rna.obs["measured"].sum()) == cells["rna"].n_obs
    True
    """
    options = Options(cells, features, n_samples, interval, batch, predictive, library, seed)
    imputer = Imputer(Cells(model, mosaic), modality, options, calibration)
    matrices = {name: np.empty(imputer.shape, np.float32) for name in imputer.layers}
    for rows, values in imputer.runs():
        for name, value in values.items():
            matrices[name][rows] = value
    return ad.AnnData(matrices.pop("X"), obs=imputer.obs, var=imputer.var, layers=matrices, uns=imputer.uns)


@torch.inference_mode()
def impute_to_zarr(imputer: Imputer, output: Path, dtype: str = "float32") -> None:
    """As :func:`impute`, written run by run to an AnnData zarr store that `anndata.read_zarr` opens.

    The size on disk is said before it starts. Raises InputError where anything but a store of this step is there,
    the space does not suffice, or the disk fills up (nothing half-written stays).
    """
    check_folder(output, STORE)
    (n_cells, n_features), layers = imputer.shape, imputer.layers
    n_few, n_imputed = imputer.assessment.n_uncalibrated, int((~imputer.obs["measured"]).sum())
    said = f"; error bars of {n_few:,} of {n_imputed:,} imputed cells are not calibrated" if n_few else ""
    n_bytes = n_cells * n_features * len(layers) * np.dtype(DTYPES[dtype]).itemsize
    print(
        f"{output.name}: {n_cells:,} cells x {n_features:,} features x {len(layers)} matrices, "
        f"at most {_size(n_bytes)} on disk{said}",
        file=sys.stderr,
    )
    if names := imputer.not_own:
        print(
            f"{output.name}: {int(imputer.foreign.sum()):,} cells are of batches that never measured "
            f"{imputer.modality} ({', '.join(names[:5])}{' ...' if len(names) > 5 else ''}): how these would have "
            "shown it is not known, and they are decoded as the mixture of the batches that did",
            file=sys.stderr,
        )
    with new_store(output, n_bytes) as path:
        table = ad.AnnData(obs=imputer.obs, var=imputer.var, uns=imputer.uns)
        store = Store(path, table, layers, dtype, imputer.cells_a_run)
        with progress(f"impute {imputer.modality}", n_cells) as advance:
            for rows, values in imputer.runs():
                store.write(rows, **{name: value.astype(DTYPES[dtype], copy=False) for name, value in values.items()})
                advance(rows.stop - rows.start)


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"
