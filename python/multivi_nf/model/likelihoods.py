"""log p(x | z) of each modality, with hand-written gradients where the whole matrix would not fit or be slow.

Every function returns (weighted sum over rows: a scalar with gradient, per-row values: detached). The scalar is
what is optimised; since it is a sum, its gradients are known as soon as a tile or block is computed, so the forward
pass leaves them behind and the backward pass only scales them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from multivi_nf.data.minibatch import SparseRows
from multivi_nf.model.sparse import Tiles

LOGIT_LIMIT = 30.0
"""Logits of y are met within this: beyond it 1 - sigmoid is below 1e-13."""
SIZE_LIMIT = 15.0
"""The same for the logits of depth and region factor."""


def _leave(ctx: Any, *gradients: torch.Tensor) -> None:
    """Keep the gradients that the forward pass has found, for one backward pass."""
    ctx.gradients = gradients


def _collect(ctx: Any, by: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Gradients times the incoming one; the largest has the size of a weight, so nothing is copied."""
    gradients, ctx.gradients = ctx.gradients, None
    if by.device.type != "cpu" or by.item() != 1.0:
        for gradient in gradients:
            gradient.mul_(by)
    return gradients


class _Bernoulli(torch.autograd.Function):
    """Sum of w_i * -log Bernoulli(x_ij | y_ij d_i r_j), y = sigmoid(h W' + b), in tiles of peaks.

    With A = exp(-u), D = exp(-delta), R = exp(-rho) and t = y d r,  1/t = (1+A)(1+D)(1+R), so the inverse odds
    q = (1-t)/t = A (1+D)(1+R) + D(1+R) + R is a sum of positive terms: nothing cancels as t -> 1.
    -log(1-t) = log(1 + 1/q), -log t = log(1 + 1/q) + log q. With s = 1/q where x = 0 and -1 where x = 1 the
    gradients are s(1-y), s(1-d), s(1-r) with respect to u, delta, rho.

    Where only a part g of a row's open peaks was hidden from its encoder, a peak not shown is open with probability
    t g / (1 - t (1 - g)): the inverse odds become q / g, shown peaks cost nothing, and the gradients are those above,
    0 at shown peaks, times (s + g) / (g (1 + s)) with s = g / q.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        depth: torch.Tensor,
        region: torch.Tensor,
        tiles: Tiles,
        row_weight: torch.Tensor,
        part: torch.Tensor | None,
        with_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        d = torch.exp(-depth.clamp(-SIZE_LIMIT, SIZE_LIMIT)).unsqueeze(1)
        r = torch.exp(-region.clamp(-SIZE_LIMIT, SIZE_LIMIT)).unsqueeze(0)
        one_d, one_r = 1 + d, 1 + r
        per_row = h.new_zeros(tiles.n_rows)
        if with_gradient:
            odds = torch.zeros_like(depth)
            grad_h, grad_w = torch.zeros_like(h), torch.empty_like(weight)
            grad_b, grad_r = torch.empty_like(bias), torch.empty_like(region)
        buffers = [tiles.buffer(h.dtype) for _ in range(3 if part is None else 4)]
        row_scale = row_weight if part is None else row_weight / part
        scale = row_scale.unsqueeze(1)
        for tile in range(tiles.n_tiles):
            start, stop = tiles.span(tile)
            size = (tiles.n_rows, stop - start)
            a, q, scratch, *more = (buffer[: size[0] * size[1]].view(size) for buffer in buffers)
            torch.addmm(bias[start:stop], h, weight[start:stop].T, out=a)
            a.clamp_(-LOGIT_LIMIT, LOGIT_LIMIT).neg_().exp_()
            rt, one_rt = r[:, start:stop], one_r[:, start:stop]
            torch.mul(a, one_d, out=q).add_(d).mul_(one_rt).add_(rt)
            entries = tiles.entries(tile)
            where, row = tiles.flat[entries], tiles.row[entries]
            if part is not None and tiles.values is not None:
                q.div_(part.unsqueeze(1))
                shown = tiles.values[entries] == 0
                where, row, where_shown, row_shown = where[~shown], row[~shown], where[shown], row[shown]
            per_row.index_add_(0, row, q.view(-1).take(where).log_())
            s = q.reciprocal_()
            # log(1 + s), in half the time of log1p: what it rounds off is below 1e-7 a peak
            torch.add(s, 1, out=scratch)
            if part is not None:
                # (s + g) / (1 + s) = 1 - (1 - g) / (1 + s)
                torch.reciprocal(scratch, out=more[0]).mul_((part - 1).unsqueeze(1)).add_(1)
            per_row += scratch.log_().sum(1)
            if part is not None:
                per_row.index_add_(0, row_shown, scratch.view(-1).take(where_shown).neg_())
            if not with_gradient:
                continue
            s.view(-1).index_fill_(0, where, -1)
            if part is not None:
                s.view(-1).index_fill_(0, where_shown, 0)
                s.mul_(more[0])
            odds += s.sum(1)
            s.mul_(scale)
            torch.sum(s, 0, out=grad_r[start:stop])
            a.div_(torch.add(a, 1, out=scratch)).mul_(s)
            torch.sum(a, 0, out=grad_b[start:stop])
            torch.mm(a.T, h, out=grad_w[start:stop])
            grad_h.addmm_(a, weight[start:stop])
        total = torch.dot(per_row, row_weight)
        if with_gradient:
            grad_d = odds * row_scale * (d / one_d).squeeze(1)
            grad_r *= (r / one_r).squeeze(0)
            _leave(ctx, grad_h, grad_w, grad_b, grad_d, grad_r)
        ctx.mark_non_differentiable(per_row)
        return total, per_row

    @staticmethod
    def backward(ctx: Any, by: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*_collect(ctx, by), None, None, None, None)


def bernoulli(
    h: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    depth: torch.Tensor,
    region: torch.Tensor,
    tiles: Tiles,
    row_weight: torch.Tensor,
    part: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log likelihood of accessibility, Bernoulli(y(z, s) d_c r_j) (PeakVI, Ashuach et al. 2022, eq. 1).

    Parameters
    ----------
    h
        (n_rows, n_hidden) last hidden layer of the decoder.
    weight, bias
        (n_peaks, n_hidden) and (n_peaks,): the logit of y is h weight' + bias.
    depth
        (n_rows,) logit of the cell's depth d_c.
    region
        (n_peaks,) logit of the region factor r_j.
    tiles
        Open peaks of the rows, by tile.
    row_weight
        (n_rows,) weight of each row in the sum.
    part
        (n_rows,) share in (0, 1] of each row's open peaks that was hidden from its encoder; those alone are scored, and
        the tiles' values are 0 at the others. None: all are scored.

    Returns
    -------
    tuple
        Weighted sum (scalar, nats) and the rows' own values (n_rows,), detached.
    """
    return _Bernoulli.apply(h, weight, bias, depth, region, tiles, row_weight, part, torch.is_grad_enabled())


