"""MultiVI's generative model and objective. Pure torch: no files, no AnnData."""

from __future__ import annotations

from multivi_nf.model.config import ModelConfig
from multivi_nf.model.fusion import Gaussian, Joint
from multivi_nf.model.loss import LossTerms
from multivi_nf.model.multivi import MultiVI

__all__ = ["Gaussian", "Joint", "LossTerms", "ModelConfig", "MultiVI"]
