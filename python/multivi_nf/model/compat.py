"""scvi-tools' MULTIVAE (1.4.2) in this model: its weights, so that both can be compared number by number.

``ModelConfig(compat="scvi")`` makes these formulas theirs (`multivi_nf.model.formulas.Scvi`), where they differ from
the mathematics:

==================== ================================================= ==============================================
term                 here                                              scvi-tools 1.4.2 (``module/_multivae.py``)
==================== ================================================= ==============================================
joint variance       sum w^2 v                                         sum sqrt(w) v
symmetric KL         standard deviations sqrt(v)                       v^(1/4): the square root is taken twice
MMD                  squared, RBF kernels, of a pair's samples         length of the difference of means, summed over
                                                                       the minibatch and charged to each of its cells
adversary            modality of the encoder; target uniform           value of batch_key; uniform over wrong classes
encoder input        log1p counts; 0/1 for ATAC                        raw counts
batch                in encoders and decoders                          in decoders
library, depth       observed; head on the encoder's first layer       encoders of full width beside the z encoders
presence             said by the minibatch                             row sum > 0
protein              background prior and its KL, panel mask           neither
==================== ================================================= ==============================================

Two things are not reproduced: a cell without any count (scvi weighs its three encoders by 1/4 each) and
``gene-batch`` dispersion (theirs raises an error).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from multivi_nf.model.generative import Atac, Protein, Rna
from multivi_nf.model.multivi import MultiVI
from multivi_nf.model.networks import Codes, Encoder, FullSizeEncoder, Layers

NAMES = {"rna": "expression", "atac": "accessibility", "protein": "protein"}


class _Reader:
    """scvi-tools' state dict, and how its concatenated one-hot columns are cut apart."""

    def __init__(self, state: dict[str, torch.Tensor], model: MultiVI) -> None:
        self.state, config = state, model.config
        self.n_continuous = len(config.continuous)
        # scvi drops a covariate of one category
        sizes = [len(config.batches), *(len(names) for names in config.categorical.values())]
        self.sizes = [n if n > 1 else 0 for n in sizes]

    def linear(self, name: str, linear: nn.Linear, codes: nn.Module | None = None, *, continuous: bool = True) -> None:
        """Copy a linear map whose input is (values, continuous covariates, one-hot codes)."""
        weight = self.state[f"{name}.weight"]
        linear.bias.copy_(self.state[f"{name}.bias"])
        linear.weight.copy_(weight[:, : linear.in_features])
        if not isinstance(codes, Codes):
            return
        at = linear.in_features
        if continuous:
            codes.continuous.copy_(weight[:, at : at + self.n_continuous].T)
            at += self.n_continuous
        else:
            codes.continuous.zero_()
        for table, size in zip(codes.each(), self.sizes):
            table.rows.zero_()
            table.rows[:size] = weight[:, at : at + size].T
            at += size

    def layers(self, name: str, layers: Layers, *, covariates: bool = True) -> None:
        """Copy the hidden layers whose first linear map is not held apart."""
        for i, linear in enumerate(layers.linear):
            if isinstance(linear, nn.Linear):
                self.linear(
                    f"{name}.fc_layers.Layer {i}.0", linear, layers.codes[i] if covariates else None, continuous=i == 0
                )

    def encoder(self, name: str, encoder: Encoder | FullSizeEncoder) -> None:
        """Copy an encoder's layers: its first weight is held transposed, and no code reaches it."""
        encoder.weight.copy_(self.state[f"{name}.fc_layers.Layer 0.0.weight"].T)
        encoder.bias.copy_(self.state[f"{name}.fc_layers.Layer 0.0.bias"])
        self.layers(name, encoder.layers, covariates=False)
        for codes in encoder.layers.codes:
            if isinstance(codes, Codes):
                for parameter in codes.parameters():
                    parameter.zero_()


@torch.no_grad()
def load_scvi(model: MultiVI, state: dict[str, torch.Tensor]) -> None:
    """Copy the weights of scvi-tools' ``MULTIVAE`` into a model of ``compat="scvi"``.

    Parameters
    ----------
    model
        Built with the same features, batches, covariates, widths and layers.
    state
        ``MULTIVAE.state_dict()`` of scvi-tools 1.4.2, batch and covariates not encoded.
    """
    read = _Reader(state, model)
    for m in model.modalities:
        encoder, name = model.encoders[m], f"z_encoder_{NAMES[m]}"
        read.encoder(f"{name}.encoder", encoder)
        read.linear(f"{name}.mean_encoder", encoder.mean)
        read.linear(f"{name}.var_encoder", encoder.log_variance)
        if m in model.size_encoders:
            own, name = cast("FullSizeEncoder", model.size_encoders[m]), f"l_encoder_{NAMES[m]}"
            read.encoder(f"{name}.px_decoder", own)
            read.linear(f"{name}.output.0", own.output)
    if "rna" in model.modalities:
        rna = cast("Rna", model.generative["rna"])
        read.layers("z_decoder_expression.px_decoder", rna.layers)
        read.linear("z_decoder_expression.px_scale_decoder.0", rna.output)
        if rna.dropout is not None:
            read.linear("z_decoder_expression.px_dropout_decoder", rna.dropout)
        if rna.log_dispersion is not None:
            rna.log_dispersion.copy_(state["px_r"])
    if "atac" in model.modalities:
        atac = cast("Atac", model.generative["atac"])
        read.layers("z_decoder_accessibility.px_decoder", atac.layers)
        read.linear("z_decoder_accessibility.output.0", atac.output)
        atac.region.copy_(state["region_factors"])
    if "protein" in model.modalities:
        _protein(model, read)
    if model.fusion_logits is not None:
        which = [list(NAMES).index(m) for m in model.modalities]
        model.fusion_logits.copy_(state["mod_weights"][which])


def _protein(model: MultiVI, read: _Reader) -> None:
    protein = cast("Protein", model.generative["protein"])
    trunks = {"fore": "py_fore_decoder", "mixing": "sigmoid_decoder", "back": "py_back_decoder"}
    heads = {
        "fore": "py_fore_scale_decoder",
        "mixing": "py_background_decoder",
        "back_mean": "py_back_mean_log_alpha",
        "back_log_sd": "py_back_mean_log_beta",
    }
    for ours, theirs in trunks.items():
        read.layers(f"z_decoder_pro.{theirs}", protein.trunks[ours])
    for ours, theirs in heads.items():
        read.linear(f"z_decoder_pro.{theirs}.fc_layers.Layer 0.0", protein.heads[ours], protein.codes[ours])
    protein.log_dispersion.copy_(read.state["py_r"])
