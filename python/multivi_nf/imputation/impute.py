"""Imputed and denoised values with error bars, at memory that depends on neither cells nor features.

Runs of cells x tiles of features x all draws are decoded, summarised in cache and written; nothing of size
cells x features is ever held. Draws belong to (seed, cell name, draw), blocks of cells and tiles of features are fixed:
a value depends neither on which other cells or features are asked for, nor on chunks.
"""

from __future__ import annotations

import io
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
from multivi_nf.calibration.per_cell import nullable
from multivi_nf.calibration.stored import Assessment, Calibration
from multivi_nf.data.draws import BLOCK, blocks, cell_keys, normals
from multivi_nf.errors import InputError
from multivi_nf.imputation.decode import TILE, Codes, Decoder, median_depth
from multivi_nf.imputation.features import choose_features
from multivi_nf.imputation.intervals import Predictive
from multivi_nf.imputation.moments import TINY, check_interval, moments, towards, with_mean_error
from multivi_nf.imputation.store import Store, new_store
from multivi_nf.inputs.text import read_text
from multivi_nf.io.limits import read_bytes
from multivi_nf.io.outputs import STORE, check_folder
from multivi_nf.io.progress import progress
from multivi_nf.latent.embed import cells_of, device_of, draw, posteriors, tempered

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
class _Request:
    """Everything that decides the numbers of one call."""

    model: MultiVI
    data: MosaicData
    decoder: Decoder
    index: np.ndarray
    positions: np.ndarray
    n_samples: int
    interval: float
    seed: int
    assessment: Assessment
    predictive: Predictive | None
    rates: np.ndarray | None = None

    @property
    def layers(self) -> list[str]:
        return ["X", "sd", "lower", "upper", *(["predicted_lower", "predicted_upper"] if self.predictive else [])]

    @property
    def cells_a_run(self) -> int:
        """Cells written at a time: a power of two, so that blocks hold whole runs."""
        return max(_power_of_two(_WRITTEN // max(len(self.positions), 1), BLOCK), self.cells_decoded)

    @property
    def cells_decoded(self) -> int:
        width = self.decoder.n_features if self.decoder.modality == "rna" else min(TILE, self.decoder.n_features)
        return _power_of_two(_ELEMENTS // (self.n_samples * width), BLOCK)


def _power_of_two(n: int, largest: int) -> int:
    return min(1 << max(int(n).bit_length() - 1, 0), largest)


def select_cells(names: Sequence[str], file: Path | None, chunk: str | None) -> list[str] | None:
    """Cells of `--cells FILE` or of `--chunk I/N` (whole blocks where there are enough); None is all."""
    if file is not None and chunk is not None:
        raise InputError("--cells and --chunk were both given", "they name different cells", "give one of them")
    if file is not None:
        if not file.is_file():
            raise InputError(f"cell list {file} does not exist", "no cell is named", "give a file with one name a line")
        return [line.strip() for line in read_text(file) if line.strip()]
    if chunk is None:
        return None
    part, _, n = chunk.partition("/")
    if not (part.isdigit() and n.isdigit() and 1 <= int(part) <= int(n)):
        raise InputError(f"--chunk is {chunk!r}", "it does not name a part of the cells", "write I/N, from 1/N to N/N")
    all_blocks = list(blocks(len(names)))
    edges = np.linspace(0, len(all_blocks), int(n) + 1).round().astype(int)
    mine = all_blocks[edges[int(part) - 1] : edges[int(part)]]
    if not mine:
        raise InputError(
            f"--chunk {chunk}: there are only {len(all_blocks)} blocks of {BLOCK} cells",
            "this part would be empty",
            f"ask for at most {len(all_blocks)} parts",
        )
    return list(names[mine[0].start : mine[-1].stop])


def read_library(path: Path | None) -> pd.Series | None:
    """`--library`: TSV with the columns cell and library (counts over the modelled genes)."""
    if path is None:
        return None
    table = pd.DataFrame()
    if path.is_file():
        table = pd.read_csv(io.BytesIO(read_bytes(path)), sep="\t", dtype={"cell": str})
    if not {"cell", "library"} <= set(table.columns):
        raise InputError(
            f"{path} is no table with the columns cell and library",
            "the count interval needs each cell's library",
            "write a TSV with a header line: cell, library",
        )
    values = pd.to_numeric(table["library"], errors="coerce")
    if not (values > 0).all() or table["cell"].duplicated().any():
        bad = table["cell"][~(values > 0) | table["cell"].duplicated()].iloc[0]
        raise InputError(
            f"{path}: cell {bad!r} is named twice or its library is no number above 0",
            "a count cannot be predicted at such a library",
            "give each cell once with its total count over the modelled genes",
        )
    return values.set_axis(table["cell"])


def _cell_index(data: MosaicData, cells: Sequence[str] | None) -> np.ndarray:
    if cells is None:
        return np.arange(data.n_cells)
    index = data.cells.get_indexer(list(cells))
    unknown = [c for c, i in zip(cells, index) if i < 0]
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


def _request(
    model: MultiVI,
    mosaic: MuData | MosaicData,
    modality: str,
    cells: Sequence[str] | None,
    features: Sequence[str] | str | None,
    n_samples: int,
    interval: float,
    batch: str | None,
    predictive: bool,
    library: pd.Series | None,
    calibration: Calibration,
    seed: int,
) -> _Request:
    check_interval(n_samples, interval)
    data = cells_of(model, mosaic)
    model.eval()
    index = _cell_index(data, cells)
    depth = (
        median_depth(model, data, calibration.atac_depth) if modality == "atac" and "atac" in model.modalities else 1.0
    )
    decoder = Decoder(model, modality, batch, depth)
    if decoder.own:
        decoder.check_own(data, index)
    table = model.features[model.features["modality"] == modality]
    names = table["feature"].to_numpy(str)
    positions = choose_features(modality, names, table["symbol"].to_numpy(str), features, data)
    decoder.check_panel(positions, names)
    counts = Predictive.make(model, data, modality, index, library, calibration) if predictive else None
    assessment = calibration.assess(model, data, index, modality)
    return _Request(
        model, data, decoder, index, positions, n_samples, interval, seed, assessment, counts, calibration.rates
    )


def _values(request: _Request) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Runs of cells with their matrices, (n_cells of the run, n_features) float32."""
    names = request.data.cells[request.index]
    keys = cell_keys(names, request.seed, "posterior")
    device = device_of(request.model)
    k = request.model.config.n_latent
    for block in blocks(len(request.index)):
        minibatch = request.data.minibatch(request.index[block])
        joint, _, _ = posteriors(request.model, minibatch)
        joint = tempered(
            joint, torch.as_tensor(request.assessment.temperature[block], dtype=torch.float32, device=device)
        )
        noise = torch.from_numpy(normals(keys[block], range(request.n_samples), k)).to(device)
        z = draw(joint, noise)
        own = Codes(minibatch.batch, minibatch.categorical, minibatch.continuous)
        for run in blocks(z.shape[1], request.cells_a_run):
            out = {n: np.empty((run.stop - run.start, len(request.positions)), np.float32) for n in request.layers}
            for part in blocks(run.stop - run.start, request.cells_decoded):
                some = slice(run.start + part.start, run.start + part.stop)
                chosen = slice(block.start + some.start, block.start + some.stop)
                _fill(request, z[:, some], _rows(own, some), chosen, {n: v[part] for n, v in out.items()})
            yield slice(block.start + run.start, block.start + run.stop), out


def _rows(codes: Codes, rows: slice) -> Codes:
    return Codes(codes.batch[rows], codes.categorical[rows], codes.continuous[rows])


def _fill(request: _Request, z: torch.Tensor, codes: Codes, cells: slice, out: dict[str, np.ndarray]) -> None:
    """Decode all draws of a few cells and summarise them into `out`."""
    decoder, (n_draws, n_cells, _) = request.decoder, z.shape
    flat, codes = z.reshape(n_draws * n_cells, -1), codes.repeat(n_draws)
    wanted = request.positions
    if decoder.modality == "rna":
        # all genes are needed for the softmax anyway, so they are decoded once, not once more for its normaliser
        values = decoder.profile(flat, codes)
        _summarise(request, values, flat, codes, n_draws, wanted, slice(None), cells, out)
        return
    prepared = decoder.prepare(flat, codes)
    for start in range(0, decoder.n_features, TILE):
        to = np.flatnonzero((wanted >= start) & (wanted < start + TILE))
        if to.size:
            values = decoder.tile(prepared, start)
            _summarise(request, values, flat, codes, n_draws, wanted[to] - start, to, cells, out, start, prepared)


def _summarise(
    request: _Request,
    values: torch.Tensor,
    z: torch.Tensor,
    codes: Codes,
    n_draws: int,
    columns: np.ndarray,
    to: np.ndarray | slice,
    cells: slice,
    out: dict[str, np.ndarray],
    start: int = 0,
    prepared: object = None,
) -> None:
    if len(columns) != values.shape[1] or (columns != np.arange(len(columns))).any():
        values = values[:, torch.as_tensor(columns, device=values.device)]
    draws = np.ascontiguousarray(values.cpu().numpy().reshape(n_draws, -1, len(columns)))
    found = moments(draws, request.interval)
    assessment = request.assessment

    def here(rows: np.ndarray) -> np.ndarray:
        return rows[(rows >= cells.start) & (rows < cells.stop)] - cells.start

    for rows, share in assessment.shrinkage:
        towards(found, here(rows), request.rates[columns + start], share)
    for rows, level, sd in assessment.mean_error:
        at = here(rows)
        if at.size:
            sd = np.interp(np.log(np.maximum(found.mean[at], TINY)), level, sd)
            with_mean_error(found, at, sd, request.interval, 1.0 if request.decoder.is_probability else np.inf)
    out["X"][:, to], out["sd"][:, to] = found.mean, found.sd
    out["lower"][:, to], out["upper"][:, to] = found.lower, found.upper
    if request.predictive:
        bounds = request.predictive.bounds(
            request.decoder, prepared, z, codes, draws, columns + start, cells, request.interval
        )
        out["predicted_lower"][:, to], out["predicted_upper"][:, to] = bounds


def _tables(request: _Request, modality: str) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """`obs`, `var` and `uns` of the result."""
    data, model = request.data, request.model
    names = data.cells[request.index].astype(str)
    measured = data.has[modality][request.index]
    found = request.assessment
    # missing where nothing was checked: False would say that the cell is like those that taught the model
    obs = pd.DataFrame(
        {
            "measured": measured,
            "out_of_support": nullable(found.outside, np.isfinite(found.support_p)),
            "support_p": found.support_p,
            "calibrated": nullable(found.cell_calibrated, ~measured),
        },
        index=pd.Index(names),
    )
    table = model.features[model.features["modality"] == modality].iloc[request.positions]
    var = pd.DataFrame({"symbol": table["symbol"].to_numpy(str)}, index=pd.Index(table["feature"].to_numpy(str)))
    settings = {
        "version": __version__,
        "modality": modality,
        "n_samples": request.n_samples,
        "interval": request.interval,
        "seed": request.seed,
        "batch": "own" if request.decoder.own else [model.config.batches[b] for b in request.decoder.batches],
        "scale": {
            "rna": "counts per 10,000",
            "atac": f"probability at depth {request.decoder.depth:.6g}"
            if request.decoder.is_probability
            else f"expected fragments at the median depth, {request.decoder.depth:.6g} in peaks",
            "protein": "expected foreground count",
        }[modality],  # fmt: skip
        "first_cell": int(request.index.min()),
    }
    uns = {
        "calibrated": found.calibrated,
        "seed": request.seed,
        "multivi_nf": json.dumps(settings, sort_keys=True),
    }
    return obs, var, uns


@torch.inference_mode()
def impute(
    model: MultiVI,
    mosaic: MuData | MosaicData,
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
        None: reference mixture. A name, or "own".
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
    calibration = calibration or Calibration.none()
    request = _request(
        model, mosaic, modality, cells, features, n_samples, interval, batch, predictive, library, calibration, seed
    )
    obs, var, uns = _tables(request, modality)
    matrices = {name: np.empty((len(obs), len(var)), np.float32) for name in request.layers}
    for rows, values in _values(request):
        for name, value in values.items():
            matrices[name][rows] = value
    return ad.AnnData(matrices.pop("X"), obs=obs, var=var, layers=matrices, uns=uns)


@torch.inference_mode()
def impute_to_zarr(
    model: MultiVI,
    mosaic: MuData | MosaicData,
    output: Path,
    *,
    modality: str,
    cells: Sequence[str] | None = None,
    features: Sequence[str] | str | None = None,
    n_samples: int = 80,
    interval: float = 0.95,
    batch: str | None = None,
    predictive: bool = False,
    library: pd.Series | None = None,
    dtype: str = "float32",
    calibration: Calibration | None = None,
    seed: int = 0,
) -> None:
    """As :func:`impute`, written run by run to an AnnData zarr store that `anndata.read_zarr` opens.

    The size on disk is said before it starts. Raises InputError where anything but a store of this step is there,
    the space does not suffice, or the disk fills up (nothing half-written stays).
    """
    check_folder(output, STORE)
    calibration = calibration or Calibration.none()
    request = _request(
        model, mosaic, modality, cells, features, n_samples, interval, batch, predictive, library, calibration, seed
    )
    obs, var, uns = _tables(request, modality)
    n_few, n_imputed = request.assessment.n_uncalibrated, int((~obs["measured"]).sum())
    said = f"; error bars of {n_few:,} of {n_imputed:,} imputed cells are not calibrated" if n_few else ""
    n_bytes = len(obs) * len(var) * len(request.layers) * np.dtype(DTYPES[dtype]).itemsize
    print(
        f"{output.name}: {len(obs):,} cells x {len(var):,} features x {len(request.layers)} matrices, "
        f"at most {_size(n_bytes)} on disk{said}",
        file=sys.stderr,
    )
    advice = "impute fewer features (--features), with --dtype float16, or to a disk with more space"
    with new_store(output, n_bytes, advice) as path:
        store = Store(path, obs, var, uns, request.layers, dtype, request.cells_a_run)
        with progress(f"impute {modality}", len(obs)) as advance:
            for rows, values in _values(request):
                store.write(rows, **{name: value.astype(DTYPES[dtype], copy=False) for name, value in values.items()})
                advance(rows.stop - rows.start)


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"
