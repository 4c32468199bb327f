"""Fully connected blocks, and how batch and covariates enter them."""

from __future__ import annotations

import math
from collections.abc import ItemsView, Iterator, ValuesView
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional

from multivi_nf.model.config import ModelConfig
from multivi_nf.model.sparse import Tiles, first_layers

M = TypeVar("M", bound=nn.Module)


class Modules(nn.ModuleDict, Generic[M]):
    """Modules of one kind by name."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> M: ...

        def values(self) -> ValuesView[M]:
            """The modules."""
            ...

        def items(self) -> ItemsView[str, M]:
            """The modules with their names."""
            ...


Unknown = Literal["learned", "average"]

CodeTuple = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""(batch (n,), categorical (n, n_categorical) or None, continuous (n, n_continuous) or None) of some rows."""


class CodeTable(nn.Module):
    """One row per code of a covariate, looked up, never multiplied by a one-hot vector.

    A code that no cell of the modality trained cannot reach any output, whatever its row holds (in a product with
    a one-hot vector, NaN times 0 would be NaN).

    Parameters
    ----------
    cells
        Cells per code that measured the modality; codes with 0 are read as unknown.
    n_out
        Width of a row.
    covariate
        ``batch``, or the name of a categorical covariate.
    unknown
        ``learned``: unknown codes have a row of their own, trained by hiding codes at random (encoders).
        ``average``: they are the average of the trained rows, weighted by cells (decoders).
    panel
        (n_codes, n_out) which entries were measured under which code, where that differs by entry (proteins); the
        others are read as the average of those that were.
    """

    code: torch.Tensor
    trained: torch.Tensor
    share: torch.Tensor
    panel: torch.Tensor | None
    mass: torch.Tensor | None

    def __init__(
        self,
        cells: tuple[int, ...],
        n_out: int,
        *,
        unknown: Unknown,
        covariate: str = "batch",
        panel: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.covariate = covariate
        cells = cells if sum(cells) else (1,) * len(cells)
        self.average = unknown == "average"
        self.rows = nn.Parameter(torch.zeros(len(cells) + (not self.average), n_out))
        count = torch.tensor(cells, dtype=torch.float64)
        codes = torch.where(count > 0, torch.arange(len(cells)), len(cells))
        trained = count.nonzero().squeeze(1)
        share = (count[trained] / count.sum()).to(torch.get_default_dtype())
        self.register_buffer("code", torch.cat([codes, codes.new_tensor([len(cells)])]), persistent=False)
        self.register_buffer("trained", trained, persistent=False)
        self.register_buffer("share", share, persistent=False)
        self.register_buffer("panel", panel, persistent=False)
        mass = None
        if panel is not None:
            mass = count.unsqueeze(1) * panel
            mass = (mass / mass.sum(0).clamp(min=1)).to(torch.get_default_dtype())
        self.register_buffer("mass", mass, persistent=False)

    def _averaged(self) -> torch.Tensor:
        """(n_codes + 1, n_out) rows and, last, their average."""
        rows = self.rows
        if self.mass is None:
            return torch.cat([rows, (self.share.to(rows.dtype) @ rows[self.trained]).unsqueeze(0)])
        known = self.mass > 0
        average = (torch.where(known, rows, 0.0) * self.mass.to(rows.dtype)).sum(0, keepdim=True)
        return torch.cat([torch.where(known, rows, average), average])

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        """(n_rows, n_out) rows of the codes; -1 and untrained codes are unknown."""
        rows = self._averaged() if self.average else self.rows
        return functional.embedding(self.code[index], rows)


class Codes(nn.Module):
    """Additive rows of a layer for batch, further categorical and continuous covariates.

    Parameters
    ----------
    config
        The model's configuration.
    modality
        Decides which codes are trained: those of batches (categories) with a measured cell.
    n_out
        Width of the layer.
    unknown, panel
        As `CodeTable`; the panel is the batches'.
    """

    def __init__(
        self, config: ModelConfig, modality: str, n_out: int, *, unknown: Unknown, panel: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        cells = {"batch": config.batch_cells[modality]}
        for name, categories in config.categorical.items():
            cells[name] = config.categorical_cells.get(name, {}).get(modality, (1,) * len(categories))
        panels = {"batch": panel}
        self.tables = nn.ModuleList(
            [
                CodeTable(counts, n_out, unknown=unknown, covariate=name, panel=panels.get(name))
                for name, counts in cells.items()
            ]
        )
        self.continuous = nn.Parameter(torch.zeros(len(config.continuous), n_out))

    def each(self) -> Iterator[CodeTable]:
        """The tables: batch, then categorical covariates."""
        return (cast("CodeTable", table) for table in self.tables)

    def forward(
        self, batch: torch.Tensor, categorical: torch.Tensor | None = None, continuous: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(n_rows, n_out) sum of the rows of all codes; None stands for unknown codes and continuous values of 0."""
        first, *others = self.each()
        out = first(batch)
        for i, table in enumerate(others):
            out = out + table(torch.full_like(batch, -1) if categorical is None else categorical[:, i])
        if self.continuous.shape[0] and continuous is not None:
            out = out + continuous.to(out.dtype) @ self.continuous
        return out


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
        act: Literal["relu", "leaky"],
        dropout: float,
        unknown: Unknown,
        deep: bool | None = None,
    ) -> None:
        super().__init__()
        deep = config.deep_injection if deep is None else deep
        hidden = config.n_hidden
        widths = [n_in] + [hidden] * (config.n_layers - 1)
        self.linear = nn.ModuleList(nn.Linear(n, hidden) if n else nn.Identity() for n in widths)
        self.codes = nn.ModuleList(
            Codes(config, modality, hidden, unknown=unknown) if deep or i == 0 else nn.Identity()
            for i in range(len(widths))
        )
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.act = nn.ReLU() if act == "relu" else nn.LeakyReLU()
        self.dropout = nn.Dropout(dropout)

    def layer(self, i: int, x: torch.Tensor, codes: CodeTuple) -> torch.Tensor:
        """Hidden layer i, without dropout."""
        x = self.linear[i](x)
        if isinstance(self.codes[i], Codes):
            x = x + self.codes[i](*codes)
        return self.act(self.norm(x))

    def forward(self, x: torch.Tensor, codes: CodeTuple) -> torch.Tensor:
        """(n_rows, n_hidden) from (n_rows, n_in), with the rows' (batch, categorical, continuous) codes."""
        for i in range(len(self.linear)):
            x = self.dropout(self.layer(i, x, codes))
        return x


class SizeHead(nn.Module):
    """Library or depth of a cell from its first hidden layer and the logarithm of its total count.

    LayerNorm takes the total out of a hidden layer, so it comes in beside it. The head starts as the total alone:
    its last layer is zero, and `offset` is the logarithm of the total that gives `level`.
    """

    offset: torch.Tensor

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

    def start_at(self, log_total: torch.Tensor, level: torch.Tensor | None = None) -> None:
        """Make a cell of this total come out at `level` (default 0: depth 1/2)."""
        self.offset.copy_(log_total)
        self.level.fill_(0.0 if level is None else float(level))

    def forward(self, hidden: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """(n_rows,) logit of the depth, or log library, from (n_rows, n_hidden) and (n_rows,) totals."""
        log_total = total.clamp(min=0.5).log() - self.offset
        x = torch.cat([hidden, log_total.unsqueeze(1).to(hidden.dtype)], dim=1)
        return self.output(self.act(self.hidden(x))).squeeze(1).to(total.dtype) + self.slope * log_total + self.level


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
        # not a buffer: weights of 0 say the same of a model that is read again
        self.blind: torch.Tensor | None = None

    @torch.no_grad()
    def start_at(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Set the first layer: (n_features, n_hidden) weight and (n_hidden,) bias."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    @torch.no_grad()
    def blind_to(self, features: torch.Tensor) -> None:
        """Give these features no weight, and let them learn none: `blind` are the rows whose gradients are dropped."""
        self.blind = features
        self.weight[features] = 0

    def first(self, tiles: Tiles, codes: CodeTuple) -> torch.Tensor:
        """(n_rows, n_hidden) first hidden layer, before dropout."""
        (x,) = first_layers(tiles, self.weight)
        return self.layers.layer(0, x + self.bias, codes)

    def rest(self, first: torch.Tensor, codes: CodeTuple) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Mean and variance (n_rows, n_latent), and the logit of the cell's fusion weight or None."""
        x = self.layers.dropout(first)
        for i in range(1, len(self.layers.linear)):
            x = self.layers.dropout(self.layers.layer(i, x, codes))
        weight = None if self.fusion is None else self.fusion(x).squeeze(1)
        # float32 also under autocast: posteriors are squared, divided and exponentiated
        mean, log_variance = self.mean(x).to(self.bias.dtype), self.log_variance(x).to(self.bias.dtype)
        return mean, log_variance.clamp(-20, 10).exp(), weight


class FullSizeEncoder(nn.Module):
    """A library or depth encoder of full input width, as scvi-tools has beside every z encoder (compat only)."""

    def __init__(self, config: ModelConfig, modality: str) -> None:
        super().__init__()
        n = config.n_features[modality]
        self.weight = nn.Parameter(torch.empty(n, config.n_hidden).uniform_(-1, 1).mul_(1 / math.sqrt(n)))
        self.bias = nn.Parameter(torch.zeros(config.n_hidden))
        self.layers = Layers(config, modality, None, act="leaky", dropout=0.0, unknown="learned")
        self.output = nn.Linear(config.n_hidden, 1)

    def forward(self, x: torch.Tensor, codes: CodeTuple) -> torch.Tensor:
        """(n_rows,) output from x W of `first_layers`."""
        return self.output(self.layers(x + self.bias, codes)).squeeze(1)
