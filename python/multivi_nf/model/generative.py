"""p(x_m | z, s) of each modality: decoder, parameters by tile of features, and the cost of the measured rows.

Each is a `Generative`.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from multivi_nf.data.minibatch import SparseRows
from multivi_nf.model import likelihoods
from multivi_nf.model.config import ModelConfig
from multivi_nf.model.networks import Codes, CodeTable, CodeTuple, Layers, Modules
from multivi_nf.model.sparse import Tiles


@dataclass
class Observed:
    """Measured rows of one modality, as a likelihood meets them.

    Attributes
    ----------
    counts
        The rows' counts.
    tiles
        The same entries by tile of features (atac), else None.
    codes
        Batch and covariates of the rows.
    size
        (n_rows,) log library (rna, and atac by counts) or logit of depth (atac by 0/1); None for protein.
    weight
        (n_rows,) weight of each row in the sum.
    part
        (n_rows,) share of each row's counts that is scored (`multivi_nf.model.thinning`); None is all.
    generator
        Of what the likelihood draws.
    """

    counts: SparseRows
    tiles: Tiles | None
    codes: CodeTuple
    size: torch.Tensor | None
    weight: torch.Tensor
    part: torch.Tensor | None = None
    generator: torch.Generator | None = None

    @property
    def measured_size(self) -> torch.Tensor:
        """The size of a modality that has one."""
        assert self.size is not None
        return self.size

    @property
    def tiled(self) -> Tiles:
        """The tiles of a modality that is met by tile."""
        assert self.tiles is not None
        return self.tiles


class Generative(nn.Module, abc.ABC):
    """One modality's decoder and likelihood, whose layers meet z first."""

    layers: Layers

    def hidden(self, z: torch.Tensor, codes: CodeTuple) -> torch.Tensor:
        """(n_rows, n_hidden) last hidden layer: what tiles are computed from."""
        return self.layers(z, codes)

    @abc.abstractmethod
    def tile(self, h: torch.Tensor, start: int, stop: int, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Parameters of features start..stop, see `MultiVI.tile`."""

    @abc.abstractmethod
    def loss(self, z: torch.Tensor, seen: Observed) -> dict[str, torch.Tensor]:
        """Weighted sums, nats, by name: of -log p(x | z) under the modality's, and of the KLs that come with it."""

    def initialise(self, mean: torch.Tensor) -> None:
        """Start at the (n_features,) mean of the data, where that helps."""


class Rna(Generative):
    """RNA counts: NB (or zero-inflated NB, Poisson) of mean l_c softmax(f(z, s)) (scVI, Lopez et al. 2018)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.likelihood = config.rna_likelihood
        n_genes, cells = config.n_features["rna"], config.batch_cells["rna"]
        self.layers = Layers(config, "rna", config.n_latent, act="relu", dropout=0.0, unknown="average")
        self.output = nn.Linear(config.n_hidden, n_genes)
        self.log_dispersion, self.batch_log_dispersion = None, None
        if self.likelihood != "poisson" and config.dispersion == "gene":
            self.log_dispersion = nn.Parameter(torch.zeros(n_genes))
        elif self.likelihood != "poisson":
            self.batch_log_dispersion = CodeTable(cells, n_genes, unknown="average")
        self.dropout = nn.Linear(config.n_hidden, n_genes) if self.likelihood == "zinb" else None

    def initialise(self, mean: torch.Tensor) -> None:
        """Start the softmax at the (n_genes,) mean profile."""
        mean = mean.to(self.output.bias).clamp(min=0)
        share = (mean + 1e-3 * mean.mean() + 1e-12) / (mean.sum() + 1e-12)
        self.output.bias.copy_(share.log())

    def dispersion(self, batch: torch.Tensor) -> torch.Tensor:
        """Log inverse dispersion log theta: (n_genes,), or (n_rows, n_genes) where it is per batch."""
        if self.batch_log_dispersion is not None:
            return self.batch_log_dispersion(batch)
        return cast("nn.Parameter", self.log_dispersion)

    def tile(self, h: torch.Tensor, start: int, stop: int, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Parameters of genes start..stop, see `MultiVI.tile`."""
        found = {"logits": _columns(self.output, h, start, stop)}
        if self.likelihood != "poisson":
            found["log_dispersion"] = self.dispersion(batch)[..., start:stop]
        if self.dropout is not None:
            found["dropout_logits"] = _columns(self.dropout, h, start, stop)
        return found

    def loss(self, z: torch.Tensor, seen: Observed) -> dict[str, torch.Tensor]:
        """{"rna": weighted sum of -log p(x | z), nats}."""
        h = self.hidden(z, seen.codes)
        logits = self.output(h).to(z.dtype)
        size, counts, weight = seen.measured_size, seen.counts, seen.weight
        if self.likelihood == "poisson":
            value, _ = likelihoods.poisson(logits, size, counts, weight)
        elif self.dropout is None:
            value, _ = likelihoods.negative_binomial(logits, size, self.dispersion(seen.codes[0]), counts, weight)
        else:
            theta, drop = self.dispersion(seen.codes[0]), self.dropout(h).to(z.dtype)
            value, _ = likelihoods.zero_inflated(logits, size, theta, drop, counts, weight)
        return {"rna": value}


class Atac(Generative):
    """Accessibility: Bernoulli(y(z, s) d_c r_j), y a sigmoid, r_j in (0, 1) (PeakVI, Ashuach et al. 2022)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n_peaks = config.n_features["atac"]
        self.layers = Layers(config, "atac", config.n_latent, act="leaky", dropout=0.0, unknown="average")
        self.output = nn.Linear(config.n_hidden, n_peaks)
        self.region = nn.Parameter(torch.zeros(n_peaks))

    def initialise(self, mean: torch.Tensor) -> None:
        """Start y r at the (n_peaks,) mean accessibility of a cell of depth 1/2.

        It is shared equally between y and r, so that y has room to rise in a few cells.
        """
        root = torch.logit((2 * mean.to(self.region)).clamp(1e-6, 0.96).sqrt())
        self.output.bias.copy_(root)
        self.region.copy_(root)

    def tile(self, h: torch.Tensor, start: int, stop: int, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Parameters of peaks start..stop, see `MultiVI.tile`."""
        y = _columns(self.output, h, start, stop).sigmoid()
        return {"probability": y, "region": self.region[start:stop].sigmoid()}

    def loss(self, z: torch.Tensor, seen: Observed) -> dict[str, torch.Tensor]:
        """{"atac": weighted sum of -log p(x | z), nats}."""
        h = self.hidden(z, seen.codes).to(z.dtype)
        output = self.output
        value, _ = likelihoods.bernoulli(
            h, output.weight, output.bias, seen.measured_size, self.region, seen.tiled, seen.weight, seen.part
        )
        return {"atac": value}


class AtacCounts(Generative):
    """Fragments in peaks: Poisson of mean l_c softmax(f(z, s)) (Martens et al., Nat Methods 2024)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = Layers(config, "atac", config.n_latent, act="leaky", dropout=0.0, unknown="average")
        self.output = nn.Linear(config.n_hidden, config.n_features["atac"])

    def initialise(self, mean: torch.Tensor) -> None:
        """Start the softmax at the (n_peaks,) mean profile."""
        mean = mean.to(self.output.bias).clamp(min=0)
        self.output.bias.copy_(((mean + 1e-3 * mean.mean() + 1e-12) / (mean.sum() + 1e-12)).log())

    def tile(self, h: torch.Tensor, start: int, stop: int, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Parameters of peaks start..stop, see `MultiVI.tile`."""
        return {"logits": _columns(self.output, h, start, stop)}

    def loss(self, z: torch.Tensor, seen: Observed) -> dict[str, torch.Tensor]:
        """{"atac": weighted sum of -log p(x | z), nats}."""
        h, output = self.hidden(z, seen.codes).to(z.dtype), self.output
        value, _ = likelihoods.poisson_peaks(h, output.weight, output.bias, seen.measured_size, seen.tiled, seen.weight)
        return {"atac": value}


class Protein(Generative):
    """Surface protein: NB mixture of background and foreground (totalVI, Gayoso et al. 2021).

    Three trunks and four heads, as totalVI has them; heads see their trunk, z and the covariates. The log background
    is normal, with a prior per batch, and only the proteins of the batch's panel count.
    """

    panel: torch.Tensor
    HEADS = (("fore", "fore"), ("mixing", "mixing"), ("back", "back_mean"), ("back", "back_log_sd"))

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.background_prior = config.formulas.background_prior
        n, width = config.n_features["protein"], config.n_hidden + config.n_latent

        def trunk() -> Layers:
            inputs, dropout = config.n_latent, config.dropout
            return Layers(config, "protein", inputs, act="relu", dropout=dropout, unknown="average", deep=True)

        self.trunks = Modules[Layers]({name: trunk() for name in ("fore", "mixing", "back")})
        self.heads = Modules[nn.Linear]({head: nn.Linear(width, n) for _, head in self.HEADS})
        self.log_dispersion = nn.Parameter(torch.zeros(n))
        cells = config.batch_cells["protein"]
        panel = torch.ones(len(cells) + 1, n, dtype=torch.bool)
        if config.panel is not None:
            panel[:-1] = torch.tensor(config.panel, dtype=torch.bool)
        self.register_buffer("panel", panel, persistent=False)
        known = None if config.panel is None else panel[:-1]
        self.codes = Modules[Codes](
            {head: Codes(config, "protein", n, unknown="average", panel=known) for _, head in self.HEADS}
        )
        self.background_mean = CodeTable(cells, n, unknown="average", panel=known)
        self.background_log_sd = CodeTable(cells, n, unknown="average", panel=known)

    def hidden(self, z: torch.Tensor, codes: CodeTuple) -> torch.Tensor:
        """(n_rows, 4, n_proteins): foreground before its ReLU, mixing logit, mean and log s.d. of log background."""
        trunk = {name: torch.cat([layers(z, codes), z], dim=1) for name, layers in self.trunks.items()}
        raw = [self.heads[head](trunk[name]) + self.codes[head](*codes) for name, head in self.HEADS]
        return torch.stack(raw, dim=1).to(z.dtype)

    def tile(self, h: torch.Tensor, start: int, stop: int, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Parameters of proteins start..stop, see `MultiVI.tile`."""
        fore, mixing, mean, log_sd = h[:, :, start:stop].unbind(1)
        return {
            "log_background_mean": mean,
            "log_background_sd": log_sd.exp(),
            "foreground": 1 + functional.relu(fore),
            "mixing": mixing.sigmoid(),
            "panel": self.panel[batch][:, start:stop],
            "log_dispersion": self.log_dispersion[start:stop],
        }

    def loss(self, z: torch.Tensor, seen: Observed) -> dict[str, torch.Tensor]:
        """{"protein": weighted sum of -log p(x | z, background), "protein_background": of KL(background || prior)}."""
        fore, mixing, mean, log_sd = self.hidden(z, seen.codes).unbind(1)
        noise = torch.randn(mean.shape, generator=seen.generator, dtype=mean.dtype, device=mean.device)
        batch = seen.codes[0]
        panel = self.panel[batch] if self.background_prior else None
        x = seen.counts.dense().to(z.dtype)
        background = mean + log_sd.exp() * noise
        weight = seen.weight
        if seen.part is not None:
            # counts of a part have that part of the mean; the background's own cost is paid once
            background, weight = background + seen.part.log().unsqueeze(1), weight * seen.part
        value, _ = likelihoods.protein_mixture(x, background, fore, mixing, self.log_dispersion, panel, seen.weight)
        if panel is None:
            return {"protein": value}
        kl = likelihoods.kl_normal(mean, log_sd, self.background_mean(batch), self.background_log_sd(batch))
        kl = torch.where(panel, kl, torch.zeros_like(kl)).sum(1)
        return {"protein": value, "protein_background": torch.dot(kl, weight)}


def _columns(linear: nn.Linear, h: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    return torch.addmm(linear.bias[start:stop], h, linear.weight[start:stop].T)


def generative(config: ModelConfig, modality: str) -> Generative:
    """Generative model of a modality."""
    if modality == "rna":
        return Rna(config)
    if modality == "protein":
        return Protein(config)
    return Atac(config) if config.atac_likelihood == "bernoulli" else AtacCounts(config)
