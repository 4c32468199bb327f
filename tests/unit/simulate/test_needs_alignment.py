"""Without alignment and adversary the default mosaic's modalities stay apart: it is not mixed from the start."""

from __future__ import annotations

import numpy as np

from multivi_nf.evaluation.metrics import lisi_ratio
from multivi_nf.latent.embed import embed
from multivi_nf.simulate import PRESETS, simulated_mosaic
from multivi_nf.training import MultiVI, train


def test_training_without_alignment_and_adversary_leaves_modalities_apart():
    mosaic, _ = simulated_mosaic(PRESETS["default"].resized(cells=1200, peaks=4000))
    off = {"alignment": "none", "adversary": "none", "cross_reconstruction": 0.0}
    model = MultiVI.from_mosaic(mosaic, **off, batch_integration=0.0, modality_integration=0.0)
    train(model, mosaic, max_epochs=12, quiet=True)
    joint = embed(model, mosaic).mean
    found = lisi_ratio(joint, mosaic.obs["modality"].to_numpy())
    assert found["ratio"] < 0.5
    assert np.isfinite(joint).all()
