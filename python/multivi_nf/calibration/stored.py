"""What held-out pairs said about the error bars, stored with the model and applied wherever they are used."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from multivi_nf.calibration.effects import ImputedEffects
from multivi_nf.calibration.entries import Content, Direction
from multivi_nf.calibration.support import Support
from multivi_nf.errors import Damaged, InputError
from multivi_nf.io.files import written_whole
from multivi_nf.io.limits import LARGEST_JSON, read_bytes
from multivi_nf.io.outputs import check_file
from multivi_nf.io.records import as_json, from_json
from multivi_nf.io.seals import SEAL, file_digest, is_intact, sealed
from multivi_nf.training.model_folder import weights_digest

if TYPE_CHECKING:
    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI

MINIMUM_PAIRS = 100
UNMEASURED_ERROR = 0.8
"""Standard deviation of the error of imputed log means where pairs were too few to measure it. It is smaller where
they are not (docs/decisions/error-bars.md)."""
FILES = ("rates.safetensors", "support.safetensors")
"""Where arrays are."""


@dataclass
class Assessment:
    """How far the values of some cells can be trusted, for one target modality.

    Attributes
    ----------
    temperature
        (n_cells,) factor on the variance of the posterior; 1 where the target was measured.
    outside
        (n_cells,) imputed and out of support.
    support_p
        (n_cells,) share of held-out supported cells that lie at least as far from the pairs; NaN where the target was
        measured or no reference is stored.
    calibrated
        Every imputed cell's direction was calibrated.
    n_uncalibrated
        Imputed cells whose direction was not.
    cell_calibrated
        (n_cells,) the cell's own direction was calibrated, or the target was measured.
    mean_error
        Rows of cells with the error of the log mean that neighbours share: (rows, log means, standard deviations) for
        each calibrated direction.
    shrinkage
        (rows, share of the feature's own mean in the imputed value) for each direction that has one.
    """

    temperature: np.ndarray
    outside: np.ndarray
    support_p: np.ndarray
    calibrated: bool
    mean_error: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    shrinkage: list[tuple[np.ndarray, float]] = field(default_factory=list)
    n_uncalibrated: int = 0
    cell_calibrated: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))


@dataclass
class Calibration:
    """Content of calibration.json, support.safetensors and rates.safetensors.

    Attributes
    ----------
    calibrated
        At least one direction had 100 held-out pairs.
    n_pairs
        Held-out cells with two or more modalities.
    batches
        Batches of these; elsewhere the calibration is an extrapolation.
    directions
        "atac->rna", "rna+protein->atac", ...; not calibrated where pairs were too few.
    atac_depth
        d~ of the training mosaic.
    notes
        Sentences for the user.
    weights
        Digest of the weights that it was measured on (:func:`multivi_nf.training.model_folder.weights_digest`).
    support
        References of the out-of-support score by direction.
    rates
        Modality to (n_batches + 1, n_features) means of its measured cells on the user's scale, by batch and, last,
        of the reference mixture, towards which imputed values are drawn. One row, the last, in an earlier version.
    """

    calibrated: bool = False
    n_pairs: int = 0
    batches: list[str] = field(default_factory=list)
    directions: dict[str, Direction] = field(default_factory=dict)
    atac_depth: float | None = None
    notes: list[str] = field(default_factory=list)
    weights: str = ""
    support: Support | None = None
    rates: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def none(cls) -> Calibration:
        """No calibration: the posterior as it is."""
        return cls(notes=["the model was not calibrated"])

    @classmethod
    def load(cls, folder: Path, model: MultiVI | None = None) -> Calibration:
        """Read a model folder's calibration; without one, `none`.

        Parameters
        ----------
        folder
            Holds calibration.json and the arrays beside it.
        model
            The model that it will be applied to: one that was measured on other weights is refused.

        Raises
        ------
        InputError
            A file is damaged, missing or of another calibration, a value is impossible, or the weights are others.
        """
        folder = Path(folder)
        path = folder / "calibration.json"
        if not path.is_file():
            stray = [name for name in FILES if (folder / name).is_file()]
            if stray:
                raise _unusable(folder / stray[0], "there is no calibration.json beside it")
            return cls.none()
        content = _read(path)
        _check_weights(content.weights, path, model)
        _check_arrays(content.files or {}, folder)
        found = cls(**{f.name: getattr(content, f.name) for f in fields(content) if f.name != "files"})
        found.weights = found.weights or ""
        found.support = Support.load(folder / "support.safetensors")
        highest = 1.0 if model is not None and not model.counts_peaks else np.inf
        found.rates = _read_rates(folder / "rates.safetensors", highest)
        drawn = {name.split("->")[1] for name, entry in found.directions.items() if entry.shrinkage}
        if lacking := sorted(drawn - set(found.rates)):
            raise _unusable(
                folder / "rates.safetensors",
                f"it has no {' and no '.join(lacking)}" if found.rates else "it is missing",
                "imputed values cannot be drawn towards the means of their features",
            )
        if found.support is None and found.n_pairs:
            raise _unusable(
                folder / "support.safetensors",
                "it is missing",
                "cells that no pair resembles would pass for supported ones",
            )
        return found

    def save(self, folder: Path) -> None:
        """Write calibration.json and, where there are pairs, both safetensors files into a folder.

        calibration.json comes last and holds the digests of the others: a mixture of two calibrations, as a process
        that is killed between two files would leave it, is refused when it is read.
        """
        folder = Path(folder)
        check_file(folder / "calibration.json", "json")
        if self.rates:
            from safetensors.numpy import save

            # not save_file, which makes files that only their owner reads
            arrays = {m: np.ascontiguousarray(rates, np.float32) for m, rates in sorted(self.rates.items())}
            packed = save(arrays, metadata={"weights": self.weights})
            with written_whole(folder / "rates.safetensors") as temporary:
                temporary.write_bytes(packed)
        if self.support is not None:
            self.support.save(folder / "support.safetensors", self.weights)
        parts: dict[str, str | None] = {}
        for name, part in zip(FILES, (self.rates, self.support), strict=True):
            parts[name] = file_digest(folder / name) if part else None
            if not part:
                (folder / name).unlink(missing_ok=True)  # of a former calibration
        kept = {f.name: getattr(self, f.name) for f in fields(Content) if f.name != "files"}
        with written_whole(folder / "calibration.json") as temporary:
            text = json.dumps(sealed(as_json(Content(**kept, files=parts))), indent=1, sort_keys=True)
            temporary.write_text(text + "\n")

    def direction(self, sources: str, target: str) -> Direction | None:
        """Entry of a direction that was calibrated, else None."""
        entry = self.directions.get(f"{sources}->{target}")
        return entry if entry is not None and entry.calibrated else None

    def imputed_effects(
        self, data: MosaicData, cells: np.ndarray, target: str, kind: str
    ) -> list[tuple[float, ImputedEffects]]:
        """What imputed log ratios of groups are worth: (share of the cells, numbers) of each calibrated direction.

        Parameters
        ----------
        kind
            `labels` or `clusters` (:mod:`multivi_nf.calibration.effects`).
        """
        out = []
        for sources, rows in patterns(data, cells).items():
            entry = self.direction(sources, target)
            if entry is None:
                continue
            share, known = len(rows) / len(cells), (entry.effects or {}).get(kind)
            if known is not None:
                out.append((share, known))
            elif entry.effect_sd is not None:
                out.append((share, ImputedEffects.plain(entry.effect_sd.log_mean, entry.effect_sd.sd)))
        return out

    def assess(self, data: MosaicData, index: np.ndarray, target: str, model: MultiVI | None = None) -> Assessment:
        """Temperature, support and calibration of the cells at `index` when `target` is asked for.

        Without a model support is told by the cells' counts alone.
        """
        n = len(index)
        found = Assessment(np.ones(n), np.zeros(n, bool), np.full(n, np.nan), self.calibrated)
        found.cell_calibrated = np.ones(n, bool)
        for sources, rows in patterns(data, index).items():
            if target in sources.split("+"):
                continue
            entry, known = self.direction(sources, target), self.directions.get(f"{sources}->{target}")
            if known is not None and known.shrinkage:
                found.shrinkage.append((rows, float(known.shrinkage)))
            if entry is None:
                found.n_uncalibrated += len(rows)
                found.cell_calibrated[rows] = False
                if known is not None:
                    # too few pairs to measure it is no reason to be surer than where it was measured
                    found.mean_error.append((rows, np.zeros(1), np.full(1, UNMEASURED_ERROR)))
            else:
                found.temperature[rows] = entry.warmth
                if (error := entry.mean_sd) is not None:
                    found.mean_error.append((rows, np.asarray(error.log_mean), np.asarray(error.sd)))
            if self.support is not None and self.support.knows(sources, target):
                p, widening = self.support.score(data, index[rows], sources, target, model)
                found.support_p[rows] = p
                found.outside[rows] = p <= self.support.level
                found.temperature[rows] *= np.where(found.outside[rows], widening, 1.0)
        found.calibrated = self.calibrated and not found.n_uncalibrated
        return found

    def summary(self) -> str:
        """A few lines for the terminal."""
        lines = [
            f"{self.n_pairs:,} held-out pairs in {len(self.batches)} batches; "
            + ("calibrated" if self.calibrated else "not calibrated")
        ]
        lines += [f"  {name}: {entry.summary()}" for name, entry in sorted(self.directions.items())]
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def support_columns(
    calibration: Calibration, modalities: tuple[str, ...], data: MosaicData, model: MultiVI | None = None
) -> pd.DataFrame:
    """What stands in `obs` of each cell about its imputed values, by all modalities that it lacks.

    Parameters
    ----------
    calibration, modalities
        Of the model.
    data
        The cells in its terms.
    model
        Whose view of the cells tells of their support too; None: counts alone.

    Returns
    -------
    One row a cell: `out_of_support` (True where any missing modality says so, False where every one was checked and
    none does), `support_p` (the smallest), `calibrated` (the directions of all missing modalities are). Missing where
    nothing was checked: nothing has to be imputed, or no reference is stored.
    """
    n = data.n_cells
    outside, checked, lacking = np.zeros(n, bool), np.ones(n, bool), np.zeros(n, bool)
    calibrated, p = np.ones(n, bool), np.full(n, np.nan)
    for target in modalities:
        cells = np.flatnonzero(~data.has[target]) if target in data.has else np.arange(n)
        if not len(cells):
            continue
        found = calibration.assess(data, cells, target, model)
        lacking[cells] = True
        outside[cells] |= found.outside
        checked[cells] &= np.isfinite(found.support_p)
        p[cells] = np.fmin(p[cells], found.support_p)
        calibrated[cells] &= found.cell_calibrated
    return pd.DataFrame(
        {
            "out_of_support": nullable(outside, lacking & (checked | outside)),
            "support_p": p,
            "calibrated": nullable(calibrated, lacking),
        },
        index=data.cells,
    )


def nullable(values: np.ndarray, known: np.ndarray) -> pd.arrays.BooleanArray:
    """Booleans that are missing where they are not known."""
    return pd.arrays.BooleanArray(values & known, ~known)


def _unusable(path: Path, how: str, why: str = "error bars would silently go without their calibration") -> InputError:
    return Damaged(
        path, f"cannot be used: {how}", why, "copy the whole folder again, or run `multivi-nf calibrate` again"
    )


def _read(path: Path) -> Content:
    try:
        values = json.loads(read_bytes(path, longest_line=None, most_bytes=LARGEST_JSON))
    except (OSError, ValueError, RecursionError) as problem:
        raise _unusable(path, str(problem)) from problem
    if not isinstance(values, dict) or not values:
        raise _unusable(path, "it is empty" if values in ({}, []) else "it is not a JSON object")
    try:
        content = from_json(Content, {name: value for name, value in values.items() if name != SEAL}, "it")
    except InputError as problem:
        raise _unusable(path, problem.what) from problem
    wrong = content.impossible() or ("its entries are not as they were written" if is_intact(values) is False else "")
    if wrong:
        raise _unusable(path, wrong)
    return content


def _check_weights(weights: str | None, path: Path, model: MultiVI | None) -> None:
    """Refuse a calibration of other weights; one that does not name its weights is let pass with a warning."""
    if model is None:
        return
    if not weights:
        warnings.warn(
            f"{path} was written by an earlier version: whether it belongs to this model is not verified", stacklevel=4
        )
    elif weights != weights_digest(model):
        raise InputError(
            f"{path} was measured on another model",
            "its error bars would be those of the other model",
            "run `multivi-nf calibrate` with this model, or give the model that was calibrated",
        )


def _check_arrays(files: dict[str, str | None], folder: Path) -> None:
    """Compare the arrays with the digests in calibration.json; those of an earlier version have none."""
    for name, known in files.items():
        if name not in FILES:
            raise _unusable(folder / "calibration.json", f"it names the file {name!r}")
        path = folder / name
        if known is not None and not path.is_file():
            raise _unusable(path, "it is missing", "what calibration.json was written with is not complete")
        if path.is_file() and known != file_digest(path):
            raise _unusable(path, "it is not the one that calibration.json was written with")


def _read_rates(path: Path, highest: float) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = {m: np.atleast_2d(rates) for m, rates in load_file(path).items()}
    except (SafetensorError, OSError, ValueError) as problem:
        raise _unusable(path, str(problem)) from problem
    for m, rates in found.items():
        most = highest if m == "atac" else np.inf
        if rates.ndim != 2 or not np.isfinite(rates).all() or (rates < 0).any() or (rates > most).any():
            raise _unusable(path, "it holds what is no rate")
    return found


def patterns(data: MosaicData, index: np.ndarray) -> dict[str, np.ndarray]:
    """Cells by what was measured: "rna", "rna+atac", ... to positions in `index`."""
    modalities = [m for m in ("rna", "atac", "protein") if m in data.has]
    code = sum((data.has[m][index].astype(int) << i for i, m in enumerate(modalities)), np.zeros(len(index), int))
    return {
        "+".join(m for i, m in enumerate(modalities) if value >> i & 1): np.flatnonzero(code == value)
        for value in np.unique(code)
    }
