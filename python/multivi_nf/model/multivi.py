"""MultiVI: one latent space for cells measured by RNA, accessibility and surface protein in any mix.

For a cell c with present modalities M(c) and batch s (Ashuach et al., Nat Methods 2023):

    q(z_m | x_m, s) = N(mu_m, v_m)                       one encoder per modality
    z = sum_m w_m z_m                                    joint: mean sum w mu, variance sum w^2 v
    rna      x_g ~ NB(l_c softmax(f(z, s))_g, theta_g)
    atac     x_j ~ Bernoulli(y_j(z, s) d_c r_j), or Poisson(l_c softmax(f(z, s))_j) of fragments
    protein  x_t ~ pi NB(beta_t) + (1 - pi) NB(alpha_t beta_t),  log beta_t ~ N(prior of batch)
    objective = -E_q(z)[log p(x | z, s)] + KL(q(z) || N(0, 1)) + alignment + adversary

Encoders, decoders and likelihoods meet only the rows that were measured.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from multivi_nf.data.minibatch import Minibatch, ModalityRows, SparseRows
from multivi_nf.model.adversary import Classifier
from multivi_nf.model.config import ModelConfig
from multivi_nf.model.fusion import Gaussian, Joint, Posteriors, joint
from multivi_nf.model.generative import Observed, generative
from multivi_nf.model.local_mixing import LocalMixing
from multivi_nf.model.loss import LossTerms, objective
from multivi_nf.model.networks import CodeTable, Encoder, FullSizeEncoder, SizeHead
from multivi_nf.model.sparse import Tiles, binary, first_layers, log1p_rows, row_sums, select_rows, tiles_of
from multivi_nf.model.thinning import THINNED, Halves, scored, thinned_rows, thinned_tiles

N_REFERENCE_BATCHES = 8
"""At most so many batches make up the mixture that a modality is decoded under."""


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
        self.counts_peaks = config.atac_likelihood == "poisson"
        self.encoders = nn.ModuleDict({m: Encoder(config, m) for m in self.modalities})
        self.size_encoders = nn.ModuleDict()
        for m in ("rna", "atac"):
            if m in self.modalities and self.scvi:
                self.size_encoders[m] = FullSizeEncoder(config, m)
            elif m in self.modalities and (self._is_open(m) or config.library == "encoded"):
                self.size_encoders[m] = SizeHead(config.n_hidden)
        self.fusion_logits = nn.Parameter(torch.zeros(len(self.modalities))) if config.fusion == "weighted" else None
        self.generative = nn.ModuleDict({m: generative(config, m) for m in self.modalities})
        self.adversaries = nn.ModuleDict()
        if config.adversary in ("modality", "both") and len(self.modalities) > 1 and not self.scvi:
            self.adversaries["modality"] = Classifier(config.n_latent, len(self.modalities))
        on_batch = config.adversary in ("batch", "both") or (self.scvi and config.adversary != "none")
        if on_batch and len(config.batches) > 1:
            self.adversaries["batch"] = Classifier(config.n_latent, len(config.batches))
        # the last to be made: the others start as they do without it
        self.classifier = nn.Linear(config.n_latent, len(config.label_names)) if config.guided else None

    def _is_open(self, modality: str) -> bool:
        """Is this a modality whose features are open or not, whatever is counted?"""
        return modality == "atac" and not self.counts_peaks

    # ------------------------------------------------------------------ parameters

    def model_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters but the adversaries'."""
        return (p for name, p in self.named_parameters() if not name.startswith("adversaries."))

    def adversary_parameters(self) -> Iterator[nn.Parameter]:
        """The adversaries' parameters, for their own optimiser."""
        return self.adversaries.parameters()

    def notes(self) -> list[str]:
        """What the model was asked to do and does not, in sentences for the user."""
        said, wanted = [], self.config.adversary
        if wanted in ("modality", "both") and len(self.modalities) < 2 and not self.scvi:
            said.append("the adversary on modality is off: the data have one modality")
        if (wanted in ("batch", "both") or (self.scvi and wanted != "none")) and len(self.config.batches) < 2:
            said.append("the adversary on batch is off: the data have one batch")
        return said

    def batch_tables(self) -> dict[str, str]:
        """Name of each parameter with one row a batch, to its modality: what a new batch adds rows to.

        Encoders' tables have one row more, the last, for unknown batches.
        """
        tables = {name: m for name, m in self.named_modules() if isinstance(m, CodeTable) and m.covariate == "batch"}
        return {f"{name}.rows": name.split(".")[1] for name in tables}

    @torch.no_grad()
    def initialise_background(self, log_mean: torch.Tensor, log_sd: torch.Tensor) -> None:
        """Set the prior of the protein background, (n_batches, n_proteins) mean and log s.d. of log background."""
        self.generative["protein"].background_mean.rows.copy_(log_mean)
        self.generative["protein"].background_log_sd.rows.copy_(log_sd)

    @torch.no_grad()
    def initialise_from_means(self, means: dict[str, torch.Tensor]) -> None:
        """Start decoders and size encoders at the data's mean profile, which saves epochs.

        Parameters
        ----------
        means
            Modality to (n_features,) mean over the training cells that have it: of counts for RNA, of 0/1 for ATAC
            (of fragments where they are counted).
        """
        for m in ("rna", "atac"):
            if m not in means or m not in self.modalities:
                continue
            self.generative[m].initialise(means[m])
            if m in self.size_encoders and not self.scvi:
                log_total = means[m].sum().clamp(min=1).log()
                self.size_encoders[m].start_at(log_total, level=None if self._is_open(m) else log_total)

    @property
    def integrates_batches(self) -> bool:
        """Whether there are batches to bring together, and this is asked for."""
        return self.config.batch_integration > 0 and len(self.config.batches) > 1

    @property
    def leading(self) -> int:
        """Index of the modality that most batches measured, the first of them on ties."""
        measured = [sum(n > 0 for n in self.config.batch_cells[m]) for m in self.modalities]
        return measured.index(max(measured))

    @property
    def leader(self) -> int | None:
        """The modality that the others are aligned to: `leading` where batches are brought together, else None.

        What batches share must not be dragged towards what each has of its own.
        """
        return self.leading if self.integrates_batches and len(self.modalities) > 1 else None

    # ------------------------------------------------------------------ encoding

    def measured(self, minibatch: Minibatch) -> dict[str, ModalityRows]:
        """Rows by modality, of modalities with any. Presence is what the minibatch says, never what counts say.

        Only ``compat="scvi"`` takes a row without a count for not measured.
        """
        rows = {m: minibatch.modalities[m] for m in self.modalities if m in minibatch.modalities}
        if self.scvi:
            for m, r in rows.items():
                keep = (row_sums(r.counts) > 0).nonzero().squeeze(1)
                if keep.numel() < r.cells.numel():
                    rows[m] = ModalityRows(r.cells[keep], select_rows(r.counts, keep))
        return {m: r for m, r in rows.items() if r.cells.numel()}

    def encode(
        self,
        minibatch: Minibatch,
        *,
        generator: torch.Generator | None = None,
        tiles: dict[str, Tiles] | None = None,
        thinning: float = 0.0,
        halves: dict[str, Halves] | None = None,
    ) -> dict[str, Gaussian]:
        """q(z_m | x_m, s) = N(mu_m, diag v_m) of every measured row.

        Parameters
        ----------
        minibatch
            Cells.
        generator
            Hides batch codes, so that the unknown code is trained, and counts (`input_dropout`), at random in
            training mode; None hides none.
        tiles
            Receives each modality's counts by tile, for the likelihood.
        thinning, halves
            Share of the counts of `THINNED` hidden from their encoders in training mode with a generator, in place of
            `input_dropout`, and what receives them.

        Returns
        -------
        dict
            Modality to `Gaussian`, rows aligned with ``minibatch.modalities[m].cells``. `Gaussian.size` is the
            log library (rna, and atac where fragments are counted) or the logit of the depth (atac).
        """
        batch, noisy = minibatch.batch, self.training and generator is not None
        if noisy and self.config.batch_dropout and not self.scvi:
            hide = torch.rand(minibatch.n_cells, generator=generator, device=batch.device)
            batch = batch.masked_fill(hide < self.config.batch_dropout, -1)
        encoded = {}
        for m, rows in self.measured(minibatch).items():
            counts = binary(rows.counts) if self._is_open(m) and not self.scvi else rows.counts
            rate = thinning if noisy and halves is not None and m in THINNED else 0.0
            seen = counts
            if rate and m != "atac":
                seen, halves[m] = thinned_rows(counts, rate, generator)
            # the likelihood of fragments meets the tiles as they are counted
            counted = m == "atac" and self.counts_peaks
            x = tiles_of(counts if self.scvi or counted else log1p_rows(seen))
            if tiles is not None:
                tiles[m] = x
            if rate and m == "atac":
                x, halves[m] = thinned_tiles(x, rate, generator)
            if counted:
                x = x.logged()
            if self.scvi:
                encoded[m] = self._encode_scvi(m, x, batch[rows.cells])
                continue
            codes = (batch[rows.cells], minibatch.categorical[rows.cells], minibatch.continuous[rows.cells])
            dropped = self.config.input_dropout.get(m, 0.0)
            if dropped and noisy and not rate:
                x = x.thinned(dropped, generator)
            first = self.encoders[m].first(x, codes)
            encoded[m] = Gaussian(*self.encoders[m].rest(first, codes), self._size(m, counts, first))
        return encoded

    def scored(self, modality: str, seen: Observed, halves: Halves, used: torch.Tensor) -> Observed:
        """What a modality's likelihood scores of thinned rows, `used` where z was drawn from them."""
        open_or_not, own_total = self._is_open(modality), modality not in self.size_encoders
        return scored(seen, halves, used, open_or_not=open_or_not, observed_size=own_total)

    def _size(self, modality: str, counts: SparseRows, first: torch.Tensor) -> torch.Tensor | None:
        if modality == "protein":
            return None
        total = row_sums(counts).to(self.encoders[modality].bias.dtype)
        head = self.size_encoders[modality] if modality in self.size_encoders else None
        return total.log() if head is None else head(first, total)

    def _encode_scvi(self, modality: str, x: Tiles, batch: torch.Tensor) -> Gaussian:
        """Raw counts, no covariates, and a size encoder of full width beside each z encoder."""
        encoder, codes = self.encoders[modality], (torch.full_like(batch, -1), None, None)
        if modality == "protein":
            return Gaussian(*encoder.rest(encoder.first(x, codes), codes))
        own = self.size_encoders[modality]
        hidden, hidden_size = first_layers(x, encoder.weight, own.weight)
        first = encoder.layers.layer(0, hidden + encoder.bias, codes)
        size = own(hidden_size, codes)
        return Gaussian(*encoder.rest(first, codes), nn.functional.leaky_relu(size) if modality == "rna" else size)

    def stack(self, n_cells: int, minibatch: Minibatch, encoded: dict[str, Gaussian]) -> Posteriors:
        """Posteriors of all cells side by side, (n_cells, n_modalities, n_latent); absent ones are N(0, 1)."""
        n, like = n_cells, next(self.parameters())
        means, variances, logits, present = [], [], [], []
        rows = self.measured(minibatch)
        for i, m in enumerate(self.modalities):
            mean, variance = like.new_zeros(n, self.config.n_latent), like.new_ones(n, self.config.n_latent)
            logit, there = like.new_zeros(n), torch.zeros(n, dtype=torch.bool, device=like.device)
            if self.fusion_logits is not None:
                logit = logit + self.fusion_logits[i]
            if m in encoded:
                cells, q = rows[m].cells, encoded[m]
                mean, variance = mean.index_copy(0, cells, q.mean), variance.index_copy(0, cells, q.variance)
                there = there.index_fill(0, cells, True)
                if q.weight_logit is not None:
                    logit = logit.index_copy(0, cells, q.weight_logit.to(like.dtype))
            means.append(mean)
            variances.append(variance)
            logits.append(logit)
            present.append(there)
        return Posteriors(*(torch.stack(parts, 1) for parts in (means, variances, logits, present)))

    def fuse(self, minibatch: Minibatch, encoded: dict[str, Gaussian]) -> Joint:
        """Joint posterior of every cell of the minibatch; each must have a measured modality."""
        return joint(self.stack(minibatch.n_cells, minibatch, encoded), self.config.fusion, compat=self.scvi)

    def level(self, modality: str, size: torch.Tensor) -> torch.Tensor:
        """Library (counts) or depth in (0, 1) of cells from `Gaussian.size`, which is its logarithm or logit."""
        return size.sigmoid() if self._is_open(modality) else size.exp()

    def depth(self, minibatch: Minibatch) -> torch.Tensor:
        """(n_atac_rows,) depth d_c in (0, 1), or fragments l_c, of the cells with ATAC, in the order of their rows."""
        return self.level("atac", self.encode(_only(minibatch, "atac"))["atac"].size)

    def library(self, minibatch: Minibatch) -> torch.Tensor:
        """(n_rna_rows,) library l_c of the cells with RNA, counts: observed or encoded, as configured."""
        return self.encode(_only(minibatch, "rna"))["rna"].size.exp()

    # ------------------------------------------------------------------ objective

    def loss(
        self,
        minibatch: Minibatch,
        *,
        kl_weight: float = 1.0,
        generator: torch.Generator | None = None,
        alignment_weight: float | None = None,
        adversary_weight: float | None = None,
        denominator: float | None = None,
        mixing: LocalMixing | None = None,
        thinning: float = 0.0,
    ) -> LossTerms:
        """Objective of a minibatch, nats per cell (`multivi_nf.model.loss`).

        Parameters
        ----------
        minibatch
            Cells, each with at least one measured modality.
        kl_weight
            Weight of the KLs (warm-up).
        generator
            Source of all noise but dropout: samples of z, hidden batch codes, the view that is drawn.
        alignment_weight, adversary_weight
            In place of the configuration's, for a warm-up: at full weight from the first step the alignment is a trap,
            since posteriors that say nothing agree.
        denominator
            Divide by this many cells rather than by the minibatch's (gradient accumulation, several devices).
        mixing
            Running sums of the local mixing penalties; None leaves these out.
        thinning
            In training, hide this share of a cell's RNA and ATAC counts from its encoders and score these alone
            (`multivi_nf.model.thinning`); 0 is not at all.
        """
        weights = (kl_weight, alignment_weight, adversary_weight)
        return objective(self, minibatch, generator, weights, denominator, mixing, thinning)

    def adversary_loss(self, losses: LossTerms) -> torch.Tensor | None:
        """The classifiers' own loss on what `loss` showed them; None where there is nothing to tell apart.

        Call it after the model's backward pass; only adversary parameters get gradients.
        """
        found = [self.adversaries[name].loss(contest) for name, contest in losses.contests.items()]
        return sum(found) if found else None

    def adversary_accuracy(self, losses: LossTerms) -> dict[str, float]:
        """Class-balanced accuracy of each adversary on what `loss` showed it."""
        return {name: float(self.adversaries[name].accuracy(c)) for name, c in losses.contests.items()}

    # ------------------------------------------------------------------ decoding

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
        return self.generative[modality].hidden(z, (batch_index, categorical, continuous))

    def tile(
        self, modality: str, h: torch.Tensor, start: int, stop: int, batch_index: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Parameters of the features start..stop from `hidden`.

        Returns
        -------
        dict
            rna: ``logits`` (n, width), whose softmax over all genes is the mean profile; ``log_dispersion``
            (width,) or (n, width), absent for Poisson; ``dropout_logits`` (n, width) for zinb.
            atac: ``probability`` y (n, width), ``region`` r (width,); of a Poisson ``logits`` (n, width) alone.
            protein: ``log_background_mean``, ``log_background_sd``, ``foreground`` (the factor alpha > 1),
            ``mixing`` (probability of background), ``panel`` (bool), all (n, width), ``log_dispersion`` (width,).
        """
        return self.generative[modality].tile(h, start, stop, batch_index)

    def reference_mixture(self, modality: str) -> list[tuple[int, float]]:
        """The batches to decode a modality under: the 8 largest that measured it, weighted by their cells."""
        cells = self.config.batch_cells[modality]
        order = sorted((i for i, n in enumerate(cells) if n), key=lambda i: (-cells[i], i))[:N_REFERENCE_BATCHES]
        total = sum(cells[i] for i in order)
        return [(i, cells[i] / total) for i in order]

    def reference_weights(self, modality: str) -> tuple[torch.Tensor, torch.Tensor]:
        """`reference_mixture` by feature: (n_ref,) batches and (n_ref, n_features) weights that sum to 1 over batches.

        A protein counts only the batches that have it in their panel; where none of the 8 largest has, the largest
        that has is added (its weight is 0 for the others). Of a protein in no panel all weights are 0.
        """
        chosen = [i for i, _ in self.reference_mixture(modality)]
        cells = torch.tensor(self.config.batch_cells[modality], dtype=torch.get_default_dtype())
        use = torch.ones(len(cells), self.config.n_features[modality])
        if modality == "protein":
            n_large, panel = len(chosen), self.generative["protein"].panel[:-1].cpu().to(use.dtype)
            use = panel.clone()
            for protein in (panel[chosen].sum(0) == 0).nonzero().squeeze(1).tolist():
                largest = int((cells * panel[:, protein]).argmax())
                if cells[largest] * panel[largest, protein] > 0 and largest not in chosen:
                    chosen.append(largest)
            served = panel[chosen[:n_large]].sum(0) > 0
            use[chosen[n_large:]] *= (~served).to(use.dtype)
        mass = cells[chosen].unsqueeze(1) * use[chosen]
        return torch.tensor(chosen), mass / mass.sum(0).clamp(min=1e-12)


def _only(minibatch: Minibatch, modality: str) -> Minibatch:
    rows = {modality: minibatch.modalities[modality]}
    return Minibatch(minibatch.batch, rows, minibatch.categorical, minibatch.continuous)
