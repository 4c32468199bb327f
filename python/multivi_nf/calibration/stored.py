"""What held-out pairs said about the error bars, stored with the model and applied wherever they are used."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from multivi_nf.calibration.support import Support
from multivi_nf.errors import InputError
from multivi_nf.io.files import written_whole

if TYPE_CHECKING:
    from multivi_nf.data.mosaic_data import MosaicData
    from multivi_nf.training import MultiVI

MINIMUM_PAIRS = 100
KNOTS = (*(i / 20 for i in range(20)), 0.975, 0.99, 0.995)
ARRAYS = ("support", "rates")
"""Fields that are not in calibration.json."""


@dataclass
class Levels:
    """At which level of the predicted distribution an interval of a nominal level has to be taken.

    Distributional conformal prediction (Chernozhukov, Wuthrich & Zhu, PNAS 2021): the p-quantile of |2 u - 1| over
    held-out counts, u their randomised transform (PIT), is the level whose central intervals held a share p of them. It
    mends the form of the distribution, which neither temperature nor dispersion can: proteins are more often close to
    their mean, and more often far from it, than a negative binomial is.

    Attributes
    ----------
    nominal, used
        Ascending knots, from 0 to 1; linear in between.
    """

    nominal: np.ndarray
    used: np.ndarray

    @classmethod
    def fit(cls, transform: np.ndarray) -> Levels:
        """Learn from randomised transforms of held-out counts, by quantiles at p (n + 1)."""
        away = np.abs(2 * transform - 1)
        used = np.quantile(away[np.isfinite(away)], KNOTS, method="weibull")
        used[0] = 0.0
        return cls(np.array([*KNOTS, 1.0]), np.array([*used, 1.0]))

    @classmethod
    def read(cls, stored: dict[str, list[float]]) -> Levels:
        """What `stored` gave."""
        return cls(**{name: np.asarray(knots) for name, knots in stored.items()})

    def stored(self) -> dict[str, list[float]]:
        """For calibration.json."""
        return {"nominal": self.nominal.tolist(), "used": self.used.tolist()}

    def at(self, interval: float) -> float:
        """Level to use for an interval."""
        return float(np.interp(interval, self.nominal, self.used))

    def applied(self, transform: np.ndarray) -> np.ndarray:
        """Randomised transform under the mended distribution."""
        centred = 2 * transform - 1
        return 0.5 + 0.5 * np.sign(centred) * np.interp(np.abs(centred), self.used, self.nominal)


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
    mean_error
        Rows of cells with the error of the log mean that neighbours share: (rows, log means, standard deviations) for
        each calibrated direction.
    shrinkage
        atac: (rows, share of the peak's own rate in the imputed value) for each calibrated direction.
    """

    temperature: np.ndarray
    outside: np.ndarray
    support_p: np.ndarray
    calibrated: bool
    mean_error: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    shrinkage: list[tuple[np.ndarray, float]] = field(default_factory=list)
    n_uncalibrated: int = 0


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
        "atac->rna", "rna+protein->atac", ...: `temperature`, `dispersion_factor`, `levels` of the counts' intervals,
        `conformal` widths if asked for, scores before and after (what the report draws), or `calibrated` False with the
        number of cells where they were too few.
    atac_depth
        d~ of the training mosaic.
    notes
        Sentences for the user.
    support
        References of the out-of-support score by direction.
    rates
        (n_peaks,) share of measured cells in which each peak is seen open at d~, towards which imputed accessibility is
        drawn.
    """

    calibrated: bool = False
    n_pairs: int = 0
    batches: list[str] = field(default_factory=list)
    directions: dict[str, dict[str, Any]] = field(default_factory=dict)
    atac_depth: float | None = None
    notes: list[str] = field(default_factory=list)
    support: Support | None = None
    rates: np.ndarray | None = None

    @classmethod
    def none(cls) -> Calibration:
        """No calibration: the posterior as it is."""
        return cls(notes=["the model was not calibrated"])

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        """Read a model folder's calibration; without one, `none`."""
        path = Path(folder) / "calibration.json"
        if not path.is_file():
            return cls.none()
        try:
            values = json.loads(path.read_text())
            found = cls(**{k: values[k] for k in values if k in cls.__dataclass_fields__ and k not in ARRAYS})
        except (ValueError, TypeError) as problem:
            raise InputError(
                f"{path} cannot be read: {problem}",
                "error bars would silently go without their calibration",
                "run `multivi-nf calibrate` again",
            ) from problem
        found.support = Support.load(Path(folder) / "support.safetensors")
        rates = Path(folder) / "rates.safetensors"
        if rates.is_file():
            from safetensors.numpy import load_file

            found.rates = load_file(rates)["atac"]
        elif any(entry.get("shrinkage") for entry in found.directions.values()):
            raise InputError(
                f"{rates} is missing beside {path.name}",
                "imputed accessibility cannot be drawn towards the rates of its peaks",
                "copy the whole folder, or run `multivi-nf calibrate` again",
            )
        return found

    def save(self, folder: Path) -> None:
        """Write calibration.json and, where there are pairs, both safetensors files into a folder."""
        folder = Path(folder)
        if self.rates is not None:
            from safetensors.numpy import save

            with written_whole(folder / "rates.safetensors") as temporary:
                # not save_file, which makes files that only their owner reads
                temporary.write_bytes(save({"atac": self.rates.astype(np.float32)}))
        if self.support is not None:
            self.support.save(folder / "support.safetensors")
        content = {k: getattr(self, k) for k in self.__dataclass_fields__ if k not in ARRAYS}
        with written_whole(folder / "calibration.json") as temporary:
            temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")

    def direction(self, sources: str, target: str) -> dict[str, Any] | None:
        """Entry of a direction that was calibrated, else None."""
        entry = self.directions.get(f"{sources}->{target}")
        return entry if entry and entry.get("calibrated") else None

    def levels(self, sources: str, target: str) -> Levels | None:
        """Levels of a direction's intervals of counts."""
        entry = self.direction(sources, target)
        return Levels.read(entry["levels"]) if entry and "levels" in entry else None

    def conformal(self, sources: str, target: str) -> dict[str, Any] | None:
        """Split-conformal widths of a direction, where they were asked for."""
        entry = self.direction(sources, target)
        return entry.get("conformal") if entry else None

    def dispersion_factor(self, sources: str, target: str) -> float:
        """Factor on the over-dispersion 1 / theta of predicted counts."""
        entry = self.direction(sources, target)
        return float(entry.get("dispersion_factor", 1.0)) if entry else 1.0

    def effect_noise(self, data: MosaicData, cells: np.ndarray, target: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Error of the log mean of imputed groups: (log means, standard deviations) for each direction of `cells`."""
        entries = [self.direction(sources, target) for sources in patterns(data, cells)]
        return [
            (np.asarray(entry["effect_sd"]["log_mean"]), np.asarray(entry["effect_sd"]["sd"]))
            for entry in entries
            if entry and "effect_sd" in entry
        ]

    def assess(self, model: MultiVI, data: MosaicData, index: np.ndarray, target: str) -> Assessment:
        """Temperature, support and calibration of the cells at `index` when `target` is asked for."""
        n = len(index)
        found = Assessment(np.ones(n), np.zeros(n, bool), np.full(n, np.nan), self.calibrated)
        for sources, rows in patterns(data, index).items():
            if target in sources.split("+"):
                continue
            entry = self.direction(sources, target)
            if entry is None:
                found.n_uncalibrated += len(rows)
            else:
                found.temperature[rows] = float(entry["temperature"])
                if entry.get("shrinkage"):
                    found.shrinkage.append((rows, float(entry["shrinkage"])))
                if (error := entry.get("mean_sd")) is not None:
                    found.mean_error.append((rows, np.asarray(error["log_mean"]), np.asarray(error["sd"])))
            if self.support is not None and self.support.knows(sources, target):
                p, widening = self.support.score(data, index[rows], sources, target)
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
        for name, entry in sorted(self.directions.items()):
            if entry.get("calibrated"):
                lines.append(
                    f"  {name}: temperature {entry['temperature']:.3g}, "
                    + (
                        f"{entry['shrinkage']:.0%} of each peak's own rate, "
                        if "shrinkage" in entry
                        else f"dispersion factor {entry.get('dispersion_factor', 1.0):.3g}, "
                    )
                    + f"log score {entry['log_score_before']:.5g} -> {entry['log_score_after']:.5g} nats a value"
                )
            else:
                lines.append(f"  {name}: {entry['n_cells']} pairs, too few")
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def patterns(data: MosaicData, index: np.ndarray) -> dict[str, np.ndarray]:
    """Cells by what was measured: "rna", "rna+atac", ... to positions in `index`."""
    modalities = [m for m in ("rna", "atac", "protein") if m in data.has]
    code = sum((data.has[m][index].astype(int) << i for i, m in enumerate(modalities)), np.zeros(len(index), int))
    return {
        "+".join(m for i, m in enumerate(modalities) if value >> i & 1): np.flatnonzero(code == value)
        for value in np.unique(code)
    }
