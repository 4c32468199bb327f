"""MultiVI's generative model and objective. Pure torch: no files, no AnnData."""

from __future__ import annotations

from multivi_nf.model.config import ModelConfig
from multivi_nf.model.fusion import Gaussian, Joint
from multivi_nf.model.minibatch import MODALITIES, UNKNOWN_BATCH, Minibatch, ModalityRows, SparseRows
from multivi_nf.model.multivi import LossTerms, MultiVI

__all__ = [
    "MODALITIES",
    "UNKNOWN_BATCH",
    "Gaussian",
    "Joint",
    "LossTerms",
    "Minibatch",
    "ModalityRows",
    "ModelConfig",
    "MultiVI",
    "SparseRows",
]