class _PoissonPeaks(torch.autograd.Function):
    """Sum of w_i * -log Poisson(x_ij | l_i softmax(h_i W' + b)_j), in tiles of peaks.

    With u the logits, n_i = sum_j x_ij and L_i = logsumexp_j u_ij, a row costs l_i - n_i (log l_i - L_i) - sum x u +
    sum log x!, and its gradients are n_i softmax(u) - x with respect to u, l_i - n_i to log l_i. The tiles are met
    twice, since the softmax needs L first.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        log_library: torch.Tensor,
        tiles: Tiles,
        row_weight: torch.Tensor,
        with_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n, dtype = tiles.n_rows, h.dtype
        x = torch.ones_like(tiles.flat, dtype=dtype) if tiles.values is None else tiles.values.to(dtype)
        total = h.new_zeros(n).index_add_(0, tiles.row, x)
        library = log_library.exp()
        per_row = library.index_add(0, tiles.row, torch.lgamma(x + 1))
        highest, mass = h.new_full((n,), -torch.inf), h.new_zeros(n)
        buffers = [tiles.buffer(dtype) for _ in range(2)]

        def logits(tile: int) -> tuple[int, int, torch.Tensor, torch.Tensor]:
            start, stop = tiles.span(tile)
            u, scratch = (buffer[: n * (stop - start)].view(n, stop - start) for buffer in buffers)
            torch.addmm(bias[start:stop], h, weight[start:stop].T, out=u)
            return start, stop, u, scratch

        for tile in range(tiles.n_tiles if n else 0):
            _, _, u, scratch = logits(tile)
            entries = tiles.entries(tile)
            per_row.index_add_(0, tiles.row[entries], u.view(-1).take(tiles.flat[entries]).mul_(x[entries]).neg_())
            above = torch.maximum(highest, u.amax(1))
            mass.mul_((highest - above).exp_()).add_(torch.sub(u, above.unsqueeze(1), out=scratch).exp_().sum(1))
            highest = above
        normaliser = highest + mass.log()
        # a cell without a fragment has library 0, whose logarithm no count asks for
        per_row += torch.where(total > 0, total * (normaliser - log_library), 0.0)
        value = torch.dot(per_row, row_weight)
        ctx.mark_non_differentiable(per_row)
        if not with_gradient:
            return value, per_row
        grad_h, grad_w, grad_b = torch.zeros_like(h), torch.zeros_like(weight), torch.zeros_like(bias)
        scale, minus = (row_weight * total).unsqueeze(1), x.mul_(row_weight[tiles.row]).neg_()
        for tile in range(tiles.n_tiles if n else 0):
            start, stop, u, _ = logits(tile)
            entries = tiles.entries(tile)
            u.sub_(normaliser.unsqueeze(1)).exp_().mul_(scale)
            u.view(-1).index_add_(0, tiles.flat[entries], minus[entries])
            torch.sum(u, 0, out=grad_b[start:stop])
            torch.mm(u.T, h, out=grad_w[start:stop])
            grad_h.addmm_(u, weight[start:stop])
        _leave(ctx, grad_h, grad_w, grad_b, (library - total) * row_weight)
        return value, per_row

    @staticmethod
    def backward(ctx: Any, by: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*_collect(ctx, by), None, None, None)


def poisson_peaks(
    h: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    log_library: torch.Tensor,
    tiles: Tiles,
    row_weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log likelihood of fragments in peaks, Poisson(l_c softmax(f(z, s))) (Martens et al., Nat Methods 2024).

    Parameters
    ----------
    h
        (n_rows, n_hidden) last hidden layer of the decoder.
    weight, bias
        (n_peaks, n_hidden) and (n_peaks,): f is h weight' + bias.
    log_library
        (n_rows,) log l_c; -inf is a measured cell without fragments: its likelihood is 1.
    tiles
        Fragments of the rows, by tile.
    row_weight
        (n_rows,) weight of each row in the sum.

    Returns
    -------
    tuple
        Weighted sum (scalar, nats) and the rows' own values (n_rows,), detached.
    """
    return _PoissonPeaks.apply(h, weight, bias, log_library, tiles, row_weight, torch.is_grad_enabled())


