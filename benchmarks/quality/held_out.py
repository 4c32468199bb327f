"""What the calibration benchmarks share: sets whose hidden counts are known, and how a prediction meets them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import anndata
import numba
import numpy as np
import pandas as pd
import torch
from benchmarks.quality.common import snare
from benchmarks.quality.protein import load

from multivi_nf.benchmark.splits import Split, batches_held_out, build_mosaic, strict_unpairing
from multivi_nf.calibration.stored import Calibration
from multivi_nf.data.draws import blocks
from multivi_nf.evaluation.runs import true_expression
from multivi_nf.held_out import scoring
from multivi_nf.imputation.decode import RNA_SCALE
from multivi_nf.imputation.impute import Imputer, Options
from multivi_nf.imputation.intervals import Drawn, protein_mixture, rna_mixture
from multivi_nf.imputation.mixtures import Mixture
from multivi_nf.latent.cells import Cells, samples, tempered
from multivi_nf.simulate import PRESETS, Truth, simulated_mosaic
from multivi_nf.training import MultiVI

SOURCE = {"rna": "atac", "atac": "rna", "protein": "rna"}
CITE = ("bmmc_neurips_mini", "pbmc_citeseq_mosaic_mini")
DATA = ("simulated", "snare", *CITE)


@dataclass
class HeldOut:
    """A split, the complete cells, their labels (or None) and the simulator's truth (or None)."""

    split: Split
    complete: Mapping[str, anndata.AnnData]
    labels: pd.Series | None
    truth: Truth | None


def simulated(seed: int, cells: int) -> tuple[dict[str, anndata.AnnData], pd.Series, Truth]:
    """Paired cells of a larger simulated mosaic; each of its two sites is one library."""
    mosaic, truth = simulated_mosaic(replace(PRESETS["default"], cells=cells or 5000, seed=seed))
    both = mosaic["rna"].obs_names.intersection(mosaic["atac"].obs_names)
    both = both[~truth.cells.loc[both, "doublet"].astype(bool) & ~truth.cells.loc[both, "dying"].astype(bool)]
    complete = {m: mosaic[m][both].copy() for m in ("rna", "atac")}
    complete["atac"].X = complete["atac"].layers["counts"]
    return complete, truth.cells.loc[both, "cell_type"], truth


