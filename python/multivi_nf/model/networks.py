"""Fully connected blocks, and how batch and covariates enter them."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from multivi_nf.model.config import ModelConfig
from multivi_nf.model.sparse import Tiles, first_layers


class Codes(nn.Module):
    """Additive rows of a layer for batch, categorical and continuous covariates.

    A row is looked up, never multiplied by a one-hot vector: a code that no cell of the modality trained cannot
    reach any output, whatever its row holds (NaN times 0 would be NaN).

    Parameters
    ----------
    config
        The model's configuration.
    modality
        Decides which codes are trained: those of batches (categories) with a measured cell.
    n_out
        Width of the layer.
    unknown
        ``learned``: unknown and untrained codes have a row of their own, trained by hiding codes at random
        (encoders). ``average``: they are the average of the trained rows, weighted by cells (decoders).
    """

    def __init__(self, config: ModelConfig, modality: str, n_out: int, *, unknown: str) -> None:
        super().__init__()
        cells = [config.batch_cells[modality]]
        for name, categories in config.categorical.items():
            counts = config.categorical_cells.get(name, {}).get(modality, (1,) * len(categories))
            cells.append(counts if sum(counts) else (1,) * len(categories))
        self.unknown = unknown
        extra = int(unknown == "learned")
        self.tables = nn.ParameterList([nn.Parameter(torch.zeros(len(c) + extra, n_out)) for c in cells])
        self.continuous = nn.Parameter(torch.zeros(len(config.continuous), n_out))
        for i, counts in enumerate(cells):
            count = torch.tensor(counts, dtype=torch.float64)
            codes = torch.where(count > 0, torch.arange(len(counts)), len(counts))
            self.register_buffer(f"code{i}", torch.cat([codes, codes.new_tensor([len(counts)])]), persistent=False)
            trained = count.nonzero().squeeze(1)
            self.register_buffer(f"trained{i}", trained, persistent=False)
            share = (count[trained] / count.sum()).to(torch.get_default_dtype())
            self.register_buffer(f"share{i}", share, persistent=False)

    def _lookup(self, i: int, index: torch.Tensor) -> torch.Tensor:
        table = self.tables[i]
        if self.unknown == "average":
            average = getattr(self, f"share{i}").to(table.dtype) @ table[getattr(self, f"trained{i}")]
            table = torch.cat([table, average.unsqueeze(0)])
        return functional.embedding(getattr(self, f"code{i}")[index], table)

    def forward(
        self, batch: torch.Tensor, categorical: torch.Tensor | None = None, continuous: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(n_rows, n_out) sum of the rows of all codes; index -1 is unknown."""
        out = self._lookup(0, batch)
        for i in range(1, len(self.tables)):
            code = batch.new_full(batch.shape, -1) if categorical is None else categorical[:, i - 1]
            out = out + self._lookup(i, code)
        if self.continuous.shape[0] and continuous is not None:
            out = out + continuous.to(out.dtype) @ self.continuous
        return out


def activation(name: str) -> nn.Module:
    """``relu`` or ``leaky``: ReLU, or LeakyReLU of slope 0.01."""
    return nn.ReLU() if name == "relu" else nn.LeakyReLU()


