"""The networks of a model: encoders, decoders and what joins them; each meets only the rows that were measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import cast

import torch
from torch import nn

from multivi_nf.data.minibatch import Minibatch, ModalityRows
from multivi_nf.model.adversary import Classifier
from multivi_nf.model.config import ModelConfig
from multivi_nf.model.encoding import Encoding, Noise, ScviEncoding
from multivi_nf.model.fusion import Gaussian, Joint, Posteriors, joint
from multivi_nf.model.generative import Generative, Observed, Protein, generative
from multivi_nf.model.networks import CodeTable, Encoder, FullSizeEncoder, Modules, SizeHead
from multivi_nf.model.thinning import Halves, scored


class Network(nn.Module):
    """A model without its objective.

    Parameters
    ----------
    config
        Architecture.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.modalities = config.modalities
        self.formulas = config.formulas
        self.counts_peaks = config.atac_likelihood == "poisson"
        self.encoders = Modules[Encoder]({m: Encoder(config, m) for m in self.modalities})
        sized = [m for m in ("rna", "atac") if m in self.modalities]
        self.encoding: Encoding
        if self.formulas.whole_size_encoders:
            whole = Modules[FullSizeEncoder]({m: FullSizeEncoder(config, m) for m in sized})
            self.size_encoders: nn.ModuleDict = whole
            self.encoding = ScviEncoding(config, self.encoders, whole)
        else:
            sized = [m for m in sized if self._is_open(m) or config.library == "encoded"]
            heads = Modules[SizeHead]({m: SizeHead(config.n_hidden) for m in sized})
            self.size_encoders = heads
            self.encoding = Encoding(config, self.encoders, heads)
        self.fusion_logits = nn.Parameter(torch.zeros(len(self.modalities))) if config.fusion == "weighted" else None
        self.generative = Modules[Generative]({m: generative(config, m) for m in self.modalities})
        rivals = {name: n for name, n in config.adversaries.items() if n > 1}
        self.adversaries = Modules[Classifier]({name: Classifier(config.n_latent, n) for name, n in rivals.items()})
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

    def batch_tables(self) -> dict[str, str]:
        """Name of each parameter with one row a batch, to its modality: what a new batch adds rows to.

        Encoders' tables have one row more, the last, for unknown batches.
        """
        tables = {name: m for name, m in self.named_modules() if isinstance(m, CodeTable) and m.covariate == "batch"}
        return {f"{name}.rows": name.split(".")[1] for name in tables}

    @torch.no_grad()
    def initialise_background(self, log_mean: torch.Tensor, log_sd: torch.Tensor) -> None:
        """Set the prior of the protein background, (n_batches, n_proteins) mean and log s.d. of log background."""
        protein = cast("Protein", self.generative["protein"])
        protein.background_mean.rows.copy_(log_mean)
        protein.background_log_sd.rows.copy_(log_sd)

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
            head = self.size_encoders[m] if m in self.size_encoders else None
            if isinstance(head, SizeHead):
                log_total = means[m].sum().clamp(min=1).log()
                head.start_at(log_total, level=None if self._is_open(m) else log_total)

    # ------------------------------------------------------------------ encoding

    def measured(self, minibatch: Minibatch) -> dict[str, ModalityRows]:
        """Rows by modality, of modalities with any."""
        given = [m for m in self.modalities if m in minibatch.modalities]
        rows = {m: self.formulas.measured(minibatch.modalities[m]) for m in given}
        return {m: r for m, r in rows.items() if r.cells.numel()}

    def encode(
        self,
        minibatch: Minibatch,
        noise: Noise | None = None,
    ) -> dict[str, Gaussian]:
        """q(z_m | x_m, s) = N(mu_m, diag v_m) of every measured row.

        Parameters
        ----------
        minibatch
            Cells.
        noise
            Hides batch codes and counts at random in training mode; None hides none.

        Returns
        -------
        dict
            Modality to `Gaussian`, rows aligned with ``minibatch.modalities[m].cells``. `Gaussian.size` is the
            log library (rna, and atac where fragments are counted) or the logit of the depth (atac).
        """
        noise = noise or Noise()
        noise = noise if self.training else dataclasses.replace(noise, generator=None)
        rows = self.measured(minibatch)
        seen = dataclasses.replace(minibatch, batch=self.encoding.hidden_batches(minibatch.batch, noise))
        return {m: self.encoding.rows(m, measured, seen, noise) for m, measured in rows.items()}

    def scored(self, modality: str, seen: Observed, halves: Halves, used: torch.Tensor) -> Observed:
        """What a modality's likelihood scores of thinned rows, `used` where z was drawn from them."""
        open_or_not, own_total = self._is_open(modality), modality not in self.size_encoders
        return scored(seen, halves, used, open_or_not=open_or_not, observed_size=own_total)

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
        return joint(self.stack(minibatch.n_cells, minibatch, encoded), self.config.fusion, self.formulas)

    def level(self, modality: str, q: Gaussian) -> torch.Tensor:
        """Library (counts) or depth in (0, 1) of cells from `Gaussian.size`, which is its logarithm or logit."""
        return q.measured_size.sigmoid() if self._is_open(modality) else q.measured_size.exp()

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
            the trained batches' codes, weighted by cells. See `ModelConfig.reference_mixture`.
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
