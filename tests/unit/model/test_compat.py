"""Formulas of scvi-tools 1.4.2 by hand; `benchmarks/tests/test_parity.py` compares with the package itself."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from multivi_nf.model.compat import load_scvi


def scvi_state(made) -> dict[str, torch.Tensor]:
    """A state dict laid out as MULTIVAE's, with random weights."""
    torch.manual_seed(9)
    c = made.config
    h, k, n_cov = c.n_hidden, c.n_latent, len(c.batches)
    state = {}

    def linear(name: str, n_in: int, n_out: int) -> None:
        state[f"{name}.weight"] = torch.randn(n_out, n_in) / n_in**0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(n_out)

    def layers(name: str, n_in: int, n_cov: int = 0, deep: bool = False) -> None:
        linear(f"{name}.fc_layers.Layer 0.0", n_in + n_cov, h)
        linear(f"{name}.fc_layers.Layer 1.0", h + n_cov * deep, h)

    for m, name in (("rna", "expression"), ("atac", "accessibility"), ("protein", "protein")):
        layers(f"z_encoder_{name}.encoder", c.n_features[m])
        linear(f"z_encoder_{name}.mean_encoder", h, k)
        linear(f"z_encoder_{name}.var_encoder", h, k)
        layers(f"l_encoder_{name}.px_decoder", c.n_features[m])
        linear(f"l_encoder_{name}.output.0", h, 1)
    layers("z_decoder_expression.px_decoder", k, n_cov)
    linear("z_decoder_expression.px_scale_decoder.0", h, c.n_features["rna"])
    linear("z_decoder_expression.px_dropout_decoder", h, c.n_features["rna"])
    layers("z_decoder_accessibility.px_decoder", k, n_cov)
    linear("z_decoder_accessibility.output.0", h, c.n_features["atac"])
    for trunk in ("py_fore_decoder", "sigmoid_decoder", "py_back_decoder"):
        layers(f"z_decoder_pro.{trunk}", k, n_cov, deep=True)
    for head in ("py_fore_scale_decoder", "py_background_decoder", "py_back_mean_log_alpha", "py_back_mean_log_beta"):
        linear(f"z_decoder_pro.{head}.fc_layers.Layer 0.0", h + k + n_cov, c.n_features["protein"])
    state["px_r"], state["py_r"] = torch.randn(c.n_features["rna"]), torch.randn(c.n_features["protein"])
    state["region_factors"] = torch.randn(c.n_features["atac"])
    return {name: value.double() for name, value in state.items()}


@pytest.fixture
def loaded(model):
    made = model(compat="scvi", rna_likelihood="zinb").double().eval()
    state = scvi_state(made)
    load_scvi(made, state)
    return made, state


def net(state, name: str, x: torch.Tensor, batch: torch.Tensor | None = None, *, deep=False, slope=0.01):
    """FCLayers of scvi-tools, written out with one-hot codes."""
    one_hot = torch.nn.functional.one_hot(batch, 3).double() if batch is not None else x[:, :0]
    for i in (0, 1):
        x = torch.cat([x, one_hot], 1) if i == 0 or deep else x
        x = x @ state[f"{name}.fc_layers.Layer {i}.0.weight"].T + state[f"{name}.fc_layers.Layer {i}.0.bias"]
        x = torch.nn.functional.leaky_relu(torch.nn.functional.layer_norm(x, (8,)), slope)
    return x


def test_encoders_see_raw_counts_and_no_batch(loaded, mixed):
    made, state = loaded
    x = mixed.modalities["rna"].counts.dense().double()
    h = net(state, "z_encoder_expression.encoder", x)
    mean = h @ state["z_encoder_expression.mean_encoder.weight"].T + state["z_encoder_expression.mean_encoder.bias"]
    assert torch.allclose(made.encode(mixed)["rna"].mean, mean)
    size = net(state, "l_encoder_expression.px_decoder", x) @ state["l_encoder_expression.output.0.weight"].T
    size = torch.nn.functional.leaky_relu(size + state["l_encoder_expression.output.0.bias"])
    assert torch.allclose(made.encode(mixed)["rna"].size, size[:, 0])


def test_decoders_read_the_one_hot_columns(loaded, mixed):
    made, state = loaded
    z, batch = torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 3
    h = net(state, "z_decoder_accessibility.px_decoder", z, batch % 2)
    assert torch.allclose(made.hidden("atac", z, batch % 2), h)
    back = net(state, "z_decoder_pro.py_back_decoder", z, batch % 2, deep=True, slope=0.0)
    one_hot = torch.nn.functional.one_hot(batch % 2, 3).double()
    name = "z_decoder_pro.py_back_mean_log_alpha.fc_layers.Layer 0.0"
    alpha = torch.cat([back, z, one_hot], 1) @ state[f"{name}.weight"].T + state[f"{name}.bias"]
    assert torch.allclose(made.hidden("protein", z, batch % 2)[:, 2], alpha)


def test_loss_terms_by_scvis_formulas(loaded, mixed, generator):
    made, _ = loaded
    encoded = made.encode(mixed)
    joint = made.fuse(mixed, encoded)
    cells = {m: mixed.modalities[m].cells.tolist() for m in made.modalities}
    for cell in range(9):
        chosen = [
            (encoded[m].mean[cells[m].index(cell)], encoded[m].variance[cells[m].index(cell)])
            for m in made.modalities
            if cell in cells[m]
        ]
        assert torch.allclose(joint.mean[cell], sum(mean for mean, _ in chosen) / len(chosen))
        assert torch.allclose(joint.variance[cell], sum(v for _, v in chosen) / len(chosen) ** 0.5)
    losses = made.loss(mixed, generator=generator())
    penalty = torch.zeros((), dtype=torch.float64)
    for a, b in (("rna", "atac"), ("rna", "protein"), ("atac", "protein")):
        for cell in set(cells[a]) & set(cells[b]):
            p, q = ((encoded[m].mean[cells[m].index(cell)], encoded[m].variance[cells[m].index(cell)]) for m in (a, b))
            p, q = Normal(p[0], p[1] ** 0.25), Normal(q[0], q[1] ** 0.25)
            penalty += (kl_divergence(p, q) + kl_divergence(q, p)).sum()
    assert torch.isclose(losses.terms["alignment"], penalty / 9)
    kl = kl_divergence(Normal(joint.mean, joint.variance.sqrt()), Normal(0.0, 1.0)).sum(1)
    assert torch.isclose(losses.terms["kl"], kl.mean())
    assert "protein_background" not in losses.terms


def test_presence_is_guessed_from_counts_only_here(loaded, minibatch, model):
    cells = minibatch({"rna": [0, 1], "atac": [0, 1]}, 2, rna=[0])
    made, _ = loaded
    assert made.measured(cells)["rna"].cells.tolist() == [1]
    assert model().measured(cells)["rna"].cells.tolist() == [0, 1]


def test_the_adversary_is_on_batch(loaded):
    made, _ = loaded
    assert list(made.adversaries) == ["batch"]
