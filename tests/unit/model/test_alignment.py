from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from multivi_nf.model.alignment import BANDWIDTHS, alignment, mmd, symmetric_kl
from multivi_nf.model.formulas import FORMULAS
from multivi_nf.model.fusion import Posteriors


def posteriors(present: list[list[bool]], seed: int = 0) -> Posteriors:
    torch.manual_seed(seed)
    shape = (len(present), len(present[0]), 3)
    mean = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    variance = (torch.rand(shape, dtype=torch.float64) + 0.1).requires_grad_()
    return Posteriors(mean, variance, torch.zeros(shape[:2]), torch.tensor(present))


def test_symmetric_kl_is_both_divergences_summed_over_dimensions():
    q = posteriors([[True, True]] * 5)
    a = Normal(q.mean[:, 0], q.variance[:, 0].sqrt())
    b = Normal(q.mean[:, 1], q.variance[:, 1].sqrt())
    expected = (kl_divergence(a, b) + kl_divergence(b, a)).sum(1)
    assert torch.allclose(symmetric_kl(q.mean[:, 0], q.variance[:, 0], q.mean[:, 1], q.variance[:, 1]), expected)


def test_the_worked_example_and_scvis_double_root():
    """research: N(0, .01) against N(.1, .04) is 1.75; with the root taken twice 0.325."""
    q = posteriors([[True, True]])
    q = Posteriors(torch.tensor([[[0.0], [0.1]]]), torch.tensor([[[0.01], [0.04]]]), q.logit, q.present)
    assert float(alignment(q, q.mean, "symmetric-kl")) == pytest.approx(1.75, rel=1e-4)
    assert float(alignment(q, q.mean, "symmetric-kl", FORMULAS["scvi"])) == pytest.approx(0.325, rel=1e-4)


def test_only_pairs_that_are_present_count():
    q = posteriors([[True, True, False], [True, False, False], [True, True, True]])
    pairs = [(0, 0, 1), (2, 0, 1), (2, 0, 2), (2, 1, 2)]
    expected = sum(symmetric_kl(q.mean[c, a], q.variance[c, a], q.mean[c, b], q.variance[c, b]) for c, a, b in pairs)
    assert torch.isclose(alignment(q, q.mean, "symmetric-kl"), expected)
    assert float(alignment(q, q.mean, "none")) == 0


def test_mmd_by_the_definition_with_all_bandwidths():
    torch.manual_seed(1)
    a, b = torch.randn(7, 3, dtype=torch.float64), 0.5 + torch.randn(5, 3, dtype=torch.float64)
    both = torch.cat([a, b])
    scale = torch.cdist(both, both).square().median()

    def mean(x, y):
        kernels = [torch.exp(-(torch.dist(u, v) ** 2) / (w * scale)) for u in x for v in y for w in BANDWIDTHS]
        return sum(kernels) / (len(x) * len(y))

    assert torch.isclose(mmd(a, b), mean(a, a) + mean(b, b) - 2 * mean(a, b), rtol=1e-6)


def test_mmd_is_nothing_between_equals_and_grows_with_distance():
    torch.manual_seed(2)
    a = torch.randn(30, 3, dtype=torch.float64)
    values = [float(mmd(a, a + shift)) for shift in (0.0, 0.3, 1.0, 3.0)]
    assert values[0] == pytest.approx(0, abs=1e-12)
    assert values == sorted(values)


@pytest.mark.parametrize("rule", ["symmetric-kl", "mmd"])
def test_gradients_agree_with_finite_differences(rule):
    q = posteriors([[True, True], [True, True], [True, False], [True, True]])
    noise = torch.randn(q.mean.shape, dtype=torch.float64)

    def value(mean, variance):
        p = Posteriors(mean, variance, q.logit, q.present)
        samples = mean + variance.sqrt() * noise
        if rule == "mmd":
            samples = samples.round(decimals=12)  # keeps the median's pair
        return alignment(p, samples, rule)

    if rule == "symmetric-kl":
        assert torch.autograd.gradcheck(value, (q.mean, q.variance))
        return
    # the bandwidth is held fixed by design: hold it in the oracle as well
    a, b = q.mean[:2, 0].detach().requires_grad_(), q.mean[:2, 1].detach().requires_grad_()
    both = torch.cat([a, b]).detach()
    scale = torch.cdist(both, both).square().median()

    def by_hand(x, y):
        def k(u, v):
            return sum(torch.exp(-torch.cdist(u, v).square() / (w * scale)) for w in BANDWIDTHS).mean()

        return k(x, x) + k(y, y) - 2 * k(x, y)

    for ours, theirs in zip(torch.autograd.grad(mmd(a, b), [a, b]), torch.autograd.grad(by_hand(a, b), [a, b])):
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_one_paired_cell_is_finite_with_every_rule():
    for rule in ("symmetric-kl", "mmd", "none"):
        q = posteriors([[True, True], [True, False]])
        total = alignment(q, q.mean, rule) + 0 * q.mean.sum()
        total.backward()
        assert bool(q.mean.grad.isfinite().all())


def test_scvis_mmd_is_a_length_charged_to_every_cell():
    q = posteriors([[True, True], [True, False], [True, True]])
    lengths = sum((q.mean[c, 0] - q.mean[c, 1]).square().sum().sqrt() for c in (0, 2))
    assert torch.isclose(alignment(q, q.mean, "mmd", FORMULAS["scvi"]), 3 * lengths)


@pytest.mark.parametrize("rule", ["symmetric-kl", "mmd"])
def test_no_gradient_reaches_the_leader_and_the_value_is_the_same(rule):
    torch.manual_seed(0)
    q = posteriors([[True, True, True], [True, True, False], [True, False, True], [True, True, True]])
    noise = torch.randn(q.mean.shape, dtype=torch.float64)

    def pulled(leader: int | None) -> tuple[float, torch.Tensor]:
        q.mean.grad = None
        total = alignment(q, q.mean + q.variance.sqrt() * noise, rule, leader=leader)
        total.backward()
        return float(total.detach()), q.mean.grad.clone()

    (plain, both), (same, led) = pulled(None), pulled(0)
    assert same == pytest.approx(plain)
    assert bool((led[:, 0] == 0).all()) and float(both[:, 0].abs().sum()) > 0
    assert torch.allclose(led[:, 1:], both[:, 1:]), "the others are drawn as before"
