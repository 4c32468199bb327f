"""What training minimises: -E_q(z)[log p(x | z, s)] + KL(q(z) || N(0, 1)) + alignment + adversary, nats per cell."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from multivi_nf.data.minibatch import Minibatch, ModalityRows
from multivi_nf.model.adversary import Contest, batch_contest, modality_contest
from multivi_nf.model.alignment import alignment
from multivi_nf.model.config import ModelConfig
from multivi_nf.model.encoding import Noise
from multivi_nf.model.fusion import Gaussian, Posteriors, fuse, joint, kl_standard, subsets
from multivi_nf.model.generative import Observed
from multivi_nf.model.local_mixing import SHARPNESS, LocalMixing, strangers
from multivi_nf.model.network import Network
from multivi_nf.model.sparse import Tiles, tiles_of

INTEGRATION_SHARE = 0.05
"""Nats of a mixing penalty, at a strength of 1, for each nat of reconstruction."""

SOON = 0.01
"""Strength of a mixing penalty from which what keeps strangers apart acts fully: without mixing they stay apart."""


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
        What the adversaries saw, for `adversary.own_loss`.
    """

    total: torch.Tensor
    terms: dict[str, torch.Tensor]
    n_rows: dict[str, int] = field(default_factory=dict)
    contests: dict[str, Contest] = field(default_factory=dict)


@dataclass
class Weights:
    """What a KL, the alignment and the adversary cost: for warm-ups."""

    kl: float
    alignment: float
    adversary: float


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


def views(model: Network, posteriors: Posteriors, generator: torch.Generator | None) -> list[View]:
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
    if not model.formulas.single_views or n_modalities == 1 or (c == 0 and not mixture):
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


class Objective:
    """What a minibatch costs a model.

    Parameters
    ----------
    model, minibatch
        Whose cost, and of which cells.
    noise
        Generator of all noise but dropout, and what thinning hides.
    denominator
        Divide by this many cells rather than by the minibatch's.
    """

    def __init__(self, model: Network, minibatch: Minibatch, noise: Noise, denominator: float | None = None) -> None:
        self.model, self.minibatch, self.hidden, self.generator = model, minibatch, noise, noise.generator
        self.rows = model.measured(minibatch)
        self.encoded = model.encode(minibatch, noise)
        self.posteriors = model.stack(minibatch.n_cells, minibatch, self.encoded)
        mean = self.posteriors.mean
        self.samples = mean + self.posteriors.variance.sqrt() * _noise(mean, self.generator)
        self.z = torch.zeros_like(mean[:, 0])
        self.zero = mean.new_zeros(())
        # in the rows' weights rather than on the sums: a likelihood's gradients then need no scaling
        self.per_cell = 1.0 / (minibatch.n_cells if denominator is None else denominator)

    def terms(self, weights: Weights, mixing: LocalMixing | None = None) -> LossTerms:
        """All parts and their sum; `mixing`: running sums of the local mixing penalties, None leaves these out."""
        model, config = self.model, self.model.config
        parts = self._elbos()
        aligned = alignment(self.posteriors, self.samples, config.alignment, model.formulas, config.leader)
        parts["alignment"] = self.per_cell * aligned
        pull = None
        if mixing is not None:
            whole = self.minibatch.n_cells * self.per_cell
            found, pull = mixing_terms(model, self.minibatch, self.posteriors, mixing)
            parts |= {name: whole * value for name, value in found.items()}
        if model.classifier is not None:
            parts["labels"] = self.per_cell * label_cost(model.classifier, self.z, self.minibatch.labels)
        return self._added_up(parts, pull, weights)

    def _elbos(self) -> dict[str, torch.Tensor]:
        """-E log p(x | z) by modality and the KLs, over the views; z becomes what the last of them drew."""
        noise = _noise(self.z, self.generator)
        parts = {"kl": self.zero}
        for view in views(self.model, self.posteriors, self.generator):
            some = self.posteriors if view.cells is None else self.posteriors.take(view.cells)
            q = fuse(some, view.use, self.model.config.fusion, self.model.formulas)
            z = q.mean + q.variance.sqrt() * (noise if view.cells is None else noise[view.cells])
            view.weight = view.weight * self.per_cell
            parts["kl"] = parts["kl"] + torch.dot(kl_standard(q.mean, q.variance), view.weight)
            for m in self.rows:
                for name, value in self._scored(m, z, view).items():
                    parts[name] = parts.get(name, self.zero) + value
            self.z = z if view.cells is None else self.z.index_copy(0, view.cells, z)
        return parts

    def _scored(self, modality: str, z: torch.Tensor, view: View) -> dict[str, torch.Tensor]:
        """What a modality's likelihood says of a view; nothing where no cell of the view was measured."""
        model, halves = self.model, self.hidden.halves
        # of the three likelihoods only ATAC's reads tiles
        tiles = self.hidden.tiles[modality] if modality == "atac" else None
        seen, where = observe(self.minibatch, self.rows[modality], self.encoded[modality], tiles, view)
        if seen is None:
            return {}
        seen.generator = self.generator
        if modality in halves:
            used = view.use[:, model.modalities.index(modality)]
            seen = model.scored(modality, seen, halves[modality], used if where is None else used[where])
        return model.generative[modality].loss(z if where is None else z[where], seen)

    def _contests(self) -> dict[str, Contest]:
        """What the adversaries are shown."""
        adversaries, found = self.model.adversaries, {}
        if "modality" in adversaries:
            found["modality"] = modality_contest(self.samples, self.posteriors.present)
        if "batch" in adversaries:
            n, even = len(self.model.config.batches), self.model.formulas.even_batches
            found["batch"] = batch_contest(self.z, self.minibatch.batch, n, even=even)
        return {name: contest for name, contest in found.items() if contest is not None}

    def _added_up(self, parts: dict[str, torch.Tensor], pull: torch.Tensor | None, weights: Weights) -> LossTerms:
        model, contests = self.model, self._contests()
        kl = parts["kl"] + parts.get("protein_background", 0.0)
        reconstruction = sum((parts[m] for m in model.modalities if m in parts), torch.zeros_like(kl))
        total = reconstruction + weights.kl * kl + weights.alignment * parts["alignment"]
        if "labels" in parts:
            total = total + model.config.labels_weight * parts["labels"]
        terms = {name: value.detach() for name, value in parts.items()}
        if pull is not None:
            # nats of mixing for nats of reconstruction: the same strength with 500 genes and with 20,000
            integration = reconstruction.detach() * pull
            total = total + weights.kl * integration
            terms["integration"] = integration.detach()
        terms["elbo_loss"] = (reconstruction + kl).detach()
        fool = sum((model.adversaries[k].fool(v, model.formulas) for k, v in contests.items()), torch.zeros_like(kl))
        terms["adversary"] = fool.detach()
        if contests and weights.adversary:
            total = total + weights.adversary * fool
        return LossTerms(total, terms, {m: r.cells.numel() for m, r in self.rows.items()}, contests)


