"""MultiVI: one latent space for cells measured by RNA, accessibility and surface protein in any mix.

For a cell c with present modalities M(c) and batch s (Ashuach et al., Nat Methods 2023):

    q(z_m | x_m, s) = N(mu_m, v_m)                       one encoder per modality
    z = sum_m w_m z_m                                    joint: mean sum w mu, variance sum w^2 v
    rna      x_g ~ NB(l_c softmax(f(z, s))_g, theta_g)
    atac     x_j ~ Bernoulli(y_j(z, s) d_c r_j)
    protein  x_t ~ pi NB(beta_t) + (1 - pi) NB(alpha_t beta_t),  log beta_t ~ N(prior of batch)
    objective = -E_q(z)[log p(x | z, s)] + KL(q(z) || N(0, 1)) + alignment + adversary

Encoders, decoders and likelihoods meet only the rows that were measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from multivi_nf.model import likelihoods
from multivi_nf.model.adversary import Classifier, Contest, batch_contest, modality_contest
from multivi_nf.model.alignment import alignment
from multivi_nf.model.config import ModelConfig
from multivi_nf.model.fusion import Gaussian, Joint, Posteriors, fuse, joint, kl_standard, subsets
from multivi_nf.model.minibatch import Minibatch, ModalityRows, SparseRows
from multivi_nf.model.networks import Encoder, FullSizeEncoder, Layers, ProteinDecoder, SizeHead
from multivi_nf.model.sparse import Tiles, first_layers, log1p_rows, row_sums, select_rows, tiles_of

N_REFERENCE_BATCHES = 8

CodeTuple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass
class LossTerms:
    """What a minibatch costs.

    Attributes
    ----------
    total
        Scalar with gradient, nats per cell.
    terms
        Detached parts, per cell of the minibatch: ``rna``, ``atac``, ``protein``, ``protein_background`` (KL),
        ``kl`` (at weight 1), ``alignment``, ``adversary``, ``elbo_loss`` (= reconstruction + KLs at weight 1).
    n_rows
        Modality to number of measured rows.
    contests
        What the adversaries saw, for `MultiVI.adversary_loss`.
    """

    total: torch.Tensor
    terms: dict[str, torch.Tensor]
    n_rows: dict[str, int] = field(default_factory=dict)
    contests: dict[str, Contest] = field(default_factory=dict)


class MultiVI(nn.Module):
    """The model. Pure torch: it knows minibatches, no files and no AnnData.

    Parameters
    ----------
    config
        Architecture.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.modalities = config.modalities
        self.scvi = config.compat == "scvi"
        self.encoders = nn.ModuleDict({m: Encoder(config, m) for m in self.modalities})
        sized = [m for m in ("rna", "atac") if m in self.modalities]
        if not self.scvi and config.library == "observed" and "rna" in sized:
            sized.remove("rna")
        make = (lambda m: FullSizeEncoder(config, m)) if self.scvi else (lambda m: SizeHead(config.n_hidden))
        self.size_encoders = nn.ModuleDict({m: make(m) for m in sized})
        self.fusion_logits = nn.Parameter(torch.zeros(len(self.modalities))) if config.fusion == "weighted" else None
        self.decoders = nn.ModuleDict()
        for m, act in (("rna", "relu"), ("atac", "leaky")):
            if m in self.modalities:
                self.decoders[m] = Layers(config, m, config.n_latent, act=act, dropout=0.0, unknown="average")
        self._build_outputs()
        self.adversaries = nn.ModuleDict()
        if config.adversary in ("modality", "both") and len(self.modalities) > 1 and not self.scvi:
            self.adversaries["modality"] = Classifier(config.n_latent, len(self.modalities))
        batch_too = config.adversary in ("batch", "both") or (self.scvi and config.adversary != "none")
        if batch_too and len(config.batches) > 1:
            self.adversaries["batch"] = Classifier(config.n_latent, len(config.batches))

    def _build_outputs(self) -> None:
        config, n_batches, h = self.config, len(self.config.batches), self.config.n_hidden
        self.heads = nn.ModuleDict({m: nn.Linear(h, config.n_features[m]) for m in self.decoders})
        if "rna" in self.modalities:
            g = config.n_features["rna"]
            if config.rna_likelihood != "poisson":
                shape = (n_batches, g) if config.dispersion == "gene-batch" else (g,)
                self.rna_log_dispersion = nn.Parameter(torch.zeros(shape))
            if config.rna_likelihood == "zinb":
                self.rna_dropout = nn.Linear(h, g)
        if "atac" in self.modalities:
            self.region = nn.Parameter(torch.zeros(config.n_features["atac"]))
        if "protein" in self.modalities:
            p = config.n_features["protein"]
            self.decoders["protein"] = ProteinDecoder(config)
            self.protein_log_dispersion = nn.Parameter(torch.zeros(p))
            self.background_mean = nn.Parameter(torch.zeros(n_batches, p))
            self.background_log_sd = nn.Parameter(torch.zeros(n_batches, p))
            panel = torch.ones(n_batches, p, dtype=torch.bool)
            if config.panel is not None:
                panel = torch.tensor(config.panel, dtype=torch.bool)
            self.register_buffer("panel", panel, persistent=False)
        for m in self.modalities:
            cells = torch.tensor(config.batch_cells[m], dtype=torch.float64)
            codes = torch.where(cells > 0, torch.arange(n_batches), -1)
            self.register_buffer(f"{m}_code", torch.cat([codes, codes.new_tensor([-1])]), persistent=False)

    # ------------------------------------------------------------------ parameters

    def model_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters but the adversaries'."""
        return (p for name, p in self.named_parameters() if not name.startswith("adversaries."))

    def adversary_parameters(self) -> Iterator[nn.Parameter]:
        """The adversaries' parameters, for their own optimiser."""
        return self.adversaries.parameters()

    def notes(self) -> list[str]:
        """What the model was asked to do and does not, in sentences for the user."""
        said = []
        wanted = self.config.adversary
        if wanted in ("modality", "both") and len(self.modalities) < 2 and not self.scvi:
            said.append("the adversary on modality is off: the data have one modality")
        if wanted in ("batch", "both") and len(self.config.batches) < 2:
            said.append("the adversary on batch is off: the data have one batch")
        return said

    @torch.no_grad()
    def initialise_background(self, log_mean: torch.Tensor, log_sd: torch.Tensor) -> None:
        """Set the prior of the protein background, (n_batches, n_proteins) mean and log s.d. of log background."""
        self.background_mean.copy_(log_mean)
        self.background_log_sd.copy_(log_sd)

    @torch.no_grad()
    def initialise_from_means(self, means: dict[str, torch.Tensor]) -> None:
        """Start the decoders at the data's mean profile, which saves epochs.

        Parameters
        ----------
        means
            Modality to (n_features,) mean over the training cells that have it: of counts for RNA, of 0/1 for ATAC.
        """
        if "rna" in means and "rna" in self.heads:
            mean = means["rna"].to(self.heads["rna"].bias).clamp(min=0)
            share = (mean + 1e-3 * mean.mean() + 1e-12) / (mean.sum() + 1e-12)
            self.heads["rna"].bias.copy_(share.log())
        if "atac" in means and "atac" in self.heads:
            mean = means["atac"].to(self.region)
            # a cell of median depth starts at d = 0.5; the rest is shared by y and r, which leaves y room to rise
            root = (2 * mean).clamp(1e-6, 0.98).sqrt()
            self.heads["atac"].bias.copy_(torch.logit(root))
            self.region.copy_(torch.logit(root))
            if "atac" in self.size_encoders and not self.scvi:
                self.size_encoders["atac"].offset.copy_(mean.sum().clamp(min=1).log())
        if "rna" in means and "rna" in self.size_encoders and not self.scvi:
            log_total = means["rna"].sum().clamp(min=1).log()
            self.size_encoders["rna"].offset.copy_(log_total)
            self.size_encoders["rna"].level.copy_(log_total)

    # ------------------------------------------------------------------ encoding

    def _inputs(self, modality: str, rows: ModalityRows) -> Tiles:
        """What the encoder sees: log1p counts, 0/1 for ATAC (scvi: raw counts), grouped by tile once per minibatch."""
        counts = rows.counts
        if modality == "atac" and not self.scvi and counts.values is not None:
            counts = SparseRows(counts.indptr, counts.indices, None, counts.n_features)
        return tiles_of(counts if self.scvi else log1p_rows(counts))

    def _rows(self, minibatch: Minibatch) -> dict[str, ModalityRows]:
        """Measured rows by modality; scvi counts a row without a count as not measured."""
        found = {m: minibatch.modalities[m] for m in self.modalities if m in minibatch.modalities}
        found = {m: rows for m, rows in found.items() if rows.cells.numel()}
        if self.scvi:
            for m, rows in found.items():
                keep = (row_sums(rows.counts) > 0).nonzero().squeeze(1)
                if keep.numel() < rows.cells.numel():
                    found[m] = ModalityRows(rows.cells[keep], select_rows(rows.counts, keep))
        return {m: rows for m, rows in found.items() if rows.cells.numel()}

    def _hidden_batch(self, minibatch: Minibatch, generator: torch.Generator | None) -> torch.Tensor:
        """Batch codes for the encoders: some hidden at random in training, so that the unknown code is trained."""
        if self.scvi:
            return torch.full_like(minibatch.batch, -1)
        if not self.training or not self.config.batch_dropout or generator is None:
            return minibatch.batch
        hide = torch.rand(minibatch.n_cells, generator=generator, device=minibatch.batch.device)
        return minibatch.batch.masked_fill(hide < self.config.batch_dropout, -1)

    def encode(
        self,
        minibatch: Minibatch,
        *,
        generator: torch.Generator | None = None,
        tiles: dict[str, Tiles] | None = None,
    ) -> dict[str, Gaussian]:
        """q(z_m | x_m, s) of every measured row.

        Parameters
        ----------
        minibatch
            Cells.
        generator
            Hides batch codes at random in training mode; None hides none.
        tiles
            Receives each modality's tiles, for the likelihood.

        Returns
        -------
        dict
            Modality to `Gaussian`, rows aligned with ``minibatch.modalities[m].cells``. `Gaussian.size` is the
            log library (rna) or the logit of the depth (atac).
        """
        batch = self._hidden_batch(minibatch, generator)
        encoded = {}
        for m, rows in self._rows(minibatch).items():
            x = self._inputs(m, rows)
            if tiles is not None:
                tiles[m] = x
            codes = (batch[rows.cells], minibatch.categorical[rows.cells], minibatch.continuous[rows.cells])
            if self.scvi:
                codes = (codes[0], torch.full_like(codes[1], -1), codes[2][:, :0])
            encoder = self.encoders[m]
            if self.scvi and m in self.size_encoders:
                hidden, hidden_size = first_layers(x, encoder.weight, self.size_encoders[m].weight)
                first = encoder.layers.layer(0, hidden + encoder.bias, codes)
                size = self.size_encoders[m](hidden_size, codes)
                if m == "rna":
                    size = nn.functional.leaky_relu(size)
            else:
                first = encoder.first(x, codes)
                size = self._size(m, rows, first)
            encoded[m] = Gaussian(*encoder.rest(first, codes), size)
        return encoded

    def _size(self, modality: str, rows: ModalityRows, first: torch.Tensor) -> torch.Tensor | None:
        if modality == "protein":
            return None
        counts = rows.counts
        if modality == "atac" and counts.values is not None:
            counts = SparseRows(counts.indptr, counts.indices, None, counts.n_features)
        total = row_sums(counts).to(first.dtype)
        if modality in self.size_encoders:
            return self.size_encoders[modality](first, total)
        return total.log()

    def stack(self, n_cells: int, minibatch: Minibatch, encoded: dict[str, Gaussian]) -> Posteriors:
        """Posteriors of all cells side by side, (n_cells, n_modalities, ...); absent ones are N(0, 1)."""
        like = next(iter(encoded.values())).mean if encoded else next(self.parameters())
        shape = (n_cells, self.config.n_latent)
        means, variances, logits, present = [], [], [], []
        rows = self._rows(minibatch) if self.scvi else minibatch.modalities
        for i, m in enumerate(self.modalities):
            mean, variance = like.new_zeros(shape), like.new_ones(shape)
            logit, there = like.new_zeros(n_cells), torch.zeros(n_cells, dtype=torch.bool, device=like.device)
            if self.fusion_logits is not None:
                logit = logit + self.fusion_logits[i]
            if m in encoded:
                cells, q = rows[m].cells, encoded[m]
                mean, variance = mean.index_copy(0, cells, q.mean), variance.index_copy(0, cells, q.variance)
                there = there.index_fill(0, cells, True)
                if q.weight_logit is not None:
                    logit = logit.index_copy(0, cells, q.weight_logit)
            means.append(mean)
            variances.append(variance)
            logits.append(logit)
            present.append(there)
        return Posteriors(torch.stack(means, 1), torch.stack(variances, 1), torch.stack(logits, 1),
                          torch.stack(present, 1))  # fmt: skip

    def fuse(self, minibatch: Minibatch, encoded: dict[str, Gaussian]) -> Joint:
        """Joint posterior of every cell of the minibatch; each must have a measured modality."""
        return joint(self.stack(minibatch.n_cells, minibatch, encoded), self.config.fusion, compat=self.scvi)

    def depth(self, minibatch: Minibatch) -> torch.Tensor:
        """(n_atac_rows,) depth d_c in (0, 1) of the cells with ATAC, in the order of their rows."""
        return self.encode(minibatch)["atac"].size.sigmoid()

    def library(self, minibatch: Minibatch) -> torch.Tensor:
        """(n_rna_rows,) library l_c of the cells with RNA, counts: observed or encoded, as configured."""
        return self.encode(minibatch)["rna"].size.exp()

    # ------------------------------------------------------------------ objective

    def _views(self, present: torch.Tensor, generator: torch.Generator | None) -> list[tuple[torch.Tensor, ...]]:
        """Which modalities z is drawn from: list of (use (n, M) bool, weight (n,)).

        The objective is (1 - c) ELBO of the joint posterior + c mean of the single views' ELBOs, and with ``mopoe``
        the joint's is the mean over subsets. In training one view per cell is drawn with these weights: the same
        objective in expectation at the cost of one decoding. In evaluation all are computed.
        """
        c, mixture = self.config.cross_reconstruction, self.config.fusion == "mopoe"
        n, n_modalities = present.shape
        one = torch.ones(n, dtype=torch.get_default_dtype(), device=present.device)
        if self.scvi or n_modalities == 1 or (c == 0 and not mixture):
            return [(present, one)]
        count = present.sum(1)
        candidates = []
        for subset in subsets(n_modalities):
            use = torch.tensor(subset, device=present.device).expand_as(present)
            inside = (present | ~use).all(1)
            weight = torch.zeros_like(one)
            if mixture:
                weight += (1 - c) / (torch.exp2(count.to(one.dtype)) - 1).clamp(min=1)
            else:
                weight += (1 - c) * (use == present).all(1)
            if sum(subset) == 1:
                weight += c / count.clamp(min=1)
            candidates.append((use, weight * inside))
        if not self.training or generator is None:
            return candidates
        cumulative = torch.stack([w for _, w in candidates], 1).cumsum(1)
        draw = torch.rand(n, 1, generator=generator, device=present.device, dtype=one.dtype) * cumulative[:, -1:]
        pick = (cumulative <= draw).sum(1).clamp(max=len(candidates) - 1)
        table = torch.tensor(subsets(n_modalities), device=present.device)
        return [(table[pick], one)]

    def loss(
        self,
        minibatch: Minibatch,
        *,
        kl_weight: float = 1.0,
        generator: torch.Generator | None = None,
        adversary_weight: float | None = None,
        denominator: float | None = None,
    ) -> LossTerms:
        """Objective of a minibatch, nats per cell.

        Parameters
        ----------
        minibatch
            Cells, each with at least one measured modality.
        kl_weight
            Weight of the KLs (warm-up).
        generator
            Source of all noise: samples of z, hidden batch codes, the view that is drawn. Same state, same loss.
        adversary_weight
            In place of the configuration's, for a warm-up.
        denominator
            Divide by this many cells rather than by the minibatch's (gradient accumulation, several devices).
        """
        tiles: dict[str, Tiles] = {}
        n = minibatch.n_cells
        per_cell = 1.0 / (n if denominator is None else denominator)
        encoded = self.encode(minibatch, generator=generator, tiles=tiles)
        posteriors = self.stack(n, minibatch, encoded)
        noise = _noise(posteriors.mean.shape, posteriors.mean, generator)
        noise_joint = _noise((n, self.config.n_latent), posteriors.mean, generator)
        samples = posteriors.mean + posteriors.variance.sqrt() * noise
        zero = posteriors.mean.new_zeros(())
        parts: dict[str, torch.Tensor] = {"kl": zero}
        views = self._views(posteriors.present, generator)
        rows = self._rows(minibatch)
        z_first = None
        for use, weight in views:
            cells = None if len(views) == 1 else (weight > 0).nonzero().squeeze(1)
            if cells is not None and not cells.numel():
                continue
            view = posteriors if cells is None else _take_cells(posteriors, cells)
            use, weight = (use, weight) if cells is None else (use[cells], weight[cells])
            eps = noise_joint if cells is None else noise_joint[cells]
            q = fuse(view, use, self.config.fusion, compat=self.scvi)
            z = q.mean + q.variance.sqrt() * eps
            z_first = z if cells is None else z_first
            parts["kl"] = parts["kl"] + torch.dot(kl_standard(q.mean, q.variance), weight.to(z.dtype))
            found = self._reconstruct(minibatch, rows, encoded, tiles, z, weight.to(z.dtype), cells, generator)
            for name, value in found.items():
                parts[name] = parts.get(name, zero) + value
        parts["alignment"] = alignment(posteriors, samples, self.config.alignment, compat=self.scvi)
        contests = self._contests(minibatch, posteriors, samples, z_first, noise_joint)
        return self._assemble(parts, contests, per_cell, kl_weight, adversary_weight,
                              {m: r.cells.numel() for m, r in rows.items()})  # fmt: skip

    def _assemble(
        self,
        parts: dict[str, torch.Tensor],
        contests: dict[str, Contest],
        per_cell: float,
        kl_weight: float,
        adversary_weight: float | None,
        n_rows: dict[str, int],
    ) -> LossTerms:
        parts = {name: value * per_cell for name, value in parts.items()}
        kl = parts["kl"] + parts.get("protein_background", 0.0)
        reconstruction = sum(parts[m] for m in self.modalities if m in parts)
        total = reconstruction + kl_weight * kl + self.config.alignment_weight * parts["alignment"]
        terms = {name: value.detach() for name, value in parts.items()}
        terms["elbo_loss"] = (reconstruction + kl).detach()
        weight = self.config.adversary_weight if adversary_weight is None else adversary_weight
        fool = [self.adversaries[name].fool(contest, compat=self.scvi) for name, contest in contests.items()]
        if fool and weight:
            total = total + weight * sum(fool)
        terms["adversary"] = sum(fool).detach() if fool else total.new_zeros(())
        return LossTerms(total, terms, n_rows, contests)

    def _contests(
        self,
        minibatch: Minibatch,
        posteriors: Posteriors,
        samples: torch.Tensor,
        z: torch.Tensor | None,
        noise: torch.Tensor,
    ) -> dict[str, Contest]:
        found = {}
        if "modality" in self.adversaries:
            found["modality"] = modality_contest(samples, posteriors.present, self.config.adversary_cells)
        if "batch" in self.adversaries:
            if z is None:
                z = joint(posteriors, self.config.fusion, compat=self.scvi).sample(noise)
            found["batch"] = batch_contest(z, minibatch.batch, len(self.config.batches))
        return {name: contest for name, contest in found.items() if contest is not None}

    def adversary_loss(self, losses: LossTerms) -> torch.Tensor | None:
        """The classifiers' own loss on what `loss` showed them; None where there is nothing to tell apart.

        Call it after the model's backward pass; only adversary parameters get gradients.
        """
        found = [self.adversaries[name].loss(contest) for name, contest in losses.contests.items()]
        return sum(found) if found else None

    def adversary_accuracy(self, losses: LossTerms) -> dict[str, float]:
        """Class-balanced accuracy of each adversary on what `loss` showed it."""
        return {name: float(self.adversaries[name].accuracy(c)) for name, c in losses.contests.items()}

    def _reconstruct(
        self,
        minibatch: Minibatch,
        rows: dict[str, ModalityRows],
        encoded: dict[str, Gaussian],
        tiles: dict[str, Tiles],
        z: torch.Tensor,
        weight: torch.Tensor,
        cells: torch.Tensor | None,
        generator: torch.Generator | None,
    ) -> dict[str, torch.Tensor]:
        """Weighted sum of -log p(x_m | z) over the measured rows among `cells` (None: all), by modality."""
        found = {}
        for m, measured in rows.items():
            at, counts, tile, size = measured.cells, measured.counts, tiles[m], encoded[m].size
            z_row = at
            if cells is not None:
                where = torch.full((minibatch.n_cells,), -1, dtype=torch.int64, device=at.device)
                where[cells] = torch.arange(cells.numel(), device=at.device)
                keep = (where[at] >= 0).nonzero().squeeze(1)
                if not keep.numel():
                    continue
                if keep.numel() < at.numel():
                    at, counts, tile = at[keep], select_rows(counts, keep), None
                    size = None if size is None else size[keep]
                z_row = where[at]
            elif at.numel() == minibatch.n_cells:
                z_row = None
            z_m, w = (z, weight) if z_row is None else (z[z_row], weight[z_row])
            codes = (minibatch.batch[at], minibatch.categorical[at], minibatch.continuous[at])
            if m == "atac" and tile is None:
                tile = tiles_of(SparseRows(counts.indptr, counts.indices, None, counts.n_features))
            found.update(getattr(self, f"_{m}_loss")(z_m, w, codes, counts, tile, size, generator))
        return found

    def _rna_loss(self, z, w, codes: CodeTuple, counts: SparseRows, tile, size, generator) -> dict[str, torch.Tensor]:
        h = self.hidden("rna", z, *codes)
        logits = self.heads["rna"](h)
        if self.config.rna_likelihood == "poisson":
            return {"rna": likelihoods.poisson(logits, size, counts, w)[0]}
        theta = self.log_dispersion(codes[0])
        if self.config.rna_likelihood == "nb":
            return {"rna": likelihoods.negative_binomial(logits, size, theta, counts, w)[0]}
        return {"rna": likelihoods.zero_inflated(logits, size, theta, self.rna_dropout(h), counts, w)[0]}

    def _atac_loss(self, z, w, codes: CodeTuple, counts: SparseRows, tile, size, generator) -> dict[str, torch.Tensor]:
        head = self.heads["atac"]
        h = self.hidden("atac", z, *codes)
        return {"atac": likelihoods.bernoulli(h, head.weight, head.bias, size, self.region, tile, w)[0]}

    def _protein_loss(self, z, w, codes: CodeTuple, counts: SparseRows, tile, size, generator):
        fore, mixing, mean, log_sd = self.decoders["protein"](z, codes).unbind(1)
        log_background = mean + log_sd.exp() * _noise(mean.shape, mean, generator)
        x = counts.dense().to(z.dtype)
        panel = None if self.scvi else self.panel_rows(codes[0])
        value, _ = likelihoods.protein_mixture(
            x, log_background, fore, mixing, self.protein_log_dispersion, panel, w
        )
        if self.scvi:
            return {"protein": value}
        prior_mean, prior_log_sd = self.background_prior(codes[0])
        kl = prior_log_sd - log_sd - 0.5
        kl = kl + 0.5 * ((2 * log_sd).exp() + (mean - prior_mean).square()) * (-2 * prior_log_sd).exp()
        kl = torch.where(panel, kl, torch.zeros_like(kl)).sum(1)
        return {"protein": value, "protein_background": torch.dot(kl, w)}

    # ------------------------------------------------------------------ decoding

    def _batch_rows(self, modality: str, table: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        """Rows of a (n_batches, n) table by batch; untrained and unknown ones are the average of the trained rows."""
        codes = getattr(self, f"{modality}_code")[batch]
        cells = torch.tensor(self.config.batch_cells[modality], device=table.device)
        trained = cells.nonzero().squeeze(1)
        share = (cells[trained] / cells.sum()).to(table.dtype)
        average = (share @ table[trained]).unsqueeze(0)
        return nn.functional.embedding(codes % (table.shape[0] + 1), torch.cat([table, average]))

    def log_dispersion(self, batch: torch.Tensor) -> torch.Tensor:
        """Log inverse dispersion of RNA: (n_genes,), or (n_rows, n_genes) per batch."""
        if self.config.dispersion == "gene":
            return self.rna_log_dispersion
        return self._batch_rows("rna", self.rna_log_dispersion, batch)

    def background_prior(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n_rows, n_proteins) mean and log s.d. of the log background's prior."""
        return tuple(self._batch_rows("protein", t, batch) for t in (self.background_mean, self.background_log_sd))

    def panel_rows(self, batch: torch.Tensor) -> torch.Tensor:
        """(n_rows, n_proteins) whether a protein is in the row's panel; of an unknown batch, all are."""
        full = torch.ones_like(self.panel[:1])
        return torch.cat([self.panel, full])[getattr(self, "protein_code")[batch]]

    def hidden(
        self,
        modality: str,
        z: torch.Tensor,
        batch_index: torch.Tensor,
        categorical: torch.Tensor | None = None,
        continuous: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What a modality's tiles of features are computed from.

        Parameters
        ----------
        modality
            ``rna``, ``atac`` or ``protein``.
        z
            (n_rows, n_latent).
        batch_index
            (n_rows,) batch to decode under; -1, and batches that never trained this modality, mean the average of
            the trained batches' codes, weighted by cells. See `reference_mixture`.
        categorical, continuous
            Further covariates of the rows; None is unknown (-1) and 0.

        Returns
        -------
        torch.Tensor
            (n_rows, n_hidden), for protein (n_rows, 4, n_proteins).
        """
        return self.decoders[modality](z, (batch_index, categorical, continuous))

    def tile(
        self, modality: str, h: torch.Tensor, start: int, stop: int, batch_index: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Parameters of the features start..stop from `hidden`.

        Returns
        -------
        dict
            rna: ``logits`` (n, width), whose softmax over all genes is the mean profile; ``log_dispersion``
            (width,) or (n, width), absent for Poisson; ``dropout_logits`` (n, width) for zinb.
            atac: ``probability`` y (n, width), ``region`` r (width,).
            protein: ``log_background_mean``, ``log_background_sd``, ``foreground`` (the factor alpha > 1),
            ``mixing`` (probability of background), ``panel`` (bool), all (n, width), ``log_dispersion`` (width,).
        """
        if modality == "protein":
            fore, mixing, mean, log_sd = h[:, :, start:stop].unbind(1)
            return {
                "log_background_mean": mean,
                "log_background_sd": log_sd.exp(),
                "foreground": 1 + nn.functional.relu(fore),
                "mixing": mixing.sigmoid(),
                "panel": self.panel_rows(batch_index)[:, start:stop],
                "log_dispersion": self.protein_log_dispersion[start:stop],
            }
        head = self.heads[modality]
        logits = torch.addmm(head.bias[start:stop], h, head.weight[start:stop].T)
        if modality == "atac":
            return {"probability": logits.sigmoid(), "region": self.region[start:stop].sigmoid()}
        found = {"logits": logits}
        if self.config.rna_likelihood != "poisson":
            found["log_dispersion"] = self.log_dispersion(batch_index)[..., start:stop]
        if self.config.rna_likelihood == "zinb":
            drop = self.rna_dropout
            found["dropout_logits"] = torch.addmm(drop.bias[start:stop], h, drop.weight[start:stop].T)
        return found

    def reference_mixture(self, modality: str) -> list[tuple[int, float]]:
        """The batches to decode a modality under: the 8 largest that measured it, weighted by their cells."""
        cells = self.config.batch_cells[modality]
        order = sorted((i for i, n in enumerate(cells) if n), key=lambda i: (-cells[i], i))[:N_REFERENCE_BATCHES]
        total = sum(cells[i] for i in order)
        return [(i, cells[i] / total) for i in order]

    def reference_weights(self, modality: str) -> tuple[torch.Tensor, torch.Tensor]:
        """`reference_mixture` by feature: (n_ref,) batches and (n_ref, n_features) weights that sum to 1 over batches.

        A protein counts only the batches that have it in their panel; where none of the 8 largest has, the largest
        that has is added. For other modalities all features have the same weights.
        """
        chosen = [i for i, _ in self.reference_mixture(modality)]
        cells = torch.tensor(self.config.batch_cells[modality], dtype=torch.get_default_dtype())
        if modality != "protein":
            share = cells[chosen] / cells[chosen].sum()
            return torch.tensor(chosen), share.unsqueeze(1).expand(-1, self.config.n_features[modality]).clone()
        panel = self.panel.cpu()
        for protein in (~panel[chosen].any(0)).nonzero().squeeze(1).tolist():
            if not panel[chosen, protein].any():
                having = (cells * panel[:, protein]).argmax().item()
                chosen.append(int(having))
        mass = cells[chosen].unsqueeze(1) * panel[chosen]
        return torch.tensor(chosen), mass / mass.sum(0).clamp(min=1e-12)


def _noise(shape: tuple[int, ...] | torch.Size, like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def _take_cells(posteriors: Posteriors, cells: torch.Tensor) -> Posteriors:
    return Posteriors(
        posteriors.mean[cells], posteriors.variance[cells], posteriors.logit[cells], posteriors.present[cells]
    )
