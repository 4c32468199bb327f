"""Calibration on held-out pairs: one modality of a pair is hidden, predicted from the other, and compared.

Per direction (sources -> target) two numbers are fitted by the held-out log score: a temperature on the variance of the
posterior, and a factor on the counts' over-dispersion (rna, protein) or the share of each peak's own rate (atac). Pairs
that TRAIN set apart are used, not those of early stopping. Where these are too few for error bars, they and the pairs
of early stopping still tell the share of each gene's or peak's own mean that imputed values need. With them come the
levels at which intervals of counts are taken, what the report draws, the errors of imputed means and effects, and the
references of support.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from multivi_nf.calibration.entries import Direction
from multivi_nf.calibration.stored import MINIMUM_PAIRS, Calibration
from multivi_nf.calibration.support import Support
from multivi_nf.held_out.compared import NotFitted
from multivi_nf.held_out.fit import FEW_DRAWS, Fit, share_of_mean
from multivi_nf.held_out.group_effects import Groups
from multivi_nf.held_out.pairs import HeldOut
from multivi_nf.held_out.prediction import Prediction
from multivi_nf.io.processors import threads_at_most
from multivi_nf.io.progress import progress
from multivi_nf.latent.cells import Cells
from multivi_nf.training.model_folder import weights_digest

DRAWN = ("rna", "atac")
"""Modalities whose imputed values are drawn to their features' means; what a protein's counts are a mean of is not
what is imputed, its foreground."""

LEAST_PAIRS = 5
"""Pairs that trained nothing, from which that share is found: eight tell it within 0.15."""

if TYPE_CHECKING:
    from mudata import MuData

    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI


@threads_at_most(1)
@torch.inference_mode()
def calibrate(
    model: MultiVI,
    mosaic: MuData | MosaicData | Cells,
    *,
    n_samples: int = 40,
    seed: int = 0,
) -> Calibration:
    """Measure and mend the error bars of a model on the pairs that its training set apart.

    Parameters
    ----------
    model
        A trained model; its `split` names the calibration cells.
    mosaic
        The mosaic that it was trained on.
    n_samples
        Posterior draws per cell.
    seed
        Of draws and of the choice of at most 400 cells and 500 features a direction.

    Returns
    -------
    Calibration; directions with fewer than 100 pairs are not calibrated, which is said in it. The same bytes for any
    number of threads, since sums in another order differ in their last bit: it works with one.

    Examples
    --------
    >>> import multivi_nf as mv
    >>> from multivi_nf.simulate import Options, simulated_mosaic
    >>> cells, _ = simulated_mosaic(Options(cells=100, genes=50, peaks=100, proteins=4))
    >>> model = mv.MultiVI.from_mosaic(cells, n_latent=5, n_hidden=16)
    >>> _ = mv.train(model, cells, max_epochs=1, seed=0, quiet=True)
    >>> found = mv.calibrate(model, cells)
    >>> found.calibrated  # so few pairs check nothing, which is said
    False
    >>> imputed = mv.impute(model, cells, modality="rna", features="all", calibration=found)
    >>> imputed.uns["calibrated"]
    False
    """
    cells, weights = Cells(model, mosaic), weights_digest(model)
    held, has, batch = HeldOut.of(cells, seed), cells.has, cells.data.source.batch.astype(str)
    pairs = {(s, t): len(held.measured(*s, t)) for s, t in _directions(model.modalities)}
    paired = held.index[sum(has[m][held.index].astype(int) for m in model.modalities) > 1]
    found = Calibration(n_pairs=len(paired), batches=sorted(set(batch[paired])), atac_depth=held.depth, weights=weights)
    # groups are of all pairs that trained nothing: validation only chose the epoch to keep
    unknown: list[str] = []
    watched, few = held.watched(), {t for (_, t), n in pairs.items() if n < MINIMUM_PAIRS}
    drawn = [m for m in DRAWN if m in model.modalities and has[m].any() and (m == "atac" or m in few)]
    rates = {m: held.rates(m) for m in drawn if len(paired)}
    with progress("calibrate", len(pairs), "directions") as advance:
        for (sources, target), n_cells in pairs.items():
            name = f"{'+'.join(sources)}->{target}"
            if n_cells >= MINIMUM_PAIRS:
                own = rates.get(target) if target == "atac" else None
                prediction = Prediction(held, sources, target, n_samples, own)
                found.directions[name] = Fit(prediction.shown, prediction).fitted(n_cells)
                try:
                    found.directions[name].effects = Groups(watched, sources, target).fit()
                except NotFitted as problem:
                    unknown.append(f"{name}: {problem.what}; contrasts of cells imputed so have no measured error")
            elif any(_wanted({m: has[m] for m in model.modalities}, sources, target)):
                share = _share(watched, sources, target, rates)
                found.directions[name] = Direction(calibrated=False, n_cells=n_cells, shrinkage=share)
            advance(1)
    found.calibrated = any(entry.calibrated for entry in found.directions.values())
    found.notes = _notes(found, set(batch)) + unknown
    found.support = Support.fit(model.modalities, cells.data, held.index, seed, model) if len(paired) else None
    used = {name.split("->")[1] for name, entry in found.directions.items() if entry.shrinkage}
    found.rates = {m: rows for m, rows in rates.items() if m in used}
    return found


def _share(held: HeldOut, sources: tuple[str, ...], target: str, rates: dict[str, np.ndarray]) -> float | None:
    """Share of each feature's own mean; None where fewer than `LEAST_PAIRS` tell, or of proteins."""
    if target not in rates or len(held.measured(*sources, target)) < LEAST_PAIRS:
        return None
    return share_of_mean(Prediction(held, sources, target, FEW_DRAWS, rates[target], batch="own"))


def _directions(modalities: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for target in modalities:
        others = [m for m in modalities if m != target]
        for code in range(1, 1 << len(others)):
            yield tuple(m for i, m in enumerate(others) if code >> i & 1), target


def _wanted(has: dict[str, np.ndarray], sources: tuple[str, ...], target: str) -> np.ndarray:
    """Cells that this direction would impute."""
    return np.all([has[m] == (m in sources) for m in has], axis=0) & ~has[target]


def _notes(found: Calibration, batches: set[str]) -> list[str]:
    others = sorted(batches - set(found.batches))
    notes = []
    if not found.calibrated:
        notes.append(
            f"{found.n_pairs} held-out pairs are too few to check error bars (100 are needed): "
            "they are the model's own opinion"
        )
    elif others:
        names = ", ".join(others[:10]) + (" ..." if len(others) > 10 else "")
        notes.append(f"calibrated on pairs of {', '.join(found.batches[:10])}; for {names} this is an extrapolation")
    return notes
