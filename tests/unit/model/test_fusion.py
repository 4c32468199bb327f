from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from multivi_nf.model.formulas import FORMULAS
from multivi_nf.model.fusion import Posteriors, fuse, joint, kl_standard, subsets, wider_than_single

PRESENT = [[True, True, True], [True, True, False], [False, True, False], [True, False, True]]


def posteriors(seed: int = 0) -> Posteriors:
    torch.manual_seed(seed)
    mean = torch.randn(4, 3, 2, dtype=torch.float64)
    variance = 0.2 + torch.rand(4, 3, 2, dtype=torch.float64)
    present = torch.tensor(PRESENT)
    mean, variance = mean * present.unsqueeze(2), torch.where(present.unsqueeze(2), variance, 1.0)
    return Posteriors(mean, variance, torch.zeros(4, 3, dtype=torch.float64), present)


def test_equal_weights_give_the_variance_of_an_average():
    q = posteriors()
    found = joint(q, "mean")
    for cell, there in enumerate(PRESENT):
        chosen = [m for m in range(3) if there[m]]
        k = len(chosen)
        assert torch.allclose(found.mean[cell], q.mean[cell, chosen].mean(0))
        assert torch.allclose(found.variance[cell], q.variance[cell, chosen].sum(0) / k**2)


def test_the_joint_variance_is_that_of_sampled_weighted_means():
    q = posteriors()
    q.logit[:] = torch.tensor([0.3, -1.0, 0.8])
    found = joint(q, "weighted")
    torch.manual_seed(1)
    draws = q.mean + q.variance.sqrt() * torch.randn(50_000, 4, 3, 2, dtype=torch.float64)
    weight = torch.softmax(q.logit.masked_fill(~q.present, -math.inf), 1).unsqueeze(2)
    z = (weight * draws).sum(2)
    assert torch.allclose(found.mean, z.mean(0), atol=0.01)
    assert torch.allclose(found.variance, z.var(0), rtol=0.02)


@pytest.mark.parametrize("rule", ["mean", "weighted", "cell-weighted"])
def test_one_modality_is_its_own_posterior(rule):
    q = posteriors()
    found = joint(q, rule)
    assert torch.equal(found.mean[2], q.mean[2, 1])
    assert torch.equal(found.variance[2], q.variance[2, 1])


def test_a_product_of_experts_is_the_normalised_product_of_densities():
    q = posteriors()
    found = joint(q, "poe")
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    for cell, there in enumerate(PRESENT):
        for k in range(2):
            log_p = Normal(0.0, 1.0).log_prob(grid)
            for m in range(3):
                if there[m]:
                    log_p = log_p + Normal(q.mean[cell, m, k], q.variance[cell, m, k].sqrt()).log_prob(grid)
            p = torch.softmax(log_p, 0)
            mean = (p * grid).sum()
            assert torch.isclose(found.mean[cell, k], mean, atol=1e-8)
            assert torch.isclose(found.variance[cell, k], (p * (grid - mean).square()).sum(), rtol=1e-6)


def test_a_product_narrows_one_modality_too():
    q = posteriors()
    assert bool((joint(q, "poe").variance < q.variance.masked_fill(~q.present.unsqueeze(2), math.inf).amin(1)).all())


def test_mopoe_mean_and_variance_are_those_of_the_mixture():
    q = posteriors()
    found = joint(q, "mopoe")
    for cell, there in enumerate(PRESENT):
        inside = [s for s in subsets(3) if all(there[m] or not s[m] for m in range(3))]
        assert len(inside) == 2 ** sum(there) - 1
        assert int(found.active[cell].sum()) == len(inside)
        experts = [fuse(q, torch.tensor(s).expand(4, 3), "poe") for s in inside]
        means = torch.stack([e.mean[cell] for e in experts])
        second = torch.stack([e.variance[cell] + e.mean[cell].square() for e in experts]).mean(0)
        assert torch.allclose(found.mean[cell], means.mean(0))
        assert torch.allclose(found.variance[cell], second - means.mean(0).square())
        kls = torch.stack([kl_standard(e.mean, e.variance)[cell] for e in experts])
        assert torch.isclose(found.kl()[cell], kls.mean())


def test_mopoe_draws_every_subset_alike_and_moments_agree():
    q = posteriors()
    found = joint(q, "mopoe")
    torch.manual_seed(2)
    many = 20_000
    wide = Posteriors(*(t.repeat(many, *[1] * (t.dim() - 1)) for t in (q.mean, q.variance, q.logit, q.present)))
    z = joint(wide, "mopoe").sample(torch.randn(4 * many, 2, dtype=torch.float64)).view(many, 4, 2)
    assert torch.allclose(z.mean(0), found.mean, atol=0.03)
    assert torch.allclose(z.var(0), found.variance, rtol=0.06)


def test_the_same_noise_gives_the_same_draw():
    q = posteriors()
    noise = torch.randn(4, 2, dtype=torch.float64)
    for rule in ("mean", "poe", "mopoe"):
        assert torch.equal(joint(q, rule).sample(noise), joint(q, rule).sample(noise))


def test_kl_is_torchs():
    mean, variance = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64) + 0.1
    expected = kl_divergence(Normal(mean, variance.sqrt()), Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(kl_standard(mean, variance), expected)


def test_wider_joint_posteriors_are_counted_among_cells_with_several_modalities():
    q = posteriors()
    q.variance[0] = torch.tensor([[0.01] * 2, [4.0] * 2, [4.0] * 2])
    q.variance[1] = torch.tensor([[0.3] * 2, [0.3] * 2, [1.0] * 2])
    q.variance[3] = torch.tensor([[0.3] * 2, [1.0] * 2, [0.3] * 2])
    assert wider_than_single(q, joint(q, "mean").variance) == (1, 3)
    assert wider_than_single(q, joint(q, "poe").variance) == (0, 3)


def test_scvis_variance_widens_with_a_second_modality():
    """research: v = .01 and .04 come out as .0354; the variance of the average is .0125."""
    q = posteriors()
    q.variance[1, :2] = torch.tensor([[0.01] * 2, [0.04] * 2])
    assert float(joint(q, "mean", FORMULAS["scvi"]).variance[1, 0]) == pytest.approx(0.03536, rel=1e-3)
    assert float(joint(q, "mean").variance[1, 0]) == pytest.approx(0.0125)


@pytest.mark.parametrize("rule", ["mean", "weighted", "cell-weighted", "poe"])
def test_a_cell_with_nothing_measured_keeps_the_prior(rule):
    q = posteriors()
    q.present[0], q.mean[0], q.variance[0] = False, 0.0, 1.0
    found = joint(q, rule)
    assert torch.equal(found.mean[0], torch.zeros(2, dtype=torch.float64))
    assert torch.equal(found.variance[0], torch.ones(2, dtype=torch.float64))