class _NegativeBinomial(torch.autograd.Function):
    """Sum of w_i * -log NB(x_ig | mean l_i softmax(u_i)_g, inverse dispersion theta_g or theta_ig).

    Where x = 0 only theta log(1 + mu/theta) is left, so lgamma and digamma are met at the stored entries alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        log_library: torch.Tensor,
        log_theta: torch.Tensor,
        counts: SparseRows,
        row_weight: torch.Tensor,
        with_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        row, column = counts.row_index(), counts.indices.long()
        x = _values(counts, logits.dtype)
        share = torch.softmax(logits, 1)
        mu = share * log_library.exp().unsqueeze(1)
        theta = log_theta.exp()
        where = row * logits.shape[1] + column
        theta_x = theta.take(column if theta.dim() == 1 else where)
        mu_x = mu.take(where)
        log_mu_x = logits.take(where) - (logits.logsumexp(1) - log_library)[row]
        ratio = mu / theta
        log_ratio = torch.log1p(ratio)
        per_row = (log_ratio * theta).sum(1)
        at_entries = x * ((theta_x + mu_x).log() - log_mu_x) - torch.lgamma(x + theta_x)
        at_entries += torch.lgamma(theta_x) + torch.lgamma(x + 1)
        per_row.index_add_(0, row, at_entries)
        total = torch.dot(per_row, row_weight)
        ctx.mark_non_differentiable(per_row)
        if with_gradient:
            # d/dlog mu: theta mu / (theta + mu) everywhere, - x theta / (theta + mu) at the entries
            denominator = ratio.add_(1)
            grad = mu / denominator
            grad_theta = log_ratio.mul_(theta) - grad
            keep = theta_x / (theta_x + mu_x)
            grad.view(-1).index_add_(0, where, -x * keep)
            change = theta_x * (x / (theta_x + mu_x) - torch.digamma(x + theta_x) + torch.digamma(theta_x))
            grad_theta.view(-1).index_add_(0, where, change)
            weight = row_weight.unsqueeze(1)
            if theta.dim() == 1:
                grad_theta = row_weight @ grad_theta
            else:
                grad_theta *= weight
            grad *= weight
            grad_library = grad.sum(1)
            grad.addcmul_(share, grad_library.unsqueeze(1), value=-1)
            _leave(ctx, grad, grad_library, grad_theta)
        return total, per_row

    @staticmethod
    def backward(ctx: Any, by: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*_collect(ctx, by), None, None, None)


def negative_binomial(
    logits: torch.Tensor,
    log_library: torch.Tensor,
    log_theta: torch.Tensor,
    counts: SparseRows,
    row_weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log likelihood of RNA counts, NB(mean l_c softmax(f(z, s)), inverse dispersion theta).

    Var(x) = mu + mu^2 / theta (scVI, Lopez et al. 2018, eq. 1-3, marginalised).

    Parameters
    ----------
    logits
        (n_rows, n_genes) f(z, s) before the softmax.
    log_library
        (n_rows,) log l_c; -inf is a measured cell without counts: its likelihood is 1.
    log_theta
        (n_genes,), or (n_rows, n_genes) where the dispersion is per batch.
    counts, row_weight
        Counts of the rows and weight of each row in the sum.

    Returns
    -------
    tuple
        Weighted sum (scalar, nats) and the rows' own values (n_rows,), detached.
    """
    return _NegativeBinomial.apply(logits, log_library, log_theta, counts, row_weight, torch.is_grad_enabled())


