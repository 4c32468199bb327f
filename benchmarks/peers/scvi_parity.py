"""Parity with scvi-tools 1.4.2: its weights in our model, float64, z supplied, dropout off.

Run with a Python that has scvi-tools 1.4.2, and this package on its path:

    PYTHONPATH=python <peers>/bin/python benchmarks/peers/scvi_parity.py

Every row of the table is one combination of modalities, likelihood, penalty and weights on a small random mosaic with
paired and unpaired cells, two or three batches, a categorical and a continuous covariate. The exit status is 1 where
any difference is above 1e-5.
"""

from __future__ import annotations

import sys
from unittest import mock

import torch
from scvi.module import MULTIVAE
from scvi.module._multivae import REGISTRY_KEYS

from multivi_nf.data.minibatch import Minibatch, ModalityRows, SparseRows
from multivi_nf.model import ModelConfig, MultiVI
from multivi_nf.model.compat import load_scvi

LIMIT = 1e-5
N_CELLS, SIZES = 40, {"rna": 30, "atac": 700, "protein": 12}
CASES = {
    "RNA+ATAC": ("rna", "atac"),
    "RNA": ("rna",),
    "ATAC": ("atac",),
    "RNA+ATAC+protein": ("rna", "atac", "protein"),
    "RNA+protein": ("rna", "protein"),
}
PENALTIES = {"symmetric-kl": "Jeffreys", "mmd": "MMD", "none": "None"}


def counts_of(modality: str, present: torch.Tensor) -> torch.Tensor:
    """Random counts, zero in cells that were not measured, at least one count in those that were."""
    shape = (N_CELLS, SIZES[modality])
    if modality == "atac":
        x = (torch.rand(shape) < 0.1).double()
    else:
        x = torch.poisson(torch.distributions.Gamma(0.7, 0.3).sample(shape)).double()
    x[:, 0] += x.sum(1) == 0
    return x * present.unsqueeze(1)


def rows_of(x: torch.Tensor, present: torch.Tensor) -> ModalityRows:
    """Measured rows in CSR form."""
    cells = present.nonzero().squeeze(1)
    row, column = x[cells].nonzero(as_tuple=True)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), (x[cells] > 0).sum(1).cumsum(0)])
    return ModalityRows(cells, SparseRows(indptr, column.int(), x[cells][row, column], x.shape[1]))


