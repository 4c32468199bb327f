"""What earlier steps noted in JSON, as much of it as the page shows.

A page is also made of a run that stopped half-way, and of runs of other versions: what is absent, or has another form
than is shown, is left out here and stays at its default.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Facts = TypeVar("Facts", bound=DataclassInstance)

SCALARS = "scalars"
"""A field of this name holds all numbers, texts and truth values of its object."""


_PLAIN: dict[type, tuple[type, ...]] = {str: (str,), bool: (bool,), int: (int, float), float: (int, float)}


def shown(kind: type[Facts], content: object) -> Facts:
    """Take the fields of a dataclass out of a JSON object, also of the objects in it."""
    given = {}
    if isinstance(content, dict):
        hints = _hints(kind)
        found = {name: _fitting(hint, content[name]) for name, hint in hints.items() if content.get(name) is not None}
        given = {name: value for name, value in found.items() if value is not None}
        if SCALARS in hints:
            given[SCALARS] = {key: value for key, value in content.items() if isinstance(value, (int, float, str))}
    return kind(**given)


@functools.cache
def _hints(kind: type) -> dict[str, object]:
    return typing.get_type_hints(kind)


def _fitting(hint: object, value: object) -> object:
    """A value as its field has it; None where it does not fit."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if type(None) in inner:
        return _fitting(inner[0], value)
    if origin is list:
        return (
            [one for item in value if (one := _fitting(inner[0], item)) is not None]
            if isinstance(value, list)
            else None
        )
    if origin is dict and isinstance(value, dict):
        found = {key: _fitting(inner[1], item) for key, item in value.items()}
        return {key: item for key, item in found.items() if inner[1] is object or item is not None}
    if origin is dict:
        return None
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return shown(hint, value) if isinstance(value, dict) else None
    if isinstance(hint, type) and hint in _PLAIN:
        return value if type(value) in _PLAIN[hint] else None
    return value


@dataclass(frozen=True)
class Rule:
    """A rule of QC and what it removed."""

    rule: str = ""
    removed: int = 0
    threshold: object = None
    quantity: str = ""
    column: str = ""


@dataclass(frozen=True)
class Doublets:
    """How many cells were flagged, and the share that depth and place make likely."""

    flagged: int | None = None
    share: float | None = None


@dataclass(frozen=True)
class Ambient:
    """Share of a sample's counts, and whether it is an estimate or a bound."""

    share: float | None = None
    kind: str = ""


@dataclass(frozen=True)
class Summary:
    """What QC of a modality of a sample made: `qc/<sample>/<modality>.json`."""

    cells_in: int | None = None
    cells_out: int | None = None
    features: int | None = None
    rules: list[Rule] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    doublets: Doublets = Doublets()
    ambient: Ambient = Ambient()
    parameters: dict[str, object] = field(default_factory=dict)

    @property
    def removed(self) -> list[tuple[str, int]]:
        """Rules that removed anything."""
        return [(rule.rule, rule.removed) for rule in self.rules if rule.removed]


@dataclass(frozen=True)
class Knee:
    """Barcodes by rank."""

    rank: list[float] = field(default_factory=list)
    n_fragments: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Fragments(Summary):
    """What QC of a sample's fragments made: `qc/<sample>/fragments.json`."""

    knee: Knee | None = None
    tss_profile: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Overlap:
    """Barcodes that two files of a sample share."""

    left: str = ""
    right: str = ""
    n_left: int | None = None
    n_right: int | None = None
    shared: int | None = None
    fraction: float = 0.0
    transformation: str | None = None
    transformed_fraction: float | None = None


@dataclass(frozen=True)
class Check:
    """What PREFLIGHT found in a sample: a warning is a text, or what, why and remedy."""

    warnings: list[object] = field(default_factory=list)
    overlap: list[Overlap] = field(default_factory=list)


@dataclass(frozen=True)
class Direction:
    """Calibration of one modality's values by another's: `model/calibration.json`."""

    calibrated: bool | None = None
    n_cells: int = 0
    coverage_before: list[list[float]] = field(default_factory=list)
    coverage_after: list[list[float]] = field(default_factory=list)
    reliability_before: list[list[float]] = field(default_factory=list)
    reliability_after: list[list[float]] = field(default_factory=list)
    slope_after: float | None = None
    risk_coverage: list[list[float]] = field(default_factory=list)
    risk_coverage_mean: list[list[float]] = field(default_factory=list)
    scalars: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """What held-out pairs said of the error bars."""

    calibrated: bool = False
    n_pairs: int | None = None
    batches: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    directions: dict[str, Direction] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """How hidden labels were foretold."""

    brier: float = float("nan")
    brier_prior: float = float("nan")
    accuracy: float = float("nan")
    ece: float = float("nan")
    batches: dict[str, Scores] = field(default_factory=dict)


@dataclass(frozen=True)
class Labels:
    """What EMBED noted of transferred labels."""

    column: str = ""
    n_transferred: int = 0
    n_unknown: dict[str, int] = field(default_factory=dict)
    checked: dict[str, Scores] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Losses:
    """Features of the smallest sample, of all samples, and of the model."""

    given: int | None = None
    shared: int | None = None
    kept: int | None = None


@dataclass(frozen=True)
class Modality:
    """What MOSAIC noted of a modality's features."""

    losses: Losses | None = None


@dataclass(frozen=True)
class Sample:
    """What MOSAIC noted of a sample: cells by what was measured, and those not in all of its modalities."""

    sample: str = ""
    cells: dict[str, int] = field(default_factory=dict)
    partial: object = None
    partial_failed: int | None = None
    partial_dropped: int | None = None
    partial_not_held: int | None = None


@dataclass(frozen=True)
class Mosaic:
    """`uns["multivi_nf"]` of the mosaic."""

    samples: list[Sample] = field(default_factory=list)
    features: dict[str, Modality] = field(default_factory=dict)
    metadata: list[str] = field(default_factory=list)
    labels: Labels | None = None


@dataclass(frozen=True)
class Model:
    """`model/config.json`."""

    model: dict[str, object] = field(default_factory=dict)
    training: dict[str, object] = field(default_factory=dict)
    stopped: str = ""


@dataclass(frozen=True)
class Part:
    """What a part of `--regulation` made, or why it could not: `regulation/<part>.json`."""

    part: str = ""
    done: bool = False
    what: str = ""
    why: str = ""
    remedy: str = ""
    told: str = ""
    files: list[str] = field(default_factory=list)
    rows: str | None = None
    table: list[dict[str, object]] = field(default_factory=list)
