"""Training: the loop, its settings, checkpoints, the model with names, and mapping onto a reference."""

from __future__ import annotations

from multivi_nf.training.fit import train
from multivi_nf.training.history import History
from multivi_nf.training.mapping import map_onto
from multivi_nf.training.model_folder import MultiVI

__all__ = ["History", "MultiVI", "map_onto", "train"]