class Layers(nn.Module):
    """Hidden layers: Linear (+ covariate rows) -> LayerNorm without scale and shift -> activation -> dropout.

    The shape of scvi-tools' ``FCLayers`` (``nn/_base_components.py``). The first linear map may be left out
    (`n_in` None) where the caller has already multiplied, as the sparse first layer of an encoder does.
    """

    def __init__(
        self,
        config: ModelConfig,
        modality: str,
        n_in: int | None,
        *,
        act: str,
        dropout: float,
        unknown: str,
        deep: bool | None = None,
    ) -> None:
        super().__init__()
        deep = config.deep_injection if deep is None else deep
        hidden = config.n_hidden
        widths = [n_in] + [hidden] * (config.n_layers - 1)
        self.linear = nn.ModuleList([nn.Linear(n, hidden) if n else nn.Identity() for n in widths])
        self.codes = nn.ModuleList(
            [
                Codes(config, modality, hidden, unknown=unknown) if deep or i == 0 else nn.Identity()
                for i in range(len(widths))
            ]
        )
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.act = activation(act)
        self.dropout = nn.Dropout(dropout)

    def layer(self, i: int, x: torch.Tensor, codes: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Hidden layer i, without dropout."""
        x = self.linear[i](x)
        if isinstance(self.codes[i], Codes):
            x = x + self.codes[i](*codes)
        return self.act(self.norm(x))

    def forward(self, x: torch.Tensor, codes: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """(n_rows, n_hidden) from (n_rows, n_in), with the rows' (batch, categorical, continuous) codes."""
        for i in range(len(self.linear)):
            x = self.dropout(self.layer(i, x, codes))
        return x


class SizeHead(nn.Module):
    """Library or depth of a cell from its first hidden layer and the logarithm of its total count.

    LayerNorm takes the total out of a hidden layer, so it comes in beside it. The head starts as the total alone:
    its last layer is zero, and `offset` is the logarithm of the total that gives `level`.
    """

    def __init__(self, n_hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_hidden + 1, n_hidden)
        self.act = nn.LeakyReLU()
        self.output = nn.Linear(n_hidden, 1)
        self.slope = nn.Parameter(torch.ones(()))
        self.level = nn.Parameter(torch.zeros(()))
        self.register_buffer("offset", torch.zeros(()))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, hidden: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """(n_rows,) logit of the depth, or log library, from (n_rows, n_hidden) and (n_rows,) totals."""
        log_total = total.to(hidden.dtype).clamp(min=0.5).log() - self.offset.to(hidden.dtype)
        x = torch.cat([hidden, log_total.unsqueeze(1)], dim=1)
        return self.output(self.act(self.hidden(x))).squeeze(1) + self.slope * log_total + self.level


class Encoder(nn.Module):
    """q(z_m | x_m, s): mean and variance of one modality's posterior (Ashuach et al. 2023, eq. for q(z | x)).

    The first layer's weight is held as (n_features, n_hidden) and meets the sparse counts in tiles.
    """

    def __init__(self, config: ModelConfig, modality: str) -> None:
        super().__init__()
        n = config.n_features[modality]
        self.weight = nn.Parameter(torch.empty(n, config.n_hidden).uniform_(-1, 1).mul_(1 / math.sqrt(n)))
        self.bias = nn.Parameter(torch.empty(config.n_hidden).uniform_(-1, 1).mul_(1 / math.sqrt(n)))
        self.layers = Layers(config, modality, None, act="leaky", dropout=config.dropout, unknown="learned")
        self.mean = nn.Linear(config.n_hidden, config.n_latent)
        self.log_variance = nn.Linear(config.n_hidden, config.n_latent)
        self.fusion = nn.Linear(config.n_hidden, 1) if config.fusion == "cell-weighted" else None

    def first(self, tiles: Tiles, codes: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """(n_rows, n_hidden) first hidden layer, before dropout."""
        (x,) = first_layers(tiles, self.weight)
        return self.layers.layer(0, x + self.bias, codes)

    def rest(
        self, first: torch.Tensor, codes: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Mean and variance (n_rows, n_latent), and the logit of the cell's fusion weight or None."""
        x = self.layers.dropout(first)
        for i in range(1, len(self.layers.linear)):
            x = self.layers.dropout(self.layers.layer(i, x, codes))
        weight = None if self.fusion is None else self.fusion(x).squeeze(1)
        return self.mean(x), self.log_variance(x).clamp(-20, 10).exp(), weight


class FullSizeEncoder(nn.Module):
    """A library or depth encoder of full input width, as scvi-tools has beside every z encoder (compat only)."""

    def __init__(self, config: ModelConfig, modality: str) -> None:
        super().__init__()
        n = config.n_features[modality]
        self.weight = nn.Parameter(torch.empty(n, config.n_hidden).uniform_(-1, 1).mul_(1 / math.sqrt(n)))
        self.bias = nn.Parameter(torch.zeros(config.n_hidden))
        self.layers = Layers(config, modality, None, act="leaky", dropout=0.0, unknown="learned")
        self.output = nn.Linear(config.n_hidden, 1)

    def forward(self, x: torch.Tensor, codes: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """(n_rows,) output from x W of `first_layers`."""
        return self.output(self.layers(x + self.bias, codes)).squeeze(1)


class ProteinDecoder(nn.Module):
    """Parameters of the protein mixture: three trunks and four heads, as totalVI (Gayoso et al. 2021) has them.

    Heads see their trunk, z and the covariates; `forward` gives (n_rows, 4, n_proteins): foreground before its
    ReLU, mixing logit (of background), mean and log standard deviation of the log background.
    """

    HEADS = (("fore", "fore"), ("mixing", "mixing"), ("back", "back_mean"), ("back", "back_log_sd"))

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n, width = config.n_features["protein"], config.n_hidden + config.n_latent
        options = {"act": "relu", "dropout": config.dropout, "unknown": "average", "deep": True}
        trunks = ("fore", "mixing", "back")
        self.trunks = nn.ModuleDict({t: Layers(config, "protein", config.n_latent, **options) for t in trunks})
        self.heads = nn.ModuleDict({head: nn.Linear(width, n) for _, head in self.HEADS})
        self.codes = nn.ModuleDict({head: Codes(config, "protein", n, unknown="average") for _, head in self.HEADS})

    def forward(self, z: torch.Tensor, codes: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """(n_rows, 4, n_proteins) raw parameters of the mixture from (n_rows, n_latent)."""
        hidden = {name: torch.cat([trunk(z, codes), z], dim=1) for name, trunk in self.trunks.items()}
        return torch.stack([self.heads[h](hidden[t]) + self.codes[h](*codes) for t, h in self.HEADS], dim=1)
