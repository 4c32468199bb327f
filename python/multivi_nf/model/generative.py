"""p(x_m | z, s) of each modality: decoder, parameters by tile of features, and the cost of the measured rows.

Each class has the same four methods: `hidden` (what tiles are computed from), `tile` (parameters of some features),
`loss` (weighted sum of -log p over rows) and, where the data's means help, `initialise`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from multivi_nf.data.minibatch import SparseRows
from multivi_nf.model import likelihoods
from multivi_nf.model.config import ModelConfig
from multivi_nf.model.networks import Codes, CodeTable, Layers
from multivi_nf.model.sparse import Tiles

CodeTuple = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""(batch (n,), categorical (n, n_categorical) or None, continuous (n, n_continuous) or None) of some rows."""


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
    """

    counts: SparseRows
    tiles: Tiles | None
    codes: CodeTuple
    size: torch.Tensor | None
    weight: torch.Tensor
    part: torch.Tensor | None = None


class Rna(nn.Module):
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

    def hidden(self, z: torch.Tensor, codes: CodeTuple) -> torch.Tensor:
        """(n_rows, n_hidden) last hidden layer."""
        return self.layers(z, codes)

    def dispersion(self, batch: torch.Tensor) -> torch.Tensor:
        """Log inverse dispersion log theta: (n_genes,), or (n_rows, n_genes) where it is per batch."""
        return self.log_dispersion if self.batch_log_dispersion is None else self.batch_log_dispersion(batch)

    def tile(self, h: torch.Tensor, start: int, stop: int, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Parameters of genes start..stop, see `MultiVI.tile`."""
        found = {"logits": _columns(self.output, h, start, stop)}
        if self.likelihood != "poisson":
            found["log_dispersion"] = self.dispersion(batch)[..., start:stop]
        if self.dropout is not None:
            found["dropout_logits"] = _columns(self.dropout, h, start, stop)
        return found

    def loss(
        self, z: torch.Tensor, seen: Observed, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """{"rna": weighted sum of -log p(x | z), nats}."""
        h = self.hidden(z, seen.codes)
        logits = self.output(h).to(z.dtype)
        if self.likelihood == "poisson":
            value, _ = likelihoods.poisson(logits, seen.size, seen.counts, seen.weight)
        elif self.likelihood == "nb":
            theta = self.dispersion(seen.codes[0])
            value, _ = likelihoods.negative_binomial(logits, seen.size, theta, seen.counts, seen.weight)
        else:
            theta, drop = self.dispersion(seen.codes[0]), self.dropout(h).to(z.dtype)
            value, _ = likelihoods.zero_inflated(logits, seen.size, theta, drop, seen.counts, seen.weight)
        return {"rna": value}


class Atac(nn.Module):
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

    def hidden(self, z: torch.Tensor, codes: CodeTuple) -> torch.Tensor:
        """(n_rows, n_hidden) last hidden layer."""
        return self.layers(z, codes)

    def tile(self, h: torch.Tensor, start: int, stop: int, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Parameters of peaks start..stop, see `MultiVI.tile`."""
        y = _columns(self.output, h, start, stop).sigmoid()
        return {"probability": y, "region": self.region[start:stop].sigmoid()}

    def loss(
        self, z: torch.Tensor, seen: Observed, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """{"atac": weighted sum of -log p(x | z), nats}."""
        h = self.hidden(z, seen.codes).to(z.dtype)
        output = self.output
        value, _ = likelihoods.bernoulli(
            h, output.weight, output.bias, seen.size, self.region, seen.tiles, seen.weight, seen.part
        )
        return {"atac": value}


class AtacCounts(nn.Module):
    """Fragments in peaks: Poisson of mean l_c softmax(f(z, s)) (Martens et al., Nat Methods 2024)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = Layers(config, "atac", config.n_latent, act="leaky", dropout=0.0, unknown="average")
        self.output = nn.Linear(config.n_hidden, config.n_features["atac"])

    def initialise(self, mean: torch.Tensor) -> None:
        """Start the softmax at the (n_peaks,) mean profile."""
        mean = mean.to(self.output.bias).clamp(min=0)
        self.output.bias.copy_(((mean + 1e-3 * mean.mean() + 1e-12) / (mean.sum() + 1e-12)).log())

    def hidden(self, z: torch.Tensor, codes: CodeTuple) -> torch.Tensor:
        """(n_rows, n_hidden) last hidden layer."""
        return self.layers(z, codes)

    def tile(self, h: torch.Tensor, start: int, stop: int, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Parameters of peaks start..stop, see `MultiVI.tile`."""
        return {"logits": _columns(self.output, h, start, stop)}

    def loss(
        self, z: torch.Tensor, seen: Observed, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """{"atac": weighted sum of -log p(x | z), nats}."""
        h, output = self.hidden(z, seen.codes).to(z.dtype), self.output
        value, _ = likelihoods.poisson_peaks(h, output.weight, output.bias, seen.size, seen.tiles, seen.weight)
        return {"atac": value}


class Protein(nn.Module):
    """Surface protein: NB mixture of background and foreground (totalVI, Gayoso et al. 2021).

    Three trunks and four heads, as totalVI has them; heads see their trunk, z and the covariates. The log background
    is normal, with a prior per batch, and only the proteins of the batch's panel count.
    """

    HEADS = (("fore", "fore"), ("mixing", "mixing"), ("back", "back_mean"), ("back", "back_log_sd"))

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scvi = config.compat == "scvi"
        n, width = config.n_features["protein"], config.n_hidden + config.n_latent
        options = {"act": "relu", "dropout": config.dropout, "unknown": "average", "deep": True}
        trunks = ("fore", "mixing", "back")
        self.trunks = nn.ModuleDict({t: Layers(config, "protein", config.n_latent, **options) for t in trunks})
        self.heads = nn.ModuleDict({head: nn.Linear(width, n) for _, head in self.HEADS})
        self.log_dispersion = nn.Parameter(torch.zeros(n))
        cells = config.batch_cells["protein"]
        panel = torch.ones(len(cells) + 1, n, dtype=torch.bool)
        if config.panel is not None:
            panel[:-1] = torch.tensor(config.panel, dtype=torch.bool)
        self.register_buffer("panel", panel, persistent=False)
        options = {"unknown": "average", "panel": None if config.panel is None else panel[:-1]}
        self.codes = nn.ModuleDict({head: Codes(config, "protein", n, **options) for _, head in self.HEADS})
        self.background_mean = CodeTable(cells, n, **options)
        self.background_log_sd = CodeTable(cells, n, **options)

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

    def loss(
        self, z: torch.Tensor, seen: Observed, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """{"protein": weighted sum of -log p(x | z, background), "protein_background": of KL(background || prior)}."""
        fore, mixing, mean, log_sd = self.hidden(z, seen.codes).unbind(1)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        panel = None if self.scvi else self.panel[seen.codes[0]]
        x = seen.counts.dense().to(z.dtype)
        background = mean + log_sd.exp() * noise
        weight = seen.weight
        if seen.part is not None:
            # counts of a part have that part of the mean; the background's own cost is paid once
            background, weight = background + seen.part.log().unsqueeze(1), weight * seen.part
        value, _ = likelihoods.protein_mixture(x, background, fore, mixing, self.log_dispersion, panel, seen.weight)
        if self.scvi:
            return {"protein": value}
        batch = seen.codes[0]
        kl = likelihoods.kl_normal(mean, log_sd, self.background_mean(batch), self.background_log_sd(batch))
        kl = torch.where(panel, kl, torch.zeros_like(kl)).sum(1)
        return {"protein": value, "protein_background": torch.dot(kl, weight)}


def _columns(linear: nn.Linear, h: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    return torch.addmm(linear.bias[start:stop], h, linear.weight[start:stop].T)


def generative(config: ModelConfig, modality: str) -> nn.Module:
    """Generative model of a modality."""
    atac = Atac if config.atac_likelihood == "bernoulli" else AtacCounts
    return {"rna": Rna, "atac": atac, "protein": Protein}[modality](config)
