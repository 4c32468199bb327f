"""Cobolt (Gong, Zhou and Purdom 2021, Genome Biology 22:351), written anew from the paper.

A multimodal variational autoencoder: topics theta = softmax(z), Laplace's approximation of a Dirichlet prior on them,
a multinomial for the counts of each modality with an intercept and a slope of each dataset, posteriors joined as a
product of experts, and one evidence bound for every set of modalities. What a modality alone says of a cell is then
moved to where all modalities would put it, by gradient-boosted trees fitted on the cells that have all.
`benchmarks/peers/cobolt_parity.py` compares it with the authors' program.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import mudata
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import nn

from multivi_nf.benchmark.task import counted, modalities_of
from multivi_nf.io.progress import progress


@dataclass(frozen=True)
class Settings:
    """As the paper and its program set them.

    Attributes
    ----------
    n_latent
        Topics.
    widths
        Of the encoders' two hidden layers.
    concentration
        Sum of the Dirichlet's parameters.
    learning_rate, batch_size, epochs, annealing
        Adam's rate, cells a step, epochs, and those over which the weight of the KL rises from 0 to 1.
    trees, depth, shrinkage
        Of the boosted trees (the defaults of the program's library).
    """

    n_latent: int = 10
    widths: tuple[int, int] = (128, 64)
    concentration: float = 50.0
    learning_rate: float = 0.005
    batch_size: int = 128
    epochs: int = 100
    annealing: int = 30
    trees: int = 100
    depth: int = 6
    shrinkage: float = 0.3


class Cobolt(nn.Module):
    """Encoders, topics and datasets' offsets.

    Parameters
    ----------
    n_features, n_datasets
        By modality.
    settings
        Sizes and prior.
    """

    def __init__(self, n_features: dict[str, int], n_datasets: dict[str, int], settings: Settings) -> None:
        super().__init__()
        k = settings.n_latent
        self.settings = settings
        self.encoders = nn.ModuleDict({m: _encoder(n, settings) for m, n in n_features.items()})
        self.topics = nn.ParameterDict({m: nn.Parameter(_uniform(k, n)) for m, n in n_features.items()})
        self.intercept = nn.ParameterDict({m: nn.Parameter(_uniform(n_datasets[m], n)) for m, n in n_features.items()})
        self.slope = nn.ParameterDict({m: nn.Parameter(torch.rand(n_datasets[m], n)) for m, n in n_features.items()})
        # Laplace's approximation of a symmetric Dirichlet in the softmax basis (paper, Methods): mean 0
        self.prior_variance = (1 - 2 / k) / (settings.concentration / k) + 1 / settings.concentration

    def posterior(self, counts: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, K) mean and variance of the product of the prior and the given modalities' experts."""
        size = next(iter(counts.values())).shape[0], self.settings.n_latent
        precision, weighted = torch.full(size, 1 / self.prior_variance), torch.zeros(size)
        for modality, x in counts.items():
            mean, log_variance = self.encoders[modality](x.log1p()).chunk(2, dim=1)
            own = (-log_variance).exp()
            precision, weighted = precision + own, weighted + own * mean
        return weighted / precision, 1 / precision

    def bound(
        self, counts: dict[str, torch.Tensor], dataset: dict[str, torch.Tensor], kl_weight: float
    ) -> torch.Tensor:
        """Scalar, the negative evidence bound of these cells from these modalities, summed."""
        mean, variance = self.posterior(counts)
        theta = (mean + variance.sqrt() * torch.randn_like(mean)).softmax(1)
        loss = mean.new_zeros(())
        for modality, x in counts.items():
            # a product: the gradient of rows that are picked adds up in an order that hangs on the threads
            of = nn.functional.one_hot(dataset[modality], len(self.slope[modality])).to(x.dtype)
            logits = theta @ self.topics[modality] * (1 + of @ self.slope[modality]) + of @ self.intercept[modality]
            loss = loss - (x * logits.log_softmax(1)).sum()
        ratio = variance / self.prior_variance
        kl = 0.5 * (ratio + mean**2 / self.prior_variance - 1 - ratio.log()).sum()
        return loss + kl_weight * kl


def _encoder(n_features: int, settings: Settings) -> nn.Sequential:
    layers, width = [], n_features
    for wider in settings.widths:
        layers += [nn.Linear(width, wider), nn.BatchNorm1d(wider), nn.LeakyReLU()]
        width = wider
    return nn.Sequential(*layers, nn.Linear(width, 2 * settings.n_latent))


def _uniform(rows: int, columns: int) -> torch.Tensor:
    bound = (6 / (rows + columns)) ** 0.5
    return torch.empty(rows, columns).uniform_(-bound, bound)


class _Cells:
    """Counts of a mosaic by modality and row."""

    def __init__(self, mosaic: mudata.MuData) -> None:
        self.names = mosaic.obs_names
        self.modalities = modalities_of(mosaic)
        self.counts, self.rows, self.dataset, self.n_datasets = {}, {}, {}, {}
        for m in self.modalities:
            part = counted(mosaic, m)
            self.counts[m] = sparse.csr_matrix(part.X, dtype=np.float32)
            self.rows[m] = pd.Series(np.arange(part.n_obs), index=part.obs_names).reindex(self.names).to_numpy()
            codes, found = pd.factorize(part.obs["batch"])
            self.dataset[m], self.n_datasets[m] = torch.from_numpy(codes.astype(np.int64)), len(found)

    def having(self, subset: tuple[str, ...]) -> np.ndarray:
        """Rows of the cells that were measured in every modality of the subset."""
        return np.flatnonzero(np.logical_and.reduce([~np.isnan(self.rows[m]) for m in subset]))

    def batch(
        self, subset: tuple[str, ...], chosen: np.ndarray
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Dense counts and datasets of chosen rows."""
        of = {m: self.rows[m][chosen].astype(np.int64) for m in subset}
        counts = {m: torch.from_numpy(self.counts[m][of[m]].toarray()) for m in subset}
        return counts, {m: self.dataset[m][of[m]] for m in subset}


def subsets(modalities: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every set of modalities that has a bound of its own, singles first."""
    return [c for n in range(1, len(modalities) + 1) for c in combinations(modalities, n)]


def fit_cobolt(mosaic: mudata.MuData, settings: Settings | None = None, seed: int = 0) -> pd.DataFrame:
    """(n_cells, n_latent) corrected latent space of all cells of a mosaic.

    Parameters
    ----------
    mosaic
        As a pipeline's; `obs["batch"]` is Cobolt's dataset.
    settings
        Sizes and lengths.
    seed
        Of the weights, the draws and the order of cells.

    Examples
    --------
    >>> from multivi_nf.simulate import PRESETS, simulated_mosaic
    >>> mosaic, truth = simulated_mosaic(PRESETS["small"])  # doctest: +SKIP
    >>> fit_cobolt(mosaic).shape  # doctest: +SKIP
    (400, 10)
    """
    settings = settings or Settings()
    torch.manual_seed(seed)
    order = np.random.default_rng([seed, 31])
    cells = _Cells(mosaic)
    model = Cobolt({m: x.shape[1] for m, x in cells.counts.items()}, cells.n_datasets, settings)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    shown = [s for s in subsets(cells.modalities) if cells.having(s).size > 1]
    with progress("cobolt", settings.epochs, "epochs") as advance:
        for epoch in range(settings.epochs):
            weight = min(epoch / settings.annealing, 1.0)
            for subset in shown:
                mixed = order.permutation(cells.having(subset))
                for start in range(0, mixed.size, settings.batch_size):
                    chosen = mixed[start : start + settings.batch_size]
                    if chosen.size < 2:  # batch normalisation needs two
                        continue
                    loss = model.bound(*cells.batch(subset, chosen), kl_weight=weight)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
            advance(1)
    return _corrected(model.eval(), cells, shown, settings, seed)


@torch.no_grad()
def _latent(model: Cobolt, cells: _Cells, subset: tuple[str, ...], chosen: np.ndarray) -> np.ndarray:
    parts = [
        model.posterior(cells.batch(subset, chosen[start : start + 512])[0])[0] for start in range(0, len(chosen), 512)
    ]
    return torch.cat(parts).double().numpy()


def _corrected(
    model: Cobolt, cells: _Cells, shown: list[tuple[str, ...]], settings: Settings, seed: int
) -> pd.DataFrame:
    """Each cell from all that it shows; where that is not everything, moved by trees fitted on cells that have all."""
    full = cells.having(cells.modalities)
    target = _latent(model, cells, cells.modalities, full) if full.size else None
    out = np.full((len(cells.names), settings.n_latent), np.nan)
    for subset in sorted(shown, key=len):  # the largest set that a cell has is written last
        rows = cells.having(subset)
        values = _latent(model, cells, subset, rows)
        if subset != cells.modalities and target is not None and full.size >= 2 * settings.n_latent:
            inside = _latent(model, cells, subset, full)
            trees = [_trees(settings, seed).fit(inside, column) for column in target.T]
            values = np.stack([tree.predict(values) for tree in trees], axis=1)
        out[rows] = values
    # softmax does not see a constant added to all topics
    return pd.DataFrame(out - out.mean(1, keepdims=True), index=cells.names)


def _trees(settings: Settings, seed: int) -> HistGradientBoostingRegressor:
    grown = {"max_iter": settings.trees, "max_depth": settings.depth, "max_leaf_nodes": None, "min_samples_leaf": 1}
    fitted = {"learning_rate": settings.shrinkage, "l2_regularization": 1.0, "early_stopping": False}
    return HistGradientBoostingRegressor(**grown, **fitted, random_state=seed)