def held_out(data: str, kind: str, seed: int, cells: int = 0) -> HeldOut:
    """S2: cells of all libraries have one modality hidden. S3: whole libraries have.

    SNARE: 25 % stay paired, or four of eight libraries; simulated: half stay paired, or one of two sites; CITE-seq:
    protein is hidden in 30 % of cells, or in the last library.
    """
    if data in CITE:
        complete = load(data)
        batch = complete["rna"].obs["batch"].astype(str)
        hide = np.random.default_rng(seed).random(len(batch)) < 0.3 if kind == "S2" else batch == batch.max()
        shown = [(c, c, ("rna",) if h else ("rna", "protein")) for c, h in zip(batch.index, hide)]
        labels = complete["rna"].obs["cell_type"].astype(str) if "cell_type" in complete["rna"].obs else None
        return HeldOut(build_mosaic(complete, shown), complete, labels, None)
    complete, labels, truth = simulated(seed, cells) if data == "simulated" else (*snare(cells), None)
    if kind == "S2":
        split = strict_unpairing(complete, 0.5 if truth else 0.25, seed=seed, labels=labels)
        return HeldOut(split, complete, labels, truth)
    names = sorted(complete["rna"].obs["batch"].astype(str).unique())
    names = [str(name) for name in np.random.default_rng(seed).permutation(names)]
    shows = {name: (("atac",), ("rna",))[i % 2] for i, name in enumerate(names[: max(len(names) // 2, 1)])}
    return HeldOut(batches_held_out(complete, shows), complete, labels, truth)


def true_means(truth: Truth, split: Split, modality: str, cells: pd.Index, depth: float = 1.0) -> np.ndarray:
    """(n_cells, n_features) true means on the scale of `impute`: averaged over sites, weighted by measured cells.

    :meth:`Truth.expression` leaves site effects out, but the reference mixture decodes under the sites there are.
    """
    part, features = split.mosaic[modality], truth.features[modality]
    if modality == "rna":
        measured = pd.Index(split.origin[part.obs_names])
        return true_expression(measured, truth, cells, part.var_names).to_numpy()
    names = truth.peaks.index.get_indexer(part.var_names)
    states = truth.states[truth.rows(cells)]
    total = np.zeros((len(states), len(names)))
    for site, name in enumerate(("site_1", "site_2")):
        share = features.proportions(states, np.full(len(states), site))[:, names]
        total += (part.obs["batch"] == name).mean() * -np.expm1(-depth * share)
    return total


# ---- predicted distributions at the hidden counts --------------------------------------------------------------------


@numba.njit(cache=True, nogil=True)
def _crps(mean, weight, zero, theta, x, out):
    """Sum over k of (F(k) - 1[x <= k])^2 of each entry's mixture, until F > 1 - 1e-6."""
    n, n_cells, n_features = mean.shape
    shared = weight.shape[1] == 1
    mass, ratio = np.empty(n), np.empty(n)
    for c in range(n_cells):
        for j in range(n_features):
            size, f = theta[c, j], zero[c, j]
            for i in range(n):
                m = max(mean[i, c, j], 1e-12)
                w = weight[i, 0, 0] if shared else weight[i, c, j]
                mass[i] = w * (1 - zero[c, j]) * np.exp(-size * np.log1p(m / size))
                ratio[i] = m / (m + size)
                f += mass[i]
            total, k = 0.0, 0
            while k < 5000:
                total += (f - (1.0 if x[c, j] <= k else 0.0)) ** 2
                if k >= x[c, j] and f > 1 - 1e-6:
                    break
                step = (k + size) / (k + 1)
                for i in range(n):
                    mass[i] *= ratio[i] * step
                    f += mass[i]
                k += 1
            out[c, j] = total


def crps(mixture: Mixture, counts: np.ndarray) -> np.ndarray:
    """(n_cells, n_features) continuous ranked probability scores (Gneiting & Raftery 2007)."""
    out = np.empty(counts.shape)
    theta = np.ascontiguousarray(np.broadcast_to(mixture.theta, counts.shape))
    _crps(mixture.mean, mixture.weight, mixture.zero, theta, counts.astype(np.float64), out)
    return out


@dataclass
class Scores:
    """Of each hidden count: the transform (PIT), log score, CRPS, and the predicted mean."""

    pit: np.ndarray
    log_score: np.ndarray
    crps: np.ndarray
    mean: np.ndarray


def met(mixture: Mixture, counts: np.ndarray, seed: int = 0) -> Scores:
    """Scores of one mixture at its counts."""
    uniform = np.random.default_rng([seed, *counts.shape]).random(counts.shape)
    mean = (mixture.mean * mixture.weight).sum(0) * (1 - mixture.zero)
    return Scores(
        scoring.pit(mixture, counts, uniform), scoring.log_score(mixture, counts), crps(mixture, counts), mean
    )


@torch.inference_mode()
def distributions(
    model: MultiVI, held: HeldOut, modality: str, cells: pd.Index, calibration: Calibration, n_samples: int = 80
) -> Iterator[tuple[slice, np.ndarray, Mixture]]:
    """(rows, draws of the mean, mixture of counts) of a few cells at a time: what `impute --predictive` inverts.

    RNA is predicted at each cell's own, true library, as a scorer has to; protein has none.
    """
    library = None
    if modality == "rna":
        counts = held.complete["rna"][held.split.origin[cells], held.split.mosaic["rna"].var_names].X
        library = pd.Series(np.asarray(counts.sum(1)).ravel().astype(float), cells).clip(lower=1)
    options = Options(list(cells), "all", n_samples, 0.9, None, True, library)
    imputer = Imputer(Cells(model, held.split.mosaic), modality, options, calibration)
    for block in imputer.cells.blocks(imputer.index):
        warm = torch.as_tensor(imputer.assessment.temperature[block.at], dtype=torch.float32)
        z = samples(tempered(block.joint, warm), imputer.keys[block.at], n_samples)
        for part in blocks(z.shape[1], 32):
            rows = slice(block.at.start + part.start, block.at.start + part.stop)
            drawn = Drawn(imputer.decoder, z[:, part], block.codes.rows(part), rows)
            [(_, columns, draws)] = drawn.decoded(imputer.positions)
            factor = imputer.predictive.factor[rows]
            if modality == "rna":
                sizes = imputer.predictive.libraries(n_samples, rows) / RNA_SCALE
                mixture = rna_mixture(drawn, draws, columns, sizes, factor)
            else:
                mixture = protein_mixture(drawn, columns, factor)
            yield rows, draws, mixture