def _values(counts: SparseRows, dtype: torch.dtype) -> torch.Tensor:
    if counts.values is None:
        return torch.ones(counts.indices.numel(), dtype=dtype, device=counts.indices.device)
    return counts.values.to(dtype)


def poisson(
    logits: torch.Tensor, log_library: torch.Tensor, counts: SparseRows, row_weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log likelihood of RNA counts, Poisson(l_c softmax(f(z, s))): sum over genes of mu - x log mu + log x!.

    The sum of mu over genes is l_c itself, so only the stored entries are met. Arguments as `negative_binomial`.
    """
    row, x = counts.row_index(), _values(counts, logits.dtype)
    where = row * logits.shape[1] + counts.indices.long()
    log_mu = logits.take(where) - (logits.logsumexp(1) - log_library)[row]
    per_row = log_library.exp().index_add(0, row, torch.lgamma(x + 1) - x * log_mu)
    return torch.dot(per_row, row_weight), per_row.detach()


def zero_inflated(
    logits: torch.Tensor,
    log_library: torch.Tensor,
    log_theta: torch.Tensor,
    dropout: torch.Tensor,
    counts: SparseRows,
    row_weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log likelihood of RNA counts, zero-inflated NB (scVI, Lopez et al. 2018): P(0) = pi + (1 - pi) NB(0).

    Arguments as `negative_binomial`, and `dropout`: (n_rows, n_genes) logit of pi.
    """
    row, x = counts.row_index(), _values(counts, logits.dtype)
    where = row * logits.shape[1] + counts.indices.long()
    log_mean = torch.log_softmax(logits, 1) + log_library.unsqueeze(1)
    theta = log_theta.exp()
    log_nb_zero = -theta * torch.log1p(log_mean.exp() / theta)
    # log(pi + (1-pi) p0) = softplus(log p0 - logit) - softplus(-logit)
    zero = functional.softplus(log_nb_zero - dropout) - functional.softplus(-dropout)
    theta_x = theta.take(counts.indices.long() if theta.dim() == 1 else where)
    log_mu_x = log_mean.take(where)
    nb = log_nb_zero.take(where) + x * (log_mu_x - (theta_x + log_mu_x.exp()).log())
    nb = nb + torch.lgamma(x + theta_x) - torch.lgamma(theta_x) - torch.lgamma(x + 1)
    correction = nb - functional.softplus(dropout.take(where)) - zero.take(where)
    per_row = -zero.sum(1).index_add(0, row, correction)
    return torch.dot(per_row, row_weight), per_row.detach()


def log_nb(x: torch.Tensor, log_mu: torch.Tensor, log_theta: torch.Tensor) -> torch.Tensor:
    """Log NB(x | mean mu, inverse dispersion theta), elementwise, from logarithms."""
    theta = log_theta.exp()
    log_sum = torch.logaddexp(log_theta, log_mu)
    value = theta * (log_theta - log_sum) + x * (log_mu - log_sum)
    return value + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)


