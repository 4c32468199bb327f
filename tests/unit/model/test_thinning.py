"""What is hidden from an encoder, and what the likelihoods make of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from multivi_nf.model import thinning
from multivi_nf.model.generative import Observed
from multivi_nf.model.likelihoods import bernoulli
from multivi_nf.model.sparse import tiles_of


def observed(rows, tiles, weight):
    codes = (torch.zeros(rows.n_rows, dtype=torch.int64), None, None)
    return Observed(rows, tiles, codes, torch.zeros(rows.n_rows, dtype=torch.float64), weight)


def counts(minibatch, m: str = "rna", n: int = 9):
    return minibatch({m: list(range(n))}, n).modalities[m].counts


def test_counts_are_split_into_whole_numbers_and_nothing_is_lost(generator):
    x = torch.arange(0, 40).repeat(2000).float()
    shown, hidden = thinning.split(x, x.numel(), 0.3, generator(), x.device)
    for part in (shown, hidden):
        assert bool((part >= 0).all()) and torch.equal(part, part.round())
    assert torch.equal(shown + hidden, x)
    by_count = hidden.view(2000, 40)
    want = torch.arange(40)
    # 2,000 binomials of n tries: mean within 5 standard errors, variance within 25 %
    assert bool(((by_count.mean(0) - 0.3 * want).abs() <= 5 * (0.21 * want / 2000).sqrt() + 1e-6).all())
    assert torch.allclose(by_count.var(0)[1:], 0.21 * want[1:].float(), rtol=0.25)


def test_the_same_generator_hides_the_same(generator):
    x = torch.randint(1, 5, (500,), generator=generator(1)).float()
    first, again, other = (thinning.split(x, 500, 0.5, generator(s), x.device)[1] for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_encoders_keep_the_mean_and_tiles_the_order(minibatch, generator):
    rows = counts(minibatch, "atac")
    tiles = tiles_of(rows, width=32)
    seen, halves = thinning.thinned_tiles(tiles, 0.5, generator())
    assert torch.equal(seen.values * 0.5 + halves.hidden, torch.ones(tiles.flat.numel()))
    assert 0.3 < float(halves.hidden.mean()) < 0.7
    assert seen.bounds == tiles.bounds and tiles.values is None


@pytest.mark.parametrize("observed_size", [True, False])
def test_hidden_counts_are_scored_where_z_came_from_them_else_all(minibatch, generator, observed_size):
    rows = counts(minibatch)
    _, halves = thinning.thinned_rows(rows, 0.25, generator())
    used = torch.arange(rows.n_rows) % 2 == 0
    seen = observed(rows, None, torch.full((rows.n_rows,), 2.0, dtype=torch.float64))
    found = thinning.scored(seen, halves, used, open_or_not=False, observed_size=observed_size)
    mine = dataclasses.replace(rows, values=halves.hidden).dense()
    want = torch.where(used.unsqueeze(1), mine, rows.dense())
    assert torch.equal(found.counts.dense(), want)
    assert torch.allclose(found.weight, torch.where(used, 8.0, 2.0).double())
    size = want.sum(1).double().log() if observed_size else torch.where(used, 0.25, 1.0).double().log()
    assert torch.allclose(found.size, size)


def dense_terms(tiles, n_features: int):
    """Dense masks of the open peaks, and of those whose value is 0."""
    which = torch.repeat_interleave(torch.arange(tiles.n_tiles), torch.tensor(tiles.bounds).diff())
    width = torch.tensor([b - a for a, b in map(tiles.span, range(tiles.n_tiles))])[which]
    column = tiles.flat - tiles.row * width + which * tiles.width
    open_, shown = (torch.zeros(tiles.n_rows, n_features, dtype=torch.bool) for _ in range(2))
    open_[tiles.row, column] = True
    shown[tiles.row, column] = tiles.values == 0
    return open_, shown


def test_split_peaks_cost_the_probability_given_that_a_peak_is_not_shown(minibatch, generator):
    """Against autograd of P(open | not shown) = t g / (1 - t (1 - g)), shown peaks left out."""
    rows = counts(minibatch, "atac", 40)
    n, p, g = rows.n_rows, rows.n_features, generator(3)
    part = torch.tensor([0.5, 1.0, 0.3, 0.5] * 10, dtype=torch.float64)
    tiles = tiles_of(rows, width=32)
    hidden = (torch.rand(tiles.flat.numel(), generator=g) < 0.5).double()
    tiles = dataclasses.replace(tiles, values=torch.where((part < 1)[tiles.row], hidden, 1.0))
    shapes = ((n, 5), (p, 5), (p,), (n,), (p,))
    given = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
    weight = torch.rand(n, generator=g, dtype=torch.float64)
    ours, theirs = ([v.clone().requires_grad_() for v in given] for _ in range(2))
    total, per_row = bernoulli(*ours, tiles, weight, part)
    total.backward()
    h, loadings, bias, depth, region = theirs
    t = (h @ loadings.T + bias).sigmoid() * depth.sigmoid().unsqueeze(1) * region.sigmoid()
    u = t * part.unsqueeze(1) / (1 - t * (1 - part.unsqueeze(1)))
    open_, shown = dense_terms(tiles, p)
    assert bool(shown.any()) and bool((open_ & ~shown)[part < 1].any())
    cost = torch.where(shown, 0.0, -torch.where(open_, u.log(), (1 - u).log())).sum(1)
    torch.dot(cost, weight).backward()
    torch.testing.assert_close(per_row, cost.detach(), rtol=1e-10, atol=1e-10)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-11)


def test_all_hidden_is_the_plain_likelihood(minibatch, generator):
    rows = counts(minibatch, "atac")
    tiles, g = tiles_of(rows), generator(1)
    n, p = rows.n_rows, rows.n_features
    given = [torch.randn(shape, generator=g) for shape in ((n, 5), (p, 5), (p,), (n,), (p,))]
    all_of_it = dataclasses.replace(tiles, values=torch.ones(tiles.flat.numel()))
    plain, _ = bernoulli(*given, tiles, torch.ones(n))
    part, _ = bernoulli(*given, all_of_it, torch.ones(n), torch.ones(n))
    torch.testing.assert_close(part, plain)


@pytest.mark.parametrize("options", [{}, {"atac_likelihood": "poisson"}, {"library": "encoded"}, {"fusion": "mopoe"}])
def test_training_alone_is_thinned_and_gradients_are_finite(model, mixed, generator, options):
    made = model(dropout=0.0, batch_dropout=0.0, input_dropout={}, **options)
    plain = made.loss(mixed, generator=generator()).terms
    made.zero_grad()
    losses = made.loss(mixed, generator=generator(), thinning=0.5)
    assert all(float(losses.terms[m]) != float(plain[m]) for m in thinning.THINNED)
    losses.total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in made.model_parameters() if p.grad is not None)
    made.eval()
    for m, value in made.loss(mixed, generator=generator()).terms.items():
        assert torch.equal(made.loss(mixed, generator=generator(), thinning=0.5).terms[m], value)


def test_the_score_of_what_is_hidden_has_the_size_of_the_whole(model, minibatch, generator):
    """The mean over draws of 1/r times the hidden part's log score lies near the whole's: counts are few."""
    cells = minibatch({"rna": list(range(60)), "atac": list(range(60))}, 60)
    made = model(("rna", "atac"), dropout=0.0, batch_dropout=0.0, input_dropout={}, rna_likelihood="poisson")
    with torch.no_grad():
        plain = torch.tensor([float(made.loss(cells, generator=generator(s)).terms["rna"]) for s in range(20)])
        thin = [float(made.loss(cells, generator=generator(s), thinning=0.5).terms["rna"]) for s in range(20)]
    assert abs(sum(thin) / 20 / float(plain.mean()) - 1) < 0.25
