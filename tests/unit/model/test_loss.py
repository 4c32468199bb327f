from __future__ import annotations

import pytest
import torch

from multivi_nf.data.minibatch import Minibatch
from multivi_nf.model.adversary import own_loss
from multivi_nf.model.encoding import Noise

FUSIONS = ("mean", "weighted", "cell-weighted", "poe", "mopoe")


def finite(model, minibatch, generator, **options):
    """Loss of a training step; it and all gradients must be finite."""
    model.zero_grad()
    losses = model.train().loss(minibatch, generator=generator(1), **options)
    losses.total.backward()
    assert bool(losses.total.isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    adversary = own_loss(model.adversaries, losses.contests)
    assert adversary is None or bool(adversary.isfinite())
    return losses


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(
    "options",
    [
        {"rna_likelihood": "nb", "dispersion": "gene-batch", "adversary": "both"},
        {"rna_likelihood": "zinb", "library": "encoded", "deep_injection": True},
        {"rna_likelihood": "poisson", "alignment": "none", "adversary": "none", "cross_reconstruction": 0.0},
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_the_whole_gradient_is_the_slope_of_the_loss(model, mixed, generator, fusion, options, training):
    """Along a random direction in all parameters, float64: every hand-written gradient together.

    Without a leader, which no gradient of the alignment reaches on purpose.
    """
    made = model(fusion=fusion, dropout=0.0, batch_integration=0, **options).double().train(training)
    parameters = list(made.model_parameters())
    torch.manual_seed(4)
    direction = [torch.randn_like(p) for p in parameters]
    made.loss(mixed, kl_weight=0.7, generator=generator(5)).total.backward()
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, direction) if p.grad is not None)

    def value(step: float) -> float:
        with torch.no_grad():
            for p, d in zip(parameters, direction):
                p.add_(d, alpha=step)
            total = made.loss(mixed, kl_weight=0.7, generator=generator(5)).total
            for p, d in zip(parameters, direction):
                p.add_(d, alpha=-step)
        return float(total)

    step = 1e-6
    assert slope == pytest.approx((value(step) - value(-step)) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("library", ["observed", "encoded"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_measured_cell_without_a_count_is_measured(model, minibatch, generator, likelihood, library, fusion):
    present = {"rna": [0, 1, 2], "atac": [0, 3], "protein": [0, 4]}
    empty = minibatch(present, 5, rna=[0, 1], atac=[0, 3], protein=[0, 4])
    made = model(fusion=fusion, rna_likelihood=likelihood, library=library)
    losses = finite(made, empty, generator)
    assert losses.n_rows == {"rna": 3, "atac": 2, "protein": 2}
    encoded = made.eval().encode(empty)
    stacked = made.stack(5, empty, encoded)
    assert stacked.present.tolist() == [
        [True] * 3,
        [True, False, False],
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]
    joint = made.fuse(empty, encoded)
    assert bool(joint.mean.isfinite().all()) and bool((joint.variance > 0).all())


def test_every_cell_pays_for_its_closed_peaks_and_proteins_even_with_no_count(model, minibatch, generator):
    """Dropping a zero-count row changes the loss: zeros are data."""
    full = minibatch({"atac": [0, 1]}, 2, atac=[1])
    losses = model(("atac",), adversary="none").eval().loss(full, generator=generator())
    rows = full.modalities["atac"]
    first = Minibatch(full.batch[:1], {"atac": type(rows)(rows.cells[:1], _first_row(rows.counts))})
    alone = model(("atac",), adversary="none").eval().loss(first, generator=generator())
    assert float(2 * losses.terms["atac"]) > float(alone.terms["atac"]) + 0.1


def _first_row(counts):
    stop = int(counts.indptr[1])
    return type(counts)(counts.indptr[:2], counts.indices[:stop], None, counts.n_features)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(
    "present",
    [
        {"rna": [0], "atac": [0], "protein": [0]},
        {"atac": [0]},
        {"rna": [0, 1, 2]},
        {"rna": [0, 1], "protein": [2]},
        {"rna": [0, 1, 2], "atac": [], "protein": [1]},
    ],
    ids=["one cell", "one cell of one modality", "one modality", "no atac key", "empty atac"],
)
def test_minibatches_at_the_edge_are_finite(model, minibatch, generator, fusion, present):
    n_cells = 1 + max(cell for cells in present.values() for cell in cells)
    finite(model(fusion=fusion, adversary="both"), minibatch(present, n_cells), generator)


def test_one_batch_and_constant_features_are_finite(model, minibatch, generator):
    made = model(batches=("only",), batch_cells=dict.fromkeys(("rna", "atac", "protein"), (9,)), adversary="both")
    cells = minibatch({"rna": [0, 1], "atac": [0, 2], "protein": [1]}, 3, batch=[0, 0, 0])
    for rows in cells.modalities.values():
        counts = rows.counts
        n, p = rows.cells.numel(), counts.n_features
        counts.indptr = torch.arange(n + 1) * p
        counts.indices = torch.arange(p).repeat(n).int()
        counts.values = None if counts.values is None else torch.full((n * p,), 3.0)
    finite(made, cells, generator)
    assert list(made.adversaries) == ["modality"]
    assert made.config.notes == ["the adversary on batch is off: the data have one batch"]


def test_the_adversary_is_off_with_one_modality_and_says_so(model):
    made = model(("rna",))
    assert len(made.adversaries) == 0 and list(made.adversary_parameters()) == []
    assert made.config.notes == ["the adversary on modality is off: the data have one modality"]
    assert model(("rna", "atac")).config.notes == []


def test_the_same_generator_gives_the_same_loss(model, mixed, generator):
    made = model(dropout=0.0).train()
    values = [float(made.loss(mixed, generator=generator(s)).total.detach()) for s in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("fusion", ["mean", "mopoe"])
def test_drawing_one_view_a_cell_has_the_objective_as_its_mean(model, mixed, generator, fusion):
    """In training one view is drawn, in evaluation all are averaged: same expectation."""
    made = model(fusion=fusion, dropout=0.0, batch_dropout=0.0, adversary="none", alignment="none")
    with torch.no_grad():
        made.train()
        drawn = [float(made.loss(mixed, generator=generator(i)).total) for i in range(400)]
        made.eval()
        exact = [float(made.loss(mixed, generator=generator(i)).total) for i in range(100)]
    mean, error = sum(drawn) / 400, torch.tensor(drawn).std() / 20 + torch.tensor(exact).std() / 10
    assert abs(mean - sum(exact) / 100) < 3 * float(error)


def test_without_cross_reconstruction_the_objective_is_the_papers(model, mixed, generator):
    """-ELBO of the joint posterior, recomputed from the model's own parts."""
    made = model(cross_reconstruction=0.0, adversary="none", alignment="none").double().eval()
    with torch.no_grad():
        losses = made.loss(mixed, kl_weight=1.0, generator=generator(3))
        joint = made.fuse(mixed, made.encode(mixed))
    kl = 0.5 * (joint.mean**2 + joint.variance - 1 - joint.variance.log()).sum(1)
    assert torch.isclose(losses.terms["kl"], kl.mean())
    parts = [losses.terms[name] for name in ("rna", "atac", "protein", "protein_background", "kl")]
    assert torch.isclose(losses.total, sum(parts))
    assert torch.isclose(losses.terms["elbo_loss"], sum(parts))


def test_weights_enter_as_configured(model, mixed, generator):
    made = model(alignment_weight=2.0, adversary_weight=3.0, dropout=0.0).double().eval()
    with torch.no_grad():
        losses = made.loss(mixed, kl_weight=0.25, generator=generator(3))
        halved = made.loss(mixed, kl_weight=0.25, generator=generator(3), denominator=18, adversary_weight=0.0)
    t = losses.terms
    kl = t["kl"] + t["protein_background"]
    plain = t["rna"] + t["atac"] + t["protein"] + 0.25 * kl + 2 * t["alignment"]
    assert torch.isclose(losses.total, plain + 3 * t["adversary"])
    with torch.no_grad():
        warming = made.loss(mixed, kl_weight=0.25, generator=generator(3), alignment_weight=0.5, adversary_weight=0.0)
    assert torch.isclose(warming.total, plain - 1.5 * t["alignment"])
    assert torch.isclose(halved.total, plain / 2)


def test_cells_without_a_modality_cost_nothing_of_it(model, minibatch, generator, monkeypatch):
    made = model()
    for m in ("atac", "protein"):
        for module in (made.encoders[m], made.generative[m]):
            monkeypatch.setattr(module, "forward", None)
            for name in ("first", "rest", "hidden", "loss"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, _never)
    finite(made, minibatch({"rna": [0, 1, 2]}, 3), generator)
    assert all(p.grad is None for m in ("atac", "protein") for p in made.generative[m].parameters())


def _never(*args, **kwargs):
    pytest.fail("an unmeasured modality was computed")


def test_encoders_and_decoders_meet_measured_rows_only(model, mixed, generator):
    made = model(cross_reconstruction=0.0)
    seen = {}
    for m in made.modalities:
        made.encoders[m].mean.register_forward_hook(lambda _, i, o, m=m: seen.update({("q", m): len(o)}))
    made.generative["rna"].output.register_forward_hook(lambda _, i, o: seen.update({("p", "rna"): len(o)}))
    made.loss(mixed, generator=generator())
    assert seen == {("q", "rna"): 5, ("q", "atac"): 5, ("q", "protein"): 4, ("p", "rna"): 5}


def test_batch_codes_are_hidden_in_training_only(model, mixed, generator):
    made = model(dropout=0.0, batch_dropout=0.9)
    clear = made.eval().encode(mixed, Noise(generator()))["rna"].mean
    assert torch.equal(clear, made.encode(mixed)["rna"].mean)
    hidden = made.train().encode(mixed, Noise(generator()))["rna"].mean
    unknown = Minibatch(torch.full((9,), -1), mixed.modalities)
    as_unknown = made.encode(unknown)["rna"].mean
    same = (hidden == as_unknown).all(1)
    assert 0 < int(same.sum())
    assert bool(((hidden == clear).all(1) | same).all())


def test_a_proteins_outside_the_panel_neither_cost_nor_learn(model, minibatch, generator):
    panel = [[True] * 3 + [False] * 3, [True] * 6, [False] * 6]
    made = model(("protein",), panel=panel, adversary="none").train()
    cells = minibatch({"protein": [0, 1, 2, 3]}, 4, batch=[0, 0, 0, 0])
    finite(made, cells, generator)
    protein = made.generative["protein"]
    for head in protein.heads.values():
        assert bool((head.bias.grad[3:] == 0).all()) and bool((head.bias.grad[:3] != 0).any())
    assert bool((protein.background_mean.rows.grad[0, 3:] == 0).all())


def test_training_finds_what_generated_the_data(generator):
    """Two kinds of cells with different profiles: after training their latents are apart and y r d is right."""
    from multivi_nf.data.minibatch import ModalityRows, SparseRows
    from multivi_nf.model import ModelConfig, MultiVI

    torch.manual_seed(0)
    n, p = 200, 60
    kind = torch.arange(n) % 2
    rate = torch.where(torch.arange(p).unsqueeze(0) % 2 == kind.unsqueeze(1), 0.4, 0.05)
    x = (torch.rand(n, p) < rate).float()
    row, column = x.nonzero(as_tuple=True)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), x.sum(1).long().cumsum(0)])
    rows = ModalityRows(torch.arange(n), SparseRows(indptr, column.int(), None, p))
    config = ModelConfig({"atac": p}, ("a",), {"atac": (n,)}, n_hidden=16, n_latent=3, dropout=0.0)
    made = MultiVI(config)
    made.initialise_from_means({"atac": x.mean(0)})
    optimiser = torch.optim.AdamW(made.model_parameters(), lr=1e-2)
    noise = generator(0)
    cells = Minibatch(torch.zeros(n, dtype=torch.int64), {"atac": rows})
    for step in range(150):
        optimiser.zero_grad()
        made.loss(cells, kl_weight=min(1.0, step / 100), generator=noise).total.backward()
        optimiser.step()
    made.eval()
    with torch.no_grad():
        q = made.encode(cells)["atac"]
        h = made.hidden("atac", q.mean, cells.batch)
        tile = made.tile("atac", h, 0, p, cells.batch)
        fitted = tile["probability"] * tile["region"] * q.size.sigmoid().unsqueeze(1)
    # by kind: within the sampling error of 100 cells (4 s.d. of a rate of 0.4 are 0.2)
    for k in (0, 1):
        assert float((fitted[kind == k].mean(0) - x[kind == k].mean(0)).abs().mean()) < 0.03
        assert torch.allclose(fitted[kind == k].mean(0), rate[kind == k][0], atol=0.2)


def test_hidden_counts_are_hidden_from_encoders_only_and_in_training_only(model, mixed, generator):
    options = {"dropout": 0.0, "batch_dropout": 0.0}
    plain, thin = model(**options), model(input_dropout={"rna": 0.5, "atac": 0.5}, **options)
    for made in (plain.eval(), thin.eval()):
        assert torch.equal(made.encode(mixed, Noise(generator()))["atac"].mean, plain.encode(mixed)["atac"].mean)
    hidden = thin.train().encode(mixed, Noise(generator()))
    for m in ("rna", "atac"):
        assert not torch.allclose(hidden[m].mean, plain.encode(mixed)[m].mean)
    assert torch.equal(hidden["protein"].mean, plain.encode(mixed)["protein"].mean)
    finite(thin, mixed, generator)
    # size heads are told the whole total, and the likelihood meets every count
    assert torch.equal(hidden["rna"].size, plain.encode(mixed)["rna"].size)
