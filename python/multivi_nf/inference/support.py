"""Is an imputed cell like any cell that taught the model this direction? Judged in the source modality's own view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from multivi_nf.training.data import MosaicData


@dataclass
class Support:
    """Stand-in until the reference is fitted."""

    level: float = 0.025

    @classmethod
    def load(cls, path: Path) -> Support | None:
        return None

    def save(self, path: Path) -> None:
        return None

    def knows(self, sources: str, target: str) -> bool:
        return False

    def score(self, data: MosaicData, index: np.ndarray, sources: str, target: str) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError
