from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from multivi_nf.data.minibatch import SparseRows
from multivi_nf.model import likelihoods
from multivi_nf.model.sparse import tiles_of

LIMIT = 1e-6


def sparse(x: torch.Tensor) -> SparseRows:
    row, column = x.nonzero(as_tuple=True)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), (x != 0).sum(1).cumsum(0)])
    return SparseRows(indptr, column.int(), x[row, column], x.shape[1])


def leaf(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (scale * torch.randn(*shape, dtype=torch.float64)).requires_grad_()


def same_gradients(ours: torch.Tensor, theirs: torch.Tensor, leaves: list[torch.Tensor]) -> None:
    """Both scalars agree, and so do their gradients with respect to every leaf, to 1e-6 relative."""
    assert torch.isclose(ours, theirs, rtol=LIMIT)
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves)):
        assert float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) <= LIMIT


# ---------------------------------------------------------------------- accessibility


@pytest.mark.parametrize("width", [1, 7, 40, 100])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_tiled_bernoulli_and_its_five_gradients_are_autograds(width, scale):
    torch.manual_seed(width)
    n, p, k = 9, 40, 5
    leaves = [leaf(n, k, scale=scale), leaf(p, k), leaf(p), leaf(n, scale=scale), leaf(p, scale=scale)]
    h, weight, bias, depth, region = leaves
    x = (torch.rand(n, p, dtype=torch.float64) < 0.3).double()
    row_weight = torch.rand(n, dtype=torch.float64)
    ours, per_row = likelihoods.bernoulli(*leaves, tiles_of(sparse(x), width), row_weight)
    log_t = (
        functional.logsigmoid(h @ weight.T + bias)
        + functional.logsigmoid(depth).unsqueeze(1)
        + functional.logsigmoid(region)
    )
    each = -(x * log_t + (1 - x) * torch.log1p(-log_t.exp()))
    same_gradients(2.5 * ours, 2.5 * (row_weight * each.sum(1)).sum(), leaves)
    assert torch.allclose(per_row, each.sum(1))
    with torch.no_grad():
        assert torch.isclose(likelihoods.bernoulli(*leaves, tiles_of(sparse(x), width), row_weight)[0], ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [-200.0, -12.0, 12.0, 14.0])
def test_bernoulli_is_exact_where_the_probability_nears_one_or_zero(dtype, logit):
    """-log(1 - y d r) at y, d, r = 1 - e: 1 - (1-e)^3 would lose every digit; the oracle expands it by hand."""
    one = torch.tensor([[1.0]], dtype=dtype)
    values = [torch.full((1, 1), logit, dtype=dtype), one, torch.zeros(1, dtype=dtype)]
    sizes = [torch.full((1,), logit, dtype=dtype), torch.full((1,), logit, dtype=dtype)]
    leaves = [v.clone().requires_grad_() for v in (*values, *sizes)]
    for x in (0.0, 1.0):
        total, _ = likelihoods.bernoulli(*leaves, tiles_of(sparse(one * x)), torch.ones(1, dtype=dtype))
        gradients = torch.autograd.grad(total, leaves)
        assert all(bool(g.isfinite().all()) for g in (total, *gradients))
        if logit > 0:
            e = 1 / (1 + math.exp(logit))
            expected = -math.log(3 * e - 3 * e * e + e**3) if x == 0 else -3 * math.log1p(-e)
            # of an open peak log(1 + w) and -log w nearly cancel: exact to the rounding of either
            near = 2e-6 if dtype == torch.float32 else 1e-12
            assert float(total.detach()) == pytest.approx(expected, rel=1e-5, abs=near if x else 0)
    assert float(total.detach()) > 0


def test_bernoulli_of_a_cell_without_an_open_peak_and_of_no_peak_at_all():
    torch.manual_seed(0)
    leaves = [leaf(3, 2), leaf(5, 2), leaf(5), leaf(3), leaf(5)]
    total, per_row = likelihoods.bernoulli(
        *leaves, tiles_of(sparse(torch.zeros(3, 5, dtype=torch.float64)), 2), torch.ones(3, dtype=torch.float64)
    )
    assert bool((per_row > 0).all())
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(total, leaves))


def fragments(n: int, p: int) -> torch.Tensor:
    x = torch.poisson(torch.full((n, p), 0.6, dtype=torch.float64))
    x[2] = 0
    return x


@pytest.mark.parametrize("width", [1, 7, 40, 100])
@pytest.mark.parametrize("scale", [0.3, 30.0])
def test_tiled_poisson_is_scipys_and_its_four_gradients_are_autograds(width, scale):
    torch.manual_seed(width)
    n, p, k = 9, 40, 5
    leaves = [leaf(n, k, scale=scale), leaf(p, k), leaf(p), leaf(n)]
    h, weight, bias, log_library = leaves
    x, row_weight = fragments(n, p), torch.rand(n, dtype=torch.float64)
    ours, per_row = likelihoods.poisson_peaks(*leaves, tiles_of(sparse(x), width), row_weight)
    log_mu = torch.log_softmax(h @ weight.T + bias, 1) + log_library.unsqueeze(1)
    each = log_mu.exp() - x * log_mu + torch.lgamma(x + 1)
    same_gradients(2.5 * ours, 2.5 * (row_weight * each.sum(1)).sum(), leaves)
    expected = -stats.poisson.logpmf(x.numpy(), log_mu.exp().detach().numpy()).sum(1)
    np.testing.assert_allclose(per_row.numpy(), expected, rtol=1e-9)
    with torch.no_grad():
        tiles = tiles_of(sparse(x), width)
        assert torch.isclose(likelihoods.poisson_peaks(*leaves, tiles, row_weight)[0], ours)


def test_poisson_of_a_measured_cell_without_a_fragment_is_one_and_says_nothing():
    torch.manual_seed(0)
    leaves = [leaf(9, 2), leaf(5, 2), leaf(5)]
    x = fragments(9, 5)
    library = x.sum(1).log().requires_grad_()
    total, per_row = likelihoods.poisson_peaks(*leaves, library, tiles_of(sparse(x), 2), torch.ones(9).double())
    gradients = torch.autograd.grad(total, [*leaves, library])
    assert per_row[2] == 0 and bool(per_row.isfinite().all()) and all(bool(g.isfinite().all()) for g in gradients)
    assert bool((gradients[0][2] == 0).all()) and bool((gradients[0][0] != 0).any())
    # at its observed library a cell's likelihood is that of the softmax alone
    assert float(gradients[3].abs().max()) < 1e-12


# ---------------------------------------------------------------------- RNA


def rna_case(per_batch: bool):
    torch.manual_seed(3)
    n, g = 6, 11
    logits, log_library = leaf(n, g), leaf(n)
    log_theta = leaf(n, g) if per_batch else leaf(g)
    x = torch.poisson(torch.full((n, g), 1.3)).double()
    x[2] = 0
    return logits, log_library, log_theta, x, torch.rand(n, dtype=torch.float64)


@pytest.mark.parametrize("per_batch", [False, True])
def test_nb_is_scipys_and_its_gradients_are_autograds(per_batch):
    logits, log_library, log_theta, x, weight = rna_case(per_batch)
    ours, per_row = likelihoods.negative_binomial(logits, log_library, log_theta, sparse(x), weight)
    mu = torch.softmax(logits, 1) * log_library.exp().unsqueeze(1)
    theta = log_theta.exp()
    each = -likelihoods.log_nb(x, mu.log(), log_theta.expand_as(mu))
    same_gradients(3 * ours, 3 * (weight * each.sum(1)).sum(), [logits, log_library, log_theta])
    r, m = theta.expand_as(mu).detach().numpy(), mu.detach().numpy()
    expected = -stats.nbinom.logpmf(x.numpy(), r, r / (r + m)).sum(1)
    np.testing.assert_allclose(per_row.numpy(), expected, rtol=1e-9)


def test_poisson_is_scipys_with_autograds_gradient():
    logits, log_library, _, x, weight = rna_case(False)
    ours, per_row = likelihoods.poisson(logits, log_library, sparse(x), weight)
    mu = torch.softmax(logits, 1) * log_library.exp().unsqueeze(1)
    np.testing.assert_allclose(per_row.numpy(), -stats.poisson.logpmf(x.numpy(), mu.detach().numpy()).sum(1), rtol=1e-9)
    each = functional.poisson_nll_loss(mu, x, log_input=False, reduction="none", eps=0) + torch.lgamma(x + 1)
    same_gradients(ours, (weight * each.sum(1)).sum(), [logits, log_library])


