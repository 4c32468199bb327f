"""What training minimises: -E_q(z)[log p(x | z, s)] + KL(q(z) || N(0, 1)) + alignment + adversary, nats per cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from multivi_nf.data.minibatch import Minibatch, ModalityRows
from multivi_nf.model.adversary import Contest, batch_contest, modality_contest
from multivi_nf.model.alignment import alignment
from multivi_nf.model.config import ModelConfig
from multivi_nf.model.fusion import Gaussian, Posteriors, fuse, joint, kl_standard, subsets
from multivi_nf.model.generative import Observed
from multivi_nf.model.local_mixing import LocalMixing
from multivi_nf.model.sparse import Tiles, select_rows, tiles_of
from multivi_nf.model.thinning import Halves

INTEGRATION_SHARE = 0.05
"""Nats of a mixing penalty, at a strength of 1, for each nat of reconstruction."""


@dataclass
class LossTerms:
    """What a minibatch costs.

    Attributes
    ----------
    total
        Scalar with gradient, nats per cell.
    terms
        Detached parts, per cell of the minibatch: ``rna``, ``atac``, ``protein`` (reconstruction),
        ``protein_background`` (KL), ``kl`` (of z, at weight 1), ``alignment``, ``adversary`` (the encoders' side),
        ``elbo_loss`` (reconstruction + KLs at weight 1) and, where groups are brought together, ``batch_mixing`` and
        ``modality_mixing`` (penalties, unweighted) and ``integration`` (what they cost at full KL weight), ``labels``
        (cross-entropy, unweighted) where labels guide. Modalities without a row here are left out.
    n_rows
        Modality to number of measured rows.
    contests
        What the adversaries saw, for `MultiVI.adversary_loss`.
    """

    total: torch.Tensor
    terms: dict[str, torch.Tensor]
    n_rows: dict[str, int] = field(default_factory=dict)
    contests: dict[str, Contest] = field(default_factory=dict)


class Encoded(Protocol):
    """What the loss needs of a model; `multivi_nf.model.multivi.MultiVI` has it."""

    config: ModelConfig
    modalities: tuple[str, ...]
    scvi: bool
    training: bool
    generative: nn.ModuleDict
    adversaries: nn.ModuleDict
    classifier: nn.Linear | None

    @property
    def integrates_batches(self) -> bool:
        """Whether batches are brought together."""
        ...

    @property
    def leading(self) -> int:
        """Index of the modality that most batches measured."""
        ...

    @property
    def leader(self) -> int | None:
        """Index of the modality that the others are aligned to, if there is one."""
        ...

    def measured(self, minibatch: Minibatch) -> dict[str, ModalityRows]:
        """Rows by modality, of modalities with any."""
        ...

    def encode(
        self,
        minibatch: Minibatch,
        *,
        generator: torch.Generator | None = None,
        tiles: dict[str, Tiles] | None = None,
        thinning: float = 0.0,
        halves: dict[str, Halves] | None = None,
    ) -> dict[str, Gaussian]:
        """Posterior of every measured row by modality."""
        ...

    def scored(self, modality: str, seen: Observed, halves: Halves, used: torch.Tensor) -> Observed:
        """What a modality's likelihood scores of thinned rows."""
        ...

    def stack(self, n_cells: int, minibatch: Minibatch, encoded: dict[str, Gaussian]) -> Posteriors:
        """Posteriors of all cells side by side."""
        ...


@dataclass
class View:
    """Which modalities z is drawn from, of some cells.

    Attributes
    ----------
    cells
        (n,) positions in the minibatch; None is all of them.
    use
        (n, n_modalities) bool.
    weight
        (n,) share of the objective.
    """

    cells: torch.Tensor | None
    use: torch.Tensor
    weight: torch.Tensor


def views(model: Encoded, posteriors: Posteriors, generator: torch.Generator | None) -> list[View]:
    """The views of the objective (1 - c) ELBO(joint) + c mean over present m of ELBO(q(z | x_m)).

    The ELBO of a view is E_q[log p(all measured modalities | z)] - KL(q || N(0, 1)); c is ``cross_reconstruction``
    (0: the paper's objective), so that the path which imputation takes is trained. With ``mopoe`` the joint's ELBO
    is the mean over the subsets of present modalities (Sutter et al. 2021, eq. 9). In training one view a cell is
    drawn with these weights: the same objective in expectation at the cost of one decoding. In evaluation all are
    computed.
    """
    present, config = posteriors.present, model.config
    c, mixture = config.cross_reconstruction, config.fusion == "mopoe"
    n, n_modalities = present.shape
    one = torch.ones_like(posteriors.mean[:, 0, 0])
    if model.scvi or n_modalities == 1 or (c == 0 and not mixture):
        return [View(None, present, one)]
    count = present.sum(1)
    table = torch.tensor(subsets(n_modalities), device=present.device)
    weights = []
    for use in table:
        inside = (present | ~use).all(1)
        weight = (1 - c) * (use == present).all(1).to(one.dtype)
        if mixture:
            weight = (1 - c) * inside / (torch.exp2(count.to(one.dtype)) - 1).clamp(min=1)
        if use.sum() == 1:
            weight = weight + c * inside / count.clamp(min=1)
        weights.append(weight)
    share = torch.stack(weights, 1)
    if model.training and generator is not None:
        edges = share.cumsum(1)
        draw = torch.rand(n, 1, generator=generator, device=present.device, dtype=one.dtype) * edges[:, -1:]
        pick = (edges <= draw).sum(1).clamp(max=len(weights) - 1)
        return [View(None, table[pick] & present, one)]
    found = []
    for i, use in enumerate(table):
        cells = (share[:, i] > 0).nonzero().squeeze(1)
        if cells.numel():
            found.append(View(cells, use.expand(cells.numel(), -1), share[cells, i]))
    return found


def objective(
    model: Encoded,
    minibatch: Minibatch,
    generator: torch.Generator | None,
    weights: tuple[float, float | None, float | None],
    denominator: float | None,
    mixing: LocalMixing | None = None,
    thinning: float = 0.0,
) -> LossTerms:
    """Cost of a minibatch; see `MultiVI.loss` for the arguments, `weights` are those of KL, alignment and adversary."""
    tiles: dict[str, Tiles] = {}
    halves: dict[str, Halves] = {}
    rows = model.measured(minibatch)
    encoded = model.encode(minibatch, generator=generator, tiles=tiles, thinning=thinning, halves=halves)
    posteriors = model.stack(minibatch.n_cells, minibatch, encoded)
    samples = posteriors.mean + posteriors.variance.sqrt() * _noise(posteriors.mean, generator)
    noise = _noise(posteriors.mean[:, 0], generator)
    z_joint = torch.zeros_like(noise)
    zero = noise.new_zeros(())
    # in the rows' weights rather than on the sums: a likelihood's gradients then need no scaling
    per_cell = 1.0 / (minibatch.n_cells if denominator is None else denominator)
    parts = {"kl": zero}
    for view in views(model, posteriors, generator):
        some = posteriors if view.cells is None else posteriors.take(view.cells)
        q = fuse(some, view.use, model.config.fusion, compat=model.scvi)
        z = q.mean + q.variance.sqrt() * (noise if view.cells is None else noise[view.cells])
        view.weight = view.weight * per_cell
        parts["kl"] = parts["kl"] + torch.dot(kl_standard(q.mean, q.variance), view.weight)
        for m, measured in rows.items():
            # of the three likelihoods only ATAC's reads tiles
            tile = tiles[m] if m == "atac" else None
            seen, z_rows = observe(minibatch, measured, encoded[m], tile, view)
            if seen is None:
                continue
            if m in halves:
                used = view.use[:, model.modalities.index(m)]
                seen = model.scored(m, seen, halves[m], used if z_rows is None else used[z_rows])
            z_m = z if z_rows is None else z[z_rows]
            for name, value in model.generative[m].loss(z_m, seen, generator).items():
                parts[name] = parts.get(name, zero) + value
        z_joint = z if view.cells is None else z_joint.index_copy(0, view.cells, z)
    aligned = alignment(posteriors, samples, model.config.alignment, compat=model.scvi, leader=model.leader)
    parts["alignment"] = per_cell * aligned
    pull = None
    if mixing is not None:
        whole = minibatch.n_cells * per_cell
        found, pull = mixing_terms(model, minibatch, posteriors, mixing)
        parts |= {name: whole * value for name, value in found.items()}
    if model.classifier is not None:
        parts["labels"] = per_cell * label_cost(model.classifier, z_joint, minibatch.labels)
    contests = {}
    if "modality" in model.adversaries:
        contests["modality"] = modality_contest(samples, posteriors.present, model.config.adversary_cells)
    if "batch" in model.adversaries:
        contests["batch"] = batch_contest(z_joint, minibatch.batch, len(model.config.batches), even=not model.scvi)
    contests = {name: contest for name, contest in contests.items() if contest is not None}
    config, (kl_weight, *given) = model.config, weights
    own = (config.alignment_weight, config.adversary_weight)
    weights = (kl_weight, *(default if value is None else value for value, default in zip(given, own)))
    return _add_up(model, parts, pull, contests, weights, {m: r.cells.numel() for m, r in rows.items()})


def label_cost(classifier: nn.Linear, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum over labelled cells of the cross-entropy of a classifier on z (scANVI, Xu et al., Mol Syst Biol 2021), nats.

    `labels` (n_cells,) holds codes; -1 is a cell without a label, which costs nothing.
    """
    known = labels >= 0
    return nn.functional.cross_entropy(classifier(z[known]).to(z.dtype), labels[known], reduction="sum")


def comparisons(model: Encoded) -> dict[str, tuple[int, int]]:
    """What `mixing_terms` compares for this model: name to numbers of strata and groups; {} is nothing."""
    found, several, n_batches = {}, len(model.modalities) > 1, len(model.config.batches)
    if model.integrates_batches:
        found |= dict.fromkeys(("joint", "leading") if several else ("joint",), (1, n_batches))
    if model.config.modality_integration > 0 and several:
        found["measured"] = (n_batches, 1 << len(model.modalities))
    return found


def mixing_terms(
    model: Encoded, minibatch: Minibatch, posteriors: Posteriors, mixing: LocalMixing
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """How much less than expected groups mix in posterior means (`multivi_nf.model.local_mixing`).

    Returns
    -------
    Penalties, nats a cell, and what is charged of them for each nat of reconstruction: in training at the strength at
    which each acts, in evaluation what exceeds that with which a penalty is content, at full strength, so that epochs
    can be compared. ``batch_mixing`` is the mean of two penalties, of the joint means and of those of the modality that
    leads, each with sides of its own. ``modality_mixing`` asks the joint means in which modalities a cell was measured,
    beyond what its neighbours' batches make expected: otherwise batches that differ in modalities would be charged
    twice.
    """
    config, present, note = model.config, posteriors.present, model.training
    mean = joint(posteriors, config.fusion, compat=model.scvi).mean
    costs = {}
    if "joint" in mixing.shapes:
        costs["joint"] = mixing.charge("joint", mean, minibatch.batch, counterparts=minibatch.counterparts, note=note)
    if "leading" in mixing.shapes:
        rows = present[:, model.leading].nonzero().squeeze(1)
        own = posteriors.mean[rows, model.leading]
        theirs = None if minibatch.counterparts is None else minibatch.counterparts[rows]
        costs["leading"] = mixing.charge("leading", own, minibatch.batch[rows], counterparts=theirs, note=note)
    if "measured" in mixing.shapes:
        bit = torch.arange(present.shape[1], device=present.device)
        pattern = (present.long() << bit).sum(1)
        costs["measured"] = mixing.charge("measured", mean, pattern, minibatch.batch, note=note)
    strength = dict.fromkeys(("joint", "leading"), config.batch_integration / (1 + ("leading" in costs)))
    strength["measured"] = config.modality_integration
    charged = mean.new_zeros(())
    for name, (cost, content) in costs.items():
        acting = cost * mixing.strength(name).to(cost.dtype) if note else (cost - content).clamp(min=0)
        charged = charged + INTEGRATION_SHARE * strength[name] * acting
    found = {}
    if "joint" in costs:
        found["batch_mixing"] = (costs["joint"][0] + costs.get("leading", costs["joint"])[0]) / 2
    if "measured" in costs:
        found["modality_mixing"] = costs["measured"][0]
    return found, charged


def _add_up(
    model: Encoded,
    parts: dict[str, torch.Tensor],
    pull: torch.Tensor | None,
    contests: dict[str, Contest],
    weights: tuple[float, float, float],
    n_rows: dict[str, int],
) -> LossTerms:
    kl = parts["kl"] + parts.get("protein_background", 0.0)
    reconstruction = sum((parts[m] for m in model.modalities if m in parts), torch.zeros_like(kl))
    total = reconstruction + weights[0] * kl + weights[1] * parts["alignment"]
    if "labels" in parts:
        total = total + model.config.labels_weight * parts["labels"]
    terms = {name: value.detach() for name, value in parts.items()}
    if pull is not None:
        # nats of mixing for nats of reconstruction: the same strength with 500 genes and with 20,000
        integration = reconstruction.detach() * pull
        total = total + weights[0] * integration
        terms["integration"] = integration.detach()
    terms["elbo_loss"] = (reconstruction + kl).detach()
    fool = sum((model.adversaries[k].fool(v, compat=model.scvi) for k, v in contests.items()), torch.zeros_like(kl))
    terms["adversary"] = fool.detach()
    if contests and weights[2]:
        total = total + weights[2] * fool
    return LossTerms(total, terms, n_rows, contests)


def observe(
    minibatch: Minibatch, measured: ModalityRows, q: Gaussian, tiles: Tiles | None, view: View
) -> tuple[Observed | None, torch.Tensor | None]:
    """Measured rows of one modality among a view's cells, and where their z lies among the view's (None: in order)."""
    cells, counts, size, where = measured.cells, measured.counts, q.size, None
    if view.cells is not None:
        position = torch.full((minibatch.n_cells,), -1, dtype=torch.int64, device=cells.device)
        position[view.cells] = torch.arange(view.cells.numel(), device=cells.device)
        keep = (position[cells] >= 0).nonzero().squeeze(1)
        if not keep.numel():
            return None, None
        where = position[cells[keep]]
        if keep.numel() < cells.numel():
            cells, counts = cells[keep], select_rows(counts, keep)
            size = None if size is None else size[keep]
            tiles = None if tiles is None else tiles_of(counts)
    elif cells.numel() < minibatch.n_cells:
        where = cells
    codes = (minibatch.batch[cells], minibatch.categorical[cells], minibatch.continuous[cells])
    weight = view.weight if where is None else view.weight[where]
    return Observed(counts, tiles, codes, size, weight), where


def _noise(like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
