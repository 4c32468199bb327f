"""Training: minibatches from sparse data, the loop, checkpoints, and mapping onto a reference."""

from __future__ import annotations

from multivi_nf.training.data import MosaicData
from multivi_nf.training.fit import train
from multivi_nf.training.history import History
from multivi_nf.training.multivi import MultiVI
from multivi_nf.training.reference import map_onto

__all__ = ["History", "MosaicData", "MultiVI", "map_onto", "train"]