@pytest.mark.parametrize("per_batch", [False, True])
def test_zero_inflated_nb_is_the_mixture_written_out(per_batch):
    logits, log_library, log_theta, x, weight = rna_case(per_batch)
    dropout = leaf(*x.shape)
    ours, per_row = likelihoods.zero_inflated(logits, log_library, log_theta, dropout, sparse(x), weight)
    mu = torch.softmax(logits, 1) * log_library.exp().unsqueeze(1)
    nb = likelihoods.log_nb(x, mu.log(), log_theta.expand_as(mu)).exp()
    pi = dropout.sigmoid()
    each = -torch.log(pi * (x == 0) + (1 - pi) * nb)
    same_gradients(ours, (weight * each.sum(1)).sum(), [logits, log_library, log_theta, dropout])
    assert torch.allclose(per_row, each.sum(1))


def test_a_cell_of_library_zero_has_likelihood_one_and_no_gradient():
    logits, dropout = leaf(1, 4), leaf(1, 4)
    log_theta, library = leaf(4), torch.tensor([-math.inf], dtype=torch.float64)
    x, weight = sparse(torch.zeros(1, 4, dtype=torch.float64)), torch.ones(1, dtype=torch.float64)
    for total in (
        likelihoods.negative_binomial(logits, library, log_theta, x, weight)[0],
        likelihoods.poisson(logits, library, x, weight)[0],
        likelihoods.zero_inflated(logits, library, log_theta, dropout, x, weight)[0],
    ):
        assert float(total.detach()) == pytest.approx(0, abs=1e-12)
        gradients = torch.autograd.grad(total, [logits, log_theta, dropout], allow_unused=True)
        assert all(g is None or bool(g.isfinite().all()) for g in gradients)


# ---------------------------------------------------------------------- protein


def test_protein_mixture_is_two_scipy_nbs_weighed():
    torch.manual_seed(5)
    n, p = 5, 4
    background, fore, mixing, log_theta = leaf(n, p), leaf(n, p), leaf(n, p), leaf(p)
    x = torch.poisson(torch.full((n, p), 4.0)).double()
    panel = torch.rand(n, p) < 0.7
    weight = torch.rand(n, dtype=torch.float64)
    total, per_row = likelihoods.protein_mixture(x, background, fore, mixing, log_theta, panel, weight)
    beta, pi, r = background.exp(), mixing.sigmoid().detach().numpy(), log_theta.exp().expand(n, p).detach().numpy()
    alpha = 1 + functional.relu(fore)

    def pmf(mean: torch.Tensor) -> np.ndarray:
        m = mean.detach().numpy()
        return stats.nbinom.pmf(x.numpy(), r, r / (r + m))

    expected = -np.log(pi * pmf(beta) + (1 - pi) * pmf(alpha * beta)) * panel.numpy()
    np.testing.assert_allclose(per_row.numpy(), expected.sum(1), rtol=1e-6)
    assert torch.isclose(total, (weight * per_row).sum())
    each = torch.autograd.grad(total, [background, fore, mixing])
    for gradient in each:
        assert bool((gradient[~panel] == 0).all())


def test_protein_mixture_gradients_pass_torchs_own_check():
    torch.manual_seed(6)
    leaves = [leaf(3, 4), leaf(3, 4), leaf(3, 4), leaf(4)]
    x, weight = torch.poisson(torch.full((3, 4), 3.0)).double(), torch.rand(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *a: likelihoods.protein_mixture(x, *a, None, weight)[0], leaves)


def test_kl_of_normals_is_torchs():
    torch.manual_seed(7)
    a, b, c, d = (torch.randn(50, dtype=torch.float64) for _ in range(4))
    expected = kl_divergence(Normal(a, b.exp()), Normal(c, d.exp()))
    assert torch.allclose(likelihoods.kl_normal(a, b, c, d), expected)