def worst(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference relative to the largest value of the row's kind (element-wise where that is larger)."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float(((ours - theirs).abs() / theirs.abs().clamp(min=1e-3 * float(theirs.abs().max()) + 1e-12)).max())


def compare(
    modalities: tuple[str, ...], likelihood: str, penalty: str, weights: str, covariates: str, seed: int
) -> dict[str, float]:
    """Largest relative difference of every quantity of one combination."""
    torch.manual_seed(seed)
    n_batch, n_cat = 3, 2
    theirs = (
        MULTIVAE(
            n_input_genes=SIZES["rna"] * ("rna" in modalities),
            n_input_regions=SIZES["atac"] * ("atac" in modalities),
            n_input_proteins=SIZES["protein"] * ("protein" in modalities),
            n_batch=n_batch,
            n_obs=N_CELLS,
            n_hidden=16,
            n_latent=5,
            gene_likelihood=likelihood,
            modality_penalty=PENALTIES[penalty],
            modality_weights=weights,
            n_cats_per_cov=[n_cat],
            n_continuous_cov=1,
            deeply_inject_covariates=covariates == "deep",
        )
        .double()
        .eval()
    )
    with torch.no_grad():
        if weights == "universal":
            theirs.mod_weights.copy_(torch.randn(3))
        if "atac" in modalities:
            theirs.region_factors.copy_(torch.randn(SIZES["atac"]))
    order = torch.arange(N_CELLS)
    present = {m: (order % len(modalities) == i) | (order % 3 == 0) for i, m in enumerate(modalities)}
    x = {m: counts_of(m, present[m]) for m in modalities}
    batch, cat = torch.randint(0, n_batch, (N_CELLS,)), torch.randint(0, n_cat, (N_CELLS, 1))
    continuous = torch.randn(N_CELLS, 1).double()

    config = ModelConfig(
        n_features={m: SIZES[m] for m in modalities},
        batches=tuple("abc"),
        batch_cells=dict.fromkeys(modalities, (1, 1, 1)),
        categorical={"technology": ("x", "y")},
        continuous={"age": (0, 1)},
        n_hidden=16,
        n_latent=5,
        rna_likelihood=likelihood,
        alignment=penalty,
        fusion="weighted" if weights == "universal" else "mean",
        deep_injection=covariates == "deep",
        compat="scvi",
    )
    ours = MultiVI(config).double().eval()
    load_scvi(ours, theirs.state_dict())
    minibatch = Minibatch(batch, {m: rows_of(x[m], present[m]) for m in modalities}, cat, continuous)

    eps = torch.randn(N_CELLS, 5).double()
    eps_protein = torch.randn(N_CELLS, SIZES["protein"]).double()
    found = _theirs(theirs, x, batch, cat, continuous, eps, eps_protein)
    return _compare_all(ours, minibatch, modalities, found, eps, eps_protein, present)


def _theirs(module, x, batch, cat, continuous, eps, eps_protein):
    zeros = torch.zeros(N_CELLS, 1).double()
    tensors = {
        REGISTRY_KEYS.BATCH_KEY: batch.unsqueeze(1),
        REGISTRY_KEYS.INDICES_KEY: torch.arange(N_CELLS).unsqueeze(1),
        REGISTRY_KEYS.CONT_COVS_KEY: continuous,
        REGISTRY_KEYS.CAT_COVS_KEY: cat,
        REGISTRY_KEYS.LABELS_KEY: zeros,
    }
    for m, key in (
        ("rna", REGISTRY_KEYS.X_KEY),
        ("atac", REGISTRY_KEYS.ATAC_X_KEY),
        ("protein", REGISTRY_KEYS.PROTEIN_EXP_KEY),
    ):
        if m in x:
            tensors[key] = x[m]
    with torch.no_grad():
        inference = module.inference(**module._get_inference_input(tensors))
        inference["z"] = inference["qz_m"] + inference["qz_v"].sqrt() * eps

        def background(self):
            return self.loc + self.scale * eps_protein[:, : self.loc.shape[1]]

        with mock.patch("torch.distributions.Normal.rsample", background):
            generated = module.generative(**module._get_generative_input(tensors, inference))

        # their target is float32 whatever the model is: read it in double
        def bce(self, p, x):
            return torch.nn.functional.binary_cross_entropy(p, x.double(), reduction="none")

        with mock.patch("torch.nn.BCELoss.forward", bce):
            loss = module.loss(tensors, inference, generated, kl_weight=0.7)
    return inference, generated, loss


def _compare_all(ours, minibatch, modalities, found, eps, eps_protein, present):
    inference, generated, loss = found
    short = {"rna": "expr", "atac": "acc", "protein": "pro"}
    result = {}
    draws = iter(
        [torch.zeros(N_CELLS, len(modalities), 5).double(), eps]
        + [eps_protein[present[m]] for m in modalities if m == "protein"]
    )
    with torch.no_grad():
        encoded = ours.encode(minibatch)
        joint = ours.fuse(minibatch, encoded)
        with mock.patch("torch.randn", lambda *a, **k: next(draws)):
            losses = ours.loss(minibatch, kl_weight=0.7, adversary_weight=0.0)
        for m in modalities:
            rows = present[m]
            result[f"q({m}) mean"] = worst(encoded[m].mean, inference[f"qzm_{short[m]}"][rows])
            result[f"q({m}) variance"] = worst(encoded[m].variance, inference[f"qzv_{short[m]}"][rows])
        result["joint mean"] = worst(joint.mean, inference["qz_m"])
        result["joint variance"] = worst(joint.variance, inference["qz_v"])
        z, codes = inference["z"], (minibatch.batch, minibatch.categorical, minibatch.continuous)
        if "rna" in modalities:
            logits = ours.tile("rna", ours.hidden("rna", z, *codes), 0, SIZES["rna"], minibatch.batch)["logits"]
            mean = torch.softmax(logits, 1)[present["rna"]] * encoded["rna"].size.exp().unsqueeze(1)
            result["RNA mean"] = worst(mean, generated["px_rate"][present["rna"]])
        if "atac" in modalities:
            y = ours.tile("atac", ours.hidden("atac", z, *codes), 0, SIZES["atac"], minibatch.batch)["probability"]
            result["ATAC probability"] = worst(y, generated["p"])
            result["ATAC depth"] = worst(encoded["atac"].size.sigmoid(), inference["libsize_acc"][present["atac"], 0])
        names = {"rna": "expression", "atac": "accessibility", "protein": "protein"}
        for m in modalities:
            theirs = loss.reconstruction_loss[f"reconstruction_loss_{names[m]}"].mean()
            result[f"loss {m}"] = worst(losses.terms[m], theirs)
        result["loss KL"] = worst(losses.terms["kl"], loss.kl_local["kl_divergence_z"].mean())
        penalty = loss.kl_local["kl_divergence_paired"]
        result["loss penalty"] = worst(losses.terms["alignment"], torch.as_tensor(penalty).double().mean())
        result["loss"] = worst(losses.total, loss.loss)
    return result


def main() -> int:
    torch.set_default_dtype(torch.float64)
    combinations = [
        (case, likelihood, penalty, weights, "first layer")
        for case in CASES
        for likelihood in (("zinb", "nb", "poisson") if "rna" in CASES[case] else ("zinb",))
        for penalty in PENALTIES
        for weights in ("equal", "universal")
    ]
    combinations += [(case, "zinb", "symmetric-kl", "equal", "deep") for case in CASES]
    worst_by_quantity: dict[str, float] = {}
    for seed, (case, *options) in enumerate(combinations):
        found = compare(CASES[case], *options, seed)
        quantity, value = max(found.items(), key=lambda item: item[1])
        print(f"{case:18s} {' '.join(options):44s} worst {value:.1e} ({quantity})")
        for name, v in found.items():
            worst_by_quantity[name] = max(v, worst_by_quantity.get(name, 0.0))
    print(f"\n{'quantity':22s} largest relative difference over {len(combinations)} combinations (limit {LIMIT:.0e})")
    for name, v in worst_by_quantity.items():
        print(f"{name:22s} {v:.1e}{'' if v <= LIMIT else '   ABOVE THE LIMIT'}")
    return int(max(worst_by_quantity.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
