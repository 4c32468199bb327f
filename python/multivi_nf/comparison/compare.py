"""Differential expression, accessibility and protein abundance by one engine (`docs/explanation/inference.md`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pandas as pd
import torch

from multivi_nf.calibration.effects import CLUSTERS, LABELS
from multivi_nf.calibration.stored import Calibration
from multivi_nf.comparison.design import MAX_CELLS, Design, make_design
from multivi_nf.comparison.engine import Engine, Mode
from multivi_nf.comparison.group_means import GroupMeans, Sampling
from multivi_nf.comparison.tables import Replicates, Tables
from multivi_nf.errors import InputError
from multivi_nf.imputation.decode import Decoder
from multivi_nf.inputs.contrasts import CELLS, Contrast
from multivi_nf.latent.cells import Cells

if TYPE_CHECKING:
    from mudata import MuData

    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI


@torch.inference_mode()
def differential(
    model: MultiVI,
    mosaic: MuData | MosaicData | Cells,
    modality: str,
    *,
    groupby: str,
    target: str,
    reference: str = "rest",
    cells: Literal["all", "observed", "imputed"] = "observed",
    replicate: str = "batch",
    delta: float | None = None,
    fdr: float = 0.05,
    n_samples: int = 1000,
    mode: Mode = "change",
    calibration: Calibration | None = None,
    max_cells: int = MAX_CELLS,
    seed: int = 0,
) -> pd.DataFrame:
    """Which features differ between two groups of cells, or between every group and the rest.

    Parameters
    ----------
    model
        A trained model.
    mosaic
        Cells with a column `groupby`; the h5mu of `embed` has `cluster`.
    modality
        "rna", "atac" or "protein".
    groupby, target, reference
        Column of obs and its values; target "each" is every group in turn, reference "rest" all other cells.
    cells
        "observed": cells measured in the modality; "imputed": the others; "all".
    replicate
        Column of obs with the unit that was sampled; the batch by default. Groups that share no batch are compared
        between replicates, or between batches where these are fewer.
    delta
        Smallest effect that counts, on the scale of `effect`. None: half the 95th percentile of `|effect|` between
        random halves of the groups plus a tenth of the feature's larger mean.
    fdr
        Level of `significant`.
    n_samples
        Posterior samples of a group; every cell has at least two.
    mode
        "vanilla": probability is P(x > y) for a cell of each group, and a column `bayes_factor` (natural logarithm of
        the odds) is added, as the reference implementation has it.
    calibration
        From :func:`multivi_nf.held_out.calibrate.calibrate`.
    max_cells
        Cells of a group that are decoded; a larger group is represented by a random subset.
    seed
        Of all draws.

    Returns
    -------
    One row a feature (and, for "each", a target, in a further column), sorted by evidence; columns of `INTERFACES`
    section 3.

    Examples
    --------
    (A model for use is trained first, see :func:`multivi_nf.train`.)

    >>> import multivi_nf as mv
    >>> from multivi_nf.simulate import Options, simulated_mosaic
    >>> cells, _ = simulated_mosaic(Options(cells=100, genes=50, peaks=100, proteins=4))
    >>> model = mv.MultiVI.from_mosaic(cells, n_latent=5, n_hidden=16)
    >>> table = mv.differential(model, cells, modality="rna", groupby="batch", target="site_1", replicate="sample")
    >>> list(table.columns[:7])
    ['feature', 'symbol', 'mean_target', 'mean_reference', 'effect', 'effect_lower', 'effect_upper']
    >>> len(table) == cells["rna"].n_vars
    True
    """
    calibration = calibration or Calibration.none()
    joined = Cells(model, mosaic)
    data = joined.data
    contrast = Contrast(f"{groupby}_{target}_{reference}", modality, groupby, target, reference, cells)
    _check(contrast, mode)
    scaled = modality == "atac" and "atac" in model.modalities
    depth = joined.median_depth(calibration.atac_depth) if scaled else 1.0
    decoder = Decoder(model, modality, None, depth)
    names = model.features[model.features["modality"] == modality]
    tables = {}
    for design, column, own_batches in _designs(data, contrast, replicate, seed, max_cells):
        kind = CLUSTERS if design.same_data else LABELS
        how = Sampling(n_samples, seed, own_batches, kind)
        means = GroupMeans(joined, decoder, list(design.groups.values()), calibration, how)
        written = Tables(names, design, Replicates(data, design, column, modality), fdr)
        for found, pair in zip(Engine(means, design, delta, mode).run(), design.pairs, strict=True):
            tables[pair] = written.of(pair, found, means.support(design, pair))
            if target == "each":
                tables[pair].insert(0, "target", pair[0])
    return pd.concat([tables[pair] for pair in sorted(tables)], ignore_index=True)


def _designs(
    data: MosaicData, contrast: Contrast, replicate: str, seed: int, max_cells: int
) -> list[tuple[Design, str, bool]]:
    """Pairs that share batches, and pairs that share none: design, column of replicates, cells under own batches.

    Between batches the unit is the batch where replicates are finer: what a batch does, all of them share.
    """
    design = make_design(data, contrast, replicate, seed, max_cells)
    apart = [pair for pair in design.pairs if design.between(pair)]
    together = [pair for pair in design.pairs if pair not in apart]
    fine = [
        pair
        for pair in apart
        if any(len(r) > len(b) for r, b in zip(design.sides(pair, "replicates"), design.sides(pair, "batches")))
    ]
    by_batch = make_design(data, contrast, "batch", seed, max_cells) if fine else design
    coarse = [pair for pair in apart if pair not in fine]
    parts = [(design, together, replicate, False), (design, coarse, replicate, True), (by_batch, fine, "batch", True)]
    return [(one.of(pairs), column, own) for one, pairs, column, own in parts if pairs]


def _check(contrast: Contrast, mode: str) -> None:
    if contrast.cells not in CELLS or mode not in ("change", "vanilla"):
        raise InputError(
            f"cells is {contrast.cells!r}, mode is {mode!r}",
            "there is no such comparison",
            f"cells is one of {', '.join(CELLS)}; mode is change or vanilla",
        )
