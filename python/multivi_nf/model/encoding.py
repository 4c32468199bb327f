"""From counts to each modality's posterior: what encoders see of a cell, and what they say."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.nn import functional

from multivi_nf.data.minibatch import Minibatch, ModalityRows, SparseRows
from multivi_nf.model.config import ModelConfig
from multivi_nf.model.fusion import Gaussian
from multivi_nf.model.networks import CodeTuple, Encoder, FullSizeEncoder, Modules, SizeHead
from multivi_nf.model.sparse import Tiles, binary, first_layers, log1p_rows, row_sums, tiles_of
from multivi_nf.model.thinning import THINNED, Halves, thinned_rows, thinned_tiles


@dataclass
class Noise:
    """What is hidden from encoders at random, and what the likelihood meets of the counts.

    Attributes
    ----------
    generator
        Of what is hidden; None hides nothing.
    thinning
        Share of the counts of `THINNED` that is hidden, in place of the configuration's `input_dropout`.
    tiles, halves
        Receive each modality's counts by tile, and what thinning hid of them.
    """

    generator: torch.Generator | None = None
    thinning: float = 0.0
    tiles: dict[str, Tiles] = field(default_factory=dict)
    halves: dict[str, Halves] = field(default_factory=dict)


class Encoding:
    """The encoders of a model at work.

    Parameters
    ----------
    config
        The model's configuration.
    encoders, sizes
        Its modules by modality; a size that is none of these is the total itself.
    """

    def __init__(self, config: ModelConfig, encoders: Modules[Encoder], sizes: Modules[SizeHead]) -> None:
        self.config, self.encoders, self.sizes = config, encoders, sizes
        self.batch_dropout = config.batch_dropout

    def hidden_batches(self, batch: torch.Tensor, noise: Noise) -> torch.Tensor:
        """(n_cells,) batches, some of them unknown, so that the unknown code is trained."""
        if noise.generator is None or not self.batch_dropout:
            return batch
        hide = torch.rand(len(batch), generator=noise.generator, device=batch.device)
        return batch.masked_fill(hide < self.batch_dropout, -1)

    def rows(self, modality: str, rows: ModalityRows, minibatch: Minibatch, noise: Noise) -> Gaussian:
        """Posterior of measured rows of one modality; log1p of counts are seen, or which peaks are open."""
        counts = binary(rows.counts) if modality not in self.config.counted else rows.counts
        thins = noise.generator is not None and noise.thinning > 0 and modality in THINNED
        if modality == "atac":
            x = self._peaks(counts, noise, thins)
        else:
            seen = counts
            if thins and noise.generator is not None:
                seen, noise.halves[modality] = thinned_rows(counts, noise.thinning, noise.generator)
            x = noise.tiles[modality] = tiles_of(log1p_rows(seen))
        dropped = self.config.input_dropout.get(modality, 0.0)
        if dropped and noise.generator is not None and not thins:
            x = x.thinned(dropped, noise.generator)
        codes = (minibatch.batch[rows.cells], minibatch.categorical[rows.cells], minibatch.continuous[rows.cells])
        encoder = self.encoders[modality]
        first = encoder.first(x, codes)
        return Gaussian(*encoder.rest(first, codes), self._size(modality, counts, first))

    def _peaks(self, counts: SparseRows, noise: Noise, thins: bool) -> Tiles:
        """Peaks by tile; the likelihood meets them as they are counted."""
        x = noise.tiles["atac"] = tiles_of(counts)
        if thins and noise.generator is not None:
            x, noise.halves["atac"] = thinned_tiles(x, noise.thinning, noise.generator)
        return x.logged() if "atac" in self.config.counted else x

    def _size(self, modality: str, counts: SparseRows, first: torch.Tensor) -> torch.Tensor | None:
        if modality == "protein":
            return None
        total = row_sums(counts).to(self.encoders[modality].bias.dtype)
        return self.sizes[modality](first, total) if modality in self.sizes else total.log()


class ScviEncoding(Encoding):
    """Raw counts, no covariates, and a size encoder of full width beside each z encoder, as in scvi-tools."""

    def __init__(self, config: ModelConfig, encoders: Modules[Encoder], sizes: Modules[FullSizeEncoder]) -> None:
        self.config, self.encoders, self.whole = config, encoders, sizes
        self.batch_dropout = 0.0  # encoders do not see batches

    def rows(self, modality: str, rows: ModalityRows, minibatch: Minibatch, noise: Noise) -> Gaussian:
        """Posterior of measured rows of one modality."""
        x = noise.tiles[modality] = tiles_of(rows.counts)
        encoder = self.encoders[modality]
        codes: CodeTuple = (torch.full_like(minibatch.batch[rows.cells], -1), None, None)
        if modality == "protein":
            return Gaussian(*encoder.rest(encoder.first(x, codes), codes))
        own = self.whole[modality]
        hidden, hidden_size = first_layers(x, encoder.weight, own.weight)
        first = encoder.layers.layer(0, hidden + encoder.bias, codes)
        size = own(hidden_size, codes)
        return Gaussian(*encoder.rest(first, codes), functional.leaky_relu(size) if modality == "rna" else size)