def label_cost(classifier: nn.Linear, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum over labelled cells of the cross-entropy of a classifier on z (scANVI, Xu et al., Mol Syst Biol 2021), nats.

    `labels` (n_cells,) holds codes; -1 is a cell without a label, which costs nothing.
    """
    known = labels >= 0
    return nn.functional.cross_entropy(classifier(z[known]).to(z.dtype), labels[known], reduction="sum")


def comparisons(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """What `mixing_terms` compares for such a model: name to numbers of strata and groups; {} is nothing."""
    found: dict[str, tuple[int, int]] = {}
    several, n_batches = len(config.modalities) > 1, len(config.batches)
    if config.integrates_batches:
        found |= dict.fromkeys(("joint", "leading") if several else ("joint",), (1, n_batches))
    if config.modality_integration > 0 and several:
        found["measured"] = (n_batches, 1 << len(config.modalities))
    return found


def mixing_terms(
    model: Network, minibatch: Minibatch, posteriors: Posteriors, mixing: LocalMixing
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """How much less than expected groups mix in posterior means (`multivi_nf.model.local_mixing`).

    Returns
    -------
    Penalties, nats a cell, and what is charged of them for each nat of reconstruction: in training at the strength at
    which each acts, in evaluation what exceeds that with which a penalty is content, at full strength, so that epochs
    can be compared. What strangers cost is added to that, whatever the penalty leaves over.
    ``batch_mixing`` is the mean of two penalties, of the joint means and of those of the modality that leads, each
    with sides of its own. ``modality_mixing`` asks the joint means in which modalities a cell was measured, beyond
    what its neighbours' batches make expected: otherwise batches that differ in modalities would be charged twice.
    """
    config, present, note = model.config, posteriors.present, model.training
    mean = joint(posteriors, config.fusion, model.formulas).mean
    costs, apart = {}, {}
    everyone = torch.arange(len(mean), device=mean.device)
    looked_at = {"joint": (mean, everyone)} if "joint" in mixing.shapes else {}
    if "leading" in mixing.shapes:
        rows = present[:, config.leading].nonzero().squeeze(1)
        looked_at["leading"] = (posteriors.mean[rows, config.leading], rows)
    for name, (of, rows) in looked_at.items():
        batch, theirs = minibatch.batch[rows], minibatch.counterparts
        theirs = None if theirs is None else theirs[rows]
        costs[name] = mixing.charge(name, of, batch, counterparts=theirs, note=note)
        if theirs is not None and minibatch.told_apart is not None:
            apart[name] = strangers(of, batch, theirs, minibatch.told_apart[rows], SHARPNESS[name])
    if "measured" in mixing.shapes:
        bit = torch.arange(present.shape[1], device=present.device)
        pattern = (present.long() << bit).sum(1)
        costs["measured"] = mixing.charge("measured", mean, pattern, minibatch.batch, note=note)
    strength = dict.fromkeys(("joint", "leading"), config.batch_integration / (1 + ("leading" in costs)))
    strength["measured"] = config.modality_integration
    charged = mean.new_zeros(())
    for name, (cost, content) in costs.items():
        away = apart.get(name, mean.new_zeros(()))
        if note:
            s = mixing.strength(name).to(cost.dtype)
            # strangers at full strength, as soon as mixing acts at all
            acting = s * cost + (s / SOON).clamp(max=1) * away
        else:
            acting = (cost - content).clamp(min=0) + away
        charged = charged + INTEGRATION_SHARE * strength[name] * acting
    found = {}
    if "joint" in costs:
        found["batch_mixing"] = (costs["joint"][0] + costs.get("leading", costs["joint"])[0]) / 2
    if "measured" in costs:
        found["modality_mixing"] = costs["measured"][0]
    return found, charged


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
            cells, counts = cells[keep], counts.take(keep)
            size = None if size is None else size[keep]
            tiles = None if tiles is None else tiles_of(counts)
    elif cells.numel() < minibatch.n_cells:
        where = cells
    codes = (minibatch.batch[cells], minibatch.categorical[cells], minibatch.continuous[cells])
    weight = view.weight if where is None else view.weight[where]
    return Observed(counts, tiles, codes, size, weight), where


def _noise(like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
