from __future__ import annotations

import pytest
import torch

from multivi_nf.model.adversary import own_loss

OPTIONS = [
    {},
    {"rna_likelihood": "zinb", "fusion": "cell-weighted", "library": "encoded"},
    {"rna_likelihood": "poisson", "fusion": "mopoe", "adversary": "both"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_bfloat16_layers_leave_posteriors_and_likelihoods_in_float32(model, mixed, generator, options):
    made = model(dropout=0.0, **options)
    exact = made.eval().loss(mixed, generator=generator(1))
    made.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoded = made.encode(mixed)
        assert all(q.mean.dtype == q.variance.dtype == torch.float32 for q in encoded.values())
        losses = made.loss(mixed, generator=generator(1))
        adversary = own_loss(made.adversaries, losses.contests)
    losses.total.backward()
    adversary.backward()
    assert losses.total.dtype == torch.float32
    assert all(bool(p.grad.isfinite().all()) for p in made.parameters() if p.grad is not None)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        near = made.eval().loss(mixed, generator=generator(1))
    assert float(near.total) == pytest.approx(float(exact.total.detach()), rel=0.02)