def protein_mixture(
    x: torch.Tensor,
    log_background: torch.Tensor,
    foreground: torch.Tensor,
    mixing: torch.Tensor,
    log_theta: torch.Tensor,
    panel: torch.Tensor | None,
    row_weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log likelihood of protein counts: background and foreground NB (totalVI, Gayoso et al. 2021, eq. 5-8).

    p(x) = pi NB(x | beta, phi) + (1 - pi) NB(x | alpha beta, phi), alpha = 1 + relu(foreground) > 1.

    Parameters
    ----------
    x
        (n_rows, n_proteins) counts.
    log_background
        (n_rows, n_proteins) log beta, a sample of its posterior.
    foreground
        (n_rows, n_proteins) the foreground's factor over background, less 1, before its ReLU.
    mixing
        (n_rows, n_proteins) logit of pi, the probability of background.
    log_theta
        (n_proteins,) log inverse dispersion phi.
    panel
        (n_rows, n_proteins) whether the protein was measured in the row's batch; None is all. Others count 0.
    row_weight
        (n_rows,) weight of each row.
    """
    log_fore = log_background + torch.log1p(functional.relu(foreground) + 1e-8)
    both = torch.stack(
        [
            log_nb(x, log_background, log_theta) + functional.logsigmoid(mixing),
            log_nb(x, log_fore, log_theta) + functional.logsigmoid(-mixing),
        ]
    )
    value = -torch.logsumexp(both, 0)
    if panel is not None:
        value = torch.where(panel, value, torch.zeros_like(value))
    per_row = value.sum(1)
    return torch.dot(per_row, row_weight), per_row.detach()


def kl_normal(
    mean: torch.Tensor, log_sd: torch.Tensor, prior_mean: torch.Tensor, prior_log_sd: torch.Tensor
) -> torch.Tensor:
    """KL(N(mean, sd^2) || N(prior)), elementwise, nats."""
    ratio = (2 * (log_sd - prior_log_sd)).exp() + ((mean - prior_mean) * (-prior_log_sd).exp()).square()
    return prior_log_sd - log_sd + 0.5 * (ratio - 1)
